"""`divalign report`: the page of a run, and what the paper's points say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from divalign.cli.app import app, print_line, printed, to_file


@app.command(epilog="Example: divalign report runs/tour\n\nExample: divalign report --paper")
def report(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="A run folder; several in the order of versions are compared.")
    ] = None,
    show_completions: Annotated[bool, typer.Option("--show-completions", help="Put model text into the page.")] = False,
    methods: Annotated[
        Path | None,
        typer.Option(help="A .md file: what each method is, what it cost and did in the run.", callback=to_file),
    ] = None,
    claims: Annotated[
        Path | None,
        typer.Option(help="A .md file: what a sweep says about the paper's three claims.", callback=to_file),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Show the paper's 20 points and our test of them.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --paper or several runs: an .html file for the page.", callback=to_file)
    ] = None,
) -> None:
    """Write RUN/report.html from the files of a run folder.

    Several runs are compared on one page, LAST/comparison.html: what changed, tested by prompt. With --paper, show
    what the paper's points say. With --methods the run's methods are compared on a page of Markdown instead; without
    RUN it says what they are. With --claims, RUN is the folder of a sweep.
    """
    if claims is not None and (methods is not None or show_completions or out is not None):
        raise ValueError("--claims writes one page, to the file that it names: leave --methods, --out and the rest out")
    if paper == bool(runs or methods is not None):
        raise ValueError("give a run folder, or --paper for the paper's points; not both")
    if out is not None and runs and len(runs) == 1:
        raise ValueError(f"--out is for --paper and for several runs; the page of one is {runs[0]}/report.html")
    if show_completions and len(runs or []) != 1:
        raise ValueError("--show-completions is for the page of one run; the other pages show no model text")
    if claims is not None:
        print_line(str(_claims_page(runs or [], claims)))
    elif methods is not None:
        print_line(str(_methods_page(runs or [], methods)))
    elif not runs:
        _show_paper(out)
    elif len(runs) > 1:
        print_line(str(_compare(runs, out)))
    else:
        print_line(str(_write_page(runs[0], show_completions=show_completions)))


def _methods_page(runs: list[Path], methods: Path) -> Path:
    from divalign.report import write_methods_page

    if len(runs) > 1:
        raise ValueError(f"--methods compares the methods of one run, got {len(runs)}")
    return write_methods_page(runs[0] if runs else None, methods)


def _claims_page(sweeps: list[Path], path: Path) -> Path:
    from divalign.report.claims_page import PRIMARY, write_claims_page
    from divalign.study.sweep_verdict import INDICATORS, points
    from divalign.study.verdict import power_at

    if len(sweeps) != 1:
        raise ValueError(f"--claims reads the folder of one sweep, got {len(sweeps)}")
    primary = next(indicator for indicator in INDICATORS if indicator.name == PRIMARY)
    return write_claims_page(sweeps[0], path, lambda models, rho: power_at(points(models, primary), rho))


def _write_page(run: Path, *, show_completions: bool) -> Path:
    """Write a run's page, and before it the audits of its training sets where they are missing."""
    from divalign.report import write_report
    from divalign.report.reading import read_results
    from divalign.stages.provenance import audit_training_sets
    from divalign.stages.rates import changes

    read_results(run)  # a folder that is no run is left alone
    audit_training_sets(run)
    return write_report(run, show_completions=show_completions, changes=changes)


def _compare(runs: list[Path], out: Path | None) -> Path:
    from divalign.report.comparison import write_comparison
    from divalign.stages.rates import changes

    return write_comparison(runs, out, changes)


def _show_paper(out: Path | None) -> None:
    """Print the paper's statistics and our conclusions; write them as a page where `out` is given."""
    from divalign.study.paper import IN_SHORT, paper_evidence

    statistics, conclusions = _read(paper_evidence())
    table = Table(title="The paper's 20 points: distance against attack success", title_justify="left")
    for name in ("statistic", "value", "p", "says"):
        table.add_column(name, justify="right" if name in ("value", "p") else "left")
    for statistic in statistics:
        value, p_value = statistic.tested.estimate.value, statistic.tested.p_value
        table.add_row(statistic.name, f"{statistic.symbol} = {value:+.3f}", f"{p_value:.3f}", statistic.says)
    printed().print(table)
    for conclusion in conclusions:
        printed().print(f"{conclusion.name}: {conclusion.words}", highlight=False)
    printed().print(IN_SHORT, highlight=False)
    if out is not None:
        _write(out, statistics, conclusions)
        print_line(str(out))


def _read(evidence: Any) -> tuple[list[Any], list[Any]]:
    """Say in words what each number is and what follows from it."""
    from divalign.report.paper_page import Conclusion, Statistic
    from divalign.study.verdict import in_words

    statistics = [
        Statistic(
            "pooled, as published",
            "r",
            evidence.pooled_z,
            "log distance falls with success standardised within bases; 20 models count as 20 experiments",
        ),
        Statistic(
            "with fixed effects of the base",
            "r",
            evidence.within_bases,
            "the same within bases: the link is no artefact of pooling",
        ),
        Statistic(
            "ranks of raw numbers",
            "rho",
            evidence.ranks,
            "over all bases nothing is left of it: a distance on one base does not compare with one on another",
        ),
    ]
    conclusions = [
        Conclusion("The four methods as units", in_words(evidence.by_method)),
        Conclusion("If all 20 models were independent", in_words(evidence.by_model)),
    ]
    return statistics, conclusions


def _write(out: Path, statistics: list[Any], conclusions: list[Any]) -> None:
    from divalign.report.paper_page import PaperPoint, paper_page
    from divalign.store import write_bytes
    from divalign.study.evidence import standardised
    from divalign.study.paper import IN_SHORT, PAPER_POINTS
    from divalign.study.verdict import model_cells

    cells = model_cells(PAPER_POINTS)
    heights = standardised(cells.successes / cells.trials, cells).tolist()
    points = [
        PaperPoint(point.family, point.recipe or "", point.separation or 0.0, point.successes, point.trials)
        for point in PAPER_POINTS
    ]
    write_bytes(out, paper_page(points, heights, statistics, conclusions, IN_SHORT).encode())
