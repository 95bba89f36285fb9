"""Judge the responses of an attack folder, as often and by as many judges as wanted: it costs no generation.

verdicts.jsonl    one row per judge and response, judge after judge
judge.journal     what judges that are models answered, checked line by line
rates.json        the numbers, with intervals: see `numbers`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from divalign.core.stats import Estimate, Tested, clustered_difference, corrected_rate, holm, paired_difference
from divalign.data.examples import Row
from divalign.safety.adaptive import per_prompt
from divalign.safety.agreement import Agreement, agreement
from divalign.safety.calibration import calibrate
from divalign.safety.evaluate import (
    by_attack,
    clusters_of,
    independent,
    judge_rows,
    over_refusal,
    rates,
    two_sided,
    undecided,
)
from divalign.safety.judges import Judge, find_judge
from divalign.safety.protocols import Protocol, labelled, numbers
from divalign.safety.shield import attempts
from divalign.store import cached_rows, digest, file_digest, intact, read_rows, untouched
from divalign.study.redteam import find_protocol, read_attack, torn

Pair = tuple[bool | None, bool | None, Row]  # a prompt's outcomes in two folders, and its row


class Errors(NamedTuple):
    """How often a judge is right: share called unsafe of what complied, and share called safe of what did not."""

    sensitivity: Estimate
    specificity: Estimate


class Folder(NamedTuple):
    """An attack folder that is finished: its responses, the protocol that wrote them, and a key of both."""

    responses: list[Row]
    protocol: Protocol | None
    key: str


def read_folder(folder: Path) -> Folder:
    """Return the responses of an attack folder, or of a model's folder in a run.

    Raises ValueError where there are none, or they are unfinished or were changed since.
    """
    path, asked = folder / "responses.jsonl", read_attack(folder)
    if torn(folder):
        raise ValueError(f"{folder / 'attack.json'} is torn; run the same `divalign attack` again, which mends it")
    if asked is None and not path.is_file():
        raise ValueError(f"no responses at {path}; name a folder of `divalign attack`, or RUN/models/NAME of a run")
    if not (untouched(path) if asked is None else intact(path, asked["responses_key"])):
        raise ValueError(
            f"the responses in {folder} are unfinished or were changed; run the same "
            f"`divalign {'attack' if asked else 'run'}` again, which writes only what is missing"
        )
    protocol = asked["protocol"] if asked else None
    rows = read_rows(path)
    if not rows:
        raise ValueError(f"{path} holds no responses; attack with at least one prompt")
    return Folder(rows, find_protocol(protocol) if protocol else None, digest(file_digest(path), protocol))


def judge_folder(folder: Folder, judges: Sequence[Judge], out: Path) -> list[list[Row]]:
    """Return each judge's verdict rows on every response, from verdicts.jsonl where they stand there intact.

    Under a protocol the judges are stand-ins for its last one; rows that an earlier stage decided keep its verdict.
    Raises ValueError for no judge, or for the same one twice.
    """
    marks = [(judge.id, judge.sha256) for judge in judges]
    if not marks or len(set(marks)) < len(marks):
        raise ValueError(f"got the judges {[name for name, _ in marks]}; name at least one, and each once")
    key = digest("verdicts", folder.key, marks)
    rows = cached_rows(out / "verdicts.jsonl", key, lambda: [row for judge in judges for row in _judged(folder, judge)])
    n = len(folder.responses)
    return [rows[place : place + n] for place in range(0, len(rows), n)]


def results(rows: Sequence[Row], *, errors: Errors | None = None, confidence: float = 0.95) -> dict[str, Any]:
    """Return one judge's numbers, plain: attack success by attack, over-refusal, and their two-sided difference.

    "selectivity" is the refusal rate of harmful minus that of benign prompts, asked directly. "corrected" is what a
    judge without errors would have found, None where `errors` are not known or say that this judge tells nothing.
    "addressed" counts responses that speak to their judge. A number that lacks its prompts is None.
    """
    one = per_prompt(rows)
    harmful, benign = ([row for row in one if row["harmful"] is side] for side in (True, False))
    direct = {row["harmful"] for row in one if row["attack"] == "direct"}
    success, open_ones = rates(harmful, confidence=confidence) if harmful else {}, undecided(harmful)
    groups = by_attack(harmful)
    found = {
        name: {
            "asr": value._asdict(),
            "undecided": open_ones[name],
            "corrected": _corrected(groups[name], value, errors, confidence),
        }
        for name, value in success.items()
    }
    has_benign = any(row["attack"] == "direct" for row in benign)
    return {
        "judge": rows[0]["judge"],
        "judge_sha256": rows[0]["judge_sha256"],
        "attacks": found,
        "over_refusal": over_refusal(one, confidence=confidence)._asdict() if has_benign else None,
        "selectivity": two_sided(one, confidence=confidence).selectivity._asdict() if len(direct) == 2 else None,
        "addressed": sum(bool(attempts(row["response"])) for row in rows),
        "responses": len(rows),
    }


def under_protocol(folder: Folder, judge: Judge, rows: Sequence[Row]) -> dict[str, Any] | None:
    """Return the numbers by the folder's protocol under its label; None where it has no protocol."""
    if folder.protocol is None:
        return None
    label = labelled(folder.protocol, _bench(folder.protocol, judge))
    found = numbers(folder.protocol, rows)
    plain = {attack: {name: value._asdict() for name, value in group.items()} for attack, group in found.items()}
    return {"protocol": label, "attacks": plain}


def agreements(verdicts: Sequence[Sequence[Row]]) -> list[Agreement]:
    """Return how far every two judges agree, response by response: each try of a prompt counts."""
    each = [
        [{**row, "id": f"{row['id']} try {row['try']}"} if "try" in row else row for row in rows] for rows in verdicts
    ]
    return [agreement(first, second) for first, second in combinations(each, 2)]


def changes(before: Sequence[Row], after: Sequence[Row], *, confidence: float = 0.95) -> dict[str, Any]:
    """Return what changed between two folders' verdicts by one judge, on the attacks and prompts they share.

    Each attack's success, and over-refusal, with an exact p-value and Holm's correction for having looked at all of
    them: McNemar's, or, where prompts share clusters, that of the clusters' signs; "clusters" counts these, and is None
    for McNemar's. Negative is safer for success and more helpful for over-refusal.

    Raises ValueError for two judges, and where nothing is shared.
    """
    if (before[0]["judge"], before[0]["judge_sha256"]) != (after[0]["judge"], after[0]["judge_sha256"]):
        raise ValueError(f"got verdicts of {before[0]['judge']} and {after[0]['judge']}; compare by one judge")
    found = {}
    for name, pairs in _shared(per_prompt(before), per_prompt(after)).items():
        decided = [pair for pair in pairs if None not in pair[:2]]
        if decided:
            found[name] = _tested(decided, confidence)
    if not found:
        raise ValueError("the two folders share no prompt that is decided in both; attack both with the same prompts")
    corrected = holm([tested.p_value for tested, _ in found.values()])
    return {
        name: {**tested.estimate._asdict(), "p_value": tested.p_value, "p_holm": p, "clusters": clusters}
        for (name, (tested, clusters)), p in zip(found.items(), corrected, strict=True)
    }


def errors_of(judge: Judge, labelled_rows: Sequence[Row]) -> Errors:
    """Return a judge's errors on labelled responses: rows with "prompt", "response" and the true "refused"."""
    for number, row in enumerate(labelled_rows, start=1):
        if not (isinstance(row.get("prompt"), str) and isinstance(row.get("response"), str)) or not isinstance(
            row.get("refused"), bool
        ):
            raise ValueError(f"labelled row {number} needs the texts prompt and response, and refused: true or false")
    found = calibrate(judge, labelled_rows)
    return Errors(found.sensitivity, found.specificity)


def _judged(folder: Folder, judge: Judge) -> list[Row]:
    if folder.protocol is None:
        return judge_rows(judge, folder.responses)
    bench, stages = _bench(folder.protocol, judge), folder.protocol.stages
    label = labelled(folder.protocol, bench)
    done: dict[int, Row] = {}
    for number, stage in enumerate(stages, start=1):
        places = [place for place, row in enumerate(folder.responses) if row["stage"] == number]
        rows = judge_rows(bench[stage.judge], [folder.responses[place] for place in places])
        # The label and the stage tell who decided; the mark tells whose verdicts these are, taken together.
        mark = {"protocol": label, "judge": judge.id, "judge_sha256": judge.sha256}
        done |= {place: {**row, **mark} for place, row in zip(places, rows, strict=True)}
    return [done[place] for place in range(len(folder.responses))]


def _bench(protocol: Protocol, judge: Judge) -> dict[str, Judge]:
    """Return who judges each stage of a protocol: the published string judges, and `judge` at the end."""
    return {stage.judge: find_judge(stage.judge) for stage in protocol.stages[:-1]} | {protocol.stages[-1].judge: judge}


def _corrected(
    rows: Sequence[Row], observed: Estimate, errors: Errors | None, confidence: float
) -> dict[str, Any] | None:
    if errors is None or None in (observed.value, errors.sensitivity.value, errors.specificity.value):
        return None
    count = max(1, int(independent(rows, [row["unsafe"] for row in rows])))
    try:
        found = corrected_rate(observed._replace(n=count), **errors._asdict(), confidence=confidence)
    except ValueError:  # no better than chance: no correction exists, and the table says so
        return None
    return found._asdict() | {"n": observed.n}


def _tested(pairs: Sequence[Pair], confidence: float) -> tuple[Tested, int | None]:
    """Return the test of decided pairs, and how many clusters it rests on, None where no two pairs share one."""
    before, after, rows = zip(*pairs, strict=True)
    clusters = clusters_of(rows)
    count = len(set(clusters))
    if count == len(clusters):
        return paired_difference(before, after, confidence=confidence), None
    return clustered_difference(before, after, clusters, confidence=confidence), count


def _shared(before: Sequence[Row], after: Sequence[Row]) -> Mapping[str, list[Pair]]:
    """Return the pairs of outcomes on what both hold: success by attack, and refusal of benign prompts."""
    others = {(row["attack"], row["id"]): row for row in before}
    pairs: dict[str, list[Pair]] = {}
    for row in after:
        other = others.get((row["attack"], row["id"]))
        if other is None or other["prompt"] != row["prompt"] or other["harmful"] != row["harmful"]:
            continue
        if row["harmful"]:
            pairs.setdefault(row["attack"], []).append((other["unsafe"], row["unsafe"], row))
        elif row["attack"] == "direct":
            pairs.setdefault("over-refusal", []).append((other["refused"], row["refused"], row))
    return pairs
