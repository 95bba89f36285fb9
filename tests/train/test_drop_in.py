"""What a TRL script relies on: honoured, or refused in a sentence."""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from divalign import DivergenceConfig, DivergenceTrainer
from divalign.lm.score import sequence_log_probs
from tests.tiny import tiny_model

PAIRS = [{"prompt": f"Say {i}", "chosen": f" yes {i}" * (1 + i % 3), "rejected": f" no {i}"} for i in range(8)]
UNPAIRED = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row in PAIRS
    for side in ("chosen", "rejected")
]


def trainer(folder: Path, rows: Any = PAIRS, **options: Any) -> DivergenceTrainer:
    model, tokenizer = tiny_model("Llama")
    other = {name: options.pop(name, None) for name in ("ref_model", "eval_dataset", "compute_metrics")}
    settings: dict[str, Any] = {"save_strategy": "no", "max_steps": 2, "logging_steps": 1.0, **options}
    args = DivergenceConfig(
        str(folder / "out"), report_to="none", use_cpu=True, disable_tqdm=True, gradient_checkpointing=False,
        per_device_train_batch_size=4, **settings,
    )  # fmt: skip
    return DivergenceTrainer(model, args=args, train_dataset=rows, processing_class=tokenizer, **other)


def test_evaluation_sets_have_names(tmp_path: Path) -> None:
    made = trainer(tmp_path, eval_dataset={"one": PAIRS, "two": UNPAIRED}, eval_strategy="steps", eval_steps=1.0)
    made.train()
    assert {"eval_one_loss", "eval_two_loss"} <= {name for row in made.state.log_history for name in row}


def test_what_is_not_honoured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compute_metrics would never be called; use held_out_ratios"):
        trainer(tmp_path, compute_metrics=lambda predictions: {})
    with pytest.raises(ValueError, match=r"predict\(\) has no predictions to give"):
        trainer(tmp_path).predict(PAIRS)


def test_the_data_have_a_seed_of_their_own(tmp_path: Path) -> None:
    orders = []
    for seeds in ({"seed": 1, "data_seed": 5}, {"seed": 2, "data_seed": 5}, {"seed": 5}, {"seed": 1}):
        orders.append(list(trainer(tmp_path, **seeds)._get_train_sampler()))
    assert orders[0] == orders[1] == orders[2] != orders[3]


@pytest.mark.parametrize("label", [-1, 2, 0.5, "true", None])
def test_a_label_that_is_not_one_of_two_is_refused(tmp_path: Path, label: Any) -> None:
    with pytest.raises(ValueError, match=r"row 3 has the label .*, expected true or false \(1 or 0\)"):
        trainer(tmp_path, [*UNPAIRED[:3], {**UNPAIRED[3], "label": label}])


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    for kind in (int, float, np.bool_):
        made = trainer(tmp_path, [{**row, "label": kind(row["label"])} for row in UNPAIRED])
        assert len(made.train_dataset.aligned) == 8


def test_accuracies_of_pairs_are_the_pairs_in_order(tmp_path: Path) -> None:
    other = tiny_model("Llama", seed=1)[0]
    made = trainer(tmp_path, ref_model=other, eval_dataset={"pairs": PAIRS, "rows": UNPAIRED})
    aligned, unaligned = made.held_out_ratios(made.eval_dataset["pairs"])[:2]
    found = made.evaluate()
    assert found["eval_pairs_rewards/accuracies"] == float((aligned > unaligned).double().mean())
    table = (aligned[:, None] > unaligned).double() + (aligned[:, None] == unaligned).double() / 2
    assert found["eval_rows_rewards/accuracies"] == pytest.approx(float(table.mean()))
    assert found["eval_rows_rewards/accuracies"] != found["eval_pairs_rewards/accuracies"]


@pytest.mark.parametrize("normaliser", ["exact", "online"])
def test_the_policys_log_probabilities_are_logged(tmp_path: Path, normaliser: str) -> None:
    made = trainer(tmp_path, ref_model=tiny_model("Llama", seed=1)[0], eval_dataset=PAIRS, normaliser=normaliser,
                   gradient_accumulation_steps=2, max_steps=1)  # fmt: skip
    found = made.evaluate()
    for name, side in (("chosen", made.train_dataset.aligned), ("rejected", made.train_dataset.unaligned)):
        expected = sequence_log_probs(made.model, [row.row for row in side], made._pad_id).mean()
        assert found[f"eval_logps/{name}"] == pytest.approx(expected, rel=1e-5)
    made.train()
    for name in ("logps/chosen", "logps/rejected"):
        assert made.state.log_history[0][name] == pytest.approx(found[f"eval_{name}"], rel=1e-5)


def test_a_best_metric_that_rows_do_not_support_is_no_end_of_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = trainer(tmp_path, eval_dataset=PAIRS, metric_for_best_model="divergence/kl")
    with caplog.at_level(logging.WARNING):
        assert not made._determine_best_metric({"eval_loss": 0.0}, None)
    assert "eval_divergence/kl is left out" in caplog.text
    assert made._determine_best_metric({"eval_divergence/kl": 0.1}, None)
    made.args.metric_for_best_model = "accuracy"
    with pytest.raises(ValueError, match="metric_for_best_model is 'accuracy', expected one of loss"):
        made._determine_best_metric({"eval_loss": 0.0}, None)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_configuration_warns_of_no_name_that_it_was_not_given(tmp_path: Path, *, checkpointing: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        args = DivergenceConfig(str(tmp_path), gradient_checkpointing=checkpointing)
    assert args.gradient_checkpointing is checkpointing
