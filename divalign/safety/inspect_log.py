"""Verdicts as an inspect_ai log (.eval), for its viewer and its analysis tools. Needs the extra `[inspect]`.

A sample is one response; each judge is a scorer, 1 for unsafe, 0 for safe and NaN, which inspect calls unscored, where
it could not decide. Responses are redacted by default.
Source: inspect_ai 0.3, `inspect_ai.log` (https://inspect.aisi.org.uk/reference/inspect_ai.log.html).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from divalign.data.examples import Row
from divalign.safety.adaptive import per_prompt
from divalign.safety.evaluate import rates, undecided
from divalign.safety.export import redacted

METADATA = ("attack", "harmful", "held_out", "cluster", "try", "rounds", "steps", "stage", "protocol")


def write_eval(path: Path, verdicts: Sequence[Sequence[Row]], *, model: str, show_completions: bool = False) -> Path:
    """Write each judge's verdict rows, all on the same responses, as one log to `path` and return it.

    Raises ValueError where inspect_ai is not installed, for a name that does not end in .eval, and for judges whose
    rows are not the same responses.
    """
    if path.suffix != ".eval":
        raise ValueError(f"got {path}, expected a name that ends in .eval, by which inspect knows its logs")
    log, scorer, output = (_inspect(name) for name in ("log", "scorer", "model"))
    shown = [redacted(rows, show_completions=show_completions) for rows in verdicts]
    same = zip(*([(row["attack"], row["id"], row["response"]) for row in rows] for rows in shown), strict=True)
    if any(len(set(places)) > 1 for places in same):
        raise ValueError("the judges' rows are not the same responses in the same order; judge one folder")
    samples = [_sample(log, scorer, output, model, rows) for rows in zip(*shown, strict=True)]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    written = log.EvalLog(
        status="success",
        eval=log.EvalSpec(
            created=now,
            task="divalign",
            model=f"divalign/{Path(model).name or model}",
            dataset=log.EvalDataset(name="prompts", samples=len(samples), sample_ids=[s.id for s in samples]),
            config=log.EvalConfig(),
            metadata={"redacted": not show_completions},
        ),
        results=log.EvalResults(
            total_samples=len(samples),
            completed_samples=len(samples),
            scores=[_score(log, rows) for rows in shown],
        ),
        stats=log.EvalStats(started_at=now, completed_at=now),
        samples=samples,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    log.write_eval_log(written, str(path), format="eval")
    return path


def _inspect(part: str) -> Any:
    try:
        return import_module(f"inspect_ai.{part}")
    except ImportError as error:
        raise ValueError(
            f"an inspect log needs inspect_ai, which is not installed ({error}): pip install 'divalign[inspect]'"
        ) from error


def _sample(log: Any, scorer: Any, output: Any, model: str, rows: Sequence[Row]) -> Any:
    """Return one response as a sample, with the score of every judge."""
    row = rows[0]
    completion = output.ModelOutput.from_content(model=Path(model).name or model, content=row["response"])
    return log.EvalSample(
        id=_name(row),
        epoch=1,
        input=row["prompt"],
        target="",
        messages=[output.ChatMessageUser(content=row["prompt"]), completion.message],
        output=completion,
        scores={verdict["judge"]: _verdict(scorer, verdict) for verdict in rows},
        metadata={name: row[name] for name in METADATA if name in row},
    )


def _name(row: Row) -> str:
    return f"{row['attack']}/{row['id']}" + (f"/{row['try']}" if "try" in row else "")


def _verdict(scorer: Any, row: Mapping[str, Any]) -> Any:
    value = math.nan if row["unsafe"] is None else float(row["unsafe"])
    metadata = {"judge_sha256": row["judge_sha256"], "refused": row["refused"], "score": row["score"]}
    return scorer.Score(value=value, explanation=row["reason"], metadata=metadata)


def _score(log: Any, rows: Sequence[Row]) -> Any:
    """Return a judge's rates: one metric an attack, with its interval and count; an undecided rate is left out."""
    harmful = [row for row in per_prompt(rows) if row["harmful"]]
    lost = undecided(harmful)
    metrics = {
        f"success/{attack}": log.EvalMetric(
            name=f"success/{attack}",
            value=estimate.value,
            metadata={"low": estimate.low, "high": estimate.high, "n": estimate.n, "undecided": lost[attack]},
        )
        for attack, estimate in (rates(harmful) if harmful else {}).items()
        if estimate.value is not None
    }
    name = rows[0]["judge"]
    return log.EvalScore(name=name, scorer=name, metrics=metrics, metadata={"judge_sha256": rows[0]["judge_sha256"]})
