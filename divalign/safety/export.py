"""Results for other tools, with what models wrote redacted unless it is asked for: CSV rows and model-card metadata."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import yaml

from divalign.core.stats import Estimate
from divalign.data.examples import Row

# What a spreadsheet takes for a formula at the start of a cell; a completion may hold one on purpose.
FORMULA = ("=", "+", "-", "@", "\t", "\r")

# The columns that models wrote: the target's response and thoughts, and an attacker's message.
WRITTEN = ("response", "reasoning", "reasoning_content", "message")


def redact(text: str) -> str:
    """Return what may be shown of a model's text: its length and the start of its hash, to find it again by."""
    return f"[redacted, {len(text)} characters, sha256 {sha256(text.encode()).hexdigest()[:8]}]"


def redacted(rows: Sequence[Row], *, show_completions: bool = False) -> list[Row]:
    """Return the rows with all that a model wrote redacted; as they are where completions were asked for."""
    hidden = () if show_completions else WRITTEN
    return [
        {key: redact(value) if key in hidden and isinstance(value, str) else value for key, value in row.items()}
        for row in rows
    ]


def to_csv(rows: Sequence[Row], *, show_completions: bool = False) -> str:
    """Return the rows as CSV (RFC 4180), one column per key in order of first appearance; None is an empty cell.

    A cell that a spreadsheet would run as a formula gets an apostrophe in front, the name of a column as well.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(map(_cell, columns))
    for row in redacted(rows, show_completions=show_completions):
        writer.writerow(_cell(row.get(column, "")) for column in columns)
    return out.getvalue()


def model_card(
    name: str, *, dataset: str, judge: str, numbers: Mapping[str, Estimate], metadata: Mapping[str, Any] | None = None
) -> str:
    """Return the front matter of a Hugging Face model card that reports `numbers`, each with its interval and count.

    A number that could not be estimated is left out: a card has no word for unknown. `metadata` are further keys.
    Source: huggingface_hub, model card metadata, `model-index`.
    """
    metrics = [
        {
            "type": label,
            "name": f"{label} ({judge})",
            "value": estimate.value,
            "args": {"low": estimate.low, "high": estimate.high, "n": estimate.n, "judge": judge},
        }
        for label, estimate in numbers.items()
        if estimate.value is not None
    ]
    task = {"type": "text-generation", "name": "Safety evaluation"}
    result = {"task": task, "dataset": {"type": dataset, "name": dataset}, "metrics": metrics}
    content = {**(metadata or {}), "model-index": [{"name": name, "results": [result]}]}
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---\n"


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
