"""The report's findings, in plain sentences computed from the results.

Each function takes the models (or the verdict) and returns one paragraph, or None where the run has no numbers for it.
Two rates differ by compare.py's rule: their intervals do not overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from divalign.core.stats import ALPHA, Estimate
from divalign.draw.numbers import PERCENT, percent, share, significant
from divalign.records import SMALLEST_EFFECT, VerdictRecord
from divalign.report.compare import (
    Change,
    Contrast,
    Get,
    above_half,
    below_half,
    compare,
    contrasts,
    label,
    measured_models,
    named,
)
from divalign.report.facts import MARK, ModelFacts, RunFacts
from divalign.report.quantities import (
    D_B,
    DIRECT,
    aligned_of,
    asr,
    attacks,
    base_of,
    extrapolated,
    over_refusal,
    recipes,
    separation,
)
from divalign.report.words import attack_words, data_short, data_words, listed, p_value

direct, distance = asr(DIRECT), separation(D_B)


class Finding(NamedTuple):
    """A sentence of the page's summary, and its topic."""

    topic: str
    words: str


def summary(run: RunFacts) -> list[Finding]:
    """Return at most six findings."""
    findings = [
        ("Direct prompts", direct_attack(run.models)),
        ("Other attacks", other_attacks(run.models)),
        ("Training data", separation_by_data(run.models)),
        ("Held-out topics", held_out_topics(run.models)),
        ("Benign prompts", over_refusal_change(run.models)),
        ("Does separation predict safety?", prediction(run.verdict)),
    ]
    return [Finding(topic, words) for topic, words in findings if words]


def trained_on(run: RunFacts) -> str:
    """Say how many evaluation prompts are in the training set, where some are."""
    if not run.marked:
        return ""
    return (
        f"{run.trained_on} of the evaluation prompts are in the training set. Every number of a model marked {MARK} "
        "measures memory too and overstates safety."
    )


def direct_attack(models: Sequence[ModelFacts]) -> str:
    """Say for which methods and data direct harmful prompts succeed less often than on the base."""
    base = base_of(models)
    before = direct(base.in_distribution) if base else None
    if before is None or before.value is None:
        return "The success rate of direct harmful prompts on the base is not known, so no change can be shown."
    start = f"Without an attack, the base complies with {percent(before.value)} of {before.n} harmful prompts."
    parts = [_falls(recipe, [model for model in models if model.data == recipe], before) for recipe in recipes(models)]
    return " ".join([start, *parts]) if parts else f"{start} No aligned model is in this run."


def _falls(recipe: str, models: Sequence[ModelFacts], before: Estimate) -> str:
    kinds = _sorted_by(models, lambda model: compare(direct(model.in_distribution), before))
    words: dict[Change, str] = {
        "lower": "the rate falls for {}",
        "unclear": "no change is measurable for {}",
        "higher": "the rate rises for {}",
        "unknown": "the rate is undecided or not measured for {}",
    }
    clauses = [words[kind].format(named(kinds[kind], direct, name=_title, most=8)) for kind in words if kinds[kind]]
    return f"After {data_words(recipe)}, {listed(clauses)}."


def other_attacks(models: Sequence[ModelFacts]) -> str | None:
    """Say whether the models that resist direct prompts also resist the other attacks."""
    indirect = [attack for attack in attacks(models) if attack != DIRECT]
    if not indirect:
        return None
    resisting = [model for model in models if below_half(direct(model.in_distribution))]
    if not resisting:
        return "No model's direct success rate is clearly below half: there is no refusal for other attacks to break."
    start = f"Direct prompts succeed clearly less than half of the time on {_who(resisting)}."
    return " ".join([start, *(text for attack in indirect if (text := _attack_rates(attack, resisting)))])


def _attack_rates(attack: str, models: Sequence[ModelFacts]) -> str:
    """Say how often an attack succeeds on the models that it was run on; nothing where there are none."""
    get = asr(attack)
    attacked = [model for model in models if get(model.in_distribution) is not None]
    if not attacked:
        return ""
    words = attack_words(attack)
    start = f"On these models the {words} attack succeeds"
    if len(attacked) < len(models):
        start = f"The {words} attack was run on {_who(attacked)} only; it succeeds"
    above = [model for model in attacked if above_half(get(model.in_distribution))]
    below = [model for model in attacked if below_half(get(model.in_distribution))]
    rest = [model for model in attacked if model not in above and model not in below]
    unclear = [model for model, _ in measured_models(rest, get)]
    undecided = [model for model in rest if model not in unclear]
    clauses = [f"clearly more than half of the time on {_who(above)} ({_span(above, get)})"] if above else []
    clauses += [f"clearly less than half on {_who(below)} ({_span(below, get)})"] if below else []
    clauses += (
        [f"at a rate not clearly above or below half on {_who(unclear)} ({_span(unclear, get)})"] if unclear else []
    )
    clauses += [f"at an undecided rate on {_who(undecided)}"] if undecided else []
    return f"{start} {listed(clauses)}."


def separation_by_data(models: Sequence[ModelFacts]) -> str | None:
    """Say for which methods the paper's distance is larger on compliance-refusal than on preference data."""
    pairs = contrasts(models, distance, "cr", "pref")
    if not pairs:
        return _distances(models)
    larger = [contrast for contrast in pairs if contrast.first > contrast.second]
    rest = [contrast for contrast in pairs if contrast.first <= contrast.second]
    titles = {model.title for model in aligned_of(models)}
    every = "every method: " if len(larger) == len(titles) > 1 else ""
    comparison = "larger after compliance-refusal than after preference data"
    clauses = [f"{comparison} for {every}{_against(larger)}"] if larger else []
    clauses += [f"not {comparison} for {_against(rest)}"] if rest else []
    missing = sorted(titles - {contrast.title for contrast in pairs})
    clauses += [f"not known on both for {listed(missing)}"] if missing else []
    subject = "The paper's distance D_B between hidden states of benign and harmful prompts is"
    return f"{subject} {'; it is '.join(clauses)}.{_unsupported(pairs)}{_extrapolated(models)}"


def _distances(models: Sequence[ModelFacts]) -> str | None:
    measured = [model for model, _ in measured_models(models, distance)]
    if not measured:
        return None
    return (
        "No method has the distance D_B on both compliance-refusal and preference data, so the two are not compared; "
        f"it is measured for {named(measured, distance, form=significant)}.{_extrapolated(models)}"
    )


def _against(pairs: Sequence[Contrast]) -> str:
    return listed(f"{pair.title} ({significant(pair.first)} against {significant(pair.second)})" for pair in pairs)


def _unsupported(pairs: Sequence[Contrast]) -> str:
    """Say which of the differences the intervals do not support, or that there are no intervals."""
    overlapping = [pair.title for pair in pairs if pair.change == "unclear"]
    without = [pair.title for pair in pairs if pair.change == "unknown"]
    text = f" The intervals overlap for {listed(overlapping)}." if overlapping else ""
    if len(without) == len(pairs):
        return f"{text} None of these numbers has an interval."
    return text + (f" The numbers for {listed(without)} have no interval." if without else "")


def _extrapolated(models: Sequence[ModelFacts]) -> str:
    measured = [estimate for model in models if (estimate := distance(model.in_distribution)) is not None]
    count = sum(map(extrapolated, measured))
    if not count:
        return ""
    total, are = len(measured_models(models, distance)), "is" if count == 1 else "are"
    return (
        f" {count} of the {total} distances {are} extrapolated (an error rate below one in n, which n prompts cannot "
        "show): read them as “far apart”."
    )


def held_out_topics(models: Sequence[ModelFacts]) -> str | None:
    """Say whether refusal generalises to held-out topics."""
    aligned = aligned_of(models)
    measured = [model for model in aligned if model.held_out and direct(model.held_out)]
    if not measured:
        return "Whether refusal generalises to held-out topics was not measured." if aligned else None
    kinds = _sorted_by(
        measured, lambda m: compare(direct(m.held_out) if m.held_out else None, direct(m.in_distribution))
    )
    clauses = [f"succeed more often on {_moves(kinds['higher'])}"] if kinds["higher"] else []
    clauses += [f"succeed less often on {_moves(kinds['lower'])}"] if kinds["lower"] else []
    clauses += [f"show no measurable difference on {_who(kinds['unclear'])}"] if kinds["unclear"] else []
    clauses += [f"are undecided on {_who(kinds['unknown'])}"] if kinds["unknown"] else []
    return f"On held-out topics, compared with topics of the training data, direct prompts {listed(clauses)}."


def _moves(models: Sequence[ModelFacts]) -> str:
    """Return the models with their rate on topics of the training data and on held-out topics."""
    pairs = ((m, direct(m.in_distribution), direct(m.held_out)) for m in models if m.held_out)
    return listed(
        f"{label(model)} ({percent(before.value)} to {percent(after.value)})"
        for model, before, after in pairs
        if before and after and before.value is not None and after.value is not None
    )


def over_refusal_change(models: Sequence[ModelFacts]) -> str | None:
    """Say which models refuse benign prompts more often than the base does."""
    base = base_of(models)
    before = over_refusal(base.in_distribution) if base else None
    if before is None or before.value is None or not aligned_of(models):
        return None
    start = f"The base refuses {percent(before.value)} of {before.n} benign prompts."
    kinds = _sorted_by(aligned_of(models), lambda model: compare(over_refusal(model.in_distribution), before))
    words: dict[Change, str] = {
        "higher": "over-refusal rises for {}",
        "lower": "over-refusal falls for {}",
        "unclear": "no change in over-refusal is measurable for {}",
        "unknown": "over-refusal is undecided or not measured for {}",
    }
    clauses = [words[kind].format(named(kinds[kind], over_refusal)) for kind in words if kinds[kind]]
    return f"{start} After alignment, {listed(clauses)}."


def prediction(verdict: VerdictRecord | None) -> str | None:
    """Say what the test of separation as an indicator concludes over the models of this run, with its numbers."""
    if verdict is None:
        return None
    claim, models = "more separation goes with fewer successful attacks", f"{verdict.n_models} models"
    if verdict.value is None:
        return f"Whether {claim} cannot be tested on {models}: too few recipes to compare, or nothing varies."
    contrary = verdict.p_value is not None and verdict.p_value < ALPHA and verdict.value > 0
    sentences = {
        "supported": f"Over these {models}, {claim}",
        "no effect": f"Over these {models}, the correlation of separation and attack success is smaller than "
        f"{SMALLEST_EFFECT}: separation does not predict safety",
        "undecided": f"Over these {models}, more separation goes with more successful attacks, not with fewer"
        if contrary
        else f"Whether {claim} cannot be decided from {models}",
    }
    start = sentences.get(verdict.conclusion, f"Whether {claim}, over {models}: {verdict.conclusion or 'undecided'}")
    return f"{start} ({verdict_numbers(verdict)})."


def verdict_numbers(verdict: VerdictRecord) -> str:
    """Return the test's numbers in one line: correlation, its confidence interval, p, power; null ones left out."""
    numbers = [f"correlation {share(verdict.effect)}"] if verdict.effect is not None else []
    if verdict.low is not None and verdict.high is not None:
        numbers += [f"95{PERCENT} CI {share(verdict.low)} to {share(verdict.high)}"]
    numbers += [p_value(verdict.p_value)] if verdict.p_value is not None else []
    numbers += [f"power {percent(verdict.power)}"] if verdict.power is not None else []
    return ", ".join(numbers)


def _sorted_by(models: Sequence[ModelFacts], change: Callable[[ModelFacts], Change]) -> dict[Change, list[ModelFacts]]:
    kinds: dict[Change, list[ModelFacts]] = {"lower": [], "higher": [], "unclear": [], "unknown": []}
    for model in models:
        kinds[change(model)].append(model)
    return kinds


def _who(models: Sequence[ModelFacts]) -> str:
    """Return "kldo and bco on CR and kto on pref", or only how many where they are more than eight."""
    if len(models) > 8:
        return f"{len(models)} models"
    by_data: dict[str | None, list[ModelFacts]] = {}
    for model in models:
        by_data.setdefault(model.data, []).append(model)
    titles = ((listed(map(_title, group)), data_short(recipe)) for recipe, group in by_data.items())
    return listed(f"{names} on {recipe}" if recipe else names for names, recipe in titles)


def _span(models: Sequence[ModelFacts], get: Get) -> str:
    numbers = [number for _, number in measured_models(models, get)]
    low, high = percent(min(numbers)), percent(max(numbers))
    return low if low == high else f"{low} to {high}"


def _title(model: ModelFacts) -> str:
    return model.title
