"""A method: a loss of log-ratios, row by row or of pairs, with its baseline and with what its least loss reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from divalign.core.advantages import SampledRows
from divalign.core.baselines import (
    Baseline,
    LogRatios,
    critic,
    linear,
    log_mean_exp_unaligned,
    no_baseline,
)
from divalign.core.cloud_distance import StatesLoss
from divalign.core.divergences import Divergence
from divalign.core.optimum import Optimum, classes

Formula = Callable[[Tensor], Tensor]
PROMPT = "+prompt"  # behind a method's name: with a learned baseline of the prompt
Shift = Literal["of the prompt", "one constant", "none"]


class Likelihood(NamedTuple):
    """Weights of the mean negative log-likelihood per token of each class, which a method adds to its loss."""

    aligned: float = 0.0
    unaligned: float = 0.0


_NO_LIKELIHOOD = Likelihood()


class Controls(NamedTuple):
    """Texts between prompt and response that say which class the response is of; the model is used with the first."""

    aligned: str
    unaligned: str


@dataclass(frozen=True, kw_only=True)
class Method:
    """An alignment method, row by row a function of r - baseline.

    A paired method has no `unaligned_loss`: its `aligned_loss` reads the margin of a pair, and `pair_term`, which is
    added to it, the rewards of both responses. `estimates` says what the loss at r = 0 minus the loss is a lower bound
    of, `optimum` the same as a number on distributions that can be enumerated; None claims nothing, and the lab leaves
    the method out. `own_baseline` is the baseline as a function of the rows of a step, `averaging` how two of its
    values are averaged over steps; with `prompt_baseline` a learned function of the prompt stands in its place.

    `likelihood` is of methods that learn from the responses' own probability. With `safety_offset` (nats of r) the rows
    say which responses are safe: the margin of a pair whose rejected response is unsafe counts that much less. With
    `controls` every row is shown with the text of its class.

    `states_loss` is a loss of the hidden states of a step's prompts, added to that of r; None: the method reads
    responses alone. `on_policy` is that of a method whose rows are responses that the policy samples
    (`core.sampled_loss`).
    """

    name: str
    estimates: str
    source: str
    aligned_loss: Formula
    unaligned_loss: Formula | None
    pair_term: Callable[[Tensor, Tensor], Tensor] | None = None
    own_baseline: Callable[[LogRatios], Tensor] = no_baseline
    averaging: Callable[[Tensor, Tensor, float], Tensor] = linear
    optimum: Optimum | None = None
    prompt_baseline: bool = False
    likelihood: Likelihood = _NO_LIKELIHOOD
    safety_offset: float | int | None = None
    controls: Controls | None = None
    states_loss: StatesLoss | None = None
    on_policy: SampledRows | None = None

    @property
    def divergence(self) -> Divergence | None:
        """The divergence of P and Q itself that minus the loss estimates; None where it is that of others."""
        return self.optimum.divergence if self.optimum and self.optimum.compared is classes else None

    @property
    def paired(self) -> bool:
        """Whether row i of both samples must belong to one pair."""
        return self.unaligned_loss is None

    @property
    def has_baseline(self) -> bool:
        """Whether a row's loss depends on the other rows of the step; where not, micro-batches need no pre-pass."""
        return self.own_baseline is not no_baseline

    @property
    def log_mean_exp_baseline(self) -> bool:
        """Whether the baseline is log-mean-exp, under which the unaligned gradient is a softmax-weighted sum."""
        return self.own_baseline is log_mean_exp_unaligned

    @property
    def shift_invariance(self) -> Shift:
        """Which shifts of r leave the loss as it is: any function of the prompt, one constant, or none.

        Tried on fixed rows, not claimed. A learned baseline of the prompt takes up any such function, and counts.
        """
        if self.prompt_baseline:
            return "of the prompt"
        random = torch.Generator().manual_seed(0)
        rows = torch.randn(3, 8, generator=random, dtype=torch.float64)
        shifts: tuple[tuple[Tensor, Shift], ...] = ((rows[2], "of the prompt"), (rows[2, :1], "one constant"))
        for shift, name in shifts:
            shifted = self.loss(LogRatios(rows[0] + shift, rows[1] + shift))
            if torch.isclose(shifted, self.loss(LogRatios(rows[0], rows[1])), rtol=1e-9, atol=1e-12):
                return name
        return "none"

    def baseline(self, ratios: LogRatios) -> Float[Tensor, ""]:
        """Return the method's own baseline from the rows of a whole optimizer step, detached; 0 where it has none."""
        _check(ratios)
        return self.own_baseline(ratios).detach()

    def running_baseline(self, previous: Float[Tensor, ""] | None, ratios: LogRatios, rate: float) -> Float[Tensor, ""]:
        """Return the exponential moving average of the baseline over optimizer steps, this step's rows having `rate`.

        For kldo it is the average of mean e^r, kept in log space. The first step's is its own. A loss at such a
        baseline is biased towards the past: for study, beside the exact one.
        Source: MINE, Belghazi et al. 2018, sec. 3.2.
        """
        new = self.baseline(ratios)
        return new if previous is None else self.averaging(previous, new, rate)

    def loss(
        self,
        ratios: LogRatios,
        baseline: Baseline | None = None,
        *,
        desirable_weight: float | int = 1.0,
        undesirable_weight: float | int = 1.0,
    ) -> Float[Tensor, ""]:
        """Return the loss in nats; lower is better, and `baseline=None` means the method's own over these rows.

        The weights multiply the aligned and the unaligned term, as in TRL; other than 1 they leave the divergence.

        Raises ValueError for an empty class, and for a paired method with unequal classes or with weights.
        """
        _check(ratios)
        rows = critic(ratios, self.baseline(ratios) if baseline is None else baseline)
        if self.unaligned_loss is None:
            if desirable_weight != 1.0 or undesirable_weight != 1.0:
                raise ValueError(f"{self.name} is paired: class weights have no meaning there; leave both at 1")
            losses = self.aligned_loss(_margins(rows))
            return (losses if self.pair_term is None else losses + self.pair_term(rows.aligned, rows.unaligned)).mean()
        aligned, unaligned = self.aligned_loss(rows.aligned).mean(), self.unaligned_loss(rows.unaligned).mean()
        return desirable_weight * aligned + undesirable_weight * unaligned


def divergence_method(divergence: Divergence) -> Method:
    """Return the method that maximises the bound of `divergence`, without a baseline."""
    return Method(
        name=f"fdo:{divergence.name}",
        estimates=divergence.value,
        source=f"FDO, arXiv 2502.00657, canonical link; {divergence.source}",
        aligned_loss=lambda r: -divergence.score(r),
        unaligned_loss=divergence.penalty,
        optimum=Optimum(divergence=divergence),
    )


def with_prompt_baseline(method: Method) -> Method:
    """Return a pointwise method with the critic T = r + b(x): a learned function of the prompt for its own baseline.

    A policy that sums to 1 obeys E_ref[e^(r/beta) | x] = 1, so r = log dP/dQ is out of its reach; r + b is not, and
    there b(x) = beta log E_ref[(dP/dQ)^(1/beta) | x]. In its place and not on top of it: with the mean reward of bco
    taken off as well T would have mean 0, which log dP/dQ has not, and b would drift without end; kldo's log-mean-exp
    would leave b determined up to a constant and every micro-batch in need of the others. So kldo becomes the bound of
    Nguyen, Wainwright and Jordan at T, that is TUBA with the normaliser e^(-b(x)), which at its best b equals
    Donsker and Varadhan's: the same divergence, row by row, without bias in any batch.

    Raises ValueError for a paired method, and for one that reads no r.
    Source: TUBA: Poole et al. 2019, arXiv 1905.06922, eq. 7; learned log-normalisers: FLO, arXiv 2107.01131.
    """
    if method.paired:
        raise ValueError(
            f"{method.name} reads r(aligned) - r(unaligned) of a pair, from which a baseline of the prompt cancels; "
            "leave the prompt baseline out, or use a pointwise method such as kldo"
        )
    if method.states_loss or method.on_policy:
        raise ValueError(f"{method.name} does not learn from the divergence of rows alone; leave the baseline out")
    if any(method.likelihood):
        raise ValueError(f"{method.name} learns from likelihoods alone, which have no baseline; leave it out")
    bound = divergence_method(method.divergence) if method.divergence else method
    return replace(
        method,
        name=f"{method.name}{PROMPT}",
        source=f"{method.source}; prompt baseline: TUBA, Poole et al. 2019, arXiv 1905.06922, eq. 7",
        aligned_loss=bound.aligned_loss,
        unaligned_loss=bound.unaligned_loss,
        own_baseline=no_baseline,
        averaging=linear,
        optimum=method.optimum and replace(method.optimum, critic_baseline="zero", policy_baseline="prompt"),
        prompt_baseline=True,
    )


def _check(ratios: LogRatios) -> None:
    if not (len(ratios.aligned) and len(ratios.unaligned)):
        raise ValueError(
            f"got {len(ratios.aligned)} aligned and {len(ratios.unaligned)} unaligned rows; a divergence needs at "
            "least one of each: draw batches in couples"
        )


def _margins(ratios: LogRatios) -> Float[Tensor, " b"]:
    if len(ratios.aligned) != len(ratios.unaligned):
        raise ValueError(
            f"got {len(ratios.aligned)} aligned and {len(ratios.unaligned)} unaligned rows; a paired method needs the "
            "two responses of each pair in the same place"
        )
    return ratios.aligned - ratios.unaligned
