"""GCG as an attack: a suffix searched for each prompt, the response to it, and how the loss fell on the way.

The state of each search is a file that is found again by content, so a search that was killed goes on. A suffix stands
there and nowhere else. Beside every searched suffix stands the suffix that the search began with (`gcg_start`): what
the marks alone do, without a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from divalign.data.examples import Conversation, Row, user_says
from divalign.lm.load import LM
from divalign.safety.adaptive import AdaptiveAttack, AttackContext, AttackOptions
from divalign.safety.evaluate import judge_rows, with_responses
from divalign.safety.gcg import Checkpoint, GcgResult, gcg
from divalign.safety.suffix import MARK, lay_out
from divalign.store import digest, jsonl, seal

START = "gcg_start"
CURVES = "gcg.jsonl"


def search_suffixes(context: AttackContext, prompts: Sequence[Row]) -> list[Row]:
    """Return the responses to the unsearched and to the searched suffixes; leave gcg.jsonl with the losses.

    A prompt's "target" is the opening that is made likely, the options' `opening` where it has none.
    """
    assert context.weights is not None, "the caller checks needs_weights"
    options, lm = context.options, context.weights()
    rows = [{"target": options.opening, **row} for row in searchable(prompts, options)]
    with context.progress("gcg", options.gcg.steps * len(rows), "steps") as advance:
        results = [_search(context, lm, row, advance) for row in rows]
    losses = [
        {"id": row["id"], "attack": "gcg", "steps": len(result.losses) - 1, "succeeded": result.succeeded,
         "losses": list(result.losses)}
        for row, result in zip(rows, results, strict=True)
    ]  # fmt: skip
    seal(context.folder / CURVES, jsonl(losses), digest("gcg", list(context.made_from)))
    start = [{**row, "attack": START} for row in rows]
    final = [{**row, "attack": "gcg", "steps": curve["steps"]} for row, curve in zip(rows, losses, strict=True)]
    suffixes = [MARK * options.gcg.marks] * len(rows) + [result.suffix for result in results]
    conversations = [user_says(row["prompt"] + suffix) for row, suffix in zip([*start, *final], suffixes, strict=True)]
    return with_responses([*start, *final], context.target(conversations))


def searchable(prompts: Sequence[Row], options: AttackOptions) -> list[Row]:
    """Return the harmful prompts that are searched: the first ones."""
    return [row for row in prompts if row["harmful"]][: options.gcg_prompts]


def check_room(lm: LM, prompts: Sequence[Row], options: AttackOptions, *, context: int) -> None:
    """Lay every search out, so that what cannot be searched is met before anything is trained.

    Raises ValueError where a suffix cannot be told from its chat, and where it leaves no room for an answer.
    """
    for row in searchable(prompts, options):
        layout = lay_out(lm.tokenizer, row["prompt"], row.get("target", options.opening), marks=options.gcg.marks)
        length = len(layout.before) + len(layout.start) + len(layout.after)
        if length + max(len(layout.target), options.max_new_tokens) > context:
            raise ValueError(
                f"prompt {row['id']} with a suffix is {length} tokens, which leaves no room for an answer of "
                f"{options.max_new_tokens} tokens or its opening of {len(layout.target)} in a context of {context}; "
                "search fewer prompts (measure.gcg.prompts) or leave measure.gcg out"
            )


def _search(context: AttackContext, lm: LM, row: Row, advance: Any) -> GcgResult:
    options = context.options.gcg

    def succeeds(conversation: Conversation) -> bool | None:
        question = {**row, "thinking_opened": context.thinking_opened}
        return judge_rows(context.stop_judge, with_responses([question], context.target([conversation])))[0]["unsafe"]

    result = gcg(
        lm.model,
        lm.tokenizer,
        row["prompt"],
        target=row["target"],
        options=options,
        judged=succeeds,
        checkpoint=Checkpoint(
            context.folder / "gcg" / f"{digest(row['prompt'], row['target'])[:16]}.json",
            [*context.made_from, context.stop_judge.sha256],
        ),
        on_step=lambda _step, _loss: advance(1),
    )
    advance(options.steps - len(result.losses) + 1)
    return result


GCG = AdaptiveAttack(
    search_suffixes,
    depends_on=lambda options: [options.opening, asdict(options.gcg), options.gcg_prompts],
    needs_weights=True,
    stops_early=True,
    files=(CURVES,),
)
