"""The paper's experiments as a sweep: they are all there, their cost is known offline, and small models walk them."""

from pathlib import Path

import pytest

from divalign.cli import main
from divalign.data.recipes import find_recipe
from divalign.data.stand_in import STAND_INS
from divalign.forecast.gpu_forecast import forecast_runs
from divalign.forecast.random_weights import with_random_weights
from divalign.lm.architectures import ARCHITECTURES, write_random_model
from divalign.lm.load import load_lm
from divalign.lm.shape import model_shape
from divalign.stages.cost import TokenBatch, training, writing
from divalign.stages.gpu_cost import GPUS, LAYER, MFU, REACHED, find_gpu, gpu_seconds
from divalign.study.sweep import sweep
from divalign.study.sweep_config import load_sweep, planned_runs
from divalign.toy.world import ASSETS

ROOT = Path(__file__).parents[2]
SWEEP = ROOT / "configs" / "paper" / "sweep.yaml"
# Parameters as published: Meta's, Google's (2.6 B) and Qwen's (1.54 B) model cards; LLaMA-7B and Mistral-7B as counted.
PUBLISHED = {
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "ContextualAI/archangel_sft_llama7b": 6_738_415_616,
    "google/gemma-2-2b": 2_614_341_888,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
}


@pytest.mark.parametrize("source", ARCHITECTURES)
def test_an_architecture_has_the_published_number_of_parameters(source: str) -> None:
    assert model_shape(source).parameters == PUBLISHED[source]


def test_the_sweep_holds_every_experiment_with_the_papers_settings() -> None:
    runs = planned_runs(load_sweep(SWEEP))
    assert len(runs) == 5 * 2 * 2
    assert {planned.config.model.source for planned in runs} == set(ARCHITECTURES)
    methods = {
        (planned.config.data.source, planned.config.train.variant): planned.config.train.methods for planned in runs
    }
    four, two = ("kldo", "bco", "kto", "dpo"), ("kldo", "bco")
    assert methods == {(f"paper_{data}", name): which for data in ("cr", "pref") for name, which in
                       (("paper", four), ("paper_code", two))}  # fmt: skip
    for planned in runs:
        train = planned.config.train
        assert (train.beta, train.epochs, train.learning_rate, train.max_length) == (0.1, 5, 5e-5, 1024)
        assert (train.pairs_per_update, train.pairs_per_batch, train.warmup_updates) == (16, 4, 75)
        assert train.lora is not None
        assert (train.lora.rank, train.lora.alpha) == (64, 256)
        assert train.seeds == (0, 1, 2)
        assert planned.config.measure.position == "instruction"


def test_the_dry_run_prints_the_table_of_the_documentation_without_network_or_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["divalign", "sweep", str(SWEEP), "--dry-run"])
    main()
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 20 + 3
    assert "\n".join(lines) in (ROOT / "docs" / "paper.md").read_text()


def test_steps_and_memory_are_those_of_the_protocol() -> None:
    run = next(planned for planned in planned_runs(load_sweep(SWEEP)) if planned.name == "Mistral-7B-cr-corrected")
    (cost,) = forecast_runs([run], GPUS["a100"])
    assert cost.models == 12
    assert cost.updates == pytest.approx(12 * 355)  # 1130 pairs, 16 an update and 10 in the last of each of 5 epochs
    assert 2 * 7.24e9 < cost.memory < 80e9


def test_a_run_whose_base_writes_the_answers_is_counted_too() -> None:
    shipped = ["model.source=toy", "data.source=everyday_train", "data.measure_on=everyday_test", "data.n_train=null"]
    runs = planned_runs(load_sweep(ROOT / "configs" / "real_study.yaml", [f"run.{setting}" for setting in shipped]))
    costs = {planned.name: cost for planned, cost in zip(runs, forecast_runs(runs, GPUS["h200"]), strict=True)}
    assert (costs["short-no_anchor"].models, costs["short-no_anchor"].updates) == (8, 8 * 24)
    assert costs["long-anchor"].tokens > costs["short-anchor"].tokens > 0


def test_gpu_seconds_are_bounded_by_products_in_training_and_by_memory_in_generation() -> None:
    gpu, shape = GPUS["a100"], model_shape("mistralai/Mistral-7B-v0.1")
    job = training(shape, "m", TokenBatch(16, 1e5, 1e5), 10, batches=4, adapter=True)
    expected = job.operations / (MFU * gpu.peak) + job.forwards * 32 * LAYER
    assert gpu_seconds(job, shape, gpu, dtype="bfloat16") == pytest.approx(expected)
    written = writing(shape, "m", "attacks", TokenBatch(8, 400, 0), 100, 8)
    steps = 101 * (2 * shape.parameters / (REACHED * gpu.bandwidth) + 32 * LAYER)
    assert gpu_seconds(written, shape, gpu, dtype="bfloat16") == pytest.approx(steps)
    with pytest.raises(ValueError, match="a100"):
        find_gpu("a10")


@pytest.mark.parametrize(("name", "recipe"), [("paper_cr", "cr"), ("paper_pref", "pref")])
def test_a_stand_in_has_the_sets_counts_and_mean_lengths(name: str, recipe: str) -> None:
    requests = STAND_INS[name].load()
    assert len(requests) == 1256
    assert len({request.prompt for request in requests}) == 1256
    harmful = [request for request in requests if request.harmful]
    assert len(harmful) == 628
    assert sum(len(request.compliance) for request in harmful) / 628 == pytest.approx(1103.4, rel=0.1)
    assert sum(len(request.prompt) for request in harmful) / 628 == pytest.approx(78.9, rel=0.1)
    assert find_recipe(recipe)(requests[-1])["rejected"][-1]["content"]


@pytest.mark.parametrize("source", ["google/gemma-2-2b", "ContextualAI/archangel_sft_llama7b"])
def test_a_random_model_keeps_its_architecture(source: str, tmp_path: Path) -> None:
    lm = load_lm(str(write_random_model(source, tmp_path / "a", tokenizer=ASSETS)))
    config, dimensions = lm.model.config, ARCHITECTURES[source]
    assert config.model_type == dimensions["model_type"]
    assert config.tie_word_embeddings == dimensions["tie_word_embeddings"]
    groups = dimensions["num_attention_heads"] // dimensions["num_key_value_heads"]
    assert config.num_attention_heads // config.num_key_value_heads == groups
    again = load_lm(str(write_random_model(source, tmp_path / "b", tokenizer=ASSETS)))
    assert again.digest == lm.digest


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the dimensions of 'a/b' are not known"):
        write_random_model("a/b", tmp_path, tokenizer=ASSETS)


def test_two_architectures_walk_the_whole_pipeline(tmp_path: Path) -> None:
    plan = load_sweep(SWEEP)
    grid = {
        "base": {name: plan.grid["base"][name] for name in ("Qwen2.5-1.5B", "gemma-2-2b")},
        "data": {"pref": plan.grid["data"]["pref"]},
        "formulas": {"released": {**plan.grid["formulas"]["released"], "train.methods": ["kldo"]}},
    }
    small = with_random_weights(plan.model_copy(update={"grid": grid}), tmp_path / "random")
    record = sweep(small, tmp_path / "out")
    assert [model.name for model in record.models] == ["base", "pref-kldo"] * 2
    assert {Path(model.family).name for model in record.models} == {"Qwen--Qwen2.5-1.5B", "google--gemma-2-2b"}
    assert (tmp_path / "out" / "sweep.json").is_file()
