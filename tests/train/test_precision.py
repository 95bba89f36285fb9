"""Models in half precision: what they learn at small rates, how they compute meanwhile, and what is saved."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from divalign import DivergenceConfig, DivergenceTrainer
from divalign.lm.load import LM
from divalign.train.precision import half_weights, narrow, round_weights, widen
from divalign.train.reward_model import RewardTraining, train_reward_model
from divalign.train.run import Trained, Watch, train_and_save
from divalign.train.sharding import keep_outputs, whole_state
from tests.tiny import tiny_model

PAIRS = [{"prompt": f"Say {i}", "chosen": f" yes {i}" * (1 + i % 3), "rejected": f" no {i}"} for i in range(8)]
RATE = 1e-6


def half(architecture: str = "Llama", dtype: torch.dtype = torch.bfloat16) -> LM:
    """Return a tiny model as `from_pretrained(dtype=...)` gives it: buffers stay float32."""
    model, tokenizer = tiny_model(architecture)
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return LM(model, tokenizer, "tiny", "tiny")


def train(lm: LM, folder: Path, **options: Any) -> Trained:
    settings: dict[str, Any] = {
        "learning_rate": RATE, "per_device_train_batch_size": 8, "use_cpu": True, "logging_steps": 1.0, "max_steps": 3,
    }  # fmt: skip
    return train_and_save(lm, options.pop("rows", PAIRS), folder / "out", **{**settings, **options})


def trainer(lm: LM, folder: Path, **options: Any) -> DivergenceTrainer:
    args = DivergenceConfig(
        str(folder), report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no", learning_rate=RATE,
        max_steps=3, logging_steps=1.0, gradient_checkpointing=False, **options,
    )  # fmt: skip
    return DivergenceTrainer(lm.model, args=args, train_dataset=PAIRS, processing_class=lm.tokenizer)


def copied(model: Any) -> dict[str, Tensor]:
    return {name: weight.detach().float().clone() for name, weight in model.named_parameters()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """Return the share of weights that differ, without the input embedding, whose unused rows have no gradient."""
    pairs = [(before[name], after[name]) for name in before if "embed" not in name]
    return sum(int((old != new).sum()) for old, new in pairs) / sum(old.numel() for old, _ in pairs)


def test_a_small_learning_rate_moves_all_weights_of_a_half_model_and_its_dtype_stays(tmp_path: Path) -> None:
    lm = half()
    start, seen = copied(lm.model), list[dict[str, Tensor]]()
    result = train(lm, tmp_path, watch=Watch(advance=lambda _: seen.append(copied(lm.model))))
    assert changed(start, seen[-1]) > 0.9
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16} == {p.dtype for p in lm.model.parameters()}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert all(saved[name].equal(value.bfloat16()) for name, value in seen[-1].items())
    assert lm.model.model.rotary_emb.inv_freq.dtype == torch.float32  # no weight, and never in bfloat16
    for name in ("rewards/chosen", "rewards/rejected"):
        assert result.log[0][name] == pytest.approx(0, abs=5e-4)  # as in bfloat16 alone: layouts round apart


def test_the_trainer_alone_takes_a_half_model_as_it_is_and_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lm = half()
    start = copied(lm.model)
    with caplog.at_level(logging.WARNING):
        trainer(lm, tmp_path).train()
    assert changed(start, copied(lm.model)) < 0.1
    assert caplog.text.count("weights learn in bfloat16, which rounds most updates away at learning rate 1e-06") == 1
    caplog.clear()
    trainer(half(dtype=torch.float32), tmp_path, bf16=True)
    assert "weights learn in" not in caplog.text


@pytest.mark.parametrize("architecture", ["Gemma2", "Mistral"])
def test_r_is_zero_at_the_start_where_the_reference_has_the_layout_of_training(
    tmp_path: Path, architecture: str
) -> None:
    log = train(half(architecture), tmp_path, max_steps=1, precompute_ref_batch_size=16).log
    assert (log[0]["rewards/chosen"], log[0]["rewards/rejected"]) == (0, 0)


def test_held_out_rows_are_measured_on_what_is_saved(tmp_path: Path) -> None:
    lm, same = half(), list[bool]()

    def look(metrics: Any) -> None:
        same.extend(weight.equal(weight.bfloat16().float()) for weight in lm.model.parameters())

    train(lm, tmp_path, held_out=PAIRS, watch=Watch(evaluated=look))
    assert len(same) == len(list(lm.model.parameters()))
    assert all(same)


def test_a_stopped_training_of_a_half_model_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, count: list[int] = [0]) -> None:  # noqa: B006
        count[0] += done
        if count[0] == 2:
            raise Stop

    options: dict[str, Any] = {"learning_rate": 1e-4, "max_steps": 4}
    train(half(), tmp_path / "whole", **options)
    with pytest.raises(Stop):
        train(half(), tmp_path / "stopped", work=tmp_path / "work", watch=Watch(advance=stop), **options)
    checkpoint = load_file(tmp_path / "work" / "checkpoint-1" / "model.safetensors")
    assert {value.dtype for value in checkpoint.values()} == {torch.float32}
    train(half(), tmp_path / "stopped", work=tmp_path / "work", **options)
    whole, resumed = (load_file(tmp_path / name / "out" / "model.safetensors") for name in ("whole", "stopped"))
    assert all(resumed[name].equal(value) for name, value in whole.items())
    with pytest.raises(ValueError, match=r"bf16 true, and this one has bf16 null"):
        train(half(dtype=torch.float32), tmp_path / "stopped", work=tmp_path / "work", **options)


def test_references_of_both_precisions_have_places_of_their_own(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    trainer(half(), tmp_path, reference_cache=cache)
    for _ in range(2):
        train(half(), tmp_path, reference_cache=cache)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("lora", [{"rank": 2, "alpha": 4}, None])
def test_adapters_learn_in_float32_on_a_base_that_stays_as_it_is(tmp_path: Path, own: bool, lora: Any) -> None:
    lm = half()
    if own:
        config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        lm = lm._replace(model=get_peft_model(lm.model, config))
    elif lora is None:
        return
    seen: list[set[torch.dtype]] = []

    def look(_: int) -> None:
        named = list(lm.model.named_parameters())
        seen.append({weight.dtype for name, weight in named if "lora_" in name})
        seen.append({weight.dtype for name, weight in named if "lora_" not in name})
        assert not half_weights(lm.model)

    train(lm, tmp_path, lora=lora, watch=Watch(advance=look))
    assert seen[-2:] == [{torch.float32}, {torch.bfloat16}]


def test_float16_on_a_cpu_computes_in_float32_and_is_saved_as_float16(tmp_path: Path) -> None:
    log = train(half(dtype=torch.float16), tmp_path).log
    assert log[0]["rewards/chosen"] == pytest.approx(0, abs=1e-6)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float16}


def test_a_reward_model_learns_in_float32_too(tmp_path: Path) -> None:
    lm = half()
    start = {name: value.float() for name, value in lm.model.model.state_dict().items()}
    plan = RewardTraining(updates=8, pairs_per_update=8, pairs_per_batch=8, learning_rate=2e-3, warmup_updates=0)
    train_reward_model(lm, PAIRS, tmp_path / "rm", plan, work=tmp_path / "work")
    saved = load_file(tmp_path / "rm" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    after = {name.removeprefix("model."): value.float() for name, value in saved.items() if name != "score.weight"}
    assert changed(start, after) > 0.9
    assert json.loads((tmp_path / "work" / "training.json").read_text())["bf16"] is True


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_sharded_weights_are_rounded_and_narrowed_too() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = half().model
    dtypes = widen(model)
    before = copied(model)
    mesh = init_device_mesh("cpu", (1,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    sharded: Any = fully_shard(model, mesh=mesh)
    with torch.no_grad():
        for weight in sharded.parameters():
            weight.mul_(1 + 1e-5)
        sharded(torch.tensor([[5, 6, 7]]))  # which leaves the root's weights gathered
    round_weights(sharded, dtypes)
    with torch.no_grad():
        sharded(torch.tensor([[5, 6, 7]]))
    narrow(sharded, dtypes)
    state = whole_state(sharded)
    assert {value.dtype for value in state.values()} == {torch.bfloat16}
    assert all(state[name].float().equal(value) for name, value in before.items())
    assert isinstance(sharded, nn.Module)


class SumOfWeights(nn.Module):
    """A module that computes in its weights' dtype and sums in float32, as log-probabilities are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((100,), -0.8))

    def forward(self, factor: Tensor) -> Tensor:
        return (self.weight * factor).float().sum()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("keeps", [True, False])
def test_sharded_log_probabilities_are_not_rounded_with_the_products(keeps: bool) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    plugin: Any = FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.set_mixed_precision("bf16")
    if keeps:
        keep_outputs(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)))
    module: Any = fully_shard(
        SumOfWeights(), mesh=init_device_mesh("cpu", (1,)), mp_policy=plugin.mixed_precision_policy
    )
    value = module(torch.ones(100))
    exact = 100 * float(torch.tensor(-0.8, dtype=torch.bfloat16))
    assert (value.dtype == torch.float32) is keeps
    assert (float(value.detach()) == pytest.approx(exact, abs=1e-4)) is keeps
