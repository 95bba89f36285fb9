"""Options without effect, arguments of other trainers and data that are no rows: honoured, or refused with a remedy."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import transformers

from divalign import DivergenceConfig, DivergenceTrainer
from divalign.train.construction import encode_data
from divalign.train.couples import RowCounts, encode_rows
from divalign.train.rows import as_rows
from divalign.train.unsupported import WITHOUT_EFFECT, refuse_processes
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer
from tests.train.test_drop_in import PAIRS, UNPAIRED, trainer

SET = {
    "label_smoothing_factor": 0.1, "label_names": ["labels"], "prediction_loss_only": True,
    "include_for_metrics": ["loss"], "batch_eval_metrics": True, "eval_do_concat_batches": False,
    "eval_use_gather_object": True, "eval_accumulation_steps": 2, "bf16_full_eval": True, "fp16_full_eval": True,
    "train_sampling_strategy": "group_by_length", "length_column_name": "size",
    "average_tokens_across_devices": False, "use_cache": True, "torch_compile": True,
    "torch_compile_backend": "inductor", "torch_compile_mode": "default", "use_liger_kernel": True,
    "liger_kernel_config": {"rope": True},
}  # fmt: skip


def test_every_field_of_transformers_that_would_be_ignored_is_refused() -> None:
    assert set(SET) == set(WITHOUT_EFFECT)
    for name, value in SET.items():
        with pytest.raises(ValueError, match=f"{name} is .* which has no effect here: .+"):
            DivergenceConfig("out", **{name: value})
    defaults = transformers.TrainingArguments("out", use_cpu=True)
    for name, (neutral, _) in WITHOUT_EFFECT.items():
        assert (getattr(defaults, name) or None) == (neutral or None), name


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "dpo", "desirable_weight": 2.0}, "no effect on dpo.*leave both at 1, or use an unpaired method"),
        ({"method": "ipo", "undesirable_weight": 0.5}, "no effect on ipo"),
        ({"method": "dpo", "normaliser": "ema"}, "normaliser 'ema' has no effect: dpo has no baseline"),
        ({"method": "hdo", "normaliser": "microbatch"}, "hdo has no baseline"),
        ({"ema_rate": 0.5}, "ema_rate is 0.5, which has no effect; set normaliser='ema'"),
        ({"max_length": 1}, "max_length is 1, expected at least 2 tokens, or None"),
        ({"too_long": "drop"}, "expected one of refuse, skip"),
        ({"desirable_weight": -1.0}, "desirable_weight is -1.0"),
    ],
)
def test_options_of_our_own_without_effect_are_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DivergenceConfig("out", **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tokenizer": tiny_tokenizer()}, "does not take tokenizer: give it as processing_class"),
        ({"data_collator": list}, "does not take data_collator"),
        ({"model_init": tiny_model}, "does not take model_init"),
        ({"compute_loss_func": print}, "give a method of your own"),
        ({"beta": 0.1}, "set it in DivergenceConfig"),
        ({"quantization_config": object()}, "no effect on a model that is loaded already"),
        ({"args": transformers.TrainingArguments("out", use_cpu=True)}, "args is a TrainingArguments, expected a Div"),
    ],
)
def test_arguments_of_other_trainers_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DivergenceTrainer(tiny_model()[0], train_dataset=PAIRS, **options)
    with pytest.raises(TypeError, match="no argument 'modle'"):
        DivergenceTrainer(tiny_model()[0], train_dataset=PAIRS, modle=1)


def stream() -> Iterator[dict]:
    while True:
        yield PAIRS[0]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("rows.jsonl", r"train_dataset is the path 'rows.jsonl', expected rows; read it: datasets.load_dataset"),
        (Path("rows.jsonl"), "train_dataset is the path 'rows.jsonl'"),
        (datasets.DatasetDict(train=datasets.Dataset.from_list(PAIRS)), r"train_dataset=data\['train'\]"),
        (
            {name: [row[name] for row in PAIRS] for name in PAIRS[0]},
            "is a dict of the columns prompt, chosen, rejected",
        ),
        (datasets.IterableDataset.from_generator(stream), "is a stream .IterableDataset., which has no length"),
        (stream(), "is a stream .generator., which has no length.*stream.take"),
        (["a", "b"], "row 0 is a str, expected a mapping with the columns"),
        ([{}], "row 0: it has the columns .none.; expected prompt, chosen, rejected"),
    ],
)
def test_what_is_no_set_of_rows_is_refused_with_how_to_make_it_one(tmp_path: Path, rows: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        trainer(tmp_path, rows)


@pytest.mark.parametrize("rows", ["rows.jsonl", stream(), {"one": stream()}], ids=["path", "stream", "named"])
def test_held_out_data_that_are_no_rows_are_refused_too(tmp_path: Path, rows: Any) -> None:
    with pytest.raises(ValueError, match=r"^eval_dataset(\['one'\])? is (the path|a stream)"):
        trainer(tmp_path, eval_dataset=rows)


def test_data_frames_tables_and_named_sets_are_taken(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(PAIRS)
    assert as_rows(frame, "rows") == PAIRS
    assert as_rows(datasets.Dataset.from_list(PAIRS).data.table, "rows") == PAIRS
    made = trainer(tmp_path, frame, eval_dataset=datasets.DatasetDict(test=datasets.Dataset.from_list(PAIRS)))
    assert len(made.train_dataset) == len(made.eval_dataset["test"]) == len(PAIRS)
    frame.loc[2, "chosen"] = np.nan
    with pytest.raises(ValueError, match=r"row 2: the column .chosen. is (NaN|null), expected text or messages"):
        trainer(tmp_path, frame)


MESSAGE = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"chosen": None}, "row 3: the column 'chosen' is null, expected text or messages"),
        ({"prompt": None}, "row 3: the column 'prompt' is null"),
        ({"rejected": 7}, "row 3: .*rejected"),
        ({"rejected": [{"role": "assistant", "content": None}]}, "row 3: .*'rejected' .* content is null"),
        ({"chosen": [{"text": "a"}]}, "row 3: the column 'chosen' holds a message without role and content"),
        ({"chosen": []}, "row 3: the column 'chosen' holds an empty list"),
        ({"prefill": "no such opening"}, "row 3, chosen: .* does not open with its prefill"),
        ({"rejected": "ABSENT"}, "row 3: it lacks the column 'rejected'"),
    ],
)
def test_a_faulty_row_is_named_by_its_number(tmp_path: Path, fault: dict, sentence: str) -> None:
    row = {name: value for name, value in {**PAIRS[3], **fault}.items() if value != "ABSENT"}
    with pytest.raises(ValueError, match=sentence):
        trainer(tmp_path, [*PAIRS[:3], row, *PAIRS[4:]])


def test_a_first_row_that_is_empty_is_named_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 0: the column 'completion' is null"):
        trainer(tmp_path, [{**UNPAIRED[0], "completion": None}, *UNPAIRED[1:]])


def test_a_conversation_that_the_template_refuses_is_named_by_its_row() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    rows = [{"prompt": MESSAGE, "chosen": "a", "rejected": "b"}]
    with pytest.raises(ValueError, match=r"row 0, chosen: .*System role not supported"):
        encode_rows(rows, tokenizer, max_length=64)


def test_what_is_done_on_one_process_or_has_no_effect_on_several_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path, PAIRS, dataloader_drop_last=True)
    monkeypatch.setattr(DivergenceConfig, "world_size", 2)
    with pytest.raises(ValueError, match="dataloader_drop_last has no effect on several processes"):
        run._check_processes()
    with pytest.raises(ValueError, match="a reward model is trained on one process, and there are 2"):
        refuse_processes(2, "a reward model is trained")


@pytest.mark.parametrize("method", ["csft", "safedpo"])
def test_a_row_is_named_by_its_number_in_the_data_set_by_methods_that_arrange_rows_anew(
    tmp_path: Path, method: str
) -> None:
    """safedpo leaves row 1 out, and csft makes two rows of each."""
    rows: list[dict[str, Any]] = [
        {"prompt": MESSAGE, "chosen": "a", "rejected": "b", "chosen_safe": number != 1, "rejected_safe": False}
        for number in range(4)
    ]
    args = DivergenceConfig(
        str(tmp_path), method=method, max_length=64, per_device_train_batch_size=4, report_to="none", use_cpu=True
    )
    tokenizer = tiny_tokenizer()
    encoded = encode_data(rows, "train_dataset", tokenizer, args)
    assert encoded.numbers[0] == ([0, 2, 3] if method == "safedpo" else [0, 1, 2, 3])
    assert "divalign.origin" not in encoded.rows[0][0]
    for change, sentence in (
        ({"prompt": [{"role": "user", "content": "x" * 99}]}, "row 2: a prompt of .* leaves no room"),
        ({"tools": [{"name": "f"}]}, "row 2, .*tools"),
    ):
        with pytest.raises(ValueError, match=sentence):
            encode_data([*rows[:2], {**rows[2], **change}], "train_dataset", tokenizer, args)


def test_rows_that_are_too_long_are_skipped_and_counted_or_the_first_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*PAIRS, {**PAIRS[0], "prompt": "x" * 40}, {**PAIRS[0], "chosen": " y" * 40}]
    with pytest.raises(
        ValueError, match=r"row 8: a prompt of 40 tokens leaves no room .* 32; .*too_long='skip' leaves"
    ):
        trainer(tmp_path, rows, max_length=32)
    with caplog.at_level(logging.WARNING):
        made = trainer(tmp_path, rows, max_length=32, too_long="skip")
    assert made.row_counts["train_dataset"] == RowCounts(10, 1, 1)
    assert len(made.train_dataset) == 9
    assert "train_dataset: 1 of 10 rows skipped: prompts fill max_length" in caplog.text
    assert "1 of 10 rows have responses cut" in caplog.text
    with pytest.raises(ValueError, match="all 10 rows are too long for max_length 3"):
        trainer(tmp_path, rows, max_length=3, too_long="skip")
    with pytest.raises(ValueError, match=r"no aligned .* among 2, 1 of them skipped"):
        trainer(tmp_path, [{**UNPAIRED[0], "prompt": "x" * 40}, UNPAIRED[1]], max_length=32, too_long="skip")


def test_without_a_limit_nothing_is_cut(tmp_path: Path) -> None:
    long = [{**row, "chosen": "y" * 1500} for row in PAIRS[:2]]
    _, tokenizer = tiny_model()
    assert {len(text.response_ids) for text in encode_rows(long, tokenizer, max_length=None).aligned} == {1501}
    assert len(trainer(tmp_path, PAIRS, max_length=None).train_dataset) == 8


def test_a_reference_may_be_a_folder(tmp_path: Path) -> None:
    folder = save_tiny("Llama", tmp_path / "other", seed=1)
    columns = [
        [row.reference for row in trainer(tmp_path, ref_model=other).train_dataset.aligned]
        for other in (str(folder), tiny_model("Llama", seed=1)[0])
    ]
    assert columns[0] == columns[1]


def test_a_base_model_without_a_template_trains_on_plain_rows(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("Llama")
    tokenizer.chat_template = None
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    args = DivergenceConfig(str(tmp_path / "out"), report_to="none", use_cpu=True, max_steps=1, save_strategy="no")
    made = DivergenceTrainer(str(tmp_path / "base"), args=args, train_dataset=PAIRS)
    made.train()
    assert made.processing_class.chat_template is None
    talk = [{"prompt": MESSAGE, "chosen": "a", "rejected": "b"}]
    with pytest.raises(ValueError, match="row 0, chosen: the tokenizer has no chat template"):
        DivergenceTrainer(str(tmp_path / "base"), args=args, train_dataset=talk)


def test_class_weights_on_unequal_classes_warn_of_what_they_mean(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row for number, row in enumerate(UNPAIRED) if not row["label"] or number < 4]
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, rows, method="kto", desirable_weight=4.0)
    assert "2 aligned and 8 unaligned rows: classes count alike" in caplog.text
    assert "TRL's weights of these values are 0.8 and 0.8 here" in caplog.text


def test_several_gpus_in_one_process_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(tmp_path)
    monkeypatch.setattr(DivergenceConfig, "n_gpu", property(lambda args: 2))
    with pytest.raises(ValueError, match="2 GPUs in one process"):
        made._check_processes()
