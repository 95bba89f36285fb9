"""Checks of rows and labels: what cannot be used, what is lopsided, what contradicts itself, what repeats itself."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from divalign.data.audit.facts import Facts, class_name
from divalign.data.audit.finding import Found, percent, share, shown
from divalign.data.minhash import near_duplicates
from divalign.data.overlap import find_overlap


def unusable_rows(facts: Facts) -> Found:
    """Count rows that training would refuse: unreadable, empty, or not opening with their own prefill."""
    empty = {place for place, prompt in enumerate(facts.prompts) if not prompt.strip()}
    unopened = set()
    for responses in facts.sides.values():
        for text, row in zip(*responses, strict=True):
            if not text.strip():
                empty.add(row)
            elif not text.startswith(facts.prefills[row]):
                unopened.add(row)
    bad = empty | unopened
    scale = facts.total / max(len(facts), 1)
    value = share(facts.unreadable + round(len(bad) * scale), facts.unreadable + facts.total)
    numbers = {
        "rows": facts.total,
        "looked at": len(facts),
        "unreadable": facts.unreadable,
        "empty prompt or response": len(empty),
        "response without its prefill": len(unopened),
    }
    words = f"{facts.unreadable} rows cannot be read, {len(empty)} have an empty prompt or response"
    words += f", {len(unopened)} have a response that does not open with its prefill" if unopened else ""
    return Found(value, words, numbers, shown(facts, sorted(bad)))


def repeated_ids(facts: Facts) -> Found:
    known = [(str(one), place) for place, one in enumerate(facts.ids) if one not in (None, "")]
    if not known:
        return Found(None, "no row has an id")
    counts = Counter(one for one, _ in known)
    repeated = [place for one, place in known if counts[one] > 1]
    words = f"{len(repeated)} of {len(known)} rows share their id with another"
    return Found(
        len(repeated) / len(known), words, {"rows": len(known), "repeated": len(repeated)}, shown(facts, repeated)
    )


def classes(facts: Facts) -> Found:
    counts = Counter(class_name(one) for one in facts.harmful)
    known = counts["harmful"] + counts["benign"]
    if not known:
        return Found(None, "no row says whether its prompt is harmful (column 'harmful')", dict(counts))
    larger = max(("harmful", "benign"), key=lambda name: counts[name])
    words = f"{counts['harmful']} rows are harmful and {counts['benign']} benign"
    words += f", {counts['class unknown']} do not say" if counts["class unknown"] else ""
    return Found(counts[larger] / known, words, dict(counts))


def sides(facts: Facts) -> Found:
    counts = {name: len(responses.texts) for name, responses in facts.sides.items()}
    pairs = len(set(facts.aligned.rows) & set(facts.unaligned.rows))
    words = f"{counts['aligned']} aligned and {counts['unaligned']} unaligned responses, {pairs} of each in pairs"
    return Found(share(max(counts.values()), sum(counts.values())), words, {**counts, "pairs": pairs})


def contradictions(facts: Facts) -> Found:
    """Find responses that are aligned here and unaligned there, and prompts of both classes."""
    labels: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for side, responses in facts.sides.items():
        for text, row in zip(*responses, strict=True):
            labels[facts.prompts[row], text].add(side)
    called: defaultdict[str, set[bool]] = defaultdict(set)
    for prompt, harmful in zip(facts.prompts, facts.harmful, strict=True):
        called[prompt] |= set() if harmful is None else {harmful}
    both = {row for row, prompt in enumerate(facts.prompts) if len(called[prompt]) > 1}
    torn = _torn_labels(facts, labels) - set(_identical(facts))
    bad = sorted(torn | both)
    numbers = {"response on both sides": len(torn), "prompt of both classes": len(both)}
    words = (
        f"{len(torn)} rows have a response that another row puts on the other side, "
        f"{len(both)} a prompt that is harmful here and benign there"
    )
    return Found(share(len(bad), len(facts)), words, numbers, shown(facts, bad))


def _torn_labels(facts: Facts, labels: dict[tuple[str, str], set[str]]) -> set[int]:
    return {
        row
        for responses in facts.sides.values()
        for text, row in zip(*responses, strict=True)
        if len(labels[facts.prompts[row], text]) > 1
    }


def identical_pairs(facts: Facts) -> Found:
    pairs = len(set(facts.aligned.rows) & set(facts.unaligned.rows))
    same = _identical(facts)
    words = f"{len(same)} of {pairs} pairs have the same text on both sides: nothing can be learnt from them"
    return Found(share(len(same), pairs), words, {"pairs": pairs, "identical": len(same)}, shown(facts, same))


def _identical(facts: Facts) -> list[int]:
    said = dict(zip(facts.aligned.rows, (text.strip() for text in facts.aligned.texts), strict=True))
    return [row for text, row in zip(*facts.unaligned, strict=True) if said.get(row) == text.strip()]


def repeated_rows(facts: Facts) -> Found:
    """Count rows whose prompt and responses nearly repeat those of an earlier row."""
    whole = [[prompt] for prompt in facts.prompts]
    for responses in facts.sides.values():
        for text, row in zip(*responses, strict=True):
            whole[row].append(text)
    found = near_duplicates(["\n".join(parts) for parts in whole])
    repeats = np.flatnonzero(found >= 0).tolist()
    words = f"{len(repeats)} of {len(facts)} rows nearly repeat an earlier one"
    return Found(
        share(len(repeats), len(facts)),
        words,
        {"rows": len(facts), "near-duplicates": len(repeats)},
        shown(facts, repeats),
    )


def leaks(facts: Facts) -> Found:
    """Find prompts of the evaluation sets among the training prompts."""
    if not facts.evaluations:
        return Found(None, "no evaluation set was given (--against)")
    found = {name: find_overlap(facts.prompts, prompts) for name, prompts in facts.evaluations.items()}
    worst = max(found, key=lambda name: found[name].share.value or 0.0)
    numbers = {name: {"prompts": one.n, "leaked": len(one.leaks), **one.counts} for name, one in found.items()}
    value = found[worst].share.value
    words = f"{len(found[worst].leaks)} of the {found[worst].n} prompts of {worst} ({percent(value)}) are trained on"
    return Found(value, words, numbers, shown(facts, sorted({leak.train for leak in found[worst].leaks})))
