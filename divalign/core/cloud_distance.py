"""The Bhattacharyya distance of two clouds of hidden states as a function with gradients, for training on it.

The distance is that of `core.bhattacharyya` between the Ledoit-Wolf Gaussians of the benign and the harmful prompts of
an optimizer step, in the principal plane of all of them, as the indicator of arXiv 2502.00657 is measured. A step holds
fewer prompts than a state has entries, so a covariance of whole states would be singular, and a shrunk one could be
made distant by the variance of axes that hold no prompt; two axes and some 16 prompts of each class determine one.

The plane is fitted to the step's states and then a constant: gradients flow through the coordinates in it and not
through its axes, which moves the same states to the same places without dividing by the gaps between eigenvalues.
Everything is computed in float64, where the device has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from divalign.core.precision import in_widest

AXES = 2  # the paper's plane
FEWEST = 4  # prompts of each class behind a covariance in the plane
_LEAST = 1e-12  # of the mean covariance's trace: what is left of a class without spread
_FLAT = 1e-9  # so small a share is rounding: of the largest axis, or of the squared distance of the means


@dataclass(frozen=True, kw_only=True)
class StatesLoss:
    """A loss of the distance between the last-layer states of a step's benign and harmful prompts.

    `of_distance` takes the distance in nats. The rows of harmful prompts enter the method's loss of r with
    `harmful_weight` times their r: at 0 only the responses to benign prompts are compared with the reference.
    """

    of_distance: Callable[[Tensor], Tensor]
    harmful_weight: float = 1.0

    def pull(self, states: Float[Tensor, "n d"], harmful: Bool[Tensor, " n"]) -> Pull | None:
        """Return the loss of a step's prompts and its gradient; None where a class has fewer than `FEWEST` prompts."""
        if min(int(harmful.sum()), int((~harmful).sum())) < FEWEST:
            return None
        points = in_widest(states.detach()).requires_grad_()
        with torch.enable_grad():
            distance = cloud_distance(points, harmful, plane_axes(points, harmful))
            loss = self.of_distance(distance)
            (gradient,) = torch.autograd.grad(loss, points)
        return Pull(float(distance.detach()), float(loss.detach()), gradient.to(states.dtype))


class Pull(NamedTuple):
    """A step's distance and loss, and the loss's gradient by each prompt's state."""

    distance: float
    loss: float
    gradient: Float[Tensor, "n d"]


def cloud_distance(
    states: Float[Tensor, "n d"], harmful: Bool[Tensor, " n"], axes: Float[Tensor, "d k"]
) -> Float[Tensor, ""]:
    """Return the Bhattacharyya distance, in nats, of the two classes' Ledoit-Wolf Gaussians on the given axes.

    Equal to `bhattacharyya(fit(benign @ axes), fit(harmful @ axes))` of `core.bhattacharyya`, with gradients by the
    states. 0 for equal Gaussians. A class whose states have become one point, which training for distance leads to,
    keeps a trace of spread (`_LEAST`), so that the distance stays finite, also where both have.
    """
    points = states @ axes
    (first, first_covariance), (second, second_covariance) = (
        (side.mean(dim=0), shrunk_covariance(side)) for side in (points[~harmful], points[harmful])
    )
    average = (first_covariance + second_covariance) / 2
    difference = first - second
    spread = torch.maximum(average.trace(), _FLAT * difference.square().sum()).detach()
    least = _LEAST * spread * torch.eye(len(average), dtype=average.dtype, device=average.device)
    first_covariance, second_covariance = first_covariance + least, second_covariance + least
    average = average + least
    squares = difference @ torch.linalg.solve(average, difference)
    middle, left, right = (
        torch.linalg.slogdet(covariance).logabsdet for covariance in (average, first_covariance, second_covariance)
    )
    return squares / 8 + (middle - (left + right) / 2) / 2


def shrunk_covariance(points: Float[Tensor, "n k"]) -> Float[Tensor, "k k"]:
    """Return the Ledoit-Wolf covariance of `core.bhattacharyya.fit`, with gradients.

    Source: Ledoit and Wolf 2004, J. Multivar. Anal. 88, section 3.
    """
    n, dimension = points.shape
    centred = points - points.mean(dim=0)
    covariance = centred.T @ centred / n
    sphere = covariance.trace() / dimension * torch.eye(dimension, dtype=points.dtype, device=points.device)
    distance = (covariance - sphere).square().sum()
    error = (centred.square().sum(dim=1).square().sum() / n - covariance.square().sum()) / n
    share = torch.where(distance > 0, error / distance.clamp(min=torch.finfo(points.dtype).tiny), 0.0).clamp(max=1.0)
    return (1 - share) * covariance + share * sphere


@torch.no_grad()
def plane_axes(states: Float[Tensor, "n d"], harmful: Bool[Tensor, " n"], count: int = AXES) -> Float[Tensor, "d k"]:
    """Return the first principal axes of all states, each in units of its spread within the classes.

    Units matter to the shrinkage alone, whose target is a sphere. Raises ValueError where all states are one point.
    """
    centred = states - states.mean(dim=0)
    _, lengths, directions = torch.linalg.svd(centred, full_matrices=False)
    wide = lengths[:count] > _FLAT * lengths[0]
    if not wide.any():
        raise ValueError(f"the last-layer states of {len(states)} prompts are one point; is the model broken?")
    axes = directions[:count][wide].T
    points = states @ axes
    within = torch.stack([points[side].var(dim=0, correction=0) for side in (~harmful, harmful)]).mean(dim=0)
    return axes / within.sqrt().clamp(min=_FLAT * float(lengths[0]))
