"""Who sits as a judge: names become judges, with the models behind them and a memory of what those answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from divalign.core.names import find
from divalign.safety.journal import Journal
from divalign.safety.judges import JUDGES, Judge, find_judge
from divalign.safety.model_judges import find_rubric, model_judge, why_unavailable
from divalign.safety.rubrics import RUBRICS, Rubric
from divalign.safety.shield import Clip, clip_tokens
from divalign.store import digest
from divalign.study.writers import Loading, Writer, find_writer, recalled, recalled_odds

ANY = ""  # the rubric of a question that names none


def parse_questions(texts: Sequence[str]) -> dict[str, str]:
    """Return each rubric's question (a text or its file) from "FILE" or "RUBRIC=FILE"; the first serves any rubric.

    Raises ValueError for a rubric with two questions.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        rubric, question = (name, rest) if equals and name in RUBRICS else (ANY, text)
        if rubric in found:
            raise ValueError(
                f"got two questions for {rubric or 'one judge'}; write RUBRIC=FILE, once for each judge that needs one"
            )
        found[rubric] = question
    return found


def sitting_judges(
    specs: Sequence[str], journal: Journal, *, questions: Mapping[str, str], loading: Loading | None = None
) -> list[Judge]:
    """Return the judges that `specs` name. Raises ValueError where one question would serve two fixed texts."""
    needing = [name for name in (spec.partition("@")[0] for spec in specs) if name in RUBRICS and not RUBRICS[name].ask]
    if ANY in questions and len(set(needing) - questions.keys()) > 1:
        raise ValueError(
            f"{' and '.join(dict.fromkeys(needing))} were each trained on a text of their own; "
            "write --question RUBRIC=FILE for each"
        )
    return [
        sitting_judge(
            spec,
            journal,
            question=questions.get(spec.partition("@")[0], questions.get(ANY)),
            loading=loading,
        )
        for spec in specs
    ]


def sitting_judge(spec: str, journal: Journal, *, question: str | None = None, loading: Loading | None = None) -> Judge:
    """Return the judge that `spec` names: one of JUDGES, pkg.module:thing, or a rubric and who answers it.

    "harm_rubric@MODEL" asks a local model, "harm_rubric@http://host:8000/v1#NAME" a served one; a rubric that was made
    for one model needs no "@". `question` is the text, or its file, of a rubric that comes without one.

    Raises ValueError for an unknown name, a rubric without a model, a model that cannot be loaded, and a served model
    where the judge's token probabilities are read.
    """
    name, _, source = spec.partition("@")
    if name not in RUBRICS:
        find(name, {**JUDGES, **RUBRICS}, kind="judge")
        return find_judge(spec)
    rubric = find_rubric(name)
    if not (source or rubric.model):
        raise ValueError(f"{name} needs a model that answers; write {name}@MODEL or {name}@http://host:8000/v1#NAME")
    writer = find_writer(source or str(rubric.model), _loading(rubric, loading))
    special, clip = _prepared(rubric, writer)
    keyed = writer._replace(key=digest(writer.key, rubric.chat_template))
    ask = (
        recalled_odds(keyed, journal, rubric.options)
        if rubric.options
        else recalled(keyed, journal, rubric.max_new_tokens)
    )
    return model_judge(
        rubric, ask, model=writer.name, revision=writer.key, question=question, clip=clip, special=special
    )


def _loading(rubric: Rubric, loading: Loading | None) -> Loading | None:
    """Let a model load that has no chat template of its own, where the rubric brings one: see `_prepared`."""
    if rubric.chat_template is None:
        return loading
    return (loading or Loading())._replace(chat_template="plain")


def _prepared(rubric: Rubric, writer: Writer) -> tuple[list[str], Clip | None]:
    """Give a local judge its chat template, and return its special tokens and its cut; a served one has its own."""
    if writer.lm is None and rubric.options:
        raise ValueError(
            f"{rubric.id} is read from the probabilities of its next token, which {writer.name} does not give; "
            f"name a local model: {rubric.id}@FOLDER_OR_HUB_ID"
        )
    if writer.lm is None:
        return [], None
    try:
        tokenizer = writer.lm().tokenizer
    except ValueError as error:
        raise ValueError(why_unavailable(rubric, str(error))) from error
    if rubric.chat_template is not None:
        tokenizer.chat_template = rubric.chat_template
    clip = clip_tokens(tokenizer, rubric.response_tokens) if rubric.response_tokens else None
    return list(tokenizer.all_special_tokens), clip
