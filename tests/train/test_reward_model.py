"""A reward model reads the token that ends a response, in training and in scoring, and learns the order of pairs."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from divalign.data.batching import Encoded, encode_row
from divalign.lm.generate import Sample
from divalign.lm.load import LM
from divalign.lm.reward import RewardModel, rewards_at_end, up_to_end
from divalign.train import reward_model
from divalign.train.policy_gradient import Completion
from divalign.train.reward_model import RewardTraining, held_out_quality, scalar_head, scorer, train_reward_model
from divalign.train.run import StoppedError, Watch
from tests.lm.test_reward import saved
from tests.tiny import tiny_model, tiny_tokenizer

ROWS = [
    {"prompt": f"ask {i}", "chosen": f"yes {i % 3}", "rejected": f"no {i % 4}", "cluster": str(i)} for i in range(24)
]
HELD_OUT = [{**row, "prompt": f"say {i}", "cluster": str(i)} for i, row in enumerate(ROWS)]


def lm(*, pad_is_end: bool = False) -> LM:
    model, tokenizer = tiny_model("Llama")
    if pad_is_end:
        tokenizer.pad_token = tokenizer.eos_token
    return LM(model, tokenizer, "tiny", "tiny")


@pytest.mark.parametrize("pad_is_end", [False, True])
def test_a_reward_is_read_at_the_end_and_not_at_the_padding(pad_is_end: bool) -> None:
    """With padding and end one token, transformers' own classifier reads the token before the end."""
    one = lm(pad_is_end=pad_is_end)
    classifier, end = scalar_head(one).eval(), one.tokenizer.eos_token_id
    torch.nn.init.normal_(classifier.score.weight, generator=torch.Generator().manual_seed(0))
    rows = [[20, 21, end], [20, 21, 22, 23, 24, end]]
    pad = one.tokenizer.pad_token_id
    ids = torch.tensor([[*rows[0], pad, pad, pad], rows[1]])
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6])
    states = [classifier.model(input_ids=torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
    expected = [classifier.score(state).item() for state in states]
    assert rewards_at_end(classifier, ids, mask).tolist() == pytest.approx(expected, abs=1e-5)
    theirs = classifier(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()
    assert (theirs == pytest.approx(expected, abs=1e-5)) is not pad_is_end


def test_what_stands_behind_the_end_is_cut_and_a_cut_response_gets_its_end() -> None:
    assert up_to_end(Encoded([5, 2], [7, 8, 2, 9]), [2, 3]) == [5, 2, 7, 8, 2]
    assert up_to_end(Encoded([5], [7, 3, 2]), [2, 3]) == [5, 7, 3]
    assert up_to_end(Encoded([5], [7, 8]), [2, 3]) == [5, 7, 8, 2]


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}])
def test_it_learns_the_order_of_pairs_and_says_how_well(tmp_path: Path, lora: dict[str, Any] | None) -> None:
    plan = RewardTraining(updates=12, pairs_per_update=8, pairs_per_batch=4, learning_rate=3e-3, warmup_updates=1)
    start = replace(plan, updates=1, learning_rate=1e-9)
    quality = {}
    for name, each in (("start", start), ("end", plan)):
        folder = tmp_path / name
        train_reward_model(lm(), ROWS, folder, each, lora=lora, work=tmp_path / f"{name}-work")
        quality[name] = held_out_quality(folder, HELD_OUT, each, device="cpu")
    assert quality["start"].loss.value == pytest.approx(math.log(2), abs=1e-3)  # the head starts at 0
    assert quality["end"].accuracy.value > 0.9
    assert quality["end"].js.value > quality["start"].js.value + 0.05
    assert quality["end"].accuracy.n == 24
    model = RewardModel(str(tmp_path / "end"))
    texts = [(row["prompt"], row["chosen"]) for row in ROWS]
    encoded = [
        encode_row(model.tokenizer, [{"role": "user", "content": prompt}], text, max_length=99)
        for prompt, text in texts
    ]
    assert model(texts) == pytest.approx(model.score_tokens(encoded))
    assert not list((tmp_path / "end").glob("adapter*"))


def test_a_stopped_training_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    done: list[int] = []

    def advance(updates: int) -> None:
        done.append(updates)
        if sum(done) == 3:
            raise Stop

    plan = RewardTraining(updates=5, pairs_per_update=4, pairs_per_batch=4, learning_rate=1e-2, warmup_updates=1)
    scores = []
    with pytest.raises(Stop):
        train_reward_model(lm(), ROWS, tmp_path / "b", plan, work=tmp_path / "b-work", watch=Watch(advance=advance))
    for name in ("a", "b"):
        train_reward_model(lm(), ROWS, tmp_path / name, plan, work=tmp_path / f"{name}-work")
        scores.append(RewardModel(str(tmp_path / name))([("ask", "yes 1"), ("ask", "no 2")]))
    assert scores[0] == scores[1]


def test_how_an_update_is_split_changes_no_weight_also_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    """22 pairs give updates of 8, 8 and 6, of which forwards of 4 make 4 and 2."""
    plan = RewardTraining(updates=3, pairs_per_update=8, pairs_per_batch=8, learning_rate=1e-2, warmup_updates=1)
    weights = []
    for size in (8, 4, 1):
        folder = tmp_path / str(size)
        train_reward_model(lm(), ROWS[:22], folder, replace(plan, pairs_per_batch=size), work=tmp_path / f"{size}-work")
        weights.append(load_file(folder / "model.safetensors"))
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=1e-3, atol=1e-5)


def test_forwards_that_do_not_divide_an_update_are_refused() -> None:
    for size in (3, 16):
        with pytest.raises(ValueError, match=f"which pairs_per_batch {size} does not divide"):
            RewardTraining(pairs_per_update=8, pairs_per_batch=size)


def test_a_base_with_an_adapter_counts_with_it_and_rows_must_be_pairs(tmp_path: Path) -> None:
    one = lm()
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = one._replace(model=get_peft_model(tiny_model("Llama")[0], config))
    ids = torch.tensor([[5, 6, 7]])
    plain, with_adapter = (scalar_head(each).model(input_ids=ids).last_hidden_state for each in (one, adapted))
    expected = adapted.model.get_base_model().model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(with_adapter, expected, rtol=1e-4, atol=1e-4)
    assert (with_adapter - plain).abs().max() > 1e-2
    unpaired = [{"prompt": "a", "completion": f"b {label}", "label": label} for label in (True, False)]
    with pytest.raises(ValueError, match="learns from pairs"):
        train_reward_model(one, unpaired, tmp_path / "out", RewardTraining(), work=tmp_path / "work")


def sampled(tokenizer: Any) -> list[Completion]:
    """Return two responses to a conversation as a policy with this tokenizer would have sampled them."""
    row = {"prompt": [{"role": "system", "content": "short"}, {"role": "user", "content": "ask"}], "chosen": []}
    encoded = [encode_row(tokenizer, row["prompt"], text, max_length=99) for text in ("yes 1", "no")]
    return [
        Completion(row, "ask", text, Sample(tokens, 0.0, True))
        for text, tokens in zip(("yes 1", "no"), encoded, strict=True)
    ]


@pytest.mark.parametrize("other", ["vocabulary", "template"])
def test_a_reward_model_that_is_written_otherwise_reads_the_text(tmp_path: Path, other: str) -> None:
    own = tiny_tokenizer(reverse=other == "vocabulary")
    if other == "template":
        own.chat_template = own.chat_template.replace("<end>", " <end>")
    source, completions = Path(saved(tmp_path / "model", 1, own)), sampled(tiny_tokenizer())
    model = RewardModel(str(source))
    texts = [encode_row(own, each.row["prompt"], each.response, max_length=99) for each in completions]
    rewards = scorer(source, tiny_tokenizer(), device="cpu")(completions)
    assert rewards == pytest.approx(model.score_tokens(texts))
    assert rewards != pytest.approx(model.score_tokens([each.sample.tokens for each in completions]), abs=1e-3)


def test_a_reward_model_that_is_written_alike_reads_the_tokens_that_were_sampled(tmp_path: Path) -> None:
    source, completions = Path(saved(tmp_path / "model", 1)), sampled(tiny_tokenizer())
    cut = [
        each._replace(sample=each.sample._replace(tokens=Encoded(tokens.prompt_ids, tokens.response_ids[:2])))
        for each in completions
        for tokens in [each.sample.tokens]
    ]
    expected = RewardModel(str(source)).score_tokens([each.sample.tokens for each in cut])
    assert scorer(source, tiny_tokenizer(), device="cpu")(cut) == pytest.approx(expected)


def test_a_reward_model_without_a_template_cannot_read_a_conversation(tmp_path: Path) -> None:
    own = tiny_tokenizer()
    own.chat_template = None
    with pytest.raises(ValueError, match="has no chat template and the policy has one"):
        scorer(Path(saved(tmp_path / "model", 1, own)), tiny_tokenizer(), device="cpu")


def test_several_gpus_in_one_process_are_refused_before_a_batch_is_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nn.DataParallel would hold all chosen rows on one GPU and all rejected ones on the other."""
    monkeypatch.setattr("divalign.train.reward_model._arguments", lambda *_, **__: SimpleNamespace(n_gpu=2))
    with pytest.raises(ValueError, match="2 GPUs in one process"):
        train_reward_model(lm(), ROWS, tmp_path / "model", RewardTraining(updates=1), work=tmp_path / "work")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}])
def test_the_head_of_a_model_in_half_precision_learns_in_float32(tmp_path: Path, lora: dict[str, Any] | None) -> None:
    half, heads = lm(), []
    half.model.bfloat16()
    plan = RewardTraining(updates=1, pairs_per_update=4, pairs_per_batch=4, learning_rate=1e-3, warmup_updates=0)
    widened = reward_model.widen

    def spy(model: Any) -> Any:
        dtypes = widened(model)
        heads.extend(name for name in dtypes if "score" in name)
        return dtypes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reward_model, "widen", spy)
        train_reward_model(half, ROWS, tmp_path / "out", plan, lora=lora, work=tmp_path / "work")
    assert len(heads) == 1
    head = load_file(tmp_path / "out" / "model.safetensors")["score.weight"]
    assert head.dtype == torch.bfloat16
    assert head.abs().max() > 0


def test_a_training_that_is_told_to_stop_writes_no_model(tmp_path: Path) -> None:
    plan = RewardTraining(updates=4, pairs_per_update=4, pairs_per_batch=4)
    watch = Watch(should_stop=lambda: True)
    with pytest.raises(StoppedError, match="after update 1 of 4"):
        train_reward_model(lm(), ROWS, tmp_path / "out", plan, work=tmp_path / "work", watch=watch)
    assert not (tmp_path / "out").exists()
