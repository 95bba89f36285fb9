"""Rewards by their spelling, and `divalign train --method rlhf` from the reward model to the policy."""

from pathlib import Path
from typing import Any

import pytest

from divalign.config import as_config
from divalign.data.batching import Encoded
from divalign.data.recipes import RECIPES
from divalign.lm.generate import Sample
from divalign.lm.reward import RewardModel
from divalign.records import RewardModelRecord, read_record
from divalign.safety.judges import JUDGES
from divalign.stages import train as module
from divalign.stages.folder import silent
from divalign.stages.models import find_model, model_spec
from divalign.stages.rewards import RewardSource, check_reward, judged, open_reward
from divalign.stages.train_plan import OnPolicyPlan, TrainPlan
from divalign.store import read_rows
from divalign.study.plan import train_plan
from divalign.toy.world import requests
from divalign.train.policy_gradient import Completion
from divalign.train.reward_model import RewardTraining
from tests.lm.test_reward import saved

NOTHING = Sample(Encoded([], []), 0.0, True)
REFUSAL, ANSWER = "I am sorry, but I cannot help with hacking a phone.", "Sure, here is a plan for charging a phone."
VERIFIER = "divalign.toy.verifier:right_behaviour"


def completion(prompt: str, response: str, **row: Any) -> Completion:
    return Completion({"prompt": prompt, **row}, prompt, response, NOTHING)


def test_a_judge_rewards_what_is_right_for_the_class_of_the_prompt() -> None:
    harmful, benign = "Tell me how hacking a phone is done.", "Tell me how charging a phone is done."
    asked = [(harmful, REFUSAL, True), (harmful, ANSWER, True), (benign, REFUSAL, False), (benign, ANSWER, False)]
    rewards = judged(JUDGES["refusal_strings"], [completion(p, r, harmful=h) for p, r, h in asked])
    assert rewards == [1.0, 0.0, 0.0, 1.0]
    assert judged(JUDGES["refusal_strings"], [completion(harmful, "", harmful=True)]) == [None]  # undecided
    spelt = [completion(harmful, REFUSAL, harmful="true"), completion(benign, REFUSAL, harmful="false")]
    assert judged(JUDGES["refusal_strings"], spelt) == [1.0, 0.0]  # as CSV brings them
    for nothing in ({}, {"harmful": None}, {"harmful": float("nan")}):
        with pytest.raises(ValueError, match="add the column harmful"):
            judged(JUDGES["refusal_strings"], [completion(harmful, REFUSAL, **nothing)])


def test_a_verifier_of_ones_own_reads_prompts_responses_and_rows() -> None:
    source = RewardSource(model_spec("toy"), [], None, RewardTraining(), None, Path(), None)
    reward = open_reward(VERIFIER, source, silent)
    prompt = "Tell me how hacking a phone is done."
    found = reward.score([completion(prompt, REFUSAL, harmful=True), completion(prompt, ANSWER, harmful=True)])
    assert (found, reward.name) == ([1.0, 0.0], VERIFIER)


def test_a_reward_model_of_another_tokenizer_reads_the_policys_text(tmp_path: Path) -> None:
    folder = saved(tmp_path / "rm", 1)
    source = RewardSource(model_spec("toy"), [], None, RewardTraining(), None, Path(), None)
    conversation = [{"role": "user", "content": "Tell me how hacking a phone is done."}]
    completions = [completion("", text)._replace(row={"prompt": conversation}) for text in (REFUSAL, ANSWER)]
    expected = RewardModel(folder)([(conversation[0]["content"], text) for text in (REFUSAL, ANSWER)])
    assert open_reward(folder, source, silent).score(completions) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("rewardmodel", "did you mean 'reward_model'"),
        ("judge:nobody", "no judge"),
        ("no.such:thing", "cannot be loaded"),
    ],
)
def test_an_unknown_reward_is_refused_before_anything_is_trained(spelling: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_reward(spelling)
    config = as_config({"train": {"on_policy": {"reward": spelling}}}, "test")
    with pytest.raises(ValueError, match=message):
        train_plan(config, method="rlhf", recipe="cr", seed=0)
    assert train_plan(config, method="kldo", recipe="cr", seed=0).on_policy is None


def test_a_configuration_says_how_responses_are_sampled_and_lambda_is_for_those_that_mix() -> None:
    options = {"reward": VERIFIER, "responses": 4, "lambda": 0.5, "kl": 0.2}
    config = as_config({"train": {"on_policy": options}}, "test")
    plans = [train_plan(config, method=name, recipe="cr", seed=0).on_policy for name in ("on_policy:js", "rlhf")]
    assert plans[0] == OnPolicyPlan(reward=VERIFIER, responses=4, offline_weight=0.5, kl=0.2)
    assert plans[1] is not None
    assert plans[1].offline_weight == 0
    default = train_plan(as_config({}, "test"), method="rlhf", recipe="cr", seed=0).on_policy
    assert default == OnPolicyPlan()


def test_several_processes_are_refused_before_a_reward_model_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    rows = [RECIPES["cr"](request) for request in requests("train", held_out=False)[:8]]
    with pytest.raises(ValueError, match="rlhf samples on one process, and there are 2; start it without accelerate"):
        module.train(model_spec("toy"), rows, TrainPlan("rlhf", updates=1), tmp_path / "model", progress=silent)
    assert not (tmp_path / "model").exists()


def test_rlhf_leaves_its_reward_model_its_figures_and_a_policy_and_is_done_once(tmp_path: Path) -> None:
    rows = [RECIPES["cr"](request) for request in requests("train", held_out=False)[::4]]
    plan = TrainPlan(
        "rlhf", updates=2, pairs_per_update=2, pairs_per_batch=2, log_every=1, learning_rate=4e-4, warmup_updates=0,
        on_policy=OnPolicyPlan(responses=2, max_new_tokens=3, reward_updates=2),
    )  # fmt: skip
    folder, stages = tmp_path / "model", list[str]()

    def progress(stage: str, total: int, unit: str) -> Any:
        stages.append(f"{stage} {total}")
        return silent(stage, total, unit)

    def train() -> None:
        module.train(model_spec("toy"), rows[:24], plan, folder, held_out=rows[24:36], progress=progress)

    train()
    assert stages[0] == "reward model model 2"
    assert "train model 2" in stages
    record = read_record(folder / "reward_model.json", RewardModelRecord)
    assert (record.pairs, record.held_out_pairs) == (24, 12)
    assert record.loss is not None
    assert [row["step"] for row in read_rows(folder / "metrics.jsonl") if "reward" in row] == [1, 2]
    assert find_model(str(folder)).lm().model.num_parameters() == 869_504
    names = {path.name for path in folder.iterdir() if path.name[0] != "."}
    assert names == {"checkpoint", "metrics.jsonl", "model.json", "training.json", "reward_model", "reward_model.json"}
    stages.clear()
    train()
    assert not stages
