"""Public prompt and response sets, read from a folder on this machine or fetched into it; the project ships none.

A source returns `Request`s, with empty texts where it has none: `data/build.py` fills them in. `SOURCES` is the table;
an entry says where the files come from, under which licence, and whether they are gated. The column names of the sets
that could not be reached when this was written are marked: they are tested on small files of that schema alone.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from divalign.core.names import find
from divalign.data.columns import check_columns, is_absent, truth_of
from divalign.data.everyday import EVERYDAY
from divalign.data.examples import Request
from divalign.data.fetch import File, fetched
from divalign.data.files import read_file, warn_of
from divalign.data.own import read_own
from divalign.data.prompts import class_of
from divalign.data.split import share_clusters

Rows = list[dict[str, Any]]
Load = Callable[..., list[Request]]  # a table per file, in order
logger = logging.getLogger(__name__)
RAW = "https://raw.githubusercontent.com"
JBB = "https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors/resolve/main/data"


@dataclass(frozen=True)
class Source:
    """A set: its files, the columns that must be in each, how its rows become requests, its licence and its paper.

    `load` is given the rows of each file, in order; without files, nothing.
    `schema_verified` is False where the schema was not read off the files.
    """

    load: Load
    files: tuple[File, ...]
    columns: tuple[tuple[str, ...], ...]
    licence: str
    source: str
    schema_verified: bool = True


def advbench(goals: Rows) -> list[Request]:
    """Harmful goals with an affirmative opening without content as compliance."""
    return [_harmful(row["goal"], row["target"]) for row in goals]


def jailbreakbench(harmful: Rows, benign: Rows) -> list[Request]:
    """Harmful and benign goals in pairs on one topic: a pair is a cluster."""
    sides = ((harmful, True), (benign, False))
    return [
        Request(row["Goal"], bad, row.get("Target") or "", "", "", f"jailbreakbench {pair}")
        for rows, bad in sides
        for pair, row in enumerate(rows)
    ]


def harmbench(behaviors: Rows) -> list[Request]:
    """Harmful behaviors, their context before them; those on copyright are left out: they need a judge of their own."""
    usable = [row for row in behaviors if row["FunctionalCategory"] != "copyright"]
    texts = ["\n\n".join(filter(None, (row.get("ContextString"), row["Behavior"]))) for row in usable]
    return [_harmful(text) for text in texts]


def strongreject(prompts: Rows) -> list[Request]:
    return [_harmful(row["forbidden_prompt"]) for row in prompts]


def malicious_instruct(lines: Rows) -> list[Request]:
    return [_harmful(row["text"]) for row in lines]


def xstest(prompts: Rows) -> list[Request]:
    """Safe prompts that sound unsafe, and their unsafe contrasts; a cluster is the word that they play on."""
    words = (str(row["focus"]).strip().casefold() for row in prompts)
    return [
        Request(row["prompt"], class_of(row["label"]), "", "", "", f"xstest {word}" if word else "")
        for row, word in zip(prompts, words, strict=True)
    ]


def safealigner(rows: Rows) -> list[Request]:
    return [_harmful(row["prompt"], row["harmful_response"], row["safe_response"]) for row in rows]


def instructions(rows: Rows) -> list[Request]:
    """Alpaca's form: benign instructions without further input, each with its answer."""
    return [_benign(row["instruction"], row["output"]) for row in rows if not row.get("input")]


def pku_saferlhf(rows: Rows) -> list[Request]:
    """Two responses a row, each safe or not. Source: Kim et al. 2025, arXiv 2505.20065, sec. 4: keep, swap, drop.

    A row with one unsafe response sets that against the safe one, whichever was preferred; a row with two is dropped; a
    row with two safe ones ranks them, and its prompt counts as benign. A row that does not say it is left out.
    """
    requests = []
    for row in rows:
        texts = row["response_0"], row["response_1"]
        safe = truth_of(row, "is_response_0_safe"), truth_of(row, "is_response_1_safe")
        if None in safe:
            continue
        if all(safe):
            better = row["better_response_id"]
            if not is_absent(better):
                requests.append(_benign(row["prompt"], texts[int(better)], texts[1 - int(better)]))
        elif any(safe):
            requests.append(_harmful(row["prompt"], texts[safe.index(False)], texts[safe.index(True)]))
    return requests


def beavertails(rows: Rows) -> list[Request]:
    """One response a row, safe, unsafe or neither: a prompt with one of each is harmful, its first ones are taken."""
    requests = []
    for prompt, group in _by(rows, "prompt").items():
        sides = [(truth_of(row, "is_safe"), row["response"]) for row in group]
        unsafe = [response for safe, response in sides if safe is False]
        aligned = [response for safe, response in sides if safe]
        if unsafe and aligned:
            requests.append(_harmful(prompt, unsafe[0], aligned[0]))
    return requests


def hh_rlhf(rows: Rows) -> list[Request]:
    """Two dialogues a row that differ in the last turn. Nothing says which prompts are harmful: all count as benign."""
    requests = []
    for row in rows:
        prompt, good = _last_turn(row["chosen"])
        requests.append(_benign(prompt, good, _last_turn(row["rejected"])[1]))
    return requests


def ultrafeedback(rows: Rows) -> list[Request]:
    """Conversations in pairs; a row without turns on one side is left out."""
    return [
        _benign(row["prompt"], row["chosen"][-1]["content"], row["rejected"][-1]["content"])
        for row in rows
        if row["chosen"] and row["rejected"]
    ]


def paper_cr(rows: Rows) -> list[Request]:
    """A set beside arXiv 2502.00657: `safety` 0 is harmful; `acc_responses` comply, `rej_responses` refuse.

    A row that has no response at all, or does not say whether it is safe, is left out.
    """
    requests = []
    for row in rows:
        safe, texts = truth_of(row, "safety"), (_first(row["acc_responses"]), _first(row["rej_responses"]))
        if safe is not None and any(texts):
            requests.append(Request(row["prompt"], not safe, *texts, "", ""))
    return requests


def paper_pref(rows: Rows) -> list[Request]:
    """The other one: a benign row's `rej_responses` are worse answers and no refusals."""
    return [
        request if request.harmful else request._replace(worse=request.refusal, refusal="")
        for request in paper_cr(rows)
    ]


def _web(load: Load, path: str, url: str, sha256: str, columns: Sequence[str], licence: str, source: str) -> Source:
    return Source(load, (File(path, f"{RAW}/{url}", sha256=sha256),), (tuple(columns),), licence, source)


def _hub(name: str, repo: str, load: Load, columns: Sequence[str], licence: str, source: str, **where: Any) -> Source:
    file = File(f"{name}/train.jsonl", hub=repo, **where)
    return Source(load, (file,), (tuple(columns),), licence, source, schema_verified=False)


_PAIR = ("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe", "better_response_id")
_PAPER = ("prompt", "safety", "acc_responses", "rej_responses")
_HALF = "arXiv 2502.00657"
SOURCES: dict[str, Source] = {
    "advbench": _web(
        advbench, "advbench/harmful_behaviors.csv", "llm-attacks/llm-attacks/main/data/advbench/harmful_behaviors.csv",
        "6cd1a5c63c07610d7eb67307772ee5606017ee950b5770ab288a2c487489d3e1", ("goal", "target"), "MIT",
        "Zou et al. 2023, arXiv 2307.15043",
    ),
    "harmbench": _web(
        harmbench, "harmbench/harmbench_behaviors_text_all.csv",
        "centerforaisafety/HarmBench/main/data/behavior_datasets/harmbench_behaviors_text_all.csv",
        "2745611872be3b2eab141e39bb328b8c1140dc3cd8d0a49da6174260d9ccbfb9",
        ("Behavior", "FunctionalCategory", "ContextString"), "MIT", "Mazeika et al. 2024, arXiv 2402.04249",
    ),
    "jailbreakbench": Source(
        jailbreakbench,
        (
            File(
                "jailbreakbench/harmful-behaviors.csv", f"{JBB}/harmful-behaviors.csv",
                sha256="45e9a8923b28f547bb372fbaa9af7df8b38c818a80ae50c3bab97704197ff516",
            ),
            File("jailbreakbench/benign-goals.csv", f"{JBB}/benign-behaviors.csv"),
        ),
        (("Goal", "Target"), ("Goal",)), "MIT", "Chao et al. 2024, arXiv 2404.01318",
    ),
    "strongreject": _web(
        strongreject, "strongreject/strongreject_dataset.csv",
        "alexandrasouly/strongreject/main/strongreject_dataset/strongreject_dataset.csv",
        "4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381", ("forbidden_prompt",), "MIT",
        "Souly et al. 2024, arXiv 2402.10260",
    ),
    "xstest": _web(
        xstest, "xstest/xstest_prompts.csv", "paul-rottger/xstest/main/xstest_prompts.csv",
        "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a", ("prompt", "label", "focus"), "CC BY 4.0",
        "Röttger et al. 2024, arXiv 2308.01263",
    ),
    "malicious_instruct": _web(
        malicious_instruct, "malicious_instruct/MaliciousInstruct.txt",
        "Princeton-SysML/Jailbreak_LLM/main/data/MaliciousInstruct.txt",
        "a64d69dd1004aac4a23aaff3748fb8f17161893f74db36f45b8bc849eb1bcce5", ("text",), "not verified",
        "Huang et al. 2023, arXiv 2310.06987",
    ),
    "alpaca": Source(
        instructions, (File("alpaca/alpaca_sample.jsonl", hub="tatsu-lab/alpaca"),), (("instruction", "output"),),
        "CC BY-NC 4.0", "Taori et al. 2023",
    ),
    "alpaca_gpt4": Source(
        instructions, (File("alpaca_gpt4/alpaca_gpt4_benign_628.jsonl", hub="llm-wizard/alpaca-gpt4-data"),),
        (("instruction", "output"),), "CC BY-NC 4.0", "Peng et al. 2023, arXiv 2304.03277",
    ),
    "safealigner": _hub(
        "safealigner", "csHuang/SafeAligner", safealigner, ("prompt", "harmful_response", "safe_response"),
        "not verified", "Huang et al. 2024, arXiv 2406.18118",
    ),
    "pku_saferlhf": _hub(
        "pku_saferlhf", "PKU-Alignment/PKU-SafeRLHF", pku_saferlhf, _PAIR, "CC BY-NC 4.0",
        "Ji et al. 2024, arXiv 2406.15513",
    ),
    "beavertails": _hub(
        "beavertails", "PKU-Alignment/BeaverTails", beavertails, ("prompt", "response", "is_safe"), "CC BY-NC 4.0",
        "Ji et al. 2023, arXiv 2307.04657", split="30k_train",
    ),
    "hh_rlhf": _hub(
        "hh_rlhf", "Anthropic/hh-rlhf", hh_rlhf, ("chosen", "rejected"), "MIT", "Bai et al. 2022, arXiv 2204.05862"
    ),
    "ultrafeedback": _hub(
        "ultrafeedback", "HuggingFaceH4/ultrafeedback_binarized", ultrafeedback, ("prompt", "chosen", "rejected"),
        "MIT", "Cui et al. 2023, arXiv 2310.01377", split="train_prefs",
    ),
    "paper_cr": _hub("paper_cr", "rhaldar97/Safety_Accept_Reject", paper_cr, _PAPER, "not verified", _HALF),
    "paper_pref": _hub("paper_pref", "rhaldar97/Safety_preference", paper_pref, _PAPER, "not verified", _HALF),
    **{name: Source(load, (), (), "Apache-2.0", "this project, docs/everyday.md") for name, load in EVERYDAY.items()},
}  # fmt: skip


def read_source(name: str, folder: Path | None, *, download: bool = False) -> list[Request]:
    """Return the requests of the source `name`: an entry of `SOURCES`, file:PATH of one's own, or "pkg.module:thing".

    `folder` is the set's own or one that holds many sets. Raises ValueError, naming the nearest, for an unknown name,
    and for files that are missing or another's.
    """
    return _read(name, folder, download=download)[0]


def _read(name: str, folder: Path | None, *, download: bool) -> tuple[list[Request], int]:
    """Return the requests of a source, and how many rows of its files gave none."""
    if name.startswith("file:"):
        return _clustered("own", read_own(Path(name.removeprefix("file:")))), 0
    source = find_source(name)
    if source.files and folder is None:
        raise ValueError(f"the source {name!r} needs its files: name the folder that holds {source.files[0].path}")
    places = [fetched(file, folder, download=download) for file in source.files if folder]
    tables = [_table(path, columns) for path, columns in zip(places, source.columns, strict=True)]
    requests = _clustered(name, source.load(*tables))
    return requests, max(0, sum(map(len, tables)) - len(requests))


def find_source(name: str) -> Source:
    """Return a source: a name of `SOURCES`, or "pkg.module:thing". Raises ValueError, naming the nearest."""
    return find(name, SOURCES, kind="source", of=Source)


class Gathered(NamedTuple):
    """The requests of some sources, and how many rows and prompts were left out, by reason."""

    requests: list[Request]
    left_out: dict[str, int]


def gather_requests(names: str, folder: Path | None, *, seed: int = 0, download: bool = False) -> Gathered:
    """Return the requests of several sources, "advbench+alpaca", the larger class cut to the size of the smaller.

    Which are left out is a draw of `seed`. A prompt that occurs twice is kept once, with the request that has more
    texts, and the first of equals; where the two differ in class, with the first, and they are counted apart.
    Near-duplicates share a cluster, across sources too, with all others of their clusters.
    """
    by_prompt: dict[str, Request] = {}
    left_out: Counter[str] = Counter()
    for name in names.split("+"):
        requests, dropped = _read(name, folder, download=download)
        left_out[f"no use for this in a row of {name}"] += dropped
        for request in requests:
            first = by_prompt.setdefault(request.prompt, request)
            if first is request:
                continue
            if first.harmful is not request.harmful:
                left_out["a prompt that an earlier request puts into the other class"] += 1
                continue
            left_out["a prompt that occurs twice"] += 1
            by_prompt[request.prompt] = max(first, request, key=_texts)
    sides = [[request for request in share_clusters(list(by_prompt.values())) if request.harmful is bad]
             for bad in (True, False)]  # fmt: skip
    size = min(map(len, sides)) or max(map(len, sides))
    rng = random.Random(seed)
    balanced = [request for side in sides for request in (rng.sample(side, size) if len(side) > size else side)]
    left_out["a class that has more prompts than the other"] += len(by_prompt) - len(balanced)
    return Gathered(balanced, dict(+left_out))


def _texts(request: Request) -> int:
    """Return how many responses a request has."""
    responses = (request.compliance, request.refusal, request.worse, request.worse_refusal)
    return sum(bool(text.strip()) for text in responses)


def read_sources(names: str, folder: Path | None, *, seed: int = 0, download: bool = False) -> list[Request]:
    """Return the requests of `gather_requests`, and log what was left out, a line each."""
    gathered = gather_requests(names, folder, seed=seed, download=download)
    for reason, count in gathered.left_out.items():
        logger.info("%s: %d left out with %s", names, count, reason)
    return gathered.requests


def _table(path: Path, columns: Sequence[str]) -> Rows:
    """Return a file's rows, the lines of a .txt under `text`; lines set aside are said in the log."""
    rows, notes = read_file(path)
    warn_of(notes, path)
    for row in rows:
        check_columns(row, columns, path)
    return rows


def _clustered(name: str, requests: Iterable[Request]) -> list[Request]:
    """Return the requests, each of which belongs to a cluster: its own where the source names none."""
    return [
        request if request.cluster else request._replace(cluster=f"{name} {number}")
        for number, request in enumerate(requests)
    ]


def _harmful(prompt: str, compliance: str = "", refusal: str = "") -> Request:
    return Request(prompt.strip(), True, compliance, refusal, "", "")


def _benign(prompt: str, compliance: str = "", worse: str = "") -> Request:
    return Request(prompt.strip(), False, compliance, "", worse, "")


def _by(rows: Rows, column: str) -> dict[str, Rows]:
    groups: dict[str, Rows] = {}
    for row in rows:
        groups.setdefault(row[column], []).append(row)
    return groups


def _first(texts: Any) -> str:
    """Return the first of some responses, or nothing where there is none."""
    return texts if isinstance(texts, str) else next(iter(texts or ()), "")


def _last_turn(dialogue: str) -> tuple[str, str]:
    """Split an HH dialogue before its last assistant turn, the marks of a single question taken off."""
    before, _, last = dialogue.rpartition("\n\nAssistant:")
    return before.removeprefix("\n\nHuman:").strip(), last.strip()
