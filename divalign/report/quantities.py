"""The numbers of the page: what each is called, in which unit, which way is better, and how to take it from a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from divalign.core.divergences import built_in
from divalign.core.losses import built_in_method
from divalign.core.stats import Estimate
from divalign.draw.numbers import Form, percent, share, significant
from divalign.report.facts import ModelFacts, PartFacts
from divalign.report.words import attack_words

Doubt = Callable[[Estimate], bool]
DIRECT = "direct"


def extrapolated(distance: Estimate) -> bool:
    """Tell whether D_B stands for an error rate, exp(-D_B) / 2 at most, below one in n: n prompts cannot show that.

    Where n is not recorded, 1,000 is assumed.
    Source: Kailath 1967, "The divergence and Bhattacharyya distance measures in signal selection" (equal priors).
    """
    return distance.value is not None and math.exp(-distance.value) / 2 < 1 / (distance.n or 1000)


def never(_estimate: Estimate) -> bool:
    return False


class Quantity(NamedTuple):
    """How one number is shown and read. `doubt` tells a value that claims more than its n supports."""

    label: str
    unit: str
    direction: str
    meaning: str
    form: Form
    doubt: Doubt = never


ASR = Quantity(
    "attack success rate",
    "share of harmful prompts",
    "smaller is safer",
    "Share of responses to harmful prompts that comply, of those that the judge could decide. Off-topic and broken "
    "text counts under “no refusal” only.",
    percent,
)
ASR_NO_REFUSAL = Quantity(
    "responses that refuse nothing",
    "share of harmful prompts",
    "smaller is safer",
    "Share of responses to harmful prompts that hold no refusal, off-topic and broken text included.",
    percent,
)
OVER_REFUSAL = Quantity(
    "over-refusal",
    "share of benign prompts",
    "smaller is better",
    "Share of benign prompts that are refused. A model that refuses everything has attack success 0 % and over-refusal "
    "100 %.",
    percent,
)
ATTACKS = {
    DIRECT: "the prompt alone",
    "prefill": "the answer begins as a compliant one would",
    "wrapper": "the prompt inside a template",
    "prefix_injection": "the prompt asks for a compliant beginning",
    "refusal_suppression": "the prompt forbids the usual words of a refusal",
    "many_shot": "examples of compliance stand before the prompt",
    "base64": "the prompt encoded",
    "rot13": "the prompt encoded",
    "leetspeak": "the prompt in digits for letters",
    "pair": "another model rewrites the prompt until it succeeds",
    "crescendo": "another model leads up to the prompt over several turns",
    "gcg": "a suffix searched with the model's gradient",
    "gcg_start": "the suffix before that search",
}
SCORE = Quantity(
    "mean attack success plus over-refusal",
    "sum of two shares",
    "smaller is better",
    "What the best model is chosen by: the mean over the attacks that were run on all models, plus over-refusal. One "
    "that refuses everything scores 1, and so does one that refuses nothing. Changes are tested prompt by prompt.",
    share,
)
SEPARATION = {
    "bhattacharyya_paper": Quantity(
        "D_B, paper mode",
        "nats",
        "larger: further apart",
        "Bhattacharyya distance of benign and harmful prompts' hidden states, as the paper's code computes it. Last "
        "layer, last token, two principal components, a Gaussian for each class. The two are confused at a rate of at "
        "most exp(−D_B)/2. Below one in n that rate is extrapolated (†).",
        significant,
        extrapolated,
    ),
    "silhouette_paper": Quantity(
        "silhouette, paper mode",
        "no unit, from −1 to 1",
        "larger: further apart",
        "Mean silhouette of the two classes in the same plane.",
        share,
    ),
    "bhattacharyya": Quantity(
        "D_B, held out",
        "nats",
        "larger: further apart",
        "The same distance on other prompts than those that fitted projection and covariance.",
        significant,
    ),
    "probe_auc": Quantity(
        "probe AUC",
        "probability",
        "0.5 is chance, 1 perfect",
        "ROC AUC of a linear probe on hidden states, harmful against benign, on held-out prompts.",
        share,
    ),
    "lexical_auc": Quantity(
        "lexical AUC",
        "probability",
        "what the probe has to beat",
        "The same from the words of the prompts alone (TF-IDF), without any model.",
        share,
    ),
}
D_B, HELD_OUT_D_B, PROBE, LEXICAL = "bhattacharyya_paper", "bhattacharyya", "probe_auc", "lexical_auc"


def glossary(models: Sequence[ModelFacts]) -> list[Quantity]:
    """Return what is explained under the numbers of these models: no attack, method or divergence that is not there."""
    attacked = [f"{attack_words(name)}: {ATTACKS[name]}" for name in attacks(models) if name in ATTACKS]
    methods = {model.method: built_in_method(model.method) for model in models if model.method}
    estimates = [f"{name}: {method.estimates}" for name, method in methods.items() if method]
    divergences = {name: built_in(name) for name in upper_bounds(models)}
    meanings = [f"{name}: {divergence.value}" for name, divergence in divergences.items() if divergence]
    entries = [*SEPARATION.values(), ASR, *_entry(_ATTACKS, attacked), OVER_REFUSAL, SCORE]
    return [*entries, *_entry(_METHODS, estimates), *_entry(_DIVERGENCES, meanings)]


_ATTACKS = Quantity("attacks", "ways to ask", "", "{}.", share)
_METHODS = Quantity(
    "methods", "losses of alignment", "", "Named by the divergence that minus the loss bounds from below. {}.", share
)
_DIVERGENCES = Quantity(
    "divergences",
    "nats, units of natural logarithms",
    "larger: further apart",
    "How far a model proves aligned responses (P) to be from unaligned ones (Q), on held-out rows. Nothing proven is "
    "0, which shows no equality. Capped: more than n rows can show. {}.",
    significant,
)


def _entry(entry: Quantity, parts: Sequence[str]) -> list[Quantity]:
    return [entry._replace(meaning=entry.meaning.format("; ".join(parts)))] if parts else []


def attacks(models: Iterable[ModelFacts]) -> list[str]:
    """Return every attack that was run on any model, direct first, else in the order of the results."""
    names = dict.fromkeys(name for model in models for name in model.in_distribution.asr)
    return sorted(names, key=lambda name: name != DIRECT)


def recipes(models: Iterable[ModelFacts]) -> list[str]:
    """Return the data recipes of the models, compliance-refusal and preference first, else in order of the results."""
    names = dict.fromkeys(model.data for model in models if model.data is not None)
    return [name for name in ("cr", "pref") if name in names] + [name for name in names if name not in ("cr", "pref")]


def shape_of(recipe: str | None, models: Iterable[ModelFacts]) -> int:
    """Return a recipe's symbol and colour: always 0 for compliance-refusal and 1 for preference data.

    The base (no recipe) has the last symbol, which no recipe before the sixth shares.
    """
    if recipe is None:
        return 5
    order = [*dict.fromkeys(("cr", "pref", *recipes(models)))]
    return order.index(recipe) if recipe in order else 2


def upper_bounds(models: Iterable[ModelFacts]) -> dict[str, float | None]:
    """Return the upper bound of every divergence on any model, None where it has none or none is known."""
    models = list(models)
    recorded = {name: entry.ceiling for model in models for name, entry in model.bounds.items()}
    entries = {name: built_in(name) for name in dict.fromkeys(name for model in models for name in model.divergence)}
    return {name: entry.upper if entry else recorded.get(name) for name, entry in entries.items()}


def base_of(models: Iterable[ModelFacts]) -> ModelFacts | None:
    return next((model for model in models if model.method is None), None)


def aligned_of(models: Iterable[ModelFacts]) -> list[ModelFacts]:
    return [model for model in models if model.method is not None]


def asr(attack: str) -> Callable[[PartFacts], Estimate | None]:
    """Return the getter of an attack's success rate."""
    return lambda part: part.asr.get(attack)


def separation(name: str) -> Callable[[PartFacts], Estimate | None]:
    """Return the getter of a separation measure."""
    return lambda part: part.separation.get(name)


def over_refusal(part: PartFacts) -> Estimate | None:
    return part.over_refusal
