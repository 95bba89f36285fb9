"""A model that is named loads the weights it was trained on: its run's, its adapter's, its pinned revision's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from divalign.lm.load import PLAIN_TEMPLATE, load_lm, resolve
from divalign.stages.model_names import short_names
from divalign.stages.models import (
    LoadOptions,
    ModelSpec,
    base_spec,
    find_model,
    model_spec,
    open_model,
    write_model_spec,
)
from divalign.store import digest, folder_digest, read_json, write_json
from divalign.toy.world import ASSETS
from tests.tiny import begins_with_bos, save_tiny, tiny_tokenizer

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


def same(spelling: str, folder: Path) -> bool:
    ours = find_model(spelling, LoadOptions(dtype="float32")).lm().model.state_dict()
    theirs = load_lm(str(folder)).model.state_dict()
    return all(ours[name].equal(theirs[name]) for name in theirs)


def test_a_model_folder_is_loaded_as_its_spec_says(hub: Path, tmp_path: Path) -> None:
    options = {"revision": "v1", "dtype": "bfloat16", "device": "cpu", "trust_remote_code": True}
    spec = ModelSpec(HUB_ID, "base", **options)
    base = tmp_path / "run" / "models" / "base"
    write_model_spec(base, spec)
    assert model_spec(str(base), LoadOptions(trust_remote_code=True)) == spec
    changed = model_spec(str(base), LoadOptions(dtype="float32", trust_remote_code=True))
    assert changed == replace(spec, dtype="float32")
    write_model_spec(base, replace(spec, dtype="float32", trust_remote_code=False))
    assert same(str(base), hub / "snapshots" / ("a" * 40))


def test_a_run_folder_can_be_moved(tmp_path: Path) -> None:
    save_tiny("Llama", tmp_path / "run" / "models" / "one" / "checkpoint")
    checkpoint = tmp_path / "run" / "models" / "one" / "checkpoint"
    write_model_spec(checkpoint.parent, ModelSpec(str(checkpoint), "one"))
    assert read_json(checkpoint.parent / "model.json")["source"] == "./checkpoint"
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "models" / "one"
    assert model_spec(str(moved)).source == str(moved / "checkpoint")
    assert same(str(moved), moved / "checkpoint")


def test_the_embedded_model_is_named_and_not_a_path(tmp_path: Path) -> None:
    write_model_spec(tmp_path / "base", ModelSpec(str(ASSETS), "base"))
    assert read_json(tmp_path / "base" / "model.json")["source"] == "toy"
    assert model_spec(str(tmp_path / "base")).source == model_spec("toy").source == str(ASSETS)


def test_an_adapter_is_put_on_the_revision_that_it_names(tmp_path: Path) -> None:
    write_json(
        tmp_path / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": HUB_ID, "revision": "v1"}
    )
    spec = model_spec(str(tmp_path))
    assert (spec.source, spec.adapter, spec.revision) == (HUB_ID, str(tmp_path), "v1")
    with pytest.raises(ValueError, match="merge it before adding another"):
        model_spec(str(tmp_path), LoadOptions(adapter=tmp_path))


def test_a_hub_id_may_pin_its_revision_wherever_a_model_is_named(hub: Path) -> None:
    first, second = (hub / "snapshots" / (letter * 40) for letter in "ab")
    for name, folder in ((HUB_ID, second), (f"{HUB_ID}@v1", first), (f"{HUB_ID}@{'b' * 40}", second)):
        assert same(name, folder)
    assert find_model(HUB_ID).key != find_model(f"{HUB_ID}@v1").key


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    assert model_spec(str(tmp_path / "a@b")) == ModelSpec(str(tmp_path / "a@b"), "a@b")


def test_a_key_is_known_without_loading_and_changes_with_what_it_stands_for(tmp_path: Path) -> None:
    folder = save_tiny("Llama", tmp_path / "model")
    float32 = LoadOptions(dtype="float32")
    key = find_model(str(folder), float32).key
    assert find_model(str(folder), float32).key == key
    assert find_model(str(folder), LoadOptions(dtype="bfloat16")).key != key
    assert find_model(str(folder), LoadOptions(dtype="float32", chat_template="plain")).key != key
    save_tiny("Llama", folder, seed=1)
    assert find_model(str(folder), float32).key != key


def test_a_key_tells_a_plain_template_behind_bos_from_one_without(tmp_path: Path) -> None:
    """The key of one without is as it was before BOS could stand there, so that what is cached stays valid."""
    folder, options = save_tiny("Llama", tmp_path / "model"), LoadOptions(dtype="float32", chat_template="plain")
    assert find_model(str(folder), options).key == digest("model", folder_digest(folder), None, "float32", "plain")
    begins_with_bos(tiny_tokenizer()).save_pretrained(folder)
    key = find_model(str(folder), options).key
    assert key == digest("model", folder_digest(folder), None, "float32", "{{ bos_token }}" + PLAIN_TEMPLATE)
    assert find_model(HUB_ID, options).key != digest("model", [HUB_ID, None], None, "float32", "plain")


def test_auto_is_resolved_and_recorded_as_what_it_came_to(tmp_path: Path) -> None:
    spec = model_spec(str(save_tiny("Llama", tmp_path / "model")))
    assert (spec.device, spec.dtype) == ("auto", "auto")
    write_model_spec(tmp_path / "base", spec)
    recorded = read_json(tmp_path / "base" / "model.json")
    assert (recorded["device"], recorded["dtype"]) == tuple(resolve())
    embedded = find_model("toy").lm()
    assert str(embedded.model.dtype) == "torch.float32"


@pytest.mark.parametrize(
    ("spelling", "sentence"),
    [
        ("http://localhost:8000/v1", "names a server and no model"),
        ("localhost:8000/v1#m", "is a server's address without its scheme; write http://localhost:8000/v1#m"),
        ("missing.gguf", "no file missing.gguf"),
        ("/no/such/folder", "no model folder at"),
        ("run/models/later", "holds no finished model"),
        ("adapter", "names no base model"),
    ],
)
def test_what_is_no_model_is_refused_in_a_sentence(
    spelling: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run/models/later").mkdir(parents=True)
    write_json(Path("adapter/adapter_config.json"), {"peft_type": "LORA"})
    with pytest.raises(ValueError, match=sentence):
        find_model(spelling)


def test_a_served_model_gives_no_weights() -> None:
    served: Any = find_model("http://localhost:1/v1#m")
    with pytest.raises(ValueError, match="is served and gives no weights"):
        served.lm()


def test_names_are_short_where_that_tells_models_apart() -> None:
    assert short_names(["a/x", "b/y"]) == ["x", "y"]
    assert short_names(["/r/a/x", "/r/b/x", "c/y"]) == ["a_x", "b_x", "y"]
    assert short_names(["a/x", "a_x", "b/x"]) == ["x", "a_x", "b_x"]
    assert short_names(["x", "../x", "X"]) == ["x", "x_2", "X_3"]  # one folder on some file systems
    with pytest.raises(ValueError, match="named twice"):
        short_names(["a", "a"])
    with pytest.raises(ValueError, match="'/' gives a model no name"):
        short_names(["/", "a"])


@pytest.mark.parametrize("spellings", [("/a/models/x", "/b/models/x"), ("..", "a/.."), (".", "./x/../y"), ("a", "b/a")])
def test_short_names_are_different_plain_names_of_folders(spellings: tuple[str, ...]) -> None:
    names = short_names(spellings)
    assert len({name.lower() for name in names}) == len(spellings)
    assert all(Path(name).name == name and name.strip(".") for name in names)


def test_paths_inside_the_folder_are_relative_to_it_however_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "checkpoint"):
        (tmp_path / "out" / name).mkdir(parents=True)
    spec = ModelSpec(str(tmp_path / "out" / "base"), "m", adapter="out/checkpoint", device="cpu", dtype="float32")
    write_model_spec(Path("out"), spec)
    content = read_json(tmp_path / "out" / "model.json")
    assert (content["source"], content["adapter"]) == ("./base", "./checkpoint")


def test_a_chat_template_of_the_user_s_is_copied_beside_the_model(tmp_path: Path) -> None:
    folder = save_tiny("Llama", tmp_path / "run" / "models" / "m" / "checkpoint")
    template = tmp_path / "mine.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}{% endfor %}", encoding="utf-8")
    spec = ModelSpec(str(folder), "m", dtype="float32", device="cpu", chat_template=str(template))
    key = open_model(spec).key
    write_model_spec(folder.parent, spec)
    times = [path.stat().st_mtime_ns for path in sorted(folder.parent.iterdir())]
    write_model_spec(folder.parent, spec)
    assert [path.stat().st_mtime_ns for path in sorted(folder.parent.iterdir())] == times
    assert read_json(folder.parent / "model.json")["chat_template"] == "./chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    template.unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = find_model(str(tmp_path / "moved" / "models" / "m"))
    assert (moved.key, moved.lm().tokenizer.chat_template) == (key, text)


@pytest.mark.parametrize("name", ["{outside}", "../outside.jinja", "outside.jinja", "./link.jinja"])
def test_a_folder_names_no_chat_template_of_the_reader_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its text would stand in every prompt, of a server's too; who reads the folder may still name one."""
    outside, given = tmp_path / "outside.jinja", tmp_path / "given"
    outside.write_text("private")
    monkeypatch.chdir(tmp_path)
    write_json(given / "model.json", {"source": "toy", "chat_template": name.format(outside=outside)})
    (given / "link.jinja").symlink_to(outside)
    with pytest.raises(ValueError, match=r"model.json names the chat template .*give it with --chat-template"):
        model_spec(str(given))
    with pytest.raises(ValueError, match="names the chat template"):
        base_spec(str(given), chat_template=None)
    assert model_spec(str(given), LoadOptions(chat_template=str(outside))).chat_template == str(outside)
    assert base_spec(str(given), chat_template="plain").chat_template == "plain"
