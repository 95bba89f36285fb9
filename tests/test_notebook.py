"""The notebook of the documentation runs on a run folder, and stands in the repository without outputs."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from divalign.store import read_rows, write_rows
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
    folder = write_run(tmp_path / "run")
    second = folder / "models/bco-cr/verdicts.jsonl"
    rows = read_rows(second)
    write_rows(second, [row | {"unsafe": False} for row in rows])
    monkeypatch.setenv("RUN", str(folder))
    names: dict[str, Any] = {"__name__": "__main__"}
    values = [last_value("".join(cell["source"]), names) for cell in CELLS]
    assert "<svg" in values[1]._repr_html_()
    outcomes = [row["unsafe"] for row in rows if row["attack"] == "direct" and row["harmful"] and not row["held_out"]]
    decided = [outcome for outcome in outcomes if outcome is not None]
    estimate = names["difference"].estimate
    assert estimate.value == pytest.approx(-sum(decided) / len(decided))
    assert estimate.low < estimate.value < estimate.high
    assert "bco-cr minus kldo-cr: Estimate(" in capsys.readouterr().out


def test_the_notebook_has_no_outputs() -> None:
    assert [cell for cell in CELLS if cell["outputs"] or cell["execution_count"]] == []
