"""Checks of rows and labels: unusable rows, class balance, contradictions, duplicates and leaks."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from divalign.data.audit.facts import Facts, class_name
from divalign.data.audit.finding import AuditFinding, percent, share, shown
from divalign.data.minhash import near_duplicates
from divalign.data.overlap import find_overlap
from divalign.data.words import TurnText

_Labelled = tuple[tuple[TurnText, ...], str]  # a prompt's turns and a response to them


def unusable_rows(facts: Facts) -> AuditFinding:
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
    return AuditFinding(value, words, numbers, shown(facts, sorted(bad)))


def repeated_ids(facts: Facts) -> AuditFinding:
    ids = [(str(row_id), place) for place, row_id in enumerate(facts.ids) if row_id not in (None, "")]
    if not ids:
        return AuditFinding(None, "no row has an id")
    counts = Counter(row_id for row_id, _ in ids)
    repeated = [place for row_id, place in ids if counts[row_id] > 1]
    words = f"{len(repeated)} of {len(ids)} rows share their id with another"
    return AuditFinding(
        len(repeated) / len(ids), words, {"rows": len(ids), "repeated": len(repeated)}, shown(facts, repeated)
    )


def classes(facts: Facts) -> AuditFinding:
    counts = Counter(class_name(harmful) for harmful in facts.harmful)
    labelled = counts["harmful"] + counts["benign"]
    if not labelled:
        return AuditFinding(None, "no row says whether its prompt is harmful (column 'harmful')", dict(counts))
    larger = max(("harmful", "benign"), key=lambda name: counts[name])
    words = f"{counts['harmful']} rows are harmful and {counts['benign']} benign"
    words += f", {counts['class unknown']} do not say" if counts["class unknown"] else ""
    return AuditFinding(counts[larger] / labelled, words, dict(counts))


def sides(facts: Facts) -> AuditFinding:
    counts = {name: len(responses.texts) for name, responses in facts.sides.items()}
    pairs = len(set(facts.aligned.rows) & set(facts.unaligned.rows))
    words = f"{counts['aligned']} aligned and {counts['unaligned']} unaligned responses, {pairs} of each in pairs"
    return AuditFinding(share(max(counts.values()), sum(counts.values())), words, {**counts, "pairs": pairs})


def contradictions(facts: Facts) -> AuditFinding:
    """Find responses that are aligned here and unaligned there, and prompts of both classes."""
    labels: defaultdict[_Labelled, set[str]] = defaultdict(set)
    for side, responses in facts.sides.items():
        for text, row in zip(*responses, strict=True):
            labels[facts.contexts[row], text].add(side)
    called: defaultdict[tuple[TurnText, ...], set[bool]] = defaultdict(set)
    for prompt, harmful in zip(facts.contexts, facts.harmful, strict=True):
        called[prompt] |= set() if harmful is None else {harmful}
    both = {row for row, prompt in enumerate(facts.contexts) if len(called[prompt]) > 1}
    contradictory = _contradictory_responses(facts, labels) - set(_identical(facts))
    bad = sorted(contradictory | both)
    numbers = {"response on both sides": len(contradictory), "prompt of both classes": len(both)}
    words = (
        f"{len(contradictory)} rows have a response that another row puts on the other side, "
        f"{len(both)} a prompt that is harmful here and benign there"
    )
    return AuditFinding(share(len(bad), len(facts)), words, numbers, shown(facts, bad))


def _contradictory_responses(facts: Facts, labels: dict[_Labelled, set[str]]) -> set[int]:
    return {
        row
        for responses in facts.sides.values()
        for text, row in zip(*responses, strict=True)
        if len(labels[facts.contexts[row], text]) > 1
    }


def identical_pairs(facts: Facts) -> AuditFinding:
    pairs = len(set(facts.aligned.rows) & set(facts.unaligned.rows))
    same = _identical(facts)
    words = f"{len(same)} of {pairs} pairs have the same text on both sides: nothing can be learnt from them"
    return AuditFinding(share(len(same), pairs), words, {"pairs": pairs, "identical": len(same)}, shown(facts, same))


def _identical(facts: Facts) -> list[int]:
    aligned = dict(zip(facts.aligned.rows, (text.strip() for text in facts.aligned.texts), strict=True))
    return [row for text, row in zip(*facts.unaligned, strict=True) if aligned.get(row) == text.strip()]


def rendered_alike(facts: Facts) -> AuditFinding:
    """Count pairs whose sides are the same tokens under the chat template, as training counts them."""
    if facts.renders_alike is None:
        return AuditFinding(None, "no chat template was given (--tokenizer FOLDER, --chat-template)")
    same = [place for place, alike in facts.alike.items() if alike]
    refused = [place for place, alike in facts.alike.items() if alike is None]
    texts_differ = len(set(same) - set(_identical(facts)))
    words = (
        f"{len(same)} of {len(facts.alike)} pairs render alike, {texts_differ} of them with different texts, which the "
        "template drops or max_length cuts"
    )
    words += f"; {len(refused)} cannot be rendered" if refused else ""
    numbers = {"pairs": len(facts.alike), "alike": len(same), "texts differ": texts_differ, "refused": len(refused)}
    return AuditFinding(share(len(same), len(facts.alike) - len(refused)), words, numbers, shown(facts, same))


def repeated_rows(facts: Facts) -> AuditFinding:
    """Count rows whose prompt and responses nearly repeat those of an earlier row."""
    whole = [[prompt] for prompt in facts.prompts]
    for responses in facts.sides.values():
        for text, row in zip(*responses, strict=True):
            whole[row].append(text)
    originals = near_duplicates(["\n".join(parts) for parts in whole])
    repeats = np.flatnonzero(originals >= 0).tolist()
    words = f"{len(repeats)} of {len(facts)} rows nearly repeat an earlier one"
    return AuditFinding(
        share(len(repeats), len(facts)),
        words,
        {"rows": len(facts), "near-duplicates": len(repeats)},
        shown(facts, repeats),
    )


def leaks(facts: Facts) -> AuditFinding:
    """Find prompts of the evaluation sets among the training prompts."""
    if not facts.evaluations:
        return AuditFinding(None, "no evaluation set was given (--against)")
    overlaps = {name: find_overlap(facts.prompts, prompts) for name, prompts in facts.evaluations.items()}
    worst = max(overlaps, key=lambda name: overlaps[name].share.value or 0.0)
    numbers = {
        name: {"prompts": overlap.n, "leaked": len(overlap.leaks), **overlap.counts}
        for name, overlap in overlaps.items()
    }
    value = overlaps[worst].share.value
    words = (
        f"{len(overlaps[worst].leaks)} of the {overlaps[worst].n} prompts of {worst} ({percent(value)}) are trained on"
    )
    return AuditFinding(value, words, numbers, shown(facts, sorted({leak.train for leak in overlaps[worst].leaks})))
