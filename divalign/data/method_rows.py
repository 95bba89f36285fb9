"""What some methods need of TRL's rows before they are tokenised: pairs sorted by safety, texts that name a class."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from divalign.core.method import Controls, Method
from divalign.data.columns import plain_content, truth
from divalign.data.examples import Row, as_messages
from divalign.data.rendering import refuse_empty
from divalign.data.sides import OF_SAFETY

logger = logging.getLogger(__name__)
SAFE = OF_SAFETY
OFFSET = "offset"  # column: nats of r by which a pair's margin counts less
SWAPPED = {"chosen": "rejected", "rejected": "chosen"}


def rows_for(method: Method, rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows as the method trains on them; as they are for most methods."""
    if method.safety_offset is not None:
        return safe_pairs(rows, float(method.safety_offset))
    return conditioned(rows, method.controls) if method.controls else rows


def refuse_unsafe_chosen(rows: Any, method: str) -> None:
    """Raise ValueError for a pair whose rejected response alone is safe, where `method` does not sort pairs by safety.

    `rows` may be any sequence of mappings, such as a `datasets.Dataset`; what it lacks is found where it is encoded.
    """
    first = next(iter(rows), None)
    if not (isinstance(first, Mapping) and all(name in first for name in SAFE)):
        return
    for number, row in enumerate(rows):
        if any(row.get(name) is None for name in SAFE):
            continue
        chosen, rejected = (truth(row[name], name) for name in SAFE)
        if rejected and not chosen:
            raise ValueError(
                f"row {number}: chosen_safe is false and rejected_safe true, so {method} would train towards the "
                "unsafe response; use safedpo, which exchanges such pairs, or drop both columns"
            )


def safe_pairs(rows: Iterable[Row], offset: float) -> list[Row]:
    """Return pairs whose chosen response is safe: kept, swapped if the rejected one alone is safe, left out if none is.

    Where the rejected one is then unsafe the column `offset` holds `offset`, else 0.
    Raises ValueError for a row without `chosen_safe` and `rejected_safe`, and where no pair is left.
    Source: SafeDPO, arXiv 2505.20065, the transformation T(D).
    """
    pairs = [_safe_first(row, number) for number, row in enumerate(rows)]
    usable = [row for row in pairs if row["chosen_safe"]]
    if not usable:
        raise ValueError(f"both responses are unsafe in all {len(pairs)} pairs, so none is left to train on")
    if len(usable) < len(pairs):
        logger.warning("%d of %d pairs left out: both responses are unsafe", len(pairs) - len(usable), len(pairs))
    return [{**row, OFFSET: 0.0 if row["rejected_safe"] else offset} for row in usable]


def _safe_first(row: Row, number: int) -> Row:
    """Return the row with its safe response chosen, if it has one."""
    if not {"chosen", "rejected", *SAFE} <= row.keys():
        lacking = ", ".join(sorted({"chosen", "rejected", *SAFE} - row.keys()))
        raise ValueError(
            f"row {number} lacks {lacking}; safedpo reads pairs and whether each response is safe (true or false): add "
            "the columns, or train on the recipe cr_safety"
        )
    chosen, rejected = (truth(row[name], name) for name in SAFE)
    if chosen or not rejected:
        return {**row, **dict(zip(SAFE, (chosen, rejected), strict=True))}
    swapped = {_other(name): value for name, value in row.items()}
    return {**swapped, "chosen_safe": True, "rejected_safe": False}


def _other(column: str) -> str:
    """Return the column of the other response: rejected for chosen, ref_rejected_logps for ref_chosen_logps."""
    for name, other in SWAPPED.items():
        if name in column.split("_"):
            return column.replace(name, other)
    return column


def conditioned(rows: Iterable[Row], controls: Controls) -> list[Row]:
    """Return a row of `prompt, completion, label` for every response.

    It opens with the text of its class, which is shown and not scored; what else its turn holds, such as tool calls,
    stays. Raises ValueError, with the row's number from 0, for a response that is empty without that text.
    """
    return [new for number, row in enumerate(rows) for new in _conditioned(row, number, controls)]


def _conditioned(row: Row, number: int, controls: Controls) -> list[Row]:
    if "completion" in row:
        return [_behind_control({**row, "label": truth(row["label"], "label")}, number, controls)]
    rest = {name: value for name, value in row.items() if not ({"chosen", "rejected"} & set(name.split("_")))}
    sides = (("chosen", True), ("rejected", False))
    return [
        _behind_control({**rest, "completion": row[side], "label": label}, number, controls) for side, label in sides
    ]


def _behind_control(row: Row, number: int, controls: Controls) -> Row:
    control, response = controls.aligned if row["label"] else controls.unaligned, row["completion"]
    try:
        refuse_empty(response)
    except ValueError as error:
        raise ValueError(f"row {number}: {error}") from error
    message = as_messages(response, "assistant")[-1]
    text = control + plain_content(message["content"])
    completion: Any = text if isinstance(response, str) else [{**message, "content": text}]
    return {**row, "completion": completion, "prefill": control + (row.get("prefill") or "")}


def with_control(tokenizer: Any, control: str) -> Any:
    """Return a copy of the tokenizer whose generation prompt ends in `control`, behind which the model was aligned.

    Raises ValueError where it has no chat template, or several, that could say so.
    """
    if not isinstance(tokenizer.chat_template, str):
        raise ValueError(
            "the method puts a text behind every prompt, and the tokenizer has no single chat template that would do "
            "so when the model is used; set model.chat_template to a jinja file, or to 'plain'"
        )
    changed = copy.deepcopy(tokenizer)
    changed.chat_template += "{% if add_generation_prompt %}{{ " + repr(control) + " }}{% endif %}"
    return changed
