"""From one model's verdict rows to rates: by part of the prompts, by attack, by kind of response, and what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from divalign.core.stats import Estimate, Tested, clustered_difference, holm, paired_difference
from divalign.data.columns import is_absent, truth
from divalign.data.examples import Row
from divalign.records import AttackRates, JudgeErrors, JudgeRates, PartRates, ProtocolRates, RateChange, WordingSpread
from divalign.safety.adaptive import per_prompt
from divalign.safety.calibration import Calibration, calibration_for, corrected
from divalign.safety.evaluate import by_attack, clusters_of, kind_rates, over_refusal, readings, two_sided, undecided
from divalign.safety.judges import Judge, find_judge
from divalign.safety.protocols import Protocol, labelled, numbers
from divalign.safety.shield import attempts
from divalign.safety.wordings import spread
from divalign.store import digest

PARTS = {"test": False, "held_out": True}
CHOSEN = frozenset({"tries", "rounds", "steps"})  # columns of rows that stand for several tries of an attack


class Pair(NamedTuple):
    """A prompt's outcomes in two folders, its row, and which outcomes undecided tries leave open: False, maybe True."""

    before: bool | None
    after: bool | None
    row: Row
    open_before: bool = False
    open_after: bool = False


class AttackResponses(NamedTuple):
    """A finished attack folder: its responses, the protocol that wrote them, its target's name, and a key of all."""

    rows: list[Row]
    protocol: Protocol | None
    target: str
    sha256: str

    @property
    def key(self) -> str:
        return digest(self.sha256, self.protocol.name if self.protocol else None)


def judge_rates(
    responses: AttackResponses, judge: Judge, rows: Sequence[Row], calibration: Calibration | None = None
) -> JudgeRates:
    """Return one judge's rates on each part of the prompts. Raises ValueError for no rows."""
    parts = by_part(rows)
    return JudgeRates(
        judge=judge.id,
        judge_sha256=judge.sha256,
        parts={part: part_rates(chosen, calibration) for part, chosen in parts.items() if chosen},
        addressed=sum(bool(attempts(row["response"])) for row in rows),
        responses=len(rows),
        errors=_errors(calibration),
        protocol=_under_protocol(responses, judge, rows),
    )


def by_part(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows on topics of the training data ("test") and on held-out ones."""
    values = [row.get("held_out") for row in rows]  # texts, where a file was written by hand
    flags = [not is_absent(value) and truth(value, "held_out") for value in values]
    return {
        part: [row for row, flag in zip(rows, flags, strict=True) if flag is held_out]
        for part, held_out in PARTS.items()
    }


def wording_spreads(verdicts: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, WordingSpread]]:
    """Return how each attack's success depends on a rubric's wording, by part, of verdict rows by wording."""
    grouped: dict[str, dict[str, dict[str, list[Row]]]] = {}
    for name, rows in verdicts.items():
        for part, chosen in by_part(rows).items():
            harmful = [row for row in per_prompt(chosen) if row["harmful"]]
            for attack, group in by_attack(harmful).items():
                grouped.setdefault(part, {}).setdefault(attack, {})[name] = list(group)
    return {
        part: {attack: WordingSpread(**spread(groups)._asdict()) for attack, groups in attacks.items()}
        for part, attacks in grouped.items()
    }


def part_rates(rows: Sequence[Row], calibration: Calibration | None = None, *, confidence: float = 0.95) -> PartRates:
    """Return attack success by attack, over-refusal, and their two-sided difference from one judge's verdict rows.

    "selectivity" is the refusal rate of harmful minus that of benign prompts, asked directly. "corrected" is what a
    judge without errors would have found, None where its errors are not known or say that this judge tells nothing, and
    for attacks that try until a judge says yes.
    """
    each = per_prompt(rows)
    harmful, benign = ([row for row in each if row["harmful"] is side] for side in (True, False))
    direct = {row["harmful"] for row in each if row["attack"] == "direct"}
    has_benign = any(row["attack"] == "direct" for row in benign)
    return PartRates(
        attacks=_attack_rates(harmful, calibration, confidence) if harmful else {},
        over_refusal=over_refusal(each, confidence=confidence) if has_benign else None,
        selectivity=two_sided(each, confidence=confidence).selectivity if len(direct) == 2 else None,
    )


def calibration_of(judge: Judge, labelled_rows: Sequence[Row] | None, errors: JudgeErrors | None) -> Calibration | None:
    """Return what a correction of a judge's rates rests on: its errors as given, or measured on labelled responses
    (rows with "prompt", "response" and the true "refused"), else on other models' responses, with a warning.

    Raises ValueError for a labelled row without these columns.
    """
    if errors is not None:
        return Calibration(judge.id, errors.sensitivity, errors.specificity, Estimate(None, 0.0, 1.0, 0))
    for number, row in enumerate(labelled_rows or [], start=1):
        if not (isinstance(row.get("prompt"), str) and isinstance(row.get("response"), str)) or not isinstance(
            row.get("refused"), bool
        ):
            raise ValueError(f"labelled row {number} needs the texts prompt and response, and refused: true or false")
    return calibration_for(judge, labelled_rows)


def _errors(calibration: Calibration | None) -> JudgeErrors | None:
    if calibration is None:
        return None
    return JudgeErrors(
        sensitivity=calibration.sensitivity, specificity=calibration.specificity, warning=calibration.warning
    )


def _attack_rates(harmful: Sequence[Row], calibration: Calibration | None, confidence: float) -> dict[str, AttackRates]:
    both, counts = readings(harmful, confidence=confidence), undecided(harmful)
    kinds, groups = kind_rates(harmful, confidence=confidence), by_attack(harmful)
    return {
        name: AttackRates(
            asr=reading.compliance,
            asr_no_refusal=reading.no_refusal,
            kinds=kinds[name],
            undecided=counts[name],
            corrected=_corrected(groups[name], calibration, confidence),
        )
        for name, reading in both.items()
    }


def _corrected(rows: Sequence[Row], calibration: Calibration | None, confidence: float) -> Estimate | None:
    """Return the corrected rate; None for attacks that choose among tries: the errors are those of one response."""
    if calibration is None or any(not CHOSEN.isdisjoint(row) for row in rows):
        return None
    return corrected(rows, [row["unsafe"] for row in rows], calibration, confidence=confidence)


def changes(before: Sequence[Row], after: Sequence[Row], *, confidence: float = 0.95) -> dict[str, RateChange]:
    """Return what changed between two folders' verdicts by one judge, on the attacks and prompts they share.

    Each attack's success, and over-refusal, with an exact p-value and Holm's correction for having looked at all of
    them: McNemar's, or, where prompts share clusters, that of the clusters' signs; "clusters" counts these, and is None
    for McNemar's. Negative is safer for success and more helpful for over-refusal.

    Raises ValueError for two judges, and where nothing is shared.
    """
    if (before[0]["judge"], before[0]["judge_sha256"]) != (after[0]["judge"], after[0]["judge_sha256"]):
        raise ValueError(f"got verdicts of {before[0]['judge']} and {after[0]['judge']}; compare by one judge")
    tests = {}
    for name, pairs in _shared(per_prompt(before), per_prompt(after)).items():
        decided = [pair for pair in pairs if None not in pair[:2]]
        if decided:
            tests[name] = _tested(decided, confidence)
    if not tests:
        raise ValueError("the two folders share no prompt that is decided in both; attack both with the same prompts")
    corrected = holm([tested.p_value for tested, _ in tests.values()])
    return {
        name: RateChange(change=tested.estimate, p_value=tested.p_value, p_holm=p, clusters=clusters)
        for (name, (tested, clusters)), p in zip(tests.items(), corrected, strict=True)
    }


def protocol_judges(protocol: Protocol, judge: Judge) -> dict[str, Judge]:
    """Return who judges each stage of a protocol: the published string judges, and `judge` at the end."""
    return {stage.judge: find_judge(stage.judge) for stage in protocol.stages[:-1]} | {protocol.stages[-1].judge: judge}


def _under_protocol(responses: AttackResponses, judge: Judge, rows: Sequence[Row]) -> ProtocolRates | None:
    """Return the numbers by the folder's protocol under its label; None where it has no protocol."""
    if responses.protocol is None:
        return None
    label = labelled(responses.protocol, protocol_judges(responses.protocol, judge))
    return ProtocolRates(protocol=label, attacks=numbers(responses.protocol, rows))


def _tested(pairs: Sequence[Pair], confidence: float) -> tuple[Tested, int | None]:
    """Return the test of decided pairs, and how many clusters it rests on, None where no two pairs share one.

    Where tries are undecided, the interval reaches as far as if they had succeeded, before or after, and the p-value is
    the largest of such changes.
    """
    clusters = clusters_of([pair.row for pair in pairs])
    count = len(set(clusters)) if len(set(clusters)) < len(clusters) else None

    def tested(before: Sequence[bool | None], after: Sequence[bool | None]) -> Tested:
        if count is None:
            return paired_difference(before, after, confidence=confidence)
        return clustered_difference(before, after, clusters, confidence=confidence)

    before, after = [pair.before for pair in pairs], [pair.after for pair in pairs]
    observed = tested(before, after)
    if not any(pair.open_before or pair.open_after for pair in pairs):
        return observed, count
    least = tested([pair.before or pair.open_before for pair in pairs], after)
    most = tested(before, [pair.after or pair.open_after for pair in pairs])
    ends = least.estimate.value or 0.0, most.estimate.value or 0.0
    p_value = 1.0 if ends[0] <= 0 <= ends[1] else max(test.p_value for test in (observed, least, most))
    return Tested(observed.estimate._replace(low=least.estimate.low, high=most.estimate.high), p_value), count


def _shared(before: Sequence[Row], after: Sequence[Row]) -> Mapping[str, list[Pair]]:
    """Return the pairs of outcomes on what both hold: success by attack, and refusal of benign prompts."""
    earlier = {(row["attack"], row["id"]): row for row in before}
    pairs: dict[str, list[Pair]] = {}
    for row in after:
        match = earlier.get((row["attack"], row["id"]))
        if match is None or match["prompt"] != row["prompt"] or match["harmful"] != row["harmful"]:
            continue
        if row["harmful"]:
            opened = [judged["unsafe"] is False and bool(judged.get("undecided_tries")) for judged in (match, row)]
            pairs.setdefault(row["attack"], []).append(Pair(match["unsafe"], row["unsafe"], row, *opened))
        elif row["attack"] == "direct":
            pairs.setdefault("over-refusal", []).append(Pair(match["refused"], row["refused"], row))
    return pairs
