"""A data set as the checks read it: columns of text, of a random sample of rows where it is large."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from divalign.data.columns import SIDES
from divalign.data.examples import Row
from divalign.data.split import cluster_of
from divalign.data.words import TurnText, text_of, turn_texts

LIMIT = 500_000  # rows that are looked at: about 2 GB of text of usual length
ROWS_KEPT = 1000  # whole rows, for what needs more than text


class SideResponses(NamedTuple):
    """The responses of one side, and the number of the row that each belongs to."""

    texts: list[str]
    rows: list[int]


@dataclass
class Facts:
    """A data set in columns, one entry a row; `aligned` and `unaligned` one entry a response.

    `prompts` holds what the user says, `contexts` all turns that the model reads before its response: two rows have the
    same prompt where all of them are equal. Responses hold their tool calls, as JSON behind the text.

    `alike` says of each pair whether its sides render alike, None where it cannot be rendered, by its row's place. The
    last five are what a caller can add: how texts are counted in tokens, the limit that training will set, prompts of
    evaluation sets by name, a function that measures the divergence between the sides of some rows, and one that tells
    whether a pair's sides render alike (ValueError where the template refuses it).
    """

    prompts: list[str] = field(default_factory=list)
    contexts: list[tuple[TurnText, ...]] = field(default_factory=list)
    harmful: list[bool | None] = field(default_factory=list)
    clusters: list[str] = field(default_factory=list)
    prefills: list[str] = field(default_factory=list)
    provenance: list[tuple[str, str]] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    aligned: SideResponses = field(default_factory=lambda: SideResponses([], []))
    unaligned: SideResponses = field(default_factory=lambda: SideResponses([], []))
    alike: dict[int, bool | None] = field(default_factory=dict)
    some_rows: list[Row] = field(default_factory=list)
    total: int = 0
    unreadable: int = 0
    card: Mapping[str, Any] = field(default_factory=dict)
    count_tokens: Callable[[list[str]], list[int]] | None = None
    max_length: int = 1024
    evaluations: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    divergence: Callable[[Sequence[Row]], Mapping[str, Any]] | None = None
    renders_alike: Callable[[Row], bool] | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def context_texts(self) -> list[str]:
        """Return the text of all turns of each prompt."""
        return ["\n".join(turn.text for turn in turns) for turns in self.contexts]

    @property
    def sides(self) -> dict[str, SideResponses]:
        return {"aligned": self.aligned, "unaligned": self.unaligned}

    def cells(self) -> dict[str, SideResponses]:
        """Return the responses by side and class; rows that do not say whether they are harmful make cells too."""
        cells: dict[str, SideResponses] = {}
        for side, responses in self.sides.items():
            for text, row in zip(*responses, strict=True):
                cell = cells.setdefault(f"{side}, {class_name(self.harmful[row])}", SideResponses([], []))
                cell.texts.append(text)
                cell.rows.append(row)
        return cells


def class_name(harmful: bool | None) -> str:
    return "class unknown" if harmful is None else "harmful" if harmful else "benign"


def gather(rows: Iterable[Row], *, limit: int = LIMIT, seed: int = 0, **fields: Any) -> Facts:
    """Return the facts of the rows, or of a random sample of `limit` rows; `fields` are fields of `Facts`."""
    facts, draw = Facts(**fields), random.Random(seed)
    sample: list[tuple[int, Row]] = []
    for number, row in enumerate(rows, 1):
        if len(sample) < limit:
            sample.append((number, row))
        elif (place := draw.randrange(number)) < limit:
            sample[place] = (number, row)
        facts.total = number
    for number, row in sorted(sample, key=lambda item: item[0]):
        _add(facts, number, row)
    chosen = draw.sample(range(len(sample)), min(ROWS_KEPT, len(sample)))
    facts.some_rows = [sample[place][1] for place in sorted(chosen)]
    return facts


def _add(facts: Facts, number: int, row: Row) -> None:
    place = len(facts.prompts)
    facts.numbers.append(number)
    facts.prompts.append(text_of(row["prompt"]))
    facts.contexts.append(turn_texts(row["prompt"]))
    facts.harmful.append(row.get("harmful"))
    facts.clusters.append(cluster_of(row))
    facts.prefills.append(str(row.get("prefill") or ""))
    facts.ids.append(row.get("id"))
    facts.provenance.append((_text(row, "source"), _text(row, "licence") or _text(row, "license")))
    for side, column in zip(facts.sides.values(), SIDES, strict=True):
        if column in row:
            side.texts.append(_response(row[column]))
            side.rows.append(place)
    if all(column in row for column in SIDES) and facts.renders_alike is not None:
        facts.alike[place] = _rendered(row, facts.renders_alike)
    if "completion" in row:
        side = facts.aligned if row["label"] else facts.unaligned
        side.texts.append(_response(row["completion"]))
        side.rows.append(place)


def _response(value: Any) -> str:
    return "\n".join(turn.text for turn in turn_texts(value, "assistant") if turn.role == "assistant")


def _rendered(row: Row, renders_alike: Callable[[Row], bool]) -> bool | None:
    try:
        return renders_alike(row)
    except ValueError:
        return None


def _text(row: Row, column: str) -> str:
    return str(row.get(column) or "").strip()
