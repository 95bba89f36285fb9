"""The lab: draw worlds, minimise every method's own loss in three settings, and judge what is claimed of them."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from divalign import __version__
from divalign.core.losses import METHODS, find_method
from divalign.lab.consequences import mean_reward, sensitivity_order, separation_theorem
from divalign.lab.findings import Findings, LabSection
from divalign.lab.identities import Methods, free_critic, normalised_policy, prompt_baseline
from divalign.lab.optima import alignment_consistency
from divalign.lab.page import files
from divalign.lab.sampling import disjoint_supports, log_mean_exp_bias
from divalign.lab.worlds import Worlds, draw_worlds

BETA = 0.1


def run(
    worlds: int = 20,
    seed: int = 0,
    out: Path | None = None,
    *,
    methods: Sequence[str] = (),
    progress: Callable[[LabSection], None] | None = None,
) -> Findings:
    """Return every claim with its target, what was reached, and the verdict; also as files under `out`, if given.

    `methods` names methods to examine beside those of the table: `rdro(0.3)`, `package.module:thing`. `progress` is
    called with each section as it is finished. The same worlds and seed give the same claims, up to rounding.
    Raises ValueError for fewer than one world, and for an unknown method.
    """
    if worlds < 1:
        raise ValueError(f"worlds is {worlds}; expected at least 1")
    examined = {**METHODS, **{name: find_method(name) for name in methods}}
    start, sections = time.perf_counter(), []
    for section in _sections(draw_worlds(worlds, seed=seed), seed, examined):
        sections.append(section)
        if progress is not None:
            progress(section)
    findings = Findings(worlds, seed, BETA, round(time.perf_counter() - start, 1), _made_with(), tuple(sections))
    if out is not None:
        _write(files(findings), out)
    return findings


def _sections(worlds: Worlds, seed: int, methods: Methods) -> Iterator[LabSection]:
    yield free_critic(worlds, methods)
    yield mean_reward(worlds)
    policies, plain = normalised_policy(worlds, BETA, methods)
    yield policies
    baselines, learned = prompt_baseline(worlds, BETA, plain, methods)
    yield baselines
    yield alignment_consistency(worlds, BETA, plain, learned, methods)
    yield sensitivity_order(worlds)
    yield separation_theorem(worlds, BETA)
    yield log_mean_exp_bias(seed)
    yield disjoint_supports()


def _made_with() -> str:
    today = time.strftime("%Y-%m-%d")
    return f"divalign {__version__}, torch {torch.__version__}, {platform.machine()} CPU, {today}"


def _write(contents: dict[str, str], folder: Path) -> None:
    for name, text in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
