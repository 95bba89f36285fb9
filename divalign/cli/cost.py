"""`--dry-run` of `divalign run` and `divalign sweep`: what runs will cost, in numbers that can be added up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from divalign.cli import show
from divalign.cli.app import printed
from divalign.cli.lines import duration

GIGA = 1e9


def show_cost(config: Any, out: Path) -> None:
    """Print stages, rows, tokens, operations and time, then each model's time, memory and disk, and warnings."""
    from divalign.forecast.dry_run import HOUR, dry_run, remedies
    from divalign.stages.open_judge import judge_model

    cost = dry_run(config, out)
    console = printed()
    console.print(_stages(cost))
    console.print(_models(cost))
    lines = [
        f"in all {duration(cost.total)}, at {cost.machine.rate / GIGA:,.0f} GFLOP/s of matrix products measured now; "
        "for a machine that does nothing else; within 30 % on the tour, where it was fitted",
        f"memory {cost.memory.most / GIGA:.1f} GB at most ({cost.memory.training / GIGA:.1f} in training, "
        f"{cost.memory.measuring / GIGA:.1f} in measuring), {cost.machine.memory / GIGA:.1f} GB free; "
        f"disk {cost.disk / GIGA:.2f} GB, {cost.machine.disk / GIGA:.1f} GB free",
        *_shortages(cost),
    ]
    if judge_model(config.measure.judge):
        lines.append(f"not counted: the judge {config.measure.judge}, a model that reads every response")
    if cost.total > HOUR:
        saved = "; ".join(f"--set '{text}' saves {duration(less)}" for text, less in remedies(config, cost))
        lines.append(f"warning: this takes over an hour. What shortens it most: {saved}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _stages(cost: Any) -> Any:
    table = show.table("Stages, over all models", ["stage"], ["models", "rows", "tokens", "TFLOP", "time"])
    for stage, spent in cost.by("stage").items():
        jobs = [job for job in cost.jobs if job.stage == stage]
        sums = [sum(getattr(job, field) for job in jobs) for field in ("rows", "tokens", "operations")]
        models = len({job.model for job in jobs})
        table.add_row(stage, str(models), f"{sums[0]:,}", f"{sums[1]:,.0f}", f"{sums[2] / 1e12:,.2f}", duration(spent))
    return table


def _models(cost: Any) -> Any:
    table = show.table("Time of each model", ["model"], ["time"])
    for model, spent in cost.by("model").items():
        table.add_row(model, duration(spent))
    return table


def _shortages(cost: Any) -> list[str]:
    """Return a warning for memory and for disk where there is not enough."""
    needs = {"memory": (cost.memory.most, cost.machine.memory), "disk": (cost.disk, cost.machine.disk)}
    advice = {
        "memory": "lower train.pairs_per_batch or measure.batch_size, train an adapter (train.lora), "
        "and with one set model.dtype to bfloat16",
        "disk": "train an adapter (train.lora), or choose an --out with more room",
    }
    return [
        f"warning: not enough {name}: {need / GIGA:.1f} GB needed, {free / GIGA:.1f} GB free; {advice[name]}"
        for name, (need, free) in needs.items()
        if need > free
    ]


def show_gpu_cost(plan: Any, name: str) -> None:
    """Print what each run of a sweep costs on a GPU, as a table that Markdown reads."""
    from divalign.forecast.gpu_forecast import forecast_runs
    from divalign.stages.gpu_cost import find_gpu
    from divalign.study.sweep_config import planned_runs

    gpu, console = find_gpu(name), printed()
    costs = forecast_runs(planned_runs(plan), gpu)
    names = ("run", "models", "steps", "tokens", "PFLOP", "GB a GPU", "GPU-hours")
    sums = [sum(each) for each in zip(*(_figures(cost) for cost in costs), strict=True)]
    whole = [*sums[:4], max(cost.memory for cost in costs), sums[5]]
    lines = [
        f"| {' | '.join(names)} |",
        "|---" + "|---:" * (len(names) - 1) + "|",
        *(_line(cost.run, _figures(cost)) for cost in costs),
        _line("all", whole),
        *(f"warning: not enough memory on {gpu.name} for {c.run}" for c in costs if c.memory > gpu.memory),
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _figures(cost: Any) -> Sequence[int | float]:
    return cost.models, cost.updates, cost.tokens, cost.operations, cost.memory, cost.gpu_hours


def _line(run: str, figures: Sequence[int | float]) -> str:
    models, updates, tokens, operations, memory, hours = figures
    cells = f"{models} | {updates:,} | {tokens / 1e6:.1f} M | {operations / 1e15:,.0f}"
    return f"| {run} | {cells} | {memory / GIGA:.0f} | {hours:.1f} |"
