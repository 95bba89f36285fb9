"""`make docs` builds the pages as a site without a warning, and the site asks the network for nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("mkdocstrings", reason="the extra 'docs' is not installed: make docs installs it")


def test_the_site_builds_strictly_and_without_the_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    warnings = [line for line in done.stderr.splitlines() if not line.startswith("INFO")]
    assert (done.returncode, "\n".join(warnings)) == (0, "")
    index, api = (tmp_path / "index.html").read_text(), (tmp_path / "api.html").read_text()
    assert "divalign.core.separation.separation" in api
    loaded = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"?(https?://[^\s\">]+)", index)
    assert loaded == []
