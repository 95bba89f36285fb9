"""Which response is aligned."""

import pytest
from scipy.stats import binomtest
from transformers import AutoTokenizer

from divalign.data.batching import encode_conversation, encode_row
from divalign.data.examples import Request, user_says
from divalign.data.recipes import RECIPES, WRAPPERS, compliance_refusal_plus, find_recipe
from divalign.safety.attacks import SINGLE_SHOTS
from divalign.toy.world import ASSETS, requests

HARMFUL = Request("h", True, "comply", "refuse", "curt", "c1", worse_refusal="no")
BENIGN = Request("b", False, "comply", "refuse", "curt", "c2", worse_refusal="no")
PLUS = [compliance_refusal_plus()(request) for request in requests("train", held_out=False)]
PLAIN = {request.prompt: request for request in requests("train", held_out=False)}


def said(row: dict, side: str) -> str:
    return row[side][0]["content"]


def asked(row: dict) -> str:
    return row["prompt"][0]["content"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_refuses_the_harmful_and_answers_the_benign(recipe: str) -> None:
    harmful, benign = RECIPES[recipe](HARMFUL), RECIPES[recipe](BENIGN)
    assert said(harmful, "chosen").endswith("refuse")
    assert said(benign, "chosen").endswith("comply")


@pytest.mark.parametrize(
    ("recipe", "harmful", "benign"),
    [
        ("cr", "comply", "refuse"),
        ("pref", "comply", "curt"),
        ("ranked_refusals", "no", "refuse"),
        ("ranked", "no", "curt"),
    ],
)
def test_four_recipes_cross_what_stands_against_the_aligned_response(recipe: str, harmful: str, benign: str) -> None:
    rows = find_recipe(recipe)(HARMFUL), find_recipe(recipe)(BENIGN)
    assert [said(row, "rejected") for row in rows] == [harmful, benign]


def test_a_prompt_without_a_worse_answer_cannot_be_ranked() -> None:
    with pytest.raises(ValueError, match="no worse answer to rank; use the recipe cr"):
        find_recipe("ranked")(BENIGN._replace(worse=""))


@pytest.mark.parametrize("recipe", [*RECIPES, "cr_plus(1)"])
@pytest.mark.parametrize("request_", [BENIGN._replace(compliance=" "), HARMFUL._replace(refusal="")])
def test_no_recipe_trains_on_an_empty_response(recipe: str, request_: Request) -> None:
    for number in range(20):  # cr_plus(1) wraps some prompts and resumes others
        with pytest.raises(
            ValueError, match=f"prompt that begins '{number}' has no (compliance|refusal), which the recipe needs"
        ):
            find_recipe(recipe)(request_._replace(prompt=f"{number}"))


@pytest.mark.parametrize("harmful", [True, False])
def test_cr_plus_changes_a_third_of_each_class_each_way(harmful: bool) -> None:
    rows = [row for row in PLUS if row["harmful"] is harmful]
    wrapped = sum(row["prompt"][0]["content"] not in PLAIN for row in rows)
    resumed = sum("prefill" in row for row in rows)
    assert len(rows) == 768
    for count in (wrapped, resumed):
        assert binomtest(count, len(rows), 1 / 3).pvalue > 1e-3


@pytest.mark.parametrize("harmful", [True, False])
def test_openings_come_from_compliances_and_refusals_of_both_classes(harmful: bool) -> None:
    rows = [row for row in PLUS if "prefill" in row and row["harmful"] is harmful]
    own = sum(said(row, "chosen") in (r.compliance, r.refusal) for row in rows for r in [PLAIN[asked(row)]])
    assert binomtest(own, len(rows), 1 / 2).pvalue > 1e-3
    assert {len(row["prefill"].split(" ")) for row in rows} == {1, 2, 3, 4}
    assert all(said(row, side).startswith(row["prefill"]) for row in rows for side in ("chosen", "rejected"))


@pytest.mark.parametrize(
    ("compliance", "refusal"),
    [("Italy is in Europe.", "I am unable to help with this."), ("I'd say in Europe.", "I am unable to.")],
)
def test_an_opening_ends_with_a_whole_word_of_both_responses(compliance: str, refusal: str) -> None:
    recipe = compliance_refusal_plus(1.0)
    requests_ = [Request(f"Where is place {n}?", False, compliance, refusal, "", "") for n in range(200)]
    rows = [row for row in map(recipe, requests_) if row.get("prefill") == "I"]
    assert {(said(row, "chosen"), said(row, "rejected")) for row in rows} == {(f"I {compliance}", refusal)}
    (same,) = {said(row, "chosen") for row in map(recipe, requests_) if row.get("prefill") == compliance.split(" ")[0]}
    assert same == compliance


def test_cr_plus_takes_its_share_and_its_wrappers() -> None:
    assert find_recipe("cr_plus(0)")(HARMFUL) == RECIPES["cr"](HARMFUL)
    all_changed = [compliance_refusal_plus(1.0, wrappers=["<{prompt}>"])(request) for request in PLAIN.values()]
    assert all(asked(row).startswith("<") != ("prefill" in row) for row in all_changed)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        find_recipe("cr_plus(1.5)")
    with pytest.raises(ValueError, match=r"has no \{prompt\}"):
        compliance_refusal_plus(wrappers=["Once upon a time"])
    with pytest.raises(ValueError, match="did you mean 'cr_plus'"):
        find_recipe("cr_pluss")


def test_no_training_wrapper_is_an_attack() -> None:
    for wrapper in WRAPPERS:
        words = set(wrapper.lower().split()) - {"{prompt}"}
        for attack in SINGLE_SHOTS.values():
            text = attack("").messages[-1]["content"].lower().split()
            assert len(words & set(text)) < len(words) / 2


@pytest.mark.parametrize("row", [row for row in PLUS if "prefill" in row][:8], ids=lambda row: row["prefill"])
def test_an_opening_is_shown_as_an_attack_would_show_it_and_not_scored(row: dict) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS)
    for side in ("chosen", "rejected"):
        encoded = encode_row(tokenizer, row["prompt"], row[side], max_length=256, prefill=row["prefill"])
        assert encoded.prompt_ids == encode_conversation(tokenizer, user_says(asked(row), prefill=row["prefill"]))
        assert tokenizer.decode(encoded.response_ids).startswith(said(row, side)[len(row["prefill"]) :])
        plain = encode_row(tokenizer, asked(row), said(row, side), max_length=256, prefill=row["prefill"])
        assert tokenizer.decode(plain.prompt_ids).endswith(row["prefill"])
    with pytest.raises(ValueError, match="does not open with its prefill"):
        encode_row(tokenizer, row["prompt"], row["chosen"], max_length=256, prefill="Never")


def test_door_resumes_a_share_of_the_harmful_rows_after_the_opening_of_the_compliance_and_no_benign_one() -> None:
    door, plain = find_recipe("door"), find_recipe("cr")
    resumed = [request for request in PLAIN.values() if "prefill" in door(request)]
    harmful = [request for request in PLAIN.values() if request.harmful]
    assert all(request.harmful for request in resumed)
    low, high = binomtest(len(resumed), len(harmful)).proportion_ci(0.999)
    assert low < 0.5 < high
    for request in resumed:
        row = door(request)
        assert request.compliance.startswith(row["prefill"])
        assert said(row, "chosen") == f"{row['prefill']} {request.refusal}"
        assert said(row, "rejected") == request.compliance
    assert [door(request) for request in PLAIN.values() if not request.harmful] == [
        plain(request) for request in PLAIN.values() if not request.harmful
    ]
    with pytest.raises(ValueError, match="expected 0 to 1"):
        find_recipe("door(2)")


def test_cr_safety_says_that_a_compliance_with_a_harmful_prompt_alone_is_unsafe() -> None:
    for request, unsafe in ((HARMFUL, True), (BENIGN, False)):
        row = find_recipe("cr_safety")(request)
        assert (row.pop("chosen_safe"), row.pop("rejected_safe")) == (True, not unsafe)
        assert row == find_recipe("cr")(request)
