"""Training rows as files and libraries hold them, brought to one form: the prompt in `prompt` alone, responses apart.

What is scored follows from where the prompt ends. A prompt that is repeated in front of the responses, or that stands
only there, is found here, in the same way for training, conversion and audit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from divalign.data.columns import SIDES, is_absent, nearest, plain_content, rest_of, turns_of
from divalign.data.examples import Message, Row
from divalign.data.sides import check_pair, is_flag, labelled, side_columns
from divalign.data.words import words_of

# Where files keep the prompt under another name, what chosen and rejected happen to share is not the prompt.
OTHER_PROMPTS = ("question", "instruction", "query", "goal", "behavior", "input", "problem")
CONVERSATIONS = ("messages", "conversation", "conversations", "context", "history", "dialogue")
SHORTEST_REPEATED = 4  # words: "Hi" also begins "Hi there", which is no repetition
SYSTEM = ("system", "system_prompt", "system_message")  # one of them becomes the conversation's first turn
SHARED_TEXT = "prompt_is_shared_text"
# Where a plain prompt may end: at white space, and behind a turn mark ("Assistant:", "[/INST]", "<|assistant|>").
_BOUNDARY = re.compile(r"\s|(?<!\S)[^\W\d_]+[:：](?!//)|\[/?[A-Z]+\]|<[^<>\s]+>")
OPTIONAL = ("cluster", "prefill", "harmful")  # null here, as in a table of many rows, they are absent
EXPECTED = "prompt, chosen, rejected (paired) or prompt, completion, label (unpaired)"


def training_row(row: Mapping[str, Any]) -> Row:
    """Return one of TRL's rows with its prompt apart from its responses, each text a string or a list of messages.

    Pairs without `prompt` are split as TRL's `extract_prompt` splits them; a plain one is marked by the column
    `prompt_is_shared_text`, because its tokens are then those of prompt and response in one. A response's label may
    stand in any column of `sides`. `tools` and `chat_template_kwargs` may be JSON; a `system` column becomes the
    conversation's first turn, an empty one is dropped. Other columns pass through.

    Raises ValueError for a row that is none of TRL's, holds null, has a response of several turns, or says in one
    column what another denies.
    """
    if row.get("history"):
        raise ValueError("it has earlier turns in the column 'history', which would not be seen; put them into prompt")
    plain = {str(name): value for name, value in row.items() if not (name in OPTIONAL and value in (None, ""))}
    single = any(plain.get(name) is not None for name in ("completion", "response"))
    paired = any(name in plain and not is_flag(plain[name], beside_response=single) for name in SIDES)
    if not paired and "completion" not in plain and isinstance(plain.get("response"), (str, list, Mapping)):
        plain = {**rest_of(plain, "response"), "completion": plain["response"]}
    if paired:
        for side in SIDES:
            if side not in plain:
                raise ValueError(f"it lacks the column {side!r}{_meant(side, plain)}")
        check_pair(plain)
    elif "completion" not in plain:
        if kinds := [type(plain[name]).__name__ for name in SIDES if name in plain and "responses" not in plain]:
            raise ValueError(f"its chosen and rejected are {' and '.join(kinds)}; expected text or messages")
        raise ValueError(f"it has the columns {', '.join(plain) or '(none)'}; expected {EXPECTED}")
    elif set(side_columns(plain)) != {"label"}:  # whether a plain label is one of two, its reader decides
        plain = labelled(plain)
    return with_system(separate_prompt(plain, SIDES if paired else ("completion",)))


def separate_prompt(row: Row, names: Sequence[str]) -> Row:
    """Return a row with its prompt in `prompt` and nothing of it in its responses, the columns `names`.

    Plain text stays plain; where one text is messages, all are. Raises ValueError where there is no prompt, where
    plain responses begin with the whole prompt, and where a response is not one turn of the assistant.
    """
    for name in names:
        if not isinstance(row[name], str):
            turns_of(row[name], "assistant", name)
    if (prompt := row.get("prompt")) is None:
        _refuse_renamed(row)
    texts = [isinstance(row[name], str) for name in names]
    if all(texts) and (prompt is None or isinstance(prompt, str)):
        return _separate_text(row, names)
    if prompt is None and any(texts):
        raise ValueError("chosen and rejected are text and messages; expected the same of both")
    return _separate_turns(row, names)


def _separate_text(row: Row, names: Sequence[str]) -> Row:
    if (prompt := row.get("prompt")) is None:
        if len(names) < 2:
            raise ValueError("it lacks the column 'prompt'; add it")
        if "prompt" in row:
            raise ValueError(
                "the column 'prompt' is null; fill it in, or drop the column where the texts begin with it"
            )
        _refuse_renamed(row, CONVERSATIONS)
        shared = shared_text(row["chosen"], row["rejected"])
        cut = {name: row[name][len(shared) :] for name in names}
        return {**rest_of(row, "prompt"), "prompt": shared, **cut, SHARED_TEXT: True}
    _refuse_repeated(prompt, row, names)
    return row


def _refuse_repeated(prompt: str, row: Row, names: Sequence[str]) -> None:
    """Raise ValueError where plain responses hold the whole prompt, perhaps between marks, before they differ."""
    texts = [row[name] for name in names]
    differ = next((n for n, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), None)
    shared = min(texts, key=len)[:differ].lstrip()
    text = prompt.strip()
    repeated = text in shared if len(names) > 1 else shared.startswith(text) and len(shared) > len(text)
    if repeated and len(words_of(text)) >= SHORTEST_REPEATED:
        raise ValueError(
            f"{' and '.join(names)} begin with the whole prompt ({prompt[:40]!r}), which would count twice; take it "
            "off them" + (", or leave the column 'prompt' out" if len(names) > 1 else "")
        )


def shared_text(chosen: str, rejected: str) -> str:
    """Return the prompt that both texts begin with, without its last character where that is a space.

    Source: `extract_prompt` of TRL 1.16, to the letter, its rule for texts of which one begins with the other (the last
    character of the shorter one is left to the response) included. Raises ValueError where they share no beginning.
    """
    shorter = min(len(chosen), len(rejected))
    shared = next((n for n in range(shorter) if chosen[n] != rejected[n]), shorter - 1)
    if shared > 0 and chosen[:shorter] != rejected[:shorter] and chosen[shared - 1] == " ":
        shared -= 1
    if shared < 1 or not chosen[:shared].strip():
        raise ValueError("there is no prompt, and chosen and rejected share no beginning; add the column 'prompt'")
    return chosen[:shared]


def whole_words(row: Row) -> Row:
    """Return a row of `training_row`; where a plain pair's shared text ends inside a word, the word goes to both sides.

    Text on its own is tokenised again, and the tokens of half a word are none of the word's. Of a space before the
    word the responses keep the last, as in TRL. Raises ValueError where the two share no whole word.
    """
    if not row.get(SHARED_TEXT):
        return row
    prompt, texts = row["prompt"], [row[side] for side in SIDES]
    boundary = max((match.end() for match in _BOUNDARY.finditer(prompt)), default=0)
    if boundary == len(prompt) or all(text[:1].isspace() for text in texts):
        return row
    boundary -= prompt[:boundary].endswith(" ")
    if not prompt[:boundary].strip():
        raise ValueError("there is no prompt, and chosen and rejected share no whole word; add the column 'prompt'")
    half = prompt[boundary:]
    return {**row, "prompt": prompt[:boundary], **{side: half + row[side] for side in SIDES}}


def _separate_turns(row: Row, names: Sequence[str]) -> Row:
    """Take the prompt's turns off the responses, or, where there is no prompt, the turns that the responses share."""
    sides = {name: turns_of(row[name], "assistant", name) for name in names}
    prompt_turns = None if row.get("prompt") is None else turns_of(row["prompt"], "user", "prompt")
    if prompt_turns is None:
        shared = _shared_turns(list(sides.values()))
        if not shared:
            raise ValueError("there is no prompt, and chosen and rejected share no beginning; add the column 'prompt'")
        prompt = shared
    else:
        prompt = next((turns[:-1] for turns in sides.values() if _repeats(turns[:-1], prompt_turns)), prompt_turns)
        if all(isinstance(row[name], str) for name in names):
            _refuse_repeated(plain_content(prompt[-1]["content"]), row, names)
    if prompt[-1]["role"] == "assistant":
        raise ValueError(
            "the prompt ends with a turn of the assistant; if responses continue it, begin them with it and put it "
            "into the column 'prefill'; else take it off"
        )
    for name, turns in sides.items():
        rest = _after(prompt, turns, own=prompt is prompt_turns)
        if [message["role"] for message in rest] != ["assistant"]:
            roles = ", ".join(message["role"] for message in rest)
            raise ValueError(
                f"{name} holds the turns {roles}; one turn of the assistant can be scored; put the others into prompt"
            )
        sides[name] = rest
    return {**row, "prompt": prompt, **sides}


def _shared_turns(sides: Sequence[Sequence[Message]]) -> list[Message]:
    most = min(map(len, sides)) - 1
    first = sides[0]
    shared = next((n for n in range(most) if any(not same_turns([first[n]], [side[n]]) for side in sides[1:])), most)
    return list(first[:shared])


def _after(prompt: Sequence[Message], turns: list[Message], *, own: bool) -> list[Message]:
    """Return the turns without the prompt before them; of a column of its `own`, the system turn may lack there."""
    for lead in (prompt, [message for message in prompt if message["role"] != "system"] if own else []):
        if lead and len(turns) > len(lead) and same_turns(turns[: len(lead)], lead):
            return turns[len(lead) :]
    return turns


def _repeats(lead: Sequence[Message], prompt: Sequence[Message]) -> bool:
    """Tell whether the turns before a response are the prompt, perhaps with a system turn that it lacks."""
    own = [message for message in lead if message["role"] != "system"]
    bare = [message for message in prompt if message["role"] != "system"]
    return bool(lead) and (same_turns(lead, prompt) or (bool(bare) and bare == list(prompt) and same_turns(own, bare)))


def same_turns(first: Sequence[Message], second: Sequence[Message]) -> bool:
    """Tell whether two conversations say the same, however their messages are written down."""
    return [_content(message) for message in first] == [_content(message) for message in second]


def _content(message: Message) -> Row:
    """Return what a turn says, however it is written down: columns that are null here are absent there."""
    fields = {name: value for name, value in message.items() if value not in (None, "", [])}
    content = message["content"]
    text = content if isinstance(content, str) else content and _text_or_parts(content)
    return {**fields, "content": text}


def _text_or_parts(content: Any) -> Any:
    try:
        return plain_content(content)
    except ValueError:
        return content


def with_system(row: Row) -> Row:
    """Return the row with the text of its `system` column as the conversation's first turn, and without an empty one.

    Raises ValueError where two system texts differ, and beside plain text, which has no place for one.
    """
    columns = {name: row[name] for name in row if str(name).strip().lower() in SYSTEM}
    empty = [name for name, value in columns.items() if is_absent(value) or str(value).strip() in ("", "[]", "{}")]
    columns = rest_of(columns, *empty)
    for name, value in columns.items():
        if isinstance(value, (list, Mapping)):
            raise ValueError(f"its column {name!r} holds {type(value).__name__}, expected text; put it into the prompt")
    texts = {name: value for name, value in columns.items() if isinstance(value, str)}
    row = rest_of(row, *texts, *empty)
    if not texts:
        return row
    if len(set(texts.values())) > 1:
        raise ValueError(f"its columns {' and '.join(map(repr, texts))} hold two system texts; keep the right one")
    column, system = next(iter(texts.items()))
    if isinstance(row["prompt"], str):
        raise ValueError("it has a system text beside plain text, which would not be seen; write the row as messages")
    turns = row["prompt"]
    if turns and turns[0]["role"] == "system":
        if plain_content(turns[0]["content"]) != system:
            raise ValueError(f"its column {column!r} is not the prompt's system turn; keep one of the two")
        return row
    return {**row, "prompt": [Message(role="system", content=system), *turns]}


def _refuse_renamed(row: Row, names: Sequence[str] = OTHER_PROMPTS) -> None:
    if near := nearest("prompt", [name for name in row if name != "prompt"]):
        raise ValueError(f"it lacks the column 'prompt'; is it {near!r}?")
    for name in row:
        if str(name).strip().lower() in names and row[name]:
            raise ValueError(f"it lacks the column 'prompt'; is it {name!r}? rename it")


def _meant(name: str, row: Row) -> str:
    near = nearest(name, row)
    return f"; is it {near!r}?" if near else ""
