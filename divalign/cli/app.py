"""What the verbs share: the application, the console, option groups, and the progress display."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import partial
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from divalign.cli.lines import progress_lines
from divalign.cli.show import fitted
from divalign.cli.visible import VisibleConsole, visible

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="The verbs: `divalign VERB --help` says what each takes. Exit 0 done, 1 the run failed, 2 bad input.",
)
console = VisibleConsole(stderr=True, markup=False)  # file names and errors may hold brackets
DEBUG = "--debug"
START = """\
divalign {version}: align a language model, and measure what alignment did.

Where to start:
  divalign doctor                             check this machine
  divalign run --out runs/tour                the whole loop on an embedded model; then open runs/tour/report.html
  divalign init --model MODEL > mine.yaml     a configuration for a model of your own, every key explained
  divalign run mine.yaml --out runs/mine      run it; --dry-run says before what it costs
  divalign --help                             all verbs
"""


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error; before a verb or behind it.")] = (
        False
    ),
) -> None:
    """List the option that `main` reads."""


Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config.")
]
On = Annotated[
    str | None,
    typer.Option("--on", metavar="ray[://HOST]", help="Work on a Ray cluster: RAY_ADDRESS's or one here; or a head's."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


@dataclass(frozen=True)
class Loading:
    """How a local model is loaded."""

    chat_template: Annotated[
        str | None, typer.Option(help="A jinja file, or 'plain', in place of the tokenizer's own.")
    ] = None
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None,
        typer.Option(help="Type of the weights; the model folder's own, else what the hardware computes in."),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(help="torch device: cpu, cuda, cuda:1, mps; the model folder's own, else the best there is."),
    ] = None
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the model's repository; only if you read it.")
    ] = False

    def options(self, adapter: Path | None = None) -> Any:
        """Return these as `stages.models.LoadOptions`."""
        from divalign.stages.models import LoadOptions

        return LoadOptions(self.dtype, self.device, adapter, self.chat_template, self.trust_remote_code)


@dataclass(frozen=True)
class Running(Loading):
    """How a local model is loaded and run."""

    batch_size: Annotated[int, typer.Option(help="Rows per forward.", min=1)] = 64


@dataclass(frozen=True)
class Serving:
    """How models on servers are called; options that are left out are those of `lm.endpoint.ServerOptions`."""

    system_prompt: Annotated[
        str | None, typer.Option(help="Text, or its file, before every conversation with a served model.")
    ] = None
    temperature: Annotated[
        str | None, typer.Option(help="Of a served model; 'server' for the server's own. Default: 0, greedy.")
    ] = None
    concurrency: Annotated[
        int | None, typer.Option(help="Requests under way at each server at a time. Default: 16.", min=1)
    ] = None
    timeout: Annotated[
        float | None, typer.Option(help="Seconds for a request, from connecting to the end of its reply. Default: 120.")
    ] = None
    retries: Annotated[
        int | None, typer.Option(help="Requests after one that failed, before the next server. Default: 5.", min=0)
    ] = None

    def server(self) -> Any:
        """Return these as `lm.endpoint.ServerOptions`, None where none is given."""
        from divalign.stages.serving import server_options

        return server_options(**self._values())

    def overrides(self) -> list[str]:
        """Return these as --set takes them, JSON being YAML."""
        values = {name: value for name, value in self._values().items() if value is not None}
        return [f"measure.server.{name}={json.dumps(value)}" for name, value in values.items()]

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(Serving)}


@dataclass(frozen=True)
class Cluster:
    """Where models are trained."""

    on: On = None
    workers: Annotated[
        int, typer.Option(help="With --on: processes of Ray Train for each training, with a GPU each if any.", min=1)
    ] = 1

    def trainer(self) -> Any:
        """Return what trains. Raises ValueError for workers without a cluster."""
        from divalign.stages.train import train

        if self.on is None:
            if self.workers > 1:
                raise ValueError(f"--workers {self.workers} needs --on ray; or use accelerate launch")
            return train
        from divalign.cluster.on_ray import on_cluster

        return on_cluster(self.on, self.workers)


def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a verb in which a parameter annotated with a dataclass stands for that class's fields, as options.

    Typer reads one option from each parameter; so groups of options are classes, and no verb takes twenty parameters.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters: list[Parameter] = []
    for name, parameter in signature(function).parameters.items():
        if name in groups:
            parameters += _parameters_of(groups[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY))

    def verb(**values: Any) -> Any:
        grouped = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        return function(**values, **grouped)

    verb.__name__, verb.__doc__, verb.__module__ = function.__name__, function.__doc__, function.__module__
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    verb.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return verb


def _parameters_of(kind: Any) -> list[Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]


def to_file(path: Path | None) -> Path | None:
    """Return the file that an option says to write; refuse it before the work where it cannot be written."""
    if path is not None:
        if path.is_dir():
            raise typer.BadParameter(f"{path} is a folder, expected a file to write")
        to_folder(path.parent)
    return path


def to_folder(path: Path | None) -> Path | None:
    """Return the folder that an option says to write into; refuse it before the work where it cannot be made."""
    if path is not None:
        existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if not existing.is_dir():
            raise typer.BadParameter(f"{existing} is a file, expected a folder to write {path} into")
        if not os.access(existing, os.W_OK):
            raise typer.BadParameter(f"nothing can be written into {existing}; name another place")
    return path


def printed() -> Console:
    """Return the console of results: stdout, and wide where nobody watches, so that no name is cut."""
    plain = VisibleConsole()
    return plain if plain.is_terminal else VisibleConsole(width=160)


def print_line(text: str | Text) -> None:
    """Print a line to stderr as it stands: unwrapped, so that no path is broken, and with its brackets."""
    console.print(text, highlight=False, soft_wrap=True)


def print_table(content: Table) -> None:
    """Print a table of results, or its rows as paragraphs where the terminal is too narrow for it."""
    console = printed()
    console.print(fitted(content, console))


@contextmanager
def progress_bar(stage: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show a stage with its rate and the time left."""
    columns = (
        TextColumn("{task.description:<34}", markup=False),  # a model may be named as a folder
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(visible(stage), total=total, unit=unit, rate="")

        def advance(done: int) -> None:
            progress.advance(task, done)
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
            progress.update(task, rate=f"{speed:,.1f}/s" if speed else "")

        yield advance


def progress_of(*, quiet: bool) -> Any:
    """Return the progress display: bars on a terminal, plain lines on any other stderr, or none."""
    from divalign.stages.folder import silent

    if quiet:
        return silent
    return progress_bar if console.is_terminal else partial(progress_lines, write=_write_line)


def _write_line(text: str) -> None:
    """Write one line with the time of day to stderr, at once and unwrapped."""
    typer.echo(f"{time.strftime('%H:%M:%S')} {visible(text)}", err=True)
