import pytest

from divalign.core.stats import Estimate, rate
from divalign.draw.numbers import percent
from divalign.report import tables
from divalign.report.facts import JudgedResponse, ModelFacts
from tests.report.runs import model

HALF = rate([True, False] * 50)


def judged(**changes: object) -> JudgedResponse:
    return JudgedResponse("role_play", "a prompt", True, False, "the answer", True, "no refusal")._replace(**changes)


@pytest.mark.parametrize(
    ("estimate", "value"), [(None, "not measured"), (Estimate(None, 0.0, 1.0, 0), "undecided"), (HALF, "50\xa0%")]
)
def test_a_cell_holds_a_number_only_where_there_is_one(estimate: Estimate | None, value: str) -> None:
    cell = tables.cell(estimate, percent)
    assert (cell.value, cell.is_number) == (value, estimate is HALF)


def test_a_row_stands_in_the_order_of_the_columns_and_keeps_its_interval() -> None:
    rows = [model("kldo", "cr", asr={"prefill": rate([True] * 9), "direct": HALF}, over_refusal=rate([False] * 9))]
    table = tables.main_table(rows, tables.in_distribution, caption="topics")
    assert table is not None
    assert [column.name for column in table.columns] == [
        "D_B, held out",
        "D_B, paper mode",
        "probe AUC",
        "ASR, direct",
        "ASR, prefill",
        "over-refusal",
    ]
    row = table.rows[0]
    assert (row.label, row.model) == ("kldo on CR", "kldo-cr-0")
    assert [cell.value for cell in row.cells] == [*["not measured"] * 3, "50\xa0%", "100\xa0%", "0\xa0%"]
    assert (row.cells[3].bounds, row.cells[3].sort, row.cells[0].sort) == ("40 to 60\xa0%", 0.5, None)


def test_an_attack_that_was_run_on_some_models_only_is_a_note_and_no_column_of_holes() -> None:
    rows = [
        model(asr={"direct": HALF}),
        model("kldo", "cr", asr={"direct": HALF, "gcg": rate([False] * 8)}, held_out=HALF),
    ]
    inside, held_out = (tables.main_table(rows, take, caption="") for take in (tables.in_distribution, tables.held_out))
    assert inside is not None
    assert held_out is not None
    assert [column.name for column in inside.columns][3:] == ["ASR, direct", "over-refusal"]
    note = "ASR, gcg, run on 1 of 2 models only: kldo on CR 0\xa0% (95\xa0% CI 0 to 32\xa0%, n = 8)."
    assert inside.notes == (note,)
    assert held_out.notes == ()
    assert [column.name for column in held_out.columns][3:] == ["ASR, direct", "over-refusal"]


def test_a_count_is_said_once_where_a_column_shares_it_and_in_every_cell_where_not() -> None:
    def table(*counts: int) -> tables.Table:
        rows = [model("kldo", str(n), asr={"direct": rate([True] * n)}) for n in counts]
        content = tables.main_table(rows, tables.in_distribution, caption="")
        assert content is not None
        return content

    same, other = table(9, 9), table(9, 8)
    assert (same.columns[3].n, [row.cells[3].n for row in same.rows]) == ("n = 9", ["", ""])
    assert (other.columns[3].n, [row.cells[3].n for row in other.rows]) == ("", ["n = 9", "n = 8"])


def test_the_second_reading_of_attack_success_has_a_table_of_its_own() -> None:
    readings = {"prefill": HALF, "direct": rate([True] * 9)}
    models = [model("kldo", "cr", asr={"prefill": HALF, "direct": HALF}, asr_no_refusal=readings, held_out=HALF)]
    table = tables.no_refusal_table([*models, model("bco", "cr")], tables.in_distribution, caption="")
    assert table is not None
    assert [column.name for column in table.columns] == ["no refusal, direct", "no refusal, prefill"]
    assert [(row.label, [cell.value for cell in row.cells]) for row in table.rows] == [
        ("kldo on CR", ["100\xa0%", "50\xa0%"])
    ]
    assert tables.no_refusal_table(models, tables.held_out, caption="") is None


def test_held_out_rows_are_only_those_of_models_that_have_them() -> None:
    models = [model("kldo", "cr", held_out=HALF), model("bco", "cr")]
    table = tables.main_table(models, tables.held_out, caption="")
    assert table is not None
    assert [row.label for row in table.rows] == ["kldo on CR"]
    assert tables.main_table(models[1:], tables.held_out, caption="") is None


def test_an_extrapolated_distance_is_marked_and_explained() -> None:
    far, near = (model("kldo", "cr", distance=Estimate(value, None, None, 200)) for value in (50.0, 1.0))
    table = tables.main_table([far, near], tables.in_distribution, caption="")
    assert table is not None
    assert [row.cells[1].value for row in table.rows] == ["† 50", "1"]
    assert [any("†" in note for note in tables.notes([entry])) for entry in (far, near)] == [True, False]


def test_words_alone_are_held_against_the_whole_interval_of_the_probe() -> None:
    def measured(words: float, low: float | None) -> ModelFacts:
        entry = model()
        entry.in_distribution.separation["lexical_auc"] = Estimate(words, None, None, 9)
        if low is not None:
            entry.in_distribution.separation["probe_auc"] = Estimate(0.99, low, 1.0, 9)
        return entry

    start = "The words of the prompts alone, without a model, have a lexical AUC of 0.900"
    assert tables.notes([measured(0.9, None)]) == [f"{start}."]
    both = [measured(0.9, 0.91), measured(0.95, 0.94)]
    assert tables.notes(both) == [f"{start} to 0.950; the probe AUC is clearly above it for 1 of 2 models."]
    assert tables.notes([model()]) == []


def test_undecided_answers_are_counted() -> None:
    entry = model("kldo", "cr", responses=(judged(), judged(unsafe=None)))
    assert tables.notes([entry]) == ["The judge could not decide 1 of 2 responses; rates exclude these."]


def test_divergences_have_a_column_each_and_no_table_without_any() -> None:
    table = tables.divergence_table(
        [model(), model("kldo", "cr", divergence={"js": HALF, "kl": Estimate(None, None, None, 3)})]
    )
    assert table is not None
    assert [column.name for column in table.columns] == ["js (of 1.386)", "kl"]
    assert [cell.value for cell in table.rows[0].cells] == ["0.5", "undecided"]
    assert tables.divergence_table([model()]) is None


def test_examples_are_the_first_of_each_kind_of_answer() -> None:
    kinds = [(harmful, unsafe) for harmful in (True, False) for unsafe in (True, False, None)]
    answers = [judged(harmful=h, unsafe=u, prompt=f"{n}") for n in range(5) for h, u in kinds]
    rows = tables.examples(model("kldo", "cr", responses=tuple(answers)), show_completions=False)
    assert len(rows) == len(kinds) * tables.EXAMPLES
    assert {example.prompt for example in rows} == {"0", "1"}
    assert {(example.kind, example.unsafe) for example in rows} == {
        (kind, unsafe) for kind in ("harmful", "benign") for unsafe in ("yes", "no", "undecided")
    }


def test_an_answer_is_its_length_unless_it_is_asked_for() -> None:
    entry = model("kldo", "cr", responses=(judged(held_out=True),))
    (hidden,), (shown,) = (tables.examples(entry, show_completions=show) for show in (False, True))
    assert (hidden.response, shown.response) == ("[10 characters]", "the answer")
    assert (hidden.attack, hidden.kind) == ("role play", "harmful, held out")
