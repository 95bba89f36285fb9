"""A name stands for one thing, or is refused in a sentence that says what to write."""

import sys
from types import ModuleType

import pytest

from divalign.core.names import find


@pytest.fixture
def my_lab(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("my_lab")
    monkeypatch.setitem(sys.modules, "my_lab", module)
    return module


def test_a_thing_of_ones_own_is_what_the_table_holds(my_lab: ModuleType) -> None:
    vars(my_lab).update(thing=str.upper, number=3)
    assert find("my_lab:thing", {"lower": str.lower}, kind="attack") is str.upper
    assert find("my_lab:number", {}, kind="count", of=int) == 3
    with pytest.raises(ValueError, match="'my_lab:number' is a int, expected a str"):
        find("my_lab:number", {}, kind="word", of=str)
    with pytest.raises(ValueError, match="'my_lab:number' is a int, expected a function"):
        find("my_lab:number", {"lower": str.lower}, kind="attack")


@pytest.mark.parametrize("name", [".my:thing", "my..lab:thing", "my_lab.:thing"])
def test_a_module_is_named_in_full(name: str) -> None:
    with pytest.raises(ValueError, match="no attack is named"):
        find(name, {"lower": str.lower}, kind="attack")
