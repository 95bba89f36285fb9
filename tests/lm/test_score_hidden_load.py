"""Log-probabilities and hidden states equal what the model's own forward gives, on every architecture."""

import copy
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model

from divalign.data.batching import Encoded, encode_conversation, encode_row
from divalign.data.examples import user_says
from divalign.lm.generate import generate
from divalign.lm.hidden import hidden_states, response_states
from divalign.lm.load import PLAIN_TEMPLATE, load_lm, resolve
from divalign.lm.score import attach, sequence_log_probs
from divalign.lm.shape import read_tokenizer
from tests.tiny import ARCHITECTURES, SPARSE, begins_with_bos, save_tiny, tiny_model, tiny_tokenizer

ROWS = [Encoded([5, 6, 7], [8, 9]), Encoded([10], [11, 12, 13, 14]), Encoded([9, 8, 7, 6, 5, 4], [3])]


def slow_log_prob(model, row: Encoded) -> float:
    """The definition: one row, no padding, full logits."""
    logits = model(input_ids=torch.tensor([[*row.prompt_ids, *row.response_ids]])).logits[0].double().log_softmax(-1)
    start = len(row.prompt_ids)
    return sum(logits[start + i - 1, token].item() for i, token in enumerate(row.response_ids))


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *SPARSE])
def test_batched_response_log_probs_equal_the_definition(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture)
    expected = [slow_log_prob(model, row) for row in ROWS]
    result = sequence_log_probs(model, ROWS, tokenizer.pad_token_id, batch_size=2)
    # float32 through two layers; rows travel padded here and alone there
    assert np.allclose(result, expected, rtol=1e-5, atol=1e-4)


def test_an_adapter_is_scored_as_its_own_forward_says() -> None:
    model, tokenizer = tiny_model("Llama")
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config).eval()
    expected = [slow_log_prob(adapted, row) for row in ROWS]
    assert np.allclose(sequence_log_probs(adapted, ROWS, tokenizer.pad_token_id), expected, rtol=1e-5, atol=1e-4)


def test_prefix_tuning_is_scored_as_its_own_forward_says() -> None:
    model, tokenizer = tiny_model("Llama")
    adapted = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    expected = [slow_log_prob(adapted, row) for row in ROWS]
    assert np.allclose(sequence_log_probs(adapted, ROWS, tokenizer.pad_token_id), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("method", "name"), [(PromptTuningConfig, "PROMPT_TUNING"), (PromptEncoderConfig, "P_TUNING")])
def test_an_adapter_that_puts_tokens_before_the_text_is_refused_by_name(method, name: str) -> None:
    model, tokenizer = tiny_model("Llama")
    attach(model)
    adapted = get_peft_model(model, method(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(ValueError, match=f"{name} puts tokens of its own before every text.*LORA"):
        sequence_log_probs(adapted, ROWS, tokenizer.pad_token_id)
    with adapted.disable_adapter():
        sequence_log_probs(adapted, ROWS, tokenizer.pad_token_id)


def test_a_head_that_does_more_than_is_known_is_scored_from_full_logits(caplog: pytest.LogCaptureFixture) -> None:
    model, tokenizer = tiny_model("Llama")
    original = model.forward

    def doubled(*args, **kwargs):
        out = original(*args, **kwargs)
        out.logits = 2 * out.logits
        return out

    model.forward = doubled
    expected = [slow_log_prob(model, row) for row in ROWS]
    assert np.allclose(sequence_log_probs(model, ROWS, tokenizer.pad_token_id), expected, rtol=1e-5, atol=1e-4)
    assert "scored from full logits" in caplog.text
    assert attach(model) is model


def test_a_copy_of_a_scored_model_runs_its_own_weights() -> None:
    model, tokenizer = tiny_model("Llama")
    before = sequence_log_probs(model, ROWS, tokenizer.pad_token_id)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for weight in changed.parameters():
            weight.mul_(1.5)
    expected = [slow_log_prob(changed, row) for row in ROWS]
    assert not np.allclose(expected, before, atol=0.1)
    assert np.allclose(sequence_log_probs(changed, ROWS, tokenizer.pad_token_id), expected, rtol=1e-5, atol=1e-4)
    assert np.array_equal(sequence_log_probs(model, ROWS, tokenizer.pad_token_id), before)


def test_an_attached_forward_shows_the_names_of_the_models_own() -> None:
    model, _ = tiny_model("Llama")
    assert inspect.signature(attach(model).forward) == inspect.signature(tiny_model("Llama")[0].forward)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *SPARSE])
def test_hidden_states_equal_one_prompt_at_a_time(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture)
    conversations = [user_says("one"), user_says("a longer prompt", prefill="Sure"), user_says("xy")]
    result = hidden_states(model, tokenizer, conversations, batch_size=2)
    for number, conversation in enumerate(conversations):
        ids = torch.tensor([encode_conversation(tokenizer, conversation)])
        layers = model(input_ids=ids, output_hidden_states=True).hidden_states
        expected = torch.stack([layer[0, -1] for layer in layers]).detach().numpy()
        assert np.allclose(result["generation"][:, number], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *SPARSE])
def test_the_response_position_is_the_mean_over_the_response_and_its_end(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture)
    conversations = [user_says("one"), user_says("a longer prompt"), user_says("xy")]
    responses = ["yes, gladly", "", "no"]
    result = hidden_states(model, tokenizer, conversations, responses=responses, batch_size=2)
    alone = hidden_states(model, tokenizer, conversations, batch_size=2)
    for number, (conversation, response) in enumerate(zip(conversations, responses, strict=True)):
        prompt = encode_conversation(tokenizer, conversation)
        end = tokenizer(response + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        layers = model(input_ids=torch.tensor([[*prompt, *end]]), output_hidden_states=True).hidden_states
        expected = torch.stack([layer[0, len(prompt) :].mean(0) for layer in layers]).detach().numpy()
        assert np.allclose(result["response"][:, number], expected, rtol=1e-4, atol=1e-4)
    for position, states in alone.items():  # what comes after a prompt does not reach back into it
        assert np.allclose(result[position], states, rtol=1e-4, atol=1e-4)


def test_a_response_that_ends_in_the_end_token_is_read_with_one() -> None:
    model, tokenizer = tiny_model("Llama")
    without, with_end = (
        hidden_states(model, tokenizer, [user_says("one")], responses=[text])["response"]
        for text in ("yes", f"yes{tokenizer.eos_token}")
    )
    assert np.array_equal(without, with_end)


def test_the_instruction_position_ends_the_turns() -> None:
    model, tokenizer = tiny_model("Llama")
    result = hidden_states(model, tokenizer, [user_says("abc")])
    text = tokenizer.apply_chat_template([{"role": "user", "content": "abc"}], tokenize=False)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    expected = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
    assert np.allclose(result["instruction"][-1, 0], expected.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "read",
    [
        lambda model, tokenizer: {"": sequence_log_probs(model, ROWS, tokenizer.pad_token_id)},
        lambda model, tokenizer: response_states(model, ROWS, tokenizer.pad_token_id),
        lambda model, tokenizer: hidden_states(model, tokenizer, [user_says("one")]),
    ],
    ids=["log-probs", "response states", "hidden states"],
)
def test_a_model_in_training_is_read_without_its_dropout_and_goes_on_training(read) -> None:
    model, tokenizer = tiny_model("Llama", attention_dropout=0.5)
    expected = read(model, tokenizer)
    model.train()
    model.model.norm.eval()  # a frozen part keeps the mode of its own
    result = read(model, tokenizer)
    assert all(np.array_equal(result[name], expected[name]) for name in expected)
    assert model.model.layers[0].training
    assert not model.model.norm.training


def test_a_state_that_is_not_finite_is_named() -> None:
    model, tokenizer = tiny_model("Llama")
    model.model.norm.weight.data[:] = float("nan")
    with pytest.raises(ValueError, match="layer 2, position 'instruction', of prompt 0 is not finite"):
        hidden_states(model, tokenizer, [user_says("abc")])


def test_a_saved_model_loads_and_its_digest_follows_its_weights(tmp_path: Path) -> None:
    one, again = (load_lm(str(save_tiny("Llama", tmp_path / name, seed=0))) for name in ("a", "b"))
    other = load_lm(str(save_tiny("Llama", tmp_path / "c", seed=1)))
    assert one.digest == again.digest != other.digest


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        ("folder", "no model folder at"),
        ("weights", "holds no"),
        ("config", "cannot load the model"),
        ("pad", "neither a padding nor an end token"),
        ("template", "has no chat template"),
        ("template file", "no chat template at"),
    ],
)
def test_a_folder_that_lacks_something_is_refused_in_a_sentence(tmp_path: Path, harm: str, sentence: str) -> None:
    folder, template = save_tiny("Llama", tmp_path / "m"), None
    _, tokenizer = tiny_model("Llama")
    if harm == "folder":
        folder = tmp_path / "none"
    elif harm == "weights":
        (folder / "model.safetensors").unlink()
    elif harm == "config":
        (folder / "config.json").write_text('{"model_type": "no-such"}')
    elif harm == "pad":
        tokenizer.pad_token = tokenizer.eos_token = None
        tokenizer.save_pretrained(folder)
    elif harm == "template":
        (folder / "chat_template.jinja").unlink()
    else:
        template = str(tmp_path / "none.jinja")
    with pytest.raises(ValueError, match=sentence):
        load_lm(str(folder), chat_template=template)


@pytest.mark.parametrize(
    ("cuda", "mps", "native", "expected"),
    [
        (True, False, True, ("cuda", "bfloat16")),
        (True, False, False, ("cuda", "float32")),
        (False, True, True, ("mps", "float32")),
        (False, False, True, ("cpu", "bfloat16")),
        (False, False, False, ("cpu", "float32")),
    ],
)
def test_auto_is_the_first_device_there_and_bfloat16_where_it_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, native: bool, expected: tuple[str, str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr("divalign.lm.load.check_device", lambda _device: None)
    assert resolve() == expected


def test_what_is_named_stays_as_it_is() -> None:
    assert resolve("cpu", "float16") == ("cpu", "float16")


def test_a_model_loaded_with_auto_is_the_one_loaded_with_what_auto_comes_to(tmp_path: Path) -> None:
    folder = str(save_tiny("Llama", tmp_path / "m"))
    device, dtype = resolve()
    auto, named = load_lm(folder, device="auto", dtype="auto"), load_lm(folder, device=device, dtype=dtype)
    assert auto.digest == named.digest
    assert str(auto.model.dtype) == f"torch.{dtype}"
    assert auto.model.device.type == device


def test_a_server_without_its_scheme_is_no_missing_model() -> None:
    with pytest.raises(ValueError, match="without its scheme; write http://localhost:8000/v1#m"):
        load_lm("localhost:8000/v1#m")


def test_a_prompt_over_the_tokenizers_own_length_prints_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, tokenizer = tiny_model("Llama")
    folder = save_tiny("Llama", tmp_path / "m")
    tokenizer.model_max_length = 8
    tokenizer.save_pretrained(folder)
    with caplog.at_level("WARNING", logger="transformers"):
        load_lm(str(folder)).tokenizer("a" * 50)
    assert "longer than" not in caplog.text


@pytest.mark.parametrize("device", ["cuda:99", "nope", "cuda:x", "hip", ""])
def test_a_device_that_torch_lacks_is_refused_before_anything_is_loaded(device: str) -> None:
    with pytest.raises(ValueError, match=f"there is no device '{device}'; torch has cpu.* here"):
        load_lm("/nowhere", device=device)


def test_the_plain_template_and_the_end_token_stand_in_for_what_is_missing(tmp_path: Path) -> None:
    folder = save_tiny("Llama", tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    assert "user: hello" in load_lm(str(folder), chat_template="plain").tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False
    )


def test_a_chat_template_that_is_missing_is_refused_alike_with_and_without_the_weights(tmp_path: Path) -> None:
    folder = save_tiny("Llama", tmp_path / "m")
    for read in (load_lm, read_tokenizer):
        with pytest.raises(ValueError, match=r"no chat template at 'nowhere\.jinja'; give a jinja file"):
            read(str(folder), chat_template="nowhere.jinja")


@pytest.mark.parametrize("bos", [True, False], ids=["adds BOS", "has a BOS and adds none"])
def test_the_plain_template_begins_with_bos_where_the_tokenizer_begins_texts_with_it(tmp_path: Path, bos: bool) -> None:
    folder = save_tiny("Llama", tmp_path / "m")
    if bos:
        begins_with_bos(tiny_tokenizer()).save_pretrained(folder)
    tokenizer = load_lm(str(folder), chat_template="plain").tokenizer
    assert tokenizer.chat_template == read_tokenizer(str(folder), chat_template="plain").chat_template
    assert (tokenizer.chat_template == PLAIN_TEMPLATE) is not bos
    text = [{"role": "user", "content": "hello"}]
    answer = [{"role": "assistant", "content": "hi"}]
    starts = [tokenizer.bos_token_id] if bos else []
    asked = "user: hello</s>\nassistant: "
    encoded = encode_row(tokenizer, text, answer, max_length=99)
    for prompt in (encode_conversation(tokenizer, user_says("hello")), encoded.prompt_ids):
        assert prompt == [*starts, *tokenizer(asked, add_special_tokens=False)["input_ids"]]
    assert tokenizer.decode(encoded.response_ids) == "hi</s>\n"
    plain = encode_row(tokenizer, asked, "hi", max_length=99)
    assert plain == encoded._replace(response_ids=encoded.response_ids[:-1])


def test_an_adapter_with_states_before_the_text_is_scored_and_neither_read_nor_generated_with() -> None:
    """Its states would be left out: hidden states were those of the bare model, responses not those scored."""
    model, tokenizer = tiny_model("Llama")
    adapted = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    for use in (hidden_states, generate):
        with pytest.raises(ValueError, match="PREFIX_TUNING puts states of its own before every text"):
            use(adapted, tokenizer, [user_says("Tea?")])
        with adapted.disable_adapter():
            use(adapted, tokenizer, [user_says("Tea?")])
