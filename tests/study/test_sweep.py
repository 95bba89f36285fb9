"""Many runs, one verdict: a real sweep of tiny runs, and the weighing of simulated ones."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from divalign.config import load_config
from divalign.core.stats import Estimate
from divalign.data.controls import shuffled_labels
from divalign.data.recipes import compliance_refusal
from divalign.records import PartResult, SeparationDraws, SweepRecord, read_record
from divalign.sections import as_yaml
from divalign.store import read_json, read_rows, write_json, write_rows
from divalign.study.sweep import Shard, parse_shard, sweep, sweep_shard
from divalign.study.sweep_config import Resources, Sweep, load_sweep, planned_runs
from divalign.study.sweep_runs import FailedRunsError, tasks_of
from divalign.study.sweep_verdict import INDICATORS, points, weigh
from divalign.study.verdict import verdicts
from divalign.toy.world import requests
from tests.commands import call
from tests.study.sweep_models import around, changed, simulated
from tests.tiny import save_tiny

ROOT = Path(__file__).parents[2]
TINY = """
run:
  data: {recipes: [cr], n_train: 24, n_test: 40, n_held_out: 20}
  train: {methods: [kldo], methods_on: {}, warmup_updates: 0, pairs_per_update: 4, pairs_per_batch: 4}
  measure: {attacks: [direct, prefill, best_of_n(2)], max_new_tokens: 4, divergences: [js]}
grid: {length: {short: {train.updates: 1}, long: {train.updates: 2}}}
controls:
  shuffled labels: {train.updates: 1, data.recipes: ["divalign.data.controls:shuffled_labels"]}
abliterate: {rounds: 2}
draws: 100
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        assert (
            call(patch, "sweep", folder / "tiny.yaml", "--out", folder / "out", "--docs", folder / "docs", "--quiet")
            == 0
        )
    return folder


def test_every_run_its_controls_and_one_base_are_there(folder: Path) -> None:
    record = read_record(folder / "out" / "sweep.json", SweepRecord)
    assert [(model.run, model.name, model.control) for model in record.models] == [
        ("short", "base", "base"),
        ("short", "cr-kldo", None),
        ("short", "cr-kldo abliterated", "abliterated"),
        ("long", "cr-kldo", None),
        ("long", "cr-kldo abliterated", "abliterated"),
        ("shuffled_labels", "divalign.data.controls_shuffled_labels-kldo", "shuffled labels"),
    ]
    assert [model.recipe for model in record.models][1:4:2] == ["kldo on cr, short", "kldo on cr, long"]
    assert [model.of for model in record.models] == [None, None, "cr-kldo", None, "cr-kldo", None]
    for model in record.models:
        assert set(model.under_attack["bhattacharyya"].by_attack) >= {"direct", "prefill 1 of 3", "prefill"}
        assert "best_of_n(2)" not in model.under_attack["bhattacharyya"].by_attack  # it is no single conversation
        assert (folder / "out" / model.verdicts).is_file()
        assert set(model.asr_no_refusal) == set(model.asr) == {"direct", "prefill", "best_of_n(2)"}
    assert set(record.verdicts) == {indicator.name for indicator in INDICATORS}
    assert record.verdicts["probe AUC"].n_models == 2  # controls are no evidence


def test_the_page_and_its_figures_come_out_of_the_same_command(folder: Path) -> None:
    text = (folder / "docs" / "study.md").read_text()
    assert f"divalign sweep {folder / 'tiny.yaml'} --out" in text
    for name in ("plain", "direct", "worst", "auc"):
        assert f"figures/study-{name}.svg" in text
        assert (folder / "docs" / "figures" / f"study-{name}.svg").is_file()


def test_the_command_on_the_page_is_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b.yaml").write_text(TINY)
    arguments = ["sweep", str(tmp_path / "a b.yaml"), "--set", "draws=150", "--out", str(tmp_path / "out")]
    arguments += ["--docs", str(tmp_path / "docs"), "--random-weights"]
    printed: list[str] = []
    monkeypatch.setattr("divalign.cli.sweep._do", lambda *_, **__: None)
    monkeypatch.setattr("divalign.cli.sweep._publish", lambda record, folder, command: printed.append(command))
    assert call(monkeypatch, *arguments, "--quiet") == 0
    assert shlex.split(printed[0]) == ["divalign", *arguments]


def test_overrides_reach_the_runs_and_a_wrong_one_is_refused(folder: Path) -> None:
    plan = load_sweep(folder / "tiny.yaml", ["run.data.n_test=12", "draws=150"])
    assert (plan.run["data"]["n_test"], plan.draws) == (12, 150)
    with pytest.raises(ValueError, match="did you mean 'draws'"):
        load_sweep(folder / "tiny.yaml", ["drafts=150"])
    with pytest.raises(ValueError, match="has no '='"):
        load_sweep(folder / "tiny.yaml", ["draws"])


def test_a_stopped_sweep_resumes(folder: Path) -> None:
    def refuse(stage: str, total: int, unit: str) -> Any:
        raise AssertionError(f"the stage {stage!r} was done again")

    before = read_record(folder / "out" / "sweep.json", SweepRecord)
    (folder / "out" / "sweep.json").unlink()
    again = sweep(load_sweep(folder / "tiny.yaml"), folder / "out", progress=refuse)
    assert again.model_copy(update={"seconds": before.seconds}) == before


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("grid:", "grit:", "there is no key 'grit'; did you mean 'grid'?"),
        ("short: {train.updates: 1}", "short: {train.update: 1}", "did you mean 'train.updates'?"),
        (
            "long: {train.updates: 2}",
            "long: {train.updates: 1}",
            "cr-kldo of the run 'long' is the same model as cr-kldo",
        ),
        ("methods: [kldo]", "methods: [klod]", "did you mean 'kldo'?"),
        ("[direct, prefill, best_of_n(2)]", "[direct, prefil]", "did you mean 'prefill'?"),
        ("rounds: 2", "rounds: 0", "abliterate.rounds is 0"),
        ("shuffled labels:", "short:", "two runs of the sweep are called alike"),
        ("shuffled labels:", "base:", "a control is called 'base', as sweep.json calls"),
        ("{rounds: 2}", "{layer: 99}", "there is no layer 99; the model has 0 (the embeddings) to 4 (the last)"),
        ("{rounds: 2}", "{recipes: [crr]}", "abliterate.recipes has 'crr', which no run trains"),
        ("grid: {length", "grid: {none: {}, length", "grid.none has no steps, so there is no run"),
        (
            "grid: {length",
            "grid: {more: {again: {train.updates: 3}}, length",
            "grid.more and grid.length both set train.updates; leave it out of one",
        ),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    old: str, new: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "bad.yaml").write_text(TINY.replace(old, new))
    assert call(monkeypatch, "sweep", tmp_path / "bad.yaml", "--out", tmp_path / "out", "--quiet") == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_shards_do_the_runs_past_one_that_fails_and_the_sweep_gathers_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TINY.replace("abliterate: {rounds: 2}", "").replace("methods: [kldo]", "methods: [dpo]")
    text = text.replace("n_test: 40", "n_test: 20").replace("[direct, prefill]", "[direct]")
    (tmp_path / "two.yaml").write_text(text[: text.index("controls:")] + "draws: 100")
    plan, out = load_sweep(tmp_path / "two.yaml"), tmp_path / "out"

    def no_space(*_: Any, **__: Any) -> Any:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("divalign.study.sweep_runs.run", no_space)
        with pytest.raises(FailedRunsError) as error:
            sweep_shard(plan, out, Shard(1, 2))
    lines = str(error.value).splitlines()
    assert lines[0].startswith("1 of 1 runs failed; the same command tries them again")
    assert lines[1] == "  short: OSError: no space left on device"
    command = f"divalign run {out / 'failures' / 'short' / 'config.yaml'} --out {out / 'runs' / 'short'}"
    assert lines[2] == f"    alone: {command}"
    assert load_config(out / "failures" / "short" / "config.yaml") == planned_runs(plan)[0].config
    assert "no_space" in (out / "failures" / "short" / "traceback.txt").read_text()

    assert sweep_shard(plan, out, Shard(1, 2)) == ["short"]
    assert not (out / "failures" / "short").exists()
    assert [path.name for path in (out / "runs").iterdir()] == ["short"]
    assert sweep_shard(plan, out, Shard(2, 2)) == ["long"]

    def refuse(stage: str, total: int, unit: str) -> Any:
        raise AssertionError(f"the stage {stage!r} was done again")

    record = sweep(plan, out, progress=refuse)
    assert [(model.run, model.name) for model in record.models] == [
        ("short", "base"), ("short", "cr-dpo"), ("long", "cr-dpo"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected one such as 3/8"):
        parse_shard(text)


def test_resources_are_those_of_a_step_and_no_part_of_what_a_sweep_is(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TINY + "resources: {all: {cpus: 2}, long: {gpus: 0.5}}")
    plan = load_sweep(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text(TINY)
    assert as_yaml(plan) == as_yaml(load_sweep(tmp_path / "b.yaml"))
    resources = {planned.name: planned.resources for planned in planned_runs(plan)}
    assert resources["short"] == resources["shuffled_labels"] == Resources(cpus=2)
    assert resources["long"] == Resources(cpus=1, gpus=0.5)
    (tmp_path / "b.yaml").write_text(TINY + "resources: {longer: {gpus: 1}}")
    with pytest.raises(ValueError, match=r"resources are given for \['longer'\]"):
        planned_runs(load_sweep(tmp_path / "b.yaml"))


def test_another_base_is_another_family_and_no_other_recipe(tmp_path: Path) -> None:
    save_tiny("Llama", tmp_path / "other")
    (tmp_path / "two.yaml").write_text(
        TINY.replace("grid: {", f"grid: {{base: {{ours: {{}}, other: {{model.source: {tmp_path / 'other'}}}}}, ")
        .replace(", long: {train.updates: 2}", "")
        .replace("abliterate: {rounds: 2}", "")
    )
    models = sweep(load_sweep(tmp_path / "two.yaml"), tmp_path / "out").models
    assert [model.run for model in models] == ["ours-short"] * 2 + ["other-short"] * 2 + ["shuffled_labels"]
    assert [model.control for model in models] == ["base", None, "base", None, "shuffled labels"]
    ours, other = models[1], models[3]
    assert ours.recipe == other.recipe == "kldo on cr, short"
    assert (ours.family, other.family) == ("toy", str(tmp_path / "other"))


def test_steps_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    axis = "{rate: {a b: {train.learning_rate: 1e-4}, a_b: {train.learning_rate: 2e-4}}, "
    (tmp_path / "alike.yaml").write_text(TINY.replace("grid: {", f"grid: {axis}"))
    with pytest.raises(ValueError, match=r"are called alike among .*; rename a step or a control"):
        planned_runs(load_sweep(tmp_path / "alike.yaml"))


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ("{s0: {train.seeds: [0]}, s1: {train.seeds: [1]}}", ["short", "short"]),
        ("{s0: {}, s1: {train.seeds: [1]}}", ["short", "short"]),
        ("{s0: {train.seeds: [0]}, s1: {train.seeds: [1], train.beta: 1.0}}", ["s0, short", "s1, short"]),
    ],
)
def test_seeds_as_an_axis_of_the_grid_are_no_recipes_of_their_own(tmp_path: Path, axis: str, words: list[str]) -> None:
    text = TINY.replace("grid: {", f"grid: {{seed: {axis}, ").replace(", long: {train.updates: 2}", "")
    (tmp_path / "seeds.yaml").write_text(text)
    runs = planned_runs(load_sweep(tmp_path / "seeds.yaml"))
    assert [(run.name, run.steps) for run in runs if run.control is None] == [
        ("s0-short", words[0]),
        ("s1-short", words[1]),
    ]


def test_one_source_in_two_types_is_two_bases(tmp_path: Path) -> None:
    axis = "{base: {wide: {model.dtype: float32}, half: {model.dtype: bfloat16}}, "
    (tmp_path / "two.yaml").write_text(TINY.replace("grid: {", f"grid: {axis}"))
    plan = load_sweep(tmp_path / "two.yaml")
    tasks = tasks_of(planned_runs(plan), plan, tmp_path)
    assert [(task.run.steps, task.family, task.with_base) for task in tasks] == [
        ("short", "toy, dtype=float32", True),
        ("long", "toy, dtype=float32", False),
        ("short", "toy, dtype=bfloat16", True),
        ("long", "toy, dtype=bfloat16", False),
        ("", "toy, dtype=auto", True),
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--gpu", "h100"), "--gpu h100 is for --dry-run"),
        (("--shard", "1/2", "--docs", "docs"), "--docs is for the sweep that gathers all shards"),
    ],
)
def test_an_option_without_effect_is_refused(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    assert call(monkeypatch, "sweep", "tiny.yaml", "--out", "out", *arguments) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_another_sweeps_folder_is_left_alone(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds another sweep"):
        sweep(Sweep(run={"data": {"recipes": ["cr"]}}), folder / "out")
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no sweep's folder"):
        sweep(Sweep(), tmp_path)


def test_the_committed_study_has_at_least_sixty_models_and_its_controls() -> None:
    study = load_sweep(ROOT / "configs" / "study.yaml")
    runs = planned_runs(study)

    def models(config: Any) -> int:
        train, recipes = config.train, config.data.recipes
        return len(train.seeds) * sum(len(train.methods_on.get(recipe, train.methods)) for recipe in recipes)

    assert sum(models(planned.config) for planned in runs if planned.control is None) >= 60
    assert {planned.control for planned in runs} == {None, "shuffled labels"}
    assert len({planned.config.model.source for planned in runs}) == 3  # families enough to leave one out
    assert study.abliterate is not None
    assert {"cr", "pref", "ranked_refusals", "ranked", "cr_plus"} == set(runs[0].config.data.recipes)
    assert load_config(None).measure.position == runs[0].config.measure.position


def test_the_real_study_has_the_models_of_its_protocol() -> None:
    runs = planned_runs(load_sweep(ROOT / "configs" / "real_study.yaml", ["run.data.folder=sets"]))
    counts: dict[str | None, int] = {}
    for planned in runs:
        models = len(planned.config.train.methods) * len(planned.config.data.recipes)
        counts[planned.control] = counts.get(planned.control, 0) + models
    assert counts == {None: 40, "shuffled labels": 2, "separation alone": 2, "fine-tuning on the chosen": 1}
    assert all(planned.config.data.folder == Path("sets") for planned in runs)


def test_shuffled_labels_are_right_half_of_the_time() -> None:
    rows = requests("train", held_out=False)
    same = [shuffled_labels(request) == compliance_refusal(request) for request in rows]
    assert np.mean(same) == pytest.approx(0.5, abs=0.1)
    harmful = [request.harmful for request in rows]
    assert abs(np.corrcoef(same, harmful)[0, 1]) < 0.1


def test_the_indicator_that_carries_the_effect_is_the_one_supported(tmp_path: Path) -> None:
    record = weigh(simulated(0, slope=1.2, attacked_only=True), tmp_path)
    assert record.verdicts["worst D_B under attack"].conclusion == "supported"
    assert record.verdicts["D_B, paper mode"].conclusion != "supported"
    assert record.verdicts["probe AUC"].p_value is None  # the same in all models
    entry = record.evidence["worst D_B under attack"]
    assert entry.adjusted["over-refusal"].conclusion == "supported"
    assert set(entry.placebos) == {"shuffled within families", "benign against benign topics"}
    assert all(verdict.conclusion != "supported" for verdict in entry.placebos.values())
    assert record.joint == {"direct": None, "worst": None}


def test_no_effect_supports_no_indicator() -> None:
    for seed in range(1, 4):
        models = simulated(seed, slope=0.0)
        results = verdicts({indicator.name: points(models, indicator) for indicator in INDICATORS})
        assert all(result.conclusion != "supported" for result in results.values())


def test_an_effect_on_a_single_base_appears_in_the_verdicts_by_base(tmp_path: Path) -> None:
    slopes = {"first": 1.5, "second": 0.0, "third": 0.0}
    models = [
        changed(model, family=name)
        for number, (name, slope) in enumerate(slopes.items())
        for model in simulated(number, slope=slope)
    ]
    record = weigh(models, tmp_path)
    conclusions = {name: verdicts["D_B, paper mode"].conclusion for name, verdicts in record.by_family.items()}
    assert conclusions["first"] == "supported"
    assert "supported" not in (conclusions["second"], conclusions["third"])
    assert record.evidence["D_B, paper mode"].held_out_family_skill is not None


def test_the_papers_statistic_takes_its_logarithm_once(tmp_path: Path) -> None:
    models = simulated(0, slope=1.2)
    pooled_z = weigh(models, tmp_path).evidence["D_B, held out"].pooled_z
    logs = np.log([model.separation.bhattacharyya.value for model in models])
    expected = np.corrcoef(logs, [model.asr["direct"].value for model in models])[0, 1]
    assert pooled_z is not None
    assert pooled_z.estimate.value == pytest.approx(expected)


def test_controls_count_as_models_only_in_their_own_verdicts(tmp_path: Path) -> None:
    models = simulated(0, slope=1.2)
    models += [changed(model, control="abliterated", name=f"{model.name} abliterated") for model in models[:4]]
    record = weigh(models, tmp_path)
    assert record.verdicts["D_B, paper mode"].n_models == 24
    assert record.with_controls["D_B, paper mode"].n_models == 28
    recipes = {point.recipe for point in points(models, INDICATORS[0])}
    assert len(recipes) == 28  # a copy is no second seed of its original


def test_held_out_topics_are_tested_on_their_own_numbers(tmp_path: Path) -> None:
    models, effect = simulated(3, slope=0.0), simulated(0, slope=1.2)
    parts = [PartResult(**{name: getattr(model, name) for name in PartResult.model_fields}) for model in effect]
    both = [changed(model, held_out=part) for model, part in zip(models, parts, strict=True)]
    record = weigh(both, tmp_path)
    assert record.verdicts["D_B, held out"].conclusion != "supported"
    assert record.held_out_topics["D_B, held out"].conclusion == "supported"
    assert set(record.held_out_topics) == {"D_B, paper mode", "D_B, held out", "probe AUC"}
    assert weigh(models, tmp_path).held_out_topics == {}


def test_the_joint_bootstrap_reads_the_verdicts_of_every_model(folder: Path) -> None:
    record = read_record(folder / "out" / "sweep.json", SweepRecord)
    rows = read_rows(folder / "out" / record.models[1].verdicts)
    assert len({row["id"] for row in rows if row["harmful"] and not row["held_out"]}) == 20


def test_the_joint_correlation_is_that_of_logarithms_with_logits_and_has_an_interval(tmp_path: Path) -> None:
    generator, models, wins = np.random.default_rng(0), [], []
    distances = np.exp(np.arange(12) / 4)
    for number, distance in enumerate(distances.tolist()):
        outcomes = (generator.random(80) < 1 - number / 12).tolist()
        rows = [
            {"id": str(place), "attack": "direct", "harmful": True, "held_out": False, "unsafe": unsafe}
            for place, unsafe in enumerate(outcomes)
        ]
        write_rows(tmp_path / f"{number}.jsonl", [*rows, {**rows[0], "id": "other", "held_out": True}])
        draws = [distance, *(distance * np.exp(0.05 * generator.normal(size=100))).tolist()]
        model = simulated(0, slope=0.0)[number]
        models.append(changed(model, draws=SeparationDraws(direct=draws, worst=None), verdicts=f"{number}.jsonl"))
        wins.append(sum(outcomes))
    joint = weigh(models, tmp_path).joint
    logits = np.log((np.array(wins) + 0.5) / (80 - np.array(wins) + 0.5))
    assert joint["worst"] is None
    estimate = joint["direct"]
    assert estimate is not None
    assert estimate.value == pytest.approx(np.corrcoef(np.log1p(distances), logits)[0, 1])
    assert -1 <= estimate.low < estimate.value < estimate.high < -0.7


def test_success_shares_weigh_attacks_by_their_trials_and_leave_undecided_ones_out() -> None:
    rates = {"direct": Estimate(0.1, 0.0, 1.0, 30), "prefill": Estimate(0.9, 0.0, 1.0, 10)}
    model = changed(simulated(0, slope=0.0)[0], asr=rates, asr_no_refusal={**rates, "prefill": around(1.0)})
    assert model.success_share() == pytest.approx((3 + 9) / 40)
    assert model.success_share("prefill") == pytest.approx(0.9)
    assert model.success_share(no_refusal=True) == pytest.approx((3 + 100) / 130)
    undecided = changed(model, asr={**rates, "prefill": Estimate(None, 0.0, 1.0, 0)})
    assert undecided.success_share() == pytest.approx(0.1)
    assert undecided.success_share("prefill") is None


def test_a_sweep_file_comes_back_as_it_was_written_and_an_older_one_is_refused(folder: Path, tmp_path: Path) -> None:
    content = read_json(folder / "out" / "sweep.json")
    assert content["schema"] == 2
    assert read_record(folder / "out" / "sweep.json", SweepRecord).plain() == content
    write_json(tmp_path / "sweep.json", {**content, "schema": 1})
    with pytest.raises(ValueError, match=r"sweep\.json has schema 1, this version reads 2"):
        read_record(tmp_path / "sweep.json", SweepRecord)
    write_json(tmp_path / "sweep.json", {**content, "unseen_topics": {}})
    with pytest.raises(ValueError, match="unseen_topics"):
        read_record(tmp_path / "sweep.json", SweepRecord)
