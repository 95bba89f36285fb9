"""`divalign utility`: numbers of a model's usefulness, beside its safety."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from divalign.cli import show
from divalign.cli.app import Running, app, print_line, print_table, to_file, with_options


@app.command(epilog="Example: divalign utility toy")
@with_options
def utility(
    model: Annotated[str, typer.Argument(help="toy, a folder, RUN/models/NAME, a hub id.")],
    running: Running,
    tasks: Annotated[
        str | None, typer.Option(help="lm-eval tasks with commas between (extra 'utility'); else the embedded world's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Documents per lm-eval task.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A LoRA folder to put on the model.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the numbers.", callback=to_file)] = None,
) -> None:
    """Measure what a model can still do: facts and answers of the embedded world, or lm-eval's tasks."""
    from divalign.stages.models import find_model
    from divalign.stages.utility import check_embedded, lm_eval_utility, world_utility
    from divalign.store import write_json

    if limit is not None and not tasks:
        raise ValueError("--limit is for the tasks of lm-eval; name them with --tasks, or leave it out")
    lm = find_model(model, running.options(adapter)).lm()
    if tasks:
        names = [name.strip() for name in tasks.split(",")]
        numbers = lm_eval_utility(lm, names, limit=limit, batch_size=running.batch_size)
    else:
        check_embedded(lm)
        numbers = world_utility(lm, batch_size=running.batch_size)
    table = show.table("Utility, 95 % confidence intervals", ["number"], ["estimate", "n"])
    for name, estimate in numbers.items():
        table.add_row(escape(name), show.number(estimate, 3), str(estimate.n))
    print_table(table)
    if out is not None:
        write_json(out, {name: estimate._asdict() for name, estimate in numbers.items()})
        print_line(str(out))
