"""docs/methods.md: what every method is, read off METHODS, and what it cost and did in one run, read off its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from divalign import store
from divalign.core.divergences import scale_of
from divalign.core.losses import METHODS, PROMPT, Method, built_in_method
from divalign.core.stats import Estimate, clustered_mean
from divalign.draw.numbers import Form, percent, significant
from divalign.records import DivergenceFile, DivergenceRecord, ModelResult, Results, read_record
from divalign.report.markdown import Markdown, code, fill, line, table
from divalign.report.reading import read_number, read_results
from divalign.report.words import attack_words, bounds, duration, missing

DIVERGENCE = "js"  # the one in the tables: bounded, so that it has an interval on any data
BASE_OF_COSTS = "dpo"
INTRODUCTION = """\
# Methods

    divalign run {config} --out {folder}
    divalign report {folder} --methods docs/methods.md

The second command writes this page from `METHODS` and from the run (divalign {version}, configuration {sha}, \
{duration}); the last section alone is written by hand. `METHOD+prompt` is a pointwise method with a learned baseline \
of the prompt; `fdo:D` and `bpo:D` take any divergence D, by rows and by pairs. [Theory](theory.md) shows what a least \
loss reaches, [training](training.md) how each is trained.
"""
ALONE = """\
# Methods

    divalign report --methods docs/methods.md

The command writes this page from `METHODS`; the last section alone is written by hand. **What the methods cost and do \
is not measured yet**: name the folder of a run, as `configs/all_methods.yaml` says, and the command adds it. \
`METHOD+prompt` is a pointwise method with a learned baseline of the prompt; `fdo:D` and `bpo:D` take any divergence D \
by rows and by pairs. [Theory](theory.md) shows what a least loss reaches, [training](training.md) how each is trained.
"""
WHAT = """\
## What each method is

With r = beta log(pi / pi_ref): minus the loss bounds the **divergence**, up to the loss at r = 0; \
P x Q is a pair of an aligned and an unaligned response, Q x P the same pair swapped. **Bounded**: the upper bound, \
which disjoint supports reach. **Shift**: what may be added to r without a change of the loss. **Forwards**: of an \
update, with gradients; the reference is scored once before training.
"""
DID = """\
## What each cost and did

On the embedded world, a model of under a million parameters: mechanisms, not how large models behave. Means over \
{seeds} with intervals: the wider of the mean of the seeds' own 95 % intervals and Student's t interval over seeds, \
within the scale; with three seeds that is often most of it. **Cost** is the time of a token in training over dpo's on \
the same data; of sampled responses it holds the sampling. ASR: smaller is safer. D_B: paper mode. js: the held-out \
lower bound that r proves, {scale}; **gap**: what the bound on training rows has above it.
"""
PROMPTS = """\
## With and without a baseline of the prompt

`METHOD+prompt` trains r + b(x) in place of r minus the method's own baseline. js of r and js of r + b: what either \
proves of the held-out rows, in nats ({scale}); gap: training rows minus held-out rows.
"""
WHEN = """\
## Which method when

From the losses and their optima, not from the table above, whose run is one small world:

* **Rows without pairs**: kldo, bco, kto, hdo, nca, rdro, `fdo:D`. They take pairs too, as two rows each.
* **Two responses to every prompt**: dpo, `bpo:D`, exponential_pair. They reach their divergence with any policy that \
sums to 1, without a baseline.
* **The loss is to be read as a divergence**: a pointwise method `+prompt`; without b a policy that sums to 1 cannot \
reach it. In training, `critic/` stands before what r + b shows.
* **Nearly disjoint responses**, as in compliance-refusal data: a bounded divergence (bco, hdo, `fdo:lecam`). \
kl grows with every update.
* **Wrong labels**: dpo(0.1) assumes one in ten and rests at a finite margin; robust(0.1) is unbiased and falls \
without end where labels are better than that; apo_zero, kto and `fdo:lecam` saturate on rows that contradict the rest.
* **Aligned responses lose probability** (displacement): raise `sft_weight`, with any method; or rdro and nca, whose \
best r is bounded above, and cal_dpo and ipo, which rest at a target.
* **Responses are known to be safe or not**: safedpo, which sorts the pairs by it; recipe `cr_safety` has the columns.
* **A baseline to compare with**: sft on the same aligned responses; csft on both classes, each behind its text. What \
an alignment method gains over them is what the unaligned responses taught.
"""


class MethodRow(NamedTuple):
    """One method on one data recipe: its models over seeds, the time of a token in training, divergences of each."""

    method: str
    data: str
    models: Sequence[ModelResult]
    seconds: Sequence[float]  # per 1,000 tokens, of each seed that has it
    divergences: Sequence[DivergenceFile]


def write_methods_page(run: Path | None, path: Path) -> Path:
    """Write the page of a run folder, or without one what the methods are alone.

    Raises ValueError for a folder without results, naming the file, and for one with a link that leads out of it.
    """
    if run is None:
        page = "\n".join([ALONE, WHAT, _what(()), WHEN])
    else:
        results = read_results(run)
        page = methods_page(results, rows_of(results, run), run)
    store.write_bytes(path, page.encode())
    return path


def rows_of(results: Results, run: Path) -> list[MethodRow]:
    """Return a row for each method on each data recipe, in the order of the run; the base is none."""
    groups: dict[tuple[str, str], list[ModelResult]] = {}
    for model in results.models:
        if model.method is not None and model.data is not None:
            groups.setdefault((model.method, model.data), []).append(model)
    rows = []
    for (method, data), models in groups.items():
        folders = [run / "models" / model.name for model in models]
        seconds = [
            1000 / speed for folder in folders if (speed := read_number(folder / "training.json", "tokens_per_second"))
        ]
        paths = [folder / "divergence.json" for folder in folders]
        files = [read_record(path, DivergenceFile) for path in paths if path.is_file()]
        rows.append(MethodRow(method, data, models, seconds, files))
    return rows


def methods_page(results: Results, rows: Sequence[MethodRow], run: Path) -> str:
    """Return the page as Markdown."""
    seeds = len({model.seed for row in rows for model in row.models})
    introduction = fill(
        INTRODUCTION,
        config=Markdown(line(f"configs/{run.name}.yaml")),
        folder=Markdown(line(f"runs/{run.name}")),
        version=results.divalign,
        sha=results.config_sha256[:12],
        duration=duration(results.seconds),
    )
    scale = scale_of(DIVERGENCE)
    parts = [introduction, WHAT, _what(rows), DID.format(seeds=_count(seeds, "seed"), scale=scale), _did(rows)]
    with_prompt = _with_and_without(rows)
    parts += [PROMPTS.format(scale=scale), with_prompt] if with_prompt else []
    return "\n".join([*parts, WHEN])


def over_seeds(estimates: Sequence[Estimate], least: float = 0.0, most: float | None = None) -> Estimate:
    """Return the mean over seeds, with the wider of two intervals, cut at `least` and `most`; n counts seeds.

    One is the mean of the seeds' own ends, which says how well each was measured, the other Student's over seeds, which
    says how they differ. A seed without a value leaves the mean without one: unknown is not zero.
    """
    values = [estimate.value for estimate in estimates if estimate.value is not None]
    if not estimates or len(values) < len(estimates):
        return Estimate(None, None, None, len(values))
    across = clustered_mean(values, range(len(values)))
    ends = [(estimate.low, estimate.high) for estimate in estimates]
    lows, highs = [low for low, _ in ends if low is not None], [high for _, high in ends if high is not None]
    low = [across.low, sum(lows) / len(lows) if len(lows) == len(values) else None]
    high = [across.high, sum(highs) / len(highs) if len(highs) == len(values) else None]
    cut = [max(least, end) if most is None else min(most, max(least, end)) for end in (*low, *high) if end is not None]
    return Estimate(across.value, min(cut) if cut else None, max(cut) if cut else None, len(values))


def _what(rows: Sequence[MethodRow]) -> str:
    names = dict.fromkeys([*METHODS, *(row.method for row in rows)])
    return table(
        ("method", "divergence", "bounded", "shift", "pairs", "forwards", "source"),
        [_description(name, built_in_method(name)) for name in names],
    )


def _description(name: str, method: Method | None) -> Sequence[str]:
    if method is None:
        return (code(name), "of its own: see its module", "", "", "", "", "")
    reads_r = not any(method.likelihood)
    return (
        code(name),
        method.estimates,
        _upper(method),
        method.shift_invariance if reads_r else "no r",
        "yes" if method.paired else "no",
        "1, and 1 without gradients where an update is split" if method.has_baseline else "1",
        method.source,
    )


def _upper(method: Method) -> str:
    """Return the upper bound of what minus the loss estimates, in nats."""
    if method.optimum is None:
        return "no claim"
    upper = method.optimum.divergence.upper
    return "no" if upper is None else significant(upper * method.optimum.factor)


def _did(rows: Sequence[MethodRow]) -> str:
    attacks = [*dict.fromkeys(name for row in rows for model in row.models for name in model.asr)]
    shared = [name for name in attacks if all(name in model.asr for row in rows for model in row.models)]
    head = ("method", "data", "s per 1,000 tokens", "cost", "D_B", *(f"ASR {attack_words(name)}" for name in shared))
    base = {row.data: median(row.seconds) for row in rows if row.method == BASE_OF_COSTS and row.seconds}
    return table(
        (*head, "over-refusal", DIVERGENCE, "gap"),
        [
            (
                code(row.method),
                row.data,
                significant(median(row.seconds)) if row.seconds else missing(None),
                _relative(row, base),
                _cell([model.separation.bhattacharyya_paper for model in row.models], significant),
                *(_cell([model.asr[name] for model in row.models], percent, 1.0) for name in shared),
                _cell([model.over_refusal for model in row.models], percent, 1.0),
                _cell([e for model in row.models if (e := model.divergence.get(DIVERGENCE))], significant),
                _bound_and_gap([file.divergences for file in row.divergences]).gap,
            )
            for row in rows
        ],
    )


def _relative(row: MethodRow, base: Mapping[str, float]) -> str:
    """Return the time of a token over that of dpo, on the same data or else on any."""
    reference = base.get(row.data) or next(iter(base.values()), None)
    return f"{median(row.seconds) / reference:.2f}" if row.seconds and reference else ""


def _with_and_without(rows: Sequence[MethodRow]) -> str:
    """Return the methods that the run has with and without a baseline of the prompt; nothing where it has none."""
    present = {(row.method, row.data): row for row in rows}
    pairs = [(row, present.get((f"{row.method}{PROMPT}", row.data))) for row in rows]
    compared = [row for both in pairs if both[1] is not None for row in both if row is not None]
    cells = [
        (
            code(row.method),
            row.data,
            *_bound_and_gap([file.divergences for file in row.divergences]),
            *_bound_and_gap([file.with_baseline for file in row.divergences if file.with_baseline]),
            _cell([model.separation.bhattacharyya_paper for model in row.models], significant),
            _cell([model.asr["direct"] for model in row.models if "direct" in model.asr], percent, 1.0),
            _cell([model.over_refusal for model in row.models], percent, 1.0),
        )
        for row in compared
    ]
    head = ("method", "data", "js of r", "gap", "js of r + b", "gap", "D_B", "ASR direct", "over-refusal")
    return table(head, cells) if cells else ""


class BoundCells(NamedTuple):
    """The held-out bound of a divergence as text, and what the one on training rows has above it."""

    bound: str
    gap: str


def _bound_and_gap(files: Iterable[Mapping[str, DivergenceRecord]]) -> BoundCells:
    records = [file[DIVERGENCE] for file in files if DIVERGENCE in file]
    gaps = [Estimate(record.overfit_gap, None, None, 0) for record in records if record.overfit_gap is not None]
    bound = _cell([record.estimate for record in records], significant) if records else ""
    return BoundCells(bound, _cell(gaps, significant, least=float("-inf")) if gaps else "")


def _cell(estimates: Sequence[Estimate], form: Form, most: float | None = None, *, least: float = 0.0) -> str:
    """Return the mean over seeds with its interval as text."""
    if not estimates:
        return missing(None)
    pooled = over_seeds(estimates, least, most)
    if pooled.value is None:
        return missing(pooled)
    interval = bounds(pooled, form)
    return f"{form(pooled.value)} ({interval})" if interval else form(pooled.value)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
