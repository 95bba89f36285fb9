"""Attack a model and store its responses in a folder. A stopped attack resumes; finished work is found by content hash.

attack.json          the attacks, the target, and the key of the finished responses
responses.journal    every response as it was generated, one checksummed line each
responses.jsonl      all of them in order, once the last is generated
gcg/, gcg.jsonl      states of white-box searches; their losses, without suffixes

Every attack is run on the harmful prompts; benign prompts are sent directly. Under a protocol both get every attack.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from divalign import __version__
from divalign.core.names import find
from divalign.data.batching import encode_conversation, render_turns
from divalign.data.columns import is_absent, truth
from divalign.data.examples import Conversation, Row
from divalign.limits import refuse_links
from divalign.lm.responses import Response
from divalign.records import AttackRecord, read_record
from divalign.safety.adaptive import AdaptiveAttack, AttackContext, AttackOptions, without_verdict
from divalign.safety.attacks import TEMPLATE, attack_content, find_attack
from divalign.safety.evaluate import check_ids, with_responses
from divalign.safety.journal import Journal
from divalign.safety.judges import JUDGES, Judge, Verdict, find_judge
from divalign.safety.protocols import PROTOCOLS, Protocol, follow
from divalign.safety.single_shot import Attack, direct
from divalign.safety.thinking import OPEN
from divalign.stages.cached_responses import cached_responses, cached_texts
from divalign.stages.folder import Progress, check_unclaimed, locked
from divalign.stages.models import OpenModel
from divalign.store import digest, intact, jsonl, read_rows, seal, untouched, write_json

ATTACKER_TOKENS = 256
STALE = ("verdicts.jsonl", "rates.json", "changes.json")
UNJUDGED = Judge("unjudged", "0" * 64, lambda _prompts, responses: [Verdict(None, "not judged yet")] * len(responses))


@dataclass(frozen=True)
class AttackPlan:
    """Which attacks, and how they are run.

    `stop_judge` ends a search or a conversation early; who judges the responses is decided later. A `protocol` sets the
    lengths of responses in place of `options.max_new_tokens`. `attacker` writes the messages of PAIR and Crescendo.
    """

    names: Sequence[str]
    options: AttackOptions = field(default_factory=AttackOptions)
    protocol: str | None = None
    attacker: OpenModel | None = None
    stop_judge: Judge = JUDGES["refusal_strings"]
    batch_size: int = 64

    def attacks(self) -> dict[str, Attack | AdaptiveAttack]:
        """Return the attacks by name. Raises ValueError for a name that is no attack, and for none."""
        if not self.names:
            raise ValueError("no attack was named; `direct` asks each prompt as it is")
        return {name: find_attack(name) for name in self.names}

    def files(self) -> list[str]:
        """Return the names of the files that the attacks leave beside their responses."""
        return [file for entry in self.attacks().values() if isinstance(entry, AdaptiveAttack) for file in entry.files]


def check_lengths(plan: AttackPlan, prompts: Sequence[Row], tokenizer: Any, context: int) -> None:
    """Raise ValueError for a prompt that under an attack of one turn leaves no room for a response in the context."""
    new = plan.options.max_new_tokens
    for name, entry in plan.attacks().items():
        if isinstance(entry, AdaptiveAttack):
            continue
        for row in prompts:
            length = len(encode_conversation(tokenizer, entry(row["prompt"])))
            if length + new > context:
                raise ValueError(
                    f"prompt {row['id']} under the attack {name!r} is {length} tokens, which leaves no room for "
                    f"{new} new ones in a context of {context}; leave it or the attack out"
                )


def attack(target: OpenModel, prompts: Sequence[Row], plan: AttackPlan, out: Path, *, progress: Progress) -> list[Row]:
    """Return the responses to every attack and prompt, writing only what the folder does not hold yet.

    A row has the prompt's columns but its "target", "attack", "response", and where there is one "try", "rounds",
    "message", "stage". Verdicts on other responses that stand in the folder are renamed to stale-*.

    Raises ValueError for a name that is no attack, an attack that lacks a model it needs, and a folder of another
    model's responses or in which another process is at work.
    """
    prompts = read_prompts(prompts)
    check_plan(plan, target)
    key = _key(target, prompts, plan)
    path = out / "responses.jsonl"
    with locked(out):
        _claim(out, target, plan, key)
        if not intact(path, key):
            _mark_stale(out)
        if not (intact(path, key) and all(untouched(out / file) for file in plan.files())):
            with Journal(out / "responses.journal") as journal:
                rows = _responses(target, prompts, plan, out, journal, progress)
            opened = {"thinking_opened": True} if opens_thoughts(target) else {}
            columns = ({name: value for name, value in row.items() if name != "target"} | opened for row in rows)
            seal(path, jsonl(columns), key)
        return read_rows(path)


def parse_attacks(texts: Sequence[str]) -> list[str]:
    """Return the names in comma-separated lists, each once; a text that begins with "template:" is one name."""
    parts = [[text] if text.startswith(TEMPLATE) else text.split(",") for text in texts]
    return list(dict.fromkeys(name.strip() for part in parts for name in part if name.strip()))


# How another response came to be and what was said of it: in a row that is a prompt now, they would decide its verdict.
OF_RESPONSES = frozenset((
    "response", "reasoning_content", "thinking_opened", "attack", "try", "tries", "undecided_tries", "rounds",
    "message", "steps", "stage", "judge", "judge_sha256", "protocol", *Verdict._fields, *Response._fields,
)) - {"text"}  # fmt: skip


def read_prompts(rows: Sequence[Row]) -> list[Row]:
    """Return prompts in the form that every stage reads: id (the row's number if it has none), prompt, harmful.

    `held_out` becomes true or false. Columns of an earlier response are dropped, and so is a null cluster: otherwise
    all such prompts would share one. Raises ValueError for a row without a text, a `harmful` or `held_out` that is not
    true or false, a cluster that is neither text nor number, and for two of one id.
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
        row = {name: value for name, value in row.items() if name not in OF_RESPONSES and not _is_void(name, value)}
        try:
            part = {"held_out": truth(row["held_out"], "held_out")} if "held_out" in row else {}
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from error
        prompts.append({**row, "id": str(row.get("id", f"{number:04d}")), "prompt": text, "harmful": harmful, **part})
    check_ids(prompts)
    return prompts


def _is_void(name: str, value: Any) -> bool:
    """Tell a cluster or a `held_out` that says nothing."""
    return (name == "cluster" and is_absent(value)) or (name == "held_out" and (is_absent(value) or value == ""))


def find_protocol(name: str) -> Protocol:
    """Return a protocol. Raises ValueError, naming the nearest, for an unknown name.

    Attack folders name theirs, so a name stands for an entry of the table and never for a module to import.
    """
    if ":" in name:
        raise ValueError(f"the protocol {name!r} is none of {', '.join(PROTOCOLS)}; name one of them")
    return find(name, PROTOCOLS, kind="protocol", of=Protocol)


def check_plan(plan: AttackPlan, target: OpenModel | None = None) -> None:
    """Raise ValueError, before anything is written, for a misspelt name, and for a model that lacks or is not used."""
    attackers = [
        entry for entry in plan.attacks().values() if isinstance(entry, AdaptiveAttack) and entry.needs_attacker
    ]
    if plan.attacker is not None and not attackers:
        raise ValueError(
            f"an attacker is given, and none of the attacks {', '.join(plan.names)} has one; leave it out, or add "
            "pair or crescendo"
        )
    for name, entry in plan.attacks().items():
        if not isinstance(entry, AdaptiveAttack):
            continue
        if entry.needs_weights and target is not None and target.load is None:
            raise ValueError(f"{name} needs the model's gradient, which a server does not give; name a local model")
        if entry.needs_attacker and plan.attacker is None:
            raise ValueError(f"{name} needs a model that writes the messages; name an attacker")
        if plan.protocol is not None:
            raise ValueError(f"the protocols ask each prompt once, which {name} does not; leave one of them out")
    if plan.protocol is not None:
        find_protocol(plan.protocol)


def opens_thoughts(target: OpenModel) -> bool:
    """Tell whether the chat template opens the model's thoughts itself, so that its responses begin within them.

    False for a served model, whose server returns thoughts apart or marks them.
    """
    if target.load is None:
        return False
    tokenizer = target.lm().tokenizer
    text = render_turns(tokenizer, [{"role": "user", "content": "?"}], generation=True)
    return re.search(rf"(?:{OPEN})\s*$", text, re.IGNORECASE) is not None


def _responses(
    target: OpenModel, prompts: Sequence[Row], plan: AttackPlan, out: Path, journal: Journal, progress: Progress
) -> list[Row]:
    attacks = plan.attacks()
    single = {name: entry for name, entry in attacks.items() if not isinstance(entry, AdaptiveAttack)}
    if plan.protocol is not None:
        return _by_protocol(find_protocol(plan.protocol), target, prompts, plan, journal, progress)
    rows = _single_shots(target, prompts, single, plan, journal, progress)
    harmful = [row for row in prompts if row["harmful"]]
    for name, entry in attacks.items():
        if isinstance(entry, AdaptiveAttack):
            context = _context(name, entry, target, plan, out, journal, progress)
            rows += entry(context, harmful)
    return rows


def _single_shots(
    target: OpenModel,
    prompts: Sequence[Row],
    attacks: Mapping[str, Attack],
    plan: AttackPlan,
    journal: Journal,
    progress: Progress,
) -> list[Row]:
    """Generate the responses to all single-shot attacks in one call, so that batches span attacks."""
    harmful = [row for row in prompts if row["harmful"]]
    attempts = [({**row, "attack": name}, entry(row["prompt"])) for name, entry in attacks.items() for row in harmful]
    attempts += [({**row, "attack": "direct"}, direct(row["prompt"])) for row in prompts if not row["harmful"]]
    with progress(f"attacks {target.name}", len(attempts), "responses") as advance:
        generate = cached_responses(
            target, journal, plan.options.max_new_tokens, batch_size=plan.batch_size, advance=advance
        )
        return with_responses([row for row, _ in attempts], generate([conversation for _, conversation in attempts]))


def _context(
    name: str,
    entry: AdaptiveAttack,
    target: OpenModel,
    plan: AttackPlan,
    out: Path,
    journal: Journal,
    progress: Progress,
) -> AttackContext:
    most = plan.options.max_new_tokens

    def announce(stage: str, total: int, unit: str) -> Any:
        return progress(f"{stage} {target.name}", total, unit)

    return AttackContext(
        target=cached_responses(target, journal, most, batch_size=plan.batch_size),
        attacker=cached_texts(plan.attacker, journal, ATTACKER_TOKENS) if plan.attacker else None,
        weights=target.load,
        stop_judge=plan.stop_judge,
        options=plan.options,
        folder=out,
        progress=announce,
        made_from=[target.key, most],
        thinking_opened=opens_thoughts(target),
    )


def _by_protocol(
    protocol: Protocol,
    target: OpenModel,
    prompts: Sequence[Row],
    plan: AttackPlan,
    journal: Journal,
    progress: Progress,
) -> list[Row]:
    """Generate the responses of a protocol. Its last judge runs later; earlier ones decide what is generated again."""
    judges = {stage.judge: find_judge(stage.judge) for stage in protocol.stages[:-1]}
    judges[protocol.stages[-1].judge] = UNJUDGED
    attacks: dict[str, Any] = plan.attacks()

    def write(conversations: Sequence[Conversation], most: int) -> list[Response]:
        return cached_responses(target, journal, most, batch_size=plan.batch_size, advance=advance)(conversations)

    with progress(protocol.name, len(attacks) * len(prompts) * len(protocol.stages), "responses") as advance:
        rows = follow(protocol, write, judges, attacks, prompts, thinking_opened=opens_thoughts(target))
    return [without_verdict(row) for row in rows]


def _key(target: OpenModel, prompts: Sequence[Row], plan: AttackPlan) -> str:
    """Return the cache key of the responses: a hash of everything they depend on, and of nothing else."""
    parts: list[Any] = [2, target.key, prompts, plan.options.max_new_tokens, plan.protocol]
    return digest("responses", *parts, *(part for contents in _contents(plan).values() for part in contents))


def _contents(plan: AttackPlan) -> dict[str, list[Any]]:
    """Return what each attack is, beside the prompts, the model that it attacks and the lengths of responses."""
    contents = {}
    for name, entry in plan.attacks().items():
        contents[name] = [attack_content(name)]
        if isinstance(entry, AdaptiveAttack):
            contents[name].append(entry.depends_on(plan.options))
            contents[name].append(plan.stop_judge.sha256 if entry.stops_early else None)
            contents[name].append(plan.attacker.key if entry.needs_attacker and plan.attacker else None)
    return contents


def _claim(out: Path, target: OpenModel, plan: AttackPlan, key: str) -> None:
    """Write attack.json. Raises ValueError where the folder holds another model's responses, or something else.

    A folder with a model.json or a separation.json is a model's own, in a run or of another verb.
    """
    refuse_links(out)
    before = read_attack(out)
    if before is not None and before.target_key != target.key:
        raise ValueError(f"{out} holds responses of another model, {before.target!r}; choose another --out")
    resumes = is_torn(out) and (out / "responses.journal").is_file()
    measured = any((out / name).is_file() for name in ("model.json", "separation.json"))
    if before is None and not resumes and not measured:
        check_unclaimed(out, "attack")
    record = AttackRecord(
        divalign=__version__,
        target=target.name,
        target_key=target.key,
        attacks=list(plan.names),
        max_new_tokens=plan.options.max_new_tokens,
        protocol=plan.protocol,
        attacker=plan.attacker.name if plan.attacker else None,
        stop_judge=plan.stop_judge.id,
        responses_key=key,
        contents={name: digest("attack", *content) for name, content in _contents(plan).items()},
    )
    if record != before:
        write_json(out / "attack.json", record.plain())


def _mark_stale(out: Path) -> None:
    """Rename the files that were computed from other responses than those to be written."""
    for name in STALE:
        if (out / "responses.jsonl").is_file() and (out / name).is_file():
            (out / name).replace(out / f"stale-{name}")


def read_attack(folder: Path) -> AttackRecord | None:
    """Return a folder's attack.json; None where there is none, or a kill or an editor left it torn."""
    try:
        return read_record(folder / "attack.json", AttackRecord)
    except ValueError:
        return None


def is_torn(folder: Path) -> bool:
    """Tell whether a folder has an attack.json that cannot be read, so that its attack is not known."""
    return (folder / "attack.json").exists() and read_attack(folder) is None
