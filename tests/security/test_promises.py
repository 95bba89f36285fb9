"""SECURITY.md promises what a test holds, and names it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(test_\w+)`")


def names_of(folder: Path) -> set[str]:
    trees = (ast.parse(path.read_text()) for path in folder.rglob("test_*.py"))
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_a_test_and_every_test_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) > 15
    assert [row for row in rows if not NAMED.search(row)] == []
    assert set(NAMED.findall(text)) - names_of(ROOT / "tests") == set()
