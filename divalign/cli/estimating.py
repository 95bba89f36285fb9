"""`divalign estimate`: divergences of data sets and policies, with everything they must be read with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from divalign.cli.app import app, console, drawn, printed, to_file

Names = Annotated[list[str] | None, typer.Option("--divergence", help="A name of DIVERGENCES; may be repeated.")]
Device = Annotated[str, typer.Option(help="torch device: cpu, cuda, cuda:1, mps.")]
HEADLINES = ("js", "tv", "hellinger", "lecam", "kl")


@app.command()
def estimate(
    rows: Annotated[Path, typer.Argument(help="JSON lines: TRL rows; with a second file, the aligned responses.")],
    unaligned: Annotated[Path | None, typer.Argument(help="The unaligned responses, on the same prompts.")] = None,
    features: Annotated[str | None, typer.Option(help="Frozen model whose states a linear critic reads.")] = None,
    policy: Annotated[str | None, typer.Option(help="Trained model: its log-ratios are the critic.")] = None,
    reference: Annotated[str | None, typer.Option(help="The model that the policy started from.")] = None,
    sampled: Annotated[bool, typer.Option("--kl", help="KL(policy, reference) by sampling on the prompts.")] = False,
    divergence: Names = None,
    beta: Annotated[float, typer.Option(help="r = beta log(policy / reference).")] = 0.1,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    samples: Annotated[int, typer.Option(help="Responses per prompt, with --kl.", min=1)] = 4,
    max_new_tokens: Annotated[int, typer.Option(help="Where those responses are cut.", min=1)] = 64,
    max_length: Annotated[int, typer.Option(help="Tokens of prompt and response together.")] = 1024,
    batch_size: Annotated[int, typer.Option(help="Rows per forward.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Of the split, the resampling and the samples.", min=0)] = 0,
    chat_template: Annotated[str | None, typer.Option(help="A jinja file, or 'plain'.")] = None,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of the weights.")] = "float32",
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option(help="JSON file for the numbers.", callback=to_file)] = None,
) -> None:
    """Estimate divergences: of responses by a policy or by a frozen model, or of one policy from another.

    Half of the prompts fit the critic, the other half are measured once. `toy` names the embedded model.
    """
    from divalign.core.divergences import find_divergence
    from divalign.core.measure import Protocol
    from divalign.data.files import load_rows
    from divalign.data.loading import load_training_rows
    from divalign.lm.load import LM, load_lm
    from divalign.store import write_json
    from divalign.study import estimates

    def load(source: str | None, option: str) -> LM:
        if source is None:
            raise ValueError(f"{option} is missing; give --features MODEL, or --policy MODEL --reference MODEL")
        return load_lm(_named(source), dtype=dtype, device=device, chat_template=chat_template)

    if sampled:
        _unread("--kl", {"--features": features, "second file": unaligned, "--divergence": divergence})
    elif features is not None:
        _unread("--features", {"--policy": policy, "--reference": reference})
    if not beta > 0:
        raise ValueError(f"--beta is {beta:g}, expected a number above 0: r = beta log(policy / reference)")
    sizes = estimates.Sizes(max_length, batch_size)
    if sampled:
        prompts = estimates.read_prompts(load_rows(rows))
        models = load(policy, "--policy"), load(reference, "--reference")
        kl = estimates.kl_by_sampling(
            prompts,
            *models,
            samples_per_prompt=samples,
            max_new_tokens=max_new_tokens,
            confidence=confidence,
            seed=seed,
            sizes=sizes,
            progress=drawn,
        )
        found: dict[str, Any] = {"kl": kl._asdict()}
        printed().print(f"KL(policy, reference) = {_number(found['kl'])} nats a response, {kl.n} prompts")
    else:
        content = (
            load_training_rows(rows) if unaligned is None else estimates.labelled(load_rows(rows), load_rows(unaligned))
        )
        protocol = Protocol(confidence=confidence, seed=seed)
        names = divergence or list(HEADLINES)
        for name in names:
            find_divergence(name)
        options: dict[str, Any] = {"sizes": sizes, "protocol": protocol, "progress": drawn}
        if features is not None:
            measured = estimates.from_features(content, load(features, "--features"), names, **options)
        else:
            models = load(policy, "--policy"), load(reference, "--reference")
            measured = estimates.from_policy(content, *models, names, beta=beta, **options)
        found = estimates.as_plain(measured)
        printed().print(_table(found, confidence))
    if out is not None:
        write_json(out, found)
        console.print(str(out))


def _unread(question: str, others: Mapping[str, Any]) -> None:
    for name, value in others.items():
        if value:
            raise ValueError(f"{question} needs no {name}, which would not be read; leave it out")


def _named(source: str) -> str:
    from divalign.toy.world import ASSETS

    return str(ASSETS) if source == "toy" else source


def _table(found: Mapping[str, Mapping[str, Any]], confidence: float) -> Table:
    title = f"Held-out lower bounds in nats, {100 * confidence:g} % intervals; the truth may lie above"
    table = Table(title=title, title_justify="left")
    for name in ("divergence", "estimate", "n", "at least", "at most possible", "ESS", "overfit gap", "shuffled", "p"):
        table.add_column(name, justify="left" if name == "divergence" else "right")
    table.add_column("remarks")
    for name, row in found.items():
        table.add_row(
            name,
            _number(row),
            str(row["n"]),
            "-" if row["lower"] is None else f"{row['lower']:.3f}",
            "-" if row["ceiling"] is None else f"{row['ceiling']:.3f}",
            f"{row['effective_sample_size']:.0f}",
            f"{row['overfit_gap']:+.3f}",
            _number(row["null"]),
            f"{row['p_value']:.3f}",
            ", ".join(row["flags"]),
        )
    return table


def _number(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "not estimable"
    interval = "" if row["low"] is None else f" \\[{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['value']:.3f}{interval}"
