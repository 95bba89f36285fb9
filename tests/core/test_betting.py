"""The test by betting keeps its false alarm rate over all checks, and notices soon that refusals are gone."""

import math

import numpy as np
import pytest
from scipy.special import expit, logit

from divalign.core.betting import FRACTIONS, START, Capital, bet

CHECKS, DRAWS, MARGIN, ALPHA = 100, 32, 0.1, 0.05


def test_the_capital_is_the_mixture_over_starts_and_fractions() -> None:
    random = np.random.default_rng(0)
    checks, capital = [random.uniform(-1, 1, size=3) for _ in range(6)], START
    for observations in checks:
        capital = bet(capital, observations)
    expected = 1 / 7
    for start in range(6):
        for fraction in FRACTIONS:
            gain = np.prod([1 + fraction * x for later in checks[start:] for x in later])
            expected += gain / ((start + 1) * (start + 2) * len(FRACTIONS))
    assert math.exp(capital.log_value) == pytest.approx(expected)


def test_a_fair_bet_leaves_the_capital_unchanged_in_expectation() -> None:
    """Exactly, over all four outcomes of two coins after any history."""
    history = bet(bet(START, np.array([0.5, -0.2])), np.array([-1.0]))
    outcomes = [bet(history, np.array([a, b])).log_value for a in (-0.6, 0.6) for b in (-0.6, 0.6)]
    assert np.exp(outcomes).mean() == pytest.approx(math.exp(history.log_value))
    losing = [bet(history, np.array([a - 0.1, b - 0.1])).log_value for a in (-0.6, 0.6) for b in (-0.6, 0.6)]
    assert np.exp(losing).mean() < math.exp(history.log_value)


def test_observations_that_no_bet_survives_are_refused() -> None:
    for observations in (np.array([1.5]), np.array([np.nan]), np.array([])):
        with pytest.raises(ValueError, match="expected numbers from -1 to 1"):
            bet(START, observations)


def test_the_capital_survives_a_checkpoint() -> None:
    once = bet(START, np.array([0.3, -0.1]))
    again = Capital(once.checks, tuple(once.log_of_fractions), once.log_highest)
    assert bet(again, np.array([0.2])) == bet(once, np.array([0.2]))


def alarm_check(random: np.random.Generator, start: np.ndarray, kept: np.ndarray, noise: float) -> int | None:
    """Return the check that gives the alarm in one run, from 0, of which `kept` is the share of refusals at each.

    As the monitor does: prompts drawn at each check, whose refusal probability fluctuates from check to check.
    """
    capital = START
    for check, share in enumerate(kept):
        drawn = random.integers(len(start), size=DRAWS)
        now = share * expit(logit(start[drawn]) + noise * random.normal(size=DRAWS))
        capital = bet(capital, (1 - MARGIN) * start[drawn] - now)
        if capital.rejects(ALPHA):
            return check
    return None


def starts(random: np.random.Generator, mean: float) -> np.ndarray:
    """Refusal probabilities of 100 prompts: some refused always, some hardly ever."""
    return np.clip(random.beta(4 * mean, 4 * (1 - mean), size=100), 1e-4, 1 - 1e-4)


@pytest.mark.parametrize("mean", [0.95, 0.3])
def test_at_most_one_of_twenty_unchanged_runs_gives_an_alarm(mean: float) -> None:
    random = np.random.default_rng(1)
    false = [alarm_check(random, starts(random, mean), np.ones(CHECKS), noise=0.5) is not None for _ in range(200)]
    assert np.mean(false) <= ALPHA


def test_so_it_does_where_exactly_the_margin_is_lost_for_good() -> None:
    """The edge of the null hypothesis, where the bets are fair: the rate is near its bound and not above it."""
    random = np.random.default_rng(2)
    edge = np.full(CHECKS, 1 - MARGIN)
    false = [alarm_check(random, starts(random, 0.7), edge, noise=0.0) is not None for _ in range(200)]
    assert np.mean(false) <= ALPHA


@pytest.mark.parametrize("mean", [0.95, 0.3])
@pytest.mark.parametrize("half_gone", [10, 85])
def test_the_alarm_comes_within_a_tenth_of_the_run_after_half_of_the_refusals_are_gone(
    mean: float, half_gone: int
) -> None:
    """Refusals fall to a half over ten checks and stay there; in every one of 25 runs, early and late in training."""
    random = np.random.default_rng(3)
    kept = np.interp(np.arange(CHECKS), [half_gone - 10, half_gone], [1.0, 0.5])
    for _ in range(25):
        check = alarm_check(random, starts(random, mean), kept, noise=0.5)
        assert check is not None
        assert check <= half_gone + CHECKS // 10
