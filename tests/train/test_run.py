"""What the command line and a study call: length in updates or epochs, progress, and a typed result."""

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, PeftModel, get_peft_model

from divalign.lm.load import LM
from divalign.train.couples import RowCounts
from divalign.train.run import Trained, Watch, train_and_save
from tests.tiny import tiny_model

PAIRS = [{"prompt": f"Say {i}", "chosen": f" yes {i}" * (1 + i % 3), "rejected": f" no {i}"} for i in range(8)]
HELD_OUT = [{**row, "prompt": f"Then {number}"} for number, row in enumerate(PAIRS)]
LORA: dict[str, Any] = {"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def train(folder: Path, model: Any = None, **options: Any) -> Trained:
    made, tokenizer = tiny_model("Llama")
    settings = {"learning_rate": 1e-3, "per_device_train_batch_size": 4, "use_cpu": True, "logging_steps": 1.0}
    rows = options.pop("rows", PAIRS)
    lm = LM(model or made, tokenizer, "tiny", "tiny")
    return train_and_save(lm, rows, folder / "out", **{**settings, **options})


def test_the_length_is_given_in_updates_or_in_passes_over_the_rows(tmp_path: Path) -> None:
    assert train(tmp_path, max_steps=3).updates == 3
    assert train(tmp_path, num_train_epochs=1.5).updates == 3
    assert train(tmp_path, num_train_epochs=2, max_steps=None, rows=[*PAIRS, *PAIRS]).updates == 8
    for lengths, word in (({}, "neither"), ({"max_steps": 2, "num_train_epochs": 1.0}, "both")):
        with pytest.raises(ValueError, match=f"{word} of max_steps .updates. and num_train_epochs"):
            train(tmp_path, **lengths)


def test_epochs_are_resumed_like_updates(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def advance(done: int, count: list[int] = [0]) -> None:  # noqa: B006
        count[0] += done
        if count[0] == 4:
            raise Stop

    options: dict[str, Any] = {"num_train_epochs": 3.0, "work": tmp_path / "work"}
    with pytest.raises(Stop):
        train(tmp_path, watch=Watch(advance=advance), **options)
    done: list[int] = []
    assert train(tmp_path, watch=Watch(advance=done.append), **options).updates == 6
    assert done == [3, 1, 1, 1]


def test_progress_is_told_from_the_reference_to_the_held_out_figures(tmp_path: Path) -> None:
    events: list[tuple] = []
    watch = Watch(
        reference=lambda done, rows: events.append(("reference", done, rows)),
        start=lambda updates: events.append(("start", updates)),
        advance=lambda done: events.append(("advance", done)),
        evaluated=lambda metrics: events.append(("evaluated", "eval_divergence/js" in metrics)),
    )
    options: dict[str, Any] = {"precompute_ref_batch_size": 5, "num_train_epochs": 1.0, "held_out": HELD_OUT}
    result = train(tmp_path, watch=watch, **options)
    scored = [("reference", done, 16) for done in (5, 10, 15, 16)]
    assert events == [*scored, *scored, ("start", 2), *[("advance", done) for done in (0, 1, 1)], ("evaluated", True)]
    assert result.held_out is not None
    assert result.held_out["eval_nll/chosen"] is not None
    assert result.log[-1] == result.held_out
    assert result.displacement is None


def test_the_result_counts_rows_and_says_where_the_aligned_responses_were_unlearned(tmp_path: Path) -> None:
    rows = [*PAIRS, {**PAIRS[0], "prompt": "x" * 80}]
    result = train(tmp_path, rows=rows, max_steps=2, max_length=64, too_long="skip")
    assert (result.rows, result.held_out, result.updates) == (RowCounts(9, 1, 0), None, 2)
    alike = [{"prompt": f"q {n}", "chosen": f"aaaa {n}", "rejected": f"aaab {n} bbbbb"} for n in range(8)]
    broken = train(tmp_path, rows=alike, max_steps=12, optim="sgd", learning_rate=2.0, held_out=alike)
    assert str(broken.displacement).startswith("at update ")


def test_an_adapter_is_continued_or_joined_by_a_second_one_and_saved_whole(tmp_path: Path) -> None:
    def adapted() -> Any:
        return get_peft_model(tiny_model("Llama")[0], LoraConfig(**LORA, init_lora_weights=False))

    ranks = {}
    for name, lora in {"own": None, "continue": {"continue": True}, "second": {"rank": 3, "alpha": 6}}.items():
        result = train(tmp_path / name, adapted(), lora=lora, max_steps=2)
        assert result.log[0]["rewards/chosen"] == pytest.approx(0, abs=1e-5)
        saved = PeftModel.from_pretrained(tiny_model("Llama")[0], str(tmp_path / name / "out"))
        ranks[name] = saved.peft_config["default"].r  # type: ignore[attr-defined]
    assert ranks == {"own": 2, "continue": 2, "second": 5}
    with pytest.raises(ValueError, match=r"lora.continue is true, and the model has no adapter"):
        train(tmp_path, lora={"continue": True}, max_steps=1)
