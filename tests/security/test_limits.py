"""Whatever is read into memory has its limit, in one place, and one byte more is refused in a sentence."""

import ast
import gzip
import json
import os
import re
import struct
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from divalign import limits
from divalign.config import load_config
from divalign.data import files, lines
from divalign.data.examples import user_says
from divalign.data.files import load_rows
from divalign.data.notes import Notes
from divalign.data.writing import write_file
from divalign.lm import connection
from divalign.lm.connection import Connection
from divalign.lm.gguf_header import read_header
from divalign.lm.load import load_lm
from divalign.lm.server import generate_responses_on_server
from divalign.safety.journal import Journal
from divalign.stages.folder import Clock
from divalign.store import file_digest, intact, read_json, read_rows
from tests.lm.fake_server import Fake, answer, fake, patient, raw, status
from tests.tiny import save_tiny

__all__ = ["fake"]  # a fixture
PACKAGE = Path(__file__).parents[2] / "divalign"
SMALL = 1000  # bytes
READING = {"read_text", "read_bytes", "open"}
# Modules that open files themselves: where the limits stand, hashes, what is written, and maps of weights.
OPENING = {"limits.py", "store.py", "data/lines.py", "data/notes.py", "data/writing.py", "lm/gguf_header.py"}
OPENING |= {"safety/journal.py"}  # to append to


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower every limit to `SMALL`, wherever it was imported."""
    for module in (limits, lines, files, connection):
        for name, value in vars(limits).items():
            if isinstance(value, limits.Limit) and hasattr(module, name):
                monkeypatch.setattr(module, name, value._replace(bytes=SMALL))


def test_a_file_of_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    limit, path = limits.TEXT._replace(bytes=SMALL), tmp_path / "text"
    path.write_bytes(b"a" * SMALL)
    assert limits.read_text(path, limit) == "a" * SMALL
    path.write_bytes(b"a" * (SMALL + 1))
    with pytest.raises(ValueError, match=r"has 1,001 bytes or more, and a configuration.* may have 1,000; give"):
        limits.read_text(path, limit)


def test_what_is_no_regular_file_is_not_read() -> None:
    with pytest.raises(ValueError, match="is no regular file"):
        limits.read_bytes(Path("/dev/zero"))


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a")
    (tmp_path / "link").symlink_to("text")
    assert limits.read_bytes(tmp_path / "link") == b"a"


def with_stamp(path: Path) -> bool:
    data = path.with_name(path.name.removesuffix(".stamp").removeprefix("."))
    data.write_bytes(b"a")
    return intact(data, "key")


OPENERS: dict[str, tuple[str, Any, Any]] = {
    "a file": ("a.json", limits.read_bytes, "a.json is no regular file; give a file"),
    "a hash": ("a.json", file_digest, "a.json is no regular file"),
    "a journal": ("judge.journal", Journal, "judge.journal is no regular file"),
    "a stamp": (".a.jsonl.stamp", with_stamp, False),
    "a clock": ("clock.json", lambda path: Clock(path).before, 0.0),
    "a draft": (".a.jsonl.draft", lambda path: write_file(path.with_name("a.jsonl"), [{"a": 1}]), 1),
    "a run folder": (
        "c/optimizer.pt",
        lambda path: limits.refuse_links(path.parent.parent),
        "c/optimizer.pt is a named",
    ),
    "a model folder": ("config.json", lambda path: limits.refuse_large_settings(path.parent), "is a named"),
    "a model's weights": ("a.safetensors", lambda path: limits.refuse_large_settings(path.parent), "is a named"),
}


@pytest.mark.parametrize("reader", [False, True], ids=["alone", "with a reader at its other end"])
@pytest.mark.parametrize("name", OPENERS)
def test_a_named_pipe_is_not_waited_for(name: str, reader: bool, tmp_path: Path) -> None:
    file, read, outcome = OPENERS[name]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / file)
    end = os.open(tmp_path / file, os.O_RDONLY | os.O_NONBLOCK) if reader else None
    outcomes: list[Any] = []

    def go() -> None:
        try:
            outcomes.append(read(tmp_path / file))
        except ValueError as error:
            outcomes.append(str(error))

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    thread.join(10)
    if end is not None:
        os.close(end)
    assert outcomes, "still waiting"
    assert outcomes == [outcome] if not isinstance(outcome, str) else outcome in outcomes[0]


READERS: dict[str, tuple[Any, str, bytes]] = {
    "a configuration": (load_config, "a.yaml", b"#" * (limits.TEXT.bytes + 1)),
    "a line": (load_rows, "a.jsonl", b'{"prompt": "' + b"a" * SMALL + b'"}'),
    "a JSON array": (load_rows, "a.json", b'[{"prompt": "' + b'"},\n{"prompt": "'.join([b"a" * 99] * 12) + b'"}]'),
    "UTF-16": (load_rows, "a.txt", ("a" * SMALL).encode("utf-16")),
    "a compressed file": (load_rows, "a.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 10 * SMALL)),
    "a cell": (load_rows, "a.csv", b'prompt\n"' + b"a\n" * SMALL + b'"\n'),
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_refuses_what_is_over_its_limit(name: str, tmp_path: Path, small: None) -> None:
    read, file, content = READERS[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=r"may have|field larger than field limit"):
        read(tmp_path / file)


def test_a_compressed_file_of_honest_text_is_read(tmp_path: Path, small: None) -> None:
    rows = [{"prompt": f"{number} {number * 7919 % 1000}"} for number in range(400)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert load_rows(tmp_path / "a.jsonl.gz") == rows


def test_a_parquet_file_that_says_it_unpacks_to_too_much_is_refused(tmp_path: Path, small: None) -> None:
    texts = [f"{'a' * 5000}{number}" for number in range(400)]
    parquet.write_table(pa.table({"prompt": texts}), tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(ValueError, match="what a compressed file unpacks to may have"):
        load_rows(tmp_path / "a.parquet")


def numbers_of(text: str, count: int) -> pa.Array:
    """Return one text `count` times, as numbers of it."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))


TEXTS = numbers_of("a" * 5000, 400)
IN_ONE_ROW = pa.array([0, len(TEXTS)], pa.int32())
NAMES = pa.array(map(str, range(len(TEXTS))))


@pytest.mark.parametrize("stored", [True, False], ids=["a column of categories", "a column of text"])
@pytest.mark.parametrize(
    "column",
    [
        TEXTS,
        pa.ListArray.from_arrays(IN_ONE_ROW, TEXTS),
        pa.ListArray.from_arrays(IN_ONE_ROW, pa.StructArray.from_arrays([TEXTS, TEXTS], ["role", "content"])),
        pa.MapArray.from_arrays(IN_ONE_ROW, NAMES, TEXTS),
    ],
    ids=lambda column: str(column.type)[:6],
)
def test_a_parquet_file_whose_one_text_stands_for_many_is_refused_before_they_are_made(
    tmp_path: Path, column: pa.Array, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UNPACKED", limits.UNPACKED._replace(bytes=1_000_000))
    parquet.write_table(pa.table({"prompt": column}), tmp_path / "a.parquet", compression="zstd", store_schema=stored)
    notes = Notes()
    with pytest.raises(ValueError, match="what a compressed file unpacks to may have"):
        next(files.stream_whole(tmp_path / "a.parquet", notes))


def test_rows_of_a_parquet_file_are_counted_where_one_text_is_made_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UNPACKED", limits.UNPACKED._replace(bytes=1_000_000))
    parquet.write_table(
        pa.table({"prompt": ["a" * 5000] * 400}),
        tmp_path / "a.parquet",
        use_dictionary=False,
        column_encoding="DELTA_BYTE_ARRAY",
        compression="zstd",
    )
    notes = Notes()
    with pytest.raises(ValueError, match="what a compressed file unpacks to may have"):
        list(files.stream_whole(tmp_path / "a.parquet", notes))
    assert 100 < notes.rows < 250


def test_a_parquet_file_of_few_bytes_and_endless_nothing_is_refused(tmp_path: Path, small: None) -> None:
    nothing = pa.ListArray.from_arrays(pa.array([0, 10**5], pa.int32()), pa.nulls(10**5, pa.int8()))
    parquet.write_table(pa.table({"prompt": nothing}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has 800,000 bytes or more"):
        load_rows(tmp_path / "a.parquet")


def test_an_honest_parquet_file_of_several_row_groups_is_read(tmp_path: Path) -> None:
    row = {"prompt": "a", "chosen": [{"role": "assistant", "content": "b"}], "tags": ["c", None], "none": None}
    parquet.write_table(pa.Table.from_pylist([row] * 20), tmp_path / "a.parquet", row_group_size=7)
    assert load_rows(tmp_path / "a.parquet") == [row] * 20


def test_two_columns_at_one_path_are_refused(tmp_path: Path) -> None:
    columns = {"a.b": TEXTS, "a": pa.StructArray.from_arrays([TEXTS], ["b"])}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"two columns of text or numbers at the path 'a\.b'"):
        load_rows(tmp_path / "a.parquet")


def test_a_reply_of_many_small_values_is_refused_unparsed(fake: Fake) -> None:
    fake.script["all"] = [raw(b'{"x": [' + b"[]," * (3 * limits.MIB) + b"[]]}")]  # 0.2 GB of memory once parsed
    with pytest.raises(ValueError, match="a server's reply may have"):
        generate_responses_on_server(patient(fake, attempts=1), [user_says("?")])


def test_the_longest_completion_is_read(fake: Fake) -> None:
    text = "\u0436" * 4 * 2**18  # tokens of four letters each, which JSON may escape
    fake.script["all"] = [raw(json.dumps({"choices": [{"message": {"content": text}}]}).encode())]
    assert generate_responses_on_server(patient(fake, api_key="a-secret-key"), [user_says("?")])[0].text == text


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


DEEP = {"100,000, without an end": "[" * 100_000, "900": nested(900), "one over the limit": nested(limits.DEPTH + 1)}
each_depth = pytest.mark.parametrize("deep", DEEP.values(), ids=DEEP)


@each_depth
def test_records_and_rows_of_a_run_have_a_limit_and_a_depth(tmp_path: Path, deep: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(deep)
    for read in (read_json, read_rows):
        with pytest.raises(ValueError, match=r"a\.json is nested too deeply"):
            read(path)
    path.write_text(nested(limits.DEPTH))
    assert json.dumps(read_json(path)) == nested(limits.DEPTH)


@each_depth
def test_a_line_of_a_journal_that_is_nested_too_deeply_is_as_good_as_absent(tmp_path: Path, deep: str) -> None:
    with Journal(tmp_path / "a.journal") as journal:
        journal.add("key", "value")
    with (tmp_path / "a.journal").open("a") as file:
        file.write(f'{deep}\n{{"key": "other", "value": {deep}, "check": "x"}}\n')
    with Journal(tmp_path / "a.journal") as journal:
        assert (journal["key"], len(journal), journal.damaged) == ("value", 1, 2)


@pytest.mark.parametrize("code", [200, 400, 500])
@each_depth
def test_a_reply_that_is_nested_too_deeply_ends_in_a_sentence(fake: Fake, deep: str, code: int) -> None:
    for text in (deep, f'{{"error": {deep}}}', f'{{"choices": [{{"message": {{"content": {deep}}}}}]}}'):
        fake.script["all"] = [status(code, text.encode())] * 2
        with pytest.raises((ValueError, ConnectionError), match=r"no chat completion|status") as caught:
            generate_responses_on_server(patient(fake, attempts=1), [user_says("?")])
        assert len(str(caught.value)) < SMALL


def test_thoughts_within_thoughts_are_read_to_a_depth(fake: Fake) -> None:
    for depth in (3, 300):
        part: dict[str, Any] = {"type": "text", "text": "so"}
        for _ in range(depth):
            part = {"type": "thinking", "thinking": [part]}
        fake.script["all"] = [answer(content=[part, "yes"])]
        if depth == 3:
            assert generate_responses_on_server(patient(fake), [user_says("?")])[0].reasoning == "so"
        else:
            with pytest.raises(ConnectionError, match="no chat completion"):
                generate_responses_on_server(patient(fake, attempts=1), [user_says("?")])


def test_the_header_of_a_gguf_file_holds_no_endless_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from divalign.lm import gguf_header

    monkeypatch.setattr(gguf_header, "HEADER_TEXT", limits.HEADER_TEXT._replace(bytes=SMALL))
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", SMALL + 1) + b"a" * 2 * SMALL)
    with pytest.raises(ValueError, match="a text in a file's header may have 1,000"):
        read_header(path)
    key = struct.pack("<Q", 1) + b"a" + struct.pack("<IB", 0, 1)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + 2 * key + b"\0" * SMALL)
    with pytest.raises(ValueError, match="the key 'a' twice"):
        read_header(path)


def test_a_vocabulary_without_end_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny("Llama", tmp_path / "model")
    monkeypatch.setattr(limits, "SETTINGS", limits.SETTINGS._replace(bytes=SMALL))
    with pytest.raises(ValueError, match=r"a model folder's configuration, vocabulary or template may have"):
        load_lm(str(folder))


def test_a_chat_template_without_end_is_not_loaded_from_the_folder_of_further_ones(tmp_path: Path) -> None:
    folder = save_tiny("Llama", tmp_path / "model")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "big.jinja").write_text("a" * (limits.TEXT.bytes + 1))
    with pytest.raises(ValueError, match=r"big.jinja has .* a chat template or a question may have"):
        load_lm(str(folder))


def test_a_reply_without_end_is_not_read_to_its_end(fake: Fake, small: None) -> None:
    import httpx2

    fake.script["all"] = [raw(b"a" * 2 * SMALL)]
    with httpx2.Client() as client, pytest.raises(ValueError, match="a server's reply may have 1,000"):
        Connection(patient(fake), client, lambda _: None, set()).send({"messages": [{"content": "?"}]})


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(9)
)


@pytest.mark.parametrize("text", [ALIASES, "a: &a [*a]", "a: &a {b: *a}", "[" * 600], ids=lambda text: text[:12])
def test_a_short_configuration_does_not_stand_for_an_endless_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match="is not YAML: ") as caught:
        load_config(tmp_path / "a.yaml")
    assert len(str(caught.value)) < SMALL


def test_an_alias_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train: {methods: &m [kldo, dpo], methods_on: {cr: *m}}\n")
    assert load_config(tmp_path / "a.yaml").train.methods_on == {"cr": ("kldo", "dpo")}


def test_files_are_read_through_the_limits() -> None:
    """A module reads its own assets as it likes; whatever a user names goes through `divalign.limits`."""
    modules = [path for path in PACKAGE.rglob("*.py") if str(path.relative_to(PACKAGE)) not in OPENING]
    assert [(path.name, call) for path in modules for call in readings(ast.parse(path.read_text()))] == []
    bad = ["path.read_text()", "Path(name).read_bytes()", "open(path)", "path.open('rb')"]
    assert [readings(ast.parse(line)) for line in bad] == [[line] for line in bad]


def readings(tree: ast.AST) -> list[str]:
    """Return the calls of a module that read or open a file by themselves, its package's assets left out."""
    calls = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in READING:
            name, call = ast.unparse(node.func), ast.unparse(node)
            whole = name.endswith((".read_text", ".read_bytes")) and not name.startswith("limits.")
            opened = name == "open" or (name.endswith(".open") and name != "target.open")
            calls += [call] if (whole or opened) and not re.search(r"files\(|ASSETS", call) else []
    return calls
