"""Updates on sampled responses: what `rlhf` and `on_policy:<divergence>` add to a step of DivergenceTrainer.

An update draws K responses to each of its prompts from the policy as it stands, all of them together, and rewards them;
each micro-batch then scores its own with the reference and, with gradients, with the policy, and descends
`core.sampled_loss`. There is one update a batch. The KL penalty (k1) is part of the reward. Drawing depends on the
seed, the update, the prompt and the response's number alone, so a resumed training repeats it and the size of a
micro-batch changes nothing but rounding.

A response that is cut at `max_new_tokens` is one of the policy's outcomes: its log-probability is that of being cut
there, so the gradient is that of the truncated policy. It is counted (`completions/clipped_ratio`) and scored as it
stands, or with `truncated="drop"` left out of its group. A reward that is None is undecided and left out as well.

Why not TRL's RLOOTrainer: it has neither run folders nor the losses of METHODS nor sampling seeded by prompt, and on
the same embedded job it makes .58 times as many samples per CPU second (`python -m bench.online`, docs/training.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from divalign.core.advantages import importance_weights, leave_one_out, penalised_rewards, zero_variance
from divalign.core.losses import Method
from divalign.core.sampled_loss import sampled_loss
from divalign.data.batching import Encoded
from divalign.data.columns import plain_content
from divalign.data.examples import Row, as_messages
from divalign.lm.generate import Sample, sample_prompts, sample_text
from divalign.lm.layout import lay_out
from divalign.lm.score import sequence_log_probs
from divalign.store import digest
from divalign.train.arguments import DivergenceConfig
from divalign.train.couples import Couple, EncodedRows
from divalign.train.reference import Reference

TRUNCATED = ("keep", "drop")


class Completion(NamedTuple):
    """A sampled response as a reward reads it: the training row, the user's last turn, the text, and the tokens."""

    row: Row
    prompt: str
    response: str
    sample: Sample


@dataclass(frozen=True)
class Reward:
    """A function of completions; larger is better, without unit; None: undecided. `key` names all it depends on."""

    name: str
    key: str
    score: Callable[[Sequence[Completion]], Sequence[float | int | None]]


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """How responses are sampled and rewarded.

    Args:
        reward: of a whole response.
        responses: to each prompt of an update (K; TRL's num_generations), at least 2.
        max_new_tokens: a longer response is cut.
        kl: weight of log(pi / pi_ref) in the reward; beta if None, so never 0 unless it is set so.
        offline_weight: lambda, the share of the loss of the data's own rows, 0 to 1.
        truncated: what a response without an end counts for: `keep` it as it stands, or `drop` it from its group.
        batch_size: rows of a step of decoding.

    """

    reward: Reward
    responses: int = 8
    max_new_tokens: int = 64
    kl: float | None = None
    offline_weight: float = 0.0
    truncated: str = "keep"
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.responses < 2:
            raise ValueError(f"responses is {self.responses}; a group needs 2 at least, each the other's baseline")
        if self.kl is not None and self.kl < 0:
            raise ValueError(f"kl is {self.kl}; expected at least 0 (no penalty), or None for beta")
        if not 0 <= self.offline_weight < 1:
            raise ValueError(f"lambda is {self.offline_weight}; expected 0 (sampled responses alone) to below 1")
        if self.truncated not in TRUNCATED:
            raise ValueError(f"truncated is {self.truncated!r}, expected one of {', '.join(TRUNCATED)}")

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights."""
        names = ("responses", "max_new_tokens", "kl", "offline_weight", "truncated")
        return {"reward": self.reward.key, **{name: getattr(self, name) for name in names}}


class Group(NamedTuple):
    """K responses to a prompt and their rewards, NaN where undecided."""

    samples: list[Sample]
    rewards: Float[Tensor, " k"]


class SampledBatch(NamedTuple):
    """K responses to each of some prompts, prompt after prompt, with rewards (NaN: undecided) and pi_ref of each."""

    samples: list[Sample]
    rewards: Float[Tensor, "p k"]
    reference: Float[Tensor, " n"]


class SampledStep:
    """Draws, scores and weighs the responses of micro-batches, and keeps what the log says of them."""

    def __init__(self, method: Method, rollouts: Rollouts, tokenizer: Any, *, beta: float, seed: int) -> None:
        if method.on_policy is None:
            raise ValueError(
                f"rollouts have no effect on {method.name}, which trains on the rows alone; leave them out"
            )
        if rollouts.offline_weight and not method.on_policy.mixes:
            raise ValueError(
                f"lambda is {rollouts.offline_weight}, and the loss of {method.name} on the data's rows is no loss: it "
                "has no lower bound; leave lambda at 0, or use on_policy:<divergence>"
            )
        self.method, self.rollouts, self._tokenizer = method, rollouts, tokenizer
        self._beta, self._seed = beta, seed
        self._rows: dict[tuple[int, ...], Row] = {}
        self._groups: dict[tuple[int, ...], Group] = {}
        self._mean_prompts = 1.0  # of a micro-batch
        self._log: list[StepRecord] = []

    def set_rows(self, encoded: EncodedRows) -> None:
        """Remember which row each prompt is of: a reward may read its other columns."""
        sides = zip((encoded.aligned, encoded.unaligned), encoded.rows, strict=True)
        for texts, rows in sides:
            for text, row in zip(texts, rows, strict=True):
                self._rows.setdefault(tuple(text.prompt_ids), row)

    @torch.no_grad()
    def draw(self, model: Any, parts: Sequence[Sequence[Sequence[int]]], *, update: int) -> None:
        """Let `model` write K responses to each prompt of an update's micro-batches, and reward them."""
        prompts = [prompt for part in parts for prompt in part]
        plan, different = self.rollouts, list(dict.fromkeys(map(tuple, prompts)))
        self._mean_prompts = len(different) / len(parts)
        numbers = [int(digest("rollout", self._seed, update, number)[:12], 16) for number in range(plan.responses)]
        repeated = [list(prompt) for prompt in different for _ in numbers]
        samples = sample_prompts(
            model,
            self._tokenizer,
            repeated,
            seeds=numbers * len(different),
            max_new_tokens=plan.max_new_tokens,
            batch_size=plan.batch_size,
        )
        rewards = torch.tensor(self._rewards(samples), dtype=torch.float64).unflatten(0, (-1, plan.responses))
        starts = range(0, len(samples), plan.responses)
        groups = [
            Group(samples[start : start + plan.responses], row) for start, row in zip(starts, rewards, strict=True)
        ]
        self._groups = dict(zip(different, groups, strict=True))

    def take(self, prompts: Iterable[Sequence[int]], reference: Reference, pad_id: int, *, device: Any) -> SampledBatch:
        """Return the responses to a micro-batch's prompts, scored by the reference."""
        groups = [self._groups[prompt] for prompt in dict.fromkeys(map(tuple, prompts))]
        samples = [sample for group in groups for sample in group.samples]
        with reference.ready(device) as scorer:
            scores = sequence_log_probs(scorer, [sample.tokens for sample in samples], pad_id, batch_size=len(samples))
        return SampledBatch(samples, torch.stack([group.rewards for group in groups]), torch.from_numpy(scores))

    def _rewards(self, samples: Sequence[Sample]) -> list[float]:
        completions = [self._completion(sample) for sample in samples]
        scores = self.rollouts.reward.score(completions)
        if len(scores) != len(samples):
            raise ValueError(
                f"the reward {self.rollouts.reward.name} gave {len(scores)} numbers for {len(samples)} responses"
            )
        drops = self.rollouts.truncated == "drop"
        return [
            float("nan") if score is None or (drops and not sample.ended) else float(score)
            for score, sample in zip(scores, samples, strict=True)
        ]

    def _completion(self, sample: Sample) -> Completion:
        row = self._rows[tuple(sample.tokens.prompt_ids)]
        prompt = plain_content(as_messages(row["prompt"], "user")[-1]["content"])
        return Completion(row, prompt, sample_text(self._tokenizer, sample), sample)

    def inputs(self, batch: SampledBatch, pad_id: int, *, share: bool) -> dict[str, Any]:
        """Return the layout of the responses, for a forward with gradients."""
        return lay_out([sample.tokens for sample in batch.samples], pad_id, share=share).inputs()

    def loss(self, batch: SampledBatch, log_probs: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Return the loss of sampled responses from the policy's log-probabilities, which have gradients.

        The mean of the micro-batches' losses is the mean over the update's responses, however many prompts each has.
        """
        kl = self._beta if self.rollouts.kl is None else self.rollouts.kl
        log_ratios = log_probs - batch.reference.to(log_probs)
        sampling = torch.tensor([sample.log_prob for sample in batch.samples]).to(log_probs)
        rewards = batch.rewards.to(log_probs)
        advantages = leave_one_out(penalised_rewards(rewards, log_ratios.view_as(rewards), kl)).flatten()
        importance = importance_weights(log_probs, sampling)
        lengths = torch.tensor([len(sample.tokens.response_ids) for sample in batch.samples])
        ended = torch.tensor([sample.ended for sample in batch.samples])
        columns = (batch.rewards, log_ratios, log_probs, importance, lengths, ended)
        self._log.append(StepRecord(*(column.detach().cpu().double() for column in columns)))
        loss = sampled_loss(self.method, log_ratios, advantages, importance, beta=self._beta)
        return loss * len(batch.rewards) / self._mean_prompts

    def metrics(self) -> dict[str, float]:
        """Return what the log says of the responses since the last call, under TRL's names; nothing without any."""
        records, self._log = self._log, []
        return sampled_metrics(records) if records else {}

    def unlogged(self) -> list[list[Any]]:
        """Return what `metrics` would speak of, as a checkpoint keeps it."""
        return [[column.tolist() for column in record] for record in self._log]

    def resume(self, unlogged: Sequence[Sequence[Any]]) -> None:
        """Continue from what a checkpoint kept."""
        self._log = [
            StepRecord(*(torch.tensor(column, dtype=torch.float64) for column in record)) for record in unlogged
        ]


def sampled_step(
    method: Method, rollouts: Rollouts | None, tokenizer: Any, args: DivergenceConfig
) -> SampledStep | None:
    """Return what samples a training's responses; None for one that has no rollouts.

    Raises ValueError where a method needs rollouts, or the training has arguments that they leave without effect.
    """
    if rollouts is not None:
        if args.sft_weight and not rollouts.offline_weight:
            raise ValueError(f"sft_weight is {args.sft_weight}, which has no effect without lambda: no row is read")
        return SampledStep(method, rollouts, tokenizer, beta=args.beta, seed=args.seed)
    if method.on_policy:
        raise ValueError(f"{args.method} trains on responses that the policy samples; give rollouts=Rollouts(...)")
    return None


class StepRecord(NamedTuple):
    """What is kept of a micro-batch for the log, in float64 on the CPU."""

    rewards: Float[Tensor, "p k"]
    log_ratios: Float[Tensor, " n"]
    log_probs: Float[Tensor, " n"]
    importance: Float[Tensor, " n"]
    lengths: Float[Tensor, " n"]
    ended: Float[Tensor, " n"]


def sampled_metrics(records: Sequence[StepRecord]) -> dict[str, float]:
    """Return the figures of sampled responses, named and counted as TRL's RLOOTrainer does.

    `reward` has no KL penalty in it. `kl` is k1 and `entropy` -log pi, each the sum over the tokens of all responses
    over their number: unbiased, nats per token (TRL averages the entropy of each token's distribution, of which this is
    an estimate). `frac_reward_zero_std` is the share of groups whose rewards are all equal: they teach only the
    penalty. `reward_undecided` is the share of responses without a reward.
    """
    rewards = torch.cat([record.rewards.flatten() for record in records])
    decided = rewards[~rewards.isnan()]
    equal = torch.cat([zero_variance(record.rewards) for record in records])
    lengths, ended, weights = (
        torch.cat([getattr(record, name) for record in records]) for name in ("lengths", "ended", "importance")
    )
    tokens = float(lengths.sum())
    terminated = lengths[ended > 0]
    return {
        "reward": decided.mean().item(),
        "reward_std": decided.std().item() if len(decided) > 1 else 0.0,
        "frac_reward_zero_std": equal.cpu().double().mean().item(),
        "reward_undecided": 1 - len(decided) / len(rewards),
        "kl": float(sum(record.log_ratios.sum() for record in records)) / tokens,
        "entropy": -float(sum(record.log_probs.sum() for record in records)) / tokens,
        "completions/mean_length": lengths.mean().item(),
        "completions/min_length": lengths.min().item(),
        "completions/max_length": lengths.max().item(),
        "completions/clipped_ratio": 1 - ended.mean().item(),
        "completions/mean_terminated_length": terminated.mean().item() if len(terminated) else 0.0,
        "sampling/importance_sampling_ratio/min": weights.min().item(),
        "sampling/importance_sampling_ratio/mean": weights.mean().item(),
        "sampling/importance_sampling_ratio/max": weights.max().item(),
    }


def each_once(parts: Iterable[Sequence[Sequence[int]]]) -> list[list[list[int]]]:
    """Return the prompts of micro-batches; of those that have the same prompt only the first keeps it."""
    previous: set[tuple[int, ...]] = set()
    own: list[list[list[int]]] = []
    for prompts in parts:
        own.append([list(prompt) for prompt in prompts if tuple(prompt) not in previous])
        previous.update(map(tuple, prompts))
    return own


def prompts_of(items: Sequence[Couple]) -> list[list[int]]:
    """Return the prompts of a micro-batch's couples, each once: of a pair the two sides share one."""
    rows: list[Encoded] = [side.row for item in items for side in (item.aligned, item.unaligned)]
    return [list(prompt) for prompt in dict.fromkeys(tuple(row.prompt_ids) for row in rows)]
