"""Open judges by name, with the models behind them and a cache of their responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from divalign.core.names import find
from divalign.lm.endpoint import SCHEMES
from divalign.safety.journal import Journal
from divalign.safety.judges import JUDGES, Judge, find_judge
from divalign.safety.model_judges import find_rubric, model_judge, question_maker, why_unavailable
from divalign.safety.rubrics import RUBRICS, Rubric
from divalign.safety.shield import Clip, clip_tokens
from divalign.safety.wordings import WORDINGS, wordings
from divalign.stages.cached_responses import cached_option_logprobs, cached_texts
from divalign.stages.models import LoadOptions, OpenModel, find_model
from divalign.store import digest

ANY = ""  # the rubric of a question that names none


def parse_questions(texts: Sequence[str]) -> dict[str, str]:
    """Return each rubric's question (a text or its file) from "FILE" or "RUBRIC=FILE"; the first serves any rubric.

    Raises ValueError for a rubric with two questions.
    """
    questions: dict[str, str] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        rubric, question = (name, rest) if equals and name in RUBRICS else (ANY, text)
        if rubric in questions:
            raise ValueError(
                f"got two questions for {rubric or 'one judge'}; write RUBRIC=FILE, once for each judge that needs one"
            )
        questions[rubric] = question
    return questions


class OpenJudge(NamedTuple):
    """A judge, and the same rubric in other wordings and orders where these were wanted."""

    judge: Judge
    wordings: list[Judge]


def open_judges(
    names: Sequence[str],
    journal: Journal,
    *,
    questions: Mapping[str, str] | None = None,
    options: LoadOptions | None = None,
    count: int | None = None,
) -> list[OpenJudge]:
    """Return the judges of these names, with `count` wordings of each in both orders where it is given.

    Raises ValueError where one question would serve two fixed texts, and for wordings of a judge that has one.
    """
    for name in names if count is not None else ():
        check_wordings(name)
    questions = questions or {}
    rubrics = [name.partition("@")[0] for name in names]
    needing = [name for name in rubrics if name in RUBRICS and not RUBRICS[name].ask]
    if ANY in questions and len(set(needing) - questions.keys()) > 1:
        raise ValueError(
            f"{' and '.join(dict.fromkeys(needing))} were each trained on a text of their own; "
            "write --question RUBRIC=FILE for each"
        )
    return [
        _open(name, journal, questions.get(rubric, questions.get(ANY)), options, count)
        for name, rubric in zip(names, rubrics, strict=True)
    ]


def open_judge(
    name: str, journal: Journal, *, question: str | None = None, options: LoadOptions | None = None
) -> Judge:
    """Return the judge of this name: one of JUDGES, pkg.module:thing, or a rubric and the model that answers it.

    "harm_rubric@MODEL" asks a model as `stages.models` spells them; a rubric that was made for one model needs no "@".
    `question` is the text, or its file, of a rubric that comes without one.

    Raises ValueError for an unknown name, a rubric without a model, a model that cannot be loaded, and a served model
    where the judge's token probabilities are read.
    """
    return _open(name, journal, question, options, None).judge


def _open(
    name: str, journal: Journal, question: str | None, options: LoadOptions | None, count: int | None
) -> OpenJudge:
    if name.partition("@")[0] not in RUBRICS:
        return OpenJudge(_plain_judge(name), [])
    rubric, model = _rubric_and_model(name, question, options)
    special, clip = _prepare(rubric, model)
    keyed = model._replace(key=digest(model.key, rubric.chat_template))
    ask = (
        cached_option_logprobs(keyed, journal, rubric.options)
        if rubric.options
        else cached_texts(keyed, journal, rubric.max_new_tokens)
    )
    first, *reworded = [
        model_judge(worded, ask, model=model.name, revision=model.key, question=question, clip=clip, special=special)
        for worded in (rubric, *([] if count is None else wordings(rubric, count)))
    ]
    return OpenJudge(first, reworded)


def _plain_judge(name: str) -> Judge:
    """Return a judge that asks no model. Raises ValueError for a name that is none, or names a model."""
    entry, at, source = name.partition("@")
    if ":" not in entry:
        find(entry, {**JUDGES, **RUBRICS}, kind="judge")  # whose nearest name may be a rubric's
    if at:
        raise ValueError(f"the judge {entry!r} asks no model; leave out @{source}")
    return find_judge(entry)


def _rubric_and_model(name: str, question: str | None, options: LoadOptions | None) -> tuple[Rubric, OpenModel]:
    """Return a rubric and its model, which is not loaded. Raises ValueError where the two cannot make a judge."""
    entry, _, source = name.partition("@")
    rubric = find_rubric(entry)
    if not (source or rubric.model):
        raise ValueError(f"{entry} needs a model that answers; write {entry}@MODEL or {entry}@http://host:8000/v1#NAME")
    question_maker(rubric, question)  # refused before a model is fetched for it
    model = find_model(source or str(rubric.model), _options(rubric, options))
    if model.load is None and rubric.options:
        raise ValueError(
            f"{rubric.id} is read from the probabilities of its next token, which {model.name} does not give; "
            f"name a local model: {rubric.id}@FOLDER_OR_HUB_ID"
        )
    return rubric, model


def judge_model(name: str) -> str:
    """Return the model that a judge asks; "" where it asks none."""
    entry, _, source = name.partition("@")
    return source or (str(RUBRICS[entry].model or "") if entry in RUBRICS else "")


def is_served(name: str) -> bool:
    """Tell whether a judge's model is on a server."""
    return judge_model(name).startswith(SCHEMES)


def check_judge(name: str, *, question: str | None = None, options: LoadOptions | None = None) -> None:
    """Raise what `open_judge` raises, as far as it is known without loading a model, and for a needless question."""
    entry = name.partition("@")[0]
    if entry not in RUBRICS:
        _plain_judge(name)
    else:
        _rubric_and_model(name, question, options)
    if question is not None and (entry not in RUBRICS or RUBRICS[entry].ask):
        raise ValueError(f"a question is given, and {entry} takes none; leave it out")


def check_wordings(name: str) -> None:
    """Raise ValueError for a judge that has one wording."""
    entry = name.partition("@")[0]
    if entry not in WORDINGS:
        raise ValueError(f"{entry} has one wording; rubrics in several wordings: {', '.join(WORDINGS)} (RUBRIC@MODEL)")


def _options(rubric: Rubric, options: LoadOptions | None) -> LoadOptions | None:
    """Let a model load that has no chat template of its own, where the rubric brings one: see `_prepare`."""
    if rubric.chat_template is None:
        return options
    return replace(options or LoadOptions(), chat_template="plain")


def _prepare(rubric: Rubric, model: OpenModel) -> tuple[list[str], Clip | None]:
    """Give a local judge its chat template, and return its special tokens and its cut; a served one has its own."""
    if model.load is None:
        return [], None
    try:
        tokenizer = model.lm().tokenizer
    except ValueError as error:
        raise ValueError(why_unavailable(rubric, str(error))) from error
    if rubric.chat_template is not None:
        tokenizer.chat_template = rubric.chat_template
    clip = clip_tokens(tokenizer, rubric.response_tokens) if rubric.response_tokens else None
    return list(tokenizer.all_special_tokens), clip
