"""The page of a run: facts in, one self-contained HTML file out.

Nothing on it can reach a network or run model text: a Content-Security-Policy allows only the page's own style and
script, each by its hash; jinja2 escapes all text, the XML serialiser all pictures, and what the script reads lies in
a JSON block in which <, > and & are written as escapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from divalign import __version__, store
from divalign.draw.plane import Spot
from divalign.report import figures, headline, provenance, tables
from divalign.report.attack_table import attack_table
from divalign.report.changes import Changes, with_score_changes
from divalign.report.compare import label
from divalign.report.facts import ModelFacts, RunFacts
from divalign.report.hidden_states import planes
from divalign.report.layers import layer_view
from divalign.report.quantities import glossary
from divalign.report.reading import read_run
from divalign.report.searches import search_curves
from divalign.report.shell import interactive
from divalign.report.words import data_short, duration

IN_DISTRIBUTION = "Topics of the training data, in held-out phrasings"


def write_report(run: Path, *, show_completions: bool = False, changes: Changes | None = None) -> Path:
    """Write `run`/report.html from the files of the run folder and return its path.

    Completions are left out of the file unless `show_completions`: a report is passed on more easily than a run folder.
    `changes` tests two models' verdicts prompt by prompt (stages.rates.changes); without it no model is called better.
    Raises ValueError where `run` is no run folder or a file in it does not hold what was expected.
    """
    facts = read_run(run)
    facts = with_score_changes(facts, run, changes) if changes else facts
    page = render(facts, show_completions=show_completions)
    path = run / "report.html"
    # A lone surrogate, which JSON can hold, has no UTF-8: it becomes "?".
    store.write_bytes(path, page.encode("utf-8", errors="replace"))
    return path


def render(run: RunFacts, *, show_completions: bool = False) -> str:
    """Return the page as text."""
    models = run.models
    states, layers, best = (
        planes(models),
        layer_view(models),
        headline.best_model(models) or headline.leading_model(models),
    )
    return interactive(
        "page.html",
        data={**_packed(states.spots), "models": model_index(models), "layers": layers.data if layers else {}},
        run=run,
        models=models,
        title=headline.headline(models),
        made=_made(run),
        warning=headline.warning(run),
        tiles=headline.tiles(run),
        best=label(best) if best else "",
        frontier=figures.frontier(models),
        attacks=attack_table(models),
        planes=states,
        layers=layers,
        **_tables(models),
        curves=figures.curves(models),
        divergences=figures.divergences(models),
        searches=search_curves(models),
        prediction=headline.prediction(run.verdict),
        against=figures.separation_against_attacks(models),
        **_provenance(run),
        examples=[
            (label(model), model.name, rows)
            for model in models
            if (rows := tables.examples(model, show_completions=show_completions))
        ],
        show_completions=show_completions,
        glossary=glossary(models),
    )


def model_index(models: Sequence[ModelFacts]) -> dict[str, dict[str, str]]:
    """Return what the script filters and groups models by."""
    return {
        model.name: {"label": label(model), "method": model.method or "base", "data": data_short(model.data) or "base"}
        for model in models
    }


def _tables(models: Sequence[ModelFacts]) -> dict[str, Any]:
    held_out = tables.main_table(models, tables.held_out, caption="Held-out topics")
    return {
        "in_distribution": tables.main_table(
            models, tables.in_distribution, caption=IN_DISTRIBUTION if held_out else "Evaluation prompts"
        ),
        "held_out": held_out,
        "no_refusal": _no_refusal_tables(models),
        "notes": tables.notes(models),
        "divergence_table": tables.divergence_table(models),
        "bounds_table": tables.bounds_table(models),
    }


def _provenance(run: RunFacts) -> dict[str, Any]:
    return {
        "judges": provenance.judges_table(run.models),
        "agreement": provenance.agreement_table(run.models),
        "audits": provenance.audit_tables(run.audits),
        "overlap": provenance.overlap_table(run.overlap),
        "cost": provenance.cost_table(run),
        "command": headline.command(run),
        "versions": provenance.version_rows(run, __version__),
    }


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


def _made(run: RunFacts) -> str:
    parts = [run.folder] if run.folder else []
    parts += [f"base model {run.base}"] if run.base else []
    parts += [f"divalign {run.version}"] if run.version else []
    parts += [f"config {run.config_sha256[:12]}"] if run.config_sha256 else []
    parts += [f"run in {duration(run.seconds)}"] if run.seconds is not None else []
    return " · ".join(parts)
