"""`divalign separate`: how far apart models hold safe and harmful prompts, layer by layer, before and after."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from divalign.cli import show
from divalign.cli.app import Quiet, Running, app, print_line, print_table, progress_of, to_folder, with_options

Models = Annotated[
    list[str], typer.Argument(help="toy, a folder, a hub id, an adapter, RUN/models/NAME; the first is 'before'.")
]
PromptSet = Annotated[
    str, typer.Option(help="toy, jailbreakbench:FOLDER, xstest:FOLDER, or a file with columns prompt, harmful.")
]


@dataclass(frozen=True)
class Where:
    """Where states are read, and how they are measured."""

    layers: Annotated[str, typer.Option(help="all, or numbers such as 0,4,-1; 0 are the embeddings.")] = "all"
    position: Annotated[
        Literal["both", "all", "instruction", "generation", "response"],
        typer.Option(
            help="Last token of the instruction, of the generation prompt (both), mean over the response (all)."
        ),
    ] = "both"
    answer_tokens: Annotated[int, typer.Option(help="Tokens a model answers where prompts have no response.")] = 32
    under_attack: Annotated[
        str | None, typer.Option(help="Names of ATTACKS, separated by commas; prefills also word by word.")
    ] = None
    draws: Annotated[int, typer.Option(help="Bootstrap draws.", min=100)] = 1000
    seed: Annotated[int, typer.Option(help="Of folds and draws.", min=0)] = 0

    def plan(self, batch_size: int) -> Any:
        """Return the plan of the separation stage."""
        from divalign.lm.hidden import POSITIONS
        from divalign.safety.attacks import find_single_shot
        from divalign.stages.attack import parse_attacks
        from divalign.stages.hidden import ALL_POSITIONS
        from divalign.stages.layer_separation import SeparationPlan

        return SeparationPlan(
            positions={"both": POSITIONS, "all": ALL_POSITIONS}.get(self.position, (self.position,)),
            layers=_numbers(self.layers),
            attacks={name: find_single_shot(name) for name in parse_attacks([self.under_attack or ""])},
            draws=self.draws,
            seed=self.seed,
            batch_size=batch_size,
            answer_tokens=self.answer_tokens,
        )


@app.command(epilog="Example: divalign separate toy runs/tour/models/cr-kldo --prompts toy --out runs/separate")
@with_options
def separate(
    models: Models,
    prompts: PromptSet,
    where: Where,
    running: Running,
    trained_on: Annotated[
        list[Path] | None, typer.Option(help="JSON lines of training rows; prompts found in them are refused.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for MODEL/separation.json, changes.json, and the page.", callback=to_folder),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure the separation of hidden states of safe and harmful prompts, with what words and length alone do.

    Exit 2 where prompts stand in the training rows: a model may separate what it has memorised.
    """
    from divalign.data.anchors import anchors_in_training
    from divalign.data.files import load_rows
    from divalign.report import write_separation
    from divalign.stages.separate import prompts_of, refuse_trained, separate_models

    rows = prompts_of(prompts)
    for file in trained_on or []:
        refuse_trained(anchors_in_training(rows, load_rows(file)), prompts)
    plan = where.plan(running.batch_size)
    with tempfile.TemporaryDirectory() as scratch:
        folder, progress = out or Path(scratch), progress_of(quiet=quiet)
        records, changes = separate_models(models, rows, plan, folder, options=running.options(), progress=progress)
    if not quiet:
        for table in _tables(records, changes):
            print_table(table)
    if out is not None:
        print_line(f"{out} and {write_separation(out)}")


def _numbers(layers: str) -> list[int] | None:
    if layers == "all":
        return None
    try:
        return [int(word) for word in layers.split(",")]
    except ValueError:
        raise ValueError(f"--layers {layers!r}: expected all, or whole numbers separated by commas") from None


def _tables(records: Sequence[Any], changes: Any) -> list[Table]:
    tables = [_last_layer(records, name) for name in records[0].parts]
    if any(part.under_attack for record in records for part in record.parts.values()):
        tables.append(_attacked(records))
    if changes is not None:
        tables.append(_changes(changes.changes))
    return tables


def _last_layer(records: Sequence[Any], name: str) -> Table:
    counts = records[0].parts[name].prompts
    title = f"Last layer, held out: {counts.safe} safe and {counts.harmful} harmful prompts; D_B in nats"
    heads = ("D_B", "probe AUC", "words' AUC", "length's AUC", "best layer", "D_B paper")
    table = show.table(title, ["model", "position"], heads)
    table.add_column("remarks")
    for record in records:
        part = record.parts[name]
        for position, layer in part.last_layer.items():
            best = part.best_layer.get(position)
            table.add_row(
                escape(record.model),
                position,
                show.number(getattr(layer, "bhattacharyya", None)),
                show.number(getattr(layer, "probe_auc", None)),
                show.number(part.lexical_auc),
                show.number(part.length_auc),
                "-" if best is None else f"{best.layer}: {show.number(best.bhattacharyya)}",
                show.number(getattr(layer, "bhattacharyya_paper", None)),
                ", ".join(getattr(layer, "flags", ())) or getattr(layer, "why", ""),
            )
    return table


def _attacked(records: Sequence[Any]) -> Table:
    rows = [(record.model, next(iter(record.parts.values())).under_attack["bhattacharyya"]) for record in records]
    names = [*map(escape, rows[0][1].by_attack), "worst", "mean"]
    table = show.table("Under attack, last layer, where the model writes next: D_B held out", ["model"], names)
    for name, row in rows:
        estimates = (*row.by_attack.values(), row.worst, row.mean)
        table.add_row(escape(name), *(show.number(estimate) for estimate in estimates))
    return table


def _changes(changes: Sequence[Any]) -> Table:
    title = "After minus before, last layer, on the same prompts"
    table = show.table(title, ["after", "before", "position"], ["D_B", "probe AUC", "silhouette", "cosine"])
    for row in changes:
        numbers = (show.number(estimate) for estimate in (row.bhattacharyya, row.probe_auc, row.silhouette))
        cosine = "-" if row.cosine is None else f"{row.cosine:.2f}"
        table.add_row(escape(row.after), escape(row.before), row.position, *numbers, cosine)
    return table
