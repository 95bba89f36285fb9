"""How a model is trained: what the training stage takes beside the model and the rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from divalign.core.losses import find_method, method_code
from divalign.stages.rewards import TRAINED, reward_key
from divalign.stages.tracking import TrackingPlan
from divalign.store import digest
from divalign.train.arguments import BASELINE_LEARNING_RATE

_BASELINE_RATE = "baseline_learning_rate"


@dataclass(frozen=True)
class LoraPlan:
    """A low-rank adapter on all linear layers; the weights stay."""

    rank: int = 16
    alpha: float = 32.0


@dataclass(frozen=True)
class OnPolicyPlan:
    """How methods that sample responses do so: a reward as `stages.rewards` spells it, and `policy_gradient.Rollouts`.

    `offline_weight` is lambda, the share of the loss of the data's own rows. `reward_updates` of a reward model that is
    trained first are the policy's where None.
    """

    reward: str = TRAINED
    responses: int = 8
    max_new_tokens: int = 64
    kl: float | None = None
    offline_weight: float = 0.0
    truncated: str = "keep"
    reward_updates: int | None = None


@dataclass(frozen=True)
class TrainPlan:
    """How a model is trained. An update takes `pairs_per_update` pairs, `pairs_per_batch` of them per forward.

    The length is `updates`, or `epochs` where updates are None. The learning rate warms up linearly over
    `warmup_updates` and ends at 0 on a cosine. `sft_weight` anchors the aligned response; `variant` and `too_long` are
    those of train.arguments.DivergenceConfig. With `continue_adapter` the base's own adapter is trained further.
    `on_policy` is for methods that sample responses; an update then takes `pairs_per_update` prompts.
    `baseline_learning_rate` is of methods with a learned baseline of the prompt, METHOD+prompt. `tracking` sends
    the log elsewhere too, and decides nothing.
    """

    method: str
    seed: int = 0
    beta: float = 0.1
    updates: int | None = 100
    epochs: float | None = None
    sft_weight: float = 0.0
    variant: str = "paper"
    too_long: str = "refuse"
    pairs_per_update: int = 32
    pairs_per_batch: int = 32
    learning_rate: float = 5e-5
    warmup_updates: int = 6
    max_length: int = 1024
    lora: LoraPlan | None = None
    continue_adapter: bool = False
    log_every: int = 5
    batch_size: int = 64
    on_policy: OnPolicyPlan | None = None
    baseline_learning_rate: float = BASELINE_LEARNING_RATE
    tracking: TrackingPlan | None = None

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights, however an update is split."""
        split = ["batch_size", "method", "on_policy", "tracking"]
        split += [] if self.variant == "paper_code" else ["pairs_per_batch"]  # whose baseline is a micro-batch's own
        split += [] if self._learns_baseline else [_BASELINE_RATE]
        named = {name: value for name, value in asdict(self).items() if name not in split}
        if self.on_policy is not None:  # else left out: what was trained before there were such methods stays valid
            named["on_policy"] = {**asdict(self.on_policy), "reward_key": reward_key(self.on_policy.reward)}
        if code := method_code(self.method):
            named["method_code"] = digest(code)
        return {**named, "method": find_method(self.method).name}

    @property
    def _learns_baseline(self) -> bool:
        return find_method(self.method).prompt_baseline
