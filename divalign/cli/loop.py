"""`divalign run` and `divalign report`: the whole loop, and its page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from divalign.cli.app import Overrides, Quiet, app, console, drawn, printed, to_file, to_folder

Config = Annotated[Path | None, typer.Argument(help="YAML configuration; the tour of the embedded world if left out.")]
Out = Annotated[Path, typer.Option(help="Run folder; a run that was stopped there goes on.", callback=to_folder)]


@app.command()
def run(out: Out, config: Config = None, overrides: Overrides = None, quiet: Quiet = False) -> None:
    """Align, measure, attack and report: the whole loop, into a run folder."""
    from divalign.config import load_config
    from divalign.report import write_report
    from divalign.study.pipeline import run as run_pipeline
    from divalign.study.progress import silent

    resolved = load_config(config, overrides or [])
    results = run_pipeline(resolved, out, progress=silent if quiet else drawn)
    page = write_report(out)
    if not quiet:
        printed().print(_table(results))
        for line in _further(results):
            printed().print(line, markup=False, highlight=False)
        console.print(results["verdict"]["words"])
        console.print(f"{out / 'results.json'} and {page}")


@app.command()
def report(
    run: Annotated[Path | None, typer.Argument(help="A run folder.")] = None,
    show_completions: Annotated[bool, typer.Option("--show-completions", help="Put model text into the page.")] = False,
    paper: Annotated[bool, typer.Option("--paper", help="Show the paper's 20 points and our test of them.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --paper: an .html file for the page.", callback=to_file)
    ] = None,
) -> None:
    """Write RUN/report.html from the files of a run folder; with --paper, show what the paper's points say."""
    from divalign.cli.paper import show_paper
    from divalign.report import write_report

    if paper == (run is not None):
        raise ValueError("give a run folder, or --paper for the paper's points; not both")
    if run is None:
        show_paper(out)
    else:
        console.print(str(write_report(run, show_completions=show_completions)))


def _table(results: dict) -> Table:
    """Return the final table: every number with its interval, held-in topics first; see `_further` for the others."""
    from divalign.report.words import attack_words

    attacks = [name for name, models in _met(results).items() if len(models) == len(results["models"])]
    held_out = any("held_out" in model for model in results["models"])
    title = "Attack success and over-refusal in %, with 95 % intervals; D_B in nats"
    leaks = sum(n for kind, n in results.get("overlap", {}).items() if kind not in ("paraphrased", "n"))
    if leaks:
        title += f"\n‡ {leaks} of its prompts are in its training set: these numbers measure memory too"
    table = Table(title=title, title_justify="left")
    for name in ("model", "D_B paper", "probe AUC", *map(attack_words, attacks), "over-refusal"):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=name == "model")
    for model in results["models"]:
        parts = [("", model), *([("  unseen topics", model["held_out"])] if held_out and "held_out" in model else [])]
        for name, part in parts:
            table.add_row(
                name or model["name"] + (" ‡" if leaks and model["method"] else ""),
                _number(part["separation"]["bhattacharyya_paper"]),
                _number(part["separation"]["probe_auc"]),
                *(_percent(part["asr"][attack]) for attack in attacks),
                _percent(part["over_refusal"]),
                style="dim" if name else "",
            )
    return table


def _further(results: dict) -> Iterator[str]:
    """Yield a line for every attack that only some models met; the others were not measured."""
    from divalign.report.words import attack_words

    for attack, models in _met(results).items():
        if len(models) < len(results["models"]):
            rates = [f"{model['name']} {_percent(rate := model['asr'][attack])} of {rate['n']}" for model in models]
            yield f"{attack_words(attack)}: {', '.join(rates)}"


def _met(results: dict) -> dict[str, list[dict]]:
    """Return every attack with the models that met it."""
    names = dict.fromkeys(name for model in results["models"] for name in model["asr"])
    return {name: [model for model in results["models"] if name in model["asr"]] for name in names}


def _number(estimate: dict) -> str:
    return "undecided" if estimate["value"] is None else f"{estimate['value']:.2f}"


def _percent(rate: dict) -> str:
    if rate["value"] is None:
        return "undecided"
    return f"{100 * rate['value']:.0f} [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"
