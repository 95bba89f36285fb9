"""A GGUF file is a model source: its logits are transformers' own, and a file that cannot be used gets one sentence."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from divalign.data.examples import user_says
from divalign.lm.generate import generate
from divalign.lm.gguf import default_cache, gguf_folder
from divalign.lm.gguf_header import read_header
from divalign.lm.load import load_lm
from tests.lm.gguf_files import SPECIAL, TEMPLATE, write_gguf

IDS = torch.tensor([[1, 7, 30, 90, 2, 5]])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def loaded(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DIVALIGN_CACHE", str(cache))
    return load_lm(str(file))


def logits_of_transformers(path: Path, ids: torch.Tensor) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    with torch.no_grad():
        return model.eval()(ids).logits


def test_logits_equal_those_of_transformers_on_the_same_file(file: Path, loaded: Any) -> None:
    with torch.no_grad():
        logits = loaded.model(IDS).logits
    assert torch.equal(logits, logits_of_transformers(file, IDS))
    assert logits.std() > 0.1


def test_tokenizer_template_and_end_tokens_come_from_the_file(loaded: Any) -> None:
    assert loaded.tokenizer.chat_template == TEMPLATE
    text = loaded.tokenizer.apply_chat_template([{"role": "user", "content": "he t"}], tokenize=False)
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert loaded.tokenizer.decode(ids) == "<|im_start|>user\nhe t<|im_end|>\n"
    assert ids[0] == SPECIAL.index("<|im_start|>")
    assert loaded.model.generation_config.eos_token_id in (2, [2])
    assert loaded.tokenizer.eos_token_id == 2


def test_it_scores_and_writes_like_any_model(loaded: Any) -> None:
    assert len(generate(loaded.model, loaded.tokenizer, [user_says("he t"), user_says("x")], max_new_tokens=4)) == 2
    assert loaded.model.config.to_dict().get("quantization_config") is None


def test_a_file_is_converted_once_and_found_by_its_content(file: Path, tmp_path: Path, cache: Path) -> None:
    folder = gguf_folder(file, cache)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    elsewhere = tmp_path / "another name.gguf"
    shutil.copy(file, elsewhere)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')  # what lies beside the file is another model's
    assert gguf_folder(elsewhere, cache) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    other = gguf_folder(write_gguf(tmp_path / "other.gguf", seed=1), cache)
    assert other != folder
    config = (other / "config.json").read_text()
    assert "llama" in config
    assert str(tmp_path) not in config


def test_a_torn_conversion_is_made_again(file: Path, tmp_path: Path) -> None:
    folder = gguf_folder(file, tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    assert (gguf_folder(file, tmp_path) / "model.safetensors").read_bytes() == whole


def test_the_end_of_a_turn_ends_a_response_too(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", metadata={"tokenizer.ggml.eot_token_id": 1})
    folder = gguf_folder(path, tmp_path)
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id == [2, 1]


HARMS: dict[str, tuple[Any, str]] = {
    "empty": (lambda content: b"", r"is not a GGUF file: it begins with b''"),
    "a zip": (lambda content: b"PK\x03\x04" + content, r"is not a GGUF file: it begins with b'PK"),
    "the magic alone": (lambda content: content[:4], r"truncated or corrupt: at byte 4"),
    "torn in the header": (lambda content: content[:700], r"truncated or corrupt: at byte"),
    "torn in the weights": (lambda content: content[:-4000], r"is truncated: it has [\d,]+ bytes and its header names"),
    "version 1": (lambda content: content[:4] + b"\1\0\0\0" + content[8:], r"a version 1 GGUF file"),
    "big-endian": (lambda content: content[:4] + b"\0\0\0\3" + content[8:], r"a big-endian GGUF file"),
    "many tensors": (lambda content: content[:8] + b"\xff" * 8 + content[16:], r"header names [\d,]+ tensors"),
    "a long key": (lambda content: content[:24] + b"\xff" * 7 + b"\x7f" + content[32:], r"header names [\d,]+ bytes"),
}


@pytest.mark.parametrize(("harm", "sentence"), HARMS.values(), ids=HARMS)
def test_a_damaged_file_gets_one_sentence(file: Path, tmp_path: Path, harm: Any, sentence: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(harm(file.read_bytes()))
    with pytest.raises(ValueError, match=sentence) as caught:
        gguf_folder(path, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_no_damage_to_the_header_is_anything_but_a_sentence(file: Path, tmp_path: Path) -> None:
    """A header is data from strangers: any bytes in it give a header or a ValueError, at once and in little memory."""
    content, random, path = file.read_bytes(), np.random.default_rng(0), tmp_path / "m.gguf"
    for _ in range(300):
        damaged = bytearray(content)
        for place in random.integers(4, 6000, size=random.integers(1, 4)):
            damaged[place] = random.choice([0, 1, 8, 9, 255, random.integers(256)])
        path.write_bytes(damaged[: random.integers(1, len(damaged) + 1)] if random.random() < 0.3 else damaged)
        with suppress(ValueError):
            assert read_header(path).tensors


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"architecture": "no-such"}, r"architecture 'no-such', which transformers cannot read from GGUF"),
        ({"tokens": False}, r"holds no tokenizer"),
        ({"weights": False}, r"holds no tensors"),
        ({"metadata": {"split.count": 3}}, r"is one of 3 parts; join them first"),
        ({"metadata": {"general.type": "adapter"}}, r"is of the type 'adapter', expected 'model'"),
    ],
)
def test_a_file_that_is_no_whole_model_gets_one_sentence(tmp_path: Path, options: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        gguf_folder(write_gguf(tmp_path / "m.gguf", **options), tmp_path)


def test_no_file_and_no_template_get_one_sentence_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIVALIGN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="no GGUF file at"):
        load_lm(str(tmp_path / "none.gguf"))
    path = str(write_gguf(tmp_path / "m.gguf", template=None))
    with pytest.raises(ValueError, match="has no chat template"):
        load_lm(path)
    assert not (tmp_path / "cache").exists()
    assert load_lm(path, chat_template="plain").tokenizer.chat_template


def test_a_template_of_a_stranger_runs_in_the_sandbox_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIVALIGN_CACHE", str(tmp_path / "cache"))
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    lm = load_lm(str(write_gguf(tmp_path / "m.gguf", template=template)))
    with pytest.raises(ValueError, match=r"access to attribute .* is unsafe"):
        generate(lm.model, lm.tokenizer, [user_says("x")])


def test_the_missing_package_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from divalign.lm import gguf_header

    gguf_header.blocks.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf.constants", None)
    with pytest.raises(ValueError, match=r"pip install 'divalign\[gguf\]'"):
        read_header(file)


def test_a_damaged_file_is_refused_before_transformers_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + b"\3\0\0\0" + b"\xff" * 16)
    code = (
        "import sys, pathlib, divalign.lm.gguf as g\n"
        f"try: g.gguf_folder(pathlib.Path({str(path)!r}))\n"
        "except ValueError: print('transformers' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_the_cache_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIVALIGN_CACHE", "/somewhere")
    assert default_cache() == Path("/somewhere")
    monkeypatch.delenv("DIVALIGN_CACHE")
    assert default_cache() == Path.home() / ".cache" / "divalign"


@pytest.mark.skipif("DIVALIGN_GGUF" not in os.environ, reason="DIVALIGN_GGUF names no GGUF file of a real model")
def test_a_real_file_gives_the_logits_of_transformers() -> None:
    path = Path(os.environ["DIVALIGN_GGUF"])
    lm = load_lm(str(path))
    ids = torch.tensor([lm.tokenizer("The bridge over the river", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        assert torch.equal(lm.model(ids).logits, logits_of_transformers(path, ids))
