"""The table of attacks: single-shot ones rewrite a prompt, adaptive ones use the target's responses."""

from __future__ import annotations

from collections.abc import Iterable

from divalign.core.names import find, source_of
from divalign.safety.adaptive import CRESCENDO, PAIR, AdaptiveAttack, best_of_n
from divalign.safety.single_shot import (
    Attack,
    base64,
    direct,
    leetspeak,
    many_shot,
    prefill,
    prefix_injection,
    refusal_suppression,
    rot13,
    template,
    wrapper,
)
from divalign.safety.suffix_search import GCG
from divalign.store import digest

SINGLE_SHOTS: dict[str, Attack] = {
    "direct": direct,
    "prefill": prefill,
    "wrapper": wrapper,
    "refusal_suppression": refusal_suppression,
    "prefix_injection": prefix_injection,
    "base64": base64,
    "rot13": rot13,
    "leetspeak": leetspeak,
    "many_shot": many_shot,
}
ADAPTIVE: dict[str, AdaptiveAttack] = {
    "pair": PAIR,
    "crescendo": CRESCENDO,
    "gcg": GCG,
}
ATTACKS: dict[str, Attack | AdaptiveAttack] = {**SINGLE_SHOTS, **ADAPTIVE}
FAMILIES = {"best_of_n": best_of_n}
TEMPLATE = "template:"


def find_attack(name: str) -> Attack | AdaptiveAttack:
    """Return an attack: a name of `ATTACKS`, best_of_n(NUMBER), "template:" and a text or file with {prompt} in it, or
    "pkg.module:thing".

    Raises ValueError, naming the nearest, for an unknown name, and for a template without its slot.
    """
    if name.startswith(TEMPLATE):
        return template(name.removeprefix(TEMPLATE))
    return find(name, ATTACKS, kind="attack", families=FAMILIES)


def attack_content(name: str) -> str:
    """Return a name that changes with what it stands for: a template's text, not its file; an own attack's code."""
    if name.startswith(TEMPLATE):
        return digest("template", list(find_single_shot(name)("{prompt}").messages))
    code = source_of(name)
    return digest("own", name, code) if code else name


def edited_contents(names: Iterable[str]) -> list[str]:
    """Return the contents of those attacks that are more than their names: templates and attacks of one's own."""
    return [content for name in names if (content := attack_content(name)) != name]


def find_single_shot(name: str) -> Attack:
    """Return an attack of one conversation a prompt. Raises ValueError for an adaptive one, and as `find_attack`."""
    attack = find_attack(name)
    if isinstance(attack, AdaptiveAttack):
        raise ValueError(f"the attack {name!r} answers to the target, so it is no single conversation; leave it out")
    return attack
