"""A gate for continuous integration: bounds that a run's numbers must keep with the worse end of their interval.

`asr.direct<=0.05` holds where the upper end of the 95 % interval is at most 0.05; `>=` takes the lower end. So few
prompts never pass for a small rate: 0 of 50 has the upper end 0.071. What is undecided, not measured or has no interval
fails: unknown is not zero.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import tostring

from divalign.core.stats import Estimate
from divalign.draw.svg import node
from divalign.records import ModelResult, PartResult, Results
from divalign.report.words import missing

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
PATTERN = re.compile(r"\s*(?P<number>\S(?:.*\S)?)\s*(?P<sign><=|>=|<|>)\s*(?P<bound>[-+.\deE]+)\s*")
HELD_OUT = "held_out."
EVERY = "*"  # of a family: every attack, every divergence
NO_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class Requirement(NamedTuple):
    """A bound: `number` names a number of results.json, as asr.direct; `text` is what was written."""

    text: str
    number: str
    sign: str
    bound: float


class Outcome(NamedTuple):
    """Whether a model keeps a bound, and the line that says so."""

    model: str
    number: str
    requirement: Requirement
    passed: bool
    words: str


def parse_requirement(text: str) -> Requirement:
    """Return the bound that `NUMBER<=VALUE` states, with <=, >=, < or >.

    Raises ValueError for anything else.
    """
    match = PATTERN.fullmatch(text)
    try:
        bound = float(match["bound"]) if match else None
    except ValueError:
        bound = None
    if match is None or bound is None:
        raise ValueError(
            f"got the requirement {text!r}, expected a bound such as 'asr.direct<=0.05' or 'over_refusal<=0.10'"
        )
    return Requirement(text.strip(), match["number"], match["sign"], bound)


def check_requirements(
    results: Results, requirements: Sequence[Requirement], models: Sequence[str] = ()
) -> list[Outcome]:
    """Return the outcome of every bound for every named model; without names for every aligned one, or else the base.

    Raises ValueError for no requirement, for a model that the run does not have, and for a number that none of the
    models has: a misspelt gate must not pass.
    """
    if not requirements:
        raise ValueError("got no requirement; give at least one, such as --require 'asr.direct<=0.05'")
    chosen = _chosen(results, models)
    return [outcome for requirement in requirements for outcome in _outcomes(chosen, requirement)]


def _chosen(results: Results, names: Sequence[str]) -> list[ModelResult]:
    by_name = {model.name: model for model in results.models}
    for name in names:
        if name not in by_name:
            raise ValueError(f"the run has no model {name!r}; it has {', '.join(by_name)}")
    if names:
        return [by_name[name] for name in names]
    return [model for model in results.models if model.method is not None] or list(results.models)


def _outcomes(models: Sequence[ModelResult], requirement: Requirement) -> Iterator[Outcome]:
    numbers = {model.name: numbers_of(model) for model in models}
    names = dict.fromkeys(name for of_model in numbers.values() for name in of_model)
    matching = [name for name in names if _matches(name, requirement.number)]
    if not matching:
        raise ValueError(
            f"{requirement.text}: no model of the run has the number {requirement.number!r}; "
            f"there are {', '.join(names)}"
        )
    for model in models:
        for name in matching:
            yield _outcome(model.name, name, numbers[model.name].get(name), requirement)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or (pattern.endswith(f".{EVERY}") and name.startswith(pattern.removesuffix(EVERY)))


def numbers_of(model: ModelResult) -> dict[str, Estimate]:
    """Return the numbers that a bound can name: asr.ATTACK, over_refusal, divergence.NAME, held_out.asr.ATTACK, ..."""
    numbers = _part_numbers(model, "")
    numbers |= {f"divergence.{name}": estimate for name, estimate in model.divergence.items()}
    return numbers | (_part_numbers(model.held_out, HELD_OUT) if model.held_out else {})


def _part_numbers(part: ModelResult | PartResult, prefix: str) -> dict[str, Estimate]:
    families = {
        "asr": part.asr,
        "asr_no_refusal": part.asr_no_refusal,
        "separation": dict(part.separation),
    }
    numbers = {f"{prefix}{family}.{name}": each for family, group in families.items() for name, each in group.items()}
    return {f"{prefix}over_refusal": part.over_refusal, **numbers}


def _outcome(model: str, name: str, estimate: Estimate | None, requirement: Requirement) -> Outcome:
    """Hold a number's interval against the bound: the end that is worse for the model counts."""
    sign, bound = requirement.sign, requirement.bound
    what = f"{model}: {name} {sign} {bound:g}"
    if estimate is None or estimate.value is None:
        return Outcome(model, name, requirement, False, f"{what}: {missing(estimate)}")
    end, which = (estimate.high, "upper") if sign.startswith("<") else (estimate.low, "lower")
    if end is None:
        words = f"{what}: {estimate.value:.4g} has no interval, so nothing bounds it"
        return Outcome(model, name, requirement, False, words)
    passed = OPERATORS[sign](end, bound)
    words = f"{what}: {estimate.value:.4g}, {which} end of the 95 % interval {end:.4g}, n = {estimate.n}"
    return Outcome(model, name, requirement, passed, words)


def junit_xml(outcomes: Sequence[Outcome], *, name: str) -> str:
    """Return the outcomes as JUnit XML: a suite, a case for each model and number, a failure with its line."""
    cases = []
    for outcome in outcomes:
        failure = None if outcome.passed else node("failure", outcome.words, message=outcome.words, type="requirement")
        bound = f"{outcome.number}{outcome.requirement.sign}{outcome.requirement.bound:g}"
        cases.append(node("testcase", failure, classname=outcome.model, name=bound))
    counts = {"tests": len(cases), "failures": sum(not outcome.passed for outcome in outcomes), "errors": 0}
    suite = node("testsuite", *cases, name=name, **counts)
    root = node("testsuites", suite, **counts)
    # Characters that XML does not have, which a name can: a parser would refuse the whole file.
    return '<?xml version="1.0" encoding="utf-8"?>\n' + NO_XML.sub("?", tostring(root, encoding="unicode")) + "\n"
