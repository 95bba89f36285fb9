"""What a model returns for one conversation: its text, and how it ended or why there is none.

One conversation that cannot be answered must not end a run over hundreds, so its outcome is a value like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from divalign.data.examples import Conversation

FinishReason = Literal["stop", "length", "blocked", "too_long", "unreadable"]
FINISH_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Response(NamedTuple):
    """A model's response to one conversation.

    `finish_reason`:
        "stop": the model ended it. "length": cut at max_new_tokens or at the end of the context.
        "blocked": a content filter stopped the prompt or the response (`text` is what came before, often nothing).
        "too_long": the prompt does not fit the model's context. "unreadable": the prompt or the reply is not text.

    `reasoning` is what a server returned as the model's reasoning, apart from the text. `error` says why a response is
    missing. `dropped` names the request parameters that the server refused and that were left out. `server` is the
    address that responded, of a model on several servers.
    """

    text: str
    finish_reason: FinishReason = "stop"
    reasoning: str = ""
    error: str = ""
    dropped: tuple[str, ...] = ()
    server: str = ""

    @property
    def answered(self) -> bool:
        """Whether the model responded; where it is False there is nothing to judge: undecided, not safe or unsafe."""
        return self.finish_reason in ("stop", "length")

    def to_record(self) -> dict[str, Any]:
        """Return plain JSON for a row of a file; fields without content are left out, text and finish_reason never."""
        optional = {
            "reasoning": self.reasoning,
            "error": self.error,
            "dropped": list(self.dropped),
            "server": self.server,
        }
        return {"text": self.text, "finish_reason": self.finish_reason} | {k: v for k, v in optional.items() if v}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Response:
        """Return the response that `to_record` wrote; further columns are left alone.

        Raises ValueError for a finish_reason that is none of `FINISH_REASONS`, and KeyError for a missing column.
        """
        if record["finish_reason"] not in FINISH_REASONS:
            raise ValueError(
                f"got finish_reason {record['finish_reason']!r}, expected one of {', '.join(FINISH_REASONS)}"
            )
        fields = {name: record[name] for name in cls._fields if name in record}
        return cls(**{**fields, "dropped": tuple(record.get("dropped", ()))})


def texts_of(responses: Iterable[Response]) -> list[str]:
    """Return the texts. Raises ValueError for the first conversation without a response, with its index and reason."""
    texts = []
    for index, response in enumerate(responses):
        if not response.answered:
            raise ValueError(missing(index, response))
        texts.append(response.text)
    return texts


def missing(index: int, response: Response) -> str:
    """Return one sentence on why there is no response to conversation `index`."""
    return f"conversation {index}: no response ({response.finish_reason}): {response.error}"


def unreadable(conversation: Conversation) -> Response | None:
    """Return the outcome of a conversation that is no Unicode text, as a lone surrogate is not; None where it is."""
    turns = [*[message["content"] for message in conversation.messages], conversation.prefill]
    for number, text in enumerate(turns):
        if isinstance(text, str) and (match := _LONE_SURROGATE.search(text)):
            turn = "the prefill" if number == len(conversation.messages) else f"turn {number + 1}"
            reason = (
                f"character {match.start() + 1} of {turn} is a lone surrogate (U+{ord(match[0]):04X}), which no "
                "tokenizer or server can read; repair the prompt's encoding, or leave it out"
            )
            return Response("", "unreadable", error=reason)
    return None


def readable(text: str) -> str:
    """Return a text with U+FFFD for each lone surrogate, so that a file can hold it."""
    return _LONE_SURROGATE.sub("\ufffd", text)
