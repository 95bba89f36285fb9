"""What every page is made with: templates that escape all text, the style sheet, a policy that lets nothing out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from divalign import __version__
from divalign.draw.panels import Figure
from divalign.report.tables import Table


class PageSection(NamedTuple):
    """A section of a small page: its text, its picture, its tables."""

    title: str
    words: Sequence[str] = ()
    figure: Figure | None = None
    tables: Sequence[Table] = ()


def small_page(title: str, lead: Sequence[str], sections: Sequence[PageSection]) -> str:
    """Return a page without a script: a title, its lead, and its sections."""
    style = asset("page.css")
    return fill(
        "small.html",
        policy=f"default-src 'none'; style-src {hash_of(style)}; img-src data:; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        title=title,
        lead=lead,
        sections=sections,
        version=__version__,
    )


def interactive(template: str, *, data: Any, **values: Any) -> str:
    """Return a template filled, with the script of the pages and the `data` that it reads."""
    style, script = asset("page.css"), asset("page.js")
    return fill(
        template,
        policy=f"default-src 'none'; style-src {hash_of(style)}; script-src {hash_of(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        data=data,
        **values,
    )


def fill(template: str, **values: Any) -> str:
    """Return a template of this room filled with `values`; all text is escaped."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(asset),
    )
    environment.filters["prose"] = _prose
    return environment.get_template(template).render(**values)


def asset(name: str) -> str:
    return (files("divalign.report") / name).read_text(encoding="utf-8")


def hash_of(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _prose(text: str) -> Markup:
    """Escape `text` and set D_B as a symbol with its index."""
    return escape(text).replace("D_B", Markup("<i>D</i><sub>B</sub>"))
