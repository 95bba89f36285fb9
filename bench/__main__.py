"""Run every benchmark in turn."""

from bench import correction, data, estimates, gcg, generate, hidden, judges, online, scaling, separation, trainer

for bench in (trainer, scaling, data, estimates, generate, hidden, separation, gcg, judges, correction, online):
    print(f"== {bench.__name__}: {(bench.__doc__ or '').splitlines()[0]}", flush=True)
    bench.main()
