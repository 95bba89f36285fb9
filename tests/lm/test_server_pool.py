"""One model on several servers: shared requests, failover, adapters by name, options."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from divalign.data.examples import user_says
from divalign.lm import dispatch
from divalign.lm.connection import Connection
from divalign.lm.responses import Response
from divalign.lm.server import Server, ServerOptions, generate_responses_on_server
from tests.lm.fake_server import Fake, answer, status

CONVERSATIONS = [user_says(f"question {number}") for number in range(24)]
TEXTS = [f"answer to question {number}" for number in range(24)]
# A server of its own process, so that it can be killed: it names itself in the response and answers slowly.
PROCESS = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(0.02)
        message = {"role": "assistant", "content": f"answer to {body['messages'][0]['content']}"}
        content = json.dumps({"choices": [{"message": message}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Fake]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(dispatch, "_went_down", {})
    servers = [Fake(), Fake()]
    yield servers
    for server in servers:
        server.close()


@pytest.fixture
def start() -> Iterator[Callable[[], tuple[str, subprocess.Popen[bytes]]]]:
    processes = []

    def started() -> tuple[str, subprocess.Popen[bytes]]:
        process = subprocess.Popen([sys.executable, "-c", PROCESS], stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout is not None
        return f"http://127.0.0.1:{int(process.stdout.readline())}/v1", process

    yield started
    for process in processes:
        process.kill()
        process.wait()


def pool(*urls: str, **changes: Any) -> Server:
    first, *others = urls
    options = {"timeout": 10.0, "first_pause": 0.001, "concurrency": 2, "attempts": 2, **changes}
    return Server(first, "tiny", replicas=tuple(others), **options)


def responses(server: Server, **options: Any) -> list[Response]:
    return generate_responses_on_server(server, CONVERSATIONS, pause=lambda seconds: None, **options)


def test_requests_are_shared_and_each_response_names_its_server(pair: list[Fake]) -> None:
    written = responses(pool(pair[0].url, pair[1].url))
    assert [response.text for response in written] == TEXTS
    assert {response.server for response in written} == {fake.url for fake in pair}
    assert [len(fake.asked) for fake in pair] == [Counter(r.server for r in written)[fake.url] for fake in pair]
    assert all(fake.most_together <= 2 for fake in pair)  # concurrency is each server's
    assert Response.from_record(written[0].to_record()) == written[0]


def test_a_single_server_is_not_named(pair: list[Fake]) -> None:
    assert {response.server for response in responses(pool(pair[0].url))} == {""}


def test_a_server_killed_in_mid_run_loses_no_row(
    start: Callable[[], tuple[str, subprocess.Popen[bytes]]], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(dispatch, "_went_down", {})
    (survivor, _), (victim, process) = start(), start()
    reported: list[int] = []

    def kill_after_six(index: int, response: Response) -> None:
        reported.append(index)
        if len(reported) == 6:
            process.kill()
            process.wait()

    written = responses(pool(victim, survivor), on_response=kill_after_six)
    assert [response.text for response in written] == TEXTS
    assert sorted(reported) == list(range(24))
    by_server = Counter(response.server for response in written)
    assert by_server[victim] >= 1
    assert by_server[survivor] >= 12
    assert f"{victim} answers no more" in caplog.text

    again = responses(pool(victim, survivor))  # left alone for a while, in later calls too
    assert {response.server for response in again} == {survivor}


def test_servers_that_are_all_down_end_the_run_with_what_came(pair: list[Fake]) -> None:
    for fake in pair:
        fake.script = {"all": [answer(), answer(), *[status(503)] * 99]}
    reported: dict[int, Response] = {}
    with pytest.raises(ConnectionError, match="failed 2 times, last with: status 503"):
        responses(pool(*(fake.url for fake in pair)), on_response=reported.__setitem__)
    assert len(reported) == 4
    for fake in pair:
        fake.script = {}
    assert [response.text for response in responses(pool(*(fake.url for fake in pair)))] == TEXTS  # all are tried again


def test_a_row_that_one_server_cannot_answer_moves_and_the_server_stays(pair: list[Fake]) -> None:
    pair[0].script = {"question 0": [status(503)] * 9}
    written = responses(pool(pair[0].url, pair[1].url, concurrency=4, attempts=6))
    assert [response.text for response in written] == TEXTS
    assert written[0].server == pair[1].url


def test_a_server_that_lacks_the_model_is_an_error_and_no_outage(pair: list[Fake]) -> None:
    pair[1].script = {"all": [status(404, b'{"error": "no such model"}')] * 99}
    with pytest.raises(ValueError, match=f"{pair[1].url} rejected a request for tiny.*the model's name"):
        responses(pool(pair[0].url, pair[1].url))


def test_replicas_are_no_part_of_the_identity_and_a_bad_address_is_refused() -> None:
    assert pool("http://a:1/v1", "http://b:1/v1").identity == pool("http://a:1/v1").identity
    with pytest.raises(ValueError, match="the server's url is 'b:8000/v1'"):
        pool("http://a:1/v1", "b:8000/v1")
    with pytest.raises(ValueError, match="named twice"):
        pool("http://a:1/v1", "http://a:1/v1")


def test_options_of_the_transport_change_no_response() -> None:
    options = ServerOptions(system_prompt="Be brief.", temperature=None, concurrency=3)
    assert options.of_transport() == ServerOptions(concurrency=3)
    with pytest.raises(ValueError, match="temperature=-1"):
        ServerOptions(temperature=-1.0)


def test_a_request_that_waits_for_a_server_which_goes_down_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first server drops one request and answers the others; the second goes down with what it has."""
    dropped: list[str] = []

    def request(connection: Connection, body: dict[str, Any]) -> Response:
        text, first = body["messages"][-1]["content"], "//a" in connection.server.url
        time.sleep(0.02 if first else 0.2)
        if not first:
            raise ConnectionError("it is down")
        if text == "q0" and not dropped:
            dropped.append(text)
            time.sleep(0.1)
            raise ConnectionError("it dropped q0")
        return Response(f"answer to {text}")

    monkeypatch.setattr(Connection, "request", request)
    server = Server("http://a:1/v1", "m", replicas=("http://b:1/v1",), concurrency=2)
    responses = generate_responses_on_server(server, [user_says(f"q{number}") for number in range(6)])
    assert [response.text for response in responses] == [f"answer to q{number}" for number in range(6)]
