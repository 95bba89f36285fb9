"""The page of a run: facts in, one self-contained HTML file out.

Nothing on it can reach a network or run model text: a Content-Security-Policy allows only the page's own style and
script, each by its hash; jinja2 escapes all text, the XML serialiser all pictures, and what the script reads lies in
a JSON block in which <, > and & are written as escapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from divalign import __version__, store
from divalign.draw.plane import Spot
from divalign.report import figures, tables
from divalign.report.compare import label
from divalign.report.facts import ModelFacts, RunFacts
from divalign.report.hidden_states import planes
from divalign.report.quantities import ASR, OVER_REFUSAL, SEPARATION, aligned_of
from divalign.report.reading import read_run
from divalign.report.searches import search_curves
from divalign.report.sentences import prediction, summary, trained_on
from divalign.report.shell import asset, fill, hash_of
from divalign.report.words import duration

IN_DISTRIBUTION = "Topics of the training data, in held-out phrasings"


def write_report(run: Path, *, show_completions: bool = False) -> Path:
    """Write `run`/report.html from the files of the run folder and return its path.

    Completions are left out of the file unless `show_completions`: a report is passed on more easily than a run folder.
    Raises ValueError where `run` is no run folder or a file in it does not hold what was expected.
    """
    page = render(read_run(run), show_completions=show_completions)
    path = run / "report.html"
    # A lone surrogate, which JSON can hold, has no UTF-8: it becomes "?".
    store.write_bytes(path, page.encode("utf-8", errors="replace"))
    return path


def render(run: RunFacts, *, show_completions: bool = False) -> str:
    """Return the page as text."""
    style, script = asset("page.css"), asset("page.js")
    states = planes(run.models)
    held_out = tables.main_table(run.models, tables.held_out, caption="Held-out topics")
    return fill(
        "page.html",
        policy=f"default-src 'none'; style-src {hash_of(style)}; script-src {hash_of(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        run=run,
        version=__version__,
        title=_title(run),
        made=_made(run),
        warning=trained_on(run),
        findings=summary(run),
        prediction=prediction(run.verdict),
        took=duration(run.seconds) if run.seconds is not None else "",
        in_distribution=tables.main_table(
            run.models, tables.in_distribution, caption=IN_DISTRIBUTION if held_out else "Evaluation prompts"
        ),
        held_out=held_out,
        no_refusal=_no_refusal_tables(run.models),
        notes=tables.notes(run.models),
        side_by_side=figures.side_by_side(run.models),
        attack_bars=figures.attack_bars(run.models),
        searches=search_curves(run.models),
        frontier=figures.frontier(run.models),
        planes=states,
        curves=figures.curves(run.models),
        divergences=figures.divergences(run.models),
        divergence_table=tables.divergence_table(run.models),
        against=figures.separation_against_attacks(run.models),
        examples=[
            (label(model), rows)
            for model in run.models
            if (rows := tables.examples(model, show_completions=show_completions))
        ],
        show_completions=show_completions,
        glossary=[*SEPARATION.values(), ASR, OVER_REFUSAL],
        spots=_packed(states.spots),
    )


def _no_refusal_tables(models: Sequence[ModelFacts]) -> list[tables.Table]:
    """Return the second reading of attack success, on topics of the training data and on held-out topics."""
    parts = ((tables.in_distribution, "No refusal"), (tables.held_out, "No refusal, held-out topics"))
    contents = (tables.no_refusal_table(models, take, caption=caption) for take, caption in parts)
    return [content for content in contents if content is not None]


def _packed(planes: Sequence[tuple[Spot, ...]]) -> dict[str, Any]:
    """Return the marks of all planes with every prompt's text once: the same prompts are in every plane."""
    texts = list(dict.fromkeys((spot.kind, spot.text) for plane in planes for spot in plane))
    index = {text: number for number, text in enumerate(texts)}
    marks = [[[round(s.x, 1), round(s.y, 1), index[s.kind, s.text]] for s in plane] for plane in planes]
    return {"texts": texts, "planes": marks}


def _title(run: RunFacts) -> str:
    aligned = aligned_of(run.models)
    models = "no aligned model" if not aligned else f"{len(aligned)} aligned model{'s' if len(aligned) > 1 else ''}"
    return f"What alignment did: {models}"


def _made(run: RunFacts) -> str:
    parts = [f"divalign {run.version}"] if run.version else []
    parts += [f"config {run.config_sha256[:12]}"] if run.config_sha256 else []
    parts += [f"run in {duration(run.seconds)}"] if run.seconds is not None else []
    return " · ".join(parts)
