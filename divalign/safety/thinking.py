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
    parts, place, depth, thought = [], 0, opened, opened
    begin, close = _OPEN.search(response), _CLOSE.search(response)
    while True:  # one pass: a mark is looked for again only once it has been passed
        if begin and begin.start() < place:
            begin = _OPEN.search(response, place)
        if close and close.start() < place:
            close = _CLOSE.search(response, place)
        if depth:
            if close is None:
                return None
            place, depth = close.end(), False
        elif close and (begin is None or close.start() < begin.start()):  # the template opened it
            parts, place, thought = [], close.end(), True
        elif begin:
            parts.append(response[place : begin.start()])
            place, depth, thought = begin.end(), True, True
        else:
            answer = "".join([*parts, response[place:]])
            return _AROUND.sub("", answer) if thought else answer
