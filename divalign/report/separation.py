"""The page of `divalign separate`: its folder in, one HTML file out. Nothing here is computed anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from divalign import store
from divalign.core.stats import Estimate
from divalign.records import SeparationChanges, SeparationRecord, read_record
from divalign.report.facts import number
from divalign.report.heat import Column as Shades
from divalign.report.heat import heat_picture
from divalign.report.legend import Figure, Panel
from divalign.report.shell import Part, small_page
from divalign.report.tables import Cell, Column, Table, cell
from divalign.report.words import share, significant

NAME = "separation.html"
SHORT = {"instruction": "instruction", "generation": "answer", "response": "response"}
POSITIONS = {"instruction": "end of instruction", "generation": "start of answer", "response": "mean over response"}
DISTANCE, AUC = "bhattacharyya", "probe_auc"
LARGEST = 8.0  # nats: darker would be exp(-8)/2, an error in 6,000 prompts that no set here has


def write_separation(folder: Path) -> Path:
    """Write `folder`/separation.html from the files that `divalign separate --out` left, and return its path.

    Raises ValueError where there are none, or they are of another kind.
    """
    if not (folder / "changes.json").is_file():
        raise ValueError(f"{folder} holds no changes.json; name the folder that `divalign separate --out` wrote")
    page = separation_page(_read(folder))
    store.write_bytes(folder / NAME, page.encode("utf-8", errors="replace"))
    return folder / NAME


def _read(folder: Path) -> dict[str, Any]:
    """Return the models' numbers on the first part of the prompts, and the changes between them."""
    index = read_record(folder / "changes.json", SeparationChanges)
    records = [read_record(folder / name / "separation.json", SeparationRecord) for name in index.models]
    parts = [next(iter(record.parts.values())).plain() for record in records]
    return {
        "prompts": parts[0]["prompts"],
        "baselines": {"lexical": parts[0]["lexical_auc"], "length": parts[0]["length_auc"]},
        "models": [{"name": record.model, **part} for record, part in zip(records, parts, strict=True)],
        "changes": [change.plain() for change in index.changes],
    }


def separation_page(found: Mapping[str, Any]) -> str:
    """Return the page as text."""
    models, prompts = found["models"], found["prompts"]
    words = f"{prompts['safe']} safe and {prompts['harmful']} harmful prompts in {prompts['clusters']} clusters."
    parts = [
        Part("Where in the model", (MAP,), _maps(models)),
        Part("The last layer, and what words alone do", (BASELINES,), tables=_last_layers(models, found["baselines"])),
    ]
    attacked = [model for model in models if model["under_attack"]]
    if attacked:
        parts.append(Part("Under attack", (ATTACK,), tables=[_attacks(attacked, name) for name in (DISTANCE, AUC)]))
    if found["changes"]:
        parts.append(Part("After against before", (CHANGE,), tables=[_changes(found["changes"])]))
    title = f"How far apart {len(models)} model{'s' if len(models) > 1 else ''} hold safe and harmful prompts"
    return small_page(title, [words, *_doubts(models)], parts)


MAP = (
    "One row a layer, 0 the embeddings, the last on top; states at the end of the instruction and where the answer "
    "begins. Distance is D_B held out, in nats, AUC that of a linear probe (0.5 is chance). Read the map for "
    "its shape, as the darkest of many cells is flattered."
)
BASELINES = (
    "Held-out numbers with 95 % intervals over prompts. Beside them stands what needs no model: the AUC of the "
    "prompts' words (TF-IDF) and of their length. A probe that does no better shows nothing about the model."
)
ATTACK = (
    "The same prompts after each attack's transformation, last layer, where the model writes its next word; “1 of 3” "
    "is one word into an opened answer. Worst and mean are over all columns, on the same redrawn prompts."
)
CHANGE = (
    "Last layer, the same prompts, folds and redrawn samples in both models, so what the prompts have in common "
    "cancels. Cosine: between the two refusal directions."
)


def _maps(models: Sequence[Mapping[str, Any]]) -> Figure:
    return Figure([[Panel(model["name"], "", _map(model))] for model in models], [])


def _map(model: Mapping[str, Any]) -> Any:
    columns = []
    for position in dict.fromkeys(entry["position"] for entry in model["map"]):
        mine = [entry for entry in model["map"] if entry["position"] == position]
        whys = {entry["layer"]: entry["why"] for entry in mine}
        for name, label, form, low, high in (
            (DISTANCE, "distance", significant, 0.05, LARGEST),
            (AUC, "AUC", share, 0.5, 1.0),
        ):
            layers = {entry["layer"]: _estimate(entry[name]) for entry in mine}
            heading = (str(SHORT.get(position, position)), label)
            columns.append(Shades(heading, layers, form, low, high, log=name == DISTANCE, whys=whys))
    return heat_picture(columns, says=f"Separation in each layer of {model['name']}, as in separation.json.")


def _last_layers(models: Sequence[Mapping[str, Any]], baselines: Mapping[str, Any]) -> list[Table]:
    columns = {
        DISTANCE: ("D_B held out", significant),
        AUC: ("probe AUC", share),
        "silhouette": ("silhouette", significant),
        "energy": ("energy", significant),
        "bhattacharyya_paper": ("D_B paper mode", significant),
    }
    alone = tuple(cell(_estimate(baselines[name]), share) for name in ("lexical", "length"))
    tables = []
    for position in dict.fromkeys(position for model in models for position in model["last_layer"]):
        rows = []
        for model in models:
            found = model["last_layer"][position]
            cells = tuple(cell(_estimate(found.get(name)), form) for name, (_, form) in columns.items())
            rows.append((model["name"], (*cells, *alone, _best(model["best_layer"].get(position)))))
        heads = [*(Column(label) for label, _ in columns.values()), Column("words' AUC"), Column("length's AUC")]
        caption = f"Last layer, {POSITIONS.get(position, position)}"
        tables.append(Table(caption, (*heads, Column("best layer", "chosen on other prompts")), tuple(rows)))
    return tables


def _best(found: Mapping[str, Any] | None) -> Cell:
    if found is None:
        return Cell("too few prompts", known=False)
    distance = cell(_estimate(found[DISTANCE]), significant)
    return distance._replace(value=f"{found['layer']}: D_B {distance.value}".replace("D_B ", "D "))


def _attacks(models: Sequence[Mapping[str, Any]], measure: str) -> Table:
    form = significant if measure == DISTANCE else share
    rows = []
    for model in models:
        found = model["under_attack"][measure]
        estimates = [*found["by_attack"].values(), found["worst"], found["mean"]]
        rows.append((model["name"], tuple(cell(_estimate(one), form) for one in estimates)))
    names = [*models[0]["under_attack"][measure]["by_attack"], "worst", "mean"]
    caption = "Distance held out, under attack" if measure == DISTANCE else "Probe AUC under attack"
    return Table(caption, tuple(Column(name.replace("_", " ")) for name in names), tuple(rows))


def _changes(changes: Sequence[Mapping[str, Any]]) -> Table:
    names = {DISTANCE: "D_B", AUC: "probe AUC", "silhouette": "silhouette", "energy": "energy"}
    rows = []
    for change in changes:
        cells = tuple(cell(_estimate(change.get(name)), significant) for name in names)
        turned = number(change.get("cosine"))
        name = f"{change['after']} − {change['before']}, {POSITIONS.get(change['position'], change['position'])}"
        rows.append((name, (*cells, Cell("unknown", known=False) if turned is None else Cell(significant(turned)))))
    heads = (*(Column(label, "after minus before") for label in names.values()), Column("cosine"))
    return Table("Differences", heads, tuple(rows))


def _doubts(models: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Say which numbers of the last layer are to be doubted, and why."""
    for model in models:
        for position, found in model["last_layer"].items():
            doubts = found.get("flags") or ([found["why"]] if found.get("why") else [])
            if doubts:
                yield f"{model['name']}, {POSITIONS.get(position, position)}: {'; '.join(doubts)}."


def _estimate(entry: Mapping[str, Any] | None) -> Estimate | None:
    if entry is None:
        return None
    value, low, high = (number(entry[name]) for name in ("value", "low", "high"))
    return Estimate(value, low, high, int(entry["n"]))
