"""A model that is named loads the weights it was trained on: its run's, its adapter's, its pinned revision's."""

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from divalign.lm.load import load_lm
from divalign.store import write_json
from divalign.study.named import Named, find_model, load_named
from divalign.study.writers import Loading, local_writer
from tests.tiny import save_tiny

HUB_ID = "people/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the hub's cache, offline: the model at two revisions, of which `main` is the second."""
    for name, content in (("HF_HUB_CACHE", str(tmp_path / "hub")), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(huggingface_hub.constants, name, content)
    folder = tmp_path / "hub" / "models--people--tiny"
    for seed, commit in ((0, "a" * 40), (1, "b" * 40)):
        save_tiny("Llama", folder / "snapshots" / commit, seed=seed)
    (folder / "refs").mkdir()
    for name, commit in (("v1", "a" * 40), ("main", "b" * 40)):
        (folder / "refs" / name).write_text(commit)
    return folder


def same(one: Any, folder: Path) -> bool:
    ours, theirs = one.model.state_dict(), load_lm(str(folder)).model.state_dict()
    return all(ours[name].equal(theirs[name]) for name in theirs)


def run_on(revision: str, tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "models" / "base").mkdir(parents=True)
    (run / "config.yaml").write_text(f"model: {{source: {HUB_ID}, revision: {revision}, trust_remote_code: true}}\n")
    return run


def test_a_runs_base_is_loaded_at_the_revision_that_the_run_trained_on(hub: Path, tmp_path: Path) -> None:
    base = run_on("v1", tmp_path) / "models" / "base"
    assert find_model(str(base)) == Named(HUB_ID, revision="v1", trust_remote_code=True)
    assert same(load_named(str(base)), hub / "snapshots" / ("a" * 40))


def test_a_runs_own_weights_have_no_revision_and_may_need_the_code(tmp_path: Path) -> None:
    model = run_on("v1", tmp_path) / "models" / "one"
    (model / "checkpoint").mkdir(parents=True)
    assert find_model(str(model)) == Named(str(model / "checkpoint"), trust_remote_code=True)


def test_an_adapter_is_put_on_the_revision_that_it_names(tmp_path: Path) -> None:
    write_json(tmp_path / "adapter_config.json", {"base_model_name_or_path": HUB_ID, "revision": "v1"})
    assert find_model(str(tmp_path)) == Named(HUB_ID, tmp_path, revision="v1")


def test_a_hub_id_may_pin_its_revision_wherever_a_model_is_named(hub: Path) -> None:
    first, second = (hub / "snapshots" / (letter * 40) for letter in "ab")
    for name, folder in ((HUB_ID, second), (f"{HUB_ID}@v1", first), (f"{HUB_ID}@{'b' * 40}", second)):
        assert same(load_named(name), folder)
        writer = local_writer(name, Loading())
        assert writer.lm is not None
        assert same(writer.lm(), folder)
    assert local_writer(HUB_ID, Loading()).key != local_writer(f"{HUB_ID}@v1", Loading()).key


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    assert find_model(str(tmp_path / "a@b")) == Named(str(tmp_path / "a@b"))
