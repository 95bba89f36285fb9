"""f-divergences: one row each of generator, score and penalty, exact on tables and bounded below on samples.

For a convex generator f with f(1) = 0, D_f(P, Q) = E_Q f(dP/dQ). Every critic T gives the lower bound
E_P T - E_Q f*(T). We write the critic as T = f'(e^r) (the canonical link), so that

    score(r) = f'(e^r),    penalty(r) = f*(f'(e^r)) = e^r f'(e^r) - f(e^r),    D_f >= E_P score(r) - E_Q penalty(r),

with equality at r = log dP/dQ for every row alike: choosing a divergence changes the weights of the gradient, not its
target. P is the aligned distribution D+, Q the unaligned one D-. All values are in nats, float64.

Source: Nguyen, Wainwright, Jordan 2010, "Estimating divergence functionals and the likelihood ratio by convex risk
minimization", lemma 1 (the bound); Nowozin et al. 2016, "f-GAN", eq. 4 (the same, with the critic a network) and its
tables of generators and conjugates, here centred so that f'(1) = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from divalign.core.names import find, in_full

Formula = Callable[[Tensor], Tensor]
_ROUNDING = 1e-6  # how far a row of probabilities may be from 1: float32 softmax over 100,000 entries stays within it


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """An f-divergence; larger is further apart, 0 exactly when P = Q.

    `generator` is f(t) for t in [0, inf). `score_formula` and `penalty_formula` are functions of r as above; `growth`
    is the largest k for which e^(k|r|) occurs in them (0: none), so that no float overflows. `canonical` is False where
    the critic is not f'(e^r): the bound is then tight only in a limit, which `value` names.
    """

    name: str
    value: str
    generator: Formula
    score_formula: Formula
    penalty_formula: Formula
    growth: float | int
    source: str
    canonical: bool = True

    def score(self, log_ratio: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """What an aligned row with critic value r adds to the bound."""
        return self.score_formula(tame(log_ratio, self.growth))

    def penalty(self, log_ratio: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """What an unaligned row with critic value r takes from the bound."""
        return self.penalty_formula(tame(log_ratio, self.growth))

    @cached_property
    def upper(self) -> float | None:
        """The least upper bound f(0) + lim f(t)/t, reached by disjoint supports; None where there is none."""
        total = self.score_limit - self.penalty_limit
        return total if math.isfinite(total) else None

    @property
    def scale(self) -> str:
        """What a value is to be read against: "of 1.386" where disjoint supports reach that, else "no upper bound"."""
        return scale(self.upper)

    def normalised(self, value: float | None) -> float | None:
        """Return a value as a share of the upper bound, in [0, 1]; None where there is no bound or no value."""
        return None if value is None or self.upper is None else value / self.upper

    @cached_property
    def score_limit(self) -> float:
        """Score at r = infinity, lim f(t)/t: infinite where P may not leave the support of Q."""
        return float(self.score_formula(torch.tensor(math.inf, dtype=torch.float64)))

    @cached_property
    def penalty_limit(self) -> float:
        """Penalty at r = -infinity, -f(0): infinite where Q may not leave the support of P."""
        return float(self.penalty_formula(torch.tensor(-math.inf, dtype=torch.float64)))

    def exact(self, p: object, q: object) -> Float[Tensor, "*rows"]:
        """Return sum_y q f(p/q) of every row, in nats and float64; infinite where the divergence or f(p/q) is.

        `p` and `q` hold probabilities along the last axis (tensors or arrays); the other axes are kept, so with one
        row per prompt the mean of the result is the divergence of the joint distributions.

        Raises ValueError for unequal shapes, negative or non-finite entries, and rows that do not sum to 1.
        """
        p, q = _probabilities(p, "p"), _probabilities(q, "q")
        if p.shape != q.shape:
            raise ValueError(f"p has shape {tuple(p.shape)} and q {tuple(q.shape)}; expected the same outcomes in both")
        ratio = p / q
        # Where q = 0 < p the perspective q f(p/q) tends to p lim f(t)/t; where both are 0 it is 0.
        beyond = torch.where(p > 0, p * self.score_limit, 0.0)
        return torch.where(ratio.isfinite(), q * self.generator(ratio), beyond).sum(-1)

    def bound(self, aligned: object, unaligned: object) -> Float[Tensor, ""]:
        """Return mean score(r) over aligned samples minus mean penalty(r) over unaligned ones, in nats and float64.

        In expectation never above the divergence, for any critic that was fixed before these samples were drawn. It
        is differentiable, and may be negative: a bad critic proves nothing.

        Raises ValueError for an empty or non-finite sample.
        """
        aligned, unaligned = samples(aligned, "aligned"), samples(unaligned, "unaligned")
        return self.score(aligned).mean() - self.penalty(unaligned).mean()


def tame(log_ratio: Float[Tensor, "*n"], growth: float | int) -> Float[Tensor, "*n"]:
    """Bend r before e^(growth |r|) leaves its float type: from a limit on it rises as log(1 + excess), and ever slower.

    Score and penalty read the same bent r, so it is merely another critic: the bound stays a bound and the gradient
    keeps its sign. In float32 the limit is 76 nats at growth 1 and 38 at growth 2; in float64, 610 and 305.
    """
    if not growth:
        return log_ratio
    # growth |r| ends at 0.91 of the largest exponent: what is left is for factors before the exponential and for sums.
    largest = math.log(torch.finfo(log_ratio.dtype).max) / growth
    limit, room = 0.86 * largest, 0.05 * largest
    excess = (log_ratio.abs() - limit).clamp(min=0.0).log1p()
    bent = log_ratio.sign() * (limit + room * excess / (room + excess))
    return torch.where(log_ratio.abs() > limit, bent, log_ratio)


def samples(values: object, name: str) -> Float[Tensor, " n"]:
    """Return critic values as a vector of float64 on the CPU, or say which is empty, misshapen or not finite."""
    vector = torch.as_tensor(values.cpu() if isinstance(values, Tensor) else values, dtype=torch.float64)
    if vector.ndim != 1 or not len(vector):
        raise ValueError(f"{name} has shape {tuple(vector.shape)}; expected one critic value per row, at least one row")
    broken = int((~vector.isfinite()).sum())
    if broken:
        raise ValueError(
            f"{name}: {broken} of {len(vector)} values are NaN or infinite; look for -inf log-probabilities"
        )
    return vector


def _probabilities(rows: object, name: str) -> Tensor:
    table = torch.as_tensor(rows, dtype=torch.float64)
    if not (table.isfinite() & (table >= 0)).all():
        raise ValueError(f"{name} has negative, NaN or infinite entries; expected probabilities (are these logits?)")
    worst = float((table.sum(-1) - 1).abs().max()) if table.numel() and table.ndim else math.inf
    if worst > _ROUNDING:
        raise ValueError(f"a row of {name} misses the sum 1 by {worst:.2g}; expected rows of probabilities: normalise")
    return table


kl = Divergence(
    name="kl",
    value="KL(P, Q)",
    generator=lambda t: torch.xlogy(t, t) - t + 1,
    score_formula=lambda r: r,
    penalty_formula=torch.expm1,
    growth=1,
    source="Kullback, Leibler 1951; the bound: Nguyen, Wainwright, Jordan 2010, lemma 1",
)

reverse_kl = Divergence(
    name="reverse_kl",
    value="KL(Q, P)",
    generator=lambda t: t - 1 - t.log(),
    score_formula=lambda r: -torch.expm1(-r),
    penalty_formula=lambda r: r,
    growth=1,
    source="Nowozin et al. 2016, row reverse KL, centred",
)

js = Divergence(
    name="js",
    value="2 JS(P, Q), where JS = KL(P, M)/2 + KL(Q, M)/2 and M = (P + Q)/2",
    generator=lambda t: torch.xlogy(t, t) - torch.xlogy(1 + t, (1 + t) / 2),
    score_formula=lambda r: math.log(2) + logsigmoid(r),
    # -logsigmoid(-r) is softplus(r); torch's softplus is off by 2e-9 above r = 20, which float64 notices.
    penalty_formula=lambda r: -logsigmoid(-r) - math.log(2),
    growth=0,
    source="Goodfellow et al. 2014, GAN, theorem 1; Nowozin et al. 2016, row GAN, centred",
)

hellinger = Divergence(
    name="hellinger",
    value="squared Hellinger, 2 (1 - Bhattacharyya coefficient)",
    generator=lambda t: (t.sqrt() - 1).square(),
    score_formula=lambda r: -torch.expm1(-r / 2),
    penalty_formula=lambda r: torch.expm1(r / 2),
    growth=0.5,
    source="Nowozin et al. 2016, row squared Hellinger",
)

chi2 = Divergence(
    name="chi2",
    value="Pearson chi^2, E_Q (dP/dQ - 1)^2",
    generator=lambda t: (t - 1).square(),
    score_formula=lambda r: 2 * torch.expm1(r),
    penalty_formula=lambda r: torch.expm1(2 * r),
    growth=2,
    source="Nowozin et al. 2016, row Pearson; as a loss: Kanamori, Hido, Sugiyama 2009 (LSIF)",
)

neyman = Divergence(
    name="neyman",
    value="Neyman chi^2, E_P (dQ/dP - 1)^2",
    generator=lambda t: (1 - t) * ((1 - t) / t),  # (1 - t)^2 overflows from 1e154 on
    score_formula=lambda r: -torch.expm1(-2 * r),
    penalty_formula=lambda r: -2 * torch.expm1(-r),
    growth=2,
    source="Nowozin et al. 2016, row Neyman",
)

lecam = Divergence(
    name="lecam",
    value="triangular discrimination, sum (p - q)^2 / (p + q)",
    generator=lambda t: (t - 1) * ((t - 1) / (t + 1)),
    score_formula=lambda r: 1 - 4 * torch.sigmoid(-r).square(),
    penalty_formula=lambda r: 4 * torch.sigmoid(r).square() - 1,
    growth=0,
    source="Vincze 1981; Le Cam 1986; as a loss the Brier score: Reid, Williamson 2011",
)

tv = Divergence(
    name="tv",
    value="total variation, sum |p - q| / 2; tight as |r| grows, half of lecam at r = log dP/dQ",
    generator=lambda t: (t - 1).abs() / 2,
    # f* is the identity on [-1/2, 1/2] and f' is a step there: sigmoid is the smooth critic that stays inside.
    score_formula=lambda r: torch.sigmoid(r) - 0.5,
    penalty_formula=lambda r: torch.sigmoid(r) - 0.5,
    growth=0,
    source="Nowozin et al. 2016, row total variation, with a sigmoid for the output activation",
    canonical=False,
)


def alpha(a: float | int) -> Divergence:
    """Return the Cressie-Read divergence of order a: E_Q ((dP/dQ)^a - 1) / (a (a - 1)).

    1 is kl and 0 is reverse_kl (the limits themselves are returned), 1/2 twice hellinger, 2 half of chi2, -1 half of
    neyman. Bounded, by 1/(a (1 - a)), for 0 < a < 1.

    Raises ValueError outside [-10, 10]: e^(a r) would leave float32 at ratios that real responses reach.
    Source: Cressie, Read 1984.
    """
    if not -10 <= a <= 10:  # NaN fails here too
        raise ValueError(f"alpha({a}): expected an order from -10 to 10; 2 is already dominated by a few rows")
    if a in (0.0, 1.0):
        return kl if a else reverse_kl
    return Divergence(
        name=f"alpha({in_full(a)})",
        value=f"Cressie-Read divergence of order {in_full(a)}",
        generator=lambda t: (torch.expm1(a * t.log()) / a - (t - 1)) / (a - 1),
        score_formula=lambda r: torch.expm1((a - 1) * r) / (a - 1),
        penalty_formula=lambda r: torch.expm1(a * r) / a,
        growth=max(abs(a), abs(a - 1)),
        source="Cressie, Read 1984",
    )


DIVERGENCES: dict[str, Divergence] = {row.name: row for row in (kl, reverse_kl, js, hellinger, chi2, neyman, lecam, tv)}
FAMILIES: dict[str, Callable[[float], Divergence]] = {"alpha": alpha}


def find_divergence(name: str) -> Divergence:
    """Return the divergence called `name`: `js`, `alpha(0.3)`, or `package.module:thing` for one of your own.

    Raises ValueError, naming the nearest known one, when there is none.
    """
    return find(name, DIVERGENCES, kind="divergence", of=Divergence, families=FAMILIES)


def scale(upper: float | None) -> str:
    """Return an upper bound as the scale of a value: "of 1.386", or "no upper bound"."""
    return "no upper bound" if upper is None else f"of {upper:.4g}"


def scale_of(name: str) -> str:
    """Return what values of the divergence called `name` are to be read against, in nats: "of 1.386" for js.

    js is 2 JS and ends at 2 ln 2, hellinger and lecam at 2, tv at 1; kl and others have "no upper bound".
    Raises ValueError as `find_divergence` does.
    """
    return find_divergence(name).scale


def normalised(value: float | None, name: str) -> float | None:
    """Return a value of the divergence called `name` as a share of its upper bound, in [0, 1].

    None where the divergence has no upper bound or the value is undecided. Raises ValueError as `find_divergence` does.
    """
    return find_divergence(name).normalised(value)


def built_in(name: str) -> Divergence | None:
    """Return the table's divergence called `name`, None where it is not one; imports nothing, so a file may name it."""
    if name not in DIVERGENCES and ":" in name:
        return None
    try:
        return find_divergence(name)
    except ValueError:
        return None
