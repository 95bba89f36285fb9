"""Methods are held to their published formulas, to their exactness over micro-batches and to what they estimate."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logsumexp
from torch import Tensor

from divalign.core.baselines import LogRatios, RowBaselines, log_mean_exp
from divalign.core.divergences import DIVERGENCES, find_divergence
from divalign.core.losses import METHODS, Method, dpo, find_method
from divalign.core.pairs import PAIRS
from divalign.lab.worlds import Worlds, draw_worlds, paired_rows, pointwise_rows

few = settings(max_examples=15, derandomize=True, deadline=None)
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
# `separate` moves the hidden states of prompts and holds responses where the reference has them.
reads_r = [method for method in METHODS.values() if not any(method.likelihood) and method.states_loss is None]
pointwise_methods = pytest.mark.parametrize(
    "method", [method for method in METHODS.values() if not method.paired], ids=lambda method: method.name
)


def draw(seed: int = 0, aligned: int = 12, unaligned: int = 12, spread: float = 1.5) -> LogRatios:
    random = torch.Generator().manual_seed(seed)
    rows = spread * torch.randn(aligned + unaligned, generator=random, dtype=torch.float64)
    return LogRatios((0.4 + rows[:aligned]).requires_grad_(), (rows[aligned:] - 0.3).requires_grad_())


def value_and_gradient(loss: Callable[[LogRatios], Tensor], ratios: LogRatios) -> tuple[Tensor, Tensor]:
    value = loss(ratios)
    gradients = torch.autograd.grad(value, ratios[:2])
    return value.detach(), torch.cat(gradients)


def softplus(r: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, r)


def policy_kl(a: np.ndarray, u: np.ndarray) -> float:
    return max(0.0, (a.mean() + u.mean()) / 2)


def kl_of_two(p: np.ndarray, q: float) -> np.ndarray:
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def scaled_basu(ratio: np.ndarray, s: float) -> np.ndarray:
    return (s * ratio ** (1 + s) - (1 + s) * ratio**-s + 1) / (4 * s * (1 + s))


# The published formulas, written in numpy from the papers; `constant` is what separates our value from theirs, and is
# the published loss of a policy that does not differ from its reference.
PUBLISHED: dict[str, tuple[Callable[[np.ndarray, np.ndarray], float], float]] = {
    "kldo": (lambda a, u: -a.mean() + logsumexp(u) - math.log(len(u)), 0),
    "bco": (
        lambda a, u: softplus((a.mean() + u.mean()) / 2 - a).mean() + softplus(u - (a.mean() + u.mean()) / 2).mean(),
        2 * math.log(2),
    ),
    "kto": (lambda a, u: (1 - expit(a - policy_kl(a, u))).mean() + (1 - expit(policy_kl(a, u) - u)).mean(), 1),
    "hdo": (lambda a, u: np.exp(-a / 2).mean() + np.exp(u / 2).mean(), 2),
    "dpo": (lambda a, u: softplus(u - a).mean(), 0),
    "ipo": (lambda a, u: 0.1**2 * ((a / 0.1 - u / 0.1 - 1 / (2 * 0.1)) ** 2).mean(), 0),  # beta = 0.1
    "exponential_pair": (lambda a, u: np.exp((u - a) / 2).mean(), 0),
    "nca": (lambda a, u: (softplus(-a) + 0.5 * softplus(a) + 0.5 * softplus(u)).mean(), 0),
    "rdro": (lambda a, u: (1.5 * softplus(a) - a).mean() + (0.5 * softplus(u)).mean(), 0),
    "apo_zero": (lambda a, u: (1 - expit(a)).mean() + expit(u).mean(), 1),
    "hinge": (lambda a, u: np.maximum(0, 1 - (a - u)).mean(), 0),
    "robust": (lambda a, u: ((0.9 * softplus(u - a) - 0.1 * softplus(a - u)) / 0.8).mean(), 0),
    "exo": (lambda a, u: kl_of_two(expit(a - u), 1 - 1e-3).mean(), 0),
    "cal_dpo": (lambda a, u: (softplus(u - a) + ((a - 0.5) ** 2 + (u + 0.5) ** 2) / 2).mean(), 0),
    "bpo": (lambda a, u: scaled_basu(np.exp(u - a), 0.2).mean(), 0),
    "fdo:kl": (lambda a, u: -a.mean() + np.exp(u).mean(), 1),
    "fdo:chi2": (lambda a, u: np.exp(2 * u).mean() - 2 * np.exp(a).mean(), -1),
    "fdo:lecam": (lambda a, u: 4 * (expit(-a) ** 2).mean() + 4 * (expit(u) ** 2).mean(), 2),
}


@pytest.mark.parametrize("name", PUBLISHED)
@few
@given(seed=st.integers(0, 2**31))
def test_the_value_is_the_published_one(name: str, seed: int) -> None:
    ratios = draw(seed)
    formula, constant = PUBLISHED[name]
    expected = formula(ratios.aligned.detach().numpy(), ratios.unaligned.detach().numpy())
    assert METHODS[name].loss(ratios).item() + constant == pytest.approx(expected, rel=1e-12)


def mean_reward(ratios: LogRatios) -> Tensor:
    return ((ratios.aligned.mean() + ratios.unaligned.mean()) / 2).detach()


GRADIENTS: dict[str, Callable[[LogRatios], Tensor]] = {
    "kldo": lambda r: -r.aligned.mean() + torch.log(r.unaligned.exp().mean()),
    "bco": lambda r: (
        torch.log1p(torch.exp(mean_reward(r) - r.aligned)).mean()
        + torch.log1p(torch.exp(r.unaligned - mean_reward(r))).mean()
    ),
    "kto": lambda r: (
        -torch.sigmoid(r.aligned - mean_reward(r).clamp(min=0)).mean()
        - torch.sigmoid(mean_reward(r).clamp(min=0) - r.unaligned).mean()
    ),
    "hdo": lambda r: torch.exp(-r.aligned / 2).mean() + torch.exp(r.unaligned / 2).mean(),
    "dpo": lambda r: -torch.log(torch.sigmoid(r.aligned - r.unaligned)).mean(),
    "exponential_pair": lambda r: torch.exp((r.unaligned - r.aligned) / 2).mean(),
}


@pytest.mark.parametrize("name", GRADIENTS)
@few
@given(seed=st.integers(0, 2**31))
def test_the_gradient_is_the_published_one(name: str, seed: int) -> None:
    ratios = draw(seed)
    ours, theirs = (value_and_gradient(loss, ratios)[1] for loss in (METHODS[name].loss, GRADIENTS[name]))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@every_method
@pytest.mark.parametrize("parts", [2, 3, 12])
def test_micro_batches_average_to_the_one_batch_loss_in_value_and_gradient(method: Method, parts: int) -> None:
    ratios = draw(seed=parts)
    baseline = method.baseline(ratios)

    def accumulated(whole: LogRatios) -> Tensor:
        pieces = zip(whole.aligned.chunk(parts), whole.unaligned.chunk(parts), strict=True)
        return torch.stack([method.loss(LogRatios(*piece), baseline) for piece in pieces]).mean()

    torch.testing.assert_close(
        value_and_gradient(accumulated, ratios), value_and_gradient(method.loss, ratios), rtol=1e-12, atol=1e-14
    )


def test_log_mean_exp_per_micro_batch_would_not_be_exact() -> None:
    ratios = draw()
    pieces = torch.stack([log_mean_exp(piece) for piece in ratios.unaligned.chunk(3)]).mean()
    assert (log_mean_exp(ratios.unaligned) - pieces).item() > 0.05


@every_method
def test_the_loss_and_its_gradient_are_finite_in_float32(method: Method) -> None:
    grid = torch.linspace(-80, 80, 33)
    ratios = LogRatios(grid.repeat(33).requires_grad_(), grid.repeat_interleave(33).requires_grad_())
    for baseline in (None, 0.0):
        value = method.loss(ratios, baseline)
        gradients = torch.autograd.grad(value, ratios[:2])
        assert value.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("method", reads_r, ids=lambda method: method.name)
def test_descent_raises_aligned_and_lowers_unaligned_from_the_reference_on(method: Method) -> None:
    ratios = LogRatios(torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True))
    aligned, unaligned = torch.autograd.grad(method.loss(ratios), ratios[:2])
    assert (aligned < 0).all()
    assert (unaligned > 0).all()


@pointwise_methods
def test_imbalance_does_not_move_the_loss(method: Method) -> None:
    ratios = draw(aligned=4, unaligned=6)
    tripled = LogRatios(ratios.aligned.repeat(3), ratios.unaligned)
    torch.testing.assert_close(method.loss(tripled), method.loss(ratios), rtol=1e-12, atol=1e-14)


@pointwise_methods
def test_class_weights_multiply_their_class(method: Method) -> None:
    ratios = draw()
    aligned, unaligned = (method.loss(ratios, desirable_weight=a, undesirable_weight=u) for a, u in ((1, 0), (0, 1)))
    weighted = method.loss(ratios, desirable_weight=2.0, undesirable_weight=0.5)
    torch.testing.assert_close(weighted, 2 * aligned + 0.5 * unaligned)


@pytest.mark.parametrize("name", ["kldo", "bco", "kto", "hdo", *(f"fdo:{name}" for name in DIVERGENCES)])
@few
@given(seed=st.integers(0, 2**31), baseline=st.floats(-3, 3))
def test_a_baseline_never_breaks_the_bound(name: str, seed: int, baseline: float) -> None:
    # Populations as samples: probabilities are multiples of 1/n, so the means over rows are expectations.
    random = np.random.default_rng(seed)
    counts_p, counts_q = (random.multinomial(60, np.full(5, 0.2)) + 1 for _ in range(2))
    critic = 2 * random.normal(size=5)
    rows = LogRatios(*(torch.tensor(np.repeat(critic, counts)) for counts in (counts_p, counts_q)))
    exact = _divergence_of(name).exact(counts_p / 65, counts_q / 65)
    assert float(-METHODS[name].loss(rows, baseline)) <= float(exact) + 1e-9
    assert float(-METHODS[name].loss(rows)) <= float(exact) + 1e-9


def _divergence_of(name: str):
    return DIVERGENCES[
        {"kldo": "kl", "bco": "js", "kto": "tv", "hdo": "hellinger"}.get(name, name.removeprefix("fdo:"))
    ]


MEMBERS = ["dpo(0.1)", "ipo(2)", "rdro(0.3)", "fdo:alpha(0.3)", "bpo:js", "bpo(1)", "kldo+prompt", "rdro(0.3)+prompt"]
WITH_FAMILIES = [*(name for name, method in METHODS.items() if method.optimum), *MEMBERS]
BOUNDS_ONLY = ("ipo", "ipo(2)", "dpo(0.1)", "hinge")


def reached(method: Method, worlds: Worlds, critic: Tensor) -> Tensor:
    """The loss at r = 0 minus the loss of a critic, exactly, in every world; the baseline is the identity's own."""
    rows = paired_rows(worlds) if method.paired else pointwise_rows(worlds)
    assert method.optimum is not None
    baseline = None if method.optimum.critic_baseline == "own" else 0
    ratios = [LogRatios(r.flatten()[a], r.flatten()[u]) for r, a, u in zip(critic, *rows, strict=True)]
    zero = torch.zeros(1, dtype=torch.float64)
    return method.loss(LogRatios(zero, zero), 0) - torch.stack([method.loss(ratio, baseline) for ratio in ratios])


@pytest.mark.parametrize("name", WITH_FAMILIES)
@few
@given(seed=st.integers(0, 2**31), spread=st.floats(0.1, 4))
def test_no_critic_exceeds_the_optimum_that_a_method_claims(name: str, seed: int, spread: float) -> None:
    method, worlds = find_method(name), draw_worlds(3, seed=seed)
    critic = spread * torch.randn(worlds.aligned.shape, generator=torch.Generator().manual_seed(seed)).double()
    assert method.optimum is not None
    optimum = method.optimum.value(worlds.aligned, worlds.unaligned).mean(-1)
    assert (reached(method, worlds, critic) <= optimum * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize("name", [name for name in WITH_FAMILIES if name not in BOUNDS_ONLY])
def test_the_log_ratio_reaches_the_optimum_that_a_method_claims(name: str) -> None:
    method, worlds = find_method(name), draw_worlds(3, seed=2)
    optimum = method.optimum
    assert optimum is not None
    assert optimum.reached
    other = worlds.unaligned if method.paired else optimum.compared(worlds.aligned, worlds.unaligned)[1]
    log_ratio = (worlds.aligned / other).log()
    critic = log_ratio if optimum.attained else 1e3 * log_ratio.sign()
    value = optimum.value(worlds.aligned, worlds.unaligned).mean(-1)
    torch.testing.assert_close(reached(method, worlds, critic), value, rtol=1e-9, atol=1e-11)


def test_a_method_has_the_divergence_of_its_two_classes_and_no_other() -> None:
    divergences = {name: method.divergence.name for name, method in METHODS.items() if method.divergence}
    named = {"kldo": "kl", "bco": "js", "kto": "tv", "apo_zero": "tv", "hdo": "hellinger"}
    assert divergences == named | {f"fdo:{name}": name for name in DIVERGENCES}


def test_a_baseline_is_a_shift_of_the_critic_in_every_spelling() -> None:
    ratios = draw()
    rows = RowBaselines(torch.full_like(ratios.aligned, 0.7), torch.full_like(ratios.unaligned, 0.7))
    for method in reads_r:
        shifted = method.loss(LogRatios(ratios.aligned - 0.7, ratios.unaligned - 0.7), 0)
        for baseline in (0.7, torch.tensor(0.7, dtype=torch.float64), rows):
            torch.testing.assert_close(method.loss(ratios, baseline), shifted)


def test_gradients_reach_a_learned_baseline() -> None:
    ratios = draw()
    head = torch.zeros(24, dtype=torch.float64, requires_grad=True)
    METHODS["bco"].loss(ratios, RowBaselines(head[:12], head[12:])).backward()
    assert head.grad is not None
    assert (head.grad[:12] > 0).all()
    assert (head.grad[12:] < 0).all()


@every_method
def test_the_own_baseline_is_a_detached_scalar(method: Method) -> None:
    baseline = method.baseline(draw())
    assert baseline.shape == ()
    assert not baseline.requires_grad


def test_kto_reads_the_policys_kl_from_mismatched_rows_and_never_below_zero() -> None:
    ratios = draw()._replace(mismatched=torch.tensor([0.5, 1.5], dtype=torch.float64))
    assert float(METHODS["kto"].baseline(ratios)) == 1.0
    low = ratios._replace(mismatched=torch.tensor([-2.0, 1.0], dtype=torch.float64))
    assert float(METHODS["kto"].baseline(low)) == 0.0


def test_nca_is_rdro_with_half_a_share() -> None:
    ratios = draw()
    torch.testing.assert_close(METHODS["nca"].loss(ratios), find_method("rdro(0.5)").loss(ratios))


def test_smoothed_dpo_is_the_mean_over_flipped_labels() -> None:
    ratios = draw()
    flipped = LogRatios(ratios.unaligned, ratios.aligned)
    expected = 0.9 * METHODS["dpo"].loss(ratios) + 0.1 * METHODS["dpo"].loss(flipped)
    torch.testing.assert_close(dpo(0.1).loss(ratios), expected)


def test_ipo_is_at_rest_at_its_target() -> None:
    ratios = LogRatios(torch.tensor([0.5, 1.0], requires_grad=True), torch.tensor([0.0, 0.5], requires_grad=True))
    value, gradient = value_and_gradient(METHODS["ipo"].loss, ratios)
    assert value.item() == 0
    assert not gradient.any()
    assert float(find_method("ipo(2)").loss(ratios)) == pytest.approx(1.5**2)


def test_only_methods_of_pairs_are_paired() -> None:
    assert {name for name, method in METHODS.items() if method.paired} == {method.name for method in PAIRS}


def test_the_losses_of_a_clear_pair_are_the_ones_that_trl_once_trained_as_sigmoid() -> None:
    """A log-ratio margin of 6 at beta .1, in TRL's units: sigmoid .437488, hinge .4, ipo 1 (one token a response)."""
    pair = LogRatios(torch.tensor([0.1 * 4.0]), torch.tensor([0.1 * -2.0]))
    losses = {name: float(METHODS[name].loss(pair)) for name in ("dpo", "hinge", "ipo")}
    assert losses["dpo"] == pytest.approx(0.437488, abs=1e-6)
    assert losses["hinge"] == pytest.approx(0.4)
    assert losses["ipo"] / 0.1**2 == pytest.approx(1.0)  # ours is beta^2 times theirs


def test_a_divergence_of_swapped_pairs_is_the_known_loss_of_pairs() -> None:
    ratios = draw()
    for name, factor, known in (("bpo:js", 0.5, "dpo"), ("bpo:hellinger", 0.5, "exponential_pair")):
        constant = METHODS[known].loss(LogRatios(torch.zeros(1), torch.zeros(1)))
        ours, theirs = factor * find_method(name).loss(ratios) + constant, METHODS[known].loss(ratios)
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        4 * find_method("bpo(-0.5)").loss(ratios), 4 * METHODS["exponential_pair"].loss(ratios) - 4
    )
    slopes = [value_and_gradient(METHODS[name].loss, at_rest())[1] for name in ("bpo", "dpo", "exponential_pair")]
    torch.testing.assert_close(slopes[0], slopes[1])
    torch.testing.assert_close(slopes[1], slopes[2])


def at_rest() -> LogRatios:
    return LogRatios(torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True))


def test_kto_without_a_baseline_is_apo_zero() -> None:
    ratios = draw()
    torch.testing.assert_close(METHODS["apo_zero"].loss(ratios), METHODS["kto"].loss(ratios, 0))


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_robust_dpo_on_flipped_labels_is_dpo_on_the_clean_ones(noise: float) -> None:
    ratios, method = draw(), find_method(f"robust({noise})")
    flipped = LogRatios(ratios.unaligned, ratios.aligned)

    def noisy(rows: LogRatios) -> Tensor:
        swapped = flipped if rows is ratios else LogRatios(rows.unaligned, rows.aligned)
        return (1 - noise) * method.loss(rows) + noise * method.loss(swapped)

    torch.testing.assert_close(value_and_gradient(noisy, ratios), value_and_gradient(METHODS["dpo"].loss, ratios))


@pytest.mark.parametrize("share", [0.5, 0.6, 0.9])
def test_exo_rests_at_a_margin_in_proportion_to_the_difference_of_a_pair_and_its_swap(share: float) -> None:
    """`share` of the pairs has one response chosen, the rest the other: the best margin is (2 share - 1) log(99)."""
    margin = torch.tensor((2 * share - 1) * math.log(99), dtype=torch.float64, requires_grad=True)
    method, zero = find_method("exo(0.01)"), torch.zeros(1, dtype=torch.float64)
    loss = share * method.loss(LogRatios(margin[None], zero)) + (1 - share) * method.loss(LogRatios(zero, margin[None]))
    (slope,) = torch.autograd.grad(loss, margin)
    assert float(slope) == pytest.approx(0, abs=1e-12)
    start = method.loss(LogRatios(zero, zero))
    assert float(start - loss) == pytest.approx(math.log(math.cosh((2 * share - 1) * math.log(99) / 2)))


@pytest.mark.parametrize("target", [0.5, 5.0])
def test_cal_dpo_rests_where_its_squares_and_its_margin_agree(target: float) -> None:
    """At r = +-x, x = target + sigmoid(-2 x): by fixed-point iteration, which contracts."""
    x = target
    for _ in range(200):
        x = target + float(expit(-2 * x))
    pair = LogRatios(*(torch.tensor([side], dtype=torch.float64, requires_grad=True) for side in (x, -x)))
    assert not value_and_gradient(find_method(f"cal_dpo({target})").loss, pair)[1].abs().max() > 1e-9


def test_a_safety_offset_is_taken_off_the_margin() -> None:
    ratios, offsets = draw(), torch.tensor([10.0, 0.0] * 6, dtype=torch.float64)
    shifted = METHODS["safedpo"].loss(ratios, RowBaselines(offsets, torch.zeros_like(offsets)))
    torch.testing.assert_close(shifted, METHODS["dpo"].loss(LogRatios(ratios.aligned - offsets, ratios.unaligned)))
    torch.testing.assert_close(METHODS["safedpo"].loss(ratios), METHODS["dpo"].loss(ratios))


def test_kldo_with_a_prompt_baseline_is_the_bound_row_by_row_and_donsker_and_varadhans_at_the_best_constant() -> None:
    ratios, method = draw(), find_method("kldo+prompt")
    constant = log_mean_exp(ratios.unaligned.detach())
    torch.testing.assert_close(method.loss(ratios, constant), METHODS["kldo"].loss(ratios))
    for other in (constant - 0.3, constant + 0.3):
        assert method.loss(ratios, other) > METHODS["kldo"].loss(ratios)
    assert not method.has_baseline
    assert method.prompt_baseline


@pytest.mark.parametrize("name", ["dpo+prompt", "cal_dpo+prompt", "sft+prompt"])
def test_a_prompt_baseline_is_for_rows_that_have_one(name: str) -> None:
    with pytest.raises(ValueError, match=r"a baseline of the prompt cancels|likelihoods alone"):
        find_method(name)


def test_shift_invariance_is_what_the_loss_shows() -> None:
    shown = {
        name: find_method(name).shift_invariance
        for name in ("dpo", "bpo", "cal_dpo", "kldo", "bco", "hdo", "kldo+prompt")
    }
    assert shown == {
        "dpo": "of the prompt", "bpo": "of the prompt", "cal_dpo": "none", "kldo": "one constant",
        "bco": "one constant", "hdo": "none", "kldo+prompt": "of the prompt",
    }  # fmt: skip


# Surfaces ------------------------------------------------------------------------------------------------------------


def test_a_missing_class_is_refused() -> None:
    empty = LogRatios(torch.zeros(2), torch.zeros(0))
    for call in (METHODS["kldo"].loss, METHODS["kldo"].baseline):
        with pytest.raises(ValueError, match="2 aligned and 0 unaligned"):
            call(empty)


def test_a_paired_method_refuses_halves_and_weights() -> None:
    with pytest.raises(ValueError, match="two responses of each pair"):
        METHODS["dpo"].loss(draw(aligned=3, unaligned=4))
    with pytest.raises(ValueError, match="class weights have no meaning"):
        METHODS["ipo"].loss(draw(), desirable_weight=2.0)


def test_names_find_methods_members_and_ones_own() -> None:
    assert all(name == method.name for name, method in METHODS.items())
    assert {f"fdo:{name}" for name in DIVERGENCES} < METHODS.keys()
    assert find_method("kldo") is METHODS["kldo"]
    assert find_method("rdro(0.39)").name == "rdro(0.39)"
    assert find_method("dpo(0.1)").name == "dpo(0.1)"
    assert find_method("fdo:alpha(0.3)").name == "fdo:alpha(0.3)"
    assert find_method("fdo:divalign.core.divergences:lecam").name == "fdo:lecam"
    hdo, same = METHODS["hdo"], find_method("fdo:hellinger")
    torch.testing.assert_close(hdo.loss(draw()), same.loss(draw()))


@pytest.mark.parametrize("parameter", ["0.1234567891", "1e-09", "0.25"])
@pytest.mark.parametrize(
    "family", ["alpha", "bpo", "cal_dpo", "dpo", "exo", "fdo:alpha", "ipo", "rdro", "robust", "safedpo", "separate"]
)
def test_a_members_name_has_its_parameter_to_the_last_digit(family: str, parameter: str) -> None:
    name = f"{family}({parameter})"
    found = (find_divergence if family == "alpha" else find_method)(name).name
    assert found == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kldoo", "did you mean 'kldo'"),
        ("fdo:jss", "did you mean 'js'"),
        ("rdro(1)", "above 0 and below 1"),
        ("dpo(0.5)", "at least 0 and below 1/2"),
        *((f"ipo({value})", f"target is {value}; expected") for value in ("nan", "inf")),
        *((f"cal_dpo({value})", f"target is {value}; expected") for value in ("nan", "inf")),
        ("ipo(0.0)", "target is 0.0; expected a finite margin above 0"),
        ("cal_dpo(-1.0)", "target is -1.0; expected a finite reward of at least 0"),
        *((f"safedpo({value})", f"offset is {value}; expected") for value in ("nan", "inf", "-5.0")),
        ("math:pi", "expected a Method"),
    ],
)
def test_an_unknown_method_names_the_nearest_and_says_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_method(name)


def test_kldo_is_donsker_and_varadhans_bound_however_large_the_rewards() -> None:
    aligned = torch.tensor([105.0, 400.0, 1000.0], requires_grad=True)
    unaligned = torch.tensor([0.0, 90.0, 300.0, -500.0], requires_grad=True)
    loss = METHODS["kldo"].loss(LogRatios(aligned, unaligned))
    assert loss.item() == pytest.approx((-aligned.mean() + unaligned.logsumexp(0) - math.log(4)).item(), rel=1e-6)
    slopes = torch.autograd.grad(loss, [aligned, unaligned])
    assert slopes[0].tolist() == pytest.approx([-1 / 3] * 3)
    assert slopes[1].tolist() == pytest.approx(unaligned.softmax(0).tolist(), abs=1e-5)  # r - baseline rounds at 300
