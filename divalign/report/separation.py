"""The page of `divalign separate`: its folder in, one HTML file out. Nothing here is computed anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from divalign import store
from divalign.core.stats import Estimate
from divalign.draw.heat import HeatCell, HeatColumn, heat_picture
from divalign.draw.numbers import Form, share, significant
from divalign.draw.panels import Figure, Panel
from divalign.records import (
    AttackSeparation,
    BestLayer,
    LayerSeparation,
    NotMeasured,
    SeparationChangeRecord,
    SeparationPart,
)
from divalign.report.facts import SeparationRun
from divalign.report.reading import read_separation
from divalign.report.shell import PageSection, small_page
from divalign.report.tables import Cell, Column, Table, TableRow, cell
from divalign.report.words import NOT_MEASURED, spelled

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
    first = next(iter(run.parts.values())).prompts
    words = f"{first.safe} benign and {first.harmful} harmful prompts in {first.clusters} clusters."
    maps = [[Panel(name, "", _map(name, part.map))] for name, part in run.parts.items()]
    parts = [
        PageSection("Where in the model", (MAP,), Figure(maps, [])),
        PageSection("The last layer, and what words alone do", (BASELINES,), tables=_last_layers(run.parts)),
    ]
    attacked = {name: part.under_attack for name, part in run.parts.items() if part.under_attack}
    if attacked:
        parts.append(
            PageSection("Under attack", (ATTACK,), tables=[_attacks(attacked, name) for name in (DISTANCE, AUC)])
        )
    if run.changes:
        parts.append(PageSection("After against before", (CHANGE,), tables=[_changes(run.changes)]))
    title = f"Separation of benign and harmful prompts in {len(run.parts)} model{'s' if len(run.parts) > 1 else ''}"
    return small_page(title, [words, *_doubts(run.parts)], parts)


def _map(model: str, layers: Sequence[LayerSeparation]) -> Any:
    columns = []
    for position in dict.fromkeys(layer.position for layer in layers):
        for name, label, form, low, high in SHADES:
            heading = (SHORT.get(position, position), label)
            cells = {
                layer.layer: _heat_cell(layer, getattr(layer, name), heading, form)
                for layer in layers
                if layer.position == position
            }
            columns.append(HeatColumn(heading, cells, form, low, high, log=name == DISTANCE))
    return heat_picture(columns, description=f"Separation in each layer of {model}, as in separation.json.")


def _heat_cell(layer: LayerSeparation, estimate: Estimate, heading: tuple[str, str], form: Form) -> HeatCell:
    if estimate.value is None:
        return HeatCell(None, f"layer {layer.layer}: {layer.why or NOT_MEASURED}")
    return HeatCell(estimate.value, f"layer {layer.layer}, {' '.join(heading)}: {spelled(estimate, form)}")


def _last_layers(parts: Mapping[str, SeparationPart]) -> list[Table]:
    heads = [*(Column(label) for label, _ in LAST_LAYER.values()), Column("words' AUC"), Column("length's AUC")]
    tables = []
    for position in dict.fromkeys(position for part in parts.values() for position in part.last_layer):
        rows = [TableRow(name, _last_layer(part, position)) for name, part in parts.items()]
        caption = f"Last layer, {POSITIONS.get(position, position)}"
        tables.append(Table(caption, (*heads, Column("best layer", "chosen on other prompts")), tuple(rows)))
    return tables


def _last_layer(part: SeparationPart, position: str) -> tuple[Cell, ...]:
    layer = part.last_layer[position]
    cells = (cell(getattr(layer, name, None), form) for name, (_, form) in LAST_LAYER.items())
    baselines = (cell(estimate, share) for estimate in (part.lexical_auc, part.length_auc))
    return *cells, *baselines, _best(part.best_layer.get(position))


def _best(best: BestLayer | None) -> Cell:
    if best is None:
        return Cell("too few prompts", is_number=False)
    distance = cell(best.bhattacharyya, significant)
    return distance._replace(value=f"{best.layer}: D {distance.value}")


def _attacks(models: Mapping[str, Mapping[str, AttackSeparation]], measure: str) -> Table:
    form = significant if measure == DISTANCE else share
    columns = {
        name: {**attacked[measure].by_attack, "worst": attacked[measure].worst, "mean": attacked[measure].mean}
        for name, attacked in models.items()
    }
    rows = [
        TableRow(name, tuple(cell(estimate, form) for estimate in estimates.values()))
        for name, estimates in columns.items()
    ]
    caption = "Held-out distance under attack" if measure == DISTANCE else "Probe AUC under attack"
    heads = (Column(name.replace("_", " ")) for name in next(iter(columns.values())))
    return Table(caption, tuple(heads), tuple(rows))


def _changes(changes: Sequence[SeparationChangeRecord]) -> Table:
    rows = []
    for change in changes:
        cells = tuple(cell(getattr(change, name), significant) for name in CHANGES)
        cosine = Cell("unknown", is_number=False) if change.cosine is None else Cell(significant(change.cosine))
        name = f"{change.after} − {change.before}, {POSITIONS.get(change.position, change.position)}"
        rows.append(TableRow(name, (*cells, cosine)))
    heads = (*(Column(label, "after minus before") for label in CHANGES.values()), Column("cosine"))
    return Table("Differences", heads, tuple(rows))


def _doubts(parts: Mapping[str, SeparationPart]) -> Iterable[str]:
    """Say which numbers of the last layer are doubtful, and why."""
    for name, part in parts.items():
        for position, layer in part.last_layer.items():
            doubts = [layer.why] if isinstance(layer, NotMeasured) else layer.flags
            if doubts:
                yield f"{name}, {POSITIONS.get(position, position)}: {'; '.join(doubts)}."
