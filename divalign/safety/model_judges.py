"""A rubric and a model make a judge. The model comes in as a function: a local one or a server's."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from math import log
from typing import Any

from divalign.core.names import find
from divalign.data.examples import Conversation, user_says
from divalign.safety.judges import EMPTY, Judge, Verdict
from divalign.safety.rubrics import RUBRICS, Rubric
from divalign.safety.shield import Clip, clip_characters, disarm
from divalign.safety.slots import text_with_slots
from divalign.safety.thinking import PATTERNS
from divalign.store import digest

SLOTS = ("{prompt}", "{response}")
# How a rubric reads these is part of its judge's hash, as is what it asks: both decide its verdicts.
ANSWERS = (
    "verdict: unsafe", "verdict: safe", "verdict: compliance", "verdict: partial", "verdict: refusal", "unsafe", "safe",
    "unsafe\nS1", "yes", "no", "Response refusal: yes\nHarmful response: no", "harmful response: yes", "", "maybe",
    "refused: 0\nconvincing: 5\nspecific: 4", "refused: 1\nconvincing: 1\nspecific: 1",
    "verdict: safe\nverdict: unsafe", "verdict: safe or unsafe", "verdict: safe?", "verdict: refusal / partial",
    "yes/no", "safe or unsafe", "safe\nunsafe", "harmful response: yes/no",
    "harmful response: yes\nharmful response: no",
)  # fmt: skip
ODDS = (
    [log(p) for p in (0.9, 0.04, 0.03, 0.02, 0.01)], [log(p) for p in (0.02, 0.08, 0.2, 0.3, 0.3)],
    [log(p) for p in (0.1, 0.1, 0.1, 0.1, 0.09)],
)  # fmt: skip
ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # in memory, of another value in every process
CLIPPED = 4000  # characters: about 1,000 tokens, more than a judge of 512-token responses needs


def model_judge(
    rubric: Rubric,
    answer: Callable[[Sequence[Conversation]], Sequence[Any]],
    *,
    model: str | None = None,
    revision: str | None = None,
    question: str | None = None,
    clip: Clip | None = None,
    special: Iterable[str] = (),
) -> Judge:
    """Return the judge that puts the rubric's question to `answer` and reads what comes back.

    `answer` gives each conversation's response, of up to `rubric.max_new_tokens` tokens; for a rubric with options, the
    log-probabilities that its next token is each of them. `model` and `revision` name who answers and are part of the
    judge's hash. `question` is the text of a rubric that comes without one, with {prompt} and {response} in it.
    Prompts are clipped to 4,000 characters, and so are responses unless `clip` does it otherwise; both are disarmed,
    `special` tokens of the judge included. An empty response is undecided without asking.

    Raises ValueError for a rubric without its question, and for a question without its slots.
    """
    ask = question_maker(rubric, question)
    special, short = sorted(set(special)), clip_characters(CLIPPED)
    cut = clip or short

    def decide(prompts: Sequence[str], responses: Sequence[str]) -> list[Verdict]:
        verdicts = [EMPTY] * len(responses)
        places = [place for place, response in enumerate(responses) if response.strip()]
        ready = [(short(prompts[place]), cut(responses[place])) for place in places]
        conversations = [ask(*(disarm(text, special=special) for text in pair)) for pair in ready]
        answers = answer(conversations) if places else []
        if len(answers) != len(places):
            raise ValueError(
                f"judge {rubric.id!r} got {len(answers)} answers to {len(places)} questions; one each is expected"
            )
        for place, text in zip(places, answers, strict=True):
            verdicts[place] = rubric.read(text)
        return verdicts

    name = f"{rubric.id}:{model or rubric.model or 'unnamed'}"
    blank = ask("{prompt}", "{response}")
    question_parts = [
        list(blank.messages),
        blank.prefill,
        rubric.chat_template,
        rubric.max_new_tokens,
        special,
        cut("x" * 10**5),
        *rubric.options,
    ]
    readings = [rubric.read(probe) for probe in (ODDS if rubric.options else ANSWERS)]
    own = [] if RUBRICS.get(rubric.id) is rubric else [_content(rubric.read)]  # whose words no probe may have
    return Judge(name, digest(name, revision, PATTERNS, question_parts, readings, *own), decide)


def _content(value: Any, above: tuple[int, ...] = ()) -> str:
    """Return what a reader of one's own does, the same text in every process: its source, and what it closes over.

    `above` holds the ids of the functions that close over this one, since a function may close over itself.
    """
    if isinstance(value, re.Pattern):
        return f"{value.pattern} {value.flags}"
    if isinstance(value, (set, frozenset)):
        return repr(sorted(map(repr, value)))
    if not callable(value) or id(value) in above:
        return ADDRESS.sub("", repr(value))
    is_function = hasattr(value, "__code__")
    try:
        source = inspect.getsource(value if is_function else type(value))
    except (OSError, TypeError):  # written at a prompt, or in another language
        source = getattr(value, "__qualname__", type(value).__qualname__)
    cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    state = [] if is_function else [part for item in getattr(value, "__dict__", {}).items() for part in item]
    return digest(source, *(_content(part, (*above, id(value))) for part in (*cells, *state)))


def find_rubric(name: str) -> Rubric:
    """Return a rubric: a name of `RUBRICS`, or "pkg.module:thing". Raises ValueError, naming the nearest."""
    return find(name, RUBRICS, kind="rubric", of=Rubric)


def why_unavailable(rubric: Rubric, reason: str) -> str:
    """Return what to tell a user whose judge cannot be loaded: why, and what serves instead."""
    gate = " It is gated: ask for access on its page, then log in with `hf auth login`." if rubric.gated else ""
    return (
        f"the judge {rubric.id} cannot be loaded from {rubric.model or 'the model you named'}: {reason}.{gate} "
        "Without it: refusal_strings needs no model, harm_rubric any instruction-following model or server, "
        "harmbench_7b a model that is not gated"
    )


def question_maker(rubric: Rubric, question: str | None) -> Callable[[str, str], Conversation]:
    """Return what makes the conversation with the judge of a prompt and a response.

    Raises ValueError for a rubric without its question, and for a question without its slots.
    """
    if rubric.ask:
        return rubric.ask
    if question is None:
        raise ValueError(
            f"{rubric.id} was trained on one fixed text, which is not shipped here: copy it from the card of "
            f"{rubric.model} into a file, with {{prompt}} and {{response}} where they go, and name the file: "
            "--question FILE"
        )
    text = text_with_slots(question, SLOTS, kind=f"question of {rubric.id}")

    def ask(prompt: str, response: str) -> Conversation:
        # In one pass: a prompt that holds "{response}" must not draw the response to itself.
        pieces = {"{prompt}": prompt, "{response}": response}
        return user_says("".join(pieces.get(piece, piece) for piece in re.split("({prompt}|{response})", text)))

    return ask
