"""The table of coverage: what it simulates, and how it is printed."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from bench import __main__ as benchmarks
from bench import coverage


def test_the_moments_of_the_bound_are_those_of_a_large_sample() -> None:
    random = np.random.default_rng(0)
    for name in ("js", "lecam"):
        row = coverage.DIVERGENCES[name]
        value, variance = coverage.moments(name, 2.0, 1.0)
        samples = random.normal(2, 1, 200_000), random.normal(-2, 1, 200_000)
        error = np.sqrt(variance / 200_000)
        assert float(row.bound(*samples)) == pytest.approx(value, abs=4 * error)


def test_changes_keep_their_level_in_the_table_as_in_the_tests() -> None:
    found = list(coverage.differences(0.01))
    assert {row.quantity for row in found} == {"coverage", "mean width", "type I error"}
    assert all(row.n == 40 for row in found)
    assert min(row.value for row in found if row.quantity == "coverage") >= 0.85


def test_rows_of_one_setting_share_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(scale: float) -> Iterator[coverage.Row]:
        yield coverage.Row("rate", "6 clusters", "coverage", 0.95, int(1000 * scale))
        yield coverage.Row("rate", "6 clusters", "mean width", 0.5, int(1000 * scale))

    for name in ("rates", "differences", "divergences", "separations"):
        monkeypatch.setattr(coverage, name, one if name == "rates" else lambda scale: ())
    monkeypatch.setattr(coverage.coverage_verdict, "rows", lambda quick: ())
    table = coverage.as_table(coverage.rows(quick=True)).splitlines()
    assert table[2:] == ["| rate | 6 clusters | coverage 0.95 (100); mean width 0.5 (100) |"]


def test_a_benchmark_runs_by_its_name_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for bench in (coverage, coverage.coverage_verdict):
        monkeypatch.setattr(bench, "main", lambda: calls.append(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["bench", "coverage", "coverage_verdict", "--quick"])
    benchmarks.main()
    assert calls == [["--quick"], ["--quick"]]
    monkeypatch.setattr(sys, "argv", ["bench", "coverrage"])
    with pytest.raises(SystemExit, match="got coverrage, expected names of trainer"):
        benchmarks.main()
