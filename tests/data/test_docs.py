"""docs/data.md says what the tables in the code say."""

import re
from pathlib import Path

import pytest

from divalign.data.audit.checks import CHECKS
from divalign.data.formats import FORMATS
from divalign.data.overlap import KINDS, LIGHT
from divalign.data.prompts import PROMPT_COLUMNS
from divalign.data.sources import SOURCES

TEXT = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_stands_there_with_its_limits(name: str) -> None:
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| {name} |")).split("|")
    stop = CHECKS[name].stop
    assert row[3].strip() == f"{CHECKS[name].look:g}"
    assert row[4].strip() == ("-" if stop is None else f"{stop:g}")


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_stands_there(name: str) -> None:
    assert re.search(rf"\b{name}\b", TEXT)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_stands_there(name: str) -> None:
    assert f"| `{name}` |" in TEXT


def test_the_overlap_rule_stands_there() -> None:
    assert [kind for kind in KINDS if f"**{kind}**" in TEXT] == list(KINDS)
    assert f"at most {LIGHT:g} of that of the rarest" in " ".join(TEXT.split())


def test_the_columns_of_evaluation_sets_stand_there_in_order() -> None:
    *some, last = [f"`{column}`" for column in PROMPT_COLUMNS]
    assert f"{', '.join(some)} and {last}" in " ".join(TEXT.split())
