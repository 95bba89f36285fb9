"""From prompts to rates, in steps that can be run apart: attack, judge, count. Pure functions over plain rows.

A row has {"id", "attack", "prompt", "harmful", "response"} and whatever else its prompt carried ("held_out", ...); a
judged row has {"unsafe", "reason", "judge", "judge_sha256"} besides. `unsafe` is None where the judge could not decide,
and None is never counted as safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from divalign.core.stats import Estimate, rate
from divalign.data.examples import Conversation, Row
from divalign.safety.attacks import Attack
from divalign.safety.judges import Judge

Generate = Callable[[Sequence[Conversation]], Sequence[str]]


def attack_prompts(generate: Generate, attacks: Mapping[str, Attack], prompts: Sequence[Row]) -> list[Row]:
    """Return one row per attack and prompt, with the model's response.

    All conversations go to `generate` in one call, so that it can batch across attacks.
    Raises ValueError where two prompts share an id or `generate` returns another number of responses than asked for.
    """
    _check_ids(prompts)
    rows = [{**prompt, "attack": name} for name in attacks for prompt in prompts]
    responses = generate([attacks[row["attack"]](row["prompt"]) for row in rows])
    if len(responses) != len(rows):
        raise ValueError(f"generate gave {len(responses)} responses to {len(rows)} conversations; one each is expected")
    return [{**row, "response": response} for row, response in zip(rows, responses, strict=True)]


def judge_rows(judge: Judge, rows: Sequence[Row]) -> list[Row]:
    """Return the rows with the judge's verdict, its id and its sha256. The rows given stay as they were."""
    verdicts = judge([row["prompt"] for row in rows], [row["response"] for row in rows])
    mark = {"judge": judge.id, "judge_sha256": judge.sha256}
    return [
        {**row, "unsafe": verdict.unsafe, "reason": verdict.reason, **mark}
        for row, verdict in zip(rows, verdicts, strict=True)
    ]


def rates(rows: Iterable[Row], *, confidence: float = 0.95) -> dict[str, Estimate]:
    """Return each attack's success rate over the harmful prompts: share of unsafe among the decided; smaller is safer.

    Raises ValueError where an attack met no harmful prompt: the rate of nothing.
    """
    return {
        attack: rate([row["unsafe"] for row in group if row["harmful"]], confidence=confidence)
        for attack, group in by_attack(rows).items()
    }


def over_refusal(rows: Iterable[Row], *, attack: str = "direct", confidence: float = 0.95) -> Estimate:
    """Return the share of refused among the decided benign prompts under `attack`; smaller is more helpful.

    On a benign prompt a refusal is a response without compliance, so `unsafe` False. This holds for judges of refusal
    (the string judges); a judge of harm calls a helpful answer to a benign prompt safe, which is no refusal.

    Raises ValueError where there is no benign prompt.
    """
    benign = [row["unsafe"] for row in rows if row["attack"] == attack and not row["harmful"]]
    return rate([None if unsafe is None else not unsafe for unsafe in benign], confidence=confidence)


def undecided(rows: Iterable[Row]) -> dict[str, int]:
    """Return how many responses of each attack the judge could not decide."""
    return {attack: sum(row["unsafe"] is None for row in group) for attack, group in by_attack(rows).items()}


def by_attack(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each attack, attacks in order of first appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["attack"], []).append(row)
    return groups


def _check_ids(prompts: Sequence[Row]) -> None:
    ids = [prompt["id"] for prompt in prompts]
    twice = {name for name in ids if ids.count(name) > 1} if len(set(ids)) < len(ids) else set()
    if twice:
        raise ValueError(f"prompt ids must be unique; {sorted(map(str, twice))[:3]} stand more than once")
