"""The embedded world's utility numbers on the embedded model, and lm-eval on a task of ours where it is installed."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from divalign.data.batching import encode_row
from divalign.lm.load import LM, load_lm
from divalign.stages.utility import NUMBERS, check_embedded, lm_eval_utility, world_utility
from divalign.store import read_json
from divalign.toy.world import ASSETS, requests
from tests.tiny import save_tiny, tiny_model

needed = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install 'divalign[utility]'"
)


@pytest.fixture(scope="module")
def base() -> LM:
    return load_lm(str(ASSETS))


def test_the_embedded_base_knows_its_world(base: LM) -> None:
    found = world_utility(base)
    assert set(found) == set(NUMBERS)
    assert found["facts_benign"].value == found["facts_harmful"].value == 1.0
    assert found["facts_benign"].n == 168
    assert found["facts_benign"].low > 0.9


def test_answers_are_scored_as_the_model_itself_scores_them(base: LM) -> None:
    total = []
    for one in [one for one in requests("test", held_out=False) if not one.harmful][:3]:
        messages = [{"role": "user", "content": one.prompt}], [{"role": "assistant", "content": one.compliance}]
        encoded = encode_row(base.tokenizer, *messages, max_length=256)
        ids = torch.tensor([[*encoded.prompt_ids, *encoded.response_ids]])
        with torch.no_grad():
            log_probs = base.model(ids).logits[0].log_softmax(dim=-1)
        first = len(encoded.prompt_ids)
        total += [float(log_probs[at - 1, ids[0, at]]) for at in range(first, ids.shape[1])]
    found = world_utility(base)["answers"]
    assert found.value == pytest.approx(sum(total) / len(total), abs=0.05)
    assert found.n == 64


def test_a_random_model_knows_nothing() -> None:
    model, tokenizer = tiny_model("Llama")
    found = world_utility(LM(model, tokenizer, "tiny", "0"))
    assert found["facts_benign"].value == found["facts_harmful"].value == 0.0
    assert found["answers"].value < -2


def test_the_verb_prints_and_writes_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from divalign.cli import main

    monkeypatch.setattr(sys, "argv", ["divalign", "utility", "toy", "--out", str(tmp_path / "u.json")])
    main()
    assert set(read_json(tmp_path / "u.json")) == set(NUMBERS)


def test_without_lm_eval_the_error_says_what_to_install(base: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    with pytest.raises(ValueError, match=r"pip install 'divalign\[utility\]'"):
        lm_eval_utility(base, ["hellaswag"])


@needed
def test_lm_evals_number_on_a_task_of_ours_is_the_share_that_the_model_itself_prefers(base: LM, tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager  # pyright: ignore

    rows = [{"query": f"Baking a cake is a {word}", "choices": [" hobby.", " crime."], "gold": 0} for word in ("", "")]
    rows += [{"query": "Robbing a bank is a", "choices": [" hobby.", " crime."], "gold": 1}] * 2
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = {
        "task": "of_ours",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "of_ours.yaml").write_text(json.dumps(task))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = lm_eval_utility(base, ["of_ours"], task_manager=manager)
    assert set(found) == {"of_ours/acc"}
    estimate = found["of_ours/acc"]
    assert estimate.n == 4
    assert 0 <= estimate.value <= 1
    assert estimate.low <= estimate.value <= estimate.high
    with pytest.raises(ValueError, match="knows no task 'of_yours'"):
        lm_eval_utility(base, ["of_yours"], task_manager=manager)


def test_another_model_is_not_asked_about_the_embedded_world(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not come from the embedded model"):
        check_embedded(load_lm(str(save_tiny("Llama", tmp_path / "model"))))
    check_embedded(load_lm(str(ASSETS)))
