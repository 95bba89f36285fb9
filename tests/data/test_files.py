"""Files as users have them: torn, badly encoded, of many kinds."""

import datetime
import gzip
import json
import re
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from divalign.data import files
from divalign.data.columns import check_columns
from divalign.data.files import read_file, stream_file
from divalign.data.notes import Notes, aside_of
from divalign.data.writing import write_file
from divalign.store import read_rows
from tests.cost import cpu_seconds

ROWS = [
    {"prompt": "Où est le café?", "chosen": "Là-bas.", "harmful": False},
    {"prompt": 'line one\nline two, "quoted"', "chosen": "yes\u2028no", "harmful": True},
]


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".parquet"])
def test_rows_come_back_as_they_were_written(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows{kind}"
    assert write_file(path, iter(ROWS)) == 2
    reading = read_file(path)
    assert reading.rows == ROWS
    assert reading.notes.sentences(path) == []
    assert not aside_of(path).exists()


@pytest.mark.parametrize("kind", [".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.GZ"])
def test_a_compressed_file_is_what_its_name_says_and_always_the_same(tmp_path: Path, kind: str) -> None:
    rows = [{"prompt": "Où?", "chosen": "a, b"}, {"prompt": "q", "chosen": "Là."}]
    path, again = tmp_path / f"rows{kind}", tmp_path / f"again{kind}"
    assert write_file(path, rows) == write_file(again, rows) == 2
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert path.read_bytes() == again.read_bytes()
    assert read_file(path).rows == rows


def test_a_column_that_the_first_row_lacks_is_kept_in_parquet(tmp_path: Path) -> None:
    pair = {"prompt": "q", "chosen": "Sure. a", "rejected": "b"}
    write_file(tmp_path / "rows.parquet", [pair, {**pair, "prefill": "Sure.", "harmful": True}])
    first, second = read_file(tmp_path / "rows.parquet").rows
    assert (first["prefill"], first["harmful"]) == (None, None)
    assert (second["prefill"], second["harmful"]) == ("Sure.", True)


@pytest.mark.parametrize("kind", [".csv", ".tsv"])
def test_a_table_of_text_keeps_messages_and_line_breaks(tmp_path: Path, kind: str) -> None:
    rows = [{"prompt": [{"role": "user", "content": ROWS[1]["prompt"]}], "chosen": "a, b\tc"}]
    write_file(tmp_path / f"rows{kind}", rows)
    assert read_file(tmp_path / f"rows{kind}").rows == rows


def test_torn_lines_are_set_aside_with_their_number_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n\n[1]\n{"a": NaN}\n{"a": "\\ud800"}\n{"a": 2}\n')
    reading = read_file(path)
    assert reading.rows == [{"a": 1}, {"a": 2}]
    assert [one.line for one in reading.notes.rejected] == [2, 4, 5, 6]
    assert (
        "4 lines of 6 set aside in rows.jsonl.rejected.jsonl; the first is line 2: not JSON"
        in (reading.notes.sentences(path)[0])
    )
    assert [row["text"] for row in read_rows(aside_of(path))][:2] == ['{"a": ', "[1]"]
    assert "lone surrogate" in reading.notes.rejected[3].reason


def test_a_file_that_was_mended_leaves_no_list_of_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": ')
    read_file(path)
    assert aside_of(path).exists()
    path.write_text('{"a": 1}\n')
    read_file(path)
    assert not aside_of(path).exists()


def test_a_file_without_a_good_line_is_refused_with_the_first_reason(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("nonsense\n")
    with pytest.raises(ValueError, match="holds no rows; line 1: not JSON"):
        read_file(path)
    assert len(read_rows(aside_of(path))) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_encodings_are_recognised(tmp_path: Path, encoding: str, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    text = "prompt\nOù est le café – ici\n" if kind == "csv" else '{"prompt": "Où est le café – ici"}\n'
    path.write_bytes(text.encode(encoding))
    reading = read_file(path)
    assert reading.rows == [{"prompt": "Où est le café – ici"}]
    assert bool(reading.notes.sentences(path)) == (not encoding.startswith("utf-8"))


def test_a_file_of_two_encodings_says_how_many_lines_are_in_the_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": "é"}\n'.encode() + '{"a": "é"}\n'.encode("cp1252"))
    reading = read_file(path)
    assert [row["a"] for row in reading.rows] == ["é", "é"]
    assert reading.notes.sentences(path) == [f"{path} is not all UTF-8: 1 line in windows-1252"]


def test_json_may_hold_an_array_an_object_around_one_or_lines(tmp_path: Path) -> None:
    for number, text in enumerate(('[{"a": 1}]', '{"rows": [{"a": 1}], "n": 1}', '{"a": 1}\n{"a": 2}\n', '{"a": 1}')):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        assert read_file(path).rows[0] == {"a": 1}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Weather?", "completion": "Sunny.", "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"prompt": "Weather?", "documents": [{"title": "t"}], "tools": [{"type": "function"}]},
        {"messages": [{"role": "user", "content": "Hi"}], "documents": [{"title": "t", "text": "x"}]},
    ],
)
def test_a_list_of_objects_beside_a_prompt_is_a_column_of_the_one_row(tmp_path: Path, row: dict) -> None:
    (tmp_path / "row.json").write_text(json.dumps(row))
    assert read_file(tmp_path / "row.json").rows == [row]


def test_compressed_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n'))
    assert read_file(path).rows == [{"a": 1}]


def test_a_row_of_a_table_with_too_many_cells_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n1,2,3\n\n4,5\n")
    reading = read_file(path)
    assert reading.rows == [{"a": "1", "b": "2"}, {"a": "4", "b": "5"}]
    assert reading.notes.rejected[0][:2] == (3, "3 cells under 2 columns")


def test_a_table_goes_on_behind_a_row_that_cannot_be_taken_apart(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('a,b\n1,2\n3,"4" 5\n"6\n6",7\n8\n')
    reading = read_file(tmp_path / "rows.csv")
    assert reading.rows == [{"a": "1", "b": "2"}, {"a": "6\n6", "b": "7"}]
    assert [(one.line, one.text) for one in reading.notes.rejected] == [(3, '3,"4" 5'), (6, "8")]


def test_all_that_an_unclosed_quote_swallows_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n1,2\n3,"4\n' + "5,6\n" * 3)
    reading = read_file(path)
    assert reading.rows == [{"a": "1", "b": "2"}]
    assert [(one.line, one.text) for one in reading.notes.rejected] == [(3, '3,"4'), (4, "5,6"), (5, "5,6"), (6, "5,6")]
    assert "4 lines of 5 set aside" in reading.notes.sentences(path)[0]
    assert "record that begins in line 3 (unexpected end of data)" in reading.notes.rejected[3].reason
    path.write_text('a,"b\n1,2\n')
    with pytest.raises(ValueError, match="has no header that can be read: line 1 is no row of a table"):
        read_file(path)


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_table_may_end_its_lines_in_any_way(tmp_path: Path, end: str, encoding: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(end.join(("a,b", "1,2", f'3,"4{end}5"', "", "6,7")).encode(encoding))
    notes = Notes()
    rows = [(notes.line, row) for row in stream_file(path, notes)]
    assert rows == [(2, {"a": "1", "b": "2"}), (3, {"a": "3", "b": f"4{end}5"}), (6, {"a": "6", "b": "7"})]


@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2]", '{"messages": 3}', '["role"]', "[" * 100_000, "[]", "{"])
def test_a_prompt_that_is_a_piece_of_code_stays_text_in_a_table(tmp_path: Path, text: str) -> None:
    write_file(tmp_path / "rows.csv", [{"prompt": text, "chosen": "a"}])
    assert read_file(tmp_path / "rows.csv").rows == [{"prompt": text, "chosen": "a"}]


class Searches:
    """A pattern that counts the characters that are searched with it."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self.pattern, self.characters = pattern, 0

    def search(self, text: str) -> re.Match[str] | None:
        self.characters += len(text)
        return self.pattern.search(text)


def test_the_text_of_a_json_array_is_searched_once_whatever_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, searches = tmp_path / "rows.json", Searches(files.SURROGATE)
    path.write_text(json.dumps([{"a": number} for number in range(100)]))
    monkeypatch.setattr(files, "SURROGATE", searches)
    assert len(read_file(path).rows) == 100
    assert searches.characters <= path.stat().st_size


def test_half_a_character_in_a_json_array_rejects_its_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"a": "\\ud83d\\ude00"}, {"a": "\\ud83d"}, {"a": "b"}]')
    reading = read_file(path)
    assert reading.rows == [{"a": "\U0001f600"}, {"a": "b"}]
    assert [line.line for line in reading.notes.rejected] == [2]


def test_a_column_that_stands_twice_among_many_is_named_in_little_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    columns = ",".join(f'"k{number}": 1' for number in range(16_000))
    path.write_text(f'{{"a": 1}}\n{{{columns}, "k15000": 2, "k7": 2}}\n')
    assert cpu_seconds(read_file, path) < 2  # 0.03 s; comparing each with all before took 12 s
    assert read_file(path).notes.rejected[0].reason == "not JSON (the column 'k15000' stands twice)"


@pytest.mark.parametrize("kind", [".jsonl", ".json"])
def test_a_row_that_is_nested_too_deeply_to_be_checked_is_rejected(tmp_path: Path, kind: str) -> None:
    """JSON is read some levels deeper than it is written, and half a character shows in writing alone."""
    path = tmp_path / f"rows{kind}"
    for depth in range(600, 1000):
        row = '{"a": "\\ud83d\\ude00", "b": ' + "[" * depth + "]" * depth + "}"
        path.write_text(f'{{"a": 1}}\n{row}\n' if kind == ".jsonl" else f'[{{"a": 1}}, {row}]')
        with suppress(ValueError):  # an array that cannot be read is refused whole
            reading = read_file(path)
            assert len(reading.rows) + len(reading.notes.rejected) == 2


def test_lines_of_two_bytes_a_letter_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": 1}\n{"a": 2}\n'.encode("utf-16"))
    assert read_file(path).notes.sentences(path) == [f"{path} is not all UTF-8: 2 lines in utf-16"]


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 5000)[:-20])
    with pytest.raises(ValueError, match=r"is a damaged \.gz file after \d+ rows"):
        read_file(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"is a damaged \.gz file after 0 rows"):
        read_file(path)


def test_times_in_parquet_become_text(tmp_path: Path) -> None:
    table = pa.table({"when": pa.array([datetime.date(2026, 11, 21)]), "a": [1]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert read_file(tmp_path / "rows.parquet").rows == [{"when": "2026-11-21", "a": 1}]


def test_times_inside_messages_of_parquet_become_text(tmp_path: Path) -> None:
    when = datetime.datetime(2026, 11, 21)
    row = {"prompt": [{"role": "user", "content": "Hi", "time": when}], "days": [when.date()], "a": {"b": {"c": when}}}
    parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    first = read_file(tmp_path / "rows.parquet").rows[0]
    assert first["prompt"] == [{"role": "user", "content": "Hi", "time": "2026-11-21 00:00:00.000000"}]
    assert (first["days"], first["a"]) == (["2026-11-21"], {"b": {"c": "2026-11-21 00:00:00.000000"}})


@pytest.mark.parametrize("value", [b"\x00\xff", [b"\x00"], {"bytes": b"\x00"}])
def test_bytes_in_parquet_are_refused_with_their_column(tmp_path: Path, value: object) -> None:
    parquet.write_table(pa.Table.from_pylist([{"prompt": "Hi", "image": value}]), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"rows\.parquet has bytes in the column 'image', expected text"):
        read_file(tmp_path / "rows.parquet")


def test_a_column_that_stands_twice_in_parquet_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], ["prompt", "prompt"]), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"rows\.parquet names a column twice: prompt, prompt"):
        read_file(tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    "values",
    [
        [{"type": "object", "properties": {}}],
        ["x", 1],
        [1, "x"],
        [[1], "x"],
        [2**70],
    ],
)
def test_what_parquet_cannot_hold_is_named_with_its_column(tmp_path: Path, values: list) -> None:
    path = tmp_path / "rows.parquet"
    with pytest.raises(ValueError, match=r"Parquet cannot hold the column 'id' \(.+\); write JSON lines \(\.jsonl\)"):
        write_file(path, [{"prompt": "Hi", "id": value} for value in values])
    assert not path.exists()


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_a_text_file_may_end_its_lines_in_any_way(tmp_path: Path, end: str) -> None:
    (tmp_path / "prompts.txt").write_bytes(end.join(("first", "", "second", "third", "")).encode())
    notes = Notes()
    rows = [(notes.line, row["text"]) for row in stream_file(tmp_path / "prompts.txt", notes)]
    assert rows == [(1, "first"), (3, "second"), (4, "third")]


def test_rows_stream_before_the_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps({'a': n})}\n" for n in range(10_000)) + "torn")
    notes = Notes()
    stream = stream_file(path, notes)
    assert next(stream) == {"a": 0}
    assert (notes.rows, notes.rejected) == (1, [])
    assert sum(1 for _ in stream) == 9_999
    assert len(notes.rejected) == 1


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rows.xlsx", b"", "ends in .xlsx; expected one of .jsonl, .ndjson"),
        ("rows.parquet", b"no parquet", "is no Parquet file"),
        ("rows.csv", b"a,a\n1,2\n", "names a column twice"),
        ("empty.jsonl", b"", "holds no rows$"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read_file(tmp_path / name)


def test_a_missing_file_and_a_missing_column_name_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"did you mean train\.jsonl"):
        read_file(tmp_path / "trian.jsonl")
    with pytest.raises(ValueError, match="x lacks the column 'rejected'; is it 'rejcted'"):
        check_columns(["prompt", "rejcted"], ["prompt", "rejected"], "x")


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_file(path, [{"a": 1}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_file(path, [{"a": 2}, {"a": float("nan")}])
    assert read_rows(path) == [{"a": 1}]
    assert list(tmp_path.iterdir()) == [path]
