"""Inline SVG, one element at a time. The standard library's serialiser escapes every text and attribute."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

from markupsafe import Markup

Child = Element | str | None


def node(tag: str, *children: Child, **attributes: str | float | int | None) -> Element:
    """Return an element. `class_` is class, an underscore a hyphen; None drops an attribute or a child."""
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    element = Element(tag, {name: _text(value) for name, value in named.items()})
    for child in children:
        if isinstance(child, str):
            element.text = (element.text or "") + child
        elif child is not None:
            element.append(child)
    return element


def text(x: float, y: float, words: str, kind: str, *, title: str = "", turn: int = 0) -> Element:
    """Return a text element; `kind` is its CSS class, `title` what a pointer reads, `turn` an angle in degrees."""
    element = node("text", words, x=x, y=y, class_=kind, transform=f"rotate({turn} {x:.1f} {y:.1f})" if turn else None)
    if title:
        element.append(node("title", title))
    return element


def drawing(
    width: float, height: float, description: str, children: Iterable[Child], **attributes: str | None
) -> Markup:
    """Return a complete picture. `description` is its text alternative."""
    view = f"0 0 {width:g} {height:g}"
    return markup(node("svg", *children, viewBox=view, role="img", aria_label=description, **attributes))


def markup(element: Element) -> Markup:
    """Return an element as HTML that needs no further escaping."""
    return Markup(tostring(element, encoding="unicode"))


def symbol(shape: int, x: float, y: float, *, size: float = 4.5) -> str:
    """Return the path of one of six shapes centred on (x, y), so that no reader needs colour.

    Circle, diamond, square, triangle, triangle on its tip, cross. Six shapes and four colours make twelve pairs.
    """
    r = size
    shapes = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        f"M{x:.1f} {y - 1.25 * r:.1f}l{1.25 * r} {1.25 * r}l{-1.25 * r} {1.25 * r}l{-1.25 * r} {-1.25 * r}z",
        f"M{x - 0.9 * r:.1f} {y - 0.9 * r:.1f}h{1.8 * r}v{1.8 * r}h{-1.8 * r}z",
        f"M{x:.1f} {y - 1.2 * r:.1f}l{1.15 * r} {2 * r}h{-2.3 * r}z",
        f"M{x:.1f} {y + 1.2 * r:.1f}l{1.15 * r} {-2 * r}h{-2.3 * r}z",
        f"M{x - r:.1f} {y - 0.4 * r:.1f}{_cross(r)}",
    )
    return shapes[shape % len(shapes)]


def _cross(r: float) -> str:
    """Return the outline of a cross from the left end of its arm, clockwise."""
    arm, width = f"{0.6 * r:.3g}", f"{0.8 * r:.3g}"
    up = f"h{arm}v-{arm}h{width}v{arm}h{arm}"
    down = f"v{width}h-{arm}v{arm}h-{width}v-{arm}h-{arm}z"
    return up + down


def _text(value: str | float | int) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
