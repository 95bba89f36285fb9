"""`divalign run` and `divalign report`: the whole loop, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from divalign.cli.app import Overrides, Quiet, app, console, drawn, printed

Config = Annotated[Path | None, typer.Argument(help="YAML configuration; the tour of the embedded world if left out.")]
Out = Annotated[Path, typer.Option(help="Run folder; a run that was stopped there goes on.")]


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
        console.print(results["verdict"]["words"])
        console.print(f"{out / 'results.json'} and {page}")


@app.command()
def report(
    run: Annotated[Path | None, typer.Argument(help="A run folder.")] = None,
    show_completions: Annotated[bool, typer.Option("--show-completions", help="Put model text into the page.")] = False,
    paper: Annotated[bool, typer.Option("--paper", help="Show the paper's 20 points and our test of them.")] = False,
    out: Annotated[Path | None, typer.Option(help="With --paper: write them as a page to this .html file.")] = None,
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
    """Return the final table: every number with its interval, held-in topics first."""
    from divalign.report.words import attack_words

    attacks = list(dict.fromkeys(attack for model in results["models"] for attack in model["asr"]))
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
                *(_percent(part["asr"].get(attack)) for attack in attacks),
                _percent(part["over_refusal"]),
                style="dim" if name else "",
            )
    return table


def _number(estimate: dict) -> str:
    return "undecided" if estimate["value"] is None else f"{estimate['value']:.2f}"


def _percent(rate: dict | None) -> str:
    from divalign.report.words import NOT_MEASURED

    if rate is None:
        return NOT_MEASURED
    if rate["value"] is None:
        return "undecided"
    return f"{100 * rate['value']:.0f} [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"
