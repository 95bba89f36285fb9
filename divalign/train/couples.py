"""Training rows as couples: every batch holds as many aligned responses as unaligned ones.

TRL's paired rows are couples already. Unpaired rows are coupled at random, anew each epoch: the larger class is gone
through once and the smaller one is repeated, so that a class can be missing from no micro-batch, at 1:20 either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset, Sampler

from divalign.data.batching import Encoded
from divalign.data.rendering import encode_training_row, warn_of_alike
from divalign.data.training_rows import training_row
from divalign.lm.layout import lay_out


class Scored(NamedTuple):
    """An encoded row with its reference log-probability in nats and the cluster that a split keeps together."""

    row: Encoded
    reference: float
    cluster: str


class Index(NamedTuple):
    """Which aligned and which unaligned row make a couple."""

    aligned: int
    unaligned: int


class Couples(Dataset):
    """Aligned and unaligned rows; an item is a couple of them, addressed by an `Index`."""

    def __init__(self, aligned: Sequence[Scored], unaligned: Sequence[Scored], *, paired: bool) -> None:
        self.aligned, self.unaligned, self.paired = aligned, unaligned, paired

    def __len__(self) -> int:
        return max(len(self.aligned), len(self.unaligned))

    def length(self, index: Index) -> int:
        """Return a couple's tokens, each prompt once."""
        rows = self.aligned[index.aligned].row, self.unaligned[index.unaligned].row
        prompts = {tuple(row.prompt_ids) for row in rows}
        return sum(map(len, prompts)) + sum(len(row.response_ids) for row in rows)

    def __getitem__(self, index: Index) -> tuple[Scored, Scored]:
        return self.aligned[index.aligned], self.unaligned[index.unaligned]


class CoupleSampler(Sampler):
    """Yield each epoch's couples in an order that depends on seed and epoch alone, so that a resumed run repeats it.

    Within a `window`, the couples of one optimizer step, those of like length stand together: micro-batches and ranks
    then pad little, and the step is the same, because its statistics do not depend on how it is split.
    """

    def __init__(self, couples: Couples, seed: int, *, window: int = 1) -> None:
        self.couples, self.seed, self.epoch, self.window = couples, seed, 0, window

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.couples)

    def __iter__(self) -> Iterator[Index]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        n = len(self.couples)
        aligned = _permutations(len(self.couples.aligned), n, generator)
        unaligned = aligned if self.couples.paired else _permutations(len(self.couples.unaligned), n, generator)
        order = [Index(a, u) for a, u in zip(aligned, unaligned, strict=True)]
        for start in range(0, n, self.window):
            yield from sorted(order[start : start + self.window], key=self.couples.length, reverse=True)


class EncodedRows(NamedTuple):
    """Tokenised rows by class, their clusters and, where the data brought them, reference log-probabilities."""

    aligned: list[Encoded]
    unaligned: list[Encoded]
    clusters: tuple[list[str], list[str]]
    references: tuple[list[float], list[float]] | None
    paired: bool


def encode_rows(rows: Iterable[Mapping[str, Any]], tokenizer: Any, *, max_length: int) -> EncodedRows:
    """Tokenise TRL's paired or unpaired rows. Columns `ref_chosen_logps` and the like are taken over if present,
    and `prefill` is an opening of the response that is shown and not scored.

    Raises ValueError where columns are missing, a label is neither true nor false, the set is empty, or a class has no
    row.
    """
    split = _split([_numbered(number, row) for number, row in enumerate(rows)])
    sides = [
        [encode_training_row(tokenizer, row, row["side"], max_length=max_length) for row in side] for side in split[:2]
    ]
    if split[2]:
        warn_of_alike(sides[0], sides[1])
    clusters = tuple([str(row.get("cluster", row["prompt"])) for row in side] for side in split[:2])
    known = [[row.get("reference") for row in side] for side in split[:2]]
    references = None if any(value is None for side in known for value in side) else (known[0], known[1])
    return EncodedRows(sides[0], sides[1], (clusters[0], clusters[1]), references, split[2])  # type: ignore[arg-type]


def collate(items: Sequence[tuple[Scored, Scored]], pad_id: int, *, share: bool = False) -> dict[str, Any]:
    """Lay out the couples' aligned rows before their unaligned rows, sharing prompts if `share`."""
    rows = [item[0] for item in items] + [item[1] for item in items]
    batch = lay_out([row.row for row in rows], pad_id, share=share).inputs()
    return {**batch, "reference": torch.tensor([row.reference for row in rows], dtype=torch.float64)}


def _numbered(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return training_row(row)
    except ValueError as error:
        raise ValueError(f"row {number}: {error}") from error


def _split(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], bool]:
    if not rows:
        raise ValueError(
            "the data set is empty; expected rows with prompt, chosen, rejected or prompt, completion, label"
        )
    columns = set(rows[0])
    if {"prompt", "chosen", "rejected"} <= columns:
        sides = [
            [{**row, "side": name, "reference": row.get(f"ref_{name}_logps")} for row in rows]
            for name in ("chosen", "rejected")
        ]
        return sides[0], sides[1], True
    if not {"prompt", "completion", "label"} <= columns:
        raise ValueError(
            f"the data set has the columns {', '.join(sorted(columns))}; "
            "expected prompt, chosen, rejected (paired) or prompt, completion, label (unpaired)"
        )
    for number, row in enumerate(rows):
        if row["label"] not in (0, 1):
            raise ValueError(f"row {number} has the label {row['label']!r}, expected true or false (1 or 0)")
    texts = [{**row, "side": "completion", "reference": row.get("ref_logps")} for row in rows]
    sides = [[row for row in texts if bool(row["label"]) is label] for label in (True, False)]
    for side, name in zip(sides, ("aligned (label true)", "unaligned (label false)"), strict=True):
        if not side:
            raise ValueError(f"no {name} row among {len(rows)}; a divergence needs both classes")
    return sides[0], sides[1], False


def _permutations(size: int, n: int, generator: torch.Generator) -> list[int]:
    """Return n indices below `size`: whole permutations one after another, the last one cut."""
    repeats = -(-n // size)
    return torch.cat([torch.randperm(size, generator=generator) for _ in range(repeats)])[:n].tolist()
