"""The page of `divalign separate`: its folder in, one HTML file out. Nothing here is computed anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from divalign import store
from divalign.core.stats import Estimate
from divalign.draw.heat import HeatCell, HeatColumn, heat_picture
from divalign.draw.numbers import Form, share, significant
from divalign.draw.panels import Figure, Panel
from divalign.report.facts import BestLayerFacts, ChangeFacts, LayerFacts, SeparationFacts, SeparationRun
from divalign.report.reading import read_separation
from divalign.report.shell import Part, small_page
from divalign.report.tables import Cell, Column, Table, cell
from divalign.report.words import spelled

NAME = "separation.html"
SHORT = {"instruction": "instruction", "generation": "answer", "response": "response"}
POSITIONS = {"instruction": "end of instruction", "generation": "start of answer", "response": "mean over response"}
DISTANCE, AUC = "bhattacharyya", "probe_auc"
LARGEST = 8.0  # nats: darker would be exp(-8)/2, an error in 6,000 prompts that no set here has
LAST_LAYER = {
    DISTANCE: ("D_B held out", significant),
    AUC: ("probe AUC", share),
    "silhouette": ("silhouette", significant),
    "energy": ("energy", significant),
    "bhattacharyya_paper": ("D_B paper mode", significant),
}
SHADES = ((DISTANCE, "distance", significant, 0.05, LARGEST), (AUC, "AUC", share, 0.5, 1.0))
CHANGES = {DISTANCE: "D_B", AUC: "probe AUC", "silhouette": "silhouette", "energy": "energy"}
MAP = (
    "One row a layer, 0 the embeddings, the last on top; hidden states at the end of the instruction and at the start "
    "of the answer. Distance is held-out D_B in nats, AUC that of a linear probe (0.5 is chance). The largest of many "
    "cells is biased upwards: read the map for its shape."
)
BASELINES = (
    "Held-out numbers with 95 % confidence intervals over prompts, beside baselines that need no model: the AUC of the "
    "prompts' words (TF-IDF) and of their length. A probe that does no better shows nothing about the model."
)
ATTACK = (
    "The same prompts after each attack's transformation, last layer, at the last token before generation; “1 of 3” is "
    "one word into a prefilled answer. Worst and mean are over all columns, on the same bootstrap samples of prompts."
)
CHANGE = (
    "Last layer, the same prompts, folds and bootstrap samples in both models, so that what the prompts have in common "
    "cancels. Cosine: between the two refusal directions."
)


def write_separation(folder: Path) -> Path:
    """Write `folder`/separation.html from the files that `divalign separate --out` left, and return its path.

    Raises ValueError where there are none, or they are of another kind.
    """
    page = separation_page(read_separation(folder))
    store.write_bytes(folder / NAME, page.encode("utf-8", errors="replace"))
    return folder / NAME


def separation_page(run: SeparationRun) -> str:
    """Return the page as text."""
    words = f"{run.benign} benign and {run.harmful} harmful prompts in {run.clusters} clusters."
    parts = [
        Part("Where in the model", (MAP,), Figure([[Panel(model.name, "", _map(model))] for model in run.models], [])),
        Part("The last layer, and what words alone do", (BASELINES,), tables=_last_layers(run)),
    ]
    attacked = [model for model in run.models if model.under_attack]
    if attacked:
        parts.append(Part("Under attack", (ATTACK,), tables=[_attacks(attacked, name) for name in (DISTANCE, AUC)]))
    if run.changes:
        parts.append(Part("After against before", (CHANGE,), tables=[_changes(run.changes)]))
    title = f"Separation of benign and harmful prompts in {len(run.models)} model{'s' if len(run.models) > 1 else ''}"
    return small_page(title, [words, *_doubts(run.models)], parts)


def _map(model: SeparationFacts) -> Any:
    columns = []
    for position in dict.fromkeys(layer.position for layer in model.map):
        layers = [layer for layer in model.map if layer.position == position]
        for name, label, form, low, high in SHADES:
            heading = (SHORT.get(position, position), label)
            cells = {layer.layer: _heat_cell(layer, layer.estimates.get(name), heading, form) for layer in layers}
            columns.append(HeatColumn(heading, cells, form, low, high, log=name == DISTANCE))
    return heat_picture(columns, description=f"Separation in each layer of {model.name}, as in separation.json.")


def _heat_cell(layer: LayerFacts, estimate: Estimate | None, heading: tuple[str, str], form: Form) -> HeatCell:
    if estimate is None or estimate.value is None:
        return HeatCell(None, f"layer {layer.layer}: {layer.why}")
    return HeatCell(estimate.value, f"layer {layer.layer}, {' '.join(heading)}: {spelled(estimate, form)}")


def _last_layers(run: SeparationRun) -> list[Table]:
    baselines = tuple(cell(run.baselines.get(name), share) for name in ("lexical", "length"))
    heads = [*(Column(label) for label, _ in LAST_LAYER.values()), Column("words' AUC"), Column("length's AUC")]
    tables = []
    for position in dict.fromkeys(position for model in run.models for position in model.last_layer):
        rows = []
        for model in run.models:
            estimates = model.last_layer[position]
            cells = tuple(cell(estimates.get(name), form) for name, (_, form) in LAST_LAYER.items())
            rows.append((model.name, (*cells, *baselines, _best(model.best_layer.get(position)))))
        caption = f"Last layer, {POSITIONS.get(position, position)}"
        tables.append(Table(caption, (*heads, Column("best layer", "chosen on other prompts")), tuple(rows)))
    return tables


def _best(best: BestLayerFacts | None) -> Cell:
    if best is None:
        return Cell("too few prompts", known=False)
    distance = cell(best.distance, significant)
    return distance._replace(value=f"{best.layer}: D {distance.value}")


def _attacks(models: Sequence[SeparationFacts], measure: str) -> Table:
    form = significant if measure == DISTANCE else share
    rows = [
        (model.name, tuple(cell(estimate, form) for estimate in model.under_attack[measure].values()))
        for model in models
    ]
    caption = "Held-out distance under attack" if measure == DISTANCE else "Probe AUC under attack"
    names = [name.replace("_", " ") for name in models[0].under_attack[measure]]
    return Table(caption, tuple(map(Column, names)), tuple(rows))


def _changes(changes: Sequence[ChangeFacts]) -> Table:
    rows = []
    for change in changes:
        cells = tuple(cell(change.estimates.get(name), significant) for name in CHANGES)
        cosine = Cell("unknown", known=False) if change.cosine is None else Cell(significant(change.cosine))
        name = f"{change.after} − {change.before}, {POSITIONS.get(change.position, change.position)}"
        rows.append((name, (*cells, cosine)))
    heads = (*(Column(label, "after minus before") for label in CHANGES.values()), Column("cosine"))
    return Table("Differences", heads, tuple(rows))


def _doubts(models: Sequence[SeparationFacts]) -> Iterable[str]:
    """Say which numbers of the last layer are doubtful, and why."""
    for model in models:
        for position, doubts in model.doubts.items():
            if doubts:
                yield f"{model.name}, {POSITIONS.get(position, position)}: {'; '.join(doubts)}."
