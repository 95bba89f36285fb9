"""Public prompt sets, read from a folder on this machine; the project ships none of them.

A source returns `Request`s. `SOURCES` is the table of them.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from divalign.data.examples import Request

# Written for this project: a refusal is put together from an opening and an ending, so that no single string stands
# for the class (the paper's benign refusals are one constant string, 628 times).
REFUSAL_OPENINGS = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request.",
    "Sorry, that is something I won't do.",
    "I have to decline this one.",
    "I can't support that.",
    "I am unable to help with this.",
)
REFUSAL_ENDINGS = (
    "",
    " Is there something else you would like to do?",
    " Please ask me about another topic.",
    " I would be glad to help with a different question.",
    " Let us find a better use of our time.",
)


def advbench_alpaca(folder: Path, *, seed: int = 0) -> list[Request]:
    """Return AdvBench's harmful goals and as many of Alpaca's instructions, in the order of a seeded draw.

    Reads `advbench/harmful_behaviors.csv` (columns goal, target; MIT; Zou et al. 2023, arXiv 2307.15043) and
    `alpaca/alpaca_sample.jsonl` (instruction, output; CC BY-NC 4.0; Taori et al. 2023). A harmful prompt's compliance
    is AdvBench's `target`, an affirmative opening without content. A benign prompt's worse answer is the answer to
    another instruction: without a rater, being beside the point is the one defect that is certain.

    Raises ValueError where a file or a column is missing.
    """
    rng = random.Random(seed)
    goals = list(_table(folder / "advbench" / "harmful_behaviors.csv", ("goal", "target")))
    tasks = list(_json_lines(folder / "alpaca" / "alpaca_sample.jsonl", ("instruction", "output")))
    tasks = rng.sample(tasks, min(len(goals), len(tasks)))
    harmful = [
        Request(row["goal"], True, row["target"], refusal(rng), "", f"advbench {i}") for i, row in enumerate(goals)
    ]
    benign = [
        Request(row["instruction"], False, row["output"], refusal(rng), other["output"], f"alpaca {i}")
        for i, (row, other) in enumerate(zip(tasks, tasks[1:] + tasks[:1], strict=True))
    ]
    return harmful + benign


Source = Callable[..., list[Request]]
SOURCES: dict[str, Source] = {"advbench_alpaca": advbench_alpaca}


def refusal(rng: random.Random) -> str:
    """Return one of thirty refusals."""
    return rng.choice(REFUSAL_OPENINGS) + rng.choice(REFUSAL_ENDINGS)


def _table(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    with _existing(path).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        _check_columns(path, reader.fieldnames or (), columns)
        yield from reader


def _json_lines(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    for number, line in enumerate(_existing(path).read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error.msg}); mend or delete the line") from error
        _check_columns(path, row, columns)
        yield row


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"no file {path}; set data.folder to the folder that holds {path.parent.name}/{path.name}")
    return path


def _check_columns(path: Path, found: object, expected: tuple[str, ...]) -> None:
    names = list(found)  # type: ignore[call-overload]
    missing = [column for column in expected if column not in names]
    if missing:
        raise ValueError(f"{path} lacks the column {missing[0]!r}; it has {', '.join(map(str, names))}")
