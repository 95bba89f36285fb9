"""`divalign run`: the whole loop, into a run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from divalign.cli import show
from divalign.cli.app import (
    Cluster,
    Overrides,
    Quiet,
    Serving,
    app,
    print_line,
    print_table,
    printed,
    progress_of,
    to_folder,
    with_options,
)
from divalign.cli.cost import show_cost

Config = Annotated[Path | None, typer.Argument(help="YAML configuration; the tour of the embedded world if left out.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; a run that was stopped there goes on.", callback=to_folder)]

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what the run will cost in time, memory and disk, and do nothing.")
]


@dataclass(frozen=True)
class Short:
    """Short spellings of the commonest keys."""

    model: Annotated[str | None, typer.Option(help="model.source: toy, a folder, ORG/NAME of the hub.")] = None
    methods: Annotated[str | None, typer.Option(help="train.methods, with commas between.")] = None
    data: Annotated[str | None, typer.Option(help="data.recipes, with commas between.")] = None
    device: Annotated[str | None, typer.Option(help="model.device: cpu, cuda, cuda:1, mps.")] = None

    def overrides(self) -> list[str]:
        """Return these as --set takes them: names as JSON, which YAML reads as they stand, also 'a #b' and 2024."""
        single = {"model.source": self.model, "model.device": self.device}
        lists = {"train.methods": self.methods, "data.recipes": self.data}
        return [f"{key}={json.dumps(value)}" for key, value in single.items() if value is not None] + [
            f"{key}=[{value}]" for key, value in lists.items() if value is not None
        ]


@app.command(
    epilog="Example: divalign run --out runs/tour\n\n"
    "Example: divalign run configs/short.yaml --out runs/short --methods kldo,dpo\n\n"
    "Example: divalign run configs/real.yaml --set train.updates=8 --dry-run"
)
@with_options
def run(
    short: Short,
    serving: Serving,
    cluster: Cluster,
    config: Config = None,
    out: Out = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    dry_run: DryRun = False,
) -> None:
    """Align, measure, attack and report: the whole loop, into a run folder."""
    from divalign.config import load_config
    from divalign.forecast.dry_run import write_cost
    from divalign.report import write_report
    from divalign.stages.provenance import audit_training_sets
    from divalign.stages.rates import changes
    from divalign.study.run import run as run_stages

    resolved = load_config(config, [*short.overrides(), *serving.overrides(), *(overrides or [])])
    if dry_run:
        show_cost(resolved, out or Path())
        return
    if out is None:
        raise typer.BadParameter("name the run folder: --out DIR (only --dry-run goes without)")
    results = run_stages(resolved, out, trainer=cluster.trainer(), progress=progress_of(quiet=quiet))
    write_cost(resolved, out)
    audit_training_sets(out)
    page = write_report(out, changes=changes)
    if not quiet:
        print_table(_table(results))
        for line in _partial_attacks(results):
            printed().print(line, highlight=False)
        print_line(results.verdict.words)
        print_line(f"{out / 'results.json'} and {page}")


def _table(results: Any) -> Table:
    """Return the final table: every number with its interval, topics of the training data first."""
    from divalign.report.words import attack_words

    attacks = [name for name, models in _models_by_attack(results).items() if len(models) == len(results.models)]
    title = "Attack success and over-refusal in %, with 95 % confidence intervals; D_B in nats"
    leaks = sum(n for kind, n in (results.overlap or {}).items() if kind not in ("paraphrased", "n"))
    if leaks:
        title += f"\n‡ {leaks} of its prompts are in its training set: these numbers measure memory too"
    heads = [escape(attack_words(name)) for name in attacks]
    table = show.table(title, ["model"], ["D_B paper", "probe AUC", *heads, "over-refusal"])
    for model in results.models:
        parts = [("", model), *([("  held-out topics", model.held_out)] if model.held_out else [])]
        for name, part in parts:
            table.add_row(
                name or escape(model.name) + (" ‡" if leaks and model.method else ""),
                _value(part.separation.bhattacharyya_paper),
                _value(part.separation.probe_auc),
                *(show.percent(part.asr[attack], digits=0, n=False) for attack in attacks),
                show.percent(part.over_refusal, digits=0, n=False),
                style="dim" if name else "",
            )
    return table


def _partial_attacks(results: Any) -> Iterator[str]:
    """Yield a line for every attack that only some models met; the others were not measured."""
    from divalign.report.words import attack_words

    for attack, models in _models_by_attack(results).items():
        if len(models) < len(results.models):
            rates = [f"{escape(model.name)} {show.percent(model.asr[attack], digits=0)}" for model in models]
            yield f"{escape(attack_words(attack))}: {', '.join(rates)}"


def _models_by_attack(results: Any) -> dict[str, list[Any]]:
    """Return every attack with the models that met it."""
    names = dict.fromkeys(name for model in results.models for name in model.asr)
    return {name: [model for model in results.models if name in model.asr] for name in names}


def _value(estimate: Any) -> str:
    return "undecided" if estimate.value is None else f"{estimate.value:.2f}"
