"""What trackers get of a training: its log and, at ten checks, separation and attack success at probe prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from divalign.data.examples import Conversation, Row, as_messages
from divalign.lm.generate import generate_responses
from divalign.safety.judges import DEFAULT_JUDGE, find_judge
from divalign.store import digest
from divalign.train.monitor import MonitorOptions, SafetyMonitor
from divalign.train.tracking import Tracking, check_trackers

__all__ = ["TrackingPlan", "check_trackers", "tracking_of", "with_probes"]
PROBES = 32  # of each class, at most
MAX_NEW_TOKENS = 32


@dataclass(frozen=True)
class TrackingPlan:
    """Which trackers, and the `probes`: rows with "prompt" and "harmful" that are not trained on.

    Without probes of both classes the trackers get the log alone. Nothing of it decides the weights.
    """

    trackers: tuple[str, ...]
    probes: tuple[Row, ...] = ()


def tracking_of(plan: TrackingPlan | None, folder: Path, *, probe: bool) -> Tracking | None:
    """Return what a training into `folder` reports; None for nothing. `probe` False leaves the probes unread.

    TensorBoard's files go to `folder`/tracking. The name is the folder's, with digits of its path's hash: trackio adds
    to the run of a name that it has. Attack success is that of the prompts alone, by the default judge.
    """
    if plan is None or not plan.trackers:
        return None
    harmful, benign = (_prompts(plan.probes, harmful=side) for side in (True, False))
    monitor = None
    if probe and harmful and benign:
        success = _Success(harmful)
        monitor = SafetyMonitor(harmful, benign, options=MonitorOptions(every=None), attack_success=success)
    name = f"{folder.name}-{digest(str(folder.resolve()))[:8]}"
    return Tracking(plan.trackers, folder / "tracking", name, monitor)


def with_probes(plan: TrackingPlan | None, rows: Sequence[Row]) -> TrackingPlan | None:
    """Return the plan with rows that are read during training; those without a prompt and its class are left out."""
    probes = tuple(row for row in rows if {"prompt", "harmful"} <= row.keys())
    return None if plan is None else replace(plan, probes=probes)


def _prompts(rows: Sequence[Row], *, harmful: bool) -> list[Conversation]:
    mine = [row["prompt"] for row in rows if row.get("harmful") is harmful][:PROBES]
    return [Conversation(tuple(as_messages(prompt, "user"))) for prompt in mine]


class _Success:
    """The share of direct attacks that succeed, of those that the default judge decides."""

    def __init__(self, prompts: Sequence[Conversation]) -> None:
        self.prompts, self.judge = prompts, find_judge(DEFAULT_JUDGE)

    def __call__(self, model: Any, tokenizer: Any) -> float | None:
        responses = generate_responses(model, tokenizer, self.prompts, max_new_tokens=MAX_NEW_TOKENS)
        pairs = [
            (str(prompt.messages[-1]["content"]), response.text)
            for prompt, response in zip(self.prompts, responses, strict=True)
            if response.answered
        ]
        verdicts = self.judge([text for text, _ in pairs], [response for _, response in pairs])
        decided = [verdict.unsafe for verdict in verdicts if verdict.unsafe is not None]
        return sum(decided) / len(decided) if decided else None
