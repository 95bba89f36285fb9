"""Checks of the texts: control tokens, prompt injections, personal data, length in tokens, licences."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from divalign.data.audit.facts import Facts
from divalign.data.audit.finding import AuditFinding, percent, share, shown
from divalign.data.control_tokens import CONTROL_TOKENS

# Text that a chat template or tokenizer turns into control tokens: trained on, it is learnt as text, or ends a turn.
MARKERS = re.compile(
    rf"{CONTROL_TOKENS}"
    r"|^[ \t]{0,9}(?:### ?)?(?:Human|Assistant|User|System|Instruction|Response|USER|ASSISTANT) ?:",
    re.MULTILINE,
)
# Text that speaks to another model: to one that reads the data (a rater, an annotator), or to the one in training.
INJECTIONS = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,30}\b(?:previous|prior|above|earlier|all)\b.{0,30}"
    r"\b(?:instructions?|prompts?|rules|messages?)\b"
    r"|\b(?:reveal|print|repeat)\b.{0,20}\b(?:system prompt|instructions above)\b"
    r"|\byou are now (?:in )?(?:developer mode|dan|unrestricted|jailbroken)\b",
    re.IGNORECASE,
)
# What a match holds in any case, in small letters: found ten times as fast as a pattern is tried.
MARKER_HINTS = ("<", "[", "◁", ":")
INJECTION_HINTS = ("ignore", "disregard", "forget", "override", "reveal", "print", "repeat", "you are now")
_EMAIL = re.compile(r"\b[\w.+-]{1,64}@([\w-]{1,63}(?:\.[\w-]{1,63})+)\b")
_RESERVED = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net)|example|invalid|test|localhost)$", re.IGNORECASE)
_DIGITS = re.compile(r"(?<![\w.,/-])\+?\(?\d[\d ().-]{7,22}\d(?![\w/]|[.,-]\d)")
_GROUPED = re.compile(r"\+\d[\d ().-]{7,17}\d|(?:\(\d{2,4}\) ?|\d{3}[ .-])\d{3,4}[ .-]\d{3,4}")
_INVENTED_PHONE = re.compile(r"\b555[ .-]?01\d\d$|123[ .-]?456[ .-]?7890$")
_IP = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]\d|\w)")
NON_COMMERCIAL = re.compile(r"\bnc\b|non-?commercial|research[- ]only", re.IGNORECASE)
NO_LICENCE = re.compile(
    r"|not?[ _-]?(?:stated|specified|given|verified|known|licen[cs]ed?|provided|available)|un(?:known|specified|stated|"
    r"verified|licensed)|none|null|nan|n/?a|todo|tbd|missing|[?.-]+",
    re.IGNORECASE,
)


def chat_markers(facts: Facts) -> AuditFinding:
    places = {
        "control tokens or turn marks": (MARKERS, MARKER_HINTS),
        "orders to a model": (INJECTIONS, INJECTION_HINTS),
    }
    numbers, bad, total = dict.fromkeys(places, 0), [], 0
    for responses in facts.sides.values():
        total += len(responses.texts)
        for text, row in zip(*responses, strict=True):
            small = text.lower()
            matches = [
                name
                for name, (pattern, hints) in places.items()
                if any(hint in small for hint in hints) and pattern.search(text)
            ]
            for name in matches:
                numbers[name] += 1
            bad += [row] if matches else []
    words = f"{len(bad)} of {total} responses hold " + " or ".join(places)
    return AuditFinding(share(len(bad), total), words, {**numbers, "responses": total}, shown(facts, sorted(set(bad))))


def _emails(text: str) -> Iterator[str]:
    if "@" in text:
        yield from (match[0] for match in _EMAIL.finditer(text) if not _RESERVED.search(match[1]))


def _phones(text: str) -> Iterator[str]:
    for match in _DIGITS.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if 9 <= len(digits) <= 15 and _GROUPED.fullmatch(match[0]) and not _INVENTED_PHONE.search(match[0]):
            yield match[0]


def _cards(text: str) -> Iterator[str]:
    for match in _DIGITS.finditer(text):
        digits = re.sub(r"[ -]", "", match[0])
        if digits.isdigit() and 13 <= len(digits) <= 19 and digits[0] in "3456" and luhn(digits):
            yield match[0]


def luhn(digits: str) -> bool:
    """Tell whether the last digit is the check digit of the others. Source: ISO/IEC 7812-1, annex B."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(number - 9 * (number > 9) for number in doubled) % 10 == 0 and len(set(digits)) > 1


def _addresses(text: str) -> Iterator[str]:
    for match in _IP.finditer(text):
        parts = match[0].split(".")
        if (
            all(int(part) < 256 and str(int(part)) == part for part in parts)
            and ipaddress.ip_address(match[0]).is_global
        ):
            yield match[0]


PERSONAL: dict[str, Callable[[str], Iterator[str]]] = {
    "email address": _emails,
    "telephone number": _phones,
    "payment card number": _cards,
    "IP address": _addresses,
}
_HINT = re.compile(r"@|\d[\d ().-]{5,}\d")


def personal_data(facts: Facts) -> AuditFinding:
    """Count rows with text of the form of personal data, in any turn; the text itself is not repeated."""
    numbers, bad = dict.fromkeys(PERSONAL, 0), set()
    texts = [(text, row) for row, text in enumerate(facts.context_texts)]
    texts += [item for responses in facts.sides.values() for item in zip(*responses, strict=True)]
    for text, row in texts:
        if _HINT.search(text):
            for name, matches in PERSONAL.items():
                if next(matches(text), None) is not None:
                    numbers[name] += 1
                    bad.add(row)
    words = f"{len(bad)} of {len(facts)} rows hold what looks like personal data"
    kinds = ", ".join(f"{name} in {count}" for name, count in numbers.items() if count)
    return AuditFinding(
        share(len(bad), len(facts)), f"{words}: {kinds}" if kinds else words, numbers, shown(facts, sorted(bad))
    )


def too_long(facts: Facts) -> AuditFinding:
    """Count rows of which all turns together have more tokens than training will read."""
    if facts.count_tokens is None:
        return AuditFinding(None, "no tokenizer was given (--tokenizer)")
    prompts = facts.count_tokens(facts.context_texts)
    bad, longest = set(), 0
    for responses in facts.sides.values():
        for count, row in zip(facts.count_tokens(responses.texts), responses.rows, strict=True):
            longest = max(longest, prompts[row] + count)
            if prompts[row] + count > facts.max_length:
                bad.add(row)
    words = f"{len(bad)} of {len(facts)} rows are longer than {facts.max_length} tokens; the longest has {longest}"
    numbers = {"rows": len(facts), "over the limit": len(bad), "longest": longest, "limit": facts.max_length}
    return AuditFinding(share(len(bad), len(facts)), words, numbers, shown(facts, sorted(bad)))


def licences(facts: Facts) -> AuditFinding:
    """Say where rows come from and under which licence; a card beside the file speaks for rows that do not."""
    card = stated_licence(facts.card.get("licence") or facts.card.get("license"))
    source = str(facts.card.get("source") or "")
    counts = Counter(
        (origin or source or "unknown source", stated_licence(licence) or card or "unknown licence")
        for origin, licence in facts.provenance
    )
    unknown = sum(n for (_, licence), n in counts.items() if licence == "unknown licence")
    bound = sum(n for (_, licence), n in counts.items() if NON_COMMERCIAL.search(licence))
    numbers = {f"{origin}: {licence}": count for (origin, licence), count in counts.most_common(20)}
    value = share(unknown + bound, len(facts))
    words = f"{percent(share(unknown, len(facts)))} of rows have no licence, {percent(share(bound, len(facts)))} one "
    return AuditFinding(value, words + "that forbids commercial use", numbers)


def stated_licence(value: Any) -> str:
    """Return a licence as text; empty where none is stated, or for one of several sources none is.

    "not stated" and its like are no licence: they say that nobody knows.
    """
    parts = [str(part).strip() for part in value] if isinstance(value, (list, tuple)) else str(value or "").split(",")
    stated = [part.strip() for part in parts]
    return "" if any(NO_LICENCE.fullmatch(part) for part in stated) else ", ".join(stated)
