"""The anchor on the aligned responses, the released code's losses and the sign of displacement."""

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from divalign import DivergenceConfig, LogRatios
from divalign.core.losses import METHODS
from divalign.core.paper_code import PAPER_CODE
from divalign.train.accumulation import Step
from divalign.train.displacement import displacement, first_displacement
from divalign.train.objective import Objective, ReleasedAverage
from tests.tiny import tiny_model
from tests.train.anchored_process import moved
from tests.train.test_trainer import PAIRS, UNPAIRED, trainer, weights

LONGER = [{**row, "chosen": row["chosen"] * (1 + n % 3)} for n, row in enumerate(PAIRS)]


def gradient(folder: Path, rows: list, **options: Any) -> torch.Tensor:
    """One update of plain descent at rate 1, in float64: minus the gradient."""
    model = tiny_model("Llama")[0].double()
    run = trainer(folder, rows, model=model, **{"learning_rate": 1.0, **options})
    before = weights(run)
    run.train()
    return before - weights(run)


def nll_per_token(model: Any, rows: list[dict]) -> torch.Tensor:
    """The mean negative log-likelihood of all tokens of the aligned responses, by its definition."""
    tokenizer, parts = tiny_model("Llama")[1], []
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = torch.tensor([prompt + tokenizer(row["chosen"] + tokenizer.eos_token)["input_ids"]])
        log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        parts.append(log_probs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :])
    return -torch.cat(parts).mean()


@pytest.mark.parametrize("method", ["kldo", "bco", "dpo", "fdo:lecam"])
def test_the_anchor_adds_the_gradient_of_the_mean_likelihood_per_token(tmp_path: Path, method: str) -> None:
    model = tiny_model("Llama")[0].double()
    nll = nll_per_token(model, LONGER)
    nll.backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    bare, anchored = (gradient(tmp_path, LONGER, method=method, sft_weight=weight) for weight in (0.0, 0.7))
    assert (anchored - bare - 0.7 * expected).norm() < 1e-5 * expected.norm()  # Llama's norms work in float32
    run = trainer(tmp_path, LONGER, method=method, sft_weight=0.7)
    run.train()
    logged = run.state.log_history[0]
    assert logged["nll/chosen"] == pytest.approx(nll.item(), rel=1e-5)
    at_zero = METHODS[method].loss(LogRatios(torch.zeros(2), torch.zeros(2))).item()
    assert logged["loss"] == pytest.approx(at_zero + 0.7 * nll.item(), rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"normaliser": "online"}, {"method": "dpo"}, {"variant": "paper_code"}])
def test_an_anchored_update_is_the_same_however_it_is_split(tmp_path: Path, options: dict) -> None:
    """The second update, at which r is no longer 0; chosen responses of unequal length. A released loss has none."""
    found = [
        gradient(
            tmp_path, LONGER, sft_weight=2.0, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size,
            max_steps=1 if "variant" in options else 2, learning_rate=1e-2, **options,
        )
        for size in (8, 4, 1)
    ]  # fmt: skip
    for other in found[1:]:
        assert (other - found[0]).norm() < 1e-5 * found[0].norm()


def test_a_weight_of_zero_is_the_papers_objective_bit_for_bit() -> None:
    r = torch.randn(6, dtype=torch.float64)
    ratios, step = LogRatios(r[:3], r[3:]), Step(None, 3.0, 30.0)
    for name, method in METHODS.items():
        objective = Objective(DivergenceConfig("out", method=name))
        if any(method.likelihood):
            continue
        found = objective.loss(ratios, torch.full((6,), torch.nan), step)
        assert torch.equal(found, method.loss(ratios)), name


def test_unpaired_rows_are_anchored_on_their_aligned_class_alone(tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "kto", "per_device_train_batch_size": 16}
    bare, anchored = (gradient(tmp_path, UNPAIRED, sft_weight=weight, **options) for weight in (0.0, 0.5))
    model = tiny_model("Llama")[0].double()
    nll_per_token(model, PAIRS).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert (anchored - bare - 0.5 * expected).norm() < 1e-5 * expected.norm()


def test_two_processes_make_the_anchored_update_of_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    module = ["-m", "tests.train.anchored_process", str(tmp_path)]
    done = subprocess.run([*command, *module], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one = moved(tmp_path, batch=16)
    assert (one - torch.load(tmp_path / "two.pt")).norm() < 1e-6 * one.norm()


@pytest.mark.parametrize("method", list(PAPER_CODE))
def test_the_variant_trains_with_the_released_loss_and_its_average(tmp_path: Path, method: str) -> None:
    seen: list[LogRatios] = []
    run = trainer(tmp_path, PAIRS, method=method, variant="paper_code", beta=2.0, max_steps=5,
                  per_device_train_batch_size=2, gradient_accumulation_steps=1)  # fmt: skip
    released = run.objective.released
    run.objective.released = lambda ratios, average: seen.append(ratios) or released(ratios, average)
    run.train()
    average, losses = None, []
    for update, ratios in enumerate(seen):
        loss, average = PAPER_CODE[method](ratios, None if update == 4 else average)  # an epoch of four updates
        losses.append(loss.item())
    logged = [row["loss"] for row in run.state.log_history if "loss" in row]
    assert logged == pytest.approx(losses, abs=2e-4)  # Trainer rounds its loss


def test_the_released_average_survives_a_stop_and_not_an_epoch() -> None:
    class State:
        epoch, stateful_callbacks = 0.5, {"ReleasedAverage": {"attributes": {"values": [2.0, 3.0], "epoch": 0}}}

    average, state = ReleasedAverage(), State()
    average.on_train_begin(SimpleNamespace(process_index=1), state, None)
    average.on_epoch_begin(None, state, None)
    assert average.value == 3.0
    state.epoch = 1.0
    average.on_epoch_begin(None, state, None)
    assert average.value is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "dpo"}, "is for kldo and bco, got dpo"),
        ({"normaliser": "ema"}, "its own moving average"),
        ({"desirable_weight": 2.0}, "no class weights"),
        ({"variant": "code"}, "expected one of paper, paper_code"),
        ({"sft_weight": -1.0}, "sft_weight is -1.0"),
    ],
)
def test_a_variant_or_anchor_that_cannot_be_is_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DivergenceConfig("out", **{"variant": "paper_code", **options})


def test_displacement_is_seen_in_log_ratios_and_in_held_out_likelihood() -> None:
    train = {"nll/chosen": 2.0, "rewards/chosen": -0.49}
    assert displacement(train, beta=0.1) is None
    assert displacement(train, beta=0.01) is not None
    held_out = {"eval_a_nll/chosen": 2.1, "eval_a_nll/chosen_reference": 2.0, "eval_a_rewards/chosen": 0.0}
    assert "2.10 nats a token, above the reference's 2.00" in str(displacement(held_out, beta=0.1))
    assert displacement({**held_out, "eval_a_nll/chosen": 2.001}, beta=0.1) is None
    assert displacement({"train_loss": 1.0}, beta=0.1) is None
    assert first_displacement([train, {**held_out, "step": 7}], beta=0.1).startswith("at update 7 the negative")
    assert first_displacement([train], beta=0.1) is None


def test_a_training_that_unlearns_the_aligned_responses_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alike = [{"prompt": f"q {n}", "chosen": f"aaaa {n}", "rejected": f"aaab {n} bbbbb"} for n in range(8)]
    run = trainer(tmp_path, alike, beta=0.1, max_steps=12, learning_rate=2.0, max_grad_norm=1.0)
    with caplog.at_level(logging.WARNING):
        run.train()
    assert caplog.text.count("displacement: log(pi / pi_ref) of the aligned responses is") == 1
    calm = trainer(tmp_path, alike, beta=0.1, max_steps=12, learning_rate=0.1, max_grad_norm=1.0, sft_weight=5.0)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        calm.train()
    assert "displacement" not in caplog.text
