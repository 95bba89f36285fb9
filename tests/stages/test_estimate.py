"""`divalign estimate` as its user meets it: three kinds of question, and bad input in one sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from divalign.core.measure import MeasurementPlan
from divalign.core.stats import Estimate
from divalign.data.recipes import RECIPES
from divalign.lm.generate import sample
from divalign.records import DivergenceFile, DivergenceRecord, read_record
from divalign.stages import sampled_kl
from divalign.stages.estimate import EstimatePlan, _with_gaps, estimate, from_policy
from divalign.stages.models import find_model
from divalign.stages.sampled_kl import SamplingPlan, kl_by_sampling, unique_prompts
from divalign.store import write_rows
from divalign.toy.world import requests
from tests.commands import call
from tests.tiny import save_tiny


def rows(recipe: str, pairs: int = 64) -> list[dict]:
    """Rows of so many pairs of topics, a pair being what a split keeps together."""
    known = list(dict.fromkeys(request.cluster for request in requests("test", held_out=False)))[:pairs]
    return [RECIPES[recipe](request) for request in requests("test", held_out=False) if request.cluster in known]


def nll_per_token(row: dict, model: Any) -> float:
    """Mean negative log-likelihood per token of the chosen response, in nats, by transformers' own forward pass."""
    lm = model.lm()
    shown = lm.tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
    ids = torch.tensor([lm.tokenizer.apply_chat_template([*row["prompt"], *row["chosen"]], return_dict=False)])
    labels = ids.clone()
    labels[0, : len(shown)] = -100
    with torch.no_grad():
        return float(lm.model(input_ids=ids, labels=labels).loss)


def margin(row: dict, policy: Any, reference: Any) -> float:
    """r(chosen) - r(rejected) at beta 1 by transformers' own forward passes, one response at a time."""

    def log_prob(model: Any, response: list) -> float:
        lm = model.lm()
        shown = lm.tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        ids = torch.tensor(lm.tokenizer.apply_chat_template([*row["prompt"], *response], return_dict=False))[None]
        with torch.no_grad():
            logs = lm.model(input_ids=ids).logits[0].double().log_softmax(-1)
        return float(logs[torch.arange(len(shown) - 1, ids.shape[1] - 1), ids[0, len(shown) :]].sum())

    chosen, rejected = (log_prob(policy, row[side]) - log_prob(reference, row[side]) for side in ("chosen", "rejected"))
    return chosen - rejected


def numbers(out: Path) -> dict[str, Any]:
    return read_record(out, DivergenceFile).divergences


def test_a_data_set_is_measured_before_any_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "cr.jsonl", rows("cr"))
    out = tmp_path / "out.json"
    assert (
        call(monkeypatch, "estimate", tmp_path / "cr.jsonl", "--features", "toy", "--divergence", "tv", "--out", out)
        == 0
    )
    record = numbers(out)["tv"]
    assert 0.0 < record.lower < record.estimate.value < record.estimate.high < 1.0
    assert record.null.low < 0.05
    assert record.estimate.n < 40


def test_two_files_of_the_same_responses_are_at_no_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = [{"prompt": row["prompt"], "response": row["chosen"]} for row in rows("cr", 16)]
    for name in ("a.jsonl", "b.jsonl"):
        write_rows(tmp_path / name, one)
    out = tmp_path / "out.json"
    code = call(monkeypatch, "estimate", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--features", "toy", "--out", out)
    assert code == 0
    assert all(numbers(out)[name].estimate.low == 0.0 for name in ("js", "tv", "hellinger", "lecam"))


def test_beta_is_that_of_the_training_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    save_tiny("Llama", tmp_path / "base")
    save_tiny("Llama", tmp_path / "mine" / "checkpoint", seed=1)
    (tmp_path / "mine" / "training.json").write_text('{"beta": 0.25}')
    write_rows(tmp_path / "cr.jsonl", rows("cr", 24))
    found = {}
    for name, options in {"given": ("--beta", "0.25"), "trained": (), "other": ("--beta", "0.5")}.items():
        models = ("--policy", tmp_path / "mine" / "checkpoint", "--reference", tmp_path / "base")
        out = tmp_path / f"{name}.json"
        assert call(monkeypatch, "estimate", tmp_path / "cr.jsonl", *models, *options, "--out", out) == 0
        found[name] = out.read_bytes()
    assert found["trained"] == found["given"] != found["other"]
    assert "r = 0.25 log(policy / reference), the beta of its training" in capsys.readouterr().out


def test_a_policy_that_is_its_reference_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "cr.jsonl", rows("cr", 24))
    out = tmp_path / "out.json"
    assert (
        call(monkeypatch, "estimate", tmp_path / "cr.jsonl", "--policy", "toy", "--reference", "toy", "--out", out) == 0
    )
    assert {(row.estimate.value, row.estimate.low) for name, row in numbers(out).items() if name != "kl"} == {
        (0.0, 0.0)
    }


def test_all_rows_are_measured_at_once_where_none_fits_a_shift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "cr.jsonl", rows("cr", 12))
    options = ("--policy", "toy", "--reference", "toy", "--divergence", "tv", "--whole", "--out", tmp_path / "out.json")
    assert call(monkeypatch, "estimate", tmp_path / "cr.jsonl", *options) == 0
    record = numbers(tmp_path / "out.json")["tv"]
    assert record.estimate.n == 12
    assert record.null is record.shift is record.p_value is None


def test_two_vocabularies_have_no_kl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny("Llama", tmp_path / "other")
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": word} for word in "abcdefghijkl"])
    models = ("--policy", "toy", "--reference", tmp_path / "other")
    assert call(monkeypatch, "estimate", tmp_path / "prompts.jsonl", "--kl", *models, "--samples", 1) == 2
    assert "have different vocabularies" in " ".join(capsys.readouterr().err.split())


def test_a_permuted_vocabulary_is_another_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny("Llama", tmp_path / "one")
    other = save_tiny("Llama", tmp_path / "two")
    path = other / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": word} for word in "abcdefghijkl"])
    assert (
        call(monkeypatch, "estimate", tmp_path / "prompts.jsonl", "--kl", "--policy", folder, "--reference", other) == 2
    )
    assert "have different vocabularies" in " ".join(capsys.readouterr().err.split())


def test_the_kl_of_two_models_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (0, 1):
        save_tiny("Llama", tmp_path / f"m{seed}", seed=seed)
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": word} for word in "abcdefghijkl"])
    models = ("--policy", tmp_path / "m0", "--reference", tmp_path / "m1")
    out = tmp_path / "kl.json"
    options = ("--kl", "--samples", 2, "--max-new-tokens", 4, "--out", out)
    assert call(monkeypatch, "estimate", tmp_path / "prompts.jsonl", *models, *options) == 0
    found = json.loads(out.read_text())["kl"]
    assert found["n"] == 12
    assert 0.0 <= found["low"] <= found["value"] <= found["high"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("missing.jsonl", "--features", "toy"), "no file at missing.jsonl"),
        (("cr.jsonl",), "--policy is missing"),
        (("cr.jsonl", "--policy", "toy"), "--reference is missing"),
        (("cr.jsonl", "--features", "toy", "--divergence", "jss"), "did you mean 'js'"),
        (("few.jsonl", "--features", "toy"), "prompts to fit a critic on"),
        (("cr.jsonl", "other.jsonl", "--features", "toy"), "expected response or completion"),
        (("a.jsonl", "b.jsonl", "--features", "toy"), "have rows of one class only"),
        (("broken.jsonl", "--features", "toy"), "broken.jsonl, line 1: not JSON"),
        (("null.jsonl", "--features", "toy"), "null.jsonl, line 2: the column 'prompt' is null"),
        (("number.jsonl", "--features", "toy"), "number.jsonl, line 2: the column 'chosen' holds int, expected text"),
        (("mixed.jsonl", "--features", "toy"), "row 2 lacks the column 'chosen'"),
        (("null.jsonl", "--kl", "--policy", "toy", "--reference", "toy"), "row 2: the column 'prompt' is null"),
        (("a.jsonl", "null.jsonl", "--features", "toy"), "row 1 of the unaligned responses has the columns"),
        (("cr.jsonl", "--features", "toy", "--divergence", ".my:thing"), "no divergence is named '.my:thing'"),
        (("cr.jsonl", "--features", "toy", "--policy", "toy"), "--features needs no --policy"),
        (("cr.jsonl", "--features", "toy", "--reference", "toy"), "--features needs no --reference"),
        (("cr.jsonl", "--kl", "--features", "toy"), "--kl needs no --features"),
        (("cr.jsonl", "--kl", "--beta", "0"), "--kl needs no --beta"),
        (("cr.jsonl", "--features", "toy", "--beta", "0.1"), "--features needs no --beta"),
        (("a.jsonl", "b.jsonl", "--kl", "--policy", "toy", "--reference", "toy"), "--kl needs no second file"),
        (("a.jsonl", "--kl", "--divergence", "js"), "--kl needs no --divergence"),
        (("cr.jsonl", "--policy", "toy", "--reference", "toy", "--beta", "0"), "beta is 0"),
        (("cr.jsonl", "--policy", "toy", "--reference", "toy", "--beta", "nan"), "beta is nan"),
        (("cr.jsonl", "--features", "toy", "--batch-size", "0"), "'--batch-size'"),
        (("cr.jsonl", "--features", "toy", "--seed", "-1"), "'--seed'"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(Path("cr.jsonl"), rows("cr", 2))
    write_rows(Path("few.jsonl"), rows("cr", 2))
    write_rows(Path("other.jsonl"), [{"prompt": "a"}])
    write_rows(Path("a.jsonl"), [{"prompt": f"a{i}", "response": "x"} for i in range(20)])
    write_rows(Path("b.jsonl"), [{"prompt": f"b{i}", "response": "y"} for i in range(20)])
    first = {"prompt": "p", "chosen": "a", "rejected": "b"}
    write_rows(Path("null.jsonl"), [first, {**first, "prompt": None}])
    write_rows(Path("number.jsonl"), [first, {**first, "chosen": 3}])
    write_rows(Path("mixed.jsonl"), [first, {"prompt": "p", "completion": "a", "label": True}])
    Path("broken.jsonl").write_text("{not json\n")
    assert call(monkeypatch, "estimate", *arguments) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_pairs_prove_what_their_margins_do_and_a_shift_of_the_prompt_changes_nothing(tmp_path: Path) -> None:
    save_tiny("Llama", tmp_path / "policy", seed=1)
    save_tiny("Llama", tmp_path / "reference", seed=2)
    models = [find_model(str(tmp_path / name)) for name in ("policy", "reference")]
    content = rows("cr", 12)
    plan = EstimatePlan(divergences=["js", "tv"], beta=1.0, split=False)
    file = from_policy(content, *models, plan)
    assert file.of_pairs is not None
    margins = np.array([margin(row, *models) for row in content])
    assert file.of_pairs["js"].bound == pytest.approx(
        2 * np.log(2) - 2 * np.logaddexp(0.0, -margins).mean(), rel=1e-4
    )  # float32 log-probabilities of up to 200 tokens
    assert file.of_pairs["tv"].estimate.n == 12
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in content]
    other = from_policy(swapped, *models, plan).of_pairs
    assert other is not None
    assert other["tv"].bound == pytest.approx(-file.of_pairs["tv"].bound, abs=1e-6)
    unpaired = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in content
        for side in ("chosen", "rejected")
    ]
    assert from_policy(unpaired, *models, plan).of_pairs is None


def test_the_likelihood_of_aligned_responses_stands_beside_by_kind_of_prompt(tmp_path: Path) -> None:
    save_tiny("Llama", tmp_path / "policy", seed=1)
    save_tiny("Llama", tmp_path / "reference", seed=2)
    models = [find_model(str(tmp_path / name)) for name in ("policy", "reference")]
    content = [{**row, "cluster": str(number)} for number, row in enumerate(rows("cr", 2))]
    nll = from_policy(content, *models, EstimatePlan(divergences=["tv"], split=False)).aligned_nll
    assert nll is not None
    assert set(nll) == {"benign", "harmful"}
    for kind, harmful in (("benign", False), ("harmful", True)):
        for which, model in zip(("policy", "reference"), models, strict=True):
            values = [nll_per_token(row, model) for row in content if row["harmful"] is harmful]
            assert getattr(nll[kind], which).value == pytest.approx(np.mean(values), rel=1e-4)


def test_pairs_stay_measured_where_the_rows_trained_on_are_none() -> None:
    record = DivergenceRecord(estimate=Estimate(0.2, 0.1, 0.3, 20), bound=0.2, lower=0.1, ceiling=1.4,
                              effective_sample_size=10.0, flags=[])  # fmt: skip
    found = _with_gaps(
        DivergenceFile(divergences={"js": record}, of_pairs={"js": record}), DivergenceFile(divergences={"js": record})
    )
    assert found.divergences["js"].overfit_gap == 0.0
    assert found.of_pairs == {"js": record}


def test_prompts_that_classes_drew_apart_are_measured_without_a_split_as_with_one(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = find_model(str(save_tiny("Llama", tmp_path / "model")))
    apart = [{"prompt": f"{label} {n}", "completion": "yes" if label else "no", "label": label}
             for n in range(20) for label in (True, False)]  # fmt: skip
    plans = [EstimatePlan(("js",), split=split, measurement=MeasurementPlan(same_prompts=same, draws=100))
             for split, same in ((False, False), (False, True))]  # fmt: skip
    assert from_policy(apart, model, model, plans[0]).divergences["js"].estimate.value == 0.0
    with pytest.raises(ValueError, match="same_prompts=False"):
        estimate(apart, model, model, plans[1], tmp_path / "out")


def test_one_prompt_in_two_spellings_is_one_and_neighbouring_seeds_share_no_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [{"prompt": "Tea?"}, {"prompt": [{"content": "Tea?", "role": "user"}]}, {"prompt": "Coffee?"}]
    assert len(unique_prompts(both)) == 2
    drawn: list[int] = []

    def spy(*args: Any, seeds: list[int], **options: Any) -> Any:
        drawn.extend(seeds)
        return sample(*args, seeds=seeds, **options)

    monkeypatch.setattr(sampled_kl, "sample", spy)
    model = find_model(str(save_tiny("Llama", tmp_path / "model")))
    for seed in (0, 1):
        kl_by_sampling(
            [f"Tea {number}?" for number in range(10)],
            model,
            model,
            SamplingPlan(samples=3, max_new_tokens=2, seed=seed),
        )
    assert len(set(drawn)) == 6
