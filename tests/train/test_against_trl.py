"""TRL's own trainers, run beside ours on the same batch; and a TRL script with two imports changed."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from divalign import DivergenceConfig, DivergenceTrainer
from tests.tiny import save_tiny, tiny_model

trl = pytest.importorskip("trl", reason="TRL is not installed: its trainers cannot be run beside ours")

PAIRS = [
    {"prompt": f"question {n}: ", "chosen": f"yes {'a' * (n % 4)} {n}", "rejected": f"no {n * 7 % 5}"} for n in range(8)
]
UNPAIRED = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row in PAIRS
    for side in ("chosen", "rejected")
]
PLAIN_DESCENT = {
    "optim": "sgd",
    "learning_rate": 1.0,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "max_steps": 1,
    "beta": 0.3,
    "report_to": "none",
    "use_cpu": True,
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}


def moved(make: Any, config: Any, rows: list[dict], folder: Path, *, batch: int, reference: Any, **extra: Any) -> Any:
    """Return what one update of plain descent at rate 1 does to the weights: minus the gradient."""
    model, tokenizer = tiny_model("Llama", seed=0)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    args = config(output_dir=str(folder), per_device_train_batch_size=batch, **PLAIN_DESCENT, **extra)
    trainer = make(
        model=model,
        ref_model=reference,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]) - before


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / one.norm())


def test_a_dpo_update_is_trls_also_where_the_reference_is_another_model(tmp_path: Path) -> None:
    found = []
    for make, config, extra in (
        (trl.DPOTrainer, trl.DPOConfig, {"bf16": False}),
        (DivergenceTrainer, DivergenceConfig, {"method": "dpo"}),
    ):
        reference = tiny_model("Llama", seed=1)[0]
        found.append(moved(make, config, PAIRS, tmp_path, batch=8, reference=reference, **extra))
    assert apart(*found) < 1e-5
    assert found[0].norm() > 1e-3


def test_a_kto_update_is_twice_trls_which_averages_rows_where_we_average_classes(tmp_path: Path) -> None:
    theirs = moved(
        trl.KTOTrainer,
        trl.KTOConfig,
        UNPAIRED,
        tmp_path,
        batch=16,
        reference=tiny_model("Llama", seed=0)[0],
        bf16=False,
    )
    ours = moved(DivergenceTrainer, DivergenceConfig, UNPAIRED, tmp_path, batch=16, reference=None, method="kto")
    assert apart(2 * theirs, ours) < 1e-5
    assert ours.norm() > 1e-3


def test_an_anchored_dpo_update_and_its_loss_are_trls_with_loss_type_sft(tmp_path: Path) -> None:
    found, losses = [], []
    for make, config, extra in (
        (trl.DPOTrainer, trl.DPOConfig, {"bf16": False, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.6]}),
        (DivergenceTrainer, DivergenceConfig, {"method": "dpo", "sft_weight": 0.6}),
    ):
        reference, kept = tiny_model("Llama", seed=1)[0], []

        class Keeping(make):  # type: ignore[valid-type, misc]
            def log(self, logs: dict[str, float], *args: Any, kept: list = kept) -> None:
                kept.append(logs.get("loss"))
                super().log(logs, *args)

        found.append(moved(Keeping, config, PAIRS, tmp_path, batch=8, reference=reference, logging_steps=1.0, **extra))
        losses.append(kept[0])
    assert apart(*found) < 1e-5
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (4.0, 1.0), (0.5, 3.0)])
def test_class_weights_are_trls_times_the_share_of_the_class(tmp_path: Path, weights: tuple[float, float]) -> None:
    """Two aligned and eight unaligned rows: TRL averages ten rows, we average each class."""
    rows = [*UNPAIRED[:4:2], *UNPAIRED[1::2]]
    names, share = ("desirable_weight", "undesirable_weight"), (2 / 10, 8 / 10)
    theirs = moved(
        trl.KTOTrainer, trl.KTOConfig, rows, tmp_path, batch=10, reference=tiny_model("Llama", seed=0)[0], bf16=False,
        **dict(zip(names, weights, strict=True)),
    )  # fmt: skip
    here = [weight * part for weight, part in zip(weights, share, strict=True)]
    ours = moved(
        DivergenceTrainer, DivergenceConfig, rows, tmp_path, batch=16, reference=None, method="kto",
        **dict(zip(names, here, strict=True)),
    )  # fmt: skip
    assert apart(theirs, ours) < 1e-5
    assert ours.norm() > 1e-3


@pytest.mark.parametrize("config", ["DPOConfig", "KTOConfig"])
def test_every_argument_that_only_trl_has_is_refused_with_what_to_do_instead(config: str) -> None:
    theirs, ours = getattr(trl, config), {field.name for field in fields(DivergenceConfig)}
    for field in fields(theirs):
        if field.name not in ours:
            with pytest.raises(ValueError, match=f"DivergenceConfig does not take {field.name}: .+"):
                DivergenceConfig("out", **{field.name: True})


@pytest.mark.parametrize("library", ["trl", "divalign"])
def test_a_trl_script_runs_with_two_imports_changed(tmp_path: Path, library: str) -> None:
    if library == "trl":
        from trl import KTOConfig, KTOTrainer
    else:
        from divalign import DivergenceConfig as KTOConfig
        from divalign import DivergenceTrainer as KTOTrainer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_tiny("Qwen2", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train_dataset = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["completion"]}],
                "label": row["label"],
            }
            for row in UNPAIRED
        ]
    )
    training_args = KTOConfig(
        output_dir=str(tmp_path / "out"), use_cpu=True, max_steps=2, logging_steps=1.0, bf16=False
    )
    trainer = KTOTrainer(model=model, args=training_args, processing_class=tokenizer, train_dataset=train_dataset)
    trainer.train()
    logged = {name for row in trainer.state.log_history for name in row}
    assert {"loss", "rewards/chosen", "rewards/rejected", "rewards/margins"} <= logged
    trainer.save_model(str(tmp_path / "saved"))
    assert list((tmp_path / "saved").glob("*.safetensors"))


EQUAL = [{"prompt": f"question {n}: ", "chosen": f"yes {n}a", "rejected": f"no {n * 7 % 5}bc"} for n in range(8)]
NEIGHBOURS = {
    # TRL's loss type and label smoothing; our method, beta over theirs, factor of our loss, and what is added to it.
    # TRL 1.16 reads no label_smoothing with sigmoid, so dpo(0.1) has no counterpart there.
    "sigmoid": (0.0, "dpo", 1.0, 1.0, 0.0),
    "hinge": (0.0, "hinge", 1.0, 1.0, 0.0),
    "ipo": (0.0, "ipo", 1 / 7, 1 / 0.3**2, 0.0),  # TRL divides by the seven tokens of a response, and by beta^2
    "exo_pair": (0.1, "exo(0.1)", 1.0, 1.0, 0.0),
    "nca_pair": (0.0, "nca", 1.0, 1.0, 0.0),
    "robust": (0.1, "robust(0.1)", 1.0, 1.0, 0.0),
    "bco_pair": (0.0, "fdo:js", 1.0, 1.0, 2 * math.log(2)),
    "apo_zero": (0.0, "apo_zero", 1.0, 1.0, 1.0),
    "sft": (0.0, "sft", 1.0, 1.0, 0.0),
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TRL's trainer with its one batch; its loss type is set test by test."""
    model, tokenizer = tiny_model("Llama", seed=0)
    args = trl.DPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")), per_device_train_batch_size=8, bf16=False, **PLAIN_DESCENT
    )
    rows = Dataset.from_list(EQUAL)
    reference = tiny_model("Llama", seed=1)[0]
    trainer = trl.DPOTrainer(
        model=model, ref_model=reference, args=args, train_dataset=rows, processing_class=tokenizer
    )
    return trainer, next(iter(trainer.get_train_dataloader()))


def value_and_gradient(loss: torch.Tensor, model: Any) -> tuple[float, torch.Tensor]:
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return loss.item(), torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("loss_type", NEIGHBOURS)
def test_value_and_gradient_of_a_neighbour_are_trls(theirs: Any, tmp_path: Path, loss_type: str) -> None:
    smoothing, method, beta, factor, constant = NEIGHBOURS[loss_type]
    trainer, batch = theirs
    trainer.loss_types = [loss_type]
    trainer.label_smoothing = smoothing
    expected, gradient = value_and_gradient(trainer.compute_loss(trainer.model, batch), trainer.model)
    model, tokenizer = tiny_model("Llama", seed=0)
    args = DivergenceConfig(
        str(tmp_path), method=method, per_device_train_batch_size=8, **PLAIN_DESCENT | {"beta": 0.3 * beta}
    )
    reference = tiny_model("Llama", seed=1)[0]
    ours = DivergenceTrainer(model, reference, args, Dataset.from_list(EQUAL), processing_class=tokenizer)
    batches, _ = ours.get_batch_samples(iter(ours.get_train_dataloader()), 1, torch.device("cpu"))
    value, moved_by = value_and_gradient(ours.compute_loss(ours.model, batches[0]), ours.model)
    assert factor * value + constant == pytest.approx(expected, rel=1e-4)
    assert apart(gradient, factor * moved_by) < 1e-4
    assert gradient.norm() > 1e-3
