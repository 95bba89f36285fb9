import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divalign.data.examples import Conversation, user_says
from divalign.safety.journal import Journal, cached_generate

plain = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), st.lists, max_leaves=4)


def filled(path: Path, count: int = 5) -> bytes:
    with Journal(path) as journal:
        for number in range(count):
            journal.add(f"k{number}", {"text": f"v{number}\n\u2028"})
    return path.read_bytes()


@given(st.dictionaries(st.text(max_size=5), plain, max_size=5))
@settings(derandomize=True, max_examples=15, deadline=None)
def test_what_was_added_is_there_when_opened_again(content: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deeper" / "journal.jsonl"
        with Journal(path) as journal:
            for key, value in content.items():
                journal.add(key, value)
        with Journal(path) as again:
            assert {key: again[key] for key in content} == content
            assert len(again) == len(content)
            assert again.damaged == 0


def test_a_file_cut_at_any_byte_keeps_every_whole_line_and_takes_new_ones(tmp_path: Path) -> None:
    content = filled(tmp_path / "whole.jsonl")
    path = tmp_path / "cut.jsonl"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with Journal(path) as journal:
            # A line that lacks nothing but its newline is whole.
            whole = content[: length + 1].count(b"\n")
            assert sorted(f"k{n}" for n in range(5) if f"k{n}" in journal) == [f"k{n}" for n in range(whole)]
            journal.add("new", 1)
        with Journal(path) as again:
            assert again["new"] == 1
            assert len(again) == whole + 1


@pytest.mark.parametrize("change", [b"v3->v9", b"null", b"[]", b"{}", b'"text"', b"\xff\xfe", b'{"key": 1}'])
def test_an_edited_line_is_as_good_as_absent_and_is_counted(tmp_path: Path, change: bytes) -> None:
    path = tmp_path / "edited.jsonl"
    lines = filled(path).split(b"\n")
    lines[3] = lines[3].replace(b"v3", b"v9") if b"->" in change else change
    path.write_bytes(b"\n".join(lines))
    with Journal(path) as journal:
        assert "k3" not in journal
        assert len(journal) == 4
        assert journal.damaged == 1


def writer(asked: list[str]) -> Callable[..., list[str]]:
    """A model that repeats the prompt, and notes what it was asked."""

    def write(
        conversations: Sequence[Conversation], *, on_response: Callable[[int, str], None], seeds: Sequence[int] = ()
    ) -> list[str]:
        texts = [conversation.messages[-1]["content"] for conversation in conversations]
        for index in reversed(range(len(texts))):  # responses end in any order
            asked.append(texts[index])
            on_response(index, texts[index] + (f" {seeds[index]}" if seeds else ""))
        return texts

    return write


def test_only_what_is_missing_is_written_and_the_order_stays(tmp_path: Path) -> None:
    asked: list[str] = []
    with Journal(tmp_path / "responses.jsonl") as journal:
        generate = cached_generate(writer(asked), journal, made_from={"model": "m"})
        assert generate([user_says("a"), user_says("b"), user_says("a")]) == ["a", "b", "a"]
        assert sorted(asked) == ["a", "b"]
        assert generate([user_says("c"), user_says("b")]) == ["c", "b"]
        assert sorted(asked) == ["a", "b", "c"]


def test_another_model_prefill_or_seed_is_other_work(tmp_path: Path) -> None:
    asked: list[str] = []
    with Journal(tmp_path / "responses.jsonl") as journal:
        for name in ("m", "n"):
            generate = cached_generate(writer(asked), journal, made_from={"model": name})
            generate([user_says("a")])
            generate([user_says("a", prefill="Sure")])
            assert generate([user_says("a"), user_says("a")], seeds=[1, 2]) == ["a 1", "a 2"]
            generate([user_says("a")], seeds=[1])
    assert len(asked) == 2 * 4


def test_a_writer_that_reports_nothing_is_an_error(tmp_path: Path) -> None:
    with Journal(tmp_path / "responses.jsonl") as journal:
        generate = cached_generate(lambda talks, *, on_response, **_: ["" for _ in talks], journal, made_from=None)
        with pytest.raises(ValueError, match="no response to 1 conversations"):
            generate([user_says("a")])


RUN = """
import sys, time
from pathlib import Path
from divalign.data.examples import user_says
from divalign.safety.attacks import SINGLE_SHOTS
from divalign.safety.evaluate import attack_prompts, judge_rows
from divalign.safety.journal import Journal, cached_generate
from divalign.safety.judges import JUDGES
from divalign.store import write_rows

folder = Path(sys.argv[1])

def write(conversations, *, on_response):
    for index, conversation in enumerate(conversations):
        time.sleep(0.002)
        with (folder / "count").open("a") as file:
            file.write(".")
        on_response(index, f"answer to {conversation.messages[-1]['content'] * 30}")

prompts = [{"id": str(number), "prompt": f"question {number}", "harmful": True} for number in range(60)]
with Journal(folder / "responses.jsonl") as journal:
    rows = attack_prompts(cached_generate(write, journal, made_from="m"), {"direct": SINGLE_SHOTS["direct"]}, prompts)
write_rows(folder / "verdicts.jsonl", judge_rows(JUDGES["refusal_strings"], rows))
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, "-c", RUN, str(folder)])


def test_a_run_killed_at_several_moments_ends_with_the_same_bytes_and_repeats_almost_nothing(tmp_path: Path) -> None:
    assert start(tmp_path / "calm").wait() == 0
    killed = tmp_path / "killed"
    for moment in range(3):
        process = start(killed)
        wanted = 12 * moment + 3
        deadline = time.monotonic() + 60
        count = killed / "count"
        while time.monotonic() < deadline and not (count.is_file() and count.stat().st_size >= wanted):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (killed / "verdicts.jsonl").exists()
    assert start(killed).wait() == 0
    assert (killed / "verdicts.jsonl").read_bytes() == (tmp_path / "calm" / "verdicts.jsonl").read_bytes()
    assert 60 <= (killed / "count").stat().st_size <= 63
    assert all(json.loads(line) for line in (killed / "responses.jsonl").read_text().splitlines())


def test_a_write_that_a_full_disk_cuts_short_is_an_error_and_not_a_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, inner = [10], os.write

    def write(file: int, content: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = inner(file, content[: room[0]])
        room[0] -= written
        return written

    with Journal(tmp_path / "journal") as journal:
        journal.add("a", 1)
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(OSError, match="No space left"):
            journal.add("b", 2)
        assert "b" not in journal
    monkeypatch.setattr(os, "write", inner)
    with Journal(tmp_path / "journal") as journal:
        assert (journal["a"], journal.damaged, "b" in journal) == (1, 1, False)
        journal.add("b", 2)
    with Journal(tmp_path / "journal") as journal:
        assert (journal["a"], journal["b"]) == (1, 2)
