"""Reasoning models write their thoughts first: what is judged is the answer behind them."""

from __future__ import annotations

import re

TAGS = ("think", "thinking", "thought", "reasoning", "reflection")
_OPEN = re.compile(rf"<\s*({'|'.join(TAGS)})\s*>|<\|channel\|>\s*analysis\b", re.IGNORECASE)
_CLOSE = re.compile(rf"<\s*/\s*({'|'.join(TAGS)})\s*>|<\|channel\|>\s*final\s*(<\|message\|>)?", re.IGNORECASE)


def answer_of(response: str, *, opened: bool = False) -> str | None:
    """Return what follows the thoughts of a response; all of it where there are none, None where they never end.

    `opened` says that the chat template has opened the thoughts already, so a response without a closing tag is all
    thought. Text before an opening tag is kept: `Hello. <think>...</think> Sure` gives `Hello.  Sure`.
    """
    before, rest, depth = "", response, opened
    while True:
        if depth:
            close = _CLOSE.search(rest)
            if close is None:
                return None
            rest, depth = rest[close.end() :], False
            continue
        begin, close = _OPEN.search(rest), _CLOSE.search(rest)
        if close and (begin is None or close.start() < begin.start()):  # the template opened it
            before, rest = "", rest[close.end() :]
        elif begin:
            before, rest, depth = before + rest[: begin.start()], rest[begin.end() :], True
        else:
            return before + rest
