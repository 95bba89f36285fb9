"""A configuration says in one sentence what is wrong with it."""

import re
from pathlib import Path

import pytest

from divalign.cli.run import Short
from divalign.config import load_config
from divalign.sections import as_yaml


def test_the_resolved_configuration_reads_back_to_itself(tmp_path: Path) -> None:
    config = load_config(None, ["train.lora.rank=4", "train.methods=[kldo]", "data.folder=/tmp"])
    (tmp_path / "c.yaml").write_text(as_yaml(config))
    assert load_config(tmp_path / "c.yaml") == config


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.learning_rat=1", "did you mean 'train.learning_rate'"),
        ("trian.beta=1", "did you mean 'train'"),
        ("train.beta=-1", "train.beta is -1; input should be greater than 0"),
        ("train", "has no '='"),
        ("train.beta=[", "is not YAML"),
        ("train.pairs_per_batch=5", "make it a multiple"),
        ("qqqq=1", "known: model"),
        ("train.updates=yes", "train.updates is True; input should be a valid integer"),
        ("train.beta=yes", "train.beta is True; input should be a number"),
        ("train.updates_on={cr: on}", "train.updates_on.cr is True"),
        ("train.updates_on={cr: 0}", "greater than or equal to 1"),
        ("train.seeds=[yes]", "train.seeds.0 is True"),
        ("train.seeds=[-1]", "train.seeds.0 is -1; input should be greater than or equal to 0"),
        ("train.seeds=[4294967296]", "less than 4294967296"),
        ("train.seeds=[0, 1, 0]", "train.seeds is [0, 1, 0]; name 0 once"),
        ("train.methods=[kldo, kldo]", "name 'kldo' once"),
        ("train.methods_on={cr: [bco, bco]}", "name 'bco' once"),
        ("data.recipes=[cr, cr]", "name 'cr' once"),
        ("measure.attacks=[direct, direct]", "name 'direct' once"),
        ("train.epochs=0", "train.epochs is 0; input should be greater than 0"),
        ("train.updates=null", "train.updates is None and train.epochs None; set one of them"),
        ("train={updates: 5, epochs: 1}", "train.updates is 5 and train.epochs 1.0; set one of them, and the other"),
        ("train={epochs: 1, updates_on: {cr: 3}}", "has no effect with train.epochs"),
        ("train.sft_weight=-1", "train.sft_weight is -1; input should be greater than or equal to 0"),
        ("train.variant=code", "train.variant is 'code'; input should be 'paper' or 'paper_code'"),
        ("train.lora.continues=true", "did you mean 'train.lora.continue'"),
        ("data.answers=base", "data.answers is 'base'; input should be 'source' or 'model'"),
        ("train={beta: 1, beta: 2}", "the key 'beta' stands twice"),
    ],
)
def test_a_bad_override_is_named_with_its_remedy(override: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        load_config(None, [override])


@pytest.mark.parametrize("name", ["2024", "a #b", "models: mine", "null", "C:\\models", "[a]"])
def test_a_model_named_on_the_command_line_has_that_name(name: str) -> None:
    assert load_config(None, Short(model=name).overrides()).model.source == name


def test_short_spellings_of_lists_are_names_with_commas_between() -> None:
    config = load_config(None, Short(methods="kldo, fdo:js", data="cr,cr_plus(0.5)", device="cuda:1").overrides())
    assert (config.train.methods, config.data.recipes) == (("kldo", "fdo:js"), ("cr", "cr_plus(0.5)"))
    assert config.model.device == "cuda:1"


def test_a_number_that_yaml_reads_as_text_stays_a_number() -> None:
    assert load_config(None, ["train.learning_rate=4e-4", "train.beta=1"]).train.learning_rate == 4e-4


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("train:\n  updates: 2\n  beta: 1\n  updates: 3\n")
    with pytest.raises(ValueError, match=r"c\.yaml is not YAML: the key 'updates' stands twice, again in line 4"):
        load_config(tmp_path / "c.yaml")


def test_an_anchor_may_be_merged_and_its_keys_overridden(tmp_path: Path) -> None:
    text = "data: &one {n_train: 20, n_test: 30}\ntrain: {beta: 1}\n"
    (tmp_path / "c.yaml").write_text(text.replace("data: &one {", "data: {<<: &one {n_held_out: 22, n_test: 24}, "))
    data = load_config(tmp_path / "c.yaml").data
    assert (data.n_train, data.n_test, data.n_held_out) == (20, 30, 22)


def test_an_override_below_a_plain_value_is_refused_and_below_nothing_is_not(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("train: 5\n")
    with pytest.raises(ValueError, match=r"train\.updates cannot be set: train is 5, expected keys below it"):
        load_config(tmp_path / "c.yaml", ["train.updates=3"])
    (tmp_path / "c.yaml").write_text("train:\n")
    assert load_config(tmp_path / "c.yaml", ["train.updates=3"]).train.updates == 3


def test_a_missing_or_misshapen_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no configuration at"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="holds a list"):
        load_config(tmp_path / "list.yaml")


def test_the_tour_as_a_file_is_what_a_run_without_a_configuration_does() -> None:
    assert load_config(Path(__file__).parent.parent / "configs" / "tour.yaml") == load_config(None)


def test_a_configuration_without_a_search_reads_as_before_there_was_one(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    plain = load_config(tmp_path / "empty.yaml")
    assert plain.measure.gcg is None
    assert "gcg" not in as_yaml(plain)
    assert "gcg:" in as_yaml(load_config(None))


SHIPPED = sorted(Path(__file__).parent.parent.glob("configs/*.yaml"))
SWEEPS = {"study.yaml", "real_study.yaml"}  # of many runs; tests/study/test_sweep.py loads them


@pytest.mark.parametrize("path", [path for path in SHIPPED if path.name not in SWEEPS], ids=lambda p: p.name)
def test_every_shipped_configuration_loads(path: Path) -> None:
    assert load_config(path).train.methods


def test_epochs_take_the_place_of_updates(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("train: {epochs: 2}\n")
    train = load_config(tmp_path / "c.yaml").train
    assert (train.updates, train.epochs, train.updates_on) == (None, 2.0, {})


def test_a_key_that_is_a_word_of_python_reads_back_under_its_own_name(tmp_path: Path) -> None:
    config = load_config(None, ["train.lora.continue=true"])
    assert "continue: true" in as_yaml(config)
    (tmp_path / "c.yaml").write_text(as_yaml(config))
    assert load_config(tmp_path / "c.yaml") == config
