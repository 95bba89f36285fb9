"""Judge the responses of an attack folder, by any judges and any number of times; nothing is generated.

verdicts.jsonl    one row per judge and response, judge after judge; another judge is added to those before, and of a
                  judge's versions the one that judged last stands last
judge.journal     responses of model-based judges, one checksummed line each
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
from divalign.data.examples import Row
from divalign.limits import refuse_links
from divalign.records import (
    JudgeAgreement,
    JudgeChanges,
    JudgeErrors,
    JudgeRates,
    RateChanges,
    RatesRecord,
    WordingSpread,
    publish_record,
    read_record,
)
from divalign.safety.agreement import agreement
from divalign.safety.evaluate import judge_rows
from divalign.safety.journal import Journal
from divalign.safety.judges import Judge
from divalign.safety.protocols import labelled
from divalign.stages.attack import find_protocol, is_torn, read_attack
from divalign.stages.folder import locked
from divalign.stages.models import LoadOptions
from divalign.stages.open_judge import open_judges
from divalign.stages.rates import (
    AttackResponses,
    calibration_of,
    changes,
    judge_rates,
    protocol_judges,
    wording_spreads,
)
from divalign.store import cached_rows, digest, file_digest, intact, read_rows, untouched

Mark = tuple[str, str]  # a judge's id and sha256


@dataclass(frozen=True)
class JudgePlan:
    """Who judges, and with what. `questions` are those of rubrics that come without one.

    `errors` are those of the one judge; with `labelled` responses (prompt, response, refused) each judge's are
    measured. `options` load judges that are local models. `wordings` is in how many wordings, each in both orders, a
    rubric is put beside its own: the spread of its rates stands beside them.
    """

    names: Sequence[str]
    questions: Mapping[str, str] = field(default_factory=dict)
    labelled: Sequence[Row] | None = None
    errors: JudgeErrors | None = None
    options: LoadOptions | None = None
    wordings: int | None = None


class Judged(NamedTuple):
    """The verdict rows of each judge that was named, the rates of all that judged, and changes if compared."""

    verdicts: list[list[Row]]
    rates: RatesRecord
    changes: RateChanges | None


def judge(folder: Path, plan: JudgePlan, out: Path, *, compare: Path | None = None) -> Judged:
    """Judge the responses of `folder` and write verdicts.jsonl and rates.json into `out`.

    With `compare`, another folder's responses are judged too, into `out`/compared, and what changed from them to these
    is tested into changes.json.

    Raises ValueError for names and files that are not what they should be, where the two folders were attacked
    differently, and where another process works in `out`.
    """
    responses = read_responses(folder)
    if plan.errors is not None and (len(plan.names) > 1 or plan.labelled is not None):
        raise ValueError("--sensitivity and --specificity belong to one judge; for several give --labelled responses")
    if compare is not None:
        _check_alike(compare, folder)
    with locked(out):
        return _judge_into(out, responses, plan, compare)


def _check_alike(before: Path, after: Path) -> None:
    """Raise ValueError where two folders were attacked differently: a change would be the attack's, not the model's."""
    earlier, later = read_attack(before), read_attack(after)
    if earlier is None or later is None:
        return  # read_responses says so
    differences = [
        f"{name} ({getattr(earlier, name)}, {getattr(later, name)})"
        for name in ("protocol", "max_new_tokens")
        if getattr(earlier, name) != getattr(later, name)
    ]
    contents = earlier.contents or {}, later.contents or {}
    differences += [
        f"the attack {name!r} (its text, options, attacker or stop judge)"
        for name, content in contents[0].items()
        if contents[1].get(name, content) != content
    ]
    if differences:
        raise ValueError(
            f"{before} and {after} differ in {', '.join(differences)}, so that no change between them is the model's; "
            "attack both alike"
        )


def _judge_into(out: Path, responses: AttackResponses, plan: JudgePlan, compare: Path | None) -> Judged:
    with Journal(out / "judge.journal") as journal:
        opened = open_judges(plan.names, journal, questions=plan.questions, options=plan.options, count=plan.wordings)
        judges = [entry.judge for entry in opened]
        verdicts = judge_responses(responses, judges, out)
        calibrations = [calibration_of(entry, plan.labelled, plan.errors) for entry in judges]
        spreads = [_spreads(responses, entry.wordings) for entry in opened]
        compared = judge_responses(read_responses(compare), judges, out / "compared") if compare else None
    tables = [
        judge_rates(responses, entry, rows, calibration).model_copy(update={"wordings": wordings})
        for entry, rows, calibration, wordings in zip(judges, verdicts, calibrations, spreads, strict=True)
    ]
    record = _rates(responses, tables, out)
    publish_record(out / "rates.json", record)
    if compare is None or compared is None:
        return Judged(verdicts, record, None)
    before = read_responses(compare).target
    comparisons = [
        JudgeChanges(before=before, judge=entry.id, changes=changes(old, new))
        for entry, old, new in zip(judges, compared, verdicts, strict=True)
    ]
    difference = RateChanges(divalign=__version__, target=responses.target, comparisons=comparisons)
    publish_record(out / "changes.json", difference)
    return Judged(verdicts, record, difference)


def read_responses(folder: Path) -> AttackResponses:
    """Return the responses of an attack folder, or of a model's folder in a run.

    Raises ValueError where there are none, or they are unfinished or were changed since.
    """
    refuse_links(folder)
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
    return AttackResponses(rows, protocol, record.target, file_digest(path))


def judge_responses(responses: AttackResponses, judges: Sequence[Judge], out: Path) -> list[list[Row]]:
    """Return each judge's verdict rows, from verdicts.jsonl where they stand there intact; the others are added to it.

    Under a protocol the judges are stand-ins for its last one; rows that an earlier stage decided keep its verdict.
    Raises ValueError for no judge, or for the same one twice.
    """
    marks = [(judge.id, judge.sha256) for judge in judges]
    if not marks or len(set(marks)) < len(marks):
        raise ValueError(f"got the judges {[name for name, _ in marks]}; name at least one, and each once")
    path = out / "verdicts.jsonl"
    earlier = _verdicts_in(path, responses)
    order = _with_last([*earlier, *(mark for mark in marks if mark not in earlier)], marks)
    by_mark = dict(zip(marks, judges, strict=True))

    def make() -> list[Row]:
        return [row for mark in order for row in earlier.get(mark) or _judge(responses, by_mark[mark])]

    rows = cached_rows(path, _verdicts_key(responses, order), make)
    n = len(responses.rows)
    return [rows[order.index(mark) * n : (order.index(mark) + 1) * n] for mark in marks]


def _with_last(order: Sequence[Mark], marks: Sequence[Mark]) -> list[Mark]:
    """Return the judges with these as the last versions of theirs (`records.current_verdicts`), in the same places."""
    order = list(order)
    for mark in marks:
        places = [place for place, (judge, _) in enumerate(order) if judge == mark[0]]
        versions = [*(order[place] for place in places if order[place] != mark), mark]
        for place, version in zip(places, versions, strict=True):
            order[place] = version
    return order


def _rates(responses: AttackResponses, tables: Sequence[JudgeRates], out: Path) -> RatesRecord:
    """Return the rates of all judges in verdicts.jsonl: those given, and those of earlier judges from rates.json."""
    verdicts = _verdicts_in(out / "verdicts.jsonl", responses)
    earlier = {(entry.judge, entry.judge_sha256): entry for entry in _earlier_rates(responses, out)}
    by_mark = {**earlier, **{(entry.judge, entry.judge_sha256): entry for entry in tables}}
    for mark, entry in by_mark.items():
        if entry.wordings is None and mark in earlier:  # a spread is no other where it is not measured again
            by_mark[mark] = entry.model_copy(update={"wordings": earlier[mark].wordings})
    pairs = combinations([rows for mark, rows in verdicts.items() if mark in by_mark], 2)
    return RatesRecord(
        divalign=__version__,
        target=responses.target,
        responses_sha256=responses.sha256,
        judges=[by_mark[mark] for mark in verdicts if mark in by_mark],
        agreement=[JudgeAgreement(**agreement(_tries(a), _tries(b))._asdict()) for a, b in pairs],
    )


def _spreads(responses: AttackResponses, judges: Sequence[Judge]) -> dict[str, dict[str, WordingSpread]] | None:
    """Return the spread over wordings, None where there are none. Their answers are in the journal alone."""
    return wording_spreads({judge.id: _judge(responses, judge) for judge in judges}) if judges else None


def _earlier_rates(responses: AttackResponses, out: Path) -> list[JudgeRates]:
    try:
        record = read_record(out / "rates.json", RatesRecord)
    except ValueError:
        return []
    return record.judges if record.responses_sha256 == responses.sha256 else []


def _tries(rows: Sequence[Row]) -> list[Row]:
    """Return rows in which each try of a prompt has an id of its own, for an agreement response by response."""
    return [{**row, "id": f"{row['id']} try {row['try']}"} if "try" in row else row for row in rows]


def _verdicts_key(responses: AttackResponses, marks: Sequence[Mark]) -> str:
    return digest("verdicts", responses.key, list(marks))


def _verdicts_in(path: Path, responses: AttackResponses) -> dict[Mark, list[Row]]:
    """Return the verdict rows that a file holds on just these responses, judge by judge; none where it was changed."""
    if not untouched(path):
        return {}
    verdicts: dict[Mark, list[Row]] = {}
    for row in read_rows(path):
        verdicts.setdefault((row["judge"], row["judge_sha256"]), []).append(row)
    return verdicts if intact(path, _verdicts_key(responses, list(verdicts))) else {}


def _judge(responses: AttackResponses, judge: Judge) -> list[Row]:
    if responses.protocol is None:
        return judge_rows(judge, responses.rows)
    bench, stages = protocol_judges(responses.protocol, judge), responses.protocol.stages
    label = labelled(responses.protocol, bench)
    done: dict[int, Row] = {}
    for number, stage in enumerate(stages, start=1):
        places = [place for place, row in enumerate(responses.rows) if row["stage"] == number]
        rows = judge_rows(bench[stage.judge], [responses.rows[place] for place in places])
        # The label and the stage tell who decided; the mark tells whose verdicts these are, taken together.
        mark = {"protocol": label, "judge": judge.id, "judge_sha256": judge.sha256}
        done |= {place: {**row, **mark} for place, row in zip(places, rows, strict=True)}
    return [done[place] for place in range(len(responses.rows))]
