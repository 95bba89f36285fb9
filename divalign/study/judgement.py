"""What `divalign judge` does: sit the judges, count, compare, leave rates.json, and write for other tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from divalign import __version__
from divalign.core.stats import Estimate
from divalign.data.examples import Row
from divalign.safety.export import model_card, to_csv
from divalign.safety.inspect_log import write_eval
from divalign.safety.journal import Journal
from divalign.safety.judges import Judge
from divalign.store import write_bytes, write_json
from divalign.study.judging import (
    Errors,
    Folder,
    agreements,
    changes,
    errors_of,
    judge_folder,
    read_folder,
    results,
    under_protocol,
)
from divalign.study.redteam import read_attack
from divalign.study.sitting import sitting_judges
from divalign.study.writers import Loading

SCHEMA = 2  # of rates.json. 2: no by_cluster, as every interval knows of clusters; changes count theirs


class Judgement(NamedTuple):
    """Each judge's verdict rows, and the content of rates.json."""

    target: str
    verdicts: list[list[Row]]
    numbers: dict[str, Any]


def judge_all(
    path: Path,
    specs: Sequence[str],
    out: Path,
    *,
    compare: Path | None = None,
    questions: Mapping[str, str] | None = None,
    labelled: Sequence[Row] | None = None,
    errors: Errors | None = None,
    loading: Loading | None = None,
) -> Judgement:
    """Judge the folder at `path` by every judge of `specs`, write rates.json into `out`, and return both.

    `questions` are those of rubrics without one, see `sitting.parse_questions`. `errors` are those of the one judge;
    with `labelled` responses each judge's are measured. With `compare`, another folder's responses are judged too,
    beside the first's verdicts in `out`, and the two are tested against each other.

    Raises ValueError for names and files that are not what they should be, and for verdicts that would overwrite a
    run's own.
    """
    folder, asked = read_folder(path), read_attack(path)
    if asked is None and out.resolve() == path.resolve():
        raise ValueError(f"{path} belongs to a run, whose verdicts.jsonl stays as it is; give another folder as --out")
    if errors is not None and (len(specs) > 1 or labelled is not None):
        raise ValueError("--sensitivity and --specificity belong to one judge; for several give --labelled responses")
    with Journal(out / "judge.journal") as journal:
        judges = sitting_judges(specs, journal, questions=questions or {}, loading=loading)
        known = [errors_of(judge, labelled) if labelled is not None else errors for judge in judges]
        verdicts = judge_folder(folder, judges, out)
        tables = [_table(folder, *one) for one in zip(judges, verdicts, known, strict=True)]
        differences = _changes(compare, judges, verdicts, out) if compare else []
    found = {
        "schema": SCHEMA,
        "divalign": __version__,
        "target": asked["target"] if asked else path.name,
        "judges": tables,
        "agreement": [pair._asdict() | _plain(pair, "observed", "kappa") for pair in agreements(verdicts)],
        "changes": differences,
    }
    write_json(out / "rates.json", found)
    return Judgement(found["target"], verdicts, found)


def exported(
    found: Judgement,
    *,
    csv: Path | None = None,
    card: Path | None = None,
    inspect_log: Path | None = None,
    show_completions: bool = False,
) -> None:
    """Write the files that were asked for. A model card reports the first judge; CSV and log hold every judge."""
    if csv is not None:
        rows = [row for table in found.verdicts for row in table]
        write_bytes(csv, to_csv(rows, show_completions=show_completions).encode())
    if card is not None:
        first = found.numbers["judges"][0]
        numbers = {f"asr/{name}": Estimate(**row["asr"]) for name, row in first["attacks"].items()}
        sides = {name: Estimate(**first[name]) for name in ("over_refusal", "selectivity") if first[name]}
        text = model_card(found.target, dataset="prompts of this run", judge=first["judge"], numbers=numbers | sides)
        write_bytes(card, text.encode())
    if inspect_log is not None:
        write_eval(inspect_log, found.verdicts, model=found.target, show_completions=show_completions)


def _table(folder: Folder, judge: Judge, rows: Sequence[Row], errors: Errors | None) -> dict[str, Any]:
    plain = {name: value._asdict() for name, value in errors._asdict().items()} if errors else None
    return results(rows, errors=errors) | {"errors": plain, "protocol": under_protocol(folder, judge, rows)}


def _changes(path: Path, judges: Sequence[Judge], verdicts: Sequence[list[Row]], out: Path) -> list[dict[str, Any]]:
    """Judge the other folder by the same judges, into a folder of its own, and test each judge's verdicts in pairs."""
    asked = read_attack(path)
    others = judge_folder(read_folder(path), judges, out / "compared")
    return [
        {
            "from": asked["target"] if asked else path.name,
            "judge": judge.id,
            "changes": changes(before, after),
        }
        for judge, before, after in zip(judges, others, verdicts, strict=True)
    ]


def _plain(pair: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(pair, name)._asdict() for name in names}
