"""Answers by the base model itself, in place of a source's: what it would say before it is aligned.

On a benign prompt the answer is the compliance that alignment keeps, on a harmful one the compliance that alignment
takes away. Both are likely under the base, so nothing but the behaviour tells the two responses of a row apart in
distribution. Learnt is the answer alone: thoughts before it are taken off. Texts stay in the run folder:

answers.journal   every answer as it came, found again by content
answers.jsonl     each prompt with its answer, its worse answer and what the default judge says that the answer does
answers.json      how many prompts were answered, and how many answers make no row, for which reason, by class
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from divalign.data.build import filled
from divalign.data.examples import Request, Row, user_says
from divalign.data.recipes import find_recipe
from divalign.lm.responses import Response
from divalign.safety.journal import Journal
from divalign.safety.judges import DEFAULT_JUDGE, JUDGES
from divalign.safety.thinking import answer_of
from divalign.stages.attack import opens_thoughts
from divalign.stages.cached_responses import cached_responses, cached_texts
from divalign.stages.corpus import Corpus
from divalign.stages.folder import Progress
from divalign.stages.models import OpenModel
from divalign.store import cached_json, digest, intact, jsonl, read_rows, seal

logger = logging.getLogger(__name__)

WORSE_TEMPERATURE = 1.5
REFUSING = 0.8  # share of the harmful prompts; a base that refuses more has nothing to learn from these prompts
# Why an answer makes no row, and how a message says it of several.
LEFT_OUT = {
    "empty": "answers are empty",
    "refused": "refuse",
    "incomplete": "are incomplete",
    "degenerate": "are degenerate",
}
SENTENCE_END = re.compile(r"(?<=[^\d\s][.!?])[\"')\]*]*(?=\s|$)")  # "1." begins an item and ends no sentence


class Answer(NamedTuple):
    """A model's answer without its thoughts, and what the default judge says that it does: of safety.judges.KINDS."""

    text: str
    kind: str | None

    @property
    def left_out(self) -> str | None:
        """Why its prompt makes no row, one of `LEFT_OUT`; None where it makes one."""
        if self.kind in ("incomplete", "degenerate"):
            return self.kind
        if not self.text.strip():
            return "empty"
        return "refused" if self.kind == "refusal" else None


@dataclass(frozen=True)
class AnswerPlan:
    """How the base answers: `max_new_tokens` at most; with `worse`, a worse answer to every benign prompt too.

    The worse answer is a draw at temperature 1.5, with random numbers that depend on the prompt alone. Without
    `allow_refusing`, a base that refuses more than 80 % of the harmful prompts is an error.
    """

    max_new_tokens: int = 48
    worse: bool = False
    allow_refusing: bool = False
    batch_size: int = 64


def needs_worse_answer(recipe: str) -> bool:
    """Tell whether a recipe's rows of benign prompts hold the worse answer. Raises ValueError for an unknown recipe."""
    make = find_recipe(recipe)
    first, second = (make(Request("?", False, "answer", "refusal", worse, "")) for worse in ("one", "another"))
    return first != second


def answer_corpora(
    corpora: Mapping[int, Corpus], model: OpenModel, plan: AnswerPlan, folder: Path, *, progress: Progress
) -> dict[int, Corpus]:
    """Return each seed's corpus with the model's answers to its training and test prompts, written to `folder` once.

    Prompts whose answer is empty, incomplete (thoughts that never end among them) or degenerate, and those that the
    model refuses, make no rows: the former have no response, and the responses to the latter would be two refusals.
    They leave the training requests; test prompts among them are asked all the same, and stand in `unanswered`.
    Refusals are generated where the source has none, and so is the worse answer where the draw is empty or equals the
    answer (the answer to another prompt).

    Raises ValueError where the model refuses over 80 % of the harmful prompts, unless the plan allows it, and where a
    class has no answer left.
    """
    requests = [request for corpus in corpora.values() for request in (*corpus.train, *corpus.test)]
    rows = write_answers(model, requests, plan, folder, progress=progress)
    counts = _counts(rows)
    key = digest("answer counts", model.key, counts)
    cached_json(folder / "answers.json", key, lambda: {"model": model.name, "judge": DEFAULT_JUDGE, **counts})
    _check(model, counts, plan)
    answers = {row["prompt"]: row for row in rows}
    return {seed: _answered(corpus, answers, seed) for seed, corpus in corpora.items()}


def write_answers(
    model: OpenModel, requests: Iterable[Request], plan: AnswerPlan, folder: Path, *, progress: Progress
) -> list[Row]:
    """Return a row for each prompt: prompt, harmful, answer, worse, kind; writing only what `folder` does not hold.

    `kind` is what the default judge says of the answer, one of safety.judges.KINDS. An answer whose thoughts never end
    is empty here and incomplete.
    """
    prompts = {request.prompt: request.harmful for request in requests}
    judge = JUDGES[DEFAULT_JUDGE]
    sizes = [plan.max_new_tokens, plan.worse and WORSE_TEMPERATURE]
    path, key = folder / "answers.jsonl", digest("answers", 2, model.key, prompts, judge.sha256, *sizes)
    if not intact(path, key):
        benign = [prompt for prompt, harmful in prompts.items() if plan.worse and not harmful]
        total = len(prompts) + len(benign)
        with (
            Journal(folder / "answers.journal") as journal,
            progress(f"answers {model.name}", total, "texts") as advance,
        ):
            answers = _write(model, list(prompts), plan, journal, advance)
            worse = _write(_sampling(model), benign, plan, journal, advance)
        judged = _judged(list(answers), list(answers.values()))
        rows = [
            {
                "prompt": prompt,
                "harmful": prompts[prompt],
                "answer": answer.text,
                "worse": worse.get(prompt) or "",
                "kind": answer.kind,
            }
            for prompt, answer in zip(answers, judged, strict=True)
        ]
        seal(path, jsonl(rows), key)
    return read_rows(path)


def written_answers(model: OpenModel, prompts: Sequence[str], journal: Journal, max_new_tokens: int) -> list[Answer]:
    """Return a model's answers to prompts, without thoughts; what `journal` holds is not written again.

    An answer that a limit cut ends with its last whole sentence, and is incomplete where it has none.
    """
    responses = cached_responses(model, journal, max_new_tokens)([user_says(prompt) for prompt in prompts])
    opened = opens_thoughts(model)
    return _judged(prompts, [_finished(response, opened=opened) for response in responses])


def placeholders(corpus: Corpus, n_tokens: int) -> Corpus:
    """Return a corpus whose missing answers are as long as the model's may be: for checks and counts, never to train.

    One short English word is about one token.
    """
    text = " ".join(["word"] * n_tokens)
    train, test = (
        [request._replace(compliance=text, worse=f"{text}s") for request in part]
        for part in (corpus.train, corpus.test)
    )
    return corpus._replace(train=filled(train), test=filled(test))


def whole_sentences(text: str) -> str:
    """Return a text up to the end of its last whole sentence; as it is where it has none, and without outer space.

    An answer that was cut at its longest would teach that answers end in mid-sentence.
    """
    text = text.strip()
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text


def _finished(response: Response, *, opened: bool) -> str | None:
    """Return a response's answer up to where it is whole; None where the thoughts or the first sentence never end."""
    answer = answer_of(response.text, opened=opened)
    if answer is None or not answer.strip() or response.finish_reason == "stop":
        return answer
    return whole_sentences(answer) if SENTENCE_END.search(answer) else None


def _judged(prompts: Sequence[str], answers: Sequence[str | None]) -> list[Answer]:
    """Return answers with what the default judge says that they do; None is an incomplete one."""
    verdicts = JUDGES[DEFAULT_JUDGE](prompts, [text or "" for text in answers])
    return [
        Answer("", "incomplete") if text is None else Answer(text, verdict.kind)
        for text, verdict in zip(answers, verdicts, strict=True)
    ]


def _write(
    model: OpenModel, prompts: Sequence[str], plan: AnswerPlan, journal: Journal, advance: Callable[[int], None]
) -> dict[str, str | None]:
    """Return each prompt's answer up to its last whole sentence, without thoughts; None where these never end."""
    write = cached_texts(model, journal, plan.max_new_tokens, batch_size=plan.batch_size, advance=advance)
    texts, opened = write([user_says(prompt) for prompt in prompts]), opens_thoughts(model)
    answers = [answer_of(text, opened=opened) for text in texts]
    return {
        prompt: None if answer is None else whole_sentences(answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    }


def _sampling(model: OpenModel) -> OpenModel:
    """Return the model as it draws its worse answers."""
    key = digest("sampled", model.key, WORSE_TEMPERATURE)
    return model._replace(key=key, generate=partial(model.generate, temperature=WORSE_TEMPERATURE))


def _counts(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Return, for harmful and benign prompts, how many there are and how many answers make no row, by reason."""
    counts = {}
    for name, harmful in (("harmful", True), ("benign", False)):
        reasons = [_reason(row) for row in rows if row["harmful"] is harmful]
        counts[name] = {"prompts": len(reasons), **{reason: reasons.count(reason) for reason in LEFT_OUT}}
    return counts


def _reason(row: Row) -> str | None:
    """Return why a prompt makes no row, one of `LEFT_OUT`; None where it makes one."""
    return Answer(row["answer"], row["kind"]).left_out


def _check(model: OpenModel, counts: Mapping[str, Mapping[str, int]], plan: AnswerPlan) -> None:
    harmful = counts["harmful"]
    if harmful["refused"] > REFUSING * harmful["prompts"] and not plan.allow_refusing:
        raise ValueError(
            f"{model.name} refuses {harmful['refused']} of the {harmful['prompts']} harmful prompts already, by the "
            f"judge {DEFAULT_JUDGE}: there is nothing to align; take another base or other prompts, or set "
            "data.allow_refusing_base"
        )
    for name, count in counts.items():
        lost = sum(count[reason] for reason in LEFT_OUT)
        reasons = [reason for reason in LEFT_OUT if count[reason] or reason in ("empty", "refused")]
        detail = f"{count['prompts']} {name} prompts: " + ", ".join(f"{count[why]} {LEFT_OUT[why]}" for why in reasons)
        if lost == count["prompts"]:
            raise ValueError(f"no answer of {model.name} is left of {detail}; take another base or other prompts")
        if lost:
            logger.warning("%s: %d rows left out of %s", model.name, lost, detail)


def _answered(corpus: Corpus, answers: Mapping[str, Row], seed: int) -> Corpus:
    """Return the corpus with answers; filled as a corpus without them is, the test part always as for the draw 0."""
    train, test = (
        [_with_answer(request, answers[request.prompt]) for request in part if not _reason(answers[request.prompt])]
        for part in (corpus.train, corpus.test)
    )
    usable = {request.prompt: request for request in filled(test)}
    return corpus._replace(
        train=filled(train, seed=seed),
        test=[usable.get(request.prompt, request) for request in corpus.test],
        unanswered=frozenset(request.prompt for request in corpus.test) - usable.keys(),
    )


def _with_answer(request: Request, row: Row) -> Request:
    worse: Any = row["worse"]
    return request._replace(compliance=row["answer"], worse="" if worse == row["answer"] else worse)
