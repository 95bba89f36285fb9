"""The numbers of the page: what each is called, in which unit, which way is better, and how to take it from a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from divalign.core.stats import Estimate
from divalign.report.facts import Measures, Model
from divalign.report.words import Form, percent, share, significant

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


class Measure(NamedTuple):
    """How one number is shown and read. `doubt` tells a value that claims more than its n supports."""

    label: str
    unit: str
    direction: str
    meaning: str
    form: Form
    doubt: Doubt = never


ASR = Measure(
    "attack success rate",
    "share of harmful prompts",
    "smaller is safer",
    "How often the judge calls the answer to a harmful prompt unsafe. Direct: the prompt as it is. Prefill: the first "
    "words of a compliant answer are put into the model's mouth. Wrapper: the prompt inside a template. Gcg: with a "
    "suffix that was searched with the model's gradient; gcg start: with the marks that the search begins with. "
    "Answers the judge could not decide count neither way.",
    percent,
)
OVER_REFUSAL = Measure(
    "over-refusal",
    "share of benign prompts",
    "smaller is better",
    "How often a harmless prompt is refused. A model that refuses everything has attack success 0 % and over-refusal "
    "100 %: read the two together.",
    percent,
)
SEPARATION = {
    "bhattacharyya_paper": Measure(
        "D_B, paper mode",
        "no unit",
        "larger: further apart",
        "Bhattacharyya distance between the hidden states of safe and harmful prompts, as the paper's code computes "
        "it: last layer, last token, projected to the first two principal components of both classes pooled, each "
        "class a Gaussian. 0: same place. It bounds the error of telling the two Gaussians apart by exp(−D_B)/2. "
        "Below one in n, n prompts cannot show that and the value is extrapolated (†): read it as “far apart”.",
        significant,
        extrapolated,
    ),
    "silhouette_paper": Measure(
        "silhouette, paper mode",
        "no unit, from −1 to 1",
        "larger: further apart",
        "Mean silhouette of the two classes in the same plane.",
        share,
    ),
    "bhattacharyya": Measure(
        "D_B, held out",
        "no unit",
        "larger: further apart",
        "Bhattacharyya distance with the projection and a shrunken covariance fitted on one part of the prompts and "
        "scored on another.",
        significant,
    ),
    "probe_auc": Measure(
        "probe AUC",
        "probability",
        "0.5 is chance, 1 perfect",
        "How well a linear probe on hidden states, fitted on some prompts, ranks harmful above safe ones on others.",
        share,
    ),
    "lexical_auc": Measure(
        "lexical AUC",
        "probability",
        "what the probe has to beat",
        "The same ranking from the words of the prompts alone (TF-IDF and length), without any model.",
        share,
    ),
}
D_B, PROBE, LEXICAL = "bhattacharyya_paper", "probe_auc", "lexical_auc"
# What disjoint supports give, and so what an estimate on compliance-refusal data runs into; the others have no ceiling.
CEILINGS = {"js": 2 * math.log(2), "hellinger": 2.0, "lecam": 2.0, "tv": 1.0}


def attacks(models: Iterable[Model]) -> list[str]:
    """Return every attack that was run on any model, direct first, else in the order of the results."""
    found = dict.fromkeys(name for model in models for name in model.held_in.asr)
    return sorted(found, key=lambda name: name != DIRECT)


def recipes(models: Iterable[Model]) -> list[str]:
    """Return the data recipes of the models, compliance-refusal and preference first, else in order of the results."""
    found = dict.fromkeys(model.data for model in models if model.data is not None)
    return [name for name in ("cr", "pref") if name in found] + [name for name in found if name not in ("cr", "pref")]


def shape_of(recipe: str | None, models: Iterable[Model]) -> int:
    """Return a recipe's symbol and colour: always 0 for compliance-refusal and 1 for preference data.

    The base (no recipe) has the last symbol, which no recipe before the fourth shares.
    """
    if recipe is None:
        return 3
    others = [name for name in recipes(models) if name not in ("cr", "pref")]
    return {"cr": 0, "pref": 1}.get(recipe, 2 + others.index(recipe) if recipe in others else 2)


def base_of(models: Iterable[Model]) -> Model | None:
    return next((model for model in models if model.method is None), None)


def aligned_of(models: Iterable[Model]) -> list[Model]:
    return [model for model in models if model.method is not None]


def asr(attack: str) -> Callable[[Measures], Estimate | None]:
    """Return the getter of an attack's success rate."""
    return lambda measures: measures.asr.get(attack)


def separation(name: str) -> Callable[[Measures], Estimate | None]:
    """Return the getter of a separation measure."""
    return lambda measures: measures.separation.get(name)


def over_refusal(measures: Measures) -> Estimate | None:
    return measures.over_refusal
