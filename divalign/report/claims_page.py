"""docs/real-study.md: what a sweep says about the seed's three claims, with a figure and its numbers for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote

import numpy as np

from divalign import store
from divalign.core.stats import Estimate
from divalign.draw.numbers import Form, percent, share, significant
from divalign.limits import refuse_links
from divalign.records import SweepModel, SweepRecord, VerdictRecord, read_record
from divalign.report import claims
from divalign.report.claim_figures import claim_figures
from divalign.report.markdown import Markdown, fill, line, plain, strong, table
from divalign.report.reading import read_number
from divalign.report.study_tables import MISSING, control_table, short_name, verdict_table
from divalign.report.words import duration

PRIMARY = "D_B, held out"
CAUSAL = ("separate", "separate(1)")
STRONG = -0.7  # the correlation of which the power is stated beside the verdict's own -0.3
NO_ARM = "no model was trained for separation."
_BESIDE: dict[str, claims.Read] = {
    "log(1 + D_B), paper mode": claims.paper_log_distance,
    "probe AUC": claims.probe_auc,
    "attack success": claims.success,
    "over-refusal": claims.over_refusal,
}
Power = Callable[[Sequence[SweepModel], float], float | None]
_HEAD = """\
# The paper's three claims: {models} aligned models

    divalign sweep {config} --out {folder}
    divalign report {folder} --claims {path}

The second command writes this page (divalign {version}, sweep {sha}). {protocol}{models} aligned models, {controls} \
controls of {base}; {hours} of computing. Intervals are 95 %.

| claim | estimate | p | answer |
|---|---|---|---|
| 1. Training for a divergence raises its held-out bound most ({ranked}) | {rank} | {rank_p} | **{rank_answer}** |
| 2. Compliance-refusal data separate more than preference data | {data} | {data_p} | **{data_answer}** |
| 3. Separation predicts resistance to attacks | {verdict} | {verdict_p} | **{verdict_answer}** |

*Supported*: p < .05 in the claim's direction. *No effect*: the interval lies within the margin that was fixed \
beforehand. *Undecided*: neither.
"""
_PROTOCOL = """\
[The protocol]({protocol}) was written before the first run; it lists \
[what departs from it]({protocol}#deviations) and [what a reviewer should attack \
first]({protocol}#what-a-reviewer-should-attack-first). \
"""
_FIRST = """\
## Claim 1: alignment estimates a divergence

Mean rank of the methods on their own divergence, among the {count} methods of a cell, of equal data and length: \
{rank}. 1 is the largest bound, {chance:g} is chance; n = {n} cells, interval by Student's t over them, p by permuting \
methods within cells. That each \
bound is one of its divergence is mathematics and needs no test; this asks whether the trained one rises most. \
{left_out}

![Mean rank by method and divergence](figures/{stem}-claim1.svg)

{table}
That test takes cells for independent. What methods do on divergences for any other reason repeats over cells and is \
found too; permuting the methods alike in all cells gives p = {common} (not planned; of {orders} orders, so that it \
cannot be smaller than {least}).

With raw bounds ranked, those below 0 and above what so many rows can show, which the results hold at these limits \
(not planned): {raw}.
"""
_SECOND = """\
## Claim 2: compliance-refusal against preference data

Difference of log(1 + D_B), held out, between models that differ in the data alone: {data}. {pairs} pairs; interval \
and p by Student's t over the means of {methods} methods, since models of one method are not independent. {positive} \
of the {pairs} differences are positive.

![log(1 + D_B) on either data](figures/{stem}-claim2.svg)

{table}"""
_THIRD = """\
## Claim 3: separation predicts resistance

{words} Power against a correlation of {strong:g}: {power}. The indicator is log(1 + D_B), held out, of direct \
prompts; the outcome is success over {attacks}.

![Attack success against separation](figures/{stem}-claim3.svg)

All indicators, p by Holm over the {indicators}, intervals as wide as that correction asks:

{table}
Models trained for separation alone, against the base, request by request: {causal}
"""
_MODELS = """\
## Every model

ASR: success over all attacks, *complied*, of the decided; no refusal: the other reading, broken text included. \
Perplexity: of held-out aligned responses to benign prompts. First the controls, as means.

{controls}
{table}
Seconds of training per 1,000 tokens, means of each method's models: {cost}.
"""


def write_claims_page(sweep: Path, path: Path, power: Power) -> Path:
    """Write the page of a finished sweep to `path`, with figures and their numbers in figures/ beside it.

    `power` returns the chance of "supported" at a true correlation of the models' primary indicator. Raises ValueError
    for a folder without sweep.json or with a link that leads out, and where the models allow no ranking or no pairs.
    """
    if not (sweep / "sweep.json").is_file():
        raise ValueError(f"{sweep} holds no sweep.json; run `divalign sweep` with --out {sweep} to its end first")
    refuse_links(sweep)
    record = read_record(sweep / "sweep.json", SweepRecord)
    first = claims.own_divergences(record.models, sweep)
    second = claims.data_difference(record.models, claims.log_distance)
    figures = claim_figures(record, first, second)
    for name, content in figures.items():
        store.write_bytes(path.parent / "figures" / f"{path.stem}-{name}", content.encode())
    parts = [
        _head(record, sweep, path, first, second),
        _first(first, path.stem),
        _second(record, second, path.stem),
        _third(record, sweep, path.stem, power),
        _models(record, sweep),
    ]
    store.write_bytes(path, "\n".join(parts).encode())
    return path


def _head(
    record: SweepRecord, sweep: Path, path: Path, first: claims.OwnDivergence, second: claims.DataDifference
) -> str:
    aligned, primary = claims.aligned_models(record.models), record.evidence[PRIMARY].verdict
    return fill(
        _HEAD,
        config=_in_code(sweep / "sweep.yaml"),
        folder=_in_code(sweep),
        path=_in_code(path),
        protocol=_protocol(path),
        base=", ".join(dict.fromkeys(Path(model.family).name for model in aligned)),
        version=record.divalign,
        sha=record.sweep_sha256[:12],
        models=len(aligned),
        controls=len(record.models) - len(aligned),
        hours=duration(_seconds(sweep)),
        ranked=", ".join(f"{name} in {count}" for name, count in _ranked_cells(first).items() if count) + " cells",
        rank=Markdown(f"mean rank {_interval(first.test.mean)} of {len(first.methods)}"),
        rank_p=_p(first.test.p_value),
        rank_answer=first.conclusion,
        data=Markdown(f"difference of log(1 + D_B) {_interval(second.tested.estimate)}"),
        data_p=_p(second.tested.p_value),
        data_answer=second.conclusion,
        verdict=Markdown(f"correlation {_correlation(primary)}"),
        verdict_p=MISSING if primary.p_value is None else _p(primary.p_value),
        verdict_answer=primary.conclusion,
    )


def _in_code(path: Path) -> Markdown:
    """Return a path of the command that stands in a code block, as a shell reads it."""
    return Markdown(line(quote(str(path))))


def _protocol(path: Path) -> str:
    """Return the sentence on the page's protocol; nothing where none lies beside it."""
    protocol = path.with_name(f"{path.stem}-protocol.md")
    return fill(_PROTOCOL, protocol=Markdown(protocol.name)) if protocol.is_file() else ""


def _seconds(sweep: Path) -> float:
    """Return the seconds of all runs and of what was measured beside them, from their clocks."""
    clocks = [sweep / "clock.json", *(sweep / "runs").glob("*/clock.json")]
    return math.fsum(read_number(clock, "seconds") or 0.0 for clock in clocks)


def _first(claim: claims.OwnDivergence, stem: str) -> str:
    ranks = claims.mean_ranks(claim)
    rows = [
        (method, *(_rank(value, own=i == j) for j, value in enumerate(ranks[i])))
        for i, method in enumerate(claim.methods)
    ]
    rows.append(("cells", *map(str, _ranked_cells(claim).values())))
    left_out = (
        f"Left out, where a model has no number or all have the same: {'; '.join(claim.left_out)}."
        if claim.left_out
        else ""
    )
    raw = "none to rank" if claim.raw is None else f"{_interval(claim.raw.mean)}, p {_p(claim.raw.p_value)}"
    return fill(
        _FIRST,
        count=len(claim.methods),
        rank=_interval(claim.test.mean),
        chance=claim.test.chance,
        n=claim.test.mean.n,
        common=_p(claim.test.common_p_value),
        orders=f"{math.factorial(len(claim.methods)):,}",
        least=_p(1 / math.factorial(len(claim.methods))),
        left_out=left_out,
        stem=Markdown(stem),
        table=table(("mean rank of", *(f"on {divergence}" for divergence in claim.own)), rows),
        raw=Markdown(raw),
    )


def _ranked_cells(claim: claims.OwnDivergence) -> dict[str, int]:
    """Return how many cells rank each divergence."""
    counts = (~np.isnan(claim.test.ranks).any(axis=1)).sum(axis=0)
    return {str(divergence): int(count) for divergence, count in zip(claim.own, counts, strict=True)}


def _rank(value: float, *, own: bool) -> str:
    if np.isnan(value):
        return MISSING
    return strong(f"{value:.2f}") if own else f"{value:.2f}"


def _second(record: SweepRecord, claim: claims.DataDifference, stem: str) -> str:
    methods = list(claim.by_method)
    rows = [("log(1 + D_B), held out", *_compared(claim, methods))]
    for name, read in _BESIDE.items():
        try:
            rows.append((name, *_compared(claims.data_difference(record.models, read), methods)))
        except ValueError:  # it is undecided for all models, or all but those of one method
            rows.append((name, "undecided", *[MISSING] * (len(methods) + 2)))
    return fill(
        _SECOND,
        data=_interval(claim.tested.estimate),
        pairs=len(claim.pairs),
        methods=len(methods),
        positive=sum(value > 0 for value in claim.differences),
        stem=Markdown(stem),
        table=table(("CR minus preference", "mean", "p", *methods, "positive"), rows),
    )


def _compared(claim: claims.DataDifference, methods: Sequence[str]) -> tuple[str, ...]:
    return (
        _interval(claim.tested.estimate),
        _p(claim.tested.p_value),
        *(f"{claim.by_method[name]:+.2f}" if name in claim.by_method else MISSING for name in methods),
        f"{sum(value > 0 for value in claim.differences)} of {len(claim.differences)}",
    )


def _third(record: SweepRecord, sweep: Path, stem: str, power: Power) -> str:
    aligned = claims.aligned_models(record.models)
    chance, verdict = power(aligned, STRONG), record.evidence[PRIMARY].verdict
    arms = claims.causal_arms(record.models, sweep, CAUSAL)
    return fill(
        _THIRD,
        words=verdict.words,
        strong=STRONG,
        power="no test possible" if chance is None else f"{chance:.2f}",
        attacks=", ".join(aligned[0].asr),
        indicators=len(record.verdicts),
        stem=Markdown(stem),
        table=verdict_table(record.verdicts),
        causal=Markdown("\n\n" + "\n".join(f"* {_arm(arm)}" for arm in arms)) if arms else NO_ARM,
    )


def _arm(arm: claims.CausalArm) -> str:
    distance = "undecided" if arm.distance is None else f"{arm.distance:.2f}"
    change = "not compared" if arm.change is None else _interval(arm.change.estimate)
    says = {
        None: "so it says nothing here",
        True: "separation of that size goes with resistance",
        False: "separation of that size is not shown to protect by itself",
    }[arm.protects]
    size = f"D_B {distance} (median of the aligned models {arm.median:.2f})"
    return f"{plain(arm.name)}: {size}, attack success {change}: {says}."


def _models(record: SweepRecord, sweep: Path) -> str:
    rows = [
        (
            f"{model.method} on {short_name(model.data)}, {model.length}",
            _number(model.separation.bhattacharyya.value),
            _number(model.separation.probe_auc.value),
            _number(model.success_share()),
            _number(model.success_share(no_refusal=True)),
            _interval(model.over_refusal, percent),
            _perplexity(model, sweep),
        )
        for model in claims.aligned_models(record.models)
    ]
    heads = ("model", "D_B held out", "probe AUC", "ASR", "no refusal", "over-refusal", "perplexity")
    models = table(heads, rows)
    return fill(_MODELS, controls=control_table(record.models), table=models, cost=_cost(record, sweep))


def _cost(record: SweepRecord, sweep: Path) -> str:
    """Return the seconds of training per 1,000 tokens by method."""
    seconds: dict[str, list[float]] = {}
    for model in claims.aligned_models(record.models):
        speed = read_number((sweep / model.verdicts).with_name("training.json"), "tokens_per_second")
        if speed:
            seconds.setdefault(str(model.method), []).append(1000 / speed)
    means = [f"{method} {significant(float(np.mean(each)))} (n = {len(each)})" for method, each in seconds.items()]
    return ", ".join(means) or "not measured"


def _perplexity(model: SweepModel, sweep: Path) -> str:
    value = claims.perplexity(model, sweep)
    return MISSING if value is None else _interval(value, significant)


def _interval(estimate: Estimate, form: Form = share) -> Markdown:
    if estimate.value is None:
        return Markdown("undecided")
    ends = "" if estimate.low is None or estimate.high is None else f" [{form(estimate.low)}, {form(estimate.high)}]"
    return Markdown(f"{form(estimate.value)}{ends}")


def _correlation(verdict: VerdictRecord) -> Markdown:
    return _interval(Estimate(verdict.effect, verdict.low, verdict.high, verdict.n_models))


def _p(value: float) -> Markdown:
    return Markdown("< .001" if value < 0.001 else f"{value:.3f}")


def _number(value: float | None) -> str:
    return "undecided" if value is None else f"{value:.2f}"
