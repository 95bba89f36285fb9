"""A configuration says in one sentence what is wrong with it."""

from pathlib import Path

import pytest

from divalign.config import as_yaml, load_config


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
    ],
)
def test_a_bad_override_is_named_with_its_remedy(override: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("[", r"\[")):
        load_config(None, [override])


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
SWEEPS = {"study.yaml"}  # of many runs; tests/study/test_sweep.py loads them


@pytest.mark.parametrize("path", [path for path in SHIPPED if path.name not in SWEEPS], ids=lambda p: p.name)
def test_every_shipped_configuration_loads(path: Path) -> None:
    assert load_config(path).train.methods
