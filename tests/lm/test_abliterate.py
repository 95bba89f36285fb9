import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

from divalign.data.batching import Encoded, encode_conversation
from divalign.data.examples import user_says
from divalign.lm.abliterate import Component, _check_components, abliterated
from divalign.lm.backbone import backbone_of
from divalign.lm.hidden import hidden_states
from divalign.lm.score import sequence_log_probs
from tests.tiny import ARCHITECTURES, SIZES, SPARSE, tiny_model

CONVERSATIONS = [user_says("one"), user_says("a longer prompt"), user_says("xy", prefill="Sure")]
DIRECTION = torch.tensor(np.random.default_rng(0).normal(size=32))
UNIT = (DIRECTION / DIRECTION.norm()).numpy()


def along(model, tokenizer) -> tuple[float, float]:
    """The largest share of a state along the direction in the residual stream, which ends before the final norm."""
    states, backbone = [], backbone_of(model)

    def read(module, arguments, output) -> None:
        states.append((output[0] if isinstance(output, tuple) else output).detach().flatten(0, -2).numpy())

    handles = [part.register_forward_hook(read) for part in (model.get_input_embeddings(), *backbone.layers)]
    for conversation in CONVERSATIONS:
        model(input_ids=torch.tensor([encode_conversation(tokenizer, conversation)]))
    for handle in handles:
        handle.remove()
    whole = np.concatenate(states)
    return np.abs(whole @ UNIT).max(), np.linalg.norm(whole, axis=-1).min()


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *SPARSE, "Gemma", "Glm4"])
def test_the_direction_is_gone_from_the_residual_stream(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Gemma", "Glm4"):
        monkeypatch.setitem(ARCHITECTURES, name, {"num_key_value_heads": 2, "head_dim": 8})
    model, tokenizer = tiny_model(architecture)
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight") or "layernorm" in name:
            torch.nn.init.normal_(weight, 1.0, 0.3)  # norms as they come out of training: no two weights alike
        elif name.endswith("bias"):
            torch.nn.init.normal_(weight)
    before, _ = along(model, tokenizer)
    after, length = along(abliterated(model, DIRECTION), tokenizer)
    assert before > 0.1
    assert after < 1e-5 * max(length, 1)


@pytest.mark.parametrize("architecture", SPARSE)
def test_every_expert_is_made_orthogonal_whether_or_not_a_token_comes_to_it(architecture: str) -> None:
    model, _ = tiny_model(architecture)
    before, after = model.state_dict(), abliterated(model, DIRECTION).state_dict()
    names = [name for name in before if name.endswith("experts.down_proj")]
    assert len(names) == (2 if architecture in ("GptOss", "Gemma4") else 1)
    for name in names:
        axis = 1 if before[name].shape[1] == 32 and architecture not in ("GptOss", "Llama4") else 2
        matrices = after[name].movedim(axis, -1).double().numpy()
        assert (np.abs(before[name].movedim(axis, -1).double().numpy() @ UNIT).max(axis=-1) > 0.01).all()
        assert np.abs(matrices @ UNIT).max() < 1e-6


def test_a_model_that_has_been_scored_gives_the_same_copy() -> None:
    model, tokenizer = tiny_model("Llama")
    fresh = abliterated(model, DIRECTION)
    sequence_log_probs(model, [Encoded([5, 6], [7, 8])], tokenizer.pad_token_id)
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(abliterated(model, DIRECTION)(input_ids=ids).logits, fresh(input_ids=ids).logits)


def test_the_model_handed_in_stays_as_it_was_and_its_head_too() -> None:
    model, tokenizer = tiny_model("Llama", tie_word_embeddings=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed = abliterated(model, DIRECTION)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(changed.lm_head.weight, model.lm_head.weight)
    assert not torch.equal(changed.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert np.isfinite(hidden_states(changed, tokenizer, CONVERSATIONS)["generation"]).all()


def test_doing_it_twice_changes_nothing_more() -> None:
    model, tokenizer = tiny_model("Qwen2")
    once = abliterated(model, DIRECTION)
    twice = abliterated(once, DIRECTION)
    one, two = (hidden_states(each, tokenizer, CONVERSATIONS)["generation"] for each in (once, twice))
    assert np.allclose(one, two, atol=1e-5)


def test_an_adapter_is_merged_first() -> None:
    model, tokenizer = tiny_model("Llama")
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", r=2, init_lora_weights=False))
    changed = abliterated(adapted, DIRECTION)
    assert not hasattr(changed, "peft_config") or not hasattr(changed, "merge_and_unload")
    assert along(changed, tokenizer)[0] < 1e-5
    assert hasattr(adapted, "merge_and_unload")


def test_a_wrong_width_and_unknown_blocks_are_refused() -> None:
    model, _ = tiny_model("Llama")
    with pytest.raises(ValueError, match="has length 32, the direction 5"):
        abliterated(model, torch.ones(5))
    for block in model.model.layers:
        block.mlp.down = block.mlp.down_proj
        del block.mlp.down_proj
    with pytest.raises(ValueError, match=r"LlamaModel, block 0: mlp.down gives vectors .* add its name to WRITERS"):
        abliterated(model, DIRECTION)


def test_a_family_whose_blocks_write_otherwise_is_refused() -> None:
    """Gemma 3n adds its normalised states to the stream (Laurel), which no matrix can be made orthogonal for."""
    options = {
        "laurel_rank": 5,
        "altup_num_inputs": 2,
        "hidden_size_per_layer_input": 6,
        "vocab_size_per_layer_input": 263,
        "layer_types": ["full_attention"] * 2,
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0] * 2,
        "vocab_size": 263,
        "head_dim": 8,
        "num_key_value_heads": 2,
    }
    with pytest.raises(ValueError, match=r"block 0: laurel\.linear_right gives vectors as wide as the residual stream"):
        abliterated(Gemma3nForCausalLM(Gemma3nTextConfig(**SIZES, **options)), DIRECTION)


def test_a_writer_that_is_no_matrix_of_the_streams_width_is_refused() -> None:
    model, _ = tiny_model("Llama")
    packed = torch.nn.Linear(1, 512, bias=False)  # as weights of four bits are stored
    model.model.layers[1].mlp.down_proj = packed
    with pytest.raises(ValueError, match=r"block 1: mlp.down_proj is \(512, 1\).*load the weights unquantised"):
        abliterated(model, DIRECTION)


def test_blocks_that_write_along_the_direction_all_the_same_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm behind a writer that is not known leaves a component, which a trial on a few tokens finds."""
    model, _ = tiny_model("Gemma2")
    for block in model.model.layers:
        torch.nn.init.normal_(block.post_feedforward_layernorm.weight, 1.0, 0.3)
    monkeypatch.setattr("divalign.lm.abliterate.NORMS_AFTER", {})
    with pytest.raises(ValueError, match="Gemma2Model, block 0: it writes along the direction all the same"):
        abliterated(model, DIRECTION)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_half_precision_is_no_component(dtype: torch.dtype) -> None:
    model, tokenizer = tiny_model("Gemma2")
    before, _ = along(model, tokenizer)
    changed = abliterated(model.to(dtype), DIRECTION)
    after, length = along(changed.float(), tokenizer)
    assert before > 0.1
    assert 0 < after < 0.02 * max(length, 1)  # what the rounding of the weights leaves


def test_what_rounding_left_where_the_stream_was_large_is_no_component() -> None:
    """The figures are those of SmolLM2-135M in bfloat16: its last block makes small what the middle had made large."""
    before, after = [Component(735.0, 331.0), Component(104.0, 94.0)], [Component(8.0, 316.0), Component(9.9, 95.0)]
    _check_components(["middle", "last"], before, after, 0.088)
    with pytest.raises(ValueError, match="last: it writes along the direction"):
        _check_components(["middle", "last"], before, [after[0], Component(80.0, 95.0)], 0.088)
