"""GCG, a white-box attack: a suffix to the prompt that makes an opening of the answer likely, found token by token.

Each step takes the gradient of the opening's loss by the suffix's token embeddings, draws many single-token changes
among the most promising, scores them and keeps the best. Source: Zou et al. 2023, arXiv 2307.15043, algorithm 1.

Departures, each for a reason: a step that finds nothing better keeps what it has (the published loss may rise); a
candidate counts only if its whole chat, written out and tokenised again, gives exactly the tokens that were scored, so
what was optimised is what a user would send, BOS and template included; the prompt's keys and values are computed once
and serve all candidates. No suffix is shipped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from divalign.data.examples import Conversation, user_says
from divalign.lm.decoding import Network, evaluating, network, out_of_memory
from divalign.safety.single_shot import OPENING, Attack
from divalign.safety.suffix import SuffixLayout, lay_out, suffix_text, survivors, unwritable, with_suffix
from divalign.store import digest, read_json, write_json

PATIENCE = 50  # steps without a surviving candidate after which there is none to be hoped for


@dataclass(frozen=True)
class GcgOptions:
    """How long and how widely to search: `width` changes are scored a step, drawn among `top_k` tokens a place."""

    steps: int = 250
    width: int = 256
    top_k: int = 64
    marks: int = 20
    batch_size: int = 256
    check_every: int = 10
    ascii_only: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for a number that leaves nothing to search; no steps measure the suffix as it begins."""
        least = {"steps": 0, "width": 1, "top_k": 1, "marks": 1, "batch_size": 1, "check_every": 1}
        for name, number in least.items():
            if getattr(self, name) < number:
                raise ValueError(f"gcg's {name} is {getattr(self, name)}, expected at least {number}")


class GcgResult(NamedTuple):
    """The best suffix. `losses[i]` is the opening's loss after step i (nats per token; 0: before any): it never rises.

    `succeeded` is the last verdict on the suffix, None where nobody judged or the judge could not decide.
    """

    suffix: str
    losses: tuple[float, ...]
    succeeded: bool | None


class Checkpoint(NamedTuple):
    """Where the state of a search is written after every step, and plain data that names the model it belongs to."""

    path: Path
    made_from: Any


class _State(NamedTuple):
    ids: list[int]
    losses: list[float]
    checked: float | None = None
    succeeded: bool | None = None
    fruitless: int = 0


def gcg(
    model: Any,
    tokenizer: Any,
    prompt: str,
    *,
    target: str = OPENING,
    options: GcgOptions | None = None,
    judged: Callable[[Conversation], bool | None] | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> GcgResult:
    """Return the suffix under which the model is likeliest to open its answer to `prompt` with `target`.

    `judged` is asked of the conversation with the suffix every `check_every` steps where the loss has fallen since,
    and after the last step; True ends the search. With `checkpoint` the state is written after every step, and a
    call with the same prompt, target, options and `made_from` resumes from it and returns the result of an
    uninterrupted one: the random numbers of a step depend on the seed and the step alone.

    Raises ValueError where the suffix cannot be told from the rest of the chat, and where for 50 steps no candidate
    survived being written out and tokenised again; MemoryError where one candidate alone is too large.
    """
    options = options or GcgOptions()
    key = digest(prompt, target, asdict(options), checkpoint.made_from if checkpoint else None)
    layout = lay_out(tokenizer, prompt, target, marks=options.marks)
    with evaluating(model):
        search = _Search.begin(model, tokenizer, layout, options)
        state = _read_state(checkpoint and checkpoint.path, key) or _State(layout.start, search.losses([layout.start]))
        while not state.succeeded and len(state.losses) <= options.steps:
            state = _judge(search, search.step(state), judged)
            if checkpoint is not None:
                _write_state(checkpoint.path, key, state)
            if on_step is not None:
                on_step(len(state.losses) - 1, state.losses[-1])
    return GcgResult(suffix_text(tokenizer, layout, state.ids), tuple(state.losses), state.succeeded)


def suffixes(by_prompt: Mapping[str, str]) -> Attack:
    """Return the attack that puts each prompt's own suffix behind it. It raises ValueError for a prompt without one."""

    def attack(prompt: str) -> Conversation:
        if prompt not in by_prompt:
            raise ValueError(f"no suffix was searched for the prompt that begins {prompt[:40]!r}; run gcg on it first")
        return user_says(prompt + by_prompt[prompt])

    return attack


class _Search(NamedTuple):
    """All that stays the same from step to step."""

    net: Network
    tokenizer: Any
    layout: SuffixLayout
    options: GcgOptions
    vectors: Float[Tensor, "v d"]
    forbidden: Int[Tensor, " n"]
    prefix: Any

    @classmethod
    def begin(cls, model: Any, tokenizer: Any, layout: SuffixLayout, options: GcgOptions) -> _Search:
        net, device = network(model), model.device
        embed = model.get_input_embeddings()
        with torch.no_grad():
            vectors = embed(torch.arange(embed.weight.shape[0], device=device))
        forbidden = torch.tensor(unwritable(tokenizer, len(vectors), ascii_only=options.ascii_only), dtype=torch.long)
        return cls(net, tokenizer, layout, options, vectors, forbidden.to(device), _prefix(net, layout))

    def step(self, state: _State) -> _State:
        candidates = survivors(self.tokenizer, self.layout, self.candidates(state))
        if not candidates and state.fruitless + 1 >= PATIENCE:
            raise ValueError(
                f"no candidate survived being written out and tokenised again for {PATIENCE} steps; "
                "allow more tokens (top_k, ascii_only=False) or a larger width"
            )
        losses = self.losses(candidates)
        best = min(range(len(losses)), key=losses.__getitem__, default=None)
        ids, loss = state.ids, state.losses[-1]
        if best is not None and losses[best] < loss:
            ids, loss = candidates[best], losses[best]
        fruitless = 0 if candidates else state.fruitless + 1
        return state._replace(ids=ids, losses=[*state.losses, loss], fruitless=fruitless)

    def candidates(self, state: _State) -> list[list[int]]:
        """Draw changes of one token: a place at random, and a token among those that promise most there."""
        slopes = self.slopes(state.ids)
        slopes[:, self.forbidden] = torch.inf
        promising = slopes.topk(min(self.options.top_k, slopes.shape[1] - len(self.forbidden)), largest=False).indices
        draw = np.random.default_rng([self.options.seed, len(state.losses)])
        places = draw.integers(len(state.ids), size=self.options.width)
        tokens = promising.cpu().numpy()[places, draw.integers(promising.shape[1], size=self.options.width)]
        changed = {(int(p), int(t)) for p, t in zip(places, tokens, strict=True) if state.ids[p] != t}
        return [[*state.ids[:place], token, *state.ids[place + 1 :]] for place, token in sorted(changed)]

    def slopes(self, suffix: Sequence[int]) -> Float[Tensor, "t v"]:
        """Return the first-order change of the loss for every token at every place, up to a constant per place."""
        before, length = len(self.layout.before), len(suffix)
        ids = torch.tensor([[*self.layout.before, *suffix, *self.layout.after, *self.layout.target]])
        with torch.enable_grad():
            # From the embedding's output on, so that models that scale it inside the module are served too.
            inputs = self.net.model.get_input_embeddings()(ids.to(self.net.model.device)).detach().requires_grad_()
            logits = self.net.model(inputs_embeds=inputs, use_cache=False).logits
            loss = _opening_loss(logits, self.layout.target)[0]
            (slope,) = torch.autograd.grad(loss, inputs)
        return (slope[0, before : before + length].to(self.vectors.dtype) @ self.vectors.T).float()

    def losses(self, candidates: Sequence[Sequence[int]]) -> list[float]:
        """Return each candidate's loss, in batches that halve when memory runs out."""
        losses: list[float] = []
        size = self.options.batch_size
        while len(losses) < len(candidates):
            batch = candidates[len(losses) : len(losses) + size]
            try:
                losses += self.losses_of(batch).tolist()
                continue
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise MemoryError("out of memory with a single candidate; use a smaller model or dtype") from error
            size = len(batch) // 2
        return losses

    @torch.no_grad()
    def losses_of(self, batch: Sequence[Sequence[int]]) -> Float[Tensor, " n"]:
        tails = [[*ids, *self.layout.after, *self.layout.target] for ids in batch]
        options: dict[str, Any] = {"use_cache": False}
        if self.prefix is None:
            tails = [[*self.layout.before, *tail] for tail in tails]
        else:
            cache = copy.deepcopy(self.prefix)
            cache.batch_repeat_interleave(len(batch))
            options = {"past_key_values": cache, "use_cache": True}
        if "logits_to_keep" in self.net.accepts:
            options["logits_to_keep"] = len(self.layout.target) + 1
        ids = torch.tensor(tails, device=self.net.model.device)
        return _opening_loss(self.net.model(input_ids=ids, **options).logits, self.layout.target)


def _opening_loss(logits: Float[Tensor, "n t v"], target: Sequence[int]) -> Float[Tensor, " n"]:
    """Return the mean loss of the target's tokens, in nats per token: the logits before each, the last unused."""
    used = logits[:, -len(target) - 1 : -1].float().transpose(1, 2)
    labels = torch.tensor(target, device=logits.device).expand(len(logits), -1)
    return functional.cross_entropy(used, labels, reduction="none").mean(dim=1)


@torch.no_grad()
def _prefix(net: Network, layout: SuffixLayout) -> Any:
    """Return the cache of what stands before the suffix; None where the model's cache cannot be repeated."""
    if not net.mergeable or not layout.before:
        return None
    ids = torch.tensor([layout.before], device=net.model.device)
    return net.model(input_ids=ids, use_cache=True).past_key_values


def _judge(search: _Search, state: _State, judged: Callable[[Conversation], bool | None] | None) -> _State:
    steps, loss = len(state.losses) - 1, state.losses[-1]
    due = steps % search.options.check_every == 0 or steps == search.options.steps
    if judged is None or not due or loss == state.checked:
        return state
    return state._replace(checked=loss, succeeded=judged(with_suffix(search.tokenizer, search.layout, state.ids)))


def _write_state(path: Path, key: str, state: _State) -> None:
    # One file in one atomic write: with a checksum in a second file, a kill between the two would cost the search.
    write_json(path, {"key": key, "state": state._asdict(), "check": digest(key, state._asdict())})


def _read_state(path: Path | None, key: str) -> _State | None:
    """Return the state kept for `key`; None where there is none, or it is damaged, or another search's."""
    try:
        content = read_json(path) if path is not None else None
        if content is None or content["key"] != key or content["check"] != digest(key, content["state"]):
            return None
        return _State(**content["state"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
