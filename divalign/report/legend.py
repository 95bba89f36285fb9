"""The legends of the report's figures: what the colours and symbols of data recipes and the base mean."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from divalign.draw.panels import Key, swatch
from divalign.draw.svg import symbol
from divalign.report.facts import ModelFacts
from divalign.report.quantities import base_of, recipes, shape_of
from divalign.report.words import data_words


def tone(recipe: str | None, models: Sequence[ModelFacts]) -> str:
    """Return the CSS class that colours a data recipe; the base has its own."""
    return "tone-base" if recipe is None else f"tone-{shape_of(recipe, models) % 4}"


def recipe_keys(models: Sequence[ModelFacts]) -> list[Key]:
    """Return the symbols of the data recipes."""
    return [
        Key(data_words(recipe), swatch(f"mark {tone(recipe, models)}", symbol(shape_of(recipe, models), 7.0, 7.0)))
        for recipe in recipes(models)
    ]


def bar_keys(models: Sequence[ModelFacts], *, held_out: bool) -> list[Key]:
    """Return the colours of the bars, and where there are two bars a model, which is which."""
    keys = [Key(data_words(recipe), _bar(tone(recipe, models))) for recipe in recipes(models)]
    filled, outlined = (
        Key("filled: topics of the training data", _bar("ink")),
        Key("outlined: held-out topics", _bar("ink light")),
    )
    return [*keys, filled, outlined] if held_out else keys


def base_key(models: Sequence[ModelFacts], kind: str, path: str) -> list[Key]:
    """Return the base's key, or nothing where the run has no base."""
    return [Key("base", swatch(kind, path))] if base_of(models) else []


def _bar(kind: str) -> Markup:
    return swatch(f"bar {kind}", "M1 3h12v8h-12z")
