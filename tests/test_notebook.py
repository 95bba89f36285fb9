"""The notebook of the documentation runs on a run folder, and stands in the repository without outputs."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from tests.report.runs import write_run

NOTEBOOK = Path(__file__).parents[1] / "docs/notebooks/load_a_run.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def last_value(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does; return the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


def test_the_notebook_loads_a_run_draws_it_and_compares_two_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUN", str(write_run(tmp_path / "run")))
    names: dict[str, Any] = {"__name__": "__main__"}
    values = [last_value("".join(cell["source"]), names) for cell in CELLS]
    assert "<svg" in values[1]._repr_html_()
    estimate = names["difference"].estimate
    assert estimate.low <= estimate.value <= estimate.high
    assert "cr-bco minus cr-kldo: Estimate(" in capsys.readouterr().out


def test_the_notebook_has_no_outputs() -> None:
    assert [cell["outputs"] or cell["execution_count"] for cell in CELLS if cell["outputs"] or cell["execution_count"]] == []
