"""The key of a server comes from the environment and is nowhere afterwards: in no file, no log, no message."""

import json
import logging
import re
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from divalign.cli import main
from divalign.data.examples import user_says
from divalign.lm import connection, dispatch
from divalign.lm.connection import Connection
from divalign.lm.responses import Response
from divalign.lm.server import Server, generate_responses_on_server
from divalign.store import write_json, write_rows
from tests.lm.fake_server import Fake, answer, fake, patient, status

__all__ = ["fake"]  # a fixture
KEY = "sk-1f7e-a-key-that-must-not-be-seen"
SLASHED = "sk-1f7e/a+key=that&must-not-be-seen"
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in JSON as PHP writes it": lambda key: key.replace("/", "\\/"),
    "in JSON within JSON": lambda key: key.replace("/", r"\\\/"),
    "in escapes of JSON": lambda key: "".join(f"\\u{ord(letter):04x}" for letter in key),
    "in escapes of JSON, in part and capitals": lambda key: key.replace("/", "\\u002F"),
    "in escapes of JSON within JSON": lambda key: "".join(f"\\\\u{ord(letter):04x}" for letter in key),
    "in escapes of a URL": lambda key: key.replace("/", "%2F").replace("=", "%3d"),
    "in escapes of HTML": lambda key: key.replace("&", "&amp;").replace("/", "&#x2F;").replace("+", "&#43;"),
}


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


def plain(text: str) -> str:
    """Return text without the escapes of JSON, URLs and HTML."""
    letters = re.sub(r"u00([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), text.replace("\\", ""))
    return unescape(unquote(letters))


REPLIES: dict[str, tuple[int, str]] = {
    "a response": (200, '{"choices": [{"message": {"content": "your key is KEY", "reasoning": "KEY"}}]}'),
    "no choices": (200, '{"choices": [], "prompt_feedback": {"a": "%s KEY"}}' % ("a" * 170)),
    "an unauthorized request": (401, '{"error": {"message": "Incorrect API key KEY"}}'),
    "a blocked prompt": (400, '{"error": {"message": "%s KEY blocked by content_filter"}}' % ("a" * 190)),
    "half a JSON": (200, '{"choices": [{"message": {"content": "your key KEY'),
    "HTML": (503, "<html>no such key: KEY"),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_a_key_is_crossed_out_however_the_server_spells_it(
    fake: Fake, caplog: pytest.LogCaptureFixture, reply: tuple[int, str], spelling: Callable[[str], str]
) -> None:
    caplog.set_level(logging.DEBUG)
    code, text = reply
    fake.script["all"] = [status(code, text.replace("KEY", spelling(SLASHED)).encode())] * 9
    server = patient(fake, api_key=SLASHED, attempts=1)
    try:
        written = str(generate_responses_on_server(server, [user_says("?")])[0])
    except (ValueError, ConnectionError) as error:
        written = str(error)
    assert "[ap" in written or len(text) > 190  # that end is cut off
    assert "1f7e" not in plain(written + caplog.text)


def test_a_key_that_is_whole_only_after_its_parts_are_joined_is_crossed_out(fake: Fake) -> None:
    parts = [{"type": "text", "text": text} for text in ("your key is ", SLASHED[:9], SLASHED[9:])]
    fake.script["all"] = [answer(content=parts)]
    response = generate_responses_on_server(patient(fake, api_key=SLASHED), [user_says("?")])[0]
    assert response.text == "your key is [api key]"


def test_a_key_from_a_file_is_sent_without_the_line_feed_at_its_end(fake: Fake) -> None:
    generate_responses_on_server(patient(fake, api_key=f" {KEY}\r\n"), [user_says("?")])
    assert fake.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert Server(fake.url, "m", api_key=" \n").api_key is None


@pytest.mark.parametrize(("part", "name"), [("\n", r"U\+000A"), ("\0", r"U\+0000"), ("\u2019", r"U\+2019")])
def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(part: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"the server's key holds {name} at character 6; .* printable ASCII") as caught:
        Server("http://host/v1", "m", api_key=f"sk-1f{part}7e-secret")
    assert "sk-1f" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_error_of_the_http_library_is_not_repeated_with_the_header_it_names(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx2

    def fail(*_: object, **__: object) -> None:
        raise httpx2.LocalProtocolError(f"Illegal header value b'Bearer {KEY[:-1]}'")

    monkeypatch.setattr(httpx2.Client, "stream", fail)
    with pytest.raises(ConnectionError, match="the request could not be written") as caught:
        generate_responses_on_server(patient(fake, api_key=KEY, attempts=1), [user_says("?")])
    assert "1f7e" not in str(caught.value)


def test_a_status_line_that_repeats_the_key_is_not_shown(fake: Fake) -> None:
    def reply(handler: Any, _body: Any) -> None:
        handler.wfile.write(f"HTTP/1.1 {SLASHED}\r\n\r\n".encode())

    fake.script["all"] = [reply]
    with pytest.raises(ConnectionError, match="RemoteProtocolError") as caught:
        generate_responses_on_server(patient(fake, api_key=SLASHED, attempts=1), [user_says("?")])
    assert "1f7e" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{KEY}@host/v1",
        f"http://host/v1?api-key={KEY}",
        f"http://host/v1?sig={KEY}",
        f"http://h/?Token={KEY}",
        *(f"http://host/v1?{name}={KEY}" for name in ("pwd", "pass", "code", "sas", "session", "x-sig", "a", "")),
        f"http://host/v1?{KEY}",
        f"http://host/v1?api-version=2026-01-01;pwd={KEY}",
        f"http://host/v1?api-version=2026-01-01&pwd={KEY}",
        f"http://host/v1#{KEY}",
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


@pytest.mark.parametrize(
    "query", ["api-version=2026-01-01", "API-Version=1&alt=json&beta=true", "api%2Dversion=1", "&"]
)
def test_a_version_in_a_url_is_no_secret(query: str) -> None:
    assert Server(f"https://host/openai?{query}", "m").endpoint.endswith(f"/chat/completions?{query}")


@pytest.mark.parametrize(
    ("url", "key", "warned"),
    [
        ("http://gpu-box:8000/v1", KEY, True),
        ("http://10.0.0.1:8000/v1", KEY, True),
        ("http://localhost.example/v1", KEY, True),
        ("https://gpu-box/v1", KEY, False),
        ("http://localhost:8000/v1", KEY, False),
        ("http://127.8.0.1:8000/v1", KEY, False),
        ("http://[::1]:8000/v1", KEY, False),
        ("http://gpu-box:8000/v1", "EMPTY", False),
        ("http://gpu-box:8000/v1", None, False),
    ],
)
def test_a_key_that_travels_unencrypted_is_warned_of_once(
    url: str, key: str | None, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Connection, "request", lambda *_: Response("yes"))
    dispatch.warn_of_plain_http.cache_clear()
    for _ in range(2):
        generate_responses_on_server(Server(url, "m", api_key=key), [user_says("?")])
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    assert KEY not in caplog.text
    assert not warned or "travels unencrypted" in caplog.text


def test_the_key_of_a_server_is_in_no_repr_and_no_record() -> None:
    server = Server("http://host/v1", "m", api_key=KEY)
    assert KEY not in repr(server) + json.dumps(server.identity)
