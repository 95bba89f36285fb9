"""White-box searches: a suffix for each of some prompts, the response to it, and how the loss fell on the way.

The state of each search is a file under `folder` that is found again by content, so a search that was killed goes on.
A suffix stands there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from divalign.config import Gcg
from divalign.data.examples import Conversation, Row, user_says
from divalign.lm.load import LM
from divalign.safety.evaluate import Generate
from divalign.safety.gcg import GcgOptions, gcg
from divalign.safety.judges import Judge
from divalign.safety.suffix import MARK, lay_out
from divalign.store import digest
from divalign.study.progress import Progress

START = "gcg_start"  # the suffix that every search begins with, as an attack: what marks alone do, without a search


def searched(
    lm: LM,
    write: Generate,
    prompts: Sequence[Row],
    folder: Path,
    *,
    options: GcgOptions,
    ends: Judge,
    made_from: Sequence[Any],
    progress: Progress,
    stage: str = "gcg",
) -> list[Row]:
    """Return the prompts' rows with "attack", "steps", "succeeded", "losses" and the "response" to what was found.

    Every prompt brings its "target", the opening that is made likely. `write` answers conversations, `ends` judges the
    answers on the way; `made_from` is plain data that names the model and how it writes.
    """
    rows = []
    with progress(stage, options.steps * len(prompts), "steps") as advance:
        for row in prompts:

            def judged(talk: Conversation, goal: str = row["prompt"]) -> bool | None:
                return ends([goal], write([talk]))[0].unsafe

            found = gcg(
                lm.model,
                lm.tokenizer,
                row["prompt"],
                target=row["target"],
                options=options,
                judged=judged,
                checkpoint=folder / f"{digest(row['prompt'], row['target'])[:16]}.json",
                made_from=[*made_from, ends.sha256],
                on_step=lambda _step, _loss: advance(1),
            )
            steps = len(found.losses) - 1
            advance(options.steps - steps)
            (response,) = write([user_says(row["prompt"] + found.suffix)])
            told = {"steps": steps, "succeeded": found.succeeded, "losses": list(found.losses)}
            rows.append({**row, "attack": "gcg", **told, "response": response})
    return rows


def started(write: Generate, prompts: Sequence[Row], options: GcgOptions) -> list[Row]:
    """Return the prompts' rows with the response to the suffix that a search would begin with."""
    talks = [user_says(row["prompt"] + MARK * options.marks) for row in prompts]
    return [{**row, "attack": START, "response": response} for row, response in zip(prompts, write(talks), strict=True)]


def asked_of(asked: Gcg, prompts: Sequence[Row], openings: Mapping[str, str]) -> list[Row]:
    """Return the prompts that a run searches, each with the opening of its compliance as its target."""
    return [{**row, "target": openings[row["id"]]} for row in prompts if row["id"] in openings][: asked.prompts]


def options_of(asked: Gcg) -> GcgOptions:
    return GcgOptions(
        steps=asked.steps, width=asked.width, batch_size=min(asked.width, 256), check_every=asked.check_every
    )


def check_room(lm: LM, prompts: Sequence[Row], options: GcgOptions, *, max_new_tokens: int, context: int) -> None:
    """Lay every search out, so that what cannot be searched is met before anything is trained.

    Raises ValueError where a suffix cannot be told from its chat, and where it leaves no room for an answer.
    """
    for row in prompts:
        layout = lay_out(lm.tokenizer, row["prompt"], row["target"], marks=options.marks)
        length = len(layout.before) + len(layout.start) + len(layout.after)
        if length + max(len(layout.target), max_new_tokens) > context:
            raise ValueError(
                f"prompt {row['id']} with a suffix is {length} tokens, which leaves no room for an answer of "
                f"{max_new_tokens} tokens or its opening of {len(layout.target)} in a context of {context}; "
                "search fewer prompts (measure.gcg.prompts) or leave measure.gcg out"
            )
