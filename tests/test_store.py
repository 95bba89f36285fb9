"""Run folders hold whole files only, and find finished work by what it was made from."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from divalign import store


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o022, 0o644), (0o002, 0o664)])
def test_a_file_has_the_permissions_that_the_umask_leaves(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        store.write_json(tmp_path / "new.json", {})
        (tmp_path / "fetched").touch(mode=0o600)
        store.apply_umask(tmp_path / "fetched")
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "new.json": mode,
        "fetched": mode,
    }


def test_equal_content_has_one_digest_whatever_the_order_of_its_keys() -> None:
    assert store.digest({"a": 1, "b": [2]}) == store.digest({"b": [2], "a": 1}) != store.digest({"a": 1, "b": [3]})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    store.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="Out of range"):
        store.write_json(path, {"new": float("nan")})
    assert store.read_json(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_what_lies_among_the_devices_is_written_to_and_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices, target = tmp_path / "dev", tmp_path / "target"
    devices.mkdir()
    target.write_text("table\n")
    monkeypatch.setattr(store, "DEVICES", devices)
    (devices / "stdout").symlink_to(target)  # as in `divalign ... --json /dev/stdout > target`
    store.write_json(devices / "stdout", {"a": 1})
    assert target.read_text() == 'table\n{\n "a": 1\n}\n'
    assert (devices / "stdout").is_symlink()
    os.mkfifo(devices / "pipe")
    with os.fdopen(os.open(devices / "pipe", os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        store.write_json(devices / "pipe", {"a": 1})
        assert reader.read() == b'{\n "a": 1\n}\n'
    assert (devices / "pipe").is_fifo()


def test_a_pipe_in_a_folder_is_replaced_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "results.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "results.json")
    for name in ("link.json", "results.json"):
        store.write_json(tmp_path / name, {"a": 1})
        assert store.read_json(tmp_path / name) == {"a": 1}
        assert not (tmp_path / name).is_symlink()


def test_rows_keep_characters_that_other_readers_take_for_line_ends(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b\x85c\nd"}, {"text": ""}]
    store.write_rows(tmp_path / "rows.jsonl", rows)
    assert store.read_rows(tmp_path / "rows.jsonl") == rows


def test_a_row_without_columns_is_no_row(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\n["a", 1]\n')
    with pytest.raises(ValueError, match="row 2 is a list, expected an object with named columns"):
        store.read_rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("harm", ["edit", "tear", "stamp", "key"])
def test_work_is_redone_exactly_when_its_file_stamp_or_key_is_not_what_it_was(tmp_path: Path, harm: str) -> None:
    path, made = tmp_path / "rows.jsonl", []

    def make() -> list[dict[str, int]]:
        made.append(1)
        return [{"n": 1}]

    store.cached_rows(path, "key", make)
    store.cached_rows(path, "key", make)
    assert len(made) == 1
    if harm == "edit":
        path.write_text('{"n": 2}\n')
    elif harm == "tear":
        path.write_text(path.read_text()[:3])
    elif harm == "stamp":
        (tmp_path / ".rows.jsonl.stamp").write_text('["key", "')
    assert store.cached_rows(path, "other" if harm == "key" else "key", make) == [{"n": 1}]
    assert len(made) == 2


def test_arrays_come_back_as_they_went_in(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    found = store.cached_arrays(tmp_path / "a.safetensors", "key", lambda: arrays)
    assert np.array_equal(found["a"], arrays["a"])


READ = ("config.json", "model.safetensors", "chat_template.jinja", "modeling_mine.py", "merges.txt", "vocab.txt")
READ_TOO = ("tokenizer.model", "spiece.model", "qwen.tiktoken", "source.spm", "bpe.codes", "dict.txt")


@pytest.mark.parametrize("name", [*READ, *READ_TOO, "additional_chat_templates/tool_use.jinja"])
def test_a_model_folder_is_another_one_when_what_is_loaded_of_it_changes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    for file in ("config.json", "model.safetensors", name):
        (tmp_path / file).write_text("a")
    before = store.folder_digest(tmp_path)
    (tmp_path / name).write_text("b")
    assert store.folder_digest(tmp_path) != before


def test_a_model_folder_keeps_its_digest_whatever_is_not_loaded_stands_in_it(tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors", "chat_template.jinja"):
        (tmp_path / file).write_text(file)
    names = sorted(path.name for path in tmp_path.iterdir())
    expected = store.digest([(name, hashlib.sha256(name.encode()).hexdigest()) for name in names])
    assert store.folder_digest(tmp_path) == expected  # of folders without code or vocabularies, as it always was
    for file in ("README.md", "LICENSE.txt", "notes.txt", "training.log", "pytorch_model.bin"):
        (tmp_path / file).write_text("a")
    (tmp_path / "old.model").mkdir()
    assert store.folder_digest(tmp_path) == expected


def test_a_folder_is_filled_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half.json").write_text("{}")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        store.cached_folder(tmp_path / "model", "key", fail)
    assert not list(tmp_path.iterdir())

    def fill(folder: Path) -> None:
        (folder / "config.json").write_text("{}")

    path = store.cached_folder(tmp_path / "model", "key", fill)
    (path / "config.json").write_text("[]")
    store.cached_folder(path, "key", fill)
    assert (path / "config.json").read_text() == "{}"


def test_a_kill_while_a_folder_is_filled_leaves_nothing_once_it_is_filled_again(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "config.json").write_text("{}")

    code = "import sys, time, pathlib; from divalign import store; store.cached_folder(pathlib.Path(sys.argv[1]), 'key'"
    stall = "lambda draft: (draft.joinpath('half').touch(), print('begun', flush=True), time.sleep(60)))"
    for _ in range(2):
        killed_at_its_first_word(f"{code}, {stall}", tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == [".model.draft"]
    store.cached_folder(tmp_path / "model", "key", fill)
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model.stamp"}
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]


def killed_at_its_first_word(code: str, folder: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_what_json_lacks_is_written_plainly_and_the_rest_refused(tmp_path: Path) -> None:
    content = {"n": np.float64(0.5), "p": Path("a"), "s": {"b", "a"}}
    store.write_json(tmp_path / "a.json", content)
    assert store.read_json(tmp_path / "a.json") == {"n": 0.5, "p": "a", "s": ["a", "b"]}
    with pytest.raises(TypeError, match="is no JSON"):
        store.digest(object())


def test_a_long_list_has_the_digest_of_its_whole_text() -> None:
    for count in (0, 1, 999, 1000, 1001, 2500):
        rows = [{"b": number, "a": f"é{number}"} for number in range(count)]
        text = json.dumps(["rows", rows, (1, 2)], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        assert store.digest("rows", rows, (1, 2)) == hashlib.sha256(text.encode()).hexdigest()


def test_a_full_disk_is_recognised_in_the_words_of_torch_and_safetensors() -> None:
    assert store.disk_is_full(OSError(errno.ENOSPC, "No space left on device"))
    assert store.disk_is_full(OSError(errno.EFBIG, "File too large"))
    assert store.disk_is_full(
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0: file write failed")
    )
    assert not store.disk_is_full(OSError(errno.ENOENT, "No such file"))
