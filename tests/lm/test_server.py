"""The client against a real HTTP server on the loopback that drops, delays, limits, truncates and answers with HTML."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from divalign.data.examples import user_says
from divalign.lm.server import Server, generate_on_server
from divalign.safety.journal import Journal, cached_generate

Reply = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]
TALKS = [user_says(f"question {number}") for number in range(8)]
ANSWERS = [f"answer to question {number}" for number in range(8)]


class Fake:
    """A server on a free port. `script` says how each question is answered, attempt by attempt; then well."""

    def __init__(self) -> None:
        self.script: dict[str, list[Reply]] = {}
        self.asked: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.paths: list[str] = []
        self.together = self.most_together = 0
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                fake._serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # a client that hung up is what some tests want

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        question = body["messages"][0]["content"]
        with self._lock:
            self.asked.append(body)
            self.headers.append(handler.headers)
            self.paths.append(handler.path)
            self.together += 1
            self.most_together = max(self.most_together, self.together)
            replies = self.script.get(question) or self.script.get("all") or []
            reply = replies.pop(0) if replies else answer()
        try:
            reply(handler, body)
        finally:
            with self._lock:
                self.together -= 1

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Fake()
    yield server
    server.close()


def send(
    handler: BaseHTTPRequestHandler, content: bytes, status: int = 200, length: int | None = None, **headers: str
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def completion(**message: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", **message}}]}).encode()


def answer(**message: Any) -> Reply:
    def reply(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        send(handler, completion(**(message or {"content": f"answer to {body['messages'][0]['content']}"})))

    return reply


def status(code: int, content: bytes = b'{"error": "busy"}', **headers: str) -> Reply:
    return lambda handler, _body: send(handler, content, code, **headers)


def raw(content: bytes) -> Reply:
    return lambda handler, _body: send(handler, content)


def drop(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> None:
    handler.connection.close()


def truncate(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> None:
    whole = completion(content="answer")
    send(handler, whole[: len(whole) // 2], length=len(whole))
    handler.connection.close()


def stall(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> None:
    time.sleep(0.6)
    drop(handler, _body)


PASSING: dict[str, Reply] = {
    "drops the connection": drop,
    "cuts the answer short": truncate,
    "stalls": stall,
    "limits the rate": status(429),
    "is overloaded": status(503, b"<html>Service Unavailable</html>"),
    "fails": status(500, b""),
    "answers with HTML": raw(b"<!doctype html><title>Welcome</title>"),
    "answers with half a JSON": raw(b'{"choices": [{"mess'),
    "answers with an error in a 200": raw(b'{"error": {"message": "oops"}}'),
    "answers with no choices": raw(b'{"choices": []}'),
    "answers with null": raw(b"null"),
    "answers with content in parts": raw(completion(content=[{"type": "text"}])),
}


def patient(fake: Fake, **changes: Any) -> Server:
    return Server(fake.url, "tiny", **{"timeout": 0.3, "first_pause": 0.001, "concurrency": 4, **changes})


@pytest.mark.parametrize("trouble", PASSING.values(), ids=PASSING)
def test_trouble_that_passes_changes_no_response(fake: Fake, trouble: Reply) -> None:
    fake.script = {"question 2": [trouble], "question 5": [trouble, trouble]}
    assert generate_on_server(patient(fake), TALKS) == ANSWERS
    assert len(fake.asked) == 8 + 3


def test_trouble_that_stays_ends_with_an_error_and_what_came_is_kept(fake: Fake) -> None:
    fake.script = {"question 3": [status(503)] * 9}
    kept: dict[int, str] = {}
    with pytest.raises(ConnectionError, match="failed 3 times, last with: status 503"):
        generate_on_server(patient(fake, attempts=3), TALKS, on_response=kept.__setitem__)
    assert {0, 1, 2} <= kept.keys()
    assert all(kept[index] == ANSWERS[index] for index in kept)


def test_after_an_interruption_only_what_is_missing_is_asked(fake: Fake, tmp_path: Path) -> None:
    fake.script = {"question 3": [status(503)] * 2}
    with Journal(tmp_path / "responses.jsonl") as journal:

        def write(conversations: Any, *, on_response: Any, **options: Any) -> list[str]:
            return generate_on_server(patient(fake, attempts=2), conversations, on_response=on_response, **options)

        generate = cached_generate(write, journal, made_from={"server": fake.url})
        with pytest.raises(ConnectionError):
            generate(TALKS)
        finished, before = len(journal), len(fake.asked)
        assert generate(TALKS) == ANSWERS
        assert len(fake.asked) - before == 8 - finished
        assert finished >= 3


@pytest.mark.parametrize(
    ("code", "advice"), [(400, "prompt length"), (401, "check the key"), (404, "ends in /v1"), (422, "prompt length")]
)
def test_a_rejected_request_is_not_repeated(fake: Fake, code: int, advice: str) -> None:
    fake.script = {"all": [status(code, b"no <b>such</b> thing " * 50)] * 9}
    with pytest.raises(ValueError, match=advice) as error:
        generate_on_server(patient(fake, concurrency=1), TALKS)
    assert len(fake.asked) == 1
    assert len(str(error.value)) < 500


def test_a_redirect_is_not_followed_so_the_key_stays_with_its_server(fake: Fake) -> None:
    fake.script = {"all": [status(302, b"", Location=f"{fake.url}/elsewhere")]}
    with pytest.raises(ValueError, match=r"redirects to .*/elsewhere.*: give the final url"):
        generate_on_server(patient(fake, api_key="k"), TALKS[:1])
    assert len(fake.asked) == 1


def test_nobody_listening_is_an_error_that_names_the_url() -> None:
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:9/v1 failed 2 times.*Connection refused"):
        generate_on_server(Server("http://127.0.0.1:9/v1", "tiny", attempts=2, first_pause=0.001), TALKS[:1])


@pytest.mark.parametrize("url", ["localhost:8000/v1", "file:///etc/passwd", ""])
def test_a_url_of_another_kind_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match="expected something like http://localhost:8000/v1"):
        generate_on_server(Server(url, "tiny"), TALKS[:1])


def pauses(fake: Fake, replies: list[Reply]) -> list[float]:
    fake.script = {"question 0": replies}
    seen: list[float] = []
    generate_on_server(patient(fake, first_pause=1.0), TALKS[:1], pause=seen.append)
    return seen


def test_pauses_double_and_vary(fake: Fake) -> None:
    seen = pauses(fake, [status(500)] * 5)
    assert all(2**number / 2 <= pause <= 2**number for number, pause in enumerate(seen))
    assert len(seen) == 5


def test_the_server_says_how_long_to_wait_and_a_minute_is_the_most(fake: Fake) -> None:
    soon = formatdate(time.time() + 30, usegmt=True)
    replies = [status(429, Retry_After=value) for value in ("7", "0", "9000", soon, "Never")]
    seven, none, long, date, unread = pauses(fake, replies)
    assert (seven, none, long) == (7.0, 0.0, 60.0)
    assert 20 < date <= 30
    assert 8 <= unread <= 16


def test_no_more_requests_run_together_than_allowed(fake: Fake) -> None:
    slow: Reply = lambda handler, body: (time.sleep(0.02), answer()(handler, body))[1]  # noqa: E731
    fake.script = {"all": [slow] * 8}
    assert generate_on_server(patient(fake, concurrency=3), TALKS) == ANSWERS
    assert 2 <= fake.most_together <= 3


def test_what_is_asked_is_what_the_protocol_says(fake: Fake) -> None:
    talk = user_says("question 0", prefill="Sure, here is")
    generate_on_server(patient(fake, api_key="k"), [talk, TALKS[1]], max_new_tokens=9, temperature=0.5, seeds=[4, 5])
    opened, plain = sorted(fake.asked, key=lambda body: body["seed"])
    assert opened == {
        "model": "tiny",
        "messages": [*talk.messages, {"role": "assistant", "content": "Sure, here is"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 4,
    }
    assert plain["messages"] == list(TALKS[1].messages)
    assert plain.keys() == {"model", "messages", "max_tokens", "temperature", "seed"}
    assert set(fake.paths) == {"/v1/chat/completions"}
    assert {headers["Authorization"] for headers in fake.headers} == {"Bearer k"}


def test_a_message_without_text_is_the_refusal_or_empty(fake: Fake) -> None:
    fake.script = {
        "question 0": [answer(content=None)],
        "question 1": [answer(content=None, refusal="I can't help with that.")],
        "question 2": [answer(content="")],
    }
    assert generate_on_server(patient(fake), TALKS[:3]) == ["", "I can't help with that.", ""]


def test_progress_counts_to_the_end(fake: Fake) -> None:
    seen: list[tuple[int, int]] = []
    generate_on_server(patient(fake), TALKS, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 8) for done in range(1, 9)]


def test_no_conversations_ask_nothing(fake: Fake) -> None:
    assert generate_on_server(patient(fake), []) == []
    assert not fake.asked


def test_another_number_of_seeds_and_no_attempts_are_errors(fake: Fake) -> None:
    with pytest.raises(ValueError, match="got 1 seeds for 8 conversations"):
        generate_on_server(patient(fake), TALKS, seeds=[1])
    with pytest.raises(ValueError, match="attempts=0"):
        generate_on_server(patient(fake, attempts=0), TALKS[:1])
