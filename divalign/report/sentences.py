"""What was and was not seen, in plain sentences computed from the results.

Each function takes the models (or the verdict) and returns one paragraph, or None where the run holds nothing to say
it about. What counts as a difference is compare.py's rule: the intervals do not overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from divalign.core.stats import ALPHA, Estimate
from divalign.report.compare import (
    Change,
    Contrast,
    Get,
    above_half,
    below_half,
    compare,
    contrasts,
    known,
    label,
    named,
)
from divalign.report.facts import MARK, Model, Run, Verdict
from divalign.report.measures import (
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
from divalign.report.words import attack_words, data_short, data_words, listed, p_value, percent, share, significant

direct, distance = asr(DIRECT), separation(D_B)


class Finding(NamedTuple):
    """One of the sentences that head the page, and what it is about."""

    about: str
    words: str


def summary(run: Run) -> list[Finding]:
    """Return what was and was not seen, in at most seven findings."""
    found = [
        ("Trained on its prompts", trained_on(run)),
        ("Direct prompts", direct_attack(run.models)),
        ("Other attacks", other_attacks(run.models)),
        ("Training data", separation_by_data(run.models)),
        ("New topics", unseen_topics(run.models)),
        ("Harmless prompts", refusing_too_much(run.models)),
        ("Does separation predict safety?", prediction(run.verdict)),
    ]
    return [Finding(about, words) for about, words in found if words]


def trained_on(run: Run) -> str:
    """Say that numbers are of prompts in the training set, where they are."""
    if not run.marked:
        return ""
    return (
        f"{run.trained_on} of the prompts asked are in the training set. Every number of a model marked {MARK} "
        "measures memory too and says less of safety than it seems to."
    )


def direct_attack(models: Sequence[Model]) -> str:
    """Say for which methods, on which data, plain harmful prompts succeed less often than on the base."""
    base = base_of(models)
    before = direct(base.held_in) if base else None
    if before is None or before.value is None:
        return "How often plain harmful prompts succeed on the base is not known, so no fall can be shown."
    start = f"Asked directly, the base complies with {percent(before.value)} of {before.n} harmful prompts."
    parts = [_falls(recipe, [model for model in models if model.data == recipe], before) for recipe in recipes(models)]
    return " ".join([start, *parts]) if parts else f"{start} No aligned model is in this run."


def _falls(recipe: str, models: Sequence[Model], before: Estimate) -> str:
    kinds = _sorted_by(models, lambda model: compare(direct(model.held_in), before))
    words: dict[Change, str] = {
        "lower": "the rate falls for {}",
        "unclear": "no change is measurable for {}",
        "higher": "the rate rises for {}",
        "unknown": "the rate is undecided or not measured for {}",
    }
    said = [words[kind].format(named(kinds[kind], direct, name=_title, most=8)) for kind in words if kinds[kind]]
    return f"After {data_words(recipe)}, {listed(said)}."


def other_attacks(models: Sequence[Model]) -> str | None:
    """Say whether the models that resist direct prompts also resist the other attacks."""
    others = [attack for attack in attacks(models) if attack != DIRECT]
    if not others:
        return None
    resisting = [model for model in models if below_half(direct(model.held_in))]
    if not resisting:
        return "No model clearly keeps direct prompts below half, so other attacks find no resistance to break."
    start = f"Direct prompts clearly succeed less than half of the time against {_who(resisting)}."
    return " ".join([start, *(said for attack in others if (said := _broken(attack, resisting)))])


def _broken(attack: str, models: Sequence[Model]) -> str:
    """Say how the models that met an attack fared; nothing where none did."""
    get = asr(attack)
    resisting = [model for model in models if get(model.held_in) is not None]
    if not resisting:
        return ""
    words = attack_words(attack)
    met = f"On these models the {words} attack succeeds"
    if len(resisting) < len(models):
        met = f"Of these, only {_who(resisting)} met the {words} attack, which succeeds"
    broken = [model for model in resisting if above_half(get(model.held_in))]
    holding = [model for model in resisting if below_half(get(model.held_in))]
    rest = [model for model in resisting if model not in broken and model not in holding]
    said = [f"clearly more than half of the time against {_who(broken)} ({_span(broken, get)})"] if broken else []
    said += [f"clearly less than half against {_who(holding)} ({_span(holding, get)})"] if holding else []
    unclear = [model for model, _ in known(rest, get)]
    if unclear:
        said.append(f"about half of the time, as far as can be told, against {_who(unclear)} ({_span(unclear, get)})")
    undecided = [model for model in rest if model not in unclear]
    said += [f"undecided for {_who(undecided)}"] if undecided else []
    return f"{met} {listed(said)}."


def separation_by_data(models: Sequence[Model]) -> str | None:
    """Say for which methods the paper's distance is larger on compliance-refusal than on preference data."""
    found = contrasts(models, distance, "cr", "pref")
    if not found:
        return _distances(models)
    larger = [contrast for contrast in found if contrast.first > contrast.second]
    rest = [contrast for contrast in found if contrast.first <= contrast.second]
    titles = {model.title for model in aligned_of(models)}
    every = "every method: " if len(larger) == len(titles) > 1 else ""
    more = "larger after compliance-refusal than after preference data"
    said = [f"{more} for {every}{_against(larger)}"] if larger else []
    said += [f"not {more} for {_against(rest)}"] if rest else []
    missing = sorted(titles - {contrast.title for contrast in found})
    said += [f"not known on both for {listed(missing)}"] if missing else []
    subject = "The paper's distance D_B between hidden states of safe and harmful prompts is"
    return f"{subject} {'; it is '.join(said)}.{_unsupported(found)}{_extrapolated(models)}"


def _distances(models: Sequence[Model]) -> str | None:
    measured = [model for model, _ in known(models, distance)]
    if not measured:
        return None
    return (
        "No method has the distance D_B on both compliance-refusal and preference data, so the two are not compared; "
        f"it is measured for {named(measured, distance, form=significant)}.{_extrapolated(models)}"
    )


def _against(found: Sequence[Contrast]) -> str:
    return listed(f"{c.title} ({significant(c.first)} against {significant(c.second)})" for c in found)


def _unsupported(found: Sequence[Contrast]) -> str:
    """Say which of the differences the intervals do not support, or that there are no intervals."""
    overlapping = [contrast.title for contrast in found if contrast.change == "unclear"]
    single = [contrast.title for contrast in found if contrast.change == "unknown"]
    said = f" The intervals overlap for {listed(overlapping)}." if overlapping else ""
    if len(single) == len(found):
        return f"{said} None of these numbers has an interval."
    return said + (f" The numbers for {listed(single)} have no interval." if single else "")


def _extrapolated(models: Sequence[Model]) -> str:
    measured = [estimate for model in models if (estimate := distance(model.held_in)) is not None]
    count = sum(map(extrapolated, measured))
    if not count:
        return ""
    total, are = len(known(models, distance)), "is" if count == 1 else "are"
    return (
        f" {count} of the {total} distances {are} extrapolated (less than one error in n prompts, which n prompts "
        "cannot show): they only say “far apart”."
    )


def unseen_topics(models: Sequence[Model]) -> str | None:
    """Say whether refusal carries over to topics that alignment never saw."""
    aligned = aligned_of(models)
    measured = [model for model in aligned if model.held_out and direct(model.held_out)]
    if not measured:
        return "Whether refusal carries over to topics that alignment never saw was not measured." if aligned else None
    kinds = _sorted_by(measured, lambda m: compare(direct(m.held_out) if m.held_out else None, direct(m.held_in)))
    said = [f"succeed measurably more often against {_moves(kinds['higher'])}"] if kinds["higher"] else []
    said += [f"succeed measurably less often against {_moves(kinds['lower'])}"] if kinds["lower"] else []
    said += [f"show no measurable difference for {_who(kinds['unclear'])}"] if kinds["unclear"] else []
    said += [f"are undecided for {_who(kinds['unknown'])}"] if kinds["unknown"] else []
    return f"On topics that alignment never saw, compared with those it saw, direct prompts {listed(said)}."


def _moves(models: Sequence[Model]) -> str:
    """Return the models with their rate on seen and on held-out topics."""
    pairs = ((m, direct(m.held_in), direct(m.held_out)) for m in models if m.held_out)
    return listed(
        f"{label(model)} ({percent(seen.value)} to {percent(unseen.value)})"
        for model, seen, unseen in pairs
        if seen and unseen and seen.value is not None and unseen.value is not None
    )


def refusing_too_much(models: Sequence[Model]) -> str | None:
    """Say which models refuse harmless prompts more often than the base does."""
    base = base_of(models)
    before = over_refusal(base.held_in) if base else None
    if before is None or before.value is None or not aligned_of(models):
        return None
    start = f"The base refuses {percent(before.value)} of {before.n} benign prompts."
    kinds = _sorted_by(aligned_of(models), lambda model: compare(over_refusal(model.held_in), before))
    words: dict[Change, str] = {
        "higher": "over-refusal rises measurably for {}",
        "lower": "over-refusal falls measurably for {}",
        "unclear": "no change in over-refusal is measurable for {}",
        "unknown": "over-refusal is undecided or not measured for {}",
    }
    said = [words[kind].format(named(kinds[kind], over_refusal)) for kind in words if kinds[kind]]
    return f"{start} After alignment, {listed(said)}."


def prediction(verdict: Verdict | None) -> str | None:
    """Say whether separation predicts the attack success rate over the models of this run, or that n cannot tell."""
    if verdict is None:
        return None
    question, models = "separation goes with fewer successful attacks", f"{verdict.n_models} models"
    contrary = verdict.p_value is not None and verdict.p_value < ALPHA
    says = {
        "supported": f"Over these {models}, more {question}",
        "not supported": f"Over these {models}, more separation goes with more successful attacks, not with fewer"
        if contrary
        else f"Over these {models}, it is not supported that more {question}",
        "underpowered": f"Whether more {question} cannot be said from {models}",
    }
    other = f"Whether more {question}, over {models}: {verdict.conclusion or 'undecided'}"
    start = says.get(verdict.conclusion.replace("_", " "), other)
    return f"{start} ({numbers})." if (numbers := verdict_numbers(verdict)) else f"{start}."


def verdict_numbers(verdict: Verdict) -> str:
    """Return the test's numbers in one line; what is null is left out."""
    statistic = verdict.statistic.replace("_", " ") or "statistic"
    said = [f"{statistic} {share(verdict.value)}"] if verdict.value is not None else []
    said += [p_value(verdict.p_value)] if verdict.p_value is not None else []
    said += [f"power {percent(verdict.power)}"] if verdict.power is not None else []
    return ", ".join(said)


def _sorted_by(models: Sequence[Model], change: Callable[[Model], Change]) -> dict[Change, list[Model]]:
    kinds: dict[Change, list[Model]] = {"lower": [], "higher": [], "unclear": [], "unknown": []}
    for model in models:
        kinds[change(model)].append(model)
    return kinds


def _who(models: Sequence[Model]) -> str:
    """Return "kldo and bco on CR and kto on pref", or only how many where they are more than eight."""
    if len(models) > 8:
        return f"{len(models)} models"
    by_data: dict[str | None, list[Model]] = {}
    for model in models:
        by_data.setdefault(model.data, []).append(model)
    titles = ((listed(map(_title, group)), data_short(recipe)) for recipe, group in by_data.items())
    return listed(f"{names} on {recipe}" if recipe else names for names, recipe in titles)


def _span(models: Sequence[Model], get: Get) -> str:
    numbers = [number for _, number in known(models, get)]
    low, high = percent(min(numbers)), percent(max(numbers))
    return low if low == high else f"{low} to {high}"


def _title(model: Model) -> str:
    return model.title
