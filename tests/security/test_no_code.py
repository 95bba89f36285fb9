"""No file is a program: no pickles, no code of a repository, no module that a file names."""

import ast
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

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
    for number, setting in enumerate(settings):
        place = adapter(tmp_path / f"adapter{number}", folder, **setting)
        with pytest.raises(ValueError, match="makes peft load other code or files"):
            load_lm(str(folder), adapter=place)


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
    def no_question(*_: Any) -> str:
        raise AssertionError("a question at the terminal, which a y answers")

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
