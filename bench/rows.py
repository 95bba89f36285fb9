"""A row of a table of simulations."""

from typing import NamedTuple


class Row(NamedTuple):
    """One simulated quantity: a share or a mean over n simulations."""

    part: str
    setting: str
    quantity: str
    value: float
    n: int
