"""`divalign card`: what was measured of a model, and its limits, for whoever gets the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from divalign.cli.app import app, print_line, printed, to_folder


@app.command(epilog="Example: divalign card runs/tour --model cr-kldo")
def card(
    run: Annotated[Path | None, typer.Argument(help="A run folder.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model of the run; may be repeated. Without: every aligned one.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the card of one model; RUN/models/NAME if left out.", callback=to_folder),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of card.json instead.")] = False,
) -> None:
    """Write card.md, with front matter for the Hub, and card.json of a run's models."""
    from divalign.report.card import card_schema, write_cards

    if schema == (run is not None):
        raise ValueError("give a run folder, or --schema for the schema of card.json; not both")
    if run is None:
        printed().print_json(json.dumps(card_schema()))
        return
    for path in write_cards(run, _front_matter, model or [], out=out):
        print_line(str(path))


def _front_matter(record: Any) -> str:
    """Return the card's metadata as the Hub reads it; the base is named where it is a repository there."""
    from divalign.report.card import HUB_ID
    from divalign.safety.export import model_card

    metadata = {"tags": ["divalign", "safety-evaluation"]}
    if record.base and HUB_ID.fullmatch(record.base):
        metadata = {"base_model": record.base, **metadata}
    judge = next(iter(record.judges), "not recorded")
    numbers = {number.name: number.estimate for number in record.numbers}
    return model_card(record.model, dataset="prompts of this run", judge=judge, numbers=numbers, metadata=metadata)
