"""Every row of the table is held to what makes it an f-divergence; closed forms pin the rows to their names."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import entropy, norm

from divalign.core.divergences import (
    DIVERGENCES,
    Divergence,
    alpha,
    built_in,
    find_divergence,
    normalised,
    scale_of,
    tame,
)

ROWS = [*DIVERGENCES.values(), *(alpha(a) for a in (-1.5, -0.5, 0.3, 0.9, 1.5, 3.0))]
CANONICAL = [row for row in ROWS if row.canonical]
BOUNDED = [row for row in ROWS if row.upper is not None]
few = settings(max_examples=20, derandomize=True, deadline=None)
seeds = st.integers(0, 2**31)

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
canonical_rows = pytest.mark.parametrize("row", CANONICAL, ids=lambda row: row.name)


def distributions(seed: int, *shape: int, spread: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(2, *shape, generator=draw, dtype=torch.float64)
    return tuple(logits.softmax(-1))


def population_bound(row: Divergence, p: torch.Tensor, q: torch.Tensor, critic: torch.Tensor) -> torch.Tensor:
    return (p * row.score(critic) - q * row.penalty(critic)).sum(-1)


@every_row
def test_the_generator_is_zero_at_one(row: Divergence) -> None:
    assert abs(float(row.generator(torch.ones((), dtype=torch.float64)))) < 1e-15


@every_row
def test_the_generator_is_convex(row: Divergence) -> None:
    t = torch.logspace(-3, 3, 301, dtype=torch.float64)
    left, right = t[:-1], t[1:]
    chord = (row.generator(left) + row.generator(right)) / 2
    assert (row.generator((left + right) / 2) <= chord + 1e-12 * (1 + chord)).all()


@canonical_rows
def test_the_score_is_the_slope_of_the_generator_at_the_ratio(row: Divergence) -> None:
    r = torch.linspace(-6, 6, 61, dtype=torch.float64)
    t = r.exp().requires_grad_()
    (slope,) = torch.autograd.grad(row.generator(t).sum(), t)
    torch.testing.assert_close(row.score(r), slope, rtol=1e-9, atol=1e-9)


@every_row
def test_the_penalty_is_the_legendre_transform_at_the_score(row: Divergence) -> None:
    # sup over t of t s - f(t), on a grid that holds t = 1 (the corner of tv) and every e^r, where it is attained.
    r = torch.linspace(-5, 5, 41, dtype=torch.float64)
    t = torch.linspace(-12, 12, 4801, dtype=torch.float64).exp()
    conjugate = (row.score(r)[:, None] * t - row.generator(t)).max(dim=1).values
    torch.testing.assert_close(row.penalty(r), conjugate, rtol=1e-9, atol=1e-9)


@every_row
@few
@given(seed=seeds)
def test_no_critic_proves_more_than_the_divergence(row: Divergence, seed: int) -> None:
    p, q = distributions(seed, 4, 7)
    critic = 3 * torch.randn(4, 7, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    exact = row.exact(p, q)
    assert (population_bound(row, p, q, critic) <= exact + 1e-9 * (1 + exact)).all()


@canonical_rows
@few
@given(seed=seeds)
def test_the_bound_is_tight_at_the_log_likelihood_ratio(row: Divergence, seed: int) -> None:
    p, q = distributions(seed, 4, 7)
    torch.testing.assert_close(population_bound(row, p, q, (p / q).log()), row.exact(p, q), rtol=1e-9, atol=1e-11)


@few
@given(seed=seeds)
def test_total_variation_is_reached_by_the_sign_and_half_of_lecam_by_the_log_ratio(seed: int) -> None:
    p, q = distributions(seed, 4, 7)
    log_ratio, tv = (p / q).log(), DIVERGENCES["tv"]
    torch.testing.assert_close(population_bound(tv, p, q, 1e3 * log_ratio.sign()), tv.exact(p, q))
    torch.testing.assert_close(population_bound(tv, p, q, log_ratio), DIVERGENCES["lecam"].exact(p, q) / 2)


@every_row
@few
@given(seed=seeds)
def test_merging_and_shuffling_outcomes_never_adds_divergence(row: Divergence, seed: int) -> None:
    p, q = distributions(seed, 3, 6)
    channel, _ = distributions(seed + 1, 6, 4)
    exact = row.exact(p, q)
    assert (row.exact(p @ channel, q @ channel) <= exact + 1e-12 * (1 + exact)).all()


@every_row
def test_a_distribution_is_at_no_distance_from_itself_even_where_it_is_zero(row: Divergence) -> None:
    p = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(row.exact(p, p), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-15)


@every_row
def test_disjoint_supports_reach_the_upper_bound(row: Divergence) -> None:
    exact = float(row.exact([0.5, 0.5, 0.0], [0.0, 0.0, 1.0]))
    assert exact == pytest.approx(math.inf if row.upper is None else row.upper, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "scale"),
    [("js", "of 1.386"), ("hellinger", "of 2"), ("lecam", "of 2"), ("tv", "of 1"), ("alpha(0.3)", "of 4.762")],
)
def test_the_scale_names_what_disjoint_supports_reach(name: str, scale: str) -> None:
    assert scale_of(name) == find_divergence(name).scale == scale
    disjoint = float(find_divergence(name).exact([1.0, 0.0], [0.0, 1.0]))
    assert normalised(disjoint, name) == pytest.approx(1.0, rel=1e-12)
    assert normalised(0.0, name) == 0.0


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "chi2", "neyman", "alpha(2)"])
def test_what_has_no_upper_bound_has_no_share_of_it_and_undecided_stays_so(name: str) -> None:
    assert scale_of(name) == "no upper bound"
    assert normalised(1.0, name) is None
    assert normalised(None, "js") is None
    with pytest.raises(ValueError, match="did you mean 'js'"):
        scale_of("jss")


def test_a_name_out_of_a_file_is_looked_up_and_never_imported() -> None:
    assert built_in("js") is DIVERGENCES["js"]
    assert [built_in(name) for name in ("antigravity:geohash", "no such", "alpha(99)")] == [None] * 3
    assert "antigravity" not in sys.modules


def test_the_bounded_rows_are_the_known_ones() -> None:
    uppers = {name: row.upper for name, row in DIVERGENCES.items() if row.upper is not None}
    assert uppers == pytest.approx({"js": 2 * math.log(2), "hellinger": 2, "lecam": 2, "tv": 1}, rel=1e-15)
    assert alpha(0.3).upper == pytest.approx(1 / 0.21)
    assert alpha(-0.5).upper is None
    assert alpha(1.5).upper is None


@every_row
def test_score_penalty_and_their_gradients_are_finite_in_float32(row: Divergence) -> None:
    r = torch.linspace(-80, 80, 641, requires_grad=True)
    for formula in (row.score, row.penalty):
        values = formula(r)
        (gradient,) = torch.autograd.grad(values.sum(), r)
        assert values.isfinite().all()
        assert gradient.isfinite().all()
        assert (gradient >= 0).all()


@every_row
def test_score_and_penalty_rise_with_the_log_ratio(row: Divergence) -> None:
    r = torch.linspace(-20, 20, 401, dtype=torch.float64)
    assert (row.score(r).diff() >= 0).all()
    assert (row.penalty(r).diff() >= 0).all()


@pytest.mark.parametrize("growth", [0.5, 1, 2, 10])
def test_taming_leaves_moderate_ratios_alone_and_keeps_the_order_of_the_rest(growth: float) -> None:
    r = torch.linspace(-1e4, 1e4, 2001)
    bent = tame(r, growth)
    assert (bent.diff() > 0).all()
    assert (growth * bent.abs() < 81).all()  # e^81 is 1e35, a thousandth of the largest float
    small = r[r.abs() <= 76 / growth]
    assert torch.equal(tame(small, growth), small)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("row", [*DIVERGENCES.values(), alpha(3), alpha(-4), alpha(10)], ids=lambda row: row.name)
def test_no_ratio_overflows_and_none_changes_place_with_another(row: Divergence, dtype: torch.dtype) -> None:
    if dtype == torch.float16 and row.growth > 4:
        pytest.skip("e^10 is all that float16 can hold")
    largest = 6e4 if dtype == torch.float16 else 1e30
    r = torch.tensor([-largest, -1e4, -1e3, -100, -1, -0.1, 0, 0.1, 1, 100, 1e3, 1e4, largest], dtype=dtype)
    r.requires_grad_()
    bent = tame(r, row.growth)
    assert (bent.diff() >= 0).all()
    for formula in (row.score, row.penalty):
        values = formula(r)
        (slope,) = torch.autograd.grad(values.sum(), r)
        assert values.isfinite().all()
        assert slope.isfinite().all()


def test_a_ratio_whose_square_overflows_keeps_a_bounded_divergence_bounded() -> None:
    p, q = [0.5, 0.5], [1e-160, 1.0]
    assert float(DIVERGENCES["lecam"].exact(p, q)) == pytest.approx(0.5 + 0.25 / 1.5)
    assert float(DIVERGENCES["neyman"].exact(p, q)) == pytest.approx(0.5 + 0.5)


# Closed forms --------------------------------------------------------------------------------------------------------


def gaussian_value(row: Divergence, shift: float, scale: float) -> float:
    def integrand(y: float) -> float:
        q = norm.pdf(y)
        ratio = norm.pdf(y, shift, scale) / q
        return q * float(row.generator(torch.tensor(ratio, dtype=torch.float64)))

    return quad(integrand, -15, 15, epsabs=1e-11, limit=400)[0]


SHIFT, SCALE = 0.7, 0.8
AFFINITY = math.sqrt(2 * SCALE / (1 + SCALE**2)) * math.exp(-(SHIFT**2) / (4 * (1 + SCALE**2)))
GAUSSIAN = {
    "kl": -math.log(SCALE) + (SCALE**2 + SHIFT**2 - 1) / 2,
    "reverse_kl": math.log(SCALE) + (1 + SHIFT**2) / (2 * SCALE**2) - 0.5,
    "hellinger": 2 * (1 - AFFINITY),
    "chi2": math.exp(SHIFT**2 / (2 - SCALE**2)) / (SCALE * math.sqrt(2 - SCALE**2)) - 1,
}


@pytest.mark.parametrize("name", GAUSSIAN)
def test_gaussians_have_their_known_divergence(name: str) -> None:
    assert gaussian_value(DIVERGENCES[name], SHIFT, SCALE) == pytest.approx(GAUSSIAN[name], rel=1e-7)


def test_unit_gaussians_have_their_known_total_variation_and_neyman() -> None:
    assert gaussian_value(DIVERGENCES["tv"], 1.0, 1.0) == pytest.approx(2 * norm.cdf(0.5) - 1, rel=1e-7)
    assert gaussian_value(DIVERGENCES["neyman"], 1.0, 1.0) == pytest.approx(math.e - 1, rel=1e-7)


A, B = 0.3, 0.8
MIDDLE = (A + B) / 2
BERNOULLI = {
    "kl": entropy([A, 1 - A], [B, 1 - B]),
    "reverse_kl": entropy([B, 1 - B], [A, 1 - A]),
    "js": entropy([A, 1 - A], [MIDDLE, 1 - MIDDLE]) + entropy([B, 1 - B], [MIDDLE, 1 - MIDDLE]),
    "hellinger": 2 - 2 * (math.sqrt(A * B) + math.sqrt((1 - A) * (1 - B))),
    "chi2": (A - B) ** 2 / (B * (1 - B)),
    "neyman": (A - B) ** 2 / (A * (1 - A)),
    "lecam": (A - B) ** 2 / (A + B) + (A - B) ** 2 / (2 - A - B),
    "tv": abs(A - B),
}


@pytest.mark.parametrize("name", BERNOULLI)
def test_coins_have_their_known_divergence(name: str) -> None:
    assert float(DIVERGENCES[name].exact([A, 1 - A], [B, 1 - B])) == pytest.approx(float(BERNOULLI[name]), rel=1e-12)


@pytest.mark.parametrize(
    ("order", "name", "factor"),
    [(1, "kl", 1), (0, "reverse_kl", 1), (0.5, "hellinger", 2), (2, "chi2", 0.5), (-1, "neyman", 0.5)],
)
def test_the_alpha_family_passes_through_the_named_rows(order: float, name: str, factor: float) -> None:
    p, q = distributions(5, 3, 6)
    torch.testing.assert_close(alpha(order).exact(p, q), factor * DIVERGENCES[name].exact(p, q), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("order", "name"), [(1e-5, "reverse_kl"), (1 - 1e-5, "kl")])
def test_the_alpha_family_is_continuous_at_its_limits(order: float, name: str) -> None:
    p, q = distributions(6, 3, 6)
    torch.testing.assert_close(alpha(order).exact(p, q), DIVERGENCES[name].exact(p, q), rtol=1e-3, atol=1e-9)


# Surfaces ------------------------------------------------------------------------------------------------------------


def test_the_sample_bound_is_the_difference_of_the_two_means() -> None:
    aligned, unaligned = np.array([0.5, 2.0]), torch.tensor([-1.0, 0.0, 0.25])
    expected = 1.25 - np.mean([math.expm1(-1), 0.0, math.expm1(0.25)])
    assert float(DIVERGENCES["kl"].bound(aligned, unaligned)) == pytest.approx(expected, rel=1e-12)


def test_the_sample_bound_lets_gradients_through() -> None:
    aligned = torch.zeros(3, requires_grad=True)
    DIVERGENCES["js"].bound(aligned, torch.zeros(2)).backward()
    assert aligned.grad is not None
    torch.testing.assert_close(aligned.grad, torch.full((3,), 1 / 6))


def test_arrays_and_single_rows_are_welcome() -> None:
    p, q = distributions(9, 5)
    assert float(DIVERGENCES["kl"].exact(p.numpy(), q.tolist())) == pytest.approx(entropy(p.numpy(), q.numpy()))


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ([0.5, 0.6], [0.5, 0.5], "misses the sum 1 by 0.1"),
        ([1.5, -0.5], [0.5, 0.5], "negative"),
        ([math.nan, 1.0], [0.5, 0.5], "NaN"),
        ([0.5, 0.5], [0.2, 0.3, 0.5], "same outcomes"),
        ([], [], "sum 1"),
    ],
)
def test_what_is_no_law_is_refused(p: list[float], q: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DIVERGENCES["js"].exact(p, q)


@pytest.mark.parametrize(
    ("aligned", "message"),
    [([], "at least one row"), ([1.0, math.inf], "1 of 2"), ([[1.0]], "one critic value per row")],
)
def test_what_is_no_sample_is_refused(aligned: list, message: str) -> None:
    with pytest.raises(ValueError, match=f"aligned.*{message}"):
        DIVERGENCES["js"].bound(aligned, [0.0])


def test_names_find_rows_members_and_ones_own() -> None:
    assert find_divergence("js") is DIVERGENCES["js"]
    assert find_divergence("alpha(0.3)").name == "alpha(0.3)"
    assert alpha(1.0000001).name == "alpha(1.0000001)"  # at six digits it named kl
    assert find_divergence("alpha(1)") is DIVERGENCES["kl"]
    assert find_divergence("divalign.core.divergences:lecam") is DIVERGENCES["lecam"]
    assert all(name == row.name for name, row in DIVERGENCES.items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("helinger", "did you mean 'hellinger'"),
        ("xyzzy", "known: kl, reverse_kl"),
        ("alpha(a)", "expected a number"),
        ("alpha(nan)", "order from -10 to 10"),
        ("alpha(11)", "order from -10 to 10"),
        ("beta(1)", "no divergence is named"),
        ("no.such.module:thing", "cannot be loaded"),
        ("divalign.core.divergences:nothing", "cannot be loaded"),
        ("math:pi", "is a float, expected a Divergence"),
    ],
)
def test_an_unknown_name_names_the_nearest_and_says_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        find_divergence(name)
