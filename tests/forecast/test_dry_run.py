"""What a run will cost is said from sizes alone, adds up, and is near what runs took."""

from pathlib import Path

import pytest

from divalign.cli import main
from divalign.config import load_config
from divalign.forecast import dry_run as module
from divalign.forecast.dry_run import dry_run, remedies, updates_of, write_cost
from divalign.lm.load import load_lm
from divalign.lm.shape import model_shape
from divalign.stages import cost
from divalign.stages.cost import Machine, TokenBatch, check_memory, disk, memory, scoring, seconds, training, writing
from divalign.stages.train_plan import TrainPlan
from divalign.study.plan import Aligned
from divalign.study.run import run
from divalign.toy.world import ASSETS
from divalign.train.speed import Speed
from tests.study.test_run import small
from tests.tiny import save_tiny

IDLE = Machine(rate=290e9, tiny=1.1e-6, memory=20e9, disk=50e9)  # the machine that the constants were fitted on
TOY = model_shape(str(ASSETS))


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure_machine", lambda *_, **__: IDLE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("Llama", tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("architecture", ["Llama", "Gemma3", "GPTNeoX", "Phi3"])
def test_a_shape_counts_what_the_loaded_model_counts(architecture: str, tmp_path: Path) -> None:
    source = str(save_tiny(architecture, tmp_path))
    shape, lm = model_shape(source), load_lm(source)
    speed = Speed(lm.model)
    assert shape.parameters == sum(parameter.numel() for parameter in lm.model.parameters())
    assert (shape.backbone, shape.head) == (speed.backbone, speed.head)


def test_an_adapter_has_rank_times_the_linear_sizes(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_lm(str(folder)).model, LoraConfig(r=3, target_modules="all-linear"))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == 3 * model_shape(str(folder)).linear_sizes


def test_operations_are_counted_as_training_counts_them() -> None:
    update = TokenBatch(32, 1000.0, 800.0)
    job = training(TOY, "m", update, 10, batches=1, adapter=False)
    assert job.operations == 10 * 6 * (TOY.backbone * 1000 + TOY.head * 800)
    adapted = training(TOY, "m", update, 10, batches=1, adapter=True)
    assert adapted.operations == job.operations * 4 / 6
    assert scoring(TOY, "m", "s", update, 64).operations == job.operations / 30
    written = writing(TOY, "m", "s", TokenBatch(8, 100.0, 0), 5, 8)
    assert written.operations == 2 * (TOY.backbone * 140 + TOY.head * 40)


def test_a_faster_machine_is_faster_and_time_adds_up(folder: Path) -> None:
    job = scoring(TOY, "m", "s", TokenBatch(32, 1e6, 1e6), 64)
    assert seconds(job, TOY, IDLE._replace(rate=580e9)) < seconds(job, TOY, IDLE)
    assert seconds(job, TOY, IDLE._replace(tiny=2.2e-6)) > seconds(job, TOY, IDLE)
    whole = dry_run(small(f"model.source={folder}"), Path("/tmp"))
    for field in ("model", "stage"):
        assert sum(whole.by(field).values()) + cost.START == pytest.approx(whole.total)
    assert list(whole.by("model")) == ["cr-kldo", "cr-dpo", "pref-kldo", "pref-dpo", "base"]


def test_the_tour_is_estimated_within_30_percent_of_what_it_took() -> None:
    """180 s on 2 idle cores, of them 101 for training, 30 for attacks, 13 for the search (2026-11).

    The constants were fitted to this run, so this says that the formula has the right form. It was not fitted to
    configs/short.yaml, which took 15.3 s on the same cores.
    """
    whole = dry_run(load_config(None), Path("/tmp"))
    assert whole.total == pytest.approx(180, rel=0.3)
    by_stage = whole.by("stage")
    for stage, truth in (("train", 101), ("attacks", 30), ("search", 13), ("statistics", 16), ("reference", 7.5)):
        assert by_stage[stage] == pytest.approx(truth, rel=0.3), stage
    short = Path(__file__).parents[2] / "configs" / "short.yaml"
    assert dry_run(load_config(short), Path("/tmp")).total == pytest.approx(15.3, rel=0.3)


def test_a_dry_run_needs_no_weights_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    light = tmp_path / "light"
    light.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (light / path.name).write_bytes(path.read_bytes())
    config = small(f"model.source={light}", "data.answers=model", "data.source=everyday_train", "data.n_test=24")
    whole = dry_run(config, tmp_path / "out")
    assert whole.by("stage")["answers"] > 0
    assert not (tmp_path / "out").exists()


def test_a_run_s_cost_is_that_of_its_dry_run_and_is_written_once(folder: Path, tmp_path: Path) -> None:
    config = small(f"model.source={folder}")
    record, jobs = write_cost(config, tmp_path), dry_run(config, tmp_path).jobs
    assert sum(stage.operations for stage in record.stages) == pytest.approx(sum(job.operations for job in jobs))
    assert {stage.model for stage in record.stages} == {job.model for job in jobs}
    before = (tmp_path / "cost.json").stat().st_mtime_ns
    assert write_cost(config, tmp_path) == record
    assert (tmp_path / "cost.json").stat().st_mtime_ns == before


def test_own_answers_cost_worse_ones_too_where_a_recipe_reads_them(folder: Path) -> None:
    overrides = [f"model.source={folder}", "data.answers=model", "data.source=everyday_train"]
    rows = [
        next(job.rows for job in dry_run(small(*overrides, recipes), Path("/tmp")).jobs if job.stage == "answers")
        for recipes in ("data.recipes=[cr]", "data.recipes=[pref]")
    ]
    assert rows == [48, 72]  # 24 to train on and 24 to measure on, half of them benign


def test_a_short_training_has_only_its_rows_scored_by_the_reference(folder: Path) -> None:
    def rows(updates: int) -> int:
        config = small(f"model.source={folder}", "data.recipes=[cr]", f"train.updates={updates}")
        return sum(job.rows for job in dry_run(config, Path("/tmp")).jobs if job.stage == "reference")

    each = small().train.pairs_per_update
    assert rows(1) == each
    assert each < rows(1000) == rows(2000)


def test_an_attack_of_many_tries_costs_as_many_responses(folder: Path) -> None:
    def rows(attacks: str) -> int:
        config = small(f"model.source={folder}", f"measure.attacks={attacks}", "measure.rounds=3")
        return sum(job.rows for job in dry_run(config, Path("/tmp")).jobs if job.stage == "attacks")

    once, harmful = rows("[direct]"), 12 + 10  # of 24 test prompts and 20 on held-out topics
    models = 5
    assert rows("[direct,best_of_n(7)]") - once == models * 7 * harmful
    attacker = "measure.attacker=toy"
    config = small(f"model.source={folder}", "measure.attacks=[direct,pair]", "measure.rounds=3", attacker)
    pair = sum(job.rows for job in dry_run(config, Path("/tmp")).jobs if job.stage == "attacks")
    assert pair - once == models * 3 * harmful


def test_sampled_responses_are_forecast(folder: Path) -> None:
    config = small(f"model.source={folder}", "train.methods=[rlhf]", "data.recipes=[cr]")
    assert dry_run(config, Path("/tmp")).by("stage")["sampling"] > 0


def test_the_remedies_are_the_three_that_save_most(folder: Path) -> None:
    config = small(f"model.source={folder}", "train.updates=4000")
    best = remedies(config, dry_run(config, Path("/tmp")))
    assert len(best) == 3
    assert {text.split("=")[0] for text, _ in best} == {"train.updates", "train.methods", "data.recipes"}
    assert [saved for _, saved in best] == sorted((saved for _, saved in best), reverse=True)
    text, saved = next(one for one in best if one[0].startswith("train.updates"))
    half = dry_run(load_config(None, [*_overrides(folder), text]), Path("/tmp")).total
    assert dry_run(config, Path("/tmp")).total - half == pytest.approx(saved)


def _overrides(folder: Path) -> list[str]:
    from tests.study.test_run import SMALL

    return [*SMALL, f"model.source={folder}"]


def test_memory_that_cannot_do_is_refused_before_the_weights_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"needs at least 0\.7 GB of memory for 1 million parameters, and 0\.5 GB"):
        check_memory(TOY, dtype="float32", rank=None, free=0.5e9)
    monkeypatch.setattr("divalign.stages.cost.free_memory", lambda device: 1e8)
    with pytest.raises(ValueError, match="needs at least"):
        run(small(f"model.source={folder}"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_full_training_needs_four_copies_of_the_weights_and_an_adapter_one() -> None:
    sizes = {"dtype": "float32", "train_tokens": 0.0, "row_tokens": 0.0}
    full, adapter = (memory(TOY, rank=rank, **sizes).training - cost.PROCESS for rank in (None, 1))  # type: ignore
    assert full == 4 * 4 * TOY.parameters
    assert adapter == 4 * TOY.parameters + 4 * 4 * TOY.linear_sizes


def test_weights_in_half_precision_learn_in_float32_and_adapters_leave_them_as_they_are() -> None:
    sizes = {"dtype": "bfloat16", "train_tokens": 0.0, "row_tokens": 0.0}
    full, adapter = (memory(TOY, rank=rank, **sizes).training - cost.PROCESS for rank in (None, 1))  # type: ignore
    assert full == (4 * 4 + 2) * TOY.parameters
    assert adapter == 2 * TOY.parameters + 4 * 2 * TOY.linear_sizes
    left = {"models": 3, "responses": 0, "states": 0}
    assert disk(TOY, dtype="bfloat16", rank=None, **left) == (3 * 2 + 3 * 4) * TOY.parameters


def test_the_command_prints_what_a_run_costs_and_warns_over_an_hour(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(module, "measure_machine", lambda *_, **__: IDLE._replace(memory=1e8))
    overrides = [*_overrides(folder), "train.updates=900000", "measure.judge=harm_rubric@toy"]
    options = [part for text in overrides for part in ("--set", text)]
    monkeypatch.setattr("sys.argv", ["divalign", "run", "--dry-run", *options])
    main()
    text = capsys.readouterr().out
    assert "warning: this takes over an hour. What shortens it most: --set" in text
    assert "--set 'train.updates=450000' saves" in text
    assert text.count("--set") == 3
    assert "warning: not enough memory" in text
    assert "not counted: the judge harm_rubric@toy, a model that reads every response" in text
    assert "pref-dpo" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("epochs", "updates"), [(3.0, 9), (1.0, 3), (0.5, 2), (0.01, 1)])
def test_updates_of_epochs_are_those_of_the_trainer(epochs: float, updates: int) -> None:
    """40 pairs at 16 an update are three updates, the last of 8; `divalign train --epochs 3` says 9 too."""
    plan = TrainPlan(method="dpo", updates=None, epochs=epochs, pairs_per_update=16)
    assert updates_of(Aligned("m", "cr", [{}] * 40, plan)) == updates


def test_this_machine_is_measured() -> None:
    machine = cost.measure_machine(Path("/tmp/not/there"))
    assert min(machine) > 0
