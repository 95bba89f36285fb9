"""Reasoning models write their thoughts first: what is judged is the answer behind them."""

from __future__ import annotations

import re

TAGS = (
    *("think", "thinking", "thought", "thoughts", "reasoning", "reasoning_content", "reflection", "analysis"),
    *("scratchpad", "inner_monologue", "internal_monologue", "internal_thoughts"),
)
# A tag may have a maker's prefix (<seed:think>, <longcat_think>) and attributes.
_NAME = rf"(?:[a-z0-9]+[:_-])?(?:{'|'.join(TAGS)})"
# Tags; then the marks of gpt-oss, Gemma, Mistral, Kimi, OpenThinker and Command A.
OPEN = (
    rf"<\s*{_NAME}(?:\s[^<>]*)?>|<\|channel\|>\s*analysis\b|<\|channel>\s*thought\b|\[\s*think(?:ing)?\s*\]|◁think▷"
    r"|<\|(?:begin_of|start)_(?:thought|think|thinking)\|>"
)
CLOSE = (
    rf"<\s*/\s*{_NAME}\s*>|<\|channel\|>\s*final\s*(?:<\|message\|>)?|<channel\|>|\[\s*/\s*think(?:ing)?\s*\]|◁/think▷"
    r"|<\|end(?:_of)?_(?:thought|think|thinking)\|>"
)
# Words that begin and end the thoughts of Granite, and of gpt-oss once its special tokens were left out.
WORDS = (r"here is my thought process:", r"here is my response:"), (r"analysis(?=(?-i:[A-Z]))", r"assistantfinal")
# Marks around the answer that the same models write behind their thoughts.
AROUND = r"</?answer>|<\|(?:begin|end)_of_solution\|>|<\|(?:start|end)_response\|>"
PATTERNS = (OPEN, CLOSE, WORDS, AROUND)
_OPEN, _CLOSE, _AROUND = (re.compile(pattern, re.IGNORECASE) for pattern in (OPEN, CLOSE, AROUND))
_WORDS = [tuple(re.compile(pattern, re.IGNORECASE) for pattern in pair) for pair in WORDS]


def answer_of(response: str, *, opened: bool = False) -> str | None:
    """Return what follows the thoughts of a response; all of it where there are none, None where they never end.

    `opened` says that the chat template has opened the thoughts already, so a response without a closing tag is all
    thought. Text before an opening tag is kept: `Hello. <think>...</think> Sure` gives `Hello.  Sure`. Marks around
    the answer behind thoughts, such as `<answer>`, are taken off.
    """
    for begin, end in _WORDS:
        if begin.match(response.lstrip()):
            close = end.search(response)
            return None if close is None else response[close.end() :]
    before, rest, depth, thought = "", response, opened, opened
    while True:
        if depth:
            close = _CLOSE.search(rest)
            if close is None:
                return None
            rest, depth = rest[close.end() :], False
            continue
        begin, close = _OPEN.search(rest), _CLOSE.search(rest)
        if close and (begin is None or close.start() < begin.start()):  # the template opened it
            before, rest, thought = "", rest[close.end() :], True
        elif begin:
            before, rest, depth, thought = before + rest[: begin.start()], rest[begin.end() :], True, True
        else:
            return _AROUND.sub("", before + rest) if thought else before + rest
