"""No file is a program: no pickles, no code of a repository, no module that a file names."""

import ast
import json
import os
import pickle
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors import safe_open

from divalign.lm.load import load_lm
from divalign.lm.reward import RewardModel
from divalign.stages.attack import find_protocol
from divalign.stages.models import LoadOptions, find_model, model_spec
from divalign.store import read_json, write_json
from divalign.train.construction import load_tokenizer
from tests.tiny import save_tiny

PACKAGE = Path(__file__).parents[2] / "divalign"
MODULES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "zipfile", "tarfile", "runpy", "code"}
CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "np.load", "numpy.load", "os.system", "os.popen"}
SAFE = {"allow_pickle": "False", "shell": "False", "weights_only": "True"}
CALLS |= {"shutil.unpack_archive", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle"}


class Command:
    """A pickle of this runs a command when it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.canary}'",)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "the file ran a command"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny("Llama", tmp_path / "model")


def means_to_run(tree: ast.AST) -> list[str]:
    """Return what a module imports or calls that can run what it reads."""
    means = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            means += [name for name in names if name.split(".")[0] in MODULES]
        elif isinstance(node, ast.Call):
            options = [word for word in node.keywords if word.arg in SAFE]
            unsafe = any(ast.unparse(word.value) != SAFE[str(word.arg)] for word in options)
            name = ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""
            loose = name == "yaml.load" and "_Keys" not in ast.unparse(node)  # _Keys is a SafeLoader
            means += [name or "a call"] if name in CALLS or unsafe or loose else []
    return means


def test_no_module_has_the_means_to_run_what_it_reads() -> None:
    means = {path.name: means_to_run(ast.parse(path.read_text())) for path in PACKAGE.rglob("*.py")}
    assert {name: calls for name, calls in means.items() if calls} == {}
    bad = ["import pickle", "eval(text)", "torch.load(path)", "f(path, allow_pickle=True)", "yaml.load(a, Loader)"]
    assert [line for line in bad if not means_to_run(ast.parse(line))] == []


def test_the_pickle_of_these_tests_would_run_a_command(tmp_path: Path, canary: Path) -> None:
    pickle.loads(pickle.dumps(Command(canary)))
    assert canary.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_are_refused_unread(folder: Path, canary: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(Command(canary), folder / name)
    with pytest.raises(ValueError, match=r"holds no \*.safetensors weights"):
        load_lm(str(folder))
    assert not canary.exists()


def sharded(folder: Path, name: Any) -> Path:
    """Turn a model's folder into one whose index names a file for all weights."""
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights.keys(), name)}
    (folder / "model.safetensors").rename(folder / "note.safetensors")
    write_json(folder / "model.safetensors.index.json", index)
    return folder


FOREIGN = ("pytorch_model-00001.bin", "../elsewhere/w.safetensors", "sub/w.safetensors", "C:\\w.safetensors", None)


@pytest.mark.parametrize("name", FOREIGN)
def test_an_index_names_safetensors_of_its_own_folder_alone(folder: Path, canary: Path, name: Any) -> None:
    for load in (load_lm, RewardModel):
        place = sharded(folder, name) if (folder / "model.safetensors").exists() else folder
        torch.save(Command(canary), place / "pytorch_model-00001.bin")
        with pytest.raises(ValueError, match=r"index.json names .* as weights, expected the name of a \*.safetensors"):
            load(str(place))
    assert not canary.exists()


def test_an_index_of_safetensors_beside_it_is_read(folder: Path) -> None:
    expected = load_lm(str(folder)).model.state_dict()
    loaded = load_lm(str(sharded(folder, "note.safetensors"))).model.state_dict()
    assert all(loaded[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"transformers_weights": "adapter_model.bin"},
        {"transformers_weights": "sub/w.safetensors"},
        {"text_config": {"transformers_weights": "adapter_model.bin"}},
        {"attribute_map": {"transformers_weights": "w.safetensors"}, "w.safetensors": "adapter_model.bin"},
    ],
)
def test_a_configuration_names_no_other_weights(folder: Path, canary: Path, settings: dict[str, Any]) -> None:
    torch.save(Command(canary), folder / "adapter_model.bin")
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **settings})
    with pytest.raises(ValueError, match=r"config.json (names|gives)"):
        load_lm(str(folder))
    assert not canary.exists()


@pytest.mark.parametrize("content", ["[]", '{"weight_map": []}', "{", "[" * 100_000])
def test_an_index_that_is_none_is_refused_in_a_sentence(folder: Path, content: str) -> None:
    sharded(folder, "note.safetensors")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"index.json (has no object weight_map|cannot be read as JSON)"):
        load_lm(str(folder))


def test_weights_that_are_no_safetensors_are_refused_in_a_sentence(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"a" * 100)
    for load, sentence in ((load_lm, "cannot load the model"), (RewardModel, "no reward model can be loaded")):
        with pytest.raises(ValueError, match=sentence):
            load(str(folder))


def test_what_the_hub_holds_is_checked_as_a_folder_is(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("HF_HUB_CACHE", str(tmp_path / "hub")), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(huggingface_hub.constants, name, content)
    place = tmp_path / "hub" / "models--people--tiny"
    snapshot = save_tiny("Llama", place / "snapshots" / ("a" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)
    load_lm("people/tiny")
    write_json(snapshot / "adapter_config.json", {"peft_type": "SHADOW", "base_model_name_or_path": "people/tiny"})
    with pytest.raises(ValueError, match="expected LORA"):
        load_lm("people/tiny")
    (snapshot / "adapter_config.json").unlink()
    torch.save(Command(canary), sharded(snapshot, "pytorch_model-00001.bin") / "pytorch_model-00001.bin")
    with pytest.raises(ValueError, match="as weights, expected"):
        load_lm("people/tiny")
    assert not canary.exists()


def adapter(folder: Path, base: Path, **settings: Any) -> Path:
    folder.mkdir()
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": str(base), **settings})
    return folder


def test_a_pickled_adapter_is_refused_unread(folder: Path, canary: Path, tmp_path: Path) -> None:
    place = adapter(tmp_path / "adapter", folder)
    torch.save(Command(canary), place / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"holds no adapter_model.safetensors"):
        load_lm(str(folder), adapter=place)
    with pytest.raises(ValueError, match=r"holds no adapter_model.safetensors"):
        find_model(str(place)).lm()
    assert not canary.exists()


def test_an_adapter_whose_settings_name_code_or_files_is_refused(folder: Path, tmp_path: Path) -> None:
    settings = ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, {"adapters": {"0": "/elsewhere"}})
    settings += ({"shadow_model": "elsewhere"}, {"prompt_tuning_init_state_dict_path": "elsewhere.bin"})
    for number, setting in enumerate(settings):
        place = adapter(tmp_path / f"adapter{number}", folder, **setting)
        with pytest.raises(ValueError, match="makes peft load other code or files"):
            load_lm(str(folder), adapter=place)


@pytest.mark.parametrize(
    "kind", ["SHADOW", "MULTITASK_PROMPT_TUNING", "XLORA", "PROMPT_TUNING", "lora", None, ["LORA"]]
)
def test_an_adapter_of_a_kind_that_is_not_known_to_read_its_folder_alone_is_refused(
    folder: Path, canary: Path, tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", no_question)
    other = with_code(save_tiny("Llama", tmp_path / "other"), canary)
    torch.save(Command(canary), tmp_path / "other.bin")
    named = {"shadow_model": str(other), "prompt_tuning_init_state_dict_path": str(tmp_path / "other.bin")}
    place = adapter(tmp_path / "adapter", folder, peft_type=kind, **(named if kind in ("SHADOW", None) else {}))
    (place / "adapter_model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    for load in (
        lambda: load_lm(str(folder), adapter=place),
        lambda: find_model(str(place)),
        lambda: load_lm(str(place)),
    ):
        with pytest.raises(ValueError, match=r"adapter of the kind .*, expected LORA"):
            load()
    assert not canary.exists()


@pytest.mark.parametrize("settings", [{}, {"peft_type": "SHADOW", "shadow_model": "elsewhere"}])
def test_an_adapter_beside_the_weights_of_a_model_is_checked_too(folder: Path, settings: dict[str, Any]) -> None:
    """transformers puts it on the model by itself."""
    write_json(
        folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": str(folder), **settings}
    )
    with pytest.raises(ValueError, match=r"expected LORA|holds no adapter_model.safetensors"):
        load_lm(str(folder))


def no_question(*_: Any) -> str:
    raise AssertionError("a question at the terminal, which a y answers")


def with_code(folder: Path, canary: Path) -> Path:
    """Turn a model's folder into one that wants its own code run: for the model, its configuration, its tokenizer."""
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(canary)!r}).touch()\n")
    places = {"config.json": ("AutoConfig", "AutoModelForCausalLM"), "tokenizer_config.json": ("AutoTokenizer",)}
    for name, classes in places.items():
        content = read_json(folder / name)
        content["auto_map"] = {kind: "evil.Model" for kind in classes}
        content.pop("tokenizer_class", None)
        content.pop("model_type", None)
        (folder / name).write_text(json.dumps(content))
    return folder


def test_code_of_a_model_is_not_run_and_nobody_is_asked(
    folder: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", no_question)
    place = str(with_code(folder, canary))
    for load in (load_lm, RewardModel, load_tokenizer):
        with pytest.raises(ValueError, match=r"trust_remote_code|custom code"):
            load(place)
    assert not canary.exists()


def test_a_run_folder_cannot_consent_to_code_in_the_name_of_who_reads_it(tmp_path: Path) -> None:
    spec = {"source": "someone/model", "adapter": None, "revision": None, "chat_template": None, "dtype": "float32"}
    write_json(tmp_path / "model.json", {**spec, "device": "cpu", "trust_remote_code": True})
    with pytest.raises(ValueError, match=r"needs code from the repository someone/model.*--trust-remote-code"):
        find_model(str(tmp_path))
    assert model_spec(str(tmp_path), LoadOptions(trust_remote_code=True)).trust_remote_code


def test_a_name_in_an_attack_folder_imports_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_module.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="is none of"):
        find_protocol("evil_module:thing")
