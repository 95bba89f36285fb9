"""Write requirements.lock and requirements-dev.lock: what pip would install here, each file with its hash.

pip resolves pyproject.toml under constraints.txt in an empty environment and reports the files that it would take;
nothing is installed.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
LOCKS = {"requirements.lock": ".", "requirements-dev.lock": ".[dev]"}


def report(project: str) -> list[dict[str, Any]]:
    """Return the packages that pip would install for the project."""
    options = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-", "-c", "constraints.txt"]
    command = [sys.executable, "-m", "pip", "install", *options, project]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["install"]


def line(package: dict[str, Any]) -> str:
    """Return a package's line: its version, and the hash of the file that was chosen."""
    info, url = package["download_info"].get("archive_info", {}), package["download_info"]["url"]
    sha256 = info.get("hashes", {}).get("sha256")
    if sha256 is None:  # of a file on this disk
        sha256 = hashlib.sha256(Path(unquote(urlsplit(url).path)).read_bytes()).hexdigest()
    metadata = package["metadata"]
    return f"{metadata['name'].lower()}=={metadata['version']} --hash=sha256:{sha256}"


def main() -> None:
    """Write both files."""
    place = f"{platform.system()} {platform.machine()}, Python {sys.version_info.major}.{sys.version_info.minor}"
    for name, project in LOCKS.items():
        lines = sorted(line(package) for package in report(project) if "dir_info" not in package["download_info"])
        head = [f"# {place}. Written by `make lock` from pyproject.toml and constraints.txt."]
        head += ["# torch+cpu comes from the index download.pytorch.org/whl/cpu: --extra-index-url"] * any(
            "+cpu" in text for text in lines
        )
        (ROOT / name).write_text("\n".join([*head, *lines]) + "\n")


if __name__ == "__main__":
    main()
