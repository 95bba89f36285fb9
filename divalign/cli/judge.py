"""`divalign judge`: verdicts on the responses of an attack folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from divalign.cli import show
from divalign.cli.app import Loading, Quiet, Serving, app, print_line, printed, to_file, to_folder, with_options

MOST = 20  # disagreements shown; rates.json lists all


@dataclass(frozen=True)
class ErrorRates:
    """A judge's error rates: measured on labelled responses, or given as counts."""

    labelled: Annotated[
        Path | None, typer.Option(help="Rows with prompt, response, refused: corrects each judge's rates.")
    ] = None
    sensitivity: Annotated[str | None, typer.Option(help="The judge's, as counts: 84/100.")] = None
    specificity: Annotated[str | None, typer.Option(help="The judge's, as counts: 38/100.")] = None

    def errors(self) -> Any:
        """Return the judge's errors, None where they were not given. Raises ValueError for one without the other."""
        from divalign.records import JudgeErrors

        if (self.sensitivity is None) != (self.specificity is None):
            raise ValueError("a correction needs both --sensitivity and --specificity, as counts such as 84/100")
        if not (self.sensitivity and self.specificity):
            return None
        return JudgeErrors(sensitivity=_counts(self.sensitivity), specificity=_counts(self.specificity))


@dataclass(frozen=True)
class Judges:
    """Which judges, and the questions of rubrics that come without one."""

    judges: Annotated[
        list[str] | None,
        typer.Option(
            "--judge", help="A name of JUDGES, RUBRIC@MODEL (as of attack), or RUBRIC@http://host:8000/v1#NAME; repeat."
        ),
    ] = None
    question: Annotated[
        list[str] | None,
        typer.Option(help="FILE with the question of a rubric without one; RUBRIC=FILE, repeated, for several."),
    ] = None
    wordings: Annotated[
        int | None, typer.Option(help="Ask rubrics in N wordings and both orders: the spread of each rate.", min=1)
    ] = None


@dataclass(frozen=True)
class JudgeModels(Loading, Serving):
    """How the models behind judges are loaded, or called."""


@dataclass(frozen=True)
class Exports:
    """Files for other tools."""

    csv: Annotated[Path | None, typer.Option(help="CSV file for the verdicts.", callback=to_file)] = None
    card: Annotated[
        Path | None, typer.Option(help="Write the rates as front matter of a model card.", callback=to_file)
    ] = None
    inspect_log: Annotated[
        Path | None, typer.Option(help="Write an inspect_ai .eval log (extra 'inspect').", callback=to_file)
    ] = None
    show_completions: Annotated[bool, typer.Option("--show-completions", help="Do not redact model text.")] = False


@app.command(epilog="Example: divalign judge runs/attack --judge refusal_combined --judge refusal_strings")
@with_options
def judge(
    folder: Annotated[Path, typer.Argument(help="A folder of `divalign attack`, or RUN/models/NAME of a run.")],
    judges: Judges,
    error_rates: ErrorRates,
    exports: Exports,
    models: JudgeModels,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the verdicts; FOLDER if left out.", callback=to_folder)
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="Another such folder: what changed from it to this one.")] = None,
    quiet: Quiet = False,
) -> None:
    """Judge the responses of an attack folder; several judges are compared, another folder is tested against.

    Nothing is generated, except the answers of judges that are models, and those only once. Verdicts of other judges
    in the folder stay.
    """
    from divalign.data.loading import load_labelled
    from divalign.safety.judges import DEFAULT_JUDGE
    from divalign.stages.export import export
    from divalign.stages.judge import JudgePlan
    from divalign.stages.judge import judge as run_stage
    from divalign.stages.open_judge import is_served, parse_questions
    from divalign.stages.serving import check_served

    names, server = judges.judges or [DEFAULT_JUDGE], models.server()
    check_served(server, [is_served(name) for name in names])
    plan = JudgePlan(
        names=names,
        questions=parse_questions(judges.question or []),
        labelled=load_labelled(error_rates.labelled) if error_rates.labelled else None,
        errors=error_rates.errors(),
        options=replace(models.options(), server=server),
        wordings=judges.wordings,
    )
    judged = run_stage(folder, plan, out or folder, compare=compare)
    export(judged, exports.csv, exports.card, exports.inspect_log, show_completions=exports.show_completions)
    if not quiet:
        _show(judged, printed(), show_completions=exports.show_completions)
        print_line(str((out or folder) / "rates.json"))


def _counts(text: str) -> Any:
    from divalign.core.stats import rate

    yes, _, n = text.partition("/")
    if not (yes.isdecimal() and n.isdecimal() and int(n) > 0 and int(yes) <= int(n)):
        raise ValueError(f"got {text!r}, expected counts such as 84/100: how often the judge was right, of how many")
    return rate([True] * int(yes) + [False] * (int(n) - int(yes)))


def _show(judged: Any, console: Console, *, show_completions: bool) -> None:
    for entry in judged.rates.judges:
        for name, part in entry.parts.items():
            console.print(_rates(entry, name, part))
            console.print(_sides(entry, part))
        if entry.protocol:
            console.print(_protocol(entry.protocol))
    for pair in judged.rates.agreement:
        console.print(_agreement(pair))
        for line in _disagreements(pair, judged.verdicts, show_completions=show_completions):
            console.print(escape(line), highlight=False)
    for comparison in judged.changes.comparisons if judged.changes else []:
        console.print(_changes(comparison))


def _rates(entry: Any, name: str, part: Any) -> Table:
    where = " on held-out topics" if name == "held_out" else ""
    spreads, corrected = (entry.wordings or {}).get(name), ["corrected"] if entry.errors else []
    title = f"Attack success in % by {entry.judge}{where}, 95 % confidence intervals; smaller is safer"
    table = show.table(
        title, ["attack"], ["success", *(("by wording",) if spreads else ()), "no refusal", "undecided", *corrected]
    )
    for attack, row in part.attacks.items():
        cells = [escape(attack), show.percent(row.asr), *([_spread(spreads[attack])] if spreads else [])]
        cells += [show.percent(row.asr_no_refusal), str(row.undecided)]
        cells += [show.percent(row.corrected, missing="none exists")] if entry.errors else []
        table.add_row(*cells)
    return table


def _spread(spread: Any) -> str:
    """Return the lowest and highest rate over the wordings, and the share of responses that all judge alike."""
    if spread.low is None:
        return "undecided"
    return f"{100 * spread.low:.3g} to {100 * spread.high:.3g}, alike {show.percent(spread.unanimous)}"


def _sides(entry: Any, part: Any) -> str:
    named = (("over-refusal", part.over_refusal), ("refusal of harmful minus refusal of benign", part.selectivity))
    parts = [f"{name} {show.percent(rate)}" for name, rate in named if rate]
    parts.append(f"{entry.addressed} of {entry.responses} responses address their judge")
    if entry.errors:
        errors = (("sensitivity", entry.errors.sensitivity), ("specificity", entry.errors.specificity))
        parts.append("judge's errors: " + ", ".join(f"{name} {show.percent(rate)}" for name, rate in errors))
        parts += [escape(entry.errors.warning)] if entry.errors.warning else []
    return "; ".join(parts)


def _protocol(rates: Any) -> Table:
    numbers = list(dict.fromkeys(name for group in rates.attacks.values() for name in group))
    table = show.table(f"By the protocol's own rule: {rates.protocol}", ["attack"], numbers)
    for attack, group in rates.attacks.items():
        table.add_row(escape(attack), *(show.number(group[name], 3) if name in group else "-" for name in numbers))
    return table


def _agreement(pair: Any) -> Table:
    first, second = pair.judges
    kappa = "no kappa: neither varies" if pair.kappa.value is None else f"kappa {show.number(pair.kappa, 3)}"
    title = f"{escape(first)} (rows) and {escape(second)}: {kappa}, same verdict {show.percent(pair.observed)}"
    words = list(pair.confusion)
    table = show.table(title, [""], words)
    for word in words:
        table.add_row(word, *(str(pair.confusion[word][other]) for other in words))
    return table


def _disagreements(pair: Any, verdicts: Sequence[Sequence[Mapping[str, Any]]], *, show_completions: bool) -> list[str]:
    from divalign.safety.export import redact
    from divalign.safety.shield import disarm

    if not pair.disagreements:
        return []
    texts = {(row["attack"], _id(row)): row["response"] for row in verdicts[0]}
    lines = [f"They differ on {len(pair.disagreements)}, the first {MOST} at most:"]
    for attack, name in pair.disagreements[:MOST]:
        text = texts[attack, name]
        shown = disarm(text).replace("\n", "\\n") if show_completions else redact(text)
        lines.append(f"  {attack} {name}: {shown}")
    return lines


def _id(row: Mapping[str, Any]) -> str:
    return f"{row['id']} try {row['try']}" if "try" in row else row["id"]


def _changes(comparison: Any) -> Table:
    clustered = any(row.clusters for row in comparison.changes.values())
    title = (
        f"What changed from {escape(comparison.before)} by {escape(comparison.judge)}, in percentage points, "
        "same prompts"
    )
    p_value = "p, exact by cluster" if clustered else "p, exact McNemar"
    table = show.table(title, ["rate"], ["change", p_value, "p, Holm"])
    for name, row in comparison.changes.items():
        table.add_row(escape(name), show.percent(row.change), f"{row.p_value:.2g}", f"{row.p_holm:.2g}")
    return table
