"""Padded, packed and shared rows say the same to the model: values, gradients, and the models where they would not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPTNeoConfig, GPTNeoForCausalLM, LlamaConfig, LlamaForCausalLM

from divalign.data.batching import Encoded
from divalign.lm.layout import PADDING, attention, block_attention, lay_out
from divalign.lm.score import attach, can_share, is_windowed, sequence_log_probs
from tests.tiny import ARCHITECTURES, tiny_model

ids = st.lists(st.integers(3, 40), min_size=1, max_size=6)
few = settings(max_examples=40, deadline=None, derandomize=True)
SMALLEST = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
WINDOWED = {"Gemma2", "Gemma3", "Mistral", "Phi3", "Llama4"}


def rows(seed: int = 0, prompts: int = 4) -> list[Encoded]:
    """Rows of a few prompts, each with two or three responses, in mixed order."""
    draw = torch.Generator().manual_seed(seed)

    def tokens(most: int) -> list[int]:
        size = int(torch.randint(1, most + 1, (1,), generator=draw))
        return torch.randint(3, 40, (size,), generator=draw).tolist()

    made = [Encoded(prompt, tokens(7)) for prompt in (tokens(9) for _ in range(prompts)) for _ in range(2)]
    return made[::2] + made[1::2] + [Encoded(made[0].prompt_ids, tokens(5))]


def log_probs(model, batch: list[Encoded], *, share: bool) -> torch.Tensor:
    return model(**lay_out(batch, 0, share=share).inputs()).log_probs


@pytest.mark.parametrize("attention_kind", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "Llama4"])
def test_shared_prompts_score_as_padded_rows_do_wherever_they_are_allowed(
    architecture: str, attention_kind: str
) -> None:
    model, _ = tiny_model(architecture)
    if attention_kind == "sdpa" and not model._supports_sdpa:
        pytest.skip(f"{architecture} has no sdpa in transformers")
    model.set_attn_implementation(attention_kind)
    attach(model.eval())
    if not can_share(model):
        assert architecture in WINDOWED
        return
    batch = rows()
    padded, shared = (log_probs(model, batch, share=share) for share in (False, True))
    torch.testing.assert_close(shared, padded, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "windowed"),
    [
        (GPTNeoConfig(attention_types=[[["global", "local"], 1]], num_layers=2), True),
        (LlamaConfig(local_attention_span=64), True),
        (LlamaConfig(attention_windows=[64, 0]), True),
        (LlamaConfig(attention_layers=["global", "local"]), True),
        (LlamaConfig(num_local_experts=8), False),
        (LlamaConfig(sliding_window_pattern=6), False),
        (LlamaConfig(use_sliding_window=False, sliding_window=64), False),
        (LlamaConfig(layer_types=["full_attention", "chunked_attention"], num_hidden_layers=2), True),
    ],
    ids=lambda value: "" if isinstance(value, bool) else value.model_type,
)
def test_attention_to_what_is_near_alone_is_known_by_its_configuration(config, windowed: bool) -> None:
    assert is_windowed(config) is windowed


def test_local_attention_longer_than_the_trial_forbids_sharing() -> None:
    config = GPTNeoConfig(
        attention_types=[[["global", "local"], 1]], num_layers=2, vocab_size=64, hidden_size=32, num_heads=4
    )
    assert not can_share(GPTNeoForCausalLM(config).eval())


@pytest.mark.parametrize("share", [False, True])
def test_a_response_to_nothing_is_refused_since_nothing_predicts_its_first_token(share: bool) -> None:
    with pytest.raises(ValueError, match="response 1 follows an empty prompt"):
        lay_out([Encoded([4], [5, 6]), Encoded([], [7, 8])], 0, share=share)


def test_a_sliding_window_forbids_sharing_and_a_window_that_is_switched_off_does_not() -> None:
    assert not can_share(attach(tiny_model("Mistral", sliding_window=4)[0]))
    assert can_share(attach(tiny_model("Mistral", sliding_window=None)[0]))


def test_gradients_are_those_of_padded_rows() -> None:
    model, _ = tiny_model("Llama")
    model = attach(model.double())
    gradients = []
    for share in (False, True):
        model.zero_grad()
        log_probs(model, rows(), share=share).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    # The model's own norms compute in float32, whatever its weights are.
    assert (gradients[0] - gradients[1]).norm() <= 1e-6 * gradients[0].norm()


@few
@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=8))
def test_every_response_token_is_scored_once_and_from_the_token_before_it(pairs: list) -> None:
    batch = [Encoded(prompt, response) for prompt, response in pairs]
    for share in (False, True):
        layout = lay_out(batch, 0, share=share)
        flat = layout.input_ids.flatten()
        for index, row in enumerate(batch):
            mine = layout.owners == index
            assert layout.targets[mine].tolist() == row.response_ids
            before = [row.prompt_ids[-1], *row.response_ids[:-1]]
            assert flat[layout.sources[mine]].tolist() == before


@few
@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=8))
def test_a_token_sees_its_own_prompt_and_the_response_so_far_and_nothing_else(pairs: list) -> None:
    batch = [Encoded(prompt, response) for prompt, response in pairs]
    layout = lay_out(batch, 0, share=True)
    if layout.groups is None:
        return
    seen = attention(layout.groups, layout.parts)[:, 0]
    width = layout.input_ids.shape[1]
    for source, owner in zip(layout.sources.tolist(), layout.owners.tolist(), strict=True):
        line, place = divmod(source, width)
        visible = layout.input_ids[line][seen[line, place]].tolist()
        row = batch[owner]
        whole = [*row.prompt_ids, *row.response_ids]
        assert visible == whole[: len(visible)]
        assert layout.position_ids[line, place] == len(visible) - 1


@few
@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=12))
def test_packing_loses_nothing_and_is_never_larger_than_padding(pairs: list) -> None:
    batch = [Encoded(prompt, response) for prompt, response in pairs]
    shared, padded = (lay_out(batch, 0, share=share) for share in (True, False))
    prompts = {tuple(row.prompt_ids) for row in batch}
    tokens = sum(map(len, prompts)) + sum(len(row.response_ids) for row in batch)
    assert int(shared.attention_mask.sum()) == tokens
    if shared.groups is not None:
        assert int((shared.groups != PADDING).sum()) == tokens
    if len(prompts) == len(batch):
        assert shared.input_ids.numel() <= padded.input_ids.numel()


def test_flex_attention_sees_what_the_mask_says() -> None:
    layout = lay_out(rows(), 0, share=True)
    assert layout.groups is not None
    assert layout.parts is not None
    blocks = block_attention(layout.groups, layout.parts)
    seen = attention(layout.groups, layout.parts)
    index = torch.arange(seen.shape[-1])
    for row in range(len(seen)):
        result = blocks.mask_mod(torch.tensor(row), torch.tensor(0), index[:, None], index[None, :])
        assert torch.equal(result, seen[row, 0])


def test_flex_attention_scores_as_sdpa_does() -> None:
    scores = []
    for name in ("sdpa", "flex_attention"):
        torch.manual_seed(0)
        config = LlamaConfig(**SMALLEST, num_attention_heads=4, attn_implementation=name)
        with torch.compiler.set_stance("force_eager"):  # compiling the kernel takes a minute on a CPU
            model = LlamaForCausalLM(config).eval()
            assert can_share(model)
            scores.append(sequence_log_probs(model, rows(), 0))
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
