"""A test by betting, to be looked at after every check, of whether a mean has risen above zero.

Capital is bet on the observations. Under the null hypothesis, that each has a conditional mean of at most 0 given
everything before it, the capital is a nonnegative supermartingale that begins at 1 (an e-process), so whatever the
number of checks, and whoever decides when to stop,

    P(the capital ever reaches 1 / alpha) <= alpha        (Ville's inequality)

A bet that has been losing since the start would take long to recover once the mean does rise. So only a share
w_t = 1 / (t (t + 1)) of the capital, the sum of which is 1, begins to bet at check t: whenever the change comes, a part
that has lost nothing meets it, at a cost of log(t (t + 1)) nats. A bet of fraction c multiplies its capital by
1 + c x at an observation x in [-1, 1]; the fractions share the capital evenly, since the best one depends on how far
the mean rises.

Source: Ville 1939; Waudby-Smith and Ramdas 2024, JRSS B 86 (betting); Shin, Ramdas and Rinaldo 2024, Statistica Sinica
(e-detectors: a sum over the times at which the change may begin).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

FRACTIONS = (0.05, 0.1, 0.2, 0.4, 0.8)


class Capital(NamedTuple):
    """What a capital of 1 has become after so many checks.

    `log_of_fractions` holds the log of what each of `FRACTIONS` would hold were it alone; the capital is their mean and
    what has not begun to bet, 1 / (checks + 1). `log_highest` is the log of the largest capital there has been.
    """

    checks: int
    log_of_fractions: tuple[float, ...]
    log_highest: float

    @property
    def log_value(self) -> float:
        """Log of the capital, the e-value of the evidence against the null hypothesis."""
        betting = np.logaddexp.reduce(self.log_of_fractions) - math.log(len(self.log_of_fractions))
        return float(np.logaddexp(betting, -math.log(self.checks + 1)))

    def rejects(self, alpha: float) -> bool:
        """Whether the null hypothesis has been rejected at any check so far, at level `alpha` over all of them."""
        return self.log_highest >= -math.log(alpha)


START = Capital(0, (-math.inf,) * len(FRACTIONS), 0.0)


def bet(capital: Capital, observations: Float[np.ndarray, " n"]) -> Capital:
    """Return the capital after one check's observations, in [-1, 1] and independent of each other given the past.

    Raises ValueError for observations outside, which no bet survives, and for none.
    """
    if not len(observations) or not (np.abs(observations) <= 1).all():
        raise ValueError(f"got {len(observations)} observations of {observations!r}; expected numbers from -1 to 1")
    checks = capital.checks + 1
    joining = -math.log(checks * (checks + 1))
    gains = np.log1p(np.outer(FRACTIONS, observations)).sum(axis=1)
    parts = np.logaddexp(capital.log_of_fractions, joining) + gains
    new = Capital(checks, tuple(parts.tolist()), capital.log_highest)
    return new._replace(log_highest=max(capital.log_highest, new.log_value))
