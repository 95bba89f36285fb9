"""Rates and their changes where tries of an attack are undecided, and parts of files that people wrote."""

import math

import pytest

from divalign.safety.adaptive import per_prompt
from divalign.safety.evaluate import kind_rates
from divalign.stages.rates import by_part, changes

ATTACK = "best_of_n(3)"


def tries(*verdicts: bool | None, prompts: int = 20) -> list[dict]:
    """Return rows of `prompts` prompts, each with these verdicts on its tries."""
    kinds = {True: "compliance", False: "refusal", None: None}
    return [
        {"id": f"p{number}", "attack": ATTACK, "prompt": f"prompt {number}", "harmful": True, "try": place,
         "unsafe": unsafe, "refused": None if unsafe is None else not unsafe, "kind": kinds[unsafe],
         "score": None, "judge": "j", "judge_sha256": "s"}
        for place, unsafe in enumerate(verdicts)
        for number in range(prompts)
    ]  # fmt: skip


def test_undecided_tries_may_have_undone_a_refusal_and_no_compliance() -> None:
    refused = kind_rates(per_prompt(tries(False, None, None)))[ATTACK]
    assert (refused["refusal"].value, refused["refusal"].low) == (1.0, 0.0)
    assert (refused["compliance"].value, refused["compliance"].high) == (0.0, 1.0)
    complied = kind_rates(per_prompt(tries(True, None, None)))[ATTACK]
    assert complied["compliance"].low == pytest.approx(0.839, abs=1e-3)  # Wilson's of 20 of 20


def test_a_change_may_be_as_large_as_undecided_tries_allow() -> None:
    decided = changes(tries(False, False), tries(False, False))[ATTACK]
    after, before = (changes(*pair)[ATTACK] for pair in (
        (tries(False, False), tries(False, None)), (tries(False, None), tries(True, False))
    ))  # fmt: skip
    assert decided.change.high is not None
    assert decided.change.high < 0.2
    assert (after.change.value, after.change.high, after.p_value) == (0.0, 1.0, 1.0)
    assert before.change.value == 1.0
    assert before.change.low is not None
    assert before.change.low < 0.0  # all of them could have succeeded before too
    assert before.p_value == 1.0


def test_a_part_is_read_where_people_wrote_it_as_text() -> None:
    rows = [{"held_out": value} for value in ("False", "True", None, math.nan, True, 0)]
    assert {name: len(part) for name, part in by_part([{}, *rows]).items()} == {"test": 5, "held_out": 2}
