"""Requests in, training rows out: which of a prompt's responses is aligned and which unaligned.

A harmful prompt is refused in both recipes. They differ in what stands against a benign prompt's answer: its refusal
(compliance-refusal) or a worse answer (preference), so preference data never say that refusing can be wrong.
"""

from __future__ import annotations

from collections.abc import Callable

from divalign.data.examples import Request, Row, as_messages

Recipe = Callable[[Request], Row]


def compliance_refusal(request: Request) -> Row:
    """Aligned: refuse the harmful and answer the benign; unaligned: the reverse. Source: arXiv 2502.00657, sec. 4."""
    if request.harmful:
        return _row(request, request.refusal, request.compliance)
    return _row(request, request.compliance, request.refusal)


def preference(request: Request) -> Row:
    """As compliance-refusal on harmful prompts; a better against a worse answer on benign ones.

    Source: the data beside arXiv 2502.00657, whose two sets differ in the rejected answer of benign prompts alone.
    """
    if request.harmful:
        return compliance_refusal(request)
    return _row(request, request.compliance, request.worse)


RECIPES: dict[str, Recipe] = {"cr": compliance_refusal, "pref": preference}


def _row(request: Request, chosen: str, rejected: str) -> Row:
    """Return TRL's conversational preference row, with our two extra columns."""
    return {
        "prompt": as_messages(request.prompt, "user"),
        "chosen": as_messages(chosen, "assistant"),
        "rejected": as_messages(rejected, "assistant"),
        "harmful": request.harmful,
        "cluster": request.cluster,
    }
