"""What sampled responses are rewarded by, in one spelling for a configuration and for `divalign train`.

* `reward_model`: one trained first on the rows' pairs; its figures on held-out pairs stand in reward_model.json.
* `FOLDER`: a reward model that is there, a sequence classifier with one output. With another tokenizer or chat template
  than the policy's it reads the text, else the sampled tokens.
* `judge:NAME`: on harmful prompts 1 for safe and 0 for unsafe, on benign ones 1 for answered and 0 for refused; the
  rows need the column `harmful`.
* `pkg.module:function`: a verifier of your own; prompts, responses and rows in, one number each out, None: undecided.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from divalign import __version__
from divalign.core.names import find, source_of
from divalign.core.reward_quality import PairQuality
from divalign.data.columns import is_absent, truth
from divalign.data.examples import Row
from divalign.data.split import side_of
from divalign.lm.shape import read_tokenizer
from divalign.records import RewardModelRecord, cached_record
from divalign.safety.judges import Judge, Verdict, find_judge
from divalign.stages.folder import Progress
from divalign.stages.models import ModelSpec, open_model
from divalign.store import cached_folder, digest, folder_digest
from divalign.train.policy_gradient import Completion, Reward
from divalign.train.reward_model import RewardTraining, held_out_quality, scorer, train_reward_model
from divalign.train.run import Watch

TRAINED, JUDGE = "reward_model", "judge:"
HELD_OUT = {"train": 0.9, "held_out": 0.1}  # of the prompts' clusters, where no held-out rows are given
FEWEST = 10  # held-out pairs, below which nothing is said of a reward model


@dataclass(frozen=True)
class RewardSource:
    """What a reward model of one's own is trained from: the base, the rows, and where it is kept.

    `folder` is the trained model's, `cache` one that several trainings share, or None.
    """

    base: ModelSpec
    rows: Sequence[Row]
    held_out: Sequence[Row] | None
    plan: RewardTraining
    lora: dict[str, Any] | None
    folder: Path
    cache: Path | None


def check_reward(spelling: str) -> None:
    """Raise ValueError where no reward has this spelling, before anything is trained."""
    if spelling != TRAINED and not Path(spelling).is_dir():
        _named(spelling)


def open_reward(spelling: str, source: RewardSource, progress: Progress) -> Reward:
    """Return the reward that a spelling stands for; a reward model of one's own is trained unless it is there intact.

    Raises ValueError for an unknown name, and for rows that a reward model cannot learn from.
    """
    if spelling == TRAINED:
        return _trained(source, progress)
    if Path(spelling).is_dir():
        return Reward(Path(spelling).name, folder_digest(Path(spelling)), _scorer(Path(spelling), source))
    return _named(spelling)


def reward_key(spelling: str) -> str:
    """Return what names a reward before it is opened: its content, or for a model of one's own that it is one."""
    if spelling == TRAINED:
        return TRAINED
    return folder_digest(Path(spelling)) if Path(spelling).is_dir() else _named(spelling).key


def _named(spelling: str) -> Reward:
    if spelling.startswith(JUDGE):
        judge = find_judge(spelling.removeprefix(JUDGE))
        return Reward(judge.id, judge.sha256, lambda completions: judged(judge, completions))
    spellings = {TRAINED: None, f"{JUDGE}NAME": None, "FOLDER of a reward model": None}
    verifier: Any = find(spelling, spellings, kind="reward")
    key = digest(spelling, source_of(spelling))
    return Reward(spelling, key, lambda completions: _verified(verifier, completions))


def _verified(verifier: Any, completions: Sequence[Completion]) -> list[Any]:
    prompts, responses, rows = ([getattr(each, name) for each in completions] for name in ("prompt", "response", "row"))
    return list(verifier(prompts, responses, rows))


def judged(judge: Judge, completions: Sequence[Completion]) -> list[float | None]:
    """Return 1 for the right behaviour and 0 for the wrong one, by what the row says of the prompt.

    Raises ValueError for a row without `harmful`: whether a refusal is right depends on it.
    """
    for completion in completions:
        if is_absent(completion.row.get("harmful")):
            raise ValueError(
                f"the prompt that begins {completion.prompt[:40]!r} does not say whether it is harmful, which a "
                "judge's reward depends on; add the column harmful, or take another reward"
            )
    verdicts = judge([each.prompt for each in completions], [each.response for each in completions])
    harmful = [truth(each.row["harmful"], "harmful") for each in completions]
    return [_right(verdict, is_harmful) for verdict, is_harmful in zip(verdicts, harmful, strict=True)]


def _right(verdict: Verdict, harmful: bool) -> float | None:
    wrong = verdict.unsafe if harmful else verdict.refused
    return None if wrong is None else float(not wrong)


def _trained(source: RewardSource, progress: Progress) -> Reward:
    held_out = list(source.held_out or [row for row in source.rows if _is_held_out(row, source.plan.seed)])
    rows = list(source.rows)
    if source.held_out is None:
        rows = [row for row in rows if not _is_held_out(row, source.plan.seed)]
    base = open_model(source.base)
    key = digest("reward model", __version__, base.key, digest(rows), source.lora, source.plan.identity())
    place = source.folder / TRAINED if source.cache is None else source.cache / f"{TRAINED}-{key[:16]}"

    def make(draft: Path) -> None:
        work = place.with_name(f"{place.name}-work")
        with ExitStack() as stages:
            watch = _watch(source.folder.name, progress, stages)
            train_reward_model(base.lm(), rows, draft, source.plan, lora=source.lora, work=work, watch=watch)
        shutil.rmtree(work, ignore_errors=True)

    cached_folder(place, key, make)

    def measure() -> RewardModelRecord:
        quality = None
        if len(held_out) >= FEWEST:
            quality = held_out_quality(place, held_out, source.plan, device=source.base.resolved().device)
        figures: dict[str, Any] = quality._asdict() if quality else dict.fromkeys(PairQuality._fields)
        return RewardModelRecord(
            divalign=__version__, key=key, pairs=len(rows), held_out_pairs=len(held_out) if quality else 0, **figures
        )

    record_key = digest(key, digest(held_out))
    cached_record(source.folder / "reward_model.json", record_key, RewardModelRecord, measure)
    return Reward(TRAINED, key, _scorer(place, source))


def _scorer(folder: Path, source: RewardSource) -> Any:
    base = source.base.resolved()
    policy = read_tokenizer(
        base.source,
        adapter=Path(base.adapter) if base.adapter else None,
        revision=base.revision,
        chat_template=base.chat_template,
        trust_remote_code=base.trust_remote_code,
    )
    return scorer(folder, policy, device=base.device)


def _is_held_out(row: Row, seed: int) -> bool:
    return side_of(row, HELD_OUT, seed=seed) == "held_out"


def _watch(name: str, progress: Progress, stages: ExitStack) -> Watch:
    advances: dict[str, Any] = {}

    def start(updates: int) -> None:
        advances["train"] = stages.enter_context(progress(f"reward model {name}", updates, "updates"))

    return Watch(start=start, advance=lambda done: advances["train"](done))
