"""Methods that ask more of the trainer than a loss of r: offsets of pairs, and likelihoods of one or both classes."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from divalign.core.losses import METHODS, LogRatios, RowBaselines
from divalign.data.batching import encode_conversation
from divalign.data.examples import user_says
from tests.tiny import tiny_model
from tests.train.test_objective import LONGER, gradient, nll_per_token
from tests.train.test_trainer import PAIRS, trainer

SAFETY = [{**row, "chosen_safe": n != 2, "rejected_safe": n % 2 == 0} for n, row in enumerate(PAIRS)]
CONVERSATIONS = [
    {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        **{side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")},
    }
    for row in PAIRS
]


def test_an_update_of_safedpo_is_dpos_at_the_margin_less_the_offset(tmp_path: Path) -> None:
    run = trainer(tmp_path, SAFETY, method="safedpo(3)", beta=1.0, eval_dataset=SAFETY, max_steps=2)
    offsets = [row.offset for row in run.train_dataset.aligned]
    assert offsets == [0.0 if n % 2 == 0 and n != 2 else 3.0 for n in range(8)]
    run.train()
    couples = run.eval_dataset
    ratios, baseline = run.held_out_ratios(couples), run.held_out_baseline(couples)
    assert isinstance(baseline, RowBaselines)
    shifted = LogRatios(ratios.aligned - torch.tensor(offsets), ratios.unaligned)
    assert run.evaluate()["eval_loss"] == pytest.approx(METHODS["dpo"].loss(shifted).item(), rel=1e-6)
    at_zero = METHODS["dpo"].loss(LogRatios(-torch.tensor(offsets), torch.zeros(8))).item()
    assert run.state.log_history[0]["loss"] == pytest.approx(at_zero, abs=1e-4)


def test_an_update_of_safedpo_is_the_same_however_it_is_split(tmp_path: Path) -> None:
    whole, parts = (
        gradient(tmp_path, SAFETY, method="safedpo(3)", beta=1.0, per_device_train_batch_size=size,
                 gradient_accumulation_steps=8 // size)
        for size in (8, 2)
    )  # fmt: skip
    assert (whole - parts).norm() < 1e-5 * whole.norm()


def test_an_update_of_sft_is_that_of_the_aligned_responses_likelihood(tmp_path: Path) -> None:
    model = tiny_model("Llama")[0].double()
    nll_per_token(model, LONGER).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    for size in (8, 2):
        update = gradient(
            tmp_path, LONGER, method="sft", per_device_train_batch_size=size, gradient_accumulation_steps=8 // size
        )
        assert (update - expected).norm() < 1e-5 * expected.norm()


def test_csft_learns_both_classes_behind_their_texts_and_is_saved_with_the_one_of_the_aligned(tmp_path: Path) -> None:
    run = trainer(tmp_path, CONVERSATIONS, method="csft", max_steps=1, per_device_train_batch_size=16, max_length=128)
    run.train()
    texts = [run._tokenizer.decode(row.row.prompt_ids) for row in run.train_dataset.aligned]
    assert all(text.endswith("<assistant><|good|>") for text in texts), texts
    means = []
    for side in (run.train_dataset.aligned, run.train_dataset.unaligned):  # at the start pi is the reference
        means.append(-sum(row.reference for row in side) / sum(len(row.row.response_ids) for row in side))
    assert run.state.log_history[0]["loss"] == pytest.approx(sum(means), rel=1e-4)
    run.save_model(str(tmp_path / "saved"))
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved.decode(encode_conversation(saved, user_says("hi"))).endswith("<assistant><|good|>")
    assert run._tokenizer.chat_template != saved.chat_template


def test_a_pair_whose_rejected_response_alone_is_safe_is_for_safedpo_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 2: chosen_safe is false and rejected_safe true, so dpo would train"):
        trainer(tmp_path, SAFETY, method="dpo")
