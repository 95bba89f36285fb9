"""Verdicts and rates for other tools: CSV, a model card, an inspect_ai log."""

from __future__ import annotations

from pathlib import Path

from divalign.safety.export import model_card, to_csv
from divalign.safety.inspect_log import write_eval
from divalign.stages.judge import Judged
from divalign.store import write_bytes


def export(
    judged: Judged, csv: Path | None, card: Path | None, inspect_log: Path | None, *, show_completions: bool = False
) -> None:
    """Write the files that are named. A model card reports the first judge; CSV and log hold every judge."""
    if csv is not None:
        rows = [row for table in judged.verdicts for row in table]
        write_bytes(csv, to_csv(rows, show_completions=show_completions).encode())
    if card is not None:
        mark = judged.verdicts[0][0]["judge"], judged.verdicts[0][0]["judge_sha256"]
        rates = next(entry for entry in judged.rates.judges if (entry.judge, entry.judge_sha256) == mark)
        part = next(iter(rates.parts.values()))
        numbers = {f"asr/{name}": row.asr for name, row in part.attacks.items()}
        sides = {"over_refusal": part.over_refusal, "selectivity": part.selectivity}
        numbers |= {name: value for name, value in sides.items() if value is not None}
        text = model_card(judged.rates.target, dataset="prompts of this run", judge=rates.judge, numbers=numbers)
        write_bytes(card, text.encode())
    if inspect_log is not None:
        write_eval(inspect_log, judged.verdicts, model=judged.rates.target, show_completions=show_completions)
