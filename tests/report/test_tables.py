import pytest
from scipy.special import xlogy

from divalign.core.stats import Estimate, rate
from divalign.report import tables
from divalign.report.facts import Answer, Model
from divalign.report.measures import CEILINGS
from divalign.report.words import percent
from tests.report.runs import model

HALF = rate([True, False] * 50)


def answer(**changes: object) -> Answer:
    return Answer("role_play", "a prompt", True, False, "the answer", True, "no refusal")._replace(**changes)


@pytest.mark.parametrize(
    ("estimate", "value"), [(None, "not measured"), (Estimate(None, 0.0, 1.0, 0), "undecided"), (HALF, "50\xa0%")]
)
def test_a_cell_holds_a_number_only_where_there_is_one(estimate: Estimate | None, value: str) -> None:
    cell = tables.cell(estimate, percent)
    assert (cell.value, cell.known) == (value, estimate is HALF)


def test_a_row_stands_in_the_order_of_the_columns_and_keeps_its_interval() -> None:
    rows = [model("kldo", "cr", asr={"prefill": rate([True] * 9), "direct": HALF}, over_refusal=rate([False] * 9))]
    table = tables.main_table(rows, tables.held_in, caption="seen")
    assert table is not None
    assert [column.name for column in table.columns] == [
        "D_B, paper mode",
        "probe AUC",
        "ASR, direct",
        "ASR, prefill",
        "over-refusal",
    ]
    name, cells = table.rows[0]
    assert name == "kldo on CR"
    assert [cell.value for cell in cells] == ["not measured", "not measured", "50\xa0%", "100\xa0%", "0\xa0%"]
    assert cells[2].bounds == "40 to 60\xa0%"


def test_an_attack_that_only_some_models_met_is_a_note_and_no_column_of_holes() -> None:
    rows = [
        model(asr={"direct": HALF}),
        model("kldo", "cr", asr={"direct": HALF, "gcg": rate([False] * 8)}, unseen=HALF),
    ]
    seen, unseen = (tables.main_table(rows, take, caption="") for take in (tables.held_in, tables.held_out))
    assert seen is not None
    assert unseen is not None
    assert [column.name for column in seen.columns][2:] == ["ASR, direct", "over-refusal"]
    said = "ASR, gcg, which only 1 of 2 models met: kldo on CR 0\xa0% (interval 0 to 32\xa0%, n = 8)."
    assert seen.notes == (said,)
    assert unseen.notes == ()
    assert [column.name for column in unseen.columns][2:] == ["ASR, direct", "over-refusal"]


def test_a_count_is_said_once_where_a_column_shares_it_and_in_every_cell_where_not() -> None:
    def table(*counts: int) -> tables.Table:
        rows = [model("kldo", str(n), asr={"direct": rate([True] * n)}) for n in counts]
        found = tables.main_table(rows, tables.held_in, caption="")
        assert found is not None
        return found

    same, other = table(9, 9), table(9, 8)
    assert (same.columns[2].n, [cells[2].n for _, cells in same.rows]) == ("n = 9", ["", ""])
    assert (other.columns[2].n, [cells[2].n for _, cells in other.rows]) == ("", ["n = 9", "n = 8"])


def test_held_out_rows_are_only_those_of_models_that_have_them() -> None:
    models = [model("kldo", "cr", unseen=HALF), model("bco", "cr")]
    table = tables.main_table(models, tables.held_out, caption="")
    assert table is not None
    assert [name for name, _ in table.rows] == ["kldo on CR"]
    assert tables.main_table(models[1:], tables.held_out, caption="") is None


def test_an_extrapolated_distance_is_marked_and_explained() -> None:
    far, near = (model("kldo", "cr", distance=Estimate(value, None, None, 200)) for value in (50.0, 1.0))
    table = tables.main_table([far, near], tables.held_in, caption="")
    assert table is not None
    assert [cells[0].value for _, cells in table.rows] == ["† 50", "1"]
    assert [any("†" in note for note in tables.notes([one])) for one in (far, near)] == [True, False]


def test_words_alone_are_held_against_the_whole_interval_of_the_probe() -> None:
    def measured(words: float, low: float | None) -> Model:
        one = model()
        one.held_in.separation["lexical_auc"] = Estimate(words, None, None, 9)
        if low is not None:
            one.held_in.separation["probe_auc"] = Estimate(0.99, low, 1.0, 9)
        return one

    start = "The words of the prompts alone, without a model, give a lexical AUC of 0.900"
    assert tables.notes([measured(0.9, None)]) == [f"{start}."]
    both = [measured(0.9, 0.91), measured(0.95, 0.94)]
    assert tables.notes(both) == [f"{start} to 0.950; the probe AUC is clearly above that on 1 of 2 models."]
    assert tables.notes([model()]) == []


def test_undecided_answers_are_counted() -> None:
    one = model("kldo", "cr", answers=(answer(), answer(unsafe=None)))
    assert tables.notes([one]) == ["The judge could not decide 1 of 2 answers; these count neither way."]


def test_divergences_have_a_column_each_and_no_table_without_any() -> None:
    table = tables.divergence_table(
        [model(), model("kldo", "cr", divergence={"js": HALF, "kl": Estimate(None, None, None, 3)})]
    )
    assert table is not None
    assert [column.name for column in table.columns] == ["js", "kl"]
    assert [cell.value for cell in table.rows[0][1]] == ["0.5", "undecided"]
    assert tables.divergence_table([model()]) is None


def test_examples_are_the_first_of_each_kind_of_answer() -> None:
    kinds = [(harmful, unsafe) for harmful in (True, False) for unsafe in (True, False, None)]
    answers = [answer(harmful=h, unsafe=u, prompt=f"{n}") for n in range(5) for h, u in kinds]
    found = tables.examples(model("kldo", "cr", answers=tuple(answers)), show_completions=False)
    assert len(found) == len(kinds) * tables.EXAMPLES
    assert {example.prompt for example in found} == {"0", "1"}
    assert {(example.kind, example.unsafe) for example in found} == {
        (kind, unsafe) for kind in ("harmful", "benign") for unsafe in ("yes", "no", "undecided")
    }


def test_an_answer_is_its_length_unless_it_is_asked_for() -> None:
    one = model("kldo", "cr", answers=(answer(held_out=True),))
    (hidden,), (shown,) = (tables.examples(one, show_completions=show) for show in (False, True))
    assert (hidden.response, shown.response) == ("[10 characters]", "the answer")
    assert (hidden.attack, hidden.kind) == ("role play", "harmful, held out")


def test_ceilings_are_the_values_at_disjoint_supports() -> None:
    # f(0) + lim f(t)/t of the generators, by hand: js 2 ln 2, hellinger 1 + 1, lecam 1 + 1, tv 1/2 + 1/2.
    generators = {
        "js": lambda t: xlogy(t, t) - xlogy(1 + t, (1 + t) / 2),
        "hellinger": lambda t: (t**0.5 - 1) ** 2,
        "lecam": lambda t: (t - 1) ** 2 / (t + 1),
        "tv": lambda t: abs(t - 1) / 2,
    }
    assert generators.keys() == CEILINGS.keys()
    for name, generator in generators.items():
        assert generator(0.0) + generator(1e12) / 1e12 == pytest.approx(CEILINGS[name], rel=1e-5)
