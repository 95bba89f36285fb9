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
from dataclasses import replace

import torch
from torch.nn.functional import logsigmoid

from divalign.core.advantages import SampledRows
from divalign.core.baselines import (
    LogRatios,
    RowBaselines,
    log_linear,
    log_mean_exp_unaligned,
    mean_reward,
    policy_kl,
)
from divalign.core.cloud_distance import StatesLoss
from divalign.core.divergences import DIVERGENCES, Divergence, built_in, find_divergence, hellinger, js, kl, tv
from divalign.core.method import PROMPT, Controls, Likelihood, Method, divergence_method, with_prompt_baseline
from divalign.core.names import find, in_full, source_of
from divalign.core.optimum import Optimum, against_mixture
from divalign.core.pairs import PAIR_FAMILIES, PAIRS, bregman_pairs, dpo, ipo

__all__ = [
    "FAMILIES", "METHODS", "LogRatios", "Method", "RowBaselines", "divergence_method", "dpo", "find_method", "ipo",
    "rdro", "with_baseline", "with_prompt_baseline",
]  # fmt: skip


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
        name=f"rdro({in_full(share)})",
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
        name=f"separate({in_full(harmful_weight)})" if harmful_weight else "separate",
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
    replace(
        divergence_method(tv),
        name="apo_zero",
        source="D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7, less 1: kto without a baseline; TRL's apo_zero",
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

# Baselines of another kind: no function of r, and no divergence.
_SFT = Method(
    name="sft",
    estimates="no divergence: the likelihood of the aligned responses",
    source="supervised fine-tuning on the aligned responses; TRL's loss_type sft",
    aligned_loss=lambda r: 0 * r,
    unaligned_loss=lambda r: 0 * r,
    likelihood=Likelihood(1.0),
)
_SUPERVISED = (
    _SFT,
    replace(
        _SFT,
        name="csft",
        estimates="no divergence: the likelihood of both classes, each behind the text of its class",
        source="conditional SFT: Korbak et al. 2023, arXiv 2302.08582; as a baseline: arXiv 2402.01306 (recalled)",
        likelihood=Likelihood(1.0, 1.0),
        controls=Controls("<|good|>", "<|bad|>"),
    ),
)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (*_NAMED, *PAIRS, *_SUPERVISED, *(divergence_method(row) for row in DIVERGENCES.values()))
}
FAMILIES: dict[str, Callable[[float], Method]] = {**PAIR_FAMILIES, "rdro": rdro, "separate": separate}


def with_baseline(name: str, baseline: str) -> str:
    """Return the name of a method with the baseline `own` or `prompt`; one that asks for its own keeps it."""
    return name if baseline == "own" or name.endswith(PROMPT) else f"{name}{PROMPT}"


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


_PREFIXES: dict[str, Callable[[Divergence], Method]] = {
    "fdo:": divergence_method,
    "bpo:": bregman_pairs,
    "on_policy:": on_policy,
}


def find_method(name: str) -> Method:
    """Return the method called `name`: `kldo`, `rdro(0.4)`, `fdo:js`, `on_policy:js`, or `package.module:thing`.

    `bpo:<divergence>` is a divergence's loss of pairs; behind a pointwise method, `+prompt` asks for a learned
    baseline of the prompt: `kldo+prompt`. Raises ValueError, naming the nearest known one, when there is none.
    """
    if name not in METHODS and name.endswith(PROMPT):
        return with_prompt_baseline(find_method(name.removesuffix(PROMPT)))
    for prefix, make in _PREFIXES.items():
        if name not in METHODS and name.startswith(prefix):
            return make(find_divergence(name.removeprefix(prefix)))
    return find(name, METHODS, kind="method", of=Method, families=FAMILIES)


def method_code(name: str) -> str:
    """Return the code of the user's module that a method or its divergence comes from; "" for a built-in one."""
    if built_in_method(name) is not None:
        return ""
    bare = name.removesuffix(PROMPT)
    prefix = next((prefix for prefix in _PREFIXES if bare.startswith(prefix)), "")
    return source_of(bare.removeprefix(prefix))


def built_in_method(name: str) -> Method | None:
    """Return the method called `name`, None where it is one's own; imports nothing, so a result file may name it."""
    bare = name.removesuffix(PROMPT)
    divergence = bare.partition(":")[2]
    if ":" in bare and (not bare.startswith(("fdo:", "bpo:", "on_policy:")) or built_in(divergence) is None):
        return METHODS.get(name)
    try:
        return find_method(name)
    except ValueError:
        return None
