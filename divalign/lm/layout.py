"""How prompts and responses are laid out in a batch: plain padded rows, or packed rows in which prompts are shared.

Responses to one prompt make a group. In the plain layout every response has a row of its own, after its prompt. In the
shared layout (prefix sharing with sequence packing) a group is one sequence: the prompt, then its responses, each with
position ids that continue the prompt's and an attention mask over the prompt and itself alone. Groups are packed into
rows as long as the longest group. Log-probabilities are equal in both; the shared layout computes a prompt once for
all its responses, and pads less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from divalign.data.batching import Encoded

PADDING = -1


class Layout(NamedTuple):
    """A batch for an `attach`ed model.

    `groups` and `parts` name each token's group and, in it, the prompt (0) or the number of the response; `PADDING` on
    padding. They are None in the plain layout, whose attention is causal. A scored token is predicted at `sources`, an
    index into the flattened batch; it is `targets`, and counts for the response `owners`, in the order given.
    """

    input_ids: Int[Tensor, "b t"]
    attention_mask: Int[Tensor, "b t"]
    position_ids: Int[Tensor, "b t"] | None
    groups: Int[Tensor, "b t"] | None
    parts: Int[Tensor, "b t"] | None
    sources: Int[Tensor, " n"]
    targets: Int[Tensor, " n"]
    owners: Int[Tensor, " n"]
    responses: int

    def inputs(self) -> dict[str, Tensor | int]:
        """Return the keyword arguments of the model's forward: everything that is there."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class _Placed(NamedTuple):
    """A token in a packed row: its id, its position id, its group and its part of the group."""

    token: int
    position: int
    group: int
    part: int


def lay_out(rows: Sequence[Encoded], pad_id: int, *, share: bool = False) -> Layout:
    """Return the batch of these rows: shared and packed, or one padded row each.

    Raises ValueError where a prompt has no token.
    """
    groups = _by_prompt(rows) if share else [[index] for index in range(len(rows))]
    bins = _packed([_length(rows, group) for group in groups]) if share else [[number] for number in range(len(groups))]
    width = max(sum(_length(rows, groups[number]) for number in members) for members in bins)
    placed: list[list[_Placed]] = []
    scored: list[tuple[int, int, int]] = []
    for line, members in enumerate(bins):
        tokens: list[_Placed] = []
        for number in members:
            _place(rows, groups[number], number, tokens, scored, line * width)
        placed.append(tokens)
    plain = all(len(group) == 1 for group in groups) and all(len(members) == 1 for members in bins)
    return _tensors(placed, scored, pad_id, len(rows), plain=plain)


def prompt_ends(layout: Layout) -> Int[Tensor, " r"]:
    """Return where each response's prompt ends: the index, in the flattened batch, that predicts its first token."""
    count = len(layout.owners)
    first = torch.full((layout.responses,), count).scatter_reduce(0, layout.owners, torch.arange(count), "amin")
    return layout.sources[first]


def attention(groups: Int[Tensor, "b t"], parts: Int[Tensor, "b t"]) -> Bool[Tensor, "b 1 t t"]:
    """Return the attention mask, True where a query attends to a key.

    A token attends to itself and to earlier tokens of its group that belong to the prompt or to the same response.
    Padding attends to itself, because a softmax over no keys is not a number.
    """
    before = torch.ones(groups.shape[1], groups.shape[1], dtype=torch.bool, device=groups.device).tril()
    same_group = (groups[:, :, None] == groups[:, None, :]) & (groups != PADDING)[:, None, :]
    same_part = (parts[:, None, :] == 0) | (parts[:, :, None] == parts[:, None, :])
    alone = torch.eye(groups.shape[1], dtype=torch.bool, device=groups.device)
    return ((same_group & same_part & before) | alone)[:, None]


def block_attention(groups: Int[Tensor, "b t"], parts: Int[Tensor, "b t"]) -> BlockMask:
    """Return `attention` as a block mask for FlexAttention, which skips blocks that are masked out."""
    rows, width = groups.shape
    return create_block_mask(
        # a lambda, since torch counts the arguments in the signature and the type checker of tests hides it of a def
        lambda row, head, query, key: (
            (
                (groups[row, query] == groups[row, key])
                & (groups[row, key] != PADDING)
                & ((parts[row, key] == 0) | (parts[row, query] == parts[row, key]))
                & (key <= query)
            )
            | (key == query)
        ),
        rows,
        None,
        width,
        width,
        device=str(groups.device),
    )


def _by_prompt(rows: Sequence[Encoded]) -> list[list[int]]:
    """Return the indices of rows with the same prompt as groups, in order of appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(tuple(row.prompt_ids), []).append(index)
    return list(groups.values())


def _length(rows: Sequence[Encoded], group: Sequence[int]) -> int:
    return len(rows[group[0]].prompt_ids) + sum(len(rows[index].response_ids) for index in group)


def _packed(lengths: Sequence[int]) -> list[list[int]]:
    """Put groups into as few rows of the longest one's length as first fit, longest first, finds."""
    room, bins = [], []
    for number in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        place = next((i for i, left in enumerate(room) if left >= lengths[number]), None)
        if place is None:
            place = len(bins)
            bins.append([])
            room.append(max(lengths))
        bins[place].append(number)
        room[place] -= lengths[number]
    return bins


def _place(
    rows: Sequence[Encoded],
    group: Sequence[int],
    number: int,
    tokens: list[_Placed],
    scored: list[tuple[int, int, int]],
    start: int,
) -> None:
    """Append a group's tokens to a row that starts at `start` of the flattened batch, and what is scored of them."""
    prompt = rows[group[0]].prompt_ids
    if not prompt:
        raise ValueError(
            f"response {group[0]} follows an empty prompt, so nothing predicts its first token; put the token that "
            "begins a text before it, as encode_row does"
        )
    tokens += [_Placed(token, position, number, 0) for position, token in enumerate(prompt)]
    last = start + len(tokens) - 1
    for part, index in enumerate(group, start=1):
        here, response = start + len(tokens), rows[index].response_ids
        sources = [last, *range(here, here + len(response) - 1)]
        scored += [(source, target, index) for source, target in zip(sources, response, strict=True)]
        tokens += [_Placed(token, len(prompt) + i, number, part) for i, token in enumerate(response)]


def _tensors(
    placed: Sequence[Sequence[_Placed]],
    scored: Sequence[tuple[int, int, int]],
    pad_id: int,
    responses: int,
    *,
    plain: bool,
) -> Layout:
    width = max(map(len, placed))

    def column(name: str, fill: int) -> Tensor:
        return torch.tensor([[*[getattr(t, name) for t in line], *[fill] * (width - len(line))] for line in placed])

    groups = column("group", PADDING)
    sources, targets, owners = torch.tensor(scored, dtype=torch.long).reshape(-1, 3).unbind(1)
    mask = (groups != PADDING).long()
    ids = column("token", pad_id)
    if plain:
        return Layout(ids, mask, None, None, None, sources, targets, owners, responses)
    return Layout(
        ids, mask, column("position", 0), groups, column("part", PADDING), sources, targets, owners, responses
    )
