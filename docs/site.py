"""What `make docs` adds to mkdocs: pages and files from outside docs/, and lists as GitHub reads them.

The pages are written for GitHub and for reading in an editor: a link may lead to any file of the repository, and a
list may follow a paragraph without an empty line. The site holds a copy of each such file, so it needs no network.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", **{name: name for name in ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")}}
COPIES = "repository"
LINK = re.compile(r"(\]\()([^)\s#]+)([^)\s]*\))")
FENCE = re.compile(r"^ *```")
ITEM = re.compile(r"^(\s*)([*-]|\d+\.) ")


def on_files(files: Any, config: Any) -> Any:
    """Add the repository's own pages, and every file outside docs/ that a page links to."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text()))
    for file in list(files.documentation_pages()):
        place = origin(file.src_uri)
        for _, target, _ in LINK.findall(file.content_string):
            path = in_repository(place, target)
            if path and path not in PAGES and not path.startswith("docs/") and (ROOT / path).is_file():
                copy = f"{COPIES}/{path}"
                if copy not in files.src_uris:
                    files.append(File.generated(config, copy, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page with links to what the site holds, and with lists that Python-Markdown reads as GitHub does."""
    place = origin(page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri)

    def link(match: re.Match[str]) -> str:
        path = in_repository(place, match[2])
        if path is None:
            return match[0]
        inside = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"{COPIES}/{path}")
        return f"{match[1]}{posixpath.relpath(inside, here or '.')}{match[3]}"

    return as_python_markdown(LINK.sub(link, markdown))


def origin(src_uri: str) -> str:
    """Return where a page of the site stands in the repository."""
    return next((source for source, target in PAGES.items() if target == src_uri), f"docs/{src_uri}")


def in_repository(page: str, target: str) -> str | None:
    """Return the repository's path of a link's target, None for a link that leaves it."""
    return None if re.match(r"\w+:", target) else posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def as_python_markdown(text: str) -> str:
    """Return a text with an empty line before each list, and nested items four columns in."""
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        fenced ^= bool(FENCE.match(line))
        item = None if fenced else ITEM.match(line)
        if item and lines and lines[-1].strip() and not in_list(lines):
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"


def in_list(lines: list[str]) -> bool:
    """Tell whether the paragraph that ends the lines is, or belongs to, a list item."""
    for line in reversed(lines):
        if not line.strip():
            return False
        if ITEM.match(line):
            return True
    return False
