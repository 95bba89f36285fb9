"""docs/extending.md keeps its word: its example is held to every property of the table, with nothing else touched."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROPERTIES = "tests/core/test_divergences.py"


def example() -> str:
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), flags=re.S)
    return next(block for block in found if "Divergence(" in block)


def ask(folder: Path, code: str, name: str) -> subprocess.CompletedProcess[str]:
    """Run the property tests of one row in a process that has loaded `code` before they are collected."""
    (folder / "extension.py").write_text(code)
    # Without the project's own options: jaxtyping's hook must come before the package is imported, the plugin is first.
    command = [sys.executable, "-m", "pytest", "-p", "extension", "-p", "no:cacheprovider", "-o", "addopts="]
    return subprocess.run(
        [*command, PROPERTIES, "-k", f"[{name}]"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def passed(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stdout[-3000:]
    return int(re.findall(r"(\d+) passed", done.stdout)[0])


def test_every_property_of_the_table_is_asked_of_the_example(tmp_path: Path) -> None:
    properties = (ROOT / PROPERTIES).read_text()
    known = properties.count("\n@every_row\n") + properties.count("\n@canonical_rows\n")
    assert passed(ask(tmp_path, example(), "jeffreys")) == known > 8


def test_a_wrong_formula_does_not_get_through(tmp_path: Path) -> None:
    wrong = example().replace("r - torch.expm1(-r)", "r + torch.expm1(-r)")
    assert wrong != example()
    done = ask(tmp_path, wrong, "jeffreys")
    assert done.returncode == 1
    assert "failed" in done.stdout
