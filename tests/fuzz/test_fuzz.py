"""Every target holds for a moment of fuzzing; `make fuzz MINUTES=10` gives it longer."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.targets import TARGETS

EXAMPLES = 12  # each target takes a tenth of a second so


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_ends_in_anything_but_a_refusal(name: str) -> None:
    target = TARGETS[name]
    quick = settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    quick(given(target.inputs)(target.check))()
