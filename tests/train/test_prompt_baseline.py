"""A baseline of the prompt: exact however an update is split, kept in the checkpoint, read out beside r."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from divalign import DivergenceConfig, DivergenceTrainer, LogRatios
from divalign.core.baselines import critic
from divalign.core.losses import METHODS, RowBaselines, find_method
from divalign.core.optimum import Optimum
from divalign.data.batching import Encoded
from divalign.lab.worlds import draw_worlds, pointwise_rows
from divalign.lm.layout import lay_out
from divalign.lm.load import load_lm
from divalign.lm.score import attach
from divalign.stages.estimate import EstimatePlan, estimate
from divalign.stages.models import find_model
from divalign.train.prompt_baseline import FILE, PromptBaseline, ends_of, load_head
from tests.tiny import save_tiny, tiny_model
from tests.train.test_resume import train
from tests.train.test_trainer import PAIRS, UNPAIRED, trainer, weights

POINTWISE = ["kldo", "bco", "fdo:lecam"]
FAST = {"baseline": "prompt", "baseline_learning_rate": 1.0}


def head_of(run: DivergenceTrainer) -> torch.Tensor:
    assert run._head is not None
    return torch.cat([parameter.detach().flatten().double() for parameter in run._head.parameters()])


def run_to_the_end(folder: Path, rows: list, **options: Any) -> DivergenceTrainer:
    settings = {**FAST, "max_steps": 2, "beta": 1.0, **options}
    run = trainer(folder, rows, model=tiny_model("Llama")[0].double(), **settings)
    run.train()
    return run


@pytest.mark.parametrize("method", POINTWISE)
def test_accumulation_changes_no_step_of_policy_and_baseline(tmp_path: Path, method: str) -> None:
    splits = [{"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size} for size in (8, 2)]
    runs = [run_to_the_end(tmp_path, PAIRS, method=method, **split) for split in splits]
    start = weights(trainer(tmp_path, PAIRS))
    moved, learned = (weights(runs[0]) - start).norm(), head_of(runs[0])
    assert moved > 1e-4
    assert learned.norm() > 1e-3
    for other in runs[1:]:
        assert (weights(other) - weights(runs[0])).norm() < 1e-5 * moved
        assert (head_of(other) - learned).norm() < 1e-5 * learned.norm()  # the head computes in float32


def test_shared_prompts_and_padded_rows_learn_the_same(tmp_path: Path) -> None:
    runs = [run_to_the_end(tmp_path, PAIRS, share_prompts=share) for share in (True, False)]
    assert runs[0]._share
    assert (head_of(runs[0]) - head_of(runs[1])).norm() < 1e-5 * head_of(runs[0]).norm()
    assert (weights(runs[0]) - weights(runs[1])).norm() < 1e-5


@pytest.mark.parametrize("share", [True, False])
def test_the_state_is_that_of_the_prompts_last_token_in_every_layout(share: bool) -> None:
    model = attach(tiny_model("Llama")[0])
    rows = [Encoded([9, 10, 11], [12, 13]), Encoded([9, 10, 11], [14]), Encoded([20, 21], [22, 23, 24])]
    inputs = lay_out(rows, 0, share=share).inputs()
    outputs = model(**inputs, prompt_ends=ends_of(inputs))
    for row, state in zip(rows, outputs.prompt_states, strict=True):
        alone = model.model(input_ids=torch.tensor([row.prompt_ids])).last_hidden_state[0, -1]
        torch.testing.assert_close(state, alone, rtol=1e-4, atol=1e-5)
    head = PromptBaseline(outputs.prompt_states.shape[1])
    head(outputs.prompt_states).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_end_of_a_prompt_is_found_though_responses_stand_between() -> None:
    inputs = lay_out([Encoded([1, 2], [3, 4]), Encoded([1, 2], [5]), Encoded([6], [7])], 0, share=True).inputs()
    assert inputs["input_ids"].flatten()[ends_of(inputs)].tolist() == [2, 2, 6]


def test_a_policy_moves_through_r_alone(tmp_path: Path) -> None:
    """At r = b = 0 the first step of the policy is the one without a baseline, since the state is detached."""
    with_baseline, without = (
        run_to_the_end(tmp_path, PAIRS, method="hdo", max_steps=1, **options)
        for options in ({}, {"baseline": "own", "baseline_learning_rate": 0.1})
    )
    assert (weights(with_baseline) - weights(without)).norm() < 1e-9


def test_an_unpaired_lora_run_learns_a_baseline_and_the_checkpoint_loads_without_it(tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    run = trainer(tmp_path / "out", UNPAIRED, **FAST, peft_config=config, max_steps=3, eval_dataset=UNPAIRED)
    run.train()
    run.save_model(str(tmp_path / "saved"))
    stored = load_head(tmp_path / "saved")
    assert stored is not None
    torch.testing.assert_close(stored.weight, run._head.weight)
    assert stored.weight.norm() > 0
    assert load_head(tmp_path) is None
    folder = save_tiny("Llama", tmp_path / "base")
    lm = load_lm(str(folder), adapter=tmp_path / "saved")
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(lm.model(input_ids=ids).logits, run.model(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """It stops between two rows of the log, of which the second reads baselines of updates before and after."""
    model, options = str(save_tiny("Llama", tmp_path / "tiny")), {**FAST, "logging_steps": 5.0}
    for folder, stops in (("whole", ()), ("stopped", (4,))):
        for stop in stops:
            train(model, tmp_path / folder, stop=stop, **options)
            assert (tmp_path / folder / "work" / "checkpoint-3" / FILE).is_file()
        train(model, tmp_path / folder, **options)
    for name in ("model.safetensors", FILE):
        whole, resumed = ((tmp_path / folder / "model" / name).read_bytes() for folder in ("whole", "stopped"))
        assert whole == resumed, name
    settings = json.loads((tmp_path / "whole" / "model" / "training.json").read_text())
    assert settings["baseline"] == "prompt"


def test_the_log_and_the_evaluation_show_the_critic_beside_r(tmp_path: Path) -> None:
    held_out = [{**row, "prompt": f"other {n}", "cluster": str(n)} for n, row in enumerate(PAIRS * 2)]
    run = trainer(tmp_path, PAIRS, **FAST, max_steps=4, beta=1.0, learning_rate=0.1, eval_dataset=held_out)
    run.train()
    logged, measured = run.state.log_history[2], run.evaluate()
    shifts = [logged[f"critic/{side}"] - logged[f"rewards/{side}"] for side in ("chosen", "rejected")]
    assert logged["baseline/mean"] == pytest.approx(sum(shifts) / 2, abs=1e-5)
    ratios, baseline = run.held_out_ratios(run.eval_dataset), run.held_out_baseline(run.eval_dataset)
    assert isinstance(baseline, RowBaselines)
    assert measured["eval_loss"] == pytest.approx(run.method.loss(ratios, baseline).item())
    values = critic(ratios, baseline)
    assert measured["eval_critic/chosen"] == pytest.approx(values.aligned.double().mean().item())
    for name in ("js", "hellinger"):
        assert measured[f"eval_critic/divergence/{name}_low"] <= measured[f"eval_critic/divergence/{name}"]
    assert measured["eval_rewards/chosen"] == pytest.approx(ratios.aligned.double().mean().item())


def test_an_estimate_shows_what_the_critic_with_its_baseline_proves_beside_r(tmp_path: Path) -> None:
    """Measured on the rows that were trained on: then nothing separates training from held-out rows."""
    rows = [{**row, "prompt": f"{row['prompt']}, {n}"} for n, row in enumerate(PAIRS * 2)]
    base = str(save_tiny("Llama", tmp_path / "tiny"))
    train(base, tmp_path / "out", rows=rows, beta=1.0, **FAST)
    policy, plan = tmp_path / "out" / "model", EstimatePlan(divergences=("js", "kl"), beta=1.0, split=False)
    record = estimate(rows, find_model(str(policy)), find_model(base), plan, tmp_path / "read", trained_on=rows)
    assert record.with_baseline is not None
    for name in plan.divergences:
        by_r, by_critic = record.divergences[name], record.with_baseline[name]
        assert by_r.bound != by_critic.bound
        assert by_critic.overfit_gap == pytest.approx(0.0)
        assert by_critic.train_bound == pytest.approx(by_critic.bound)
    own = estimate(rows, find_model(base), find_model(base), plan, tmp_path / "base")
    assert own.with_baseline is None
    assert "with_baseline" not in own.plain()
    assert own.divergences["js"].train_bound is None


@pytest.mark.parametrize("name", ["kldo+prompt", "bco+prompt", "hdo+prompt", "fdo:lecam+prompt"])
def test_a_normalised_policy_with_the_trained_head_reaches_the_divergence(name: str) -> None:
    """The head on states of random prompts, and the policy, by L-BFGS in float64: gap <= 1e-6, and > 1e-3 without."""
    method, worlds, beta = find_method(name), draw_worlds(1, seed=3), 0.1
    optimum = method.optimum
    assert isinstance(optimum, Optimum)
    target = float(optimum.value(worlds.aligned, worlds.unaligned).mean())
    aligned, unaligned = (rows[0] for rows in pointwise_rows(worlds))
    states = torch.randn(worlds.aligned.shape[1], 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_reference, responses = worlds.reference[0].log(), worlds.aligned.shape[2]

    def reached(head: PromptBaseline | None) -> float:
        logits = torch.zeros_like(log_reference, requires_grad=True)
        parameters = [logits, *(head.parameters() if head else [])]
        solver = torch.optim.LBFGS(
            parameters, lr=1, max_iter=4000, max_eval=8000, tolerance_grad=1e-12, tolerance_change=1e-16,
            history_size=50, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def loss() -> torch.Tensor:
            r = logits - beta * torch.logsumexp(logits / beta + log_reference, -1, keepdim=True)
            b = head(states) if head else torch.zeros(len(states), dtype=torch.float64)
            rows = LogRatios(r.flatten()[aligned], r.flatten()[unaligned])
            return method.loss(rows, RowBaselines(-b[aligned // responses], -b[unaligned // responses]))

        def step() -> torch.Tensor:
            solver.zero_grad()
            value = loss()
            value.backward()
            return value

        solver.step(step)
        return -loss().item()

    assert target - reached(PromptBaseline(32).double()) == pytest.approx(0, abs=1e-6)
    assert target - reached(None) > 1e-3


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.paired])
def test_paired_methods_refuse_it_in_a_sentence(method: str) -> None:
    with pytest.raises(ValueError, match=f"{method}.* from which a baseline of the prompt cancels"):
        DivergenceConfig("out", method=method, baseline="prompt")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"baseline": "promt"}, "expected one of own, prompt"),
        ({"baseline_learning_rate": 0.5}, "has no effect; set baseline='prompt'"),
        ({"baseline": "prompt", "baseline_learning_rate": -1.0}, "expected above 0"),
        ({"baseline": "prompt", "normaliser": "ema"}, "has no baseline; leave it out"),
        ({"baseline": "prompt", "variant": "paper_code"}, "is for kldo and bco"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DivergenceConfig("out", **options)


def test_an_optimizer_of_ones_own_would_not_train_the_head(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("Llama")
    args = DivergenceConfig(str(tmp_path), baseline="prompt", use_cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="leave optimizers out"):
        DivergenceTrainer(
            model, args=args, train_dataset=PAIRS, processing_class=tokenizer, optimizers=(optimizer, None)
        )
