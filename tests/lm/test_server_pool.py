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
REJECTION = status(400, b'{"error": {"message": "template failed: undefined variable"}}')
TOO_LONG = status(400, b'{"error": {"message": "This model\'s maximum context length is 16 tokens"}}')


def slow_rejection(*request: Any) -> None:
    time.sleep(0.02)
    REJECTION(*request)


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


def test_a_server_that_rejects_what_the_other_answers_costs_no_row_and_is_named(pair: list[Fake], caplog: Any) -> None:
    pair[1].script = {"all": [slow_rejection] * 99}
    written = responses(pool(pair[0].url, pair[1].url))
    assert [response.text for response in written] == TEXTS
    assert f"{pair[1].url} declined 3 requests that other servers answered, and answered none" in caplog.text
    assert len(pair[1].asked) < 12  # it gets no more than what no other server can answer


def test_a_server_with_a_smaller_context_costs_no_row(pair: list[Fake]) -> None:
    pair[1].script = {f"question {number}": [TOO_LONG] for number in range(0, 24, 2)}
    written = responses(pool(pair[0].url, pair[1].url))
    assert [response.text for response in written] == TEXTS
    assert Counter(response.server for response in written)[pair[1].url] >= 1


def test_a_row_that_every_server_declines_is_recorded_with_the_server_that_said_why(pair: list[Fake]) -> None:
    for fake in pair:
        fake.script = {"question 3": [TOO_LONG], "question 9": [REJECTION]}
    pair[1].script["question 5"] = [TOO_LONG]
    pair[0].script["question 5"] = [REJECTION]  # the reason that is known is the better one
    written = responses(pool(pair[0].url, pair[1].url))
    assert {n: r.finish_reason for n, r in enumerate(written) if not r.answered} == {
        3: "too_long", 5: "too_long", 9: "unreadable",
    }  # fmt: skip
    assert written[5].server == pair[1].url
    assert {written[3].server, written[9].server} <= {fake.url for fake in pair}
    assert [sum(body["messages"][0]["content"] == "question 3" for body in fake.asked) for fake in pair] == [1, 1]


def test_servers_that_reject_everything_end_the_run_after_a_few_requests(pair: list[Fake]) -> None:
    for fake in pair:
        fake.script = {"all": [slow_rejection] * 99}
    with pytest.raises(ValueError, match="rejected a request for tiny: status 400"):
        responses(pool(pair[0].url, pair[1].url))
    assert sum(len(fake.asked) for fake in pair) < 12


def test_a_rejection_by_a_server_that_answers_nothing_is_no_outcome_when_the_other_goes_down(pair: list[Fake]) -> None:
    pair[0].script = {"all": [answer(), answer(), answer(), answer(), *[status(503)] * 99]}
    pair[1].script = {"all": [slow_rejection] * 99}
    reported: dict[int, Response] = {}
    with pytest.raises(ValueError, match=f"{pair[1].url} rejected a request"):
        responses(pool(*(fake.url for fake in pair)), on_response=reported.__setitem__)
    assert len(reported) == 4
    assert all(response.answered for response in reported.values())


def test_a_row_declined_by_one_server_while_the_other_is_down_is_recorded(pair: list[Fake]) -> None:
    pair[0].script = {"all": [status(503)] * 999}
    pair[1].script = {"question 0": [TOO_LONG]}
    written = responses(pool(pair[0].url, pair[1].url))
    assert [response.finish_reason for response in written] == ["too_long", *["stop"] * 23]


def test_a_server_that_rejects_faster_than_the_other_answers_does_not_get_every_request(pair: list[Fake]) -> None:
    def slow_answer(*request: Any) -> None:
        time.sleep(0.3)
        answer()(*request)

    pair[0].script, pair[1].script = {"all": [slow_answer] * 2}, {"all": [REJECTION] * 99}
    assert [response.text for response in responses(pool(pair[0].url, pair[1].url))] == TEXTS
    assert len(pair[1].asked) < 8


def test_a_blocked_prompt_is_an_outcome_and_goes_to_no_other_server(pair: list[Fake]) -> None:
    for fake in pair:
        fake.script = {"question 0": [status(400, b'{"error": {"code": "content_filter"}}')]}
    written = responses(pool(pair[0].url, pair[1].url))
    assert written[0].finish_reason == "blocked"
    assert sum(len(fake.asked) for fake in pair) == 24


def test_a_server_at_rest_is_tried_where_the_others_go_down(pair: list[Fake]) -> None:
    pair[0].script = {"all": [status(503)] * 99}
    assert {response.server for response in responses(pool(pair[0].url, pair[1].url))} == {pair[1].url}
    pair[0].script, pair[1].script = {}, {"all": [answer(), answer(), *[status(503)] * 999]}
    written = responses(pool(pair[0].url, pair[1].url))
    assert [response.text for response in written] == TEXTS
    assert Counter(response.server for response in written)[pair[0].url] == 22


def test_a_server_at_rest_gets_the_request_that_no_other_can_answer(pair: list[Fake]) -> None:
    pair[0].script = {"all": [status(503)] * 99}
    responses(pool(pair[0].url, pair[1].url))
    pair[0].script, pair[1].script = {}, {"question 23": [status(503)] * 9}
    pair[0].asked.clear()
    written = responses(pool(pair[0].url, pair[1].url, concurrency=4))
    assert [response.text for response in written] == TEXTS
    assert written[23].server == pair[0].url
    assert len(pair[0].asked) == 1


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
