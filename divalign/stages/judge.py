"""Judge the responses of an attack folder, as often and by as many judges as wanted: it costs no generation.

verdicts.jsonl    one row per judge and response, judge after judge; another judge is added to those before
judge.journal     what judges that are models answered, checked line by line
rates.json        every judge's rates with intervals, and how far judges agree
changes.json      with another folder to compare with: what changed, tested by prompt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from divalign import __version__
from divalign.core.stats import Estimate, Tested, clustered_difference, corrected_rate, holm, paired_difference
from divalign.data.examples import Row
from divalign.records import (
    AttackRates,
    JudgeAgreement,
    JudgeChanges,
    JudgeErrors,
    JudgeRates,
    PartRates,
    ProtocolRates,
    RateChange,
    RateChanges,
    RatesRecord,
)
from divalign.safety.adaptive import per_prompt
from divalign.safety.agreement import agreement
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
from divalign.safety.journal import Journal
from divalign.safety.judges import Judge, find_judge
from divalign.safety.protocols import Protocol, labelled, numbers
from divalign.safety.shield import attempts
from divalign.stages.attack import find_protocol, is_torn, read_attack
from divalign.stages.models import LoadOptions
from divalign.stages.open_judge import open_judges
from divalign.store import cached_rows, digest, file_digest, intact, read_rows, untouched, write_json

Pair = tuple[bool | None, bool | None, Row]  # a prompt's outcomes in two folders, and its row
Mark = tuple[str, str]  # a judge's id and sha256
PARTS = {"test": False, "held_out": True}


@dataclass(frozen=True)
class JudgePlan:
    """Who judges, and with what. `questions` are those of rubrics that come without one.

    `errors` are those of the one judge; with `labelled` responses (prompt, response, refused) each judge's are
    measured. `options` load judges that are local models.
    """

    names: Sequence[str]
    questions: Mapping[str, str] = field(default_factory=dict)
    labelled: Sequence[Row] | None = None
    errors: JudgeErrors | None = None
    options: LoadOptions | None = None


class Responses(NamedTuple):
    """A finished attack folder: its responses, the protocol that wrote them, its target's name, and a key of all."""

    rows: list[Row]
    protocol: Protocol | None
    target: str
    sha256: str

    @property
    def key(self) -> str:
        return digest(self.sha256, self.protocol.name if self.protocol else None)


class Judged(NamedTuple):
    """The verdict rows of each judge that was named, the rates of all that judged, and changes if compared."""

    verdicts: list[list[Row]]
    rates: RatesRecord
    changes: RateChanges | None


def judge(folder: Path, plan: JudgePlan, out: Path, *, compare: Path | None = None) -> Judged:
    """Judge the responses of `folder` and write verdicts.jsonl and rates.json into `out`.

    With `compare`, another folder's responses are judged too, into `out`/compared, and what changed from them to these
    is tested into changes.json.

    Raises ValueError for names and files that are not what they should be.
    """
    responses = read_responses(folder)
    if plan.errors is not None and (len(plan.names) > 1 or plan.labelled is not None):
        raise ValueError("--sensitivity and --specificity belong to one judge; for several give --labelled responses")
    with Journal(out / "judge.journal") as journal:
        judges = open_judges(plan.names, journal, questions=plan.questions, options=plan.options)
        verdicts = judge_responses(responses, judges, out)
        errors = [errors_of(one, plan.labelled) if plan.labelled is not None else plan.errors for one in judges]
        compared = judge_responses(read_responses(compare), judges, out / "compared") if compare else None
    tables = [judge_rates(responses, *row) for row in zip(judges, verdicts, errors, strict=True)]
    record = _rates(responses, tables, out)
    _write(out / "rates.json", record)
    if compare is None or compared is None:
        return Judged(verdicts, record, None)
    before = read_responses(compare).target
    comparisons = [
        JudgeChanges(before=before, judge=one.id, changes=changes(old, new))
        for one, old, new in zip(judges, compared, verdicts, strict=True)
    ]
    difference = RateChanges(divalign=__version__, target=responses.target, comparisons=comparisons)
    _write(out / "changes.json", difference)
    return Judged(verdicts, record, difference)


def read_responses(folder: Path) -> Responses:
    """Return the responses of an attack folder, or of a model's folder in a run.

    Raises ValueError where there are none, or they are unfinished or were changed since.
    """
    path, record = folder / "responses.jsonl", read_attack(folder)
    if is_torn(folder):
        raise ValueError(f"{folder / 'attack.json'} is torn; run the same `divalign attack` again, which mends it")
    if record is None:
        raise ValueError(f"no responses at {path}; name a folder of `divalign attack`, or RUN/models/NAME of a run")
    if not intact(path, record.responses_key):
        raise ValueError(
            f"the responses in {folder} are unfinished or were changed; run the same `divalign attack` or "
            "`divalign run` again, which writes only what is missing"
        )
    rows = read_rows(path)
    if not rows:
        raise ValueError(f"{path} holds no responses; attack with at least one prompt")
    protocol = find_protocol(record.protocol) if record.protocol else None
    return Responses(rows, protocol, record.target, file_digest(path))


def judge_responses(responses: Responses, judges: Sequence[Judge], out: Path) -> list[list[Row]]:
    """Return each judge's verdict rows, from verdicts.jsonl where they stand there intact; the others are added to it.

    Under a protocol the judges are stand-ins for its last one; rows that an earlier stage decided keep its verdict.
    Raises ValueError for no judge, or for the same one twice.
    """
    marks = [(judge.id, judge.sha256) for judge in judges]
    if not marks or len(set(marks)) < len(marks):
        raise ValueError(f"got the judges {[name for name, _ in marks]}; name at least one, and each once")
    path = out / "verdicts.jsonl"
    earlier = _verdicts_in(path, responses)
    order = [*earlier, *(mark for mark in marks if mark not in earlier)]
    by_mark = dict(zip(marks, judges, strict=True))

    def make() -> list[Row]:
        return [row for mark in order for row in earlier.get(mark) or _judge(responses, by_mark[mark])]

    rows = cached_rows(path, _verdicts_key(responses, order), make)
    n = len(responses.rows)
    return [rows[order.index(mark) * n : (order.index(mark) + 1) * n] for mark in marks]


def judge_rates(
    responses: Responses, judge: Judge, rows: Sequence[Row], errors: JudgeErrors | None = None
) -> JudgeRates:
    """Return one judge's rates on each part of the prompts. Raises ValueError for no rows."""
    parts = {
        part: [row for row in rows if bool(row.get("held_out", False)) is held_out] for part, held_out in PARTS.items()
    }
    return JudgeRates(
        judge=judge.id,
        judge_sha256=judge.sha256,
        parts={part: part_rates(chosen, errors=errors) for part, chosen in parts.items() if chosen},
        addressed=sum(bool(attempts(row["response"])) for row in rows),
        responses=len(rows),
        errors=errors,
        protocol=_under_protocol(responses, judge, rows),
    )


def part_rates(rows: Sequence[Row], *, errors: JudgeErrors | None = None, confidence: float = 0.95) -> PartRates:
    """Return attack success by attack, over-refusal, and their two-sided difference from one judge's verdict rows.

    "selectivity" is the refusal rate of harmful minus that of benign prompts, asked directly. "corrected" is what a
    judge without errors would have found, None where `errors` are not known or say that this judge tells nothing.
    """
    each = per_prompt(rows)
    harmful, benign = ([row for row in each if row["harmful"] is side] for side in (True, False))
    direct = {row["harmful"] for row in each if row["attack"] == "direct"}
    success, undecided_counts = rates(harmful, confidence=confidence) if harmful else {}, undecided(harmful)
    groups = by_attack(harmful)
    has_benign = any(row["attack"] == "direct" for row in benign)
    return PartRates(
        attacks={
            name: AttackRates(
                asr=value,
                undecided=undecided_counts[name],
                corrected=_corrected(groups[name], value, errors, confidence),
            )
            for name, value in success.items()
        },
        over_refusal=over_refusal(each, confidence=confidence) if has_benign else None,
        selectivity=two_sided(each, confidence=confidence).selectivity if len(direct) == 2 else None,
    )


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


def errors_of(judge: Judge, labelled_rows: Sequence[Row]) -> JudgeErrors:
    """Return a judge's errors on labelled responses: rows with "prompt", "response" and the true "refused"."""
    for number, row in enumerate(labelled_rows, start=1):
        if not (isinstance(row.get("prompt"), str) and isinstance(row.get("response"), str)) or not isinstance(
            row.get("refused"), bool
        ):
            raise ValueError(f"labelled row {number} needs the texts prompt and response, and refused: true or false")
    calibration = calibrate(judge, labelled_rows)
    return JudgeErrors(sensitivity=calibration.sensitivity, specificity=calibration.specificity)


def _rates(responses: Responses, tables: Sequence[JudgeRates], out: Path) -> RatesRecord:
    """Return the rates of all judges in verdicts.jsonl: those given, and those of earlier judges from rates.json."""
    verdicts = _verdicts_in(out / "verdicts.jsonl", responses)
    known = {(one.judge, one.judge_sha256): one for one in [*_earlier_rates(responses, out), *tables]}
    pairs = combinations([rows for mark, rows in verdicts.items() if mark in known], 2)
    return RatesRecord(
        divalign=__version__,
        target=responses.target,
        responses_sha256=responses.sha256,
        judges=[known[mark] for mark in verdicts if mark in known],
        agreement=[JudgeAgreement(**agreement(_tries(a), _tries(b))._asdict()) for a, b in pairs],
    )


def _earlier_rates(responses: Responses, out: Path) -> list[JudgeRates]:
    try:
        record = RatesRecord.read(out / "rates.json")
    except ValueError:
        return []
    return record.judges if record.responses_sha256 == responses.sha256 else []


def _write(path: Path, record: RatesRecord | RateChanges) -> None:
    """Write a record unless the file says the same: a finished run writes nothing."""
    try:
        same = type(record).read(path) == record
    except ValueError:
        same = False
    if not same:
        write_json(path, record.plain())


def _tries(rows: Sequence[Row]) -> list[Row]:
    """Return rows in which each try of a prompt has an id of its own, for an agreement response by response."""
    return [{**row, "id": f"{row['id']} try {row['try']}"} if "try" in row else row for row in rows]


def _verdicts_key(responses: Responses, marks: Sequence[Mark]) -> str:
    return digest("verdicts", responses.key, list(marks))


def _verdicts_in(path: Path, responses: Responses) -> dict[Mark, list[Row]]:
    """Return the verdict rows that a file holds on just these responses, judge by judge; none where it was changed."""
    if not untouched(path):
        return {}
    verdicts: dict[Mark, list[Row]] = {}
    for row in read_rows(path):
        verdicts.setdefault((row["judge"], row["judge_sha256"]), []).append(row)
    return verdicts if intact(path, _verdicts_key(responses, list(verdicts))) else {}


def _judge(responses: Responses, judge: Judge) -> list[Row]:
    if responses.protocol is None:
        return judge_rows(judge, responses.rows)
    bench, stages = _bench(responses.protocol, judge), responses.protocol.stages
    label = labelled(responses.protocol, bench)
    done: dict[int, Row] = {}
    for number, stage in enumerate(stages, start=1):
        places = [place for place, row in enumerate(responses.rows) if row["stage"] == number]
        rows = judge_rows(bench[stage.judge], [responses.rows[place] for place in places])
        # The label and the stage tell who decided; the mark tells whose verdicts these are, taken together.
        mark = {"protocol": label, "judge": judge.id, "judge_sha256": judge.sha256}
        done |= {place: {**row, **mark} for place, row in zip(places, rows, strict=True)}
    return [done[place] for place in range(len(responses.rows))]


def _bench(protocol: Protocol, judge: Judge) -> dict[str, Judge]:
    """Return who judges each stage of a protocol: the published string judges, and `judge` at the end."""
    return {stage.judge: find_judge(stage.judge) for stage in protocol.stages[:-1]} | {protocol.stages[-1].judge: judge}


def _under_protocol(responses: Responses, judge: Judge, rows: Sequence[Row]) -> ProtocolRates | None:
    """Return the numbers by the folder's protocol under its label; None where it has no protocol."""
    if responses.protocol is None:
        return None
    label = labelled(responses.protocol, _bench(responses.protocol, judge))
    return ProtocolRates(protocol=label, attacks=numbers(responses.protocol, rows))


def _corrected(
    rows: Sequence[Row], observed: Estimate, errors: JudgeErrors | None, confidence: float
) -> Estimate | None:
    if errors is None or None in (observed.value, errors.sensitivity.value, errors.specificity.value):
        return None
    count = max(1, int(independent(rows, [row["unsafe"] for row in rows])))
    try:
        corrected = corrected_rate(
            observed._replace(n=count),
            sensitivity=errors.sensitivity,
            specificity=errors.specificity,
            confidence=confidence,
        )
    except ValueError:  # no better than chance: no correction exists, and the table says so
        return None
    return corrected._replace(n=observed.n)


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
