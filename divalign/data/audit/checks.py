"""The audit: every check with its limits and their reasons, and the verdict on a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from divalign.data.audit import contents, labels, responses
from divalign.data.audit.facts import Facts
from divalign.data.audit.finding import UNMEASURED, VERDICTS, AuditCheck, AuditFinding


def divergence(facts: Facts) -> AuditFinding:
    """Measure how far apart the sides are by a frozen model's features; the value is the chance of no difference."""
    if facts.divergence is None:
        return AuditFinding(None, "no model was given to read features with (--features)")
    try:
        measured = facts.divergence(facts.some_rows)
    except ValueError as error:
        return AuditFinding(None, f"not measured: {error}")
    if measured["value"] is None:
        return AuditFinding(None, "a divergence cannot be estimated from so few rows", measured)
    value = measured["value"]
    words = f"a frozen model's features tell the sides apart: the paper's JS is {value:.3f} nats (2 ln 2 at most)"
    return AuditFinding(
        measured["p_value"], f"{words}, p = {measured['p_value']:.3f}, {len(facts.some_rows)} rows", measured
    )


CHECKS: dict[str, AuditCheck] = {
    "unusable rows": AuditCheck(
        "Can every row be used?",
        "share of rows that cannot be read, are empty or miss their prefill",
        0.0,
        0.05,
        "such rows are refused by the trainer; many of them mean that the file is not what it was taken for",
        labels.unusable_rows,
    ),
    "repeated ids": AuditCheck(
        "Has every row its own id?",
        "share of rows that share their id",
        0.0,
        None,
        "responses and verdicts are kept by id; repeated ones mix them up",
        labels.repeated_ids,
    ),
    "classes": AuditCheck(
        "Are there harmful and benign prompts?",
        "share of the larger class",
        0.8,
        None,
        "a model that sees one class refuses, or answers, whatever it is asked",
        labels.classes,
    ),
    "sides": AuditCheck(
        "Are there aligned and unaligned responses?",
        "share of the larger side",
        0.8,
        0.99,
        "a divergence between the sides needs both",
        labels.sides,
    ),
    "contradictions": AuditCheck(
        "Do rows contradict each other?",
        "share of rows with a label that another row denies",
        0.0,
        0.05,
        "contradictory labels cancel out, and the model learns neither",
        labels.contradictions,
    ),
    "identical pairs": AuditCheck(
        "Do the sides of a pair differ?",
        "share of pairs with one text on both sides",
        0.0,
        0.05,
        "they train nothing and pull every estimate towards 0; the paper's preference set has 0.9 % of them",
        labels.identical_pairs,
    ),
    "rendered pairs": AuditCheck(
        "Do the sides of a pair differ as the model sees them?",
        "share of pairs whose sides are the same tokens under the chat template",
        0.0,
        0.05,
        "nothing is learnt from them: many templates drop thoughts (</think>), and a cut drops a difference at the end",
        labels.rendered_alike,
    ),
    "refusals": AuditCheck(
        "Are refusals said in many ways?",
        "share of the commonest refusal (prompt words left out), or of any one response, in its side and class",
        responses.REPEATED,
        0.5,
        "a constant refusal is a point mass: the model learns one string, and the objective has no finite optimum. "
        "The paper's set has 100 % (one refusal, 628 times)",
        responses.refusal_diversity,
    ),
    "lengths": AuditCheck(
        "Are the sides of like length?",
        "ratio of median words between the sides, within a class",
        3.0,
        10.0,
        "summed log-probabilities grow with length, so the margin is a margin of lengths. The paper's set has about 15",
        responses.length_ratio,
    ),
    "openings": AuditCheck(
        "Do texts open in many ways?",
        "share of the commonest first three words of a class or side",
        0.3,
        None,
        "what is learnt then sits in the first tokens, where a prefill undoes it (Qi et al. 2024, arXiv 2406.05946)",
        responses.openings,
    ),
    "near-duplicates": AuditCheck(
        "Are rows different from each other?",
        "share of rows that nearly repeat an earlier one",
        0.05,
        0.5,
        "repeats weigh double, and put the same text on both sides of a random split",
        labels.repeated_rows,
    ),
    "words of the prompt": AuditCheck(
        "Do words alone tell harmful prompts?",
        "AUC of a bag of words, clusters held out",
        0.9,
        None,
        "a separation of hidden states on such prompts shows words, not understanding. The paper's anchors reach .988",
        responses.prompt_words,
    ),
    "words of the response": AuditCheck(
        "Do words alone tell aligned responses, without the prompt?",
        "AUC of a bag of words, clusters held out",
        0.8,
        0.95,
        "the model can then learn a style and need not read the prompt: it will over-refuse, or comply throughout",
        responses.response_words,
    ),
    "divergence": AuditCheck(
        "Do a frozen model's features tell the sides apart?",
        "p-value of the held-out divergence against shuffled labels",
        0.05,
        None,
        "where nothing tells the sides apart there is nothing to learn, or labels are shuffled",
        divergence,
    ),
    "tokens": AuditCheck(
        "Does training read whole rows?",
        "share of rows above the token limit",
        0.01,
        0.2,
        "responses are cut, and a cut one has no end to learn",
        contents.too_long,
    ),
    "chat markers": AuditCheck(
        "Are responses free of control tokens and of orders to models?",
        "share of responses with either",
        0.0,
        0.01,
        "a marker inside a response ends a turn that should go on, or teaches the model to write both sides",
        contents.chat_markers,
    ),
    "personal data": AuditCheck(
        "Is it free of personal data?",
        "share of rows that match a pattern",
        0.0,
        None,
        "models repeat what they were trained on. Patterns err both ways: a look decides",
        contents.personal_data,
    ),
    "licences": AuditCheck(
        "May it be used, and where is it from?",
        "share of rows without a licence, or with one that forbids commercial use",
        0.0,
        None,
        "nobody can tell later",
        contents.licences,
    ),
    "leaks": AuditCheck(
        "Is it free of the evaluation's prompts?",
        "largest share of an evaluation set's prompts that is trained on",
        0.0,
        0.01,
        "what was trained on measures memory; the paper trained on 88 of the 100 prompts of MaliciousInstruct",
        labels.leaks,
    ),
}


class Audit(NamedTuple):
    """The findings of all checks, and the worst of their verdicts."""

    findings: Mapping[str, AuditFinding]
    checks: Mapping[str, AuditCheck]
    facts: Facts

    @property
    def verdicts(self) -> dict[str, str]:
        return {name: self.checks[name].verdict(finding.value) for name, finding in self.findings.items()}

    @property
    def verdict(self) -> str:
        verdicts = [verdict for verdict in self.verdicts.values() if verdict != UNMEASURED]
        return max(verdicts, key=VERDICTS.index, default=UNMEASURED)

    def as_plain(self) -> dict[str, Any]:
        """Return the audit as plain values, for a JSON file."""
        return {
            "schema": 1,
            "verdict": self.verdict,
            "rows": self.facts.total,
            "rows_read": len(self.facts),
            "findings": [
                {
                    "check": name,
                    "question": check.question,
                    "measures": check.measures,
                    "verdict": check.verdict(finding.value),
                    "value": finding.value,
                    "look": check.look,
                    "stop": check.stop,
                    "words": finding.words,
                    "why": check.why,
                    "numbers": finding.numbers,
                    "rows": list(finding.rows),
                }
                for name, check in self.checks.items()
                for finding in [self.findings[name]]
            ],
        }


Progress = Callable[[str], AbstractContextManager]


def audit(
    facts: Facts, *, checks: Mapping[str, AuditCheck] = CHECKS, progress: Progress = lambda name: nullcontext()
) -> Audit:
    """Run all `checks` on a data set. Raises ValueError for a set without rows."""
    if not len(facts):
        raise ValueError("a data set without rows has no audit; is the file what it was taken for?")
    findings = {}
    for name, check in checks.items():
        with progress(name):
            findings[name] = check.run(facts)
    return Audit(findings, checks, facts)
