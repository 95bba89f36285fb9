"""What pages are made of: files of this package, and the hashes by which a page allows its own style and script."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files


def asset(name: str) -> str:
    return (files("divalign.report") / name).read_text(encoding="utf-8")


def allowed(content: str) -> str:
    """Return how a Content-Security-Policy names this very text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
