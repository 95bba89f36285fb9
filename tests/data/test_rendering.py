"""What of a row is scored, token by token, as TRL scores it; what a template would drop is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from divalign import DivergenceConfig, DivergenceTrainer
from divalign.data.batching import encode_row
from divalign.data.examples import as_messages
from divalign.data.rendering import encode_response, encode_training_row, template_options
from divalign.data.training_rows import shared_text, training_row
from tests.messages import said
from tests.tiny import TEMPLATE, tiny_model, tiny_tokenizer

HI = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {}}}]
WITH_TOOLS = "{% if tools %}<system>{{ tools | length }} {{ tools[0].function.name }}<end>{% endif %}" + TEMPLATE
WITH_MODE = TEMPLATE + "{% if add_generation_prompt and enable_thinking is defined %}[{{ enable_thinking }}]{% endif %}"
DROPS_THOUGHTS = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content.split('</think>')[-1] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def scored(row: dict, side: str = "chosen", tokenizer: Any = None) -> tuple[str, str]:
    """Return the prompt's and the response's tokens as text."""
    tokenizer = tokenizer or tiny_tokenizer()
    encoded = encode_training_row(tokenizer, training_row(row), side, max_length=999)
    return tokenizer.decode(encoded.prompt_ids), tokenizer.decode(encoded.response_ids)


def trained(rows: list[dict], folder: Path, *, template: str | None = None, **settings: Any) -> DivergenceTrainer:
    model, tokenizer = tiny_model("Llama")
    tokenizer.chat_template = template or tokenizer.chat_template
    args = DivergenceConfig(str(folder), use_cpu=True, report_to="none", **settings)
    return DivergenceTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)


def log_prob(prompt: str, response: str) -> float:
    """Return the log-probability of `response` after `prompt` by one forward over their bytes, one by one."""
    model, tokenizer = tiny_model("Llama")
    ids = tokenizer(prompt + response, return_tensors="pt", add_special_tokens=False)["input_ids"]
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logs = model(ids).logits.log_softmax(-1)[0]
    return float(sum(logs[place - 1, ids[0, place]] for place in range(start, ids.shape[1])))


PROMPT, GOOD = "<s><user>Hi<end><assistant>", "<assistant>Good<end>"


@pytest.mark.parametrize("prompt", ["Hi", HI, None])
def test_a_prompt_that_stands_before_the_responses_too_is_counted_once(tmp_path: Path, prompt: Any) -> None:
    row = {"prompt": prompt, "chosen": HI + said("Good"), "rejected": HI + said("Bad")}
    assert scored(row) == scored({"prompt": HI, "chosen": said("Good"), "rejected": said("Bad")})
    assert scored(row) == (PROMPT, "Good<end>")
    made = trained([row, row], tmp_path, method="dpo").train_dataset.aligned[0]
    assert made.reference == pytest.approx(log_prob(PROMPT, "Good<end>"), abs=1e-4)


def test_a_labelled_response_that_repeats_its_prompt_is_counted_once() -> None:
    row = {"prompt": "Hi", "completion": said("Be kind.", "system") + HI + said("Good"), "label": True}
    assert scored(row, "completion") == ("<s><system>Be kind.<end><user>Hi<end><assistant>", "Good<end>")


def test_plain_responses_that_begin_with_the_whole_prompt_are_refused() -> None:
    row = {"prompt": "What colour is the sky?", "chosen": "What colour is the sky? Blue", "rejected": "Red"}
    assert training_row(row) == row
    with pytest.raises(ValueError, match=r"begin with the whole prompt .* would count twice"):
        training_row({**row, "rejected": "What colour is the sky? Red"})
    greeting = {"prompt": "Hi", "chosen": "Hi there", "rejected": "Hi you"}
    assert training_row(greeting) == greeting


@pytest.mark.parametrize("turns", [said("a") + HI + said("b"), HI + said("a") + HI, said("a", "tool")])
def test_a_response_of_several_turns_is_refused(turns: list[dict]) -> None:
    with pytest.raises(ValueError, match=r"chosen holds the turns .*; one turn of the assistant can be scored"):
        training_row({"prompt": "q", "chosen": turns, "rejected": said("c")})


DIALOGUE = "\n\nHuman: What colour?\n\nAssistant:"
SHARED = [
    (f"{DIALOGUE} Blue", f"{DIALOGUE} Green"),
    (f"{DIALOGUE} Hello", f"{DIALOGUE} Hi"),
    (f"{DIALOGUE} Yes", f"{DIALOGUE} Yes, of course"),
    (f"{DIALOGUE} the same", f"{DIALOGUE} the same"),
    ("ab c", "ab d"),
]


@pytest.mark.parametrize("pair", SHARED)
def test_text_without_a_prompt_is_split_where_trl_splits_it(pair: tuple[str, str]) -> None:
    trl = pytest.importorskip("trl.data_utils", reason="TRL is not installed: its split cannot be compared")
    theirs = trl.extract_prompt({"chosen": pair[0], "rejected": pair[1]})
    assert shared_text(*pair) == theirs["prompt"]
    ours = training_row(dict(zip(("chosen", "rejected"), pair, strict=True)))
    assert {name: ours[name] for name in theirs} == theirs


def test_the_helpful_assistants_rows_are_scored_after_the_colon(tmp_path: Path) -> None:
    row = dict(zip(("chosen", "rejected"), SHARED[0], strict=True))
    assert scored(row) == (DIALOGUE, " Blue</s>")
    made = trained([row, row], tmp_path, method="dpo").train_dataset.aligned[0]
    assert made.reference == pytest.approx(log_prob(DIALOGUE, " Blue</s>"), abs=1e-4)


def in_words() -> PreTrainedTokenizerFast:
    """A tokenizer that merges letters, so that a prompt cut inside a word has tokens that the whole text has not."""
    letters = {token: index for index, token in enumerate(["</s>", "<s>", "\u2581", *"abcd", "ab", "bc", "\u2581a"])}
    inner = Tokenizer(models.BPE(vocab=letters, merges=[("a", "b"), ("b", "c"), ("\u2581", "a")]))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("pair", [("d ab", "d ac"), ("d dab", "d dad"), ("d db", "d dbc"), ("d ca", "d b")])
def test_a_shared_text_ends_at_trls_token_for_both_responses(pair: tuple[str, str]) -> None:
    tokenizer = in_words()
    row = training_row(dict(zip(("chosen", "rejected"), pair, strict=True)))
    prompt = tokenizer(row["prompt"])["input_ids"]
    wholes = [tokenizer(text + "</s>")["input_ids"] for text in pair]
    length = min(
        next((n for n, (a, b) in enumerate(zip(prompt, w, strict=False)) if a != b), len(prompt)) for w in wholes
    )
    for side, whole in zip(("chosen", "rejected"), wholes, strict=True):
        encoded = encode_training_row(tokenizer, row, side, max_length=99)
        assert encoded == (whole[:length], whole[length:])


def test_a_tokenizer_that_closes_texts_of_its_own_changes_nothing() -> None:
    tokenizer, plain = tiny_tokenizer(), tiny_tokenizer()
    around = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    before = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.backend_tokenizer.post_processor, plain.backend_tokenizer.post_processor = around, before
    for prefill in ("", "c"):
        row = encode_row(tokenizer, "ab", "cd", max_length=99, prefill=prefill)
        assert row == encode_row(plain, "ab", "cd", max_length=99, prefill=prefill)
    assert tokenizer.decode([*row.prompt_ids, *row.response_ids]) == "<s>abcd</s>"


def test_special_tokens_stay_whole_and_merges_are_not_drawn_whatever_the_tokenizer_was_saved_with() -> None:
    tokenizer = tiny_tokenizer()
    expected = encode_row(tokenizer, HI, said("Good"), max_length=99), encode_row(tokenizer, "a", "b", max_length=9)
    tokenizer.split_special_tokens = True
    assert encode_row(tokenizer, HI, said("Good"), max_length=99) == expected[0]
    assert encode_row(tokenizer, "a", "b", max_length=9) == expected[1]
    random = in_words()
    whole = encode_row(random, "d", "ab" * 8, max_length=99)
    random.backend_tokenizer.model.dropout = 0.9
    assert encode_row(random, "d", "ab" * 8, max_length=99) == whole
    assert random.backend_tokenizer.model.dropout == pytest.approx(0.9)
    tokenizer.backend_tokenizer.enable_truncation(3)
    assert len(encode_row(tokenizer, "abcdef", "gh", max_length=99).prompt_ids) == 6


@pytest.mark.parametrize("tools", [TOOLS, '[{"type": "function", "function": {"name": "add"}}]'])
def test_tools_are_rendered_into_the_prompt(tools: Any) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = WITH_TOOLS
    row = {"prompt": HI, "chosen": said("Good"), "rejected": said("Bad"), "tools": tools}
    assert scored(row, tokenizer=tokenizer) == (f"<system>1 add<end>{PROMPT}", "Good<end>")


def test_a_rows_own_template_arguments_are_rendered_as_trl_renders_them() -> None:
    trl = pytest.importorskip("trl.data_utils", reason="TRL is not installed: its rendering cannot be compared")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = WITH_MODE.replace("[{{ enable_thinking }}]", "<{{ enable_thinking }}>")
    row = {"prompt": HI, "chosen": said("Good"), "rejected": said("Bad")}
    row["chat_template_kwargs"] = {"enable_thinking": False, "other": None}
    theirs = trl.apply_chat_template({**row, "chat_template_kwargs": {"enable_thinking": False}}, tokenizer)
    assert scored(row, tokenizer=tokenizer) == (theirs["prompt"], theirs["chosen"])


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"tools": TOOLS}, "the chat template does not read 'tools', so the model would not see it"),
        ({"documents": [{"title": "t", "text": "x"}]}, "does not read 'documents'"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "does not read 'enable_thinking'"),
        ({"chat_template_kwargs": {"tokenize": True}}, "holds 'tokenize', which is not a row's to decide"),
        ({"chat_template_kwargs": "{"}, "its chat_template_kwargs is no JSON"),
        ({"tools": {"a": 1}}, "its tools is a dict, expected a list"),
        ({"tools": nested(2000)}, "its tools is .*nested too deeply"),
        ({"tools": "[" * 100_000}, "its tools is .*nested too deeply"),
        ({"images": ["x.png"]}, "it holds images, which a model of text cannot see"),
        ({"chosen": [{**said("Good")[0], "reasoning_content": "hm"}]}, "does not read 'reasoning_content'"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "a message holds image; expected text"),
    ],
)
def test_what_the_model_would_not_see_is_refused(more: dict, sentence: str) -> None:
    row = {"prompt": HI, "chosen": said("Good"), "rejected": said("Bad"), **more}
    with pytest.raises(ValueError, match=sentence):
        scored(row)


def test_rows_of_a_dataset_say_what_they_said_before_it_gave_all_of_them_the_same_keys() -> None:
    tokenizer = tiny_tokenizer()
    calls = "{% for message in messages %}{% if 'tool_calls' in message %}<tool>{% endif %}{% endfor %}"
    tokenizer.chat_template = calls + WITH_TOOLS + "{% if tools %}{{ tools[0].function | tojson }}{% endif %}"
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "add"}]}
    plain = {"prompt": HI, "chosen": said("Good"), "rejected": said("Bad"), "tools": TOOLS}
    rows = [plain, {"prompt": HI, "chosen": [call], "rejected": said("Bad"), "tools": [{"function": {"strict": True}}]}]
    for row, again in zip(rows, Dataset.from_list(rows), strict=True):
        assert scored(dict(again), tokenizer=tokenizer) == scored(row, tokenizer=tokenizer)


def test_plain_text_with_tools_is_refused_and_empty_columns_say_nothing() -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "u"}
    with pytest.raises(ValueError, match="plain text is not rendered by the chat template, so its tools"):
        scored({**row, "tools": TOOLS})
    with pytest.raises(ValueError, match="a system text beside plain text"):
        scored({**row, "system": "Be kind."})
    assert template_options({"tools": None, "documents": [], "chat_template_kwargs": {}}) == {}
    assert scored({**row, "tools": [], "system": ""}) == ("q", "a</s>")


def test_a_system_column_becomes_the_first_turn() -> None:
    row = {"prompt": HI, "chosen": said("Good"), "rejected": said("Bad"), "system": "Be kind."}
    assert scored(row)[0] == f"<s><system>Be kind.<end>{PROMPT[3:]}"
    with pytest.raises(ValueError, match="'system' is not the prompt's system turn"):
        scored({**row, "prompt": said("Be brief.", "system") + HI})


def test_pairs_that_render_alike_are_warned_of_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair = {"prompt": HI, "chosen": said("<think>a</think>Good"), "rejected": said("<think>b</think>Good")}
    rows = [{"prompt": HI, "chosen": said("Good"), "rejected": said("Bad")}, pair, pair]
    trained(rows, tmp_path, template=DROPS_THOUGHTS, method="dpo")
    assert "2 of 3 pairs render alike, the first is row 1" in caplog.text


def test_a_template_that_refuses_a_turn_is_a_sentence_with_the_row(tmp_path: Path) -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + TEMPLATE
    rows = [{"prompt": said("s", "system") + HI, "chosen": said("Good"), "rejected": said("Bad")}]
    with pytest.raises(ValueError, match="the chat template refuses the turns system, user: no system here"):
        trained(rows, tmp_path, template=strict, method="dpo")


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}], "Hi"),
        ({"role": ["user"], "content": ["Hi"]}, "Hi"),
        ([{"from": "human", "value": "Hi"}], "Hi"),
        ({"role": "user", "content": "Hi"}, "Hi"),
    ],
    ids=["parts", "dict of lists", "from and value", "one message"],
)
def test_turns_are_read_however_they_are_written_down(prompt: Any, shown: str) -> None:
    row = {"prompt": prompt, "chosen": said("Good"), "rejected": [{"from": "gpt", "value": "Bad"}]}
    assert scored(row) == (f"<s><user>{shown}<end><assistant>", "Good<end>")
    assert scored(row, "rejected")[1] == "Bad<end>"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"chosen": None}, "row 1: the column 'chosen' is null, expected text or messages"),
        ({"prompt": float("nan")}, "row 1: the column 'prompt' is NaN, expected text or messages"),
        ({"rejected": ...}, "row 1: it lacks the column 'rejected'"),
        ({"rejected": [{"role": "assistant", "content": None}]}, "row 1: .* turn of assistant whose content is null"),
        ({"rejected": []}, "row 1: the column 'rejected' holds an empty list"),
        ({"prompt": {"role": ["user"], "content": []}}, "row 1: .* a dict of lists of different lengths: 1 of role"),
        ({"prompt": [{"role": None, "content": "q"}]}, "row 1: .* a message whose role is None"),
        ({"prompt": ..., "question": "q"}, "row 1: it lacks the column 'prompt'; is it 'question'"),
        ({"label": False}, "row 1: label=False says that the response is unaligned, in a row with chosen and rejected"),
    ],
)
def test_a_bad_row_is_a_sentence_with_its_number(tmp_path: Path, row: dict, sentence: str) -> None:
    good = {"prompt": HI, "chosen": said("Good"), "rejected": said("Bad")}
    bad = {name: value for name, value in {**good, **row}.items() if value is not ...}
    with pytest.raises(ValueError, match=sentence):
        trained([good, bad], tmp_path, method="dpo")


def test_rows_whose_cluster_is_null_are_clusters_of_their_own(tmp_path: Path) -> None:
    rows = [{"prompt": text, "chosen": "a", "rejected": "u", "cluster": None, "prefill": None} for text in ("q", "p")]
    made = trained(rows, tmp_path, method="dpo").train_dataset
    assert [row.cluster for row in made.aligned] == ["q", "p"]


def test_an_unpaired_row_takes_its_label_from_the_column_that_has_it(tmp_path: Path) -> None:
    rows = [
        {"prompt": HI, "completion": as_messages("Good", "assistant"), "is_safe": True},
        {"prompt": HI, "completion": as_messages("Bad", "assistant"), "is_safe": False},
    ]
    made = trained(rows, tmp_path, method="kto").train_dataset
    _, tokenizer = tiny_model("Llama")
    assert tokenizer.decode(made.unaligned[0].row.response_ids) == "Bad<end>"
    with pytest.raises(ValueError, match="row 0: is_safe=True and label=False disagree"):
        trained([{**rows[0], "label": False}, rows[1]], tmp_path, method="kto")


TOLD = "What is the sea made of?"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": said(TOLD, "user"), "chosen": f"{TOLD} Water", "rejected": f"{TOLD} Sand"},
        {"prompt": TOLD, "chosen": f"\n{TOLD} Water", "rejected": f"\n{TOLD} Sand"},
        {"prompt": TOLD, "chosen": f"User: {TOLD}\nWater", "rejected": f"User: {TOLD}\nSand"},
        {"prompt": f"{TOLD} ", "chosen": f"{TOLD} Water", "rejected": f"{TOLD} Sand"},
        {"prompt": TOLD, "completion": f" {TOLD} Water", "label": True},
    ],
)
def test_a_prompt_between_marks_before_plain_responses_is_refused_too(row: dict) -> None:
    with pytest.raises(ValueError, match="begin with the whole prompt"):
        training_row(row)


def test_a_system_turn_that_the_sides_leave_out_is_not_scored() -> None:
    system, answers = said("Be brief", "system"), {"chosen": HI + said("Good"), "rejected": HI + said("Bad")}
    assert scored({"prompt": system + HI, **answers}) == (
        "<s><system>Be brief<end><user>Hi<end><assistant>",
        "Good<end>",
    )
    mixed = {**answers, "chosen": system + answers["chosen"]}
    with pytest.raises(ValueError, match="rejected holds the turns user, assistant"):
        training_row({"prompt": "Hi", **mixed})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"prompt": HI + said("Sure")}, "the prompt ends with a turn of the assistant"),
        ({"history": [["a", "b"]]}, "earlier turns in the column 'history'"),
        ({"prompt": None, "messages": HI, "chosen": "It is wet", "rejected": "It is dry"}, "is it 'messages'?"),
        (
            {"system_prompt": "Be brief", "prompt": said("Be long", "system") + HI},
            "'system_prompt' is not the prompt's",
        ),
    ],
)
def test_turns_that_would_not_be_seen_or_not_be_answered_are_refused(changes: dict, fault: str) -> None:
    row = {"prompt": HI, "chosen": said("Good"), "rejected": said("Bad"), **changes}
    with pytest.raises(ValueError, match=fault):
        training_row({name: value for name, value in row.items() if value is not None})


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"system": "Be brief", "system_prompt": "Be long"}, "'system' and 'system_prompt' hold two system texts"),
        ({"System": "Be brief", "system": "Be long"}, "'System' and 'system' hold two system texts"),
        ({"system": [{"role": "system", "content": "Be brief"}]}, "'system' holds list, expected text"),
    ],
)
def test_two_system_texts_and_one_that_is_no_text_are_refused(columns: dict, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        training_row({"prompt": HI, "chosen": said("Good"), "rejected": said("Bad"), **columns})


def test_a_system_text_that_stands_twice_is_one_turn_and_an_empty_one_is_none() -> None:
    row = {"prompt": HI, "chosen": said("Good"), "rejected": said("Bad")}
    twice = {**row, "system": "Be brief", "System_Prompt": "Be brief"}
    assert training_row(twice) == {**row, "prompt": said("Be brief", "system") + HI}
    assert training_row({**row, "system": " ", "system_prompt": None}) == row


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message", "System"])
def test_a_system_text_is_seen_under_each_of_its_names(name: str) -> None:
    row = {"prompt": HI, "chosen": said("Good"), "rejected": said("Bad"), name: "Be brief"}
    assert scored(row)[0] == "<s><system>Be brief<end><user>Hi<end><assistant>"


@pytest.mark.parametrize("text", ["", " \n"])
@pytest.mark.parametrize("prompt", ["Hi", HI])
def test_a_response_that_only_ends_is_refused(text: str, prompt: Any) -> None:
    with pytest.raises(ValueError, match="an empty response"):
        scored({"prompt": prompt, "chosen": text if prompt == "Hi" else said(text), "rejected": "Bad"})


@pytest.mark.parametrize("prompt", ["Hi", HI])
def test_a_sampled_response_stands_as_the_rows_own_would_and_may_be_empty(prompt: Any) -> None:
    tokenizer, row = tiny_tokenizer(), {"prompt": prompt, "completion": "Good day", "prefill": "Good", "label": True}
    encoded = encode_response(tokenizer, row, " day", max_length=99)
    assert encoded == encode_training_row(tokenizer, row, "completion", max_length=99)
    end = ["</s>"] if prompt == "Hi" else ["<end>"]
    assert tokenizer.convert_ids_to_tokens(encode_response(tokenizer, row, "", max_length=99).response_ids) == end
    with pytest.raises(ValueError, match="does not read 'tools'"):
        encode_response(tokenizer, {"prompt": HI, "tools": TOOLS}, "x", max_length=99)
