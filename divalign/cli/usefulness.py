"""`divalign utility`: what a model is still good for, beside how safe it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from divalign.cli.app import app, console, printed, to_file


@app.command()
def utility(
    model: Annotated[str, typer.Argument(help="A folder, a hub id, or 'toy' for the embedded model.")],
    tasks: Annotated[
        str | None, typer.Option(help="lm-eval tasks with commas between (extra 'utility'); else the embedded world's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Documents per lm-eval task.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A LoRA folder to put on the model.")] = None,
    chat_template: Annotated[str | None, typer.Option(help="A jinja file, or 'plain'.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows per forward.", min=1)] = 64,
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of the weights.")] = "float32",
    device: Annotated[str, typer.Option(help="torch device: cpu, cuda, cuda:1, mps.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="JSON file for the numbers.", callback=to_file)] = None,
) -> None:
    """Measure what a model can still do: facts and answers of the embedded world, or lm-eval's tasks."""
    from divalign.store import write_json
    from divalign.study.utility import lm_eval_utility, world_utility
    from divalign.study.writers import Loading, local_writer

    load = local_writer(model, Loading(dtype, device, adapter, chat_template, batch_size)).lm
    if load is None:
        raise ValueError(f"{model!r} is served; utility needs a local model")
    if tasks:
        names = [name.strip() for name in tasks.split(",")]
        found = lm_eval_utility(load(), names, limit=limit, batch_size=batch_size)
    else:
        found = world_utility(load(), batch_size=batch_size)
    table = Table(title="Utility, 95 % intervals", title_justify="left")
    for name in ("number", "estimate", "n"):
        table.add_column(name, justify="left" if name == "number" else "right")
    for name, estimate in found.items():
        interval = "" if estimate.low is None else f" \\[{estimate.low:.3f}, {estimate.high:.3f}]"
        table.add_row(name, f"{estimate.value:.3f}{interval}", str(estimate.n))
    printed().print(table)
    if out is not None:
        write_json(out, {name: estimate._asdict() for name, estimate in found.items()})
        console.print(str(out))
