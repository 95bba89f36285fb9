"""Run benchmarks in turn: `python -m bench` runs all, `python -m bench coverage --quick` one with its options.

`coverage` has the rows of `coverage_verdict`, which therefore runs by its own name only.
"""

import importlib
import sys

BENCHES = (
    *("trainer", "scaling", "data", "estimates", "generate", "hidden", "separation", "gcg", "judges", "correction"),
    "coverage",
    *("large", "online", "prefix", "real"),
)
ALONE = ("coverage_verdict",)


def main() -> None:
    names, options = [name for name in sys.argv[1:] if name in BENCHES + ALONE], sys.argv[1:]
    options = [option for option in options if option not in names]
    if options and not names:
        raise SystemExit(f"got {' '.join(options)}, expected names of {', '.join(BENCHES + ALONE)}, then their options")
    for name in names or BENCHES:
        bench = importlib.import_module(f"bench.{name}")
        print(f"== {bench.__name__}: {(bench.__doc__ or '').splitlines()[0]}", flush=True)
        sys.argv[1:] = options
        bench.main()


if __name__ == "__main__":
    main()
