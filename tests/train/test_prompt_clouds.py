"""`method: separate` moves the hidden states of prompts apart, and its update is that of the whole step's clouds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from divalign.core.bhattacharyya import Gaussian, bhattacharyya
from divalign.core.cloud_distance import cloud_distance, plane_axes
from divalign.core.separation import plane
from divalign.data.examples import user_says
from divalign.lm.hidden import hidden_states
from divalign.lm.load import LM
from divalign.lm.next_token import next_token_distributions
from divalign.train.run import train_and_save
from tests.tiny import tiny_model
from tests.train.test_trainer import trainer, weights

WORDS = ("apple", "river", "stone", "cloud", "table", "bread", "glass", "horse")


def row(number: int, *, harmful: bool) -> dict[str, Any]:
    word = WORDS[number % len(WORDS)]
    prompt = f"{'break' if harmful else 'paint'} the {word} {number}"
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": f"no {word}" if harmful else f"yes {word}"}],
        "rejected": [{"role": "assistant", "content": f"yes {word}" if harmful else f"no {word}"}],
        "harmful": harmful,
    }


ROWS = [row(number, harmful=harmful) for number in range(8) for harmful in (True, False)]
HELD_OUT = [row(number, harmful=harmful) for number in range(20, 36) for harmful in (True, False)]
UNPAIRED = [
    {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen", "harmful": pair["harmful"]}
    for pair in ROWS
    for side in ("chosen", "rejected")
]


def states_of(model: Any, rows: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Return the last layer's states, as they are measured, of the benign and of the harmful prompts."""
    conversations = [user_says(row["prompt"][0]["content"]) for row in rows]
    states = hidden_states(model, tiny_model()[1], conversations)["generation"][-1]
    harmful = np.array([row["harmful"] for row in rows])
    return states[~harmful], states[harmful]


def paper_distance(model: Any, rows: list[dict]) -> float:
    return bhattacharyya(*(Gaussian(p.mean(axis=0), np.cov(p, rowvar=False)) for p in plane(*states_of(model, rows))))


def update(folder: Path, rows: list, **options: Any) -> tuple[torch.Tensor, dict[str, float]]:
    """Return two updates of plain descent in float64, and the first row of the log."""
    model = tiny_model("Llama")[0].double()
    settings = {"per_device_train_batch_size": 16, "learning_rate": 1e-3, "max_steps": 2, **options}
    run = trainer(folder, rows, method="separate", model=model, **settings)
    before = weights(run)
    run.train()
    return weights(run) - before, run.state.log_history[0]


def test_the_first_step_reads_the_states_that_the_indicator_reads(tmp_path: Path) -> None:
    model = tiny_model("Llama")[0]
    benign, harmful = states_of(model, ROWS)
    states = torch.tensor(np.concatenate([benign, harmful])).double()
    labels = torch.arange(len(states)) >= len(benign)
    expected = float(cloud_distance(states, labels, plane_axes(states, labels)))
    logged = update(tmp_path, ROWS)[1]
    assert logged["separation/bhattacharyya"] == pytest.approx(expected, rel=1e-4)
    assert logged["loss"] == pytest.approx(-np.log1p(expected), rel=1e-3)  # r is 0
    assert logged["rewards/chosen"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("rows", [ROWS, UNPAIRED], ids=["pairs", "unpaired"])
def test_an_update_is_the_same_however_it_is_split(tmp_path: Path, rows: list) -> None:
    """The clouds are those of the whole step, at 1 x 16, 4 x 4 and 16 x 1, with and without shared prompts."""
    unit = 1 if rows is ROWS else 2
    moved = [
        update(
            tmp_path, rows, per_device_train_batch_size=size * unit, gradient_accumulation_steps=16 // size,
            share_prompts=size != 4,
        )
        for size in (16, 4, 1)
    ]  # fmt: skip
    assert moved[0][0].norm() > 1e-5
    for other, log in moved[1:]:
        assert (other - moved[0][0]).norm() < 1e-5 * moved[0][0].norm()
        assert log["separation/bhattacharyya"] == pytest.approx(moved[0][1]["separation/bhattacharyya"], rel=1e-5)


def test_the_gradient_is_the_finite_difference_of_the_logged_loss(tmp_path: Path) -> None:
    """At r = 0 the anchor is flat, so an update moves down the slope of -log(1 + D) by its squared length."""
    rate = 1e-4
    moved, first = update(tmp_path, ROWS, learning_rate=rate, max_steps=1)
    model = tiny_model("Llama")[0].double()
    with torch.no_grad():
        start = 0
        for parameter in model.parameters():
            parameter += moved[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
    benign, harmful = states_of(model, ROWS)
    base_benign, base_harmful = states_of(tiny_model("Llama")[0].double(), ROWS)
    labels = torch.arange(len(ROWS)) >= len(benign)
    before, after = (
        torch.tensor(np.concatenate(pair)).double() for pair in ((base_benign, base_harmful), (benign, harmful))
    )
    axes = plane_axes(before, labels)
    fall = float(torch.log1p(cloud_distance(after, labels, axes)) - torch.log1p(cloud_distance(before, labels, axes)))
    assert fall == pytest.approx(float(moved.square().sum()) / rate, rel=0.02)
    assert first["separation/bhattacharyya"] > 0


@pytest.mark.parametrize("method", ["separate", "separate(1)"])
@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}])
def test_training_parts_held_out_prompts_and_keeps_the_anchored_responses(
    tmp_path: Path, method: str, lora: dict | None
) -> None:
    model, tokenizer = tiny_model("Llama")
    base = tiny_model("Llama")[0]
    prompts = [user_says(row["prompt"][0]["content"]) for row in HELD_OUT if not row["harmful"]]
    options: dict[str, Any] = {
        "per_device_train_batch_size": 16, "max_steps": 25, "learning_rate": 1e-2 if lora else 5e-3,
    }  # fmt: skip
    trained = train_and_save(
        LM(model, tokenizer, "tiny", "tiny"),
        ROWS,
        tmp_path / "out",
        use_cpu=True,
        method=method,
        beta=1.0,
        logging_steps=1.0,
        lora=lora,
        **options,
    )
    assert paper_distance(model, HELD_OUT) > 3 * paper_distance(base, HELD_OUT)
    assert trained.log[-1]["separation/bhattacharyya"] > 3 * trained.log[0]["separation/bhattacharyya"]
    first, now = (next_token_distributions(m, tokenizer, prompts).astype(float) for m in (base, model))
    assert (np.exp(first) * (first - now)).sum(axis=1).mean() < 1  # nats of some 5 that the next token has


def test_rows_that_do_not_tell_their_class_and_too_small_updates_are_refused(tmp_path: Path) -> None:
    bare = [{name: value for name, value in row.items() if name != "harmful"} for row in ROWS]
    cases = [
        (bare, {}, "32 of 32 responses lack the column 'harmful'"),
        ([row for row in ROWS if row["harmful"]], {}, "got 0 benign ones, expected 4"),
        (ROWS, {"per_device_train_batch_size": 4}, "and 4 are too few for 4 of each class; raise"),
    ]
    for rows, options, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            trainer(tmp_path, rows, method="separate", **options)
    trainer(tmp_path, bare, method="kldo")


def test_a_step_without_enough_prompts_of_a_class_keeps_to_the_anchor_and_says_so(tmp_path: Path) -> None:
    few = [*[row for row in ROWS if row["harmful"]][:4], *[row for row in ROWS if not row["harmful"]]]
    _, log = update(tmp_path, few, per_device_train_batch_size=8, max_steps=3)
    skipped = [row.get("separation/skipped", 0) for row in [log]]
    assert "separation/bhattacharyya" in log or skipped == [1.0]
