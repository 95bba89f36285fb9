"""Alignment methods as losses of log-ratios: a divergence and a baseline, or a function of a pair's margin.

With r = beta log(pi(y|x) / pi_ref(y|x)), summed over the response, in nats:

    pointwise   loss = mean over unaligned of penalty(r - baseline) - mean over aligned of score(r - baseline)
    paired      loss = mean over pairs of h(r(aligned) - r(unaligned))

Minus a pointwise divergence loss is a lower bound of that divergence on the rows at hand; in general, the loss at
r = 0 minus the loss bounds what `Method.estimates` names. Means are taken per class, so the share of aligned rows
moves neither the optimum nor the bound. beta lives inside r: no loss sees it.

**Micro-batches.** Take b = method.baseline(all rows of the optimizer step) and give it to each of k equal
micro-batches: the mean of the k losses has the value and the gradient of the one-batch loss. This holds for every
method; for kldo because at b = log-mean-exp over all unaligned rows the kl penalty is the Donsker-Varadhan term, in
value (its mean is 0) and in gradient (the weights are e^(r - b) / n, and the derivative by b vanishes there).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from divalign.core.advantages import SampledRows
from divalign.core.baselines import (
    Baseline,
    LogRatios,
    RowBaselines,
    linear,
    log_linear,
    log_mean_exp_unaligned,
    mean_reward,
    no_baseline,
    policy_kl,
)
from divalign.core.cloud_distance import StatesLoss
from divalign.core.divergences import DIVERGENCES, Divergence, find_divergence, hellinger, js, kl, lecam, tv
from divalign.core.names import find
from divalign.core.optimum import Optimum, against_mixture, classes, noisy_pairs, swapped_pairs

Formula = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Method:
    """An alignment method, row by row a function of r - baseline.

    A paired method has no `unaligned_loss`: its `aligned_loss` reads the margin of a pair. `estimates` says what the
    loss at r = 0 minus the loss is a lower bound of, `optimum` the same as a number on distributions that can be
    enumerated; None claims nothing, and the lab leaves the method out. `own_baseline` is the baseline as a function of
    the rows of a step, `averaging` how two of its values are averaged over steps. `states_loss` is a loss of the hidden
    states of a step's prompts, added to that of r; None: the method reads responses alone. `on_policy` is that of a
    method whose rows are responses that the policy samples (`core.sampled_loss`).
    """

    name: str
    estimates: str
    source: str
    aligned_loss: Formula
    unaligned_loss: Formula | None
    own_baseline: Callable[[LogRatios], Tensor] = no_baseline
    averaging: Callable[[Tensor, Tensor, float], Tensor] = linear
    optimum: Optimum | None = None
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
        rows = _less(ratios, self.baseline(ratios) if baseline is None else baseline)
        if self.unaligned_loss is None:
            if desirable_weight != 1.0 or undesirable_weight != 1.0:
                raise ValueError(f"{self.name} is paired: class weights have no meaning there; leave both at 1")
            return self.aligned_loss(_margins(rows)).mean()
        aligned, unaligned = self.aligned_loss(rows.aligned).mean(), self.unaligned_loss(rows.unaligned).mean()
        return desirable_weight * aligned + undesirable_weight * unaligned


def _check(ratios: LogRatios) -> None:
    if not (len(ratios.aligned) and len(ratios.unaligned)):
        raise ValueError(
            f"got {len(ratios.aligned)} aligned and {len(ratios.unaligned)} unaligned rows; a divergence needs at "
            "least one of each: draw batches in couples"
        )


def _less(ratios: LogRatios, baseline: Baseline) -> LogRatios:
    if isinstance(baseline, RowBaselines):
        return LogRatios(ratios.aligned - baseline.aligned, ratios.unaligned - baseline.unaligned)
    return LogRatios(ratios.aligned - baseline, ratios.unaligned - baseline)


def _margins(ratios: LogRatios) -> Float[Tensor, " b"]:
    if len(ratios.aligned) != len(ratios.unaligned):
        raise ValueError(
            f"got {len(ratios.aligned)} aligned and {len(ratios.unaligned)} unaligned rows; a paired method needs the "
            "two responses of each pair in the same place"
        )
    return ratios.aligned - ratios.unaligned


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


def dpo(label_smoothing: float | int = 0.0) -> Method:
    """Return DPO, -log sigmoid(margin), or its conservative form when labels are wrong with that probability.

    log 2 minus the loss bounds JS(P x Q, Q x P), a pair against the same pair swapped, and reaches it at
    r = log dP/dQ + c(x). Raises ValueError unless 0 <= label_smoothing < 1/2.
    Source: Rafailov et al. 2023, eq. 7; smoothing: Mitchell 2023, "A note on DPO with noisy preferences".
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing}; expected at least 0 and below 1/2")
    return Method(
        name=f"dpo({label_smoothing:g})" if label_smoothing else "dpo",
        estimates="JS(P x Q, Q x P) given the prompt" + (", labels flipped so often" if label_smoothing else ""),
        source="Rafailov et al. 2023, eq. 7",
        aligned_loss=lambda m: -(1 - label_smoothing) * logsigmoid(m) - label_smoothing * logsigmoid(-m),
        unaligned_loss=None,
        optimum=Optimum(
            divergence=js,
            compared=noisy_pairs(label_smoothing),
            factor=0.5,
            reached=not label_smoothing,  # the best critic of a pair with noisy labels is no difference of two rewards
            statement="" if label_smoothing else "ln 2 - min DPO = JS(P x Q, Q x P)",
        ),
    )


def ipo(target: float | int = 0.5) -> Method:
    """Return IPO, (margin - target)^2.

    The published loss is (margin / beta - 1 / (2 beta))^2 in log-ratios without beta: beta^2 times it is this one with
    target 1/2, for every beta. Whole responses, where TRL divides by length. 1/4 minus the loss bounds an eighth of
    the triangular discrimination of (P x Q, Q x P), and reaches it only if that critic is a difference.
    Source: Azar et al. 2023, eq. 17.
    """
    return Method(
        name="ipo" if target == 0.5 else f"ipo({target:g})",
        estimates="triangular discrimination of (P x Q, Q x P) given the prompt, times target^2 / 2",
        source="Azar et al. 2023, eq. 17",
        aligned_loss=lambda margin: (margin - target).square(),
        unaligned_loss=None,
        optimum=Optimum(
            divergence=lecam,
            compared=swapped_pairs,
            factor=target**2 / 2,
            reached=False,
            statement="1/4 - min IPO <= LeCam(P x Q, Q x P) / 8" if target == 0.5 else "",
        ),
    )


def rdro(share: float | int = 0.5) -> Method:
    """Return RDRO: softplus(-r) + share softplus(r) on aligned rows, (1 - share) softplus(r) on unaligned ones.

    2 log 2 minus the loss bounds 2 JS(P, M) for the mixture M = share P + (1 - share) Q, tight at r = log dP/dM, which
    never exceeds -log(share): the critic cannot run away. Class means, on which that optimum rests, where the released
    code averages the mixed batch. Raises ValueError unless 0 < share < 1.
    Source: arXiv 2604.04410.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; expected the share of aligned rows, above 0 and below 1")
    return Method(
        name=f"rdro({share:g})",
        estimates=f"2 JS(P, {share:g} P + {1 - share:g} Q)",
        source="arXiv 2604.04410",
        aligned_loss=lambda r: -logsigmoid(r) - share * logsigmoid(-r),
        unaligned_loss=lambda r: -(1 - share) * logsigmoid(-r),
        optimum=Optimum(
            divergence=js,
            compared=against_mixture(share),
            statement="2 ln 2 - min RDRO = 2 JS(P, (P + Q)/2)" if share == 0.5 else "",
        ),
    )


def separate(harmful_weight: float | int = 0.0) -> Method:
    """Return the method that separates the hidden states of harmful and benign prompts, and anchors its responses.

        loss = - log(1 + D_B) + mean of r^2 / 2

    D_B is the distance of the step's prompts in their principal plane (`core.cloud_distance`); the logarithm keeps it
    from growing faster than the anchor does. r^2 / 2 = beta^2 (log pi / pi_ref)^2 / 2, whose mean over responses that
    the reference draws is beta^2 KL(pi_ref, pi) up to third order; exactly, KL <= sqrt(E (log pi / pi_ref)^2). It needs
    no second model, and unlike - log pi / pi_ref it is bounded below on responses that the reference did not draw.
    Responses to harmful prompts are anchored with `harmful_weight` times their r: 0, as in the source, leaves the model
    free to protect itself there; 1 keeps the behaviour on all training prompts, so that separation alone moves.

    Raises ValueError for a weight outside [0, 1].
    Source: the idea is ES2, arXiv 2603.20206 (abstract read); distance and anchor are our own choice.
    """
    if not 0 <= harmful_weight <= 1:
        raise ValueError(f"harmful_weight is {harmful_weight}; expected 0 (benign prompts alone) to 1 (all prompts)")
    return Method(
        name=f"separate({harmful_weight:g})" if harmful_weight else "separate",
        estimates="no divergence of responses: it moves the hidden states of prompts",
        source="ES2, arXiv 2603.20206, the idea",
        aligned_loss=lambda r: r.square() / 4,
        unaligned_loss=lambda r: r.square() / 4,
        states_loss=StatesLoss(of_distance=lambda distance: -torch.log1p(distance), harmful_weight=harmful_weight),
    )


_NAMED = (
    replace(
        divergence_method(kl),
        name="kldo",
        aligned_loss=torch.neg,  # r - baseline as it is: at log-mean-exp no unaligned row can overflow, so none is bent
        own_baseline=log_mean_exp_unaligned,
        averaging=log_linear,
        optimum=Optimum(divergence=kl, statement="- min KLDO = KL(P, Q)", critic_baseline="own", policy_baseline="own"),
        source="arXiv 2502.00657; Donsker, Varadhan 1983. Equal to -mean r + log-mean-exp r, value and gradient",
    ),
    replace(
        divergence_method(js),
        name="bco",
        own_baseline=mean_reward,
        # A policy gets the best constant, which the mean reward can at most equal.
        optimum=Optimum(divergence=js, statement="ln 4 - min BCO = 2 JS(P, Q)", policy_baseline="constant"),
        source="Jung et al. 2024, arXiv 2404.04656, less 2 log 2; the mean of this step's rows, not of all past ones",
    ),
    replace(
        divergence_method(tv),
        name="kto",
        own_baseline=policy_kl,
        optimum=Optimum(divergence=tv, statement="1 - min KTO = TV(P, Q)", policy_baseline="own"),
        source="Ethayarajh et al. 2024, arXiv 2402.01306, less 1; class means where TRL averages the rows",
    ),
    replace(
        divergence_method(hellinger),
        name="hdo",
        optimum=Optimum(divergence=hellinger, statement="2 - min HDO = squared Hellinger(P, Q)"),
        source="the HDO trainer beside arXiv 2502.00657, less 2",
    ),
    dpo(),
    ipo(),
    Method(
        name="exponential_pair",
        estimates="half the squared Hellinger distance of (P x Q, Q x P) given the prompt",
        source="the exponential loss on pairs: Reid, Williamson 2011",
        aligned_loss=lambda margin: 1 - hellinger.score(margin),
        unaligned_loss=None,
        optimum=Optimum(
            divergence=hellinger,
            compared=swapped_pairs,
            factor=0.5,
            statement="1 - min E e^(-margin/2) = squared Hellinger(P x Q, Q x P) / 2",
        ),
    ),
    replace(
        rdro(0.5),
        name="nca",
        optimum=Optimum(
            divergence=js, compared=against_mixture(0.5), statement="2 ln 2 - min NCA = 2 JS(P, (P + Q)/2)"
        ),
        source="Chen et al. 2024, arXiv 2402.05369, two responses. It needs no pairs: it is rdro with share 1/2",
    ),
    replace(rdro(0.5), name="rdro"),
    separate(),
    Method(
        name="rlhf",
        estimates="nothing: the policy is tilted by a reward, whose model's loss estimates JS(P x Q, Q x P)",
        source="Christiano et al. 2017; the update: RLOO, Ahmadian et al. 2024, arXiv 2402.14740",
        aligned_loss=torch.neg,
        unaligned_loss=torch.clone,
        on_policy=SampledRows(mixes=False),
    ),
)

METHODS: dict[str, Method] = {
    method.name: method for method in (*_NAMED, *(divergence_method(row) for row in DIVERGENCES.values()))
}
FAMILIES: dict[str, Callable[[float], Method]] = {"dpo": dpo, "ipo": ipo, "rdro": rdro, "separate": separate}


def on_policy(divergence: Divergence) -> Method:
    """Return the loss of `divergence` for responses that the policy samples, weighted by their advantages."""
    return replace(
        divergence_method(divergence),
        name=f"on_policy:{divergence.name}",
        estimates=f"{divergence.value}, of sampled responses above and below the average reward",
        source="after arXiv 2602.05946, weights not verified; canonical link",
        optimum=None,
        on_policy=SampledRows(mixes=True),
    )


_PREFIXES: dict[str, Callable[[Divergence], Method]] = {"fdo:": divergence_method, "on_policy:": on_policy}


def find_method(name: str) -> Method:
    """Return the method called `name`: `kldo`, `rdro(0.4)`, `fdo:js`, `on_policy:js`, or `package.module:thing`.

    Raises ValueError, naming the nearest known one, when there is none.
    """
    for prefix, make in _PREFIXES.items():
        if name not in METHODS and name.startswith(prefix):
            return make(find_divergence(name.removeprefix(prefix)))
    return find(name, METHODS, kind="method", of=Method, families=FAMILIES)
