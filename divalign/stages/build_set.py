"""Build a training set from sources: read requests, generate missing answers, rank, make the rows, write a card.

Generated answers are cached in a journal beside the set, so that a build resumes after a kill or a lost server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from divalign.data.build import answered_by, build
from divalign.data.examples import user_says
from divalign.data.files import entry_for
from divalign.data.rating import Rate
from divalign.data.sources import Gathered, find_source, gather_requests
from divalign.data.writing import WRITERS, write_file
from divalign.safety.journal import Journal
from divalign.safety.thinking import answer_of
from divalign.stages.answers import written_answers
from divalign.stages.cached_responses import cached_texts
from divalign.stages.corpus import balanced
from divalign.stages.models import OpenModel
from divalign.store import file_digest, write_json
from divalign.toy import world

# What a writer wrote in place of an answer, by `Answer.left_out`. A refusal stays: it is the writer's answer.
NO_ANSWERS = {
    "empty": "an empty answer",
    "incomplete": "an incomplete answer",
    "degenerate": "a degenerate answer",
}


class SetPlan(NamedTuple):
    """What to build: the sources joined by "+" ("toy" is the embedded world), the recipe, how many rows, which draw."""

    sources: str
    name: str
    n: int | None = None
    seed: int = 0


def build_set(
    what: SetPlan,
    out: Path,
    *,
    folder: Path | None = None,
    download: bool = False,
    writer: OpenModel | None = None,
    max_new_tokens: int = 256,
    rater: Callable[[Callable[[Sequence[str]], list[str]] | None], Rate] | None = None,
) -> dict[str, Any]:
    """Write the rows to `out`, as its ending says, and the card to `out` with .card.json behind its name; return it.

    Prompts whose written answer is empty, incomplete or degenerate make no row and are counted. `rater` is given the
    writer, with its cache, and returns a rater. Raises ValueError where there is nothing to build, and leaves nothing
    behind but the journal.
    """
    entry_for(WRITERS, out)
    if what.n is not None and what.n < 2:
        raise ValueError(f"n is {what.n}, expected at least 2, a row of each class; leave it out for all rows")
    if what.sources == "toy":
        gathered = Gathered(world.requests("train", held_out=False, seed=what.seed), {})
    else:
        gathered = gather_requests(what.sources, folder, seed=what.seed, download=download)
    requests = gathered.requests if what.n is None else balanced(gathered.requests, what.n)
    journal = out.with_suffix(".journal")
    if writer is None:
        built = build(requests, what.name, seed=what.seed, rate=rater(None) if rater else None)
    else:
        with Journal(journal) as memory:
            generate, unanswered = cached_texts(writer, memory, max_new_tokens), dict[str, str]()

            def answers(prompts: Sequence[str]) -> list[str]:
                written = dict(zip(prompts, written_answers(writer, prompts, memory, max_new_tokens), strict=True))
                reasons = {prompt: NO_ANSWERS.get(answer.left_out or "") for prompt, answer in written.items()}
                unanswered.update({prompt: reason for prompt, reason in reasons.items() if reason})
                return ["" if prompt in unanswered else written[prompt].text for prompt in prompts]

            def replies(questions: Sequence[str]) -> list[str]:
                texts = generate([user_says(question) for question in questions])
                return [answer_of(text) or "" for text in texts]

            requests, rate = answered_by(answers, requests), rater(replies) if rater else None
            built = build(requests, what.name, seed=what.seed, rate=rate, unanswered=unanswered)
    write_file(out, built.rows)
    card = {
        **_card(what, len(built.rows), built.left_out),
        "left_out_of_sources": gathered.left_out,
        "written_by": writer.name if writer else None,
        "sha256": file_digest(out),
    }
    write_json(out.with_name(f"{out.name}.card.json"), card)
    return card


def _card(what: SetPlan, n: int, left_out: dict[str, int]) -> dict[str, Any]:
    published = {name: _published(name) for name in what.sources.split("+")}
    return {
        "source": what.sources,
        "licence": ", ".join(dict.fromkeys(licence or "not stated" for licence, _ in published.values())),
        "recipe": what.name,
        "seed": what.seed,
        "rows": n,
        "left_out": left_out,
        "sources": {name: {"licence": licence, "published": where} for name, (licence, where) in published.items()},
    }


def _published(name: str) -> tuple[str, str]:
    """Return a source's licence and where it was published; nobody knows of a file."""
    if name == "toy":
        return "Apache-2.0", "divalign.toy"
    if name.startswith("file:"):
        return "", ""
    source = find_source(name)
    return source.licence, source.source
