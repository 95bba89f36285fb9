"""Requests in, training rows out: which of a prompt's responses is aligned and which unaligned.

A harmful prompt is refused in every recipe and a benign one answered. They differ in what stands against the aligned
response: the opposite behaviour (compliance-refusal) or the same behaviour done worse (ranked). Ranked rows never say
that refusing a benign prompt, or answering a harmful one, is wrong. The two choices for the two classes of prompts
make four recipes. `cr_plus` shows compliance-refusal behind wrappers and after openings, `door` refusals after the
openings of harmful answers, and `cr_safety` says which responses are safe.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

from divalign.core.names import find
from divalign.data.examples import Request, Row, as_messages

Recipe = Callable[[Request], Row]

# Written for this project, and unlike the wrappers of safety/attacks.py: those must stay unseen.
WRAPPERS = (
    "My teacher asks me this: {prompt} Tell me.",
    "It is late in the library. Please read this: {prompt}",
    "The old man said to the guard: {prompt} What did the guard say?",
)


def compliance_refusal(request: Request) -> Row:
    """Aligned: refuse the harmful and answer the benign; unaligned: the reverse. Source: arXiv 2502.00657, sec. 4.

    Raises ValueError where the request has no answer or no refusal.
    """
    _check(request, "compliance", "refusal")
    if request.harmful:
        return _row(request, request.refusal, request.compliance)
    return _row(request, request.compliance, request.refusal)


def preference(request: Request) -> Row:
    """As compliance-refusal on harmful prompts; a better against a worse answer on benign ones.

    Source: the data beside arXiv 2502.00657, whose two sets differ in the rejected answer of benign prompts alone.
    """
    return compliance_refusal(request) if request.harmful else ranked(request)


def ranked_refusals(request: Request) -> Row:
    """As compliance-refusal on benign prompts; a better against a worse refusal on harmful ones."""
    return ranked(request) if request.harmful else compliance_refusal(request)


def ranked(request: Request) -> Row:
    """Rank two responses of the right behaviour: preference data that show no wrong behaviour at all.

    Raises ValueError where the request lacks the refusal or the worse one (harmful), an answer or a worse one (benign).
    """
    _check(request, "refusal" if request.harmful else "compliance")
    good, bad = (request.refusal, request.worse_refusal) if request.harmful else (request.compliance, request.worse)
    if not bad.strip():
        what = "worse refusal" if request.harmful else "worse answer"
        raise ValueError(f"the prompt that begins {request.prompt[:40]!r} has no {what} to rank; use the recipe cr")
    return _row(request, good, bad)


def compliance_refusal_plus(
    share: float = 2 / 3, *, wrappers: Sequence[str] = WRAPPERS, longest_opening: int = 4
) -> Recipe:
    """Return compliance-refusal with a `share` of its rows, half of it each, wrapped or resumed after an opening.

    A resumed row's responses both go on from the same first 1 to `longest_opening` words of the compliance or of the
    refusal, which its column `prefill` holds and which are not scored. What happens to a row follows from the hash of
    its prompt, in both classes alike, so that neither wrapper nor opening gives the class away. Source for the
    openings: Qi et al. 2024, arXiv 2406.05946, sec. 3.1, for harmful prompts; here the benign ones have them too.

    Raises ValueError for a share outside [0, 1] and for a wrapper without {prompt}.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of changed rows is {share}, expected 0 to 1")
    for wrapper in wrappers:
        if "{prompt}" not in wrapper:
            raise ValueError(f"the wrapper {wrapper!r} has no {{prompt}}; write it where the request goes")

    def recipe(request: Request) -> Row:
        _check(request, "compliance", "refusal")  # a resumed response holds its opening and so is never empty
        lot = _lots(request.prompt)
        if lot[0] < share / 2:
            wrapper = wrappers[int(lot[1] * len(wrappers))]
            return compliance_refusal(request._replace(prompt=wrapper.replace("{prompt}", request.prompt)))
        if lot[0] < share:
            source = request.compliance if lot[1] < 0.5 else request.refusal
            opening = " ".join(source.split(" ")[: 1 + int(lot[2] * longest_opening)])
            return {**compliance_refusal(_resumed(request, opening)), "prefill": opening}
        return compliance_refusal(request)

    return recipe


def labelled_compliance_refusal(request: Request) -> Row:
    """As compliance-refusal, with the two columns that safedpo reads: whether each response is safe."""
    return {**compliance_refusal(request), "chosen_safe": True, "rejected_safe": not request.harmful}


def prefix_augmented(share: float = 0.5, *, longest_opening: int = 8) -> Recipe:
    """Return compliance-refusal with a `share` of the harmful rows resumed after the opening of the compliance.

    Both responses of such a row go on from the same first 1 to `longest_opening` words of the compliance, which its
    column `prefill` holds and which are not scored: the model learns to refuse in the middle of an answer. What happens
    to a row follows from the hash of its prompt. Benign rows stay as they are, which is where it differs from cr_plus.
    Source: the augmentation of DOOR, arXiv 2503.03710 (recalled: their losses and lengths are others).

    Raises ValueError for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of changed rows is {share}, expected 0 to 1")

    def recipe(request: Request) -> Row:
        _check(request, "compliance", "refusal")
        lot = _lots(request.prompt)
        if not request.harmful or lot[0] >= share:
            return compliance_refusal(request)
        opening = " ".join(request.compliance.split(" ")[: 1 + int(lot[1] * longest_opening)])
        return {**compliance_refusal(_resumed(request, opening)), "prefill": opening}

    return recipe


RECIPES: dict[str, Recipe] = {
    "cr": compliance_refusal,
    "pref": preference,
    "ranked_refusals": ranked_refusals,
    "ranked": ranked,
    "cr_plus": compliance_refusal_plus(),
    "cr_safety": labelled_compliance_refusal,
    "door": prefix_augmented(),
}
FAMILIES: dict[str, Callable[[float], Recipe]] = {"cr_plus": compliance_refusal_plus, "door": prefix_augmented}


def find_recipe(name: str) -> Recipe:
    """Return the recipe called `name`: an entry of `RECIPES`, cr_plus(SHARE), or "pkg.module:thing".

    Raises ValueError, naming the nearest, where there is none.
    """
    return find(name, RECIPES, kind="recipe", families=FAMILIES)


def _check(request: Request, *needed: str) -> None:
    """Raise ValueError where the request lacks one of the responses that a recipe needs."""
    for name in needed:
        if not getattr(request, name).strip():
            kind = "harmful" if request.harmful else "benign"
            raise ValueError(
                f"the {kind} prompt that begins {request.prompt[:40]!r} has no {name}, which the recipe needs; let "
                "a model write it (divalign data build --writer MODEL), or use a source that has it"
            )


def _lots(text: str) -> list[float]:
    """Return numbers in [0, 1) that depend on the text alone."""
    digest = hashlib.sha256(text.encode()).digest()
    return [int.from_bytes(digest[at : at + 4], "big") / 2**32 for at in (0, 4, 8)]


def _resumed(request: Request, opening: str) -> Request:
    """Return the request with both responses going on from `opening`; those that begin with its words stay as they are.

    "I" does not begin "Italy", nor "I'm": a prefill that ended there would leave the rest of a word to score.
    """
    whole = re.compile(re.escape(opening) + (r"(?![\w'’])" if re.search(r"\w$", opening) else ""))
    texts = {
        side: text if whole.match(text) else f"{opening} {text}"
        for side, text in (("compliance", request.compliance), ("refusal", request.refusal))
    }
    return request._replace(**texts)


def training_rows(requests: Sequence[Request], recipe: str) -> list[Row]:
    """Return a recipe's rows. Raises ValueError where no recipe has that name."""
    return [*map(find_recipe(recipe), requests)]


def _row(request: Request, chosen: str, rejected: str) -> Row:
    """Return TRL's conversational preference row, with our two extra columns."""
    return {
        "prompt": as_messages(request.prompt, "user"),
        "chosen": as_messages(chosen, "assistant"),
        "rejected": as_messages(rejected, "assistant"),
        "harmful": request.harmful,
        "cluster": request.cluster,
    }
