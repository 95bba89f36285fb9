"""The key of a server comes from the environment and is nowhere afterwards: in no file, no log, no message."""

import json
import logging
import sys
from pathlib import Path

import pytest

from divalign.cli import main
from divalign.lm.server import Server
from divalign.store import write_json, write_rows
from tests.lm.fake_server import Fake, answer, fake, status

__all__ = ["fake"]  # a fixture
KEY = "sk-1f7e-a-key-that-must-not-be-seen"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIVALIGN_API_KEY", KEY)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["divalign", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def files_with_the_key(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_the_key_is_sent_and_stands_in_no_file_and_no_log(
    tmp_path: Path,
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    write_rows(tmp_path / "p.jsonl", [{"prompt": "about bridges"}, {"prompt": "about boats"}])
    fake.script["about boats"] = [answer(content=f"your key is {KEY}")]
    served, out = f"{fake.url}#m", str(tmp_path / "out")
    assert call(monkeypatch, "attack", served, "--prompts", str(tmp_path / "p.jsonl"), "--out", out) == 0
    fake.script["all"] = [answer(content=f"verdict: safe, {KEY}") for _ in range(2)]
    assert call(monkeypatch, "judge", out, "--judge", f"harm_rubric@{served}", "--show-completions") == 0
    assert {headers["Authorization"] for headers in fake.headers} == {f"Bearer {KEY}"}
    assert files_with_the_key(tmp_path) == []
    assert KEY not in caplog.text + "".join(capfd.readouterr())
    assert "your key is [api key]" in (tmp_path / "out" / "responses.jsonl").read_text()


@pytest.mark.parametrize(
    ("code", "headers"), [(401, {}), (400, {}), (302, {"Location": f"http://elsewhere/?key={KEY}"}), (503, {})]
)
def test_a_server_that_repeats_the_key_in_an_error_does_not_bring_it_to_the_terminal(
    tmp_path: Path,
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    code: int,
    headers: dict[str, str],
) -> None:
    from divalign.lm import connection

    monkeypatch.setattr(connection, "LONGEST_PAUSE", 0.0)
    write_rows(tmp_path / "p.jsonl", [{"prompt": "about bridges"}])
    error = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode()
    fake.script["all"] = [status(code, error, **headers) for _ in range(9)]
    arguments = ("--prompts", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out"))
    assert call(monkeypatch, "attack", f"{fake.url}#m", *arguments) in (1, 2)
    written = capfd.readouterr()
    assert "failed" in written.err or "rejected" in written.err
    assert KEY not in written.err + written.out
    assert files_with_the_key(tmp_path) == []


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{KEY}@host/v1",
        f"http://host/v1?api-key={KEY}",
        f"http://host/v1?sig={KEY}",
        f"http://h/?Token={KEY}",
    ],
)
def test_a_key_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="the server's url holds") as caught:
        Server(url, "m")
    assert KEY not in str(caught.value)


FILES = {"model.json": "source", "adapter_config.json": "base_model_name_or_path"}


@pytest.mark.parametrize("name", FILES)
def test_a_server_is_named_by_the_user_alone(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """A folder comes from anyone: with a server's address in it, prompts and key would go to a stranger."""
    kind = {"peft_type": "LORA"} if name == "adapter_config.json" else {}
    write_json(tmp_path / "given" / name, {FILES[name]: f"{fake.url}#m", **kind})
    write_rows(tmp_path / "p.jsonl", [{"prompt": "about bridges"}])
    arguments = ("--prompts", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out"))
    assert call(monkeypatch, "attack", str(tmp_path / "given"), *arguments) == 2
    assert f"{name} names the server" in capfd.readouterr().err.replace("\n", " ")
    assert fake.headers == []


def test_a_version_in_a_url_is_no_secret() -> None:
    assert Server("https://host/openai?api-version=2026-01-01", "m").endpoint.endswith("api-version=2026-01-01")


def test_the_key_of_a_server_is_in_no_repr_and_no_record() -> None:
    server = Server("http://host/v1", "m", api_key=KEY)
    assert KEY not in repr(server) + json.dumps(server.identity)
