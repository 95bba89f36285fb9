"""What is read and written stays in the folder that was named: no dots, no links lead out of it."""

from pathlib import Path
from typing import Any

import pytest

from divalign.limits import inside, refuse_links
from divalign.records import Results, SeparationChanges, SweepModel, read_record
from divalign.report import write_methods_page, write_report, write_separation
from divalign.report.card import write_cards
from divalign.report.claims_page import write_claims_page
from divalign.stages.folder import locked
from divalign.stages.judge import read_responses
from divalign.stages.layer_separation import SeparationPlan
from divalign.stages.models import find_model
from divalign.stages.separate import prompts_of, separate_models
from divalign.store import write_bytes, write_json
from divalign.study.sweep import Shard, sweep_shard
from divalign.study.sweep_config import Sweep
from tests.report.runs import entries, results
from tests.study.sweep_models import simulated

OUTSIDE = "the secret of another folder"
FILES = ("results.json", "changes.json", "attack.json", "sweep.json")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text(OUTSIDE)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in FILES:
        write_json(folder / name, {})
    return folder


@pytest.mark.parametrize("name", ["../secret.txt", "a/../../secret.txt", "/etc/passwd", "link", "folder/secret.txt"])
def test_a_name_that_leads_out_of_its_folder_is_refused(run: Path, secret: Path, name: str) -> None:
    (run / "link").symlink_to(secret)
    (run / "folder").symlink_to(secret.parent)
    with pytest.raises(ValueError, match="leads out of it"):
        inside(run, name)
    assert inside(run, "results.json").is_file()


def write_cards_of(folder: Path) -> None:
    write_cards(folder, lambda _record: "")


def lock(folder: Path) -> None:
    with locked(folder):
        pass


def separate_toy(folder: Path) -> None:
    separate_models(["toy"], prompts_of("toy"), SeparationPlan(draws=100), folder)


def do_shard(folder: Path) -> None:
    one_run = {"data": {"recipes": ["cr"]}, "train": {"methods": ["dpo"], "methods_on": {}}}
    sweep_shard(Sweep(run=one_run, grid={"length": {"short": {"train.updates": 1}}}), folder, Shard(1, 1))


def write_methods(folder: Path) -> None:
    write_methods_page(folder, folder / "methods.md")


def write_claims(folder: Path) -> None:
    write_claims_page(folder, folder / "claims.md", lambda _models, _rho: None)


WRITERS = [write_report, write_separation, write_cards_of, write_methods, write_claims]
READERS = [*WRITERS, read_responses, lock, separate_toy, do_shard]


@pytest.mark.parametrize("reader", READERS, ids=lambda it: it.__name__)
def test_a_folder_with_a_link_that_leads_out_is_not_used(run: Path, secret: Path, reader: Any) -> None:
    (run / "config.yaml").symlink_to(secret)
    with pytest.raises(ValueError, match="is a link that leads out of"):
        reader(run)
    assert {path.name for path in run.iterdir()} == {*FILES, "config.yaml"}


@pytest.mark.parametrize("name", ["../secret", "a/b", "..", ".", "", "/etc"])
def test_a_model_s_name_is_no_path(run: Path, name: str) -> None:
    write_json(run / "changes.json", {"schema": 1, "divalign": "0", "models": [name], "changes": []})
    write_json(run / "results.json", results(models=[entries()[0] | {"name": name}]))
    for record, file in ((SeparationChanges, "changes.json"), (Results, "results.json")):
        with pytest.raises(ValueError, match="expected the plain name of a folder"):
            read_record(run / file, record)


@pytest.mark.parametrize("path", ["../secret/verdicts.jsonl", "a/../../verdicts.jsonl", "/etc/verdicts.jsonl", "", "."])
def test_a_sweep_names_no_file_out_of_its_folder(path: str) -> None:
    model = simulated(0, slope=0.0)[0].plain()
    with pytest.raises(ValueError, match="expected one inside the folder"):
        SweepModel.model_validate(model | {"verdicts": path})


def test_links_within_a_folder_and_to_a_folder_are_fine(run: Path, tmp_path: Path) -> None:
    (run / "latest.json").symlink_to("results.json")
    (tmp_path / "alias").symlink_to(run)
    for folder in (run, tmp_path / "alias"):
        refuse_links(folder)
        assert inside(folder, "latest.json").read_text() == (run / "results.json").read_text()


def test_a_model_of_a_run_lies_in_the_run(tmp_path: Path, secret: Path) -> None:
    spec = {"revision": None, "chat_template": None, "dtype": "float32", "device": "cpu", "trust_remote_code": False}
    for field in ("source", "adapter"):
        paths = {"source": "toy", "adapter": None, field: "./../secret.txt"}
        write_json(tmp_path / "model" / "model.json", {**spec, **paths})
        with pytest.raises(ValueError, match="leads out of it"):
            find_model(str(tmp_path / "model"))


@pytest.mark.parametrize("content", [[], {}, {"source": 5}, "toy", {"source": "toy", "more": 1}])
def test_a_spec_that_is_none_is_refused_in_a_sentence(tmp_path: Path, content: Any) -> None:
    write_json(tmp_path / "model.json", content)
    with pytest.raises(ValueError, match=r"model.json does not say how to load a model; train it again"):
        find_model(str(tmp_path))


def test_writing_replaces_a_link_and_not_what_it_leads_to(run: Path, secret: Path) -> None:
    (run / "report.html").symlink_to(secret)
    write_bytes(run / "report.html", b"a page")
    assert secret.read_text() == OUTSIDE
    assert not (run / "report.html").is_symlink()
