import pytest

from divalign.report.facts import SearchFacts
from divalign.report.searches import mean_losses, search_curves
from tests.draw.test_pictures import elements, words
from tests.report.runs import model

SEARCHES = (
    SearchFacts((3.0, 1.0), True),
    SearchFacts((5.0, 4.0, 3.0, 2.0), True),
    SearchFacts((1.0, 1.0, 1.0, 1.0), False),
)


def test_a_search_that_has_ended_keeps_its_last_loss_in_the_mean() -> None:
    assert mean_losses(SEARCHES) == [3.0, 2.0, pytest.approx(5 / 3), pytest.approx(4 / 3)]
    assert mean_losses(SEARCHES[:1]) == [3.0, 1.0]


def test_each_searched_model_has_a_panel_with_its_prompts_and_their_mean() -> None:
    models = [model(), model("kldo", "cr", searches=SEARCHES), model("dpo", "cr", searches=SEARCHES[:1])]
    figure = search_curves(models)
    kldo, dpo = (panel for (panel,) in figure.groups)
    assert [kldo.title, dpo.title] == ["kldo on CR", "dpo on CR"]
    assert len(elements(kldo.picture, "path", "curve")) == 4
    assert len(elements(kldo.picture, "path", "faint")) == 3
    assert kldo.note == "2 of 3 ended by success, median step 2, last 3"
    assert words(kldo.picture)[:3] == words(dpo.picture)[:3]  # one scale upwards
    assert figure.keys[0].label == "mean of 1 or 3 prompts"


def test_a_search_that_ended_before_its_first_step_still_makes_a_picture() -> None:
    (panel,) = (
        panel for (panel,) in search_curves([model("kldo", "cr", searches=(SearchFacts((0.5,), None),))]).groups
    )
    assert "nan" not in panel.picture
    assert panel.note == "0 of 1 ended by success"


def test_without_searches_there_is_no_figure() -> None:
    figure = search_curves([model("kldo", "cr")])
    assert (figure.groups, figure.keys) == ([], [])
