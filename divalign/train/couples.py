"""Training rows as couples: every batch holds as many aligned responses as unaligned ones.

TRL's paired rows are couples already. Unpaired rows are coupled at random, anew each epoch: the larger class is gone
through once and the smaller one is repeated, so that a class can be missing from no micro-batch, at 1:20 either.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import TrainerCallback

from divalign.data.batching import Encoded
from divalign.data.columns import is_absent, rest_of, truth
from divalign.data.rendering import encode_training_row, warn_of_alike
from divalign.lm.layout import lay_out, prompt_ends
from divalign.train.rows import PAIRED, checked_rows

# What a row carries for the time of encoding, under names that no column of a user has.
REFERENCE, NUMBER, SIDE = "divalign.reference", "divalign.number", "divalign.side"
ORIGIN = "divalign.origin"  # column: the number in the data set, of rows that a method arranged anew


class Scored(NamedTuple):
    """An encoded row with its reference log-probability in nats and the cluster that a split keeps together.

    `reference` is NaN of a row that the reference did not score, as of those that no update of a short training reads.
    `harmful` tells the prompt's class; None where the data do not. `number` is the row's in the data set, from 0.
    `offset` is of an aligned row: what the margin of its pair counts less, in nats of r.
    """

    row: Encoded
    reference: float
    cluster: str
    harmful: bool | None = None
    number: int = 0
    offset: float = 0.0


class Index(NamedTuple):
    """Which aligned and which unaligned row make a couple; one that does not count fills a process's empty batch."""

    aligned: int
    unaligned: int
    counts: bool = True


class RowNumbers(NamedTuple):
    """Some of the aligned and of the unaligned rows, by their places among them."""

    aligned: Sequence[int]
    unaligned: Sequence[int]


def rows_of(indices: Iterable[Index]) -> RowNumbers:
    """Return the rows of couples, each once, in their order."""
    couples = list(indices)
    return RowNumbers(sorted({index.aligned for index in couples}), sorted({index.unaligned for index in couples}))


class Couple(NamedTuple):
    """An aligned and an unaligned row of a batch."""

    aligned: Scored
    unaligned: Scored
    counts: bool = True


class Couples(Dataset):
    """Aligned and unaligned rows; an item is a couple of them, addressed by an `Index`."""

    def __init__(self, aligned: Sequence[Scored], unaligned: Sequence[Scored], *, paired: bool) -> None:
        self.aligned, self.unaligned, self.paired = aligned, unaligned, paired

    def numbers(self) -> RowNumbers:
        """Return all rows' places."""
        return RowNumbers(range(len(self.aligned)), range(len(self.unaligned)))

    def texts(self, rows: RowNumbers) -> tuple[list[Encoded], list[Encoded]]:
        """Return the tokens of some rows, aligned and unaligned."""
        return [self.aligned[number].row for number in rows[0]], [self.unaligned[number].row for number in rows[1]]

    def set_references(self, scored: RowNumbers, aligned: Sequence[float], unaligned: Sequence[float]) -> None:
        """Fill in reference log-probabilities that were not known when the rows were made, in nats, of some rows."""
        self.aligned, self.unaligned = list(self.aligned), list(self.unaligned)
        for side, numbers, column in ((self.aligned, scored[0], aligned), (self.unaligned, scored[1], unaligned)):
            for number, reference in zip(numbers, column, strict=True):
                side[number] = side[number]._replace(reference=reference)

    def __len__(self) -> int:
        return max(len(self.aligned), len(self.unaligned))

    def offsets(self) -> Tensor | None:
        """Return the offset of every aligned row; None where there are none."""
        values = torch.tensor([row.offset for row in self.aligned], dtype=torch.float64)
        return values if values.any() else None

    def length(self, index: Index) -> int:
        """Return a couple's tokens, each prompt once."""
        rows = self.aligned[index.aligned].row, self.unaligned[index.unaligned].row
        prompts = {tuple(row.prompt_ids) for row in rows}
        return sum(map(len, prompts)) + sum(len(row.response_ids) for row in rows)

    def __getitem__(self, index: Index) -> Couple:
        return Couple(self.aligned[index.aligned], self.unaligned[index.unaligned], index.counts)


def epoch_of(state: Any) -> int:
    """Return the number of an epoch that begins, from 0; `state` is Trainer's. A resumed one has a fraction done."""
    return math.floor((state.epoch or 0) + 1e-6)


class CoupleSampler(Sampler, TrainerCallback):
    """Yield each epoch's couples in an order that depends on seed and epoch alone, so that a resumed run repeats it.

    It is a callback, too, and so learns the epoch from Trainer itself: within an epoch that several processes resume,
    accelerate wraps a sampler so deeply that Trainer does not find it.

    Within a `window`, the couples of one optimizer step, those of like length stand together: micro-batches and ranks
    then pad little, and the step is the same, because its statistics do not depend on how it is split.

    The epoch's last couples are followed by couples that do not count, up to a `multiple`: the couples that all
    processes take at once. Without them accelerate would repeat couples, which would count twice.
    """

    def __init__(self, couples: Couples, seed: int, *, window: int = 1, multiple: int = 1) -> None:
        self.couples, self.seed, self.epoch, self.window, self.multiple = couples, seed, 0, window, multiple

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.set_epoch(epoch_of(state))

    def __len__(self) -> int:
        return -(-len(self.couples) // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[Index]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        n = len(self.couples)
        aligned = _permutations(len(self.couples.aligned), n, generator)
        unaligned = aligned if self.couples.paired else _permutations(len(self.couples.unaligned), n, generator)
        order = [Index(a, u) for a, u in zip(aligned, unaligned, strict=True)]
        for start in range(0, n, self.window):
            yield from sorted(order[start : start + self.window], key=self.couples.length, reverse=True)
        for _ in range(len(self) - n):
            yield order[-1]._replace(counts=False)


class TooLongError(ValueError):
    """A prompt that leaves no room for a response."""


class RowCounts(NamedTuple):
    """What became of a data set's rows: how many there are, were skipped as too long, have a response that was cut."""

    rows: int
    skipped: int = 0
    cut: int = 0


class EncodedRows(NamedTuple):
    """Tokenised rows by side, their clusters, which prompts are harmful and, where the data have them, references.

    `numbers` are the rows' in the data set, from 0; `rows` are the rows behind them, with all their columns; `offsets`
    are of aligned rows, see `Scored`.
    """

    aligned: list[Encoded]
    unaligned: list[Encoded]
    clusters: tuple[list[str], list[str]]
    harmful: tuple[list[bool | None], list[bool | None]]
    references: tuple[list[float], list[float]] | None
    paired: bool
    counts: RowCounts = RowCounts(0)
    numbers: tuple[list[int], list[int]] = ([], [])
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    offsets: Sequence[float] = ()


def encode_rows(
    rows: Iterable[Any], tokenizer: Any, *, max_length: int | None, too_long: str = "refuse"
) -> EncodedRows:
    """Tokenise TRL's paired or unpaired rows. Columns `ref_chosen_logps` and the like are taken over if present,
    and `prefill` is an opening of the response that is shown and not scored.

    Responses are cut at `max_length` tokens of prompt and response (None: no limit). Rows whose prompt leaves no room
    are left out and counted where `too_long` is `skip`.

    Raises ValueError, with the row's number from 0, where a column is missing or empty, a label is neither true nor
    false, a conversation cannot be rendered or a prompt is too long; and where the set is empty or a class has no row.
    """
    checked = checked_rows(rows)
    limit = sys.maxsize if max_length is None else max_length
    paired = set(checked[0]) >= PAIRED
    sides = _shared([[(row, _encode(row, tokenizer)) for row in side] for side in _sides(checked, paired=paired)])
    skipped = {row[NUMBER]: len(text.prompt_ids) for side in sides for row, text in side if _fills(text, limit)}
    if skipped and too_long == "refuse":
        first = min(skipped)
        raise TooLongError(
            f"row {_named(checked[first], first)}: a prompt of {skipped[first]} tokens leaves no room for a response "
            f"within max_length {limit}; shorten it, leave the row out or raise max_length"
        )
    usable = [[(row, text) for row, text in side if row[NUMBER] not in skipped] for side in sides]
    _check_classes(usable, len(checked), len(skipped), limit)
    cut = {row[NUMBER] for side in usable for row, text in side if sum(map(len, text)) > limit}
    aligned, unaligned = (
        [Encoded(text.prompt_ids, text.response_ids[: limit - len(text.prompt_ids)]) for _, text in side]
        for side in usable
    )
    if paired:
        warn_of_alike(aligned, unaligned)
    clusters = tuple([_cluster(row) for row, _ in side] for side in usable)
    harmful = tuple([_flag(row.get("harmful")) for row, _ in side] for side in usable)
    columns = [[row.get(REFERENCE) for row, _ in side] for side in usable]
    references = None if any(value is None for side in columns for value in side) else (columns[0], columns[1])
    counts = RowCounts(len(checked), len(skipped), len(cut))
    named, classes = (clusters[0], clusters[1]), (harmful[0], harmful[1])
    numbers = tuple([_named(row, row[NUMBER]) for row, _ in side] for side in usable)
    sources = tuple([rest_of(row, REFERENCE, NUMBER, SIDE, ORIGIN) for row, _ in side] for side in usable)
    offsets = [float(row.get("offset") or 0.0) for row, _ in usable[0]]
    beside = (numbers, (sources[0], sources[1]), offsets)
    return EncodedRows(aligned, unaligned, named, classes, references, paired, counts, *beside)  # type: ignore[arg-type]


def scored_couples(encoded: EncodedRows) -> Couples:
    """Return the rows with the reference log-probabilities that the data bring, NaN where they bring none."""
    unknown = [math.nan] * len(encoded.aligned), [math.nan] * len(encoded.unaligned)
    aligned, unaligned = (
        [Scored(*row) for row in zip(*columns, strict=True)]
        for columns in zip(
            (encoded.aligned, encoded.unaligned),
            encoded.references or unknown,
            encoded.clusters,
            encoded.harmful,
            encoded.numbers,
            strict=True,
        )
    )
    if any(encoded.offsets):
        aligned = [row._replace(offset=offset) for row, offset in zip(aligned, encoded.offsets, strict=True)]
    return Couples(aligned, unaligned, paired=encoded.paired)


def unscored(rows: Sequence[Scored]) -> int:
    """Return how many rows the reference did not score."""
    return sum(math.isnan(row.reference) for row in rows)


def check_scored(unknown: int, rows: int) -> None:
    """Raise ValueError where the reference did not score some of `rows`, as of a training set those not trained on."""
    if unknown:
        raise ValueError(
            f"{unknown} of {rows} rows have no log-probability under the reference: they are none of those that "
            "max_steps or num_train_epochs, the seed and the batch size given to the trainer train on; make a trainer "
            "with the arguments it is to train with, or give rows to measure as eval_dataset"
        )


def collate(
    items: Sequence[Couple],
    pad_id: int,
    *,
    share: bool = False,
    prompts: bool = False,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Any]:
    """Lay out the couples' aligned rows before their unaligned rows, sharing prompts if `share`.

    `couples` is how many count. Where none does, one is laid out all the same, since a forward needs a row. With
    `prompts`, `harmful` tells each row's class of prompt, `prompts` numbers the rows whose prompts count, both of a
    couple or, where these are one prompt, the first, and `prompt_ends` says where those prompts end. References are of
    `dtype`, which the device of the training must have.
    """
    counted = [item for item in items if item.counts]
    laid = counted or items[:1]
    rows = [item.aligned for item in laid] + [item.unaligned for item in laid]
    layout = lay_out([row.row for row in rows], pad_id, share=share)
    batch = {
        **layout.inputs(),
        "reference": torch.tensor([row.reference for row in rows], dtype=dtype),
        "couples": len(counted),
        "numbers": torch.tensor([row.number for row in rows]),
        "unscored": unscored(rows),  # may be more than 0 of a batch that is loaded ahead, and never read
    }
    if any(offsets := [item.aligned.offset for item in laid]):
        batch["offset"] = torch.tensor(offsets, dtype=dtype)
    if not prompts:
        return batch
    alike = [item.aligned.row.prompt_ids == item.unaligned.row.prompt_ids for item in laid]
    first = torch.tensor([*range(len(laid)), *(len(laid) + n for n, same in enumerate(alike) if not same)])
    harmful = torch.tensor([bool(row.harmful) for row in rows])
    return {**batch, "harmful": harmful, "prompts": first, "prompt_ends": prompt_ends(layout)[first]}


def _sides(rows: list[dict[str, Any]], *, paired: bool) -> list[list[dict[str, Any]]]:
    """Return the aligned and the unaligned rows, each with its side, its number and the reference it brings."""
    if paired:
        return [
            [
                {**row, REFERENCE: row.get(f"ref_{name}_logps"), NUMBER: number, SIDE: name}
                for number, row in enumerate(rows)
            ]
            for name in ("chosen", "rejected")
        ]
    texts = [
        {**row, REFERENCE: row.get("ref_logps"), NUMBER: number, SIDE: "completion"} for number, row in enumerate(rows)
    ]
    return [[row for row in texts if bool(row["label"]) is label] for label in (True, False)]


def _encode(row: dict[str, Any], tokenizer: Any) -> Encoded:
    try:
        return encode_training_row(tokenizer, row, row[SIDE], max_length=sys.maxsize)
    except ValueError as error:
        raise ValueError(f"row {_named(row, row[NUMBER])}, {row[SIDE]}: {error}") from error


def _named(row: dict[str, Any], number: int) -> int:
    return row.get(ORIGIN, number)


def _cluster(row: dict[str, Any]) -> str:
    named = row.get("cluster")
    return str(row["prompt"] if is_absent(named) else named)


def _flag(value: Any) -> bool | None:
    return None if is_absent(value) else truth(value, "harmful")


def _shared(sides: list[list[tuple[dict[str, Any], Encoded]]]) -> list[list[tuple[dict[str, Any], Encoded]]]:
    """Return the same, with one object for each token id and for the prompt of a pair.

    A tokenizer makes a new number for each token above 255: 36 bytes a token where one object takes 8, 2.8 GB less for
    100,000 pairs of 500 tokens.
    """
    ids: dict[int, int] = {}
    prompts: dict[tuple[int, ...], list[int]] = {}

    def shared(tokens: list[int]) -> list[int]:
        return [ids.setdefault(token, token) for token in tokens]

    return [
        [(row, Encoded(prompts.setdefault(tuple(text.prompt_ids), shared(text.prompt_ids)), shared(text.response_ids)))
         for row, text in side]
        for side in sides
    ]  # fmt: skip


def _fills(text: Encoded, limit: int) -> bool:
    return len(text.prompt_ids) >= limit


def _check_classes(sides: list[list], rows: int, skipped: int, limit: int) -> None:
    if skipped == rows:
        raise ValueError(f"all {rows} rows are too long for max_length {limit}; raise it")
    for side, name in zip(sides, ("aligned (label true)", "unaligned (label false)"), strict=True):
        if not side:
            left_out = f", {skipped} of them skipped as too long" if skipped else ""
            raise ValueError(f"no {name} row among {rows}{left_out}; a divergence needs both classes")


def _permutations(size: int, n: int, generator: torch.Generator) -> list[int]:
    """Return n indices below `size`: whole permutations one after another, the last one cut."""
    repeats = -(-n // size)
    return torch.cat([torch.randperm(size, generator=generator) for _ in range(repeats)])[:n].tolist()
