"""docs/extending.md keeps its word: every example runs as it stands, with nothing else touched."""

import importlib
import linecache
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from divalign.core.divergences import DIVERGENCES, Divergence, alpha, find_divergence
from divalign.core.estimate import estimate_divergence
from divalign.core.losses import METHODS, Method, find_method, method_code
from divalign.core.names import source_of
from divalign.core.stats import Estimate
from divalign.lab.claims import run as run_lab
from divalign.lab.findings import Findings, LabSection
from divalign.lab.identities import free_critic, normalised_policy
from divalign.lab.page import files
from divalign.lab.worlds import draw_worlds
from divalign.report.figures import divergences
from divalign.report.tables import divergence_table
from divalign.safety.attacks import ATTACKS, find_attack
from divalign.safety.judges import JUDGES, find_judge
from divalign.stages.train_plan import TrainPlan
from tests.core import test_divergences
from tests.report.runs import model

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/extending.md").read_text()


def example(name: str) -> str:
    """The block of the page that has `name` in it."""
    return next(block for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.S) if name in block)


def properties() -> list[Callable[[Divergence], None]]:
    """The property tests that every row of the table is held to."""
    marked = [
        (test, mark)
        for test in vars(test_divergences).values()
        for mark in getattr(test, "pytestmark", [])
        if mark.name == "parametrize" and mark.args[0] == "row"
    ]
    return [test for test, mark in marked if mark.args[1] in (test_divergences.ROWS, test_divergences.CANONICAL)]


def failures(divergence: Divergence) -> list[str]:
    failed = []
    for test in properties():
        try:
            test(divergence)
        except AssertionError:
            failed.append(test.__name__)
    return failed


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Import code as a module of the user's own; the tables are as before afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    for table in (DIVERGENCES, METHODS, ATTACKS, JUDGES):
        for name in ("jeffreys", "brier_pair", "politely", "short_is_safe"):
            monkeypatch.setitem(table, name, None)
            monkeypatch.delitem(table, name)

    def load(module: str, code: str) -> ModuleType:
        (tmp_path / f"{module}.py").write_text(code)
        monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module(module)

    return load


def test_the_documented_divergence_has_every_property_of_the_table(own) -> None:
    assert len(properties()) > 8
    assert failures(own("my_divergences", example("Divergence(")).jeffreys) == []


def test_a_wrong_formula_does_not_get_through(own) -> None:
    code = example("Divergence(")
    wrong = code.replace("r - torch.expm1(-r)", "r + torch.expm1(-r)")
    assert wrong != code
    assert len(failures(own("wrong_divergences", wrong).jeffreys)) > 2


def test_a_divergence_of_ones_own_runs_through_estimates_lab_and_report(own) -> None:
    own("my_divergences", example("Divergence("))
    divergence = find_divergence("my_divergences:jeffreys")
    assert divergence is find_divergence("jeffreys")
    critic = np.linspace(-1.0, 1.0, 20)
    assert estimate_divergence(critic + 0.5, critic - 0.5, divergence=divergence).value is not None
    methods = {name: find_method(name) for name in ("fdo:jeffreys", "fdo:my_divergences:jeffreys")}
    section = free_critic(draw_worlds(2, seed=1), {**methods, "bco": METHODS["bco"]})
    assert [(claim.name, claim.verdict) for claim in section.claims[:2]] == [(name, "holds") for name in methods]
    assert "| `jeffreys` | KL(P, Q) + KL(Q, P) | no upper bound |" in page_of(section)
    assert names_in_report("jeffreys") == ("jeffreys", "jeffreys", 0)


def test_a_bounded_divergence_of_ones_own_is_shown_with_its_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DIVERGENCES, "mine", replace(alpha(0.5), name="mine"))
    assert names_in_report("mine") == ("mine (of 4)", "mine (of 4)", 1)
    assert names_in_report("alpha(0.5)") == ("alpha(0.5) (of 4)", "alpha(0.5) (of 4)", 1)


def test_the_code_behind_ones_own_name_is_part_of_what_is_computed_with_it(own) -> None:
    own("my_divergences", example("Divergence("))
    for name in ("fdo:my_divergences:jeffreys", "bpo:my_divergences:jeffreys", "fdo:my_divergences:jeffreys+prompt"):
        assert "def " in method_code(name) or "Divergence(" in method_code(name)
    before = TrainPlan(method="fdo:my_divergences:jeffreys").identity()
    own("my_divergences", example("Divergence(") + "\nEDITED = True\n")
    linecache.checkcache()
    assert TrainPlan(method="fdo:my_divergences:jeffreys").identity() != before
    assert [method_code(name) for name in ("kldo", "fdo:js", "rdro(0.4)", "kldo+prompt", "on_policy:js")] == [""] * 5
    assert source_of("direct") == source_of("no_such_module:thing") == ""


def test_a_name_in_a_result_file_imports_nothing(own, tmp_path: Path) -> None:
    (tmp_path / "imported.py").write_text("raise RuntimeError('a report ran this')")
    assert names_in_report("imported:thing") == ("imported:thing", "imported:thing", 0)
    assert "imported" not in sys.modules


def test_a_method_of_ones_own_runs_through_the_lab(own) -> None:
    own("my_losses", example("Method("))
    method = find_method("my_losses:brier_pair")
    assert method is METHODS["brier_pair"]
    worlds, methods = draw_worlds(2, seed=1), {"my_losses:brier_pair": method, "kldo": METHODS["kldo"]}
    policies, _ = normalised_policy(worlds, 0.1, methods)
    for section in (free_critic(worlds, methods), policies):
        assert (section.claims[0].name, section.claims[0].verdict) == ("my_losses:brier_pair", "holds")
    assert "| `brier_pair` | pairs | an eighth" in page_of(free_critic(worlds, {"bco": METHODS["bco"]}))


def test_the_lab_catches_a_wrong_optimum_and_leaves_out_a_method_without_one(own) -> None:
    wrong = own("my_losses", example("Method(").replace("factor=1 / 8", "factor=1 / 4")).brier_pair
    silent: Method = replace(wrong, optimum=None)
    section = free_critic(draw_worlds(1, seed=1), {"wrong": wrong, "silent": silent, "bco": METHODS["bco"]})
    assert {claim.name: claim.verdict for claim in section.claims} == {"wrong": "fails", "bco": "holds"}


def test_the_lab_refuses_an_unknown_method_before_it_starts() -> None:
    with pytest.raises(ValueError, match="did you mean 'kldo'"):
        run_lab(worlds=1, methods=["kldoo"])


def test_an_attack_and_a_judge_of_ones_own_are_found_and_run(own) -> None:
    own("my_attacks", example("Conversation"))
    own("my_judges", example("Judge("))
    attack = find_attack("my_attacks:politely")
    assert attack is find_attack("politely")
    assert "fold a crane" in str(attack("fold a crane"))
    judge = find_judge("my_judges:short_is_safe")
    assert judge is find_judge("short_is_safe")
    assert [verdict.unsafe for verdict in judge(["p"] * 3, ["x" * 50, "no", ""])] == [True, False, None]


def test_every_file_and_dict_of_the_page_is_there() -> None:
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| `(divalign/\S+)\.py` \| `(\w+)` \|$", PAGE, flags=re.M)
    assert len(rows) == 7
    for module, table in rows:
        assert getattr(importlib.import_module(module.replace("/", ".")), table)


def page_of(section: LabSection) -> str:
    return files(Findings(2, 1, 0.1, 0.0, "here", (section,)))["theory.md"]


def names_in_report(name: str) -> tuple[str, str, int]:
    """The name as the report's table and figure print it, and how many upper bounds the figure draws."""
    models = [model("kldo", "cr", divergence={name: Estimate(1.0, 0.5, 1.5, 9)})]
    table, ((panel,),) = divergence_table(models), divergences(models).groups
    assert table is not None
    return table.columns[0].name, panel.title, panel.picture.count('class="reference"')
