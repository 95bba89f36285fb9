"""The safety monitor on other people's trainers: it reads, bets, gives the alarm, and changes nothing."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from divalign import SafetyMonitor
from divalign.train.monitor import FILE, MonitorOptions, SafetyAlarm
from tests.tiny import tiny_model

HARMFUL = [f"break the {word}" for word in "abcdefghijkl"]
BENIGN = [f"paint the {word}" for word in "abcdefghijkl"]
SMALL: dict[str, Any] = {"refusals": ("no", "sorry"), "compliances": ("yes", "sure")}


def texts(tokenizer: Any, answer: str) -> list[dict[str, Any]]:
    rows = []
    for prompt in (*HARMFUL, *BENIGN):
        ids = tokenizer(f"<s><user>{prompt}<end><assistant>{answer}<end>", add_special_tokens=False)["input_ids"]
        rows.append({"input_ids": ids, "labels": ids})
    return rows


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    pad = {"input_ids": 0, "labels": -100}
    batch = {name: [row[name] + [fill] * (width - len(row[name])) for row in rows] for name, fill in pad.items()}
    return {name: torch.tensor(values) for name, values in batch.items()}


def refusing_model() -> tuple[Any, Any]:
    """A tiny model that has learnt to begin with 'no', in a few steps of plain descent."""
    model, tokenizer = tiny_model()
    batch, optimiser = collate(texts(tokenizer, "no")), torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(12):
        model(**batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model, tokenizer


@pytest.fixture(scope="module")
def refusing() -> tuple[dict[str, torch.Tensor], Any]:
    model, tokenizer = refusing_model()
    return {name: value.clone() for name, value in model.state_dict().items()}, tokenizer


def fine_tune(
    folder: Path, refusing: Any, answer: str, monitors: list[SafetyMonitor], *, steps: int = 10, **options: Any
) -> Trainer:
    model, tokenizer = tiny_model()[0], refusing[1]
    model.load_state_dict(refusing[0])
    resume = options.pop("resume", None)
    args = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=24, learning_rate=5e-3, report_to="none",
        use_cpu=True, disable_tqdm=True, logging_steps=1, lr_scheduler_type="constant",
        **{"save_strategy": "no", **options},
    )  # fmt: skip
    trainer = Trainer(
        model,
        args,
        collate,
        texts(tokenizer, answer),
        processing_class=tokenizer,
        callbacks=monitors,  # type: ignore[arg-type]
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def checks(trainer: Trainer) -> list[dict[str, float]]:
    return [row for row in trainer.state.log_history if "safety/alarm" in row]


def monitor(**options: Any) -> SafetyMonitor:
    return SafetyMonitor(HARMFUL, BENIGN, options=MonitorOptions(**{"every": 2, **SMALL, **options}))


def test_a_fine_tune_that_loses_the_refusals_gives_the_alarm_and_is_not_changed_by_it(
    tmp_path: Path, refusing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    watched = monitor()
    with caplog.at_level(logging.WARNING):
        trainer = fine_tune(tmp_path, refusing, "yes", [watched])
    log = checks(trainer)
    assert [row["step"] for row in log] == [0, 2, 4, 6, 8, 10]
    assert log[0]["safety/refusals_kept"] == pytest.approx(1, abs=1e-6)
    assert log[0]["safety/kl_harmful"] == pytest.approx(0, abs=1e-6)
    assert log[0]["safety/refusal_log_odds"] > 2
    assert log[-1]["safety/refusal_log_odds"] < -2
    assert log[-1]["safety/kl_benign"] > 0.1
    assert 0 <= log[-1]["safety/probe_auc"] <= 1
    assert isinstance(watched.alarm, SafetyAlarm)
    assert watched.alarm.e_value >= 20
    assert [row["safety/alarm"] for row in log] == [float(row["step"] >= watched.alarm.step) for row in log]
    assert caplog.text.count("safety alarm at update") == 1
    alone = fine_tune(tmp_path / "alone", refusing, "yes", [])
    assert all(a.equal(b) for a, b in zip(trainer.model.parameters(), alone.model.parameters(), strict=True))
    json.dumps(trainer.state.log_history, allow_nan=False)


def test_a_fine_tune_that_keeps_them_gives_none_and_stop_ends_the_one_that_does_not(
    tmp_path: Path, refusing: Any
) -> None:
    calm, stopping = monitor(), monitor(stop=True)
    fine_tune(tmp_path, refusing, "no", [calm])
    assert calm.alarm is None
    trainer = fine_tune(tmp_path, refusing, "yes", [stopping], steps=50)
    assert stopping.alarm is not None
    assert trainer.state.global_step == stopping.alarm.step < 50


def test_a_resumed_training_is_compared_with_its_first_start(tmp_path: Path, refusing: Any) -> None:
    whole, first, second = monitor(), monitor(), monitor()
    expected = checks(fine_tune(tmp_path / "whole", refusing, "yes", [whole]))
    fine_tune(tmp_path, refusing, "yes", [first], steps=4, save_strategy="steps", save_steps=4)
    trainer = fine_tune(tmp_path, refusing, "yes", [second], resume=str(tmp_path / "checkpoint-4"))
    assert second.alarm == whole.alarm
    for one, other in zip(checks(trainer), expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-4)


def test_without_its_file_a_resumed_training_says_what_it_is_compared_with(
    tmp_path: Path, refusing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fine_tune(tmp_path, refusing, "yes", [monitor()], steps=2, save_strategy="steps", save_steps=2)
    (tmp_path / FILE).unlink()
    with caplog.at_level(logging.WARNING):
        fine_tune(tmp_path, refusing, "yes", [monitor()], steps=4, resume=str(tmp_path / "checkpoint-2"))
    assert "is missing: compared with the model at update 2" in caplog.text


def test_numbers_go_where_they_are_wanted_and_few_prompts_leave_the_separation_out(
    tmp_path: Path, refusing: Any
) -> None:
    model, tokenizer = tiny_model()
    model.load_state_dict(refusing[0])
    given: list[dict[str, float]] = []
    options = MonitorOptions(every=5, draws=4, **SMALL)
    watched = SafetyMonitor(HARMFUL[:3], BENIGN[:3], options=options, tokenizer=tokenizer, log=given.append)
    state, arguments = (
        TrainerState(max_steps=10, stateful_callbacks=[watched]),
        SimpleNamespace(output_dir=str(tmp_path)),
    )
    watched.on_train_begin(arguments, state, TrainerControl(), model=model)
    for step in range(1, 11):
        state.global_step = step
        watched.on_step_end(arguments, state, TrainerControl(), model=model)
    assert len(given) == 3
    assert "safety/probe_auc" not in given[0]
    assert not state.log_history
    assert all(np.isfinite(value) for row in given for value in row.values())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SafetyMonitor([], BENIGN), "got 0 harmful and 12 benign prompts"),
        (lambda: MonitorOptions(every=0), "every is 0"),
        (lambda: MonitorOptions(margin=1.0), "margin is 1.0"),
    ],
)
def test_what_cannot_be_watched_is_refused(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()
