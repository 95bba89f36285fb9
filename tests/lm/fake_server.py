"""A real HTTP server on the loopback that answers as scripted: for tests of the client."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from divalign.lm.server import Server

Reply = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


class Fake:
    """A server on a free port. `script` says how each question is answered, attempt by attempt; then well."""

    def __init__(self) -> None:
        self.script: dict[str, list[Reply]] = {}
        self.asked: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.paths: list[str] = []
        self.most_together = 0
        self._unanswered: set[BaseHTTPRequestHandler] = set()
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                fake._serve(self)

            def end_headers(self) -> None:
                fake._answered(self)  # before the client can see the answer and send the next request
                super().end_headers()

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
            self._unanswered.add(handler)
            self.most_together = max(self.most_together, len(self._unanswered))
            replies = self.script.get(question) or self.script.get("all") or []
            reply = replies.pop(0) if replies else answer()
        try:
            reply(handler, body)
        finally:
            self._answered(handler)

    def _answered(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self._unanswered.discard(handler)

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
    time.sleep(1.5)
    drop(handler, _body)


def patient(fake: Fake, **changes: Any) -> Server:
    return Server(fake.url, "tiny", **{"timeout": 30.0, "first_pause": 0.001, "concurrency": 4, **changes})
