"""The page of methods says what METHODS and a run say, and no more."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from divalign.cli import app
from divalign.core.losses import METHODS, built_in_method
from divalign.core.stats import Estimate
from divalign.records import Results, read_record
from divalign.report.methods_page import methods_page, over_seeds, rows_of
from tests.report.runs import model_entry, results, write_results

SPEEDS = {"dpo": 2000.0, "kldo": 4000.0, "kldo+prompt": 1000.0, "my_lab:loss": 2000.0}


def record(value: float, gap: float) -> dict[str, Any]:
    estimate = {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 20}
    rest = {"bound": value, "lower": value, "ceiling": 1.3, "effective_sample_size": 20.0, "flags": []}
    return {"estimate": estimate, **rest, "train_bound": value + gap, "overfit_gap": gap}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four methods on cr over two seeds; one of the user's own, and one with a baseline of the prompt."""
    models = [model_entry(None, None, (0.2, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0))]
    for seed in (0, 1):
        for method, speed in SPEEDS.items():
            entry = model_entry(method, "cr", (10.0 + 20 * seed, 0.5 * seed, 1.0, 1.0, 0.0, 0.1, 3.0))
            entry |= {"name": f"cr-{method}-seed{seed}".replace("+", "_").replace(":", "_"), "seed": seed}
            models.append(entry)
            folder = tmp_path / "run" / "models" / entry["name"]
            folder.mkdir(parents=True)
            (folder / "training.json").write_text(json.dumps({"tokens_per_second": speed}))
            file: dict[str, Any] = {"schema": 2, "divergences": {"js": record(0.5, 0.2)}}
            if method.endswith("+prompt"):
                file["with_baseline"] = {"js": record(0.9, 0.05)}
            (folder / "divergence.json").write_text(json.dumps(file))
    write_results(tmp_path / "run", results(models=models))
    return tmp_path / "run"


def page_of(run: Path) -> str:
    record_ = read_record(run / "results.json", Results)
    return methods_page(record_, rows_of(record_, run), run)


def line_of(page: str, heading: str, method: str) -> list[str]:
    section = page.split(f"## {heading}")[1]
    line = next(line for line in section.splitlines() if line.startswith(f"| `{method}` "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_method_of_the_table_and_of_the_run_has_its_line(run: Path) -> None:
    page = page_of(run)
    for name in (*METHODS, *SPEEDS):
        assert line_of(page, "What each method is", name)
    kldo = line_of(page, "What each method is", "kldo")
    assert kldo[1:5] == ["KL(P, Q)", "no", "one constant", "no"]
    assert "without gradients" in kldo[5]
    assert line_of(page, "What each method is", "dpo")[2:5] == ["0.693", "of the prompt", "yes"]
    assert line_of(page, "What each method is", "sft")[2:4] == ["no claim", "no r"]


def test_costs_are_relative_to_dpo_and_outcomes_have_intervals_over_seeds(run: Path) -> None:
    page = page_of(run)
    assert line_of(page, "What each cost and did", "kldo")[2:4] == ["0.25", "0.50"]
    assert line_of(page, "What each cost and did", "kldo+prompt")[2:4] == ["1", "2.00"]
    direct = line_of(page, "What each cost and did", "dpo")[5]
    assert re.match(r"25\s% \(0 to 100\s%\)", direct), direct
    assert line_of(page, "What each cost and did", "dpo")[-1].startswith("0.2")


def test_a_baseline_stands_beside_its_method(run: Path) -> None:
    page = page_of(run)
    assert line_of(page, "With and without", "kldo")[4] == ""
    assert line_of(page, "With and without", "kldo+prompt")[2:6] == [
        "0.5 (0.4 to 0.6)", "0.2", "0.9 (0.8 to 1)", "0.05",
    ]  # fmt: skip
    assert "With and without" not in page_of_one(run)


def page_of_one(run: Path) -> str:
    whole = read_record(run / "results.json", Results)
    alone = whole.model_copy(update={"models": [model for model in whole.models if model.method in (None, "dpo")]})
    return methods_page(alone, rows_of(alone, run), run)


def test_the_interval_over_seeds_is_the_wider_of_two_and_stays_on_the_scale() -> None:
    alike = [Estimate(0.0, 0.0, 0.03, 128)] * 3
    assert over_seeds(alike, most=1.0) == Estimate(0.0, 0.0, 0.03, 3)
    apart = [Estimate(value, value, value, 9) for value in (0.0, 0.5, 1.0)]
    assert over_seeds(apart, most=1.0) == Estimate(0.5, 0.0, 1.0, 3)
    assert over_seeds([Estimate(0.4, 0.3, 0.5, 9)]) == Estimate(0.4, 0.3, 0.5, 1)
    assert over_seeds([Estimate(0.4, None, None, 9)]) == Estimate(0.4, None, None, 1)
    assert over_seeds([*alike, Estimate(None, 0.0, 1.0, 0)]).value is None


def test_a_name_in_a_run_imports_nothing() -> None:
    assert built_in_method("my_lab:loss") is None
    assert built_in_method("fdo:my_lab:divergence") is None
    assert built_in_method("no_such_method") is None
    assert built_in_method("bpo:js") is not None
    assert built_in_method("on_policy:js") is not None
    assert built_in_method("kldo+prompt") is not None


def test_the_verb_writes_the_page(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(run), "--methods", str(tmp_path / "docs" / "methods.md")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "docs" / "methods.md").read_text().startswith("# Methods")
