"""The lab's findings as files: one page of Markdown, one JSON file, one figure per section. Pure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from divalign.core.divergences import DIVERGENCES
from divalign.core.losses import METHODS
from divalign.draw.chart import chart_svg
from divalign.lab.findings import Findings, LabSection
from divalign.lab.identities import with_claim

_INTRODUCTION = """\
# The theory, as an experiment

Alignment losses estimate divergences between the aligned distribution P = D+ and the unaligned distribution Q = D- of
responses ("LLM Safety Alignment is Divergence Estimation in Disguise", arXiv 2502.00657). On finite worlds, where every
expectation is a sum, each claim is a number that is reached or not. The command below writes this page from the losses
that train language models; only the explanations are written by hand.

    divalign lab --worlds {worlds} --seed {seed} --out docs

{worlds} worlds of 6 prompts and 8 responses, beta = {beta:g}, float64. {made_with}; {seconds:.0f} s.

R = P(y|x) / Q(y|x), and r = beta log(pi / pi_ref), in nats. **target** is the claim's value by enumeration, **reached**
that of the least loss, both means over the worlds; **gap** is the worst world's. A claim *holds* where the gap is at
most 1e-6. It *holds only if* the named condition is met, when worlds made to meet it close the gap. Else it *fails*.
A divergence's **scale** is its upper bound, which disjoint supports reach: js is 2 JS and ends at 2 ln 2 = 1.386 nats.
"""


def files(findings: Findings) -> dict[str, str]:
    """Return relative paths and contents: `theory.md`, `theory.json` and `figures/*.svg`."""
    figures = {f"figures/{section.name}.svg": chart_svg(section.chart, section.title) for section in findings.sections}
    content = json.dumps(dataclasses.asdict(findings), indent=1, allow_nan=False) + "\n"
    return {"theory.md": page(findings), "theory.json": content, **figures}


def page(findings: Findings) -> str:
    """Return the findings as Markdown."""
    about = {name: getattr(findings, name) for name in ("worlds", "seed", "beta", "made_with", "seconds")}
    parts = [_INTRODUCTION.format(**about), _divergences(), _methods()]
    return "\n".join([*parts, *(_section(section) for section in findings.sections)])


def _divergences() -> str:
    rows = [(f"`{name}`", row.value, row.scale, row.source) for name, row in DIVERGENCES.items()]
    alpha = ("`alpha(a)`", "Cressie-Read divergence of order a", "of 1 / (a (1 - a)), 0 < a < 1", "Cressie, Read 1984")
    return "## Divergences\n\n" + _table(("name", "value, nats", "scale", "source"), [*rows, alpha])


def _methods() -> str:
    rows = [
        (f"`{name}`", "pairs" if method.paired else "rows", method.estimates, method.source)
        for name, method in with_claim(METHODS).items()
    ]
    return "## Methods\n\nThe loss at r = 0 minus the loss is a lower bound of what is named.\n\n" + _table(
        ("name", "reads", "estimates", "source"), rows
    )


def _section(section: LabSection) -> str:
    rows = [
        (
            claim.name,
            claim.statement,
            f"{claim.target:.6g}" if abs(claim.target) > _NOTHING else "0",
            f"{claim.reached:.6g}" if abs(claim.reached) > _NOTHING else "0",
            f"{claim.gap:.1e}",
            " ".join(filter(None, (claim.verdict, claim.condition))),
        )
        for claim in section.claims
    ]
    figure = f"![{section.title}](figures/{section.name}.svg)"
    table = _table(("", "claim", "target", "reached", "gap", "verdict"), rows)
    return f"## {section.title}\n\n{section.text}\n\n{figure}\n\n{table}"


_NOTHING = 1e-12  # shown as 0: below it a mean is rounding


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
