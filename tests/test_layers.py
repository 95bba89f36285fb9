"""DESIGN.md's import rule, read off the source: each room sees only the rooms named here."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "divalign"

SEES = {
    "core": set(),
    "limits": set(),  # which every room may see
    "store": set(),
    "records": {"core", "store"},
    "draw": set(),
    "lab": {"core", "draw"},
    "data": {"core", "store"},
    "lm": {"core", "store", "data"},
    "train": {"core", "store", "data", "lm"},
    "safety": {"core", "store", "data", "lm"},
    "toy": {"core", "store", "data", "lm"},
    "report": {"core", "store", "records", "draw"},
    "sections": set(),
    "config": {"sections"},
    "stages": {"core", "store", "records", "data", "lm", "train", "safety", "toy"},
    "study": {"core", "draw", "store", "records", "data", "safety", "toy", "stages", "config", "sections", "lm"},
    "forecast": {"core", "store", "records", "data", "lm", "safety", "toy", "stages", "config", "sections", "study"},
    "cluster": {"data", "stages", "study"},
    "cli": {"core", "lab", "store", "records", "data", "lm", "train", "safety", "toy", "stages", "config", "sections"}
    | {"study", "report", "forecast", "cluster"},
    "__main__": {"cli"},
    "__init__": {"core", "train"},
}
HUGGING_FACE = {"lm", "train", "toy"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module a file imports anywhere in it, as absolute dotted names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_sees_only_the_rooms_below_it(path: Path) -> None:
    seen = {name.split(".")[1] for name in imports(path) if name.startswith("divalign.")}
    assert seen - {room(path), "__version__", "limits"} <= SEES[room(path)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_transformers_and_peft_stay_in_lm_train_and_toy(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)} & {"transformers", "peft", "accelerate"}
    assert not used or room(path) in HUGGING_FACE


def test_every_room_has_its_rule() -> None:
    assert {room(path) for path in FILES} <= SEES.keys()
