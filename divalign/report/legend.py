"""What surrounds the pictures: panels with their captions, figures of several panels, and the keys to read them by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from divalign.report.facts import Model
from divalign.report.measures import base_of, recipes, shape_of
from divalign.report.plane import Spot
from divalign.report.svg import markup, node, symbol
from divalign.report.words import data_words


class Panel(NamedTuple):
    """One picture with its caption."""

    title: str
    note: str
    picture: Markup


class Key(NamedTuple):
    """One entry of a legend."""

    label: str
    picture: Markup


class Figure(NamedTuple):
    """Panels in groups that belong side by side, and their legend. `spots`: per plane, what a pointer finds there."""

    groups: list[list[Panel]]
    keys: list[Key]
    aside: str = ""
    spots: tuple[tuple[Spot, ...], ...] = ()


def tone(recipe: str | None, models: Sequence[Model]) -> str:
    """Return the CSS class that colours a data recipe; the base has its own."""
    return "tone-base" if recipe is None else f"tone-{shape_of(recipe, models) % 4}"


def recipe_keys(models: Sequence[Model]) -> list[Key]:
    """Return the symbols of the data recipes."""
    return [
        Key(data_words(recipe), swatch(f"mark {tone(recipe, models)}", symbol(shape_of(recipe, models), 7.0, 7.0)))
        for recipe in recipes(models)
    ]


def bar_keys(models: Sequence[Model], *, unseen: bool) -> list[Key]:
    """Return the colours of the bars, and where there are two bars a model, which is which."""
    keys = [Key(data_words(recipe), _bar(tone(recipe, models))) for recipe in recipes(models)]
    filled, outlined = (
        Key("filled: topics seen in alignment", _bar("ink")),
        Key("outlined: held out", _bar("ink light")),
    )
    return [*keys, filled, outlined] if unseen else keys


def base_key(models: Sequence[Model], kind: str, path: str) -> list[Key]:
    """Return the base's key, or nothing where the run has no base."""
    return [Key("base", swatch(kind, path))] if base_of(models) else []


def swatch(kind: str, path: str) -> Markup:
    """Return a path of a CSS class in a small square, hidden from readers who hear the page: the label says it all."""
    return markup(node("svg", node("path", d=path, class_=kind), viewBox="0 0 14 14", aria_hidden="true"))


def _bar(kind: str) -> Markup:
    return swatch(f"bar {kind}", "M1 3h12v8h-12z")
