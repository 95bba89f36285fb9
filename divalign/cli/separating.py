"""`divalign separate`: how far apart models hold safe and harmful prompts, layer by layer, before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from divalign.cli.app import Quiet, app, console, drawn, printed, to_folder

Models = Annotated[
    list[str], typer.Argument(help="toy, a folder, a hub id, an adapter, RUN/models/NAME; the first is 'before'.")
]
PromptSet = Annotated[
    str, typer.Option(help="toy, jailbreakbench:FOLDER, xstest:FOLDER, or a file with columns prompt, harmful.")
]
Layers = Annotated[str, typer.Option(help="all, or numbers such as 0,4,-1; 0 are the embeddings.")]
Attacks = Annotated[
    str | None,
    typer.Option("--under-attack", help="Names of ATTACKS, separated by commas; prefills also word by word."),
]
TrainedOn = Annotated[
    list[Path] | None, typer.Option(help="JSON lines of training rows; anchors found in them are refused.")
]

Position = Annotated[
    Literal["both", "all", "instruction", "generation", "response"],
    typer.Option(help="Last token of the instruction, of the generation prompt (both), mean over the response (all)."),
]


@app.command()
def separate(
    models: Models,
    prompts: PromptSet,
    layers: Layers = "all",
    position: Position = "both",
    answer_tokens: Annotated[int, typer.Option(help="Tokens a model answers where anchors have no response.")] = 32,
    under_attack: Attacks = None,
    trained_on: TrainedOn = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for separation.json, its page and hidden states.", callback=to_folder)
    ] = None,
    draws: Annotated[int, typer.Option(help="Bootstrap draws.", min=100)] = 1000,
    seed: Annotated[int, typer.Option(help="Of folds and draws.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Prompts per forward.", min=1)] = 64,
    chat_template: Annotated[str | None, typer.Option(help="A jinja file, or 'plain'.")] = None,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of the weights.")] = "float32",
    device: Annotated[str, typer.Option(help="torch device: cpu, cuda, cuda:1, mps.")] = "cpu",
    quiet: Quiet = False,
) -> None:
    """Measure the separation of hidden states of safe and harmful prompts, with what words and length alone do.

    Exit 2 where anchors stand in the training rows: a model may separate what it has memorised.
    """
    from divalign.data.anchors import seen_in_training
    from divalign.data.files import load_rows
    from divalign.lm.hidden import POSITIONS
    from divalign.report import write_separation
    from divalign.safety.attacks import find_attack
    from divalign.store import write_json
    from divalign.study.cells import Asked
    from divalign.study.named import load_named, short_names
    from divalign.study.progress import silent
    from divalign.study.separate import ALL_POSITIONS, anchors_of, refuse_trained
    from divalign.study.separate import separate as measure

    anchors = anchors_of(prompts)
    for file in trained_on or []:
        refuse_trained(seen_in_training(anchors, load_rows(file)), prompts)
    options: dict[str, Any] = {"dtype": dtype, "device": device, "chat_template": chat_template}
    asked = Asked(
        anchors,
        {"both": POSITIONS, "all": ALL_POSITIONS}.get(position, (position,)),
        _numbers(layers),
        {name: find_attack(name) for name in (under_attack or "").split(",") if name},
        draws,
        seed,
        batch_size,
        answer_tokens,
    )
    loaders = {
        name: lambda source=source: load_named(source, **options)
        for name, source in zip(short_names(models), models, strict=True)
    }
    found = measure(loaders, asked, cache=out / "cache" if out else None, progress=silent if quiet else drawn)
    if not quiet:
        for table in _tables(found):
            printed().print(table)
    if out is not None:
        write_json(out / "separation.json", found)
        console.print(f"{out / 'separation.json'} and {write_separation(out)}")


def _numbers(layers: str) -> list[int] | None:
    if layers == "all":
        return None
    try:
        return [int(word) for word in layers.split(",")]
    except ValueError:
        raise ValueError(f"--layers {layers!r}: expected all, or whole numbers separated by commas") from None


def _tables(found: dict[str, Any]) -> list[Table]:
    tables = [_last_layer(found)]
    if any(model["under_attack"] for model in found["models"]):
        tables.append(_attacked(found["models"]))
    if found["changes"]:
        tables.append(_changes(found["changes"]))
    return tables


def _last_layer(found: dict[str, Any]) -> Table:
    counts, words = found["prompts"], found["baselines"]
    title = f"Last layer, held out: {counts['safe']} safe and {counts['harmful']} harmful prompts; D_B in nats"
    table = Table(title=title, title_justify="left")
    for name in ("model", "position", "D_B", "probe AUC", "words' AUC", "length's AUC", "best layer", "D_B paper"):
        table.add_column(name, justify="left" if name in ("model", "position") else "right")
    table.add_column("remarks")
    for model in found["models"]:
        for position, row in model["last_layer"].items():
            best = model["best_layer"][position]
            table.add_row(
                model["name"],
                position,
                _number(row.get("bhattacharyya")),
                _number(row.get("probe_auc")),
                _number(words["lexical"]),
                _number(words["length"]),
                "-" if best is None else f"{best['layer']}: {_number(best['bhattacharyya'])}",
                _number(row.get("bhattacharyya_paper")),
                ", ".join(row.get("flags") or []) or row["why"],
            )
    return table


def _attacked(models: list[dict[str, Any]]) -> Table:
    table = Table(title="Under attack, last layer, where the model writes next: D_B held out", title_justify="left")
    table.add_column("model")
    names = models[0]["under_attack"]["bhattacharyya"]["by_attack"]
    for name in (*names, "worst", "mean"):
        table.add_column(name, justify="right")
    for model in models:
        row = model["under_attack"]["bhattacharyya"]
        estimates = (*row["by_attack"].values(), row["worst"], row["mean"])
        table.add_row(model["name"], *(_number(one) for one in estimates))
    return table


def _changes(changes: list[dict[str, Any]]) -> Table:
    table = Table(title="After minus before, last layer, on the same prompts", title_justify="left")
    for name in ("after", "before", "position", "D_B", "probe AUC", "silhouette", "cosine"):
        table.add_column(name, justify="right" if name in ("D_B", "probe AUC", "silhouette", "cosine") else "left")
    for row in changes:
        turned = row.get("cosine")
        numbers = (_number(row.get(name)) for name in ("bhattacharyya", "probe_auc", "silhouette"))
        cosine = "-" if turned is None else f"{turned:.2f}"
        table.add_row(row["after"], row["before"], row["position"], *numbers, cosine)
    return table


def _number(row: dict[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "undecided"
    interval = "" if row["low"] is None else f" \\[{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['value']:.2f}{interval}"
