"""Attack a model and keep its responses: a folder that is found again by content, whatever stopped it.

    attack.json          what was asked of whom, and the key of the finished responses
    responses.journal    every response as it came, checked line by line
    responses.jsonl      all of them in order, once the last has come
    gcg/, gcg.jsonl      states of white-box searches; their losses, without suffixes

Harmful prompts meet every attack, benign ones are asked directly. Under a protocol both meet every attack.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from divalign import __version__
from divalign.core.names import find
from divalign.data.examples import Conversation, Row
from divalign.safety.adaptive import led_on, perturbed
from divalign.safety.attacks import ATTACKS, OPENING, Attack, find_attack
from divalign.safety.evaluate import Generate, check_ids, with_responses
from divalign.safety.gcg import GcgOptions
from divalign.safety.journal import Journal
from divalign.safety.judges import JUDGES, Judge, Verdict, find_judge
from divalign.safety.protocols import PROTOCOLS, Protocol, follow
from divalign.store import cached_rows, digest, read_json, write_json, write_rows
from divalign.study.progress import Progress
from divalign.study.searching import searched
from divalign.study.writers import Writer, recalled

LED = {"pair": False, "crescendo": True}  # does the conversation go on from round to round
TRIES = re.compile(r"best_of_n\((\d+)\)")
ATTACKER_TOKENS = 256
UNJUDGED = Judge("unjudged", "0" * 64, lambda _prompts, responses: [Verdict(None, "not judged yet")] * len(responses))


class Means(NamedTuple):
    """How the attacks are run. `ends` is the judge that ends a search or a conversation early, not the one that counts.

    `protocol` sets the lengths of responses in place of `max_new_tokens`. `opening` is what GCG makes likely where a
    prompt brings no "target" of its own, as AdvBench's do: an opening that names the topic keeps the answer to it.
    """

    max_new_tokens: int = 64
    protocol: str | None = None
    attacker: Writer | None = None
    ends: Judge = JUDGES["refusal_strings"]
    rounds: int = 5
    opening: str = OPENING
    search: GcgOptions = GcgOptions()


def parse_attacks(texts: Sequence[str]) -> list[str]:
    """Return the names in comma-separated lists, each once; a text that begins with "template:" is one name."""
    parts = [[text] if text.startswith("template:") else text.split(",") for text in texts]
    return list(dict.fromkeys(name.strip() for part in parts for name in part if name.strip()))


def read_prompts(rows: Sequence[Row]) -> list[Row]:
    """Return prompts as every step below wants them: id (the row's number if it has none), prompt, harmful.

    A cluster that is null is none: else all such prompts would be one. Raises ValueError for a row without a text, a
    `harmful` that is not true or false, a cluster that is neither text nor number, and for two of one id.
    """
    prompts = []
    for number, row in enumerate(rows, start=1):
        text, harmful, target = row.get("prompt"), row.get("harmful", True), row.get("target", "?")
        if not (isinstance(text, str) and text.strip() and isinstance(harmful, bool)):
            raise ValueError(
                f"row {number} has prompt={text!r} and harmful={harmful!r}; expected a text, and true or false"
            )
        if not (isinstance(target, str) and target.strip()):
            raise ValueError(f"row {number} has target={target!r}; expected the opening of an answer, or no target")
        cluster = row.get("cluster")
        if isinstance(cluster, bool) or not isinstance(cluster, str | int | float | None):
            raise ValueError(f"row {number} has cluster={cluster!r}; expected a text or a number, or no cluster")
        row = {name: value for name, value in row.items() if name != "cluster" or value is not None}
        prompts.append({**row, "id": str(row.get("id", f"{number:04d}")), "prompt": text, "harmful": harmful})
    check_ids(prompts)
    return prompts


def attack_folder(
    target: Writer, prompts: Sequence[Row], names: Sequence[str], out: Path, *, means: Means, progress: Progress
) -> list[Row]:
    """Return the responses to every attack and prompt, writing only what the folder does not hold yet.

    A row has the prompt's columns, "attack", "response", and where there is one "try", "rounds", "message", "stage".
    Raises ValueError for a name that is no attack, an attack that lacks its means, and a folder of another model.
    """
    prompts = read_prompts(prompts)
    _check(names, target, means)
    key = _key(target, prompts, names, means)
    _claim(out, target, names, means, key)

    def make() -> list[Row]:
        with Journal(out / "responses.journal") as journal:
            if means.protocol is not None:
                return _by_protocol(find_protocol(means.protocol), target, prompts, names, journal, progress)
            shots, others = _split(names)
            rows = _shots(target, prompts, shots, journal, means, progress)
            for name in others:
                rows += _adaptive(
                    name, target, [row for row in prompts if row["harmful"]], out, journal, means, progress
                )
            return rows

    return cached_rows(out / "responses.jsonl", key, make)


def find_protocol(name: str) -> Protocol:
    """Return a protocol. Raises ValueError, naming the nearest, for an unknown name."""
    return find(name, PROTOCOLS, kind="protocol", of=Protocol)


def _shots(
    target: Writer, prompts: Sequence[Row], names: Sequence[str], journal: Journal, means: Means, progress: Progress
) -> list[Row]:
    """Ask all that needs one answer each, in one call, so that batches reach across attacks."""
    asked: list[tuple[Row, Conversation]] = []
    for name in names:
        for number, attack in _tries(name):
            mark = {"attack": name} if number is None else {"attack": name, "try": number}
            asked += [({**row, **mark}, attack(row["prompt"])) for row in prompts if row["harmful"]]
    direct = ATTACKS["direct"]
    asked += [({**row, "attack": "direct"}, direct(row["prompt"])) for row in prompts if not row["harmful"]]
    with progress("attacks", len(asked), "responses") as advance:
        recall = recalled(target, journal, means.max_new_tokens, advance=advance)
        return with_responses([row for row, _ in asked], recall([talk for _, talk in asked]))


def _adaptive(
    name: str, target: Writer, prompts: Sequence[Row], out: Path, journal: Journal, means: Means, progress: Progress
) -> list[Row]:
    """Run an attack that answers to the target."""
    write = recalled(target, journal, means.max_new_tokens)
    if name == "gcg":
        return _searched(target, write, prompts, out, means, progress)
    assert means.attacker is not None
    with progress(name, means.rounds * len(prompts), "responses") as advance:
        count = recalled(target, journal, means.max_new_tokens, advance=advance)
        ask = recalled(means.attacker, journal, ATTACKER_TOKENS)
        rows = led_on(ask, count, means.ends, prompts, name=name, step_by_step=LED[name], rounds=means.rounds)
    return [_without_verdict(row) for row in rows]


def _searched(
    target: Writer, write: Generate, prompts: Sequence[Row], out: Path, means: Means, progress: Progress
) -> list[Row]:
    """Search a suffix for each prompt, and keep the response to it; the losses go into gcg.jsonl."""
    assert target.lm is not None
    found = searched(
        target.lm(),
        write,
        [{"target": means.opening, **row} for row in prompts],
        out / "gcg",
        options=means.search,
        ends=means.ends,
        made_from=[target.key, means.max_new_tokens],
        progress=progress,
    )
    write_rows(out / "gcg.jsonl", [{name: row[name] for name in ("id", "succeeded", "losses")} for row in found])
    given = [row.keys() | {"attack", "steps", "response"} for row in prompts]
    return [{k: v for k, v in row.items() if k in names} for row, names in zip(found, given, strict=True)]


def _by_protocol(
    protocol: Protocol,
    target: Writer,
    prompts: Sequence[Row],
    names: Sequence[str],
    journal: Journal,
    progress: Progress,
) -> list[Row]:
    """Write what a protocol asks for. The last judge decides later; the ones before decide what is written anew."""
    judges = {stage.judge: find_judge(stage.judge) for stage in protocol.stages[:-1]}
    judges[protocol.stages[-1].judge] = UNJUDGED
    attacks = {name: find_attack(name) for name in names}
    with progress(protocol.name, len(names) * len(prompts) * len(protocol.stages), "responses") as advance:
        rows = follow(
            protocol,
            lambda talks, most: recalled(target, journal, most, advance=advance)(talks),
            judges,
            attacks,
            prompts,
        )
    return [_without_verdict(row) for row in rows]


def _without_verdict(row: Row) -> Row:
    lost = {*Verdict._fields, "judge", "judge_sha256", "protocol"}
    return {name: value for name, value in row.items() if name not in lost}


def _tries(name: str) -> list[tuple[int | None, Attack]]:
    """Return an attack's tries with their numbers; a single-shot attack has one and no number."""
    match = TRIES.fullmatch(name)
    return [(n, perturbed(n)) for n in range(int(match[1]))] if match else [(None, find_attack(name))]


def _split(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the attacks that need one answer per try, and those that answer to the target."""
    others = [name for name in names if name in LED or name == "gcg"]
    return [name for name in names if name not in others], others


def _check(names: Sequence[str], target: Writer, means: Means) -> None:
    """Meet every misspelt name and missing model before anything is written."""
    if not names:
        raise ValueError("no attack was named; known: " + ", ".join(_known()))
    shots, others = _split(names)
    for name in shots:
        match = TRIES.fullmatch(name)
        if match and not int(match[1]):
            raise ValueError("best_of_n(0) tries nothing; give at least best_of_n(1)")
        if not match and not name.startswith("template:"):
            find(name, {**ATTACKS, **dict.fromkeys(_known())}, kind="attack")
        _tries(name)
    if "gcg" in others and target.lm is None:
        raise ValueError("gcg needs the model's gradient, which a server does not give; name a local model")
    if set(others) & LED.keys() and means.attacker is None:
        raise ValueError(f"{min(set(others) & LED.keys())} needs a model that writes the messages; name an attacker")
    if means.protocol is not None:
        find_protocol(means.protocol)
        several = others + [name for name in shots if TRIES.fullmatch(name)]
        if several:
            raise ValueError(f"the protocols ask each prompt once, which {several[0]} does not; leave one of them out")


def _known() -> list[str]:
    return [*ATTACKS, "best_of_n(NUMBER)", *LED, "gcg", "template:TEXT OR FILE"]


def _key(target: Writer, prompts: Sequence[Row], names: Sequence[str], means: Means) -> str:
    """Return the address of the responses: everything they depend on, and nothing that they do not."""
    parts: list[Any] = [target.key, prompts, [_content(name) for name in names], means.max_new_tokens, means.protocol]
    led, searched = bool(LED.keys() & set(names)), "gcg" in names
    parts += [means.ends.sha256] if led or searched else []
    parts += [means.rounds, means.attacker and means.attacker.key] if led else []
    parts += [means.opening, asdict(means.search)] if searched else []
    return digest("responses", *parts)


def _content(name: str) -> str:
    """Return a name that changes with what it stands for: a template's text, not its file."""
    if name.startswith("template:"):
        filled = find_attack(name)("{prompt}")
        return digest("template", list(filled.messages))
    return name


def _claim(out: Path, target: Writer, names: Sequence[str], means: Means, key: str) -> None:
    """Say in the folder what is asked of whom. Raises ValueError where it holds another model's responses."""
    before = read_attack(out)
    if before is not None and before["target_key"] != target.key:
        raise ValueError(f"{out} holds responses of another model, {before['target']!r}; choose another --out")
    resumes = torn(out) and (out / "responses.journal").is_file()
    if (
        before is None
        and not resumes
        and out.exists()
        and (not out.is_dir() or any(p.name[0] != "." for p in out.iterdir()))
    ):
        raise ValueError(f"{out} exists and is no attack folder; choose another --out")
    asked = {
        "divalign": __version__,
        "target": target.name,
        "target_key": target.key,
        "attacks": list(names),
        "max_new_tokens": means.max_new_tokens,
        "protocol": means.protocol,
        "attacker": means.attacker and means.attacker.name,
        "ends": means.ends.id,
        "responses_key": key,
    }
    if asked != before:
        write_json(out / "attack.json", asked)


def read_attack(folder: Path) -> dict[str, Any] | None:
    """Return a folder's attack.json; None where there is none, or a kill or an editor left it torn."""
    try:
        content = read_json(folder / "attack.json")
    except (OSError, ValueError):
        return None
    return (
        content if isinstance(content, dict) and {"target", "target_key", "responses_key"} <= content.keys() else None
    )


def torn(folder: Path) -> bool:
    """Tell whether a folder has an attack.json that says nothing: it is an attack's, and nobody knows which one's."""
    return (folder / "attack.json").exists() and read_attack(folder) is None
