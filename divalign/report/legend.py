"""The legends of the report's figures: what the colours and symbols of data recipes and the base mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from divalign.draw.panels import Key, swatch
from divalign.draw.svg import symbol
from divalign.report.facts import ModelFacts
from divalign.report.quantities import base_of, recipes, shape_of
from divalign.report.words import data_words

TONES = 4


def tone(recipe: str | None, models: Sequence[ModelFacts]) -> str:
    """Return the CSS class that colours a data recipe; the base has its own."""
    return "tone-base" if recipe is None else f"tone-{shape_of(recipe, models) % TONES}"


def _symbol(kind: str, shape: int) -> Markup:
    return swatch(f"mark {kind}", symbol(shape, 7.0, 7.0))


def recipe_keys(models: Sequence[ModelFacts], picture: Callable[[str, int], Markup] = _symbol) -> list[Key]:
    """Return the keys of the data recipes; `picture` draws one from its colour and shape."""
    return [
        Key(data_words(recipe), picture(tone(recipe, models), shape_of(recipe, models))) for recipe in recipes(models)
    ]


def base_key(models: Sequence[ModelFacts], kind: str, path: str) -> list[Key]:
    """Return the base's key, or nothing where the run has no base."""
    return [Key("base", swatch(kind, path))] if base_of(models) else []
