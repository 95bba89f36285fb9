"""`divalign estimate`: divergences of data sets and policies, with everything they must be read with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from divalign.cli import show
from divalign.cli.app import Running, app, print_line, print_table, printed, progress_of, to_file, with_options


@dataclass(frozen=True)
class Critic:
    """Whose numbers tell the two sets of responses apart."""

    features: Annotated[str | None, typer.Option(help="Frozen model whose states a linear critic reads.")] = None
    policy: Annotated[str | None, typer.Option(help="Trained model: its log-ratios are the critic.")] = None
    reference: Annotated[str | None, typer.Option(help="The model that the policy started from.")] = None
    sampled: Annotated[bool, typer.Option("--kl", help="KL(policy, reference) by sampling on the prompts.")] = False
    beta: Annotated[
        float | None, typer.Option(help="r = beta log(policy / reference); else that of its training, or 0.1.")
    ] = None


@dataclass(frozen=True)
class Numbers:
    """Which numbers, and how."""

    divergence: Annotated[
        list[str] | None, typer.Option("--divergence", help="A name of DIVERGENCES; may be repeated.")
    ] = None
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95
    whole: Annotated[
        bool, typer.Option("--whole", help="Measure every row, fitting no shift on half of the prompts.")
    ] = False
    samples: Annotated[int, typer.Option(help="Responses per prompt, with --kl.", min=1)] = 4
    max_new_tokens: Annotated[int, typer.Option(help="Where those responses are cut.", min=1)] = 64
    max_length: Annotated[int, typer.Option(help="Tokens of prompt and response together.")] = 1024
    seed: Annotated[int, typer.Option(help="Of the split, the resampling and the samples.", min=0)] = 0


@app.command(
    epilog="Example: divalign estimate runs/tour/data/cr-test.jsonl --policy runs/tour/models/cr-kldo --reference toy"
)
@with_options
def estimate(
    rows: Annotated[Path, typer.Argument(help="JSON lines: TRL rows; with a second file, the aligned responses.")],
    critic: Critic,
    numbers: Numbers,
    running: Running,
    unaligned: Annotated[Path | None, typer.Argument(help="The unaligned responses, on the same prompts.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the numbers.", callback=to_file)] = None,
) -> None:
    """Estimate divergences: of responses by a policy or by a frozen model, or of one policy from another.

    Half of the prompts fit the critic, the other half are measured once. `toy` names the embedded model.
    """
    from divalign.data.files import load_rows
    from divalign.data.loading import load_training_rows
    from divalign.stages.estimate import labelled

    _refuse_unread(critic, numbers, unaligned)
    if critic.sampled:
        _kl(load_rows(rows), critic, numbers, running, out)
        return
    content = load_training_rows(rows) if unaligned is None else labelled(load_rows(rows), load_rows(unaligned))
    _divergences(content, critic, numbers, running, out)


def _kl(rows: list[dict[str, Any]], critic: Critic, numbers: Numbers, running: Running, out: Path | None) -> None:
    from divalign.stages.sampled_kl import SamplingPlan, kl_by_sampling, unique_prompts
    from divalign.store import write_json

    plan = SamplingPlan(numbers.samples, numbers.max_new_tokens, numbers.confidence, numbers.seed, running.batch_size)
    models = _model(critic.policy, "--policy", running), _model(critic.reference, "--reference", running)
    kl = kl_by_sampling(unique_prompts(rows), *models, plan, progress=progress_of(quiet=False))
    printed().print(f"KL(policy, reference) = {show.number(kl, 3)} nats a response, {kl.n} prompts")
    if out is not None:
        write_json(out, {"kl": kl._asdict()})
        print_line(str(out))


def _divergences(
    rows: list[dict[str, Any]], critic: Critic, numbers: Numbers, running: Running, out: Path | None
) -> None:
    from divalign.core.measure import MeasurementPlan
    from divalign.stages.estimate import HEADLINES, EstimatePlan, from_features, from_policy, trained_beta
    from divalign.store import write_json

    plan = EstimatePlan(
        divergences=numbers.divergence or HEADLINES,
        split=not numbers.whole,
        measurement=MeasurementPlan(confidence=numbers.confidence, seed=numbers.seed),
        max_length=numbers.max_length,
        batch_size=running.batch_size,
    )
    progress = progress_of(quiet=False)
    if critic.features is not None:
        record = from_features(rows, _model(critic.features, "--features", running), plan, progress=progress)
    else:
        policy, reference = _model(critic.policy, "--policy", running), _model(critic.reference, "--reference", running)
        trained = trained_beta(policy) if critic.beta is None else None
        beta = next(value for value in (critic.beta, trained, plan.beta) if value is not None)
        record = from_policy(rows, policy, reference, replace(plan, beta=beta), progress=progress)
        whose = "" if trained is None else ", the beta of its training"
        printed().print(f"r = {beta:g} log(policy / reference){whose}")
    print_table(_table(record.divergences, numbers.confidence))
    if record.of_pairs is not None:
        printed().print("Pairs against the same pairs swapped, by r(aligned) - r(unaligned):")
        print_table(_table(record.of_pairs, numbers.confidence))
    if record.with_baseline is not None:
        printed().print("The same by r + b(x), with the baseline of the prompt that the policy was trained with:")
        print_table(_table(record.with_baseline, numbers.confidence))
    if out is not None:
        write_json(out, record.plain())
        print_line(str(out))


def _model(spelling: str | None, option: str, running: Running) -> Any:
    from divalign.stages.models import find_model

    if spelling is None:
        raise ValueError(f"{option} is missing; give --features MODEL, or --policy MODEL --reference MODEL")
    return find_model(spelling, running.options())


def _refuse_unread(critic: Critic, numbers: Numbers, unaligned: Path | None) -> None:
    """Raise ValueError for an option that the question asked does not read."""
    unread: dict[str, dict[str, Any]] = {
        "--kl": {
            "--features": critic.features, "second file": unaligned, "--divergence": numbers.divergence,
            "--whole": numbers.whole, "--beta": critic.beta,
        },
        "--features": {
            "--policy": critic.policy, "--reference": critic.reference, "--whole": numbers.whole, "--beta": critic.beta,
        },
    }  # fmt: skip
    question = "--kl" if critic.sampled else "--features" if critic.features is not None else ""
    for name, value in unread.get(question, {}).items():
        if value is not None and value is not False:  # 0 is a value that is given
            raise ValueError(f"{question} needs no {name}, which would not be read; leave it out")


def _table(records: Mapping[str, Any], confidence: float) -> Table:
    title = f"Held-out lower bounds in nats, {100 * confidence:g} % confidence intervals; the truth may lie above"
    heads = ("estimate", "n", "at least", "at most possible", "ESS", "overfit gap", "shuffled", "p")
    table = show.table(title, ["divergence"], heads)
    table.add_column("remarks")
    for name, row in records.items():
        table.add_row(
            name,
            show.number(row.estimate, 3, undecided="not estimable"),
            str(row.estimate.n),
            _or_dash(row.lower, ".3f"),
            _or_dash(row.ceiling, ".3f"),
            f"{row.effective_sample_size:.0f}",
            _or_dash(row.overfit_gap, "+.3f"),
            "-" if row.null is None else show.number(row.null, 3),
            _or_dash(row.p_value, ".3f"),
            ", ".join(row.flags),
        )
    return table


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
