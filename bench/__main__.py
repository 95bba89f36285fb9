"""Run every benchmark in turn."""

from bench import data, estimates, gcg, generate, judges

for bench in (data, estimates, generate, gcg, judges):
    print(f"== {bench.__name__}: {(bench.__doc__ or '').splitlines()[0]}", flush=True)
    bench.main()
