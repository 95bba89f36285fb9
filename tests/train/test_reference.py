"""The reference is the model that was handed in: after training, through a cache, in half precision."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from divalign import DivergenceConfig, DivergenceTrainer
from divalign.lm.load import load_lm
from divalign.train import run
from divalign.train.reference import weights_digest
from tests.tiny import save_tiny, tiny_model

PAIRS = [{"prompt": f"Say {i}", "chosen": f" yes {i}" * (1 + i % 3), "rejected": f" no no {i}"} for i in range(24)]
TRAINED, HELD_OUT = PAIRS[:12], PAIRS[12:]
LORA: dict[str, Any] = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def trainer(folder: Path, model: Any = None, rows: list[dict] = TRAINED, **options: Any) -> DivergenceTrainer:
    made, tokenizer = tiny_model("Llama")
    other = {name: options.pop(name, None) for name in ("ref_model", "peft_config", "eval_dataset")}
    settings: dict[str, Any] = {"learning_rate": 1e-2, "max_steps": 3, "beta": 0.5, "per_device_train_batch_size": 4,
                                **options}  # fmt: skip
    args = DivergenceConfig(
        str(folder / "out"), report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True,
        gradient_checkpointing=False, **settings,
    )  # fmt: skip
    return DivergenceTrainer(
        model if model is not None else made, args=args, train_dataset=rows, processing_class=tokenizer, **other
    )


def references(made: DivergenceTrainer) -> list[float]:
    return [row.reference for side in (made.train_dataset.aligned, made.train_dataset.unaligned) for row in side]


def shown(found: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if name.startswith(("eval_loss", "eval_rewards", "eval_div"))}


def test_raw_rows_after_training_are_refused_where_the_reference_has_moved(tmp_path: Path) -> None:
    made = trainer(tmp_path, eval_dataset=HELD_OUT)
    assert shown(made.evaluate(HELD_OUT)) == shown(made.evaluate())
    made.train()
    with pytest.raises(ValueError, match="give these rows to the constructor as eval_dataset"):
        made.evaluate(HELD_OUT)
    assert made.evaluate()["eval_rewards/margins"] != 0


@pytest.mark.parametrize("start", [True, False])
def test_raw_rows_after_training_meet_the_base_under_our_adapter(tmp_path: Path, start: bool) -> None:
    adapter = LoraConfig(**LORA, init_lora_weights=start)
    made = trainer(tmp_path, peft_config=adapter, eval_dataset=HELD_OUT)
    made.train()
    assert abs(made.evaluate()["eval_rewards/margins"]) > 1e-4
    assert shown(made.evaluate(HELD_OUT)) == shown(made.evaluate())
    assert any(parameter.requires_grad for parameter in made.model.parameters())


def test_raw_rows_after_training_meet_the_reference_model(tmp_path: Path) -> None:
    made = trainer(tmp_path, ref_model=tiny_model("Llama", seed=5)[0], eval_dataset=HELD_OUT)
    made.train()
    assert shown(made.evaluate(HELD_OUT)) == shown(made.evaluate())


@pytest.mark.parametrize("adapter", [LoraConfig(**LORA, init_lora_weights="pissa"), LoraConfig(**LORA, bias="all")])
def test_an_adapter_that_changes_the_base_leaves_no_reference_behind(tmp_path: Path, adapter: LoraConfig) -> None:
    made = trainer(tmp_path, peft_config=adapter, eval_dataset=HELD_OUT)
    assert made.evaluate()["eval_rewards/chosen"] == 0
    made.train()
    with pytest.raises(ValueError, match="the reference was the model before training"):
        made.evaluate(HELD_OUT)


def test_the_cache_knows_a_model_by_its_weights(tmp_path: Path) -> None:
    folder, cache = str(save_tiny("Llama", tmp_path / "model")), str(tmp_path / "cache")
    other = tiny_model("Llama", seed=7)[0]
    truth = references(trainer(tmp_path, folder))
    assert references(trainer(tmp_path, folder, ref_model=other, reference_cache=cache)) != truth
    assert references(trainer(tmp_path, folder, reference_cache=cache)) == truth
    files = set((tmp_path / "cache").glob("*.safetensors"))
    assert len(files) == 2
    for adapter in (None, LoraConfig(**LORA)):
        again = trainer(tmp_path, load_lm(folder).model, peft_config=adapter, method="dpo", beta=1.0, seed=3,
                        reference_cache=cache)  # fmt: skip
        assert references(again) == truth
    assert set((tmp_path / "cache").glob("*.safetensors")) == files


def test_nothing_is_cached_once_training_has_begun(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    made = trainer(tmp_path, peft_config=LoraConfig(**LORA), reference_cache=str(cache))
    made.train()
    files = list(cache.iterdir())
    made.evaluate(HELD_OUT)
    assert list(cache.iterdir()) == files


def test_a_model_trained_twice_is_its_own_reference_the_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []

    class Spy(DivergenceTrainer):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            seen.append(references(self))

    monkeypatch.setattr(run, "DivergenceTrainer", Spy)
    folder = str(save_tiny("Llama", tmp_path / "model"))
    for cache in (None, tmp_path / "cache"):
        lm = load_lm(folder)
        for turn in range(2):
            run.train_and_save(lm, TRAINED, tmp_path / f"out{turn}", reference_cache=cache and str(cache), max_steps=2,
                               learning_rate=1e-2, use_cpu=True, per_device_train_batch_size=4)  # fmt: skip
    assert seen[0] != seen[1]
    assert seen[2:] == seen[:2]


def test_the_digest_of_weights_sees_adapters_and_their_scale() -> None:
    found = set()
    for alpha in (None, 8, 16):
        torch.manual_seed(0)
        model = tiny_model("Llama")[0]
        found.add(
            weights_digest(model if alpha is None else get_peft_model(model, LoraConfig(**LORA, lora_alpha=alpha)))
        )
    assert len(found) == 3
    assert weights_digest(tiny_model("Llama")[0]) in found


def test_an_untrained_model_in_half_precision_shows_no_divergence(tmp_path: Path) -> None:
    long = [{**row, "chosen": row["chosen"] * 20, "rejected": row["rejected"] * 20} for row in PAIRS]
    made = trainer(tmp_path, rows=long, eval_dataset=long, bf16=True, learning_rate=0.0)
    for _ in range(2):
        found = made.evaluate()
        assert found["eval_rewards/chosen"] == found["eval_rewards/rejected"] == 0
        made.train()
    assert references(made) != references(trainer(tmp_path, rows=long))


def test_precisions_do_not_share_a_cache_entry(tmp_path: Path) -> None:
    for half in (True, False):
        made = trainer(tmp_path, bf16=half, reference_cache=str(tmp_path / "cache"))
        assert references(made) == references(trainer(tmp_path, bf16=half))


def dropouts(model: Any) -> set[float]:
    named = {
        value for module in model.modules() for name, value in vars(module).items()
        if "dropout" in name and isinstance(value, float)
    }  # fmt: skip
    return named | {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}


@pytest.mark.parametrize("off", [True, False])
def test_dropout_is_off_in_attention_and_in_adapters_too(tmp_path: Path, off: bool) -> None:
    adapter = LoraConfig(**LORA, lora_dropout=0.3)
    model = tiny_model("Llama", attention_dropout=0.2)[0]
    made = trainer(tmp_path, model, peft_config=adapter, disable_dropout=off)
    assert dropouts(made.model) == ({0.0} if off else {0.2, 0.3})


def test_the_seed_decides_where_an_adapter_starts(tmp_path: Path) -> None:
    starts = []
    for seed in (1, 1, 2):
        torch.rand(len(starts) + 1)
        made = trainer(tmp_path, peft_config=LoraConfig(**LORA), seed=seed)
        starts.append(torch.cat([p.detach().flatten() for n, p in made.model.named_parameters() if "lora_A" in n]))
    assert starts[0].equal(starts[1])
    assert not starts[0].equal(starts[2])


@pytest.mark.parametrize("unpaired", [False, True])
@pytest.mark.parametrize("length", [{"max_steps": 2}, {"max_steps": -1, "num_train_epochs": 0.4}])
def test_only_rows_that_are_trained_on_are_scored(tmp_path: Path, unpaired: bool, length: dict[str, Any]) -> None:
    """A training on 8 of 24 pairs, against the same whose rows bring the log-probabilities of all of them."""
    columns = ("ref_chosen_logps", "ref_rejected_logps")
    many, whole = PAIRS, trainer(tmp_path, rows=PAIRS, max_steps=6)
    sides = whole.train_dataset.aligned, whole.train_dataset.unaligned
    bring = [{**row, **dict(zip(columns, (one[n].reference for one in sides), strict=True))}
             for n, row in enumerate(PAIRS)]  # fmt: skip
    if unpaired:
        many, bring = ([*_singly(rows)] for rows in (many, bring))
    options = {**length, "per_device_train_batch_size": 8 if unpaired else 4, "lr_scheduler_type": "constant"}
    few, all_rows = (trainer(tmp_path, rows=rows, **options) for rows in (many, bring))
    count = 8 if "num_train_epochs" not in length else 12
    assert [sum(not math.isnan(row.reference) for row in side)
            for side in (few.train_dataset.aligned, few.train_dataset.unaligned)] == [count, count]  # fmt: skip
    for made in (few, all_rows):
        made.train()
    before, moved, expected = (
        torch.cat([weight.flatten() for weight in made.model.parameters()]) for made in (whole, few, all_rows)
    )
    assert (moved - expected).norm() < 1e-4 * (expected - before).norm()


def _singly(rows: list[dict]) -> Iterator[dict]:
    for row in rows:
        for side, label in (("chosen", True), ("rejected", False)):
            known = {"ref_logps": row[f"ref_{side}_logps"]} if f"ref_{side}_logps" in row else {}
            yield {"prompt": row["prompt"], "completion": row[side], "label": label, **known}


def test_rows_that_were_not_scored_are_neither_measured_nor_trained_on(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_steps=1)
    with pytest.raises(ValueError, match="16 of 24 rows have no log-probability under the reference"):
        made.evaluate(made.train_dataset)
    made.args.max_steps = 3
    with pytest.raises(ValueError, match="make a trainer with the arguments it is to train with"):
        made.train()


def test_the_cache_tells_the_active_adapter(tmp_path: Path) -> None:
    model = get_peft_model(tiny_model("Llama")[0], LoraConfig(**LORA, init_lora_weights=False), adapter_name="a")
    model.add_adapter("b", LoraConfig(**LORA, init_lora_weights=False))
    digests = []
    for name in ("a", "b", "a"):
        model.set_adapter(name)
        digests.append(weights_digest(model))
    assert digests[0] == digests[2] != digests[1]


def test_a_reference_without_a_number_is_named_with_its_row(tmp_path: Path) -> None:
    broken = tiny_model("Llama")[0]
    with torch.no_grad():
        broken.model.layers[0].mlp.down_proj.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"log-probability of row \d+ is not a number .12 of 12 rows.: a weight"):
        trainer(tmp_path, ref_model=broken)
    bring = [{**row, "ref_chosen_logps": -1.0, "ref_rejected_logps": math.nan if n == 3 else -2.0}
             for n, row in enumerate(TRAINED)]  # fmt: skip
    with pytest.raises(ValueError, match=r"row 3 brings a log-probability of the reference that is NaN"):
        trainer(tmp_path, rows=bring)
