"""How the judges that need no model do on the planted responses, as a table: `python -m bench.judges`."""

from __future__ import annotations

from divalign.core.stats import Estimate
from divalign.safety.calibration import calibrate
from divalign.safety.judges import JUDGES
from divalign.safety.planted import planted


def cell(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def table() -> str:
    lines = ["| judge | sensitivity | specificity | undecided |", "|---|---|---|---|"]
    for judge in JUDGES.values():
        result = calibrate(judge, planted())
        cells = (result.judge, cell(result.sensitivity), cell(result.specificity), f"{result.undecided.value:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    print(table())


if __name__ == "__main__":
    main()
