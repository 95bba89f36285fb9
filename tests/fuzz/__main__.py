"""`python -m tests.fuzz --minutes 10 [TARGET...]`: fuzz every target for that long, and print what makes one fail."""

from __future__ import annotations

import argparse
import time
import traceback

from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.targets import TARGETS, Target

ROUND = 500  # examples between two looks at the clock


def fuzz(target: Target, seconds: float, start: int) -> int:
    """Return how many examples were tried in the time; raise what the target raises."""
    rounds, end = 0, time.monotonic() + seconds
    options = settings(max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    while time.monotonic() < end:
        seed(start + rounds)(options(given(target.inputs)(target.check)))()
        rounds += 1
    return rounds * ROUND


def main() -> int:
    """Fuzz the targets one after another; return 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round; printed")
    options = parser.parse_args()
    failed = []
    for name in options.targets or TARGETS:
        try:
            examples = fuzz(TARGETS[name], 60 * options.minutes, options.seed)
            print(f"{name}: {examples:,} examples, seed {options.seed}", flush=True)
        except Exception:  # of whatever kind: that is what is looked for
            failed.append(name)
            traceback.print_exc()
            print(f"{name}: FAILED, seed {options.seed}", flush=True)
    if failed:
        print(f"keep what failed as a test: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
