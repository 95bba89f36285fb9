"""A model that has an adapter: the reference is the model as handed in, whatever is put on it afterwards."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from divalign import DivergenceConfig, DivergenceTrainer
from tests.tiny import save_tiny, tiny_model

PAIRS = [{"prompt": f"Say {i}", "chosen": f" yes {i}" * (1 + i % 3), "rejected": f" no no {i}"} for i in range(8)]
LORA: dict[str, Any] = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter folder as supervised fine-tuning leaves it, beside its base."""
    folder = tmp_path_factory.mktemp("adapted")
    base = AutoModelForCausalLM.from_pretrained(save_tiny("Llama", folder / "base"))
    torch.manual_seed(3)
    tuned = get_peft_model(base, LoraConfig(**LORA, lora_alpha=16, use_rslora=True, init_lora_weights=False))
    tuned.save_pretrained(str(folder / "adapter"))
    tiny_model()[1].save_pretrained(folder / "adapter")
    return folder / "adapter"


def base(adapter: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(adapter.parent / "base")


def handed_in(adapter: Path, kind: str) -> Any:
    if kind == "folder":
        return str(adapter)
    if kind == "folder without tokenizer":
        return str(shutil.copytree(adapter, adapter.parent / "bare", ignore=shutil.ignore_patterns("token*"),
                                   dirs_exist_ok=True))  # fmt: skip
    if kind == "loaded by transformers":
        return AutoModelForCausalLM.from_pretrained(adapter)
    return PeftModel.from_pretrained(base(adapter), str(adapter), is_trainable=kind == "trainable PeftModel")


KINDS = ("folder", "folder without tokenizer", "loaded by transformers", "PeftModel", "trainable PeftModel")


def trainer(folder: Path, model: Any, **options: Any) -> DivergenceTrainer:
    other = {name: options.pop(name, None) for name in ("peft_config", "eval_dataset", "ref_model")}
    settings: dict[str, Any] = {"learning_rate": 1e-2, "max_steps": 2, "logging_steps": 1.0, **options}
    args = DivergenceConfig(
        str(folder / "out"), report_to="none", use_cpu=True, disable_tqdm=True, gradient_checkpointing=False,
        per_device_train_batch_size=8, **{"save_strategy": "no", **settings},
    )  # fmt: skip
    tokenizer = None if isinstance(model, str) else tiny_model()[1]
    return DivergenceTrainer(model, args=args, train_dataset=PAIRS, processing_class=tokenizer, **other)


@torch.no_grad()
def direct(model: Any, side: str) -> list[float]:
    """Log-probabilities of responses by the slow definition: one row at a time, from full logits."""
    tokenizer, found = tiny_model()[1], []
    for row in PAIRS:
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = torch.tensor([prompt + tokenizer(row[side] + tokenizer.eos_token)["input_ids"]])
        log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        found.append(log_probs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum().item())
    return found


def references(made: DivergenceTrainer) -> dict[str, list[float]]:
    sides = {"chosen": made.train_dataset.aligned, "rejected": made.train_dataset.unaligned}
    return {name: [row.reference for row in side] for name, side in sides.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("second", [True, False])
def test_the_reference_is_the_model_with_its_adapter_and_the_policy_starts_from_it(
    tmp_path: Path, adapter: Path, kind: str, second: bool
) -> None:
    truth = PeftModel.from_pretrained(base(adapter), str(adapter)).eval()
    made = trainer(
        tmp_path, handed_in(adapter, kind), peft_config=LoraConfig(**LORA) if second else None, eval_dataset=PAIRS
    )
    for side, found in references(made).items():
        assert found == pytest.approx(direct(truth, side), abs=1e-3)
        assert found != pytest.approx(direct(base(adapter), side), abs=0.1)
    assert made.evaluate()["eval_rewards/chosen"] == pytest.approx(0, abs=1e-5)
    learning = {name for name, parameter in made.model.named_parameters() if parameter.requires_grad}
    assert learning
    assert all((".policy." if second else ".default.") in name for name in learning)
    made.train()
    assert made.evaluate()["eval_rewards/margins"] > 1e-3


@pytest.mark.parametrize("second", [True, False])
def test_what_is_saved_is_one_adapter_of_the_bare_base(tmp_path: Path, adapter: Path, second: bool) -> None:
    partial = LoraConfig(**{**LORA, "target_modules": ["q_proj", "down_proj"]}, lora_alpha=2)
    made = trainer(tmp_path, handed_in(adapter, "folder"), peft_config=partial if second else None)
    made.train()
    made.save_model(str(tmp_path / "saved"))
    again = PeftModel.from_pretrained(base(adapter), str(tmp_path / "saved")).eval()
    assert not [part for part in (tmp_path / "saved").iterdir() if part.is_dir()]
    for side in ("chosen", "rejected"):
        assert direct(again, side) == pytest.approx(direct(made.model.eval(), side), abs=1e-3)
        assert direct(again, side) != pytest.approx(references(made)[side], abs=1e-2)


def test_rows_that_come_after_training_meet_the_first_adapter(tmp_path: Path, adapter: Path) -> None:
    made = trainer(tmp_path, handed_in(adapter, "PeftModel"), peft_config=LoraConfig(**LORA), eval_dataset=PAIRS)
    made.train()
    shown, raw = made.evaluate(), made.evaluate(PAIRS)
    assert raw["eval_rewards/chosen"] == pytest.approx(shown["eval_rewards/chosen"], abs=1e-5)
    learning = {name for name, parameter in made.model.named_parameters() if parameter.requires_grad}
    assert all(".policy." in name for name in learning)
    assert list(made.model.active_adapters) == ["default", "policy"]


def test_a_stopped_training_of_a_second_adapter_resumes_where_it_was(tmp_path: Path, adapter: Path) -> None:
    def made(folder: str) -> DivergenceTrainer:
        options: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2.0}
        return trainer(tmp_path / folder, handed_in(adapter, "PeftModel"), peft_config=LoraConfig(**LORA), **options)

    whole, again = made("whole"), made("again")
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "out" / "checkpoint-2"))
    states = [
        torch.cat([value.flatten() for name, value in sorted(one.model.state_dict().items()) if "lora" in name])
        for one in (whole, again)
    ]
    assert states[0].equal(states[1])
    assert list(again.model.active_adapters) == ["default", "policy"]


def test_the_cache_tells_an_adapted_model_from_its_base(tmp_path: Path, adapter: Path) -> None:
    cache = str(tmp_path / "cache")
    bare = trainer(tmp_path, base(adapter), peft_config=LoraConfig(**LORA), reference_cache=cache)
    both = trainer(tmp_path, str(adapter), peft_config=LoraConfig(**LORA), reference_cache=cache)
    assert references(bare)["chosen"] != pytest.approx(references(both)["chosen"], abs=0.1)


@pytest.mark.parametrize(
    "config",
    [
        IA3Config(task_type="CAUSAL_LM"),
        LoraConfig(**LORA, use_dora=True),
        LoraConfig(**LORA, bias="all"),
        LoraConfig(**LORA, trainable_token_indices=[5]),
        LoraConfig(**{**LORA, "target_modules": ["q_proj", "embed_tokens"]}),
    ],
)
def test_a_second_adapter_that_cannot_be_joined_with_the_first_is_refused(
    tmp_path: Path, adapter: Path, config: Any
) -> None:
    with pytest.raises(ValueError, match="leave peft_config out to train the model's own adapter further, or merge"):
        trainer(tmp_path, str(adapter), peft_config=config)


@pytest.mark.parametrize(
    "own",
    [{"target_modules": ["q_proj", "embed_tokens"]}, {"trainable_token_indices": [5]}],
    ids=["embedding", "token"],
)
def test_an_adapter_of_the_embeddings_takes_no_second_one_and_stays_as_it_was(
    tmp_path: Path, own: dict[str, Any]
) -> None:
    model = get_peft_model(tiny_model("Llama")[0], LoraConfig(**{**LORA, **own}, init_lora_weights=False))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="or merge it first"):
        trainer(tmp_path, model, peft_config=LoraConfig(**LORA))
    assert list(model.peft_config) == list(model.active_adapters) == ["default"]
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(after[name].equal(value) for name, value in before.items())
    trainer(tmp_path, model).train()  # further, without a second one


def test_ranks_of_single_layers_are_saved_whole(tmp_path: Path, adapter: Path) -> None:
    made = trainer(tmp_path, str(adapter), peft_config=LoraConfig(**LORA, rank_pattern={"q_proj": 9}, lora_alpha=40))
    made.train()
    made.save_model(str(tmp_path / "saved"))
    again = PeftModel.from_pretrained(base(adapter), str(tmp_path / "saved")).eval()
    assert direct(again, "chosen") == pytest.approx(direct(made.model.eval(), "chosen"), abs=1e-3)


def test_a_base_that_an_adapter_was_put_into_without_its_peft_model_is_refused(tmp_path: Path) -> None:
    model = tiny_model("Llama")[0]
    get_peft_model(model, LoraConfig(**LORA))
    with pytest.raises(ValueError, match="holds the layers of an adapter that was put on it earlier"):
        trainer(tmp_path, model, peft_config=LoraConfig(**LORA))


def test_a_model_of_which_nothing_can_learn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no parameter of the model can learn"):
        trainer(tmp_path, tiny_model("Llama")[0].requires_grad_(False))
