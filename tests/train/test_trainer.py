"""The trainer adds nothing to the mathematics: its steps equal the hand-written ones."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from divalign import DivergenceConfig, DivergenceTrainer, LogRatios
from divalign.core.estimate import effective_size
from divalign.core.losses import METHODS, find_method
from divalign.data.batching import Encoded
from divalign.lm.load import LM
from divalign.train.couples import Couples, CoupleSampler, Index, Scored, collate, encode_rows
from divalign.train.readout import auc
from divalign.train.run import train_and_save
from tests.tiny import save_tiny, tiny_model

PAIRS = [
    {"prompt": f"question {n}", "chosen": f"yes {n * 7 % 5}", "rejected": f"no, not {n * 3 % 7}"} for n in range(8)
]
UNPAIRED = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row in PAIRS
    for side in ("chosen", "rejected")
]


def trainer(folder: Path, rows, *, method: str = "kldo", model=None, **options) -> DivergenceTrainer:
    made, tokenizer = tiny_model("Llama")
    settings = {
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "max_steps": 1,
        "max_length": 64,
        "logging_steps": 1.0,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "gradient_checkpointing": False,
        **options,
    }
    peft_config = settings.pop("peft_config", None)
    eval_dataset = settings.pop("eval_dataset", None)
    args = DivergenceConfig(
        str(folder), method=method, report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True, **settings
    )
    return DivergenceTrainer(
        model or made,
        args=args,
        train_dataset=rows,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=peft_config,
    )


def weights(trained: DivergenceTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().double() for parameter in trained.model.parameters()])


@pytest.mark.parametrize("method", ["kldo", "bco", "kto", "hdo", "dpo", "ipo", "nca", "fdo:lecam"])
def test_accumulation_changes_no_step(tmp_path: Path, method: str) -> None:
    """Two updates at 1 x 8, 2 x 4 and 8 x 1: the second one's baseline is not that of r = 0."""
    found = []
    for size in (8, 4, 1):
        run = trainer(
            tmp_path,
            PAIRS,
            method=method,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
            max_steps=2,
        )
        run.train()
        found.append(weights(run))
    start = weights(trainer(tmp_path, PAIRS))
    moved = (found[0] - start).norm()
    assert moved > 1e-4
    for other in found[1:]:
        assert (other - found[0]).norm() < 1e-4 * moved  # float32 sums in another order


def test_an_update_of_unpaired_rows_is_the_same_however_it_is_split(tmp_path: Path) -> None:
    """12 rows are 6 couples at 12 x 1, 6 x 2 and 2 x 6; odd micro-batches would hold others, and are refused."""
    steps = []
    for size in (12, 6, 2):
        split = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 12 // size, "max_steps": 2}
        run = trainer(tmp_path, UNPAIRED, method="bco", model=tiny_model("Llama")[0].double(), **split)
        before = weights(run)
        run.train()
        steps.append(weights(run) - before)
    for other in steps[1:]:
        assert (other - steps[0]).norm() < 1e-6 * steps[0].norm()  # Llama's norms work in float32
    for size in (1, 3):
        with pytest.raises(ValueError, match=rf"is {size}, and unpaired rows are taken two at a time"):
            trainer(tmp_path, UNPAIRED, per_device_train_batch_size=size)
    trainer(tmp_path, PAIRS, per_device_train_batch_size=3, eval_dataset=UNPAIRED)


@pytest.mark.parametrize("rows", [PAIRS, UNPAIRED], ids=["pairs", "unpaired"])
@pytest.mark.parametrize("size", [8, 4, 1])
@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_the_online_normaliser_makes_the_exact_update(tmp_path: Path, rows: list, size: int, weight: float) -> None:
    found, losses = [], []
    for normaliser in ("exact", "online"):
        run = trainer(
            tmp_path,
            rows,
            model=tiny_model("Llama")[0].double(),
            normaliser=normaliser,
            undesirable_weight=weight,
            per_device_train_batch_size=size if rows is PAIRS else 2 * size,
            gradient_accumulation_steps=8 // size,
            max_steps=3,
            learning_rate=1e-3,
            beta=2.0,
        )
        run.train()
        found.append(weights(run))
        losses.append([row["loss"] for row in run.state.log_history if "loss" in row])
    moved = (found[0] - weights(trainer(tmp_path, PAIRS))).norm()
    assert moved > 1e-3
    assert (found[1] - found[0]).norm() < 1e-6 * moved  # Llama's norms work in float32
    assert losses[1] == pytest.approx(losses[0], rel=1e-6, abs=1e-6)  # logged in float32


def test_an_update_that_overflows_leaves_the_weights_finite_and_the_log_readable(tmp_path: Path) -> None:
    poisoned = [{**row, "ref_chosen_logps": -9.0, "ref_rejected_logps": -9.0} for row in PAIRS]
    poisoned[0]["ref_chosen_logps"] = 1e6
    model, tokenizer = tiny_model("Llama")
    rows = train_and_save(
        LM(model, tokenizer, "tiny", "tiny"), poisoned, tmp_path / "out", use_cpu=True, method="hdo", max_steps=2,
        per_device_train_batch_size=4, learning_rate=1e-3, max_length=64, logging_steps=1.0,
    ).log  # fmt: skip
    assert [row["grad_norm"] for row in rows].count(None) == 1
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    json.dumps(rows, allow_nan=False)


def test_the_online_normaliser_is_for_kldo() -> None:
    with pytest.raises(ValueError, match="'online' is for kldo, got bco"):
        DivergenceConfig("out", method="bco", normaliser="online")


def test_statistics_of_a_micro_batch_alone_are_another_step(tmp_path: Path) -> None:
    found = []
    for normaliser in ("exact", "microbatch"):
        options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 3, "beta": 1.0}
        run = trainer(tmp_path, PAIRS, normaliser=normaliser, **options)
        run.train()
        found.append(weights(run))
    assert (found[0] - found[1]).norm() > 1e-4


@pytest.mark.parametrize(
    "method",
    [
        name
        for name, method in METHODS.items()
        if not (method.paired or method.on_policy or method.states_loss is not None)
    ],
)
def test_the_first_loss_is_the_methods_value_at_zero(tmp_path: Path, method: str) -> None:
    run = trainer(tmp_path, UNPAIRED, method=method)
    run.train()
    expected = find_method(method).loss(LogRatios(torch.zeros(4), torch.zeros(4))).item()
    if any(find_method(method).likelihood):  # of each class in turn, in nats a token
        assert run.state.log_history[0]["loss"] > 1
        return
    assert run.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-4)


def test_training_parts_the_classes_and_logs_under_trls_names(tmp_path: Path) -> None:
    run = trainer(tmp_path, PAIRS, max_steps=10, learning_rate=0.1, eval_dataset=PAIRS)
    before = run.evaluate()
    run.train()
    after = run.evaluate()
    assert before["eval_rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert after["eval_rewards/margins"] > 0.01
    assert after["eval_loss"] < before["eval_loss"]
    assert {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "divergence/ess"} <= set(
        run.state.log_history[1]
    )


def test_lora_trains_the_adapter_alone_from_the_base_as_reference(tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    run = trainer(tmp_path, PAIRS, peft_config=config, max_steps=3, learning_rate=0.1)
    base = {name: p.clone() for name, p in run.model.named_parameters() if "lora" not in name}
    run.train()
    assert run.state.log_history[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert all(torch.equal(p, base[name]) for name, p in run.model.named_parameters() if "lora" not in name)
    assert any(p.abs().sum() > 0 for name, p in run.model.named_parameters() if "lora_B" in name)


def test_reference_columns_that_the_data_bring_are_used(tmp_path: Path) -> None:
    rows = [{**row, "ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0} for row in PAIRS]
    run = trainer(tmp_path, rows)
    assert {row.reference for row in run.train_dataset.aligned} == {-1.0}
    assert {row.reference for row in run.train_dataset.unaligned} == {-2.0}


def couples(n_aligned: int, n_unaligned: int, *, paired: bool = False) -> Couples:
    rows = [
        [Scored(Encoded([n], [n] * (1 + n % 5)), 0.0, "") for n in range(size)] for size in (n_aligned, n_unaligned)
    ]
    return Couples(rows[0], rows[1], paired=paired)


def test_every_epoch_shows_each_row_of_the_larger_class_once_and_spreads_the_smaller() -> None:
    sampler = CoupleSampler(couples(2, 40), seed=0)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert sorted(index.unaligned for index in drawn) == list(range(40))
        assert [index.aligned for index in drawn].count(0) == 20
        orders.append(drawn)
    assert orders[0] != orders[1]
    sampler.set_epoch(0)
    assert list(sampler) == orders[0]


def test_a_window_holds_the_same_couples_with_like_lengths_together() -> None:
    loose, tight = (list(CoupleSampler(couples(40, 40, paired=True), 3, window=window)) for window in (1, 8))
    known = couples(40, 40, paired=True)
    for start in range(0, 40, 8):
        assert set(loose[start : start + 8]) == set(tight[start : start + 8])
        lengths = [known.length(index) for index in tight[start : start + 8]]
        assert lengths == sorted(lengths, reverse=True)


def test_the_last_couples_are_filled_up_with_ones_that_do_not_count() -> None:
    sampler = CoupleSampler(couples(11, 11, paired=True), seed=0, window=8, multiple=8)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 16
    assert sorted(index.aligned for index in drawn if index.counts) == list(range(11))
    assert not any(index.counts for index in drawn[11:])
    items = [sampler.couples[index] for index in drawn[8:16]]
    assert (collate(items, 0)["couples"], len(collate(items, 0)["reference"])) == (3, 6)
    assert (collate(items[3:], 0)["couples"], len(collate(items[3:], 0)["reference"])) == (0, 2)


def test_rows_share_their_token_ids_and_a_pairs_prompt() -> None:
    _, tokenizer = tiny_model("Llama")
    rows = encode_rows([{"prompt": "é" * 9, "chosen": "é yes", "rejected": "é no"}] * 2, tokenizer, max_length=64)
    (first, second), (other, _) = rows.aligned, rows.unaligned
    assert first.prompt_ids is second.prompt_ids is other.prompt_ids
    assert [*map(id, first.response_ids)] == [*map(id, second.response_ids)]


def test_pairs_stay_together() -> None:
    assert all(index == Index(index.aligned, index.aligned) for index in CoupleSampler(couples(9, 9, paired=True), 0))


@pytest.mark.parametrize(
    ("rows", "method", "sentence"),
    [
        ([], "kldo", "the data set is empty"),
        ([{"text": "a"}], "kldo", "expected prompt, chosen, rejected"),
        ([row for row in UNPAIRED if row["label"]], "kldo", "no unaligned"),
        (UNPAIRED, "dpo", "compares the two responses of a pair"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused(tmp_path: Path, rows: list, method: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        trainer(tmp_path, rows, method=method)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [("beta", 0.0, "beta is 0.0"), ("normaliser", "exakt", "expected one of exact"), ("method", "kldoo", "kldo")],
)
def test_arguments_of_our_own_are_checked(tmp_path: Path, field: str, value: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DivergenceConfig(str(tmp_path), **{field: value})


def test_a_reference_that_is_the_model_itself_is_refused(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("Llama")
    with pytest.raises(ValueError, match="ref_model is the model itself"):
        DivergenceTrainer(model, model, DivergenceConfig(str(tmp_path)), PAIRS, processing_class=tokenizer)


def test_auc_and_effective_sample_size_at_their_limits() -> None:
    assert auc(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.5])) == 1
    assert auc(torch.tensor([1.0, 1.0]), torch.tensor([1.0])) == 0.5
    assert effective_size(torch.zeros(7)) == pytest.approx(7)
    assert effective_size(torch.tensor([0.0, 800.0])) == pytest.approx(1)


def test_encoded_rows_keep_their_clusters() -> None:
    _, tokenizer = tiny_model("Llama")
    rows = encode_rows([{**PAIRS[0], "cluster": "c"}, PAIRS[1]], tokenizer, max_length=64)
    assert rows.clusters == (["c", "question 1"], ["c", "question 1"])


def test_a_quantisation_that_this_machine_lacks_is_named(tmp_path: Path) -> None:
    from transformers import BitsAndBytesConfig

    folder = save_tiny("Llama", tmp_path / "model")
    with pytest.raises(ValueError, match="bitsandbytes"):
        DivergenceTrainer(str(folder), quantization_config=BitsAndBytesConfig(load_in_4bit=True), train_dataset=PAIRS)


def test_evaluation_gives_intervals_and_moves_nothing(tmp_path: Path) -> None:
    held_out = [{**row, "prompt": f"other {n}", "cluster": str(n)} for n, row in enumerate(PAIRS * 2)]
    run = trainer(tmp_path, PAIRS, normaliser="ema", eval_dataset=held_out, max_steps=3)
    run.train()
    before, average = weights(run), run._running.value
    found = run.evaluate()
    assert weights(run).equal(before)
    assert run._running.value == average
    for name in ("js", "tv", "hellinger", "lecam"):
        assert found[f"eval_divergence/{name}_low"] <= found[f"eval_divergence/{name}"]
        assert found[f"eval_divergence/{name}"] <= found[f"eval_divergence/{name}_high"]
    assert "eval_divergence/kl_low" not in found
    assert found["eval_divergence/saturated"] == 0.0


def test_speed_is_logged_and_counts_prompts_once(tmp_path: Path) -> None:
    run = trainer(tmp_path, PAIRS)
    run.train()
    logged = run.state.log_history[0]
    assert logged["tokens_per_second"] > 0
    assert 0 < logged["mfu"] < 1
    speed = run.recorder.speed
    speed.add({"attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]), "targets": torch.tensor([5, 6, 7])})
    assert (speed.tokens, speed.scored) == (5, 3)


@pytest.mark.parametrize("method", ["kldo", "dpo"])
def test_a_device_without_float64_gets_none_and_trains_the_same(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trainer(tmp_path, PAIRS, method=method, max_steps=2)
    expected.train()
    monkeypatch.setattr("divalign.core.precision.WITHOUT_FLOAT64", ("cpu",))
    run = trainer(tmp_path, PAIRS, method=method, max_steps=2)
    recorded, add = [], run.recorder.add
    run.recorder.add = lambda ratios, inputs, *rest: (recorded.append((ratios, inputs)), add(ratios, inputs, *rest))[1]
    run.train()
    tensors = [value for ratios, inputs in recorded for value in (*ratios, *inputs.values())]
    assert torch.float64 not in {value.dtype for value in tensors if isinstance(value, torch.Tensor)}
    logged, wanted = (next(row for row in one.state.log_history if "loss" in row) for one in (run, expected))
    assert {name: logged[name] for name in MEANS} == pytest.approx({name: wanted[name] for name in MEANS}, rel=1e-3)
    assert torch.allclose(weights(run), weights(expected), atol=1e-5)


MEANS = ("loss", "rewards/margins", "logps/chosen", "divergence/ess")
