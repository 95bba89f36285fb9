"""The client against a real HTTP server on the loopback that drops, delays, limits, truncates and answers with HTML."""

import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from divalign.data.examples import user_says
from divalign.lm.server import Server, generate_on_server
from divalign.safety.journal import Journal, cached_generate
from tests.lm import fake_server
from tests.lm.fake_server import Fake, Reply, answer, completion, drop, patient, raw, stall, status, truncate

fake = fake_server.fake
CONVERSATIONS = [user_says(f"question {number}") for number in range(8)]
ANSWERS = [f"answer to question {number}" for number in range(8)]


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


@pytest.mark.parametrize("trouble", PASSING.values(), ids=PASSING)
def test_trouble_that_passes_changes_no_response(fake: Fake, trouble: Reply) -> None:
    fake.script = {"question 2": [trouble], "question 5": [trouble, trouble]}
    timeout = 1.0 if trouble is stall else 30.0  # a machine that is slow for a moment is no trouble
    assert generate_on_server(patient(fake, timeout=timeout), CONVERSATIONS) == ANSWERS
    assert len(fake.asked) == 8 + 3


def test_trouble_that_stays_ends_with_an_error_and_what_came_is_kept(fake: Fake) -> None:
    fake.script = {"question 3": [status(503)] * 9}
    reported: dict[int, str] = {}
    with pytest.raises(ConnectionError, match="failed 3 times, last with: status 503"):
        generate_on_server(patient(fake, attempts=3), CONVERSATIONS, on_response=reported.__setitem__)
    assert {0, 1, 2} <= reported.keys()
    assert all(reported[index] == ANSWERS[index] for index in reported)


def test_after_an_interruption_only_what_is_missing_is_asked(fake: Fake, tmp_path: Path) -> None:
    fake.script = {"question 3": [status(503)] * 2}
    with Journal(tmp_path / "responses.jsonl") as journal:

        def write(conversations: Any, *, on_response: Any, **options: Any) -> list[str]:
            return generate_on_server(patient(fake, attempts=2), conversations, on_response=on_response, **options)

        generate = cached_generate(write, journal, made_from={"server": fake.url})
        with pytest.raises(ConnectionError):
            generate(CONVERSATIONS)
        finished, before = len(journal), len(fake.asked)
        assert generate(CONVERSATIONS) == ANSWERS
        assert len(fake.asked) - before == 8 - finished
        assert finished >= 3


@pytest.mark.parametrize(
    ("code", "advice"), [(400, "prompt length"), (401, "check the key"), (404, "ends in /v1"), (422, "prompt length")]
)
def test_a_rejected_request_is_not_repeated(fake: Fake, code: int, advice: str) -> None:
    fake.script = {"all": [status(code, b"no <b>such</b> thing " * 50)] * 9}
    with pytest.raises(ValueError, match=advice) as error:
        generate_on_server(patient(fake, concurrency=1), CONVERSATIONS)
    assert len(fake.asked) == (2 if code in (400, 422) else 1)  # an unknown rejection may be one prompt's own
    assert len(str(error.value)) < 500


def test_a_redirect_is_not_followed_so_the_key_stays_with_its_server(fake: Fake) -> None:
    fake.script = {"all": [status(302, b"", Location=f"{fake.url}/elsewhere")]}
    with pytest.raises(ValueError, match=r"redirects to .*/elsewhere.*: give the final url"):
        generate_on_server(patient(fake, api_key="k"), CONVERSATIONS[:1])
    assert len(fake.asked) == 1


def in_pieces(pieces: Callable[[], Iterable[tuple[bytes, float]]]) -> Reply:
    """Write raw pieces of a reply, each with the seconds before the next."""

    def reply(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> None:
        for piece, seconds in pieces():
            handler.wfile.write(piece)
            time.sleep(seconds)

    return reply


ENDLESS: dict[str, Reply] = {
    "says that it goes on": in_pieces(lambda: repeat((b"HTTP/1.1 102 Processing\r\n\r\n", 0.02))),
    "writes a header by letters": in_pieces(lambda: chain([(b"HTTP/1.1 200 OK\r\nX: ", 0)], repeat((b"a", 0.1)))),
    "writes its reply by letters": in_pieces(lambda: chain([(b"HTTP/1.1 200 OK\r\n\r\n", 0)], repeat((b" ", 0.1)))),
    "is silent": lambda _handler, _body: time.sleep(5.0),
}


@pytest.mark.parametrize("trouble", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("served", [0, 1], ids=["at once", "on a connection that has served"])
def test_a_reply_without_end_is_given_up_at_the_timeout(fake: Fake, trouble: Reply, served: int) -> None:
    addresses = []

    def well(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        handler.protocol_version, handler.close_connection = "HTTP/1.1", False
        answer()(handler, body)
        addresses.append(handler.client_address)

    def badly(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        addresses.append(handler.client_address)
        trouble(handler, body)

    fake.script = {"all": [*[well] * served, badly]}
    server, start = patient(fake, timeout=0.5, attempts=1, concurrency=1), time.monotonic()
    with pytest.raises(ConnectionError, match=r"no complete reply 0\.5 seconds after the request"):
        generate_on_server(server, CONVERSATIONS[: served + 1])
    assert len(addresses) == served + 1
    assert len(set(addresses)) == 1
    assert time.monotonic() - start < 3.0


def test_a_server_that_does_not_read_is_given_up_at_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def sip() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                while connection.recv(4096):
                    time.sleep(0.01)

        threading.Thread(target=sip, daemon=True).start()
        server = Server(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "m", timeout=0.5, attempts=1)
        start = time.monotonic()
        with pytest.raises(ConnectionError, match=r"no complete reply 0\.5 seconds after the request"):
            generate_on_server(server, [user_says("a" * 2**24)])
        assert time.monotonic() - start < 3.0


def test_nobody_listening_is_an_error_that_names_the_url() -> None:
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:9/v1 failed 2 times.*Connection refused"):
        generate_on_server(Server("http://127.0.0.1:9/v1", "tiny", attempts=2, first_pause=0.001), CONVERSATIONS[:1])


@pytest.mark.parametrize("url", ["localhost:8000/v1", "file:///etc/passwd", ""])
def test_a_url_of_another_kind_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match="expected something like http://localhost:8000/v1"):
        generate_on_server(Server(url, "tiny"), CONVERSATIONS[:1])


def pauses(fake: Fake, replies: list[Reply]) -> list[float]:
    fake.script = {"question 0": replies}
    seen: list[float] = []
    generate_on_server(patient(fake, first_pause=1.0), CONVERSATIONS[:1], pause=seen.append)
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
    assert generate_on_server(patient(fake, concurrency=3), CONVERSATIONS) == ANSWERS
    assert 2 <= fake.most_together <= 3


def test_what_is_asked_is_what_the_protocol_says(fake: Fake) -> None:
    conversation = user_says("question 0", prefill="Sure, here is")
    generate_on_server(
        patient(fake, api_key="k"), [conversation, CONVERSATIONS[1]], max_new_tokens=9, temperature=0.5, seeds=[4, 5]
    )
    opened, plain = sorted(fake.asked, key=lambda body: body["seed"])
    assert opened == {
        "model": "tiny",
        "messages": [*conversation.messages, {"role": "assistant", "content": "Sure, here is"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 4,
    }
    assert plain["messages"] == list(CONVERSATIONS[1].messages)
    assert plain.keys() == {"model", "messages", "max_tokens", "temperature", "seed"}
    assert set(fake.paths) == {"/v1/chat/completions"}
    assert {headers["Authorization"] for headers in fake.headers} == {"Bearer k"}


def test_a_message_without_text_is_the_refusal_or_empty(fake: Fake) -> None:
    fake.script = {
        "question 0": [answer(content=None)],
        "question 1": [answer(content=None, refusal="I can't help with that.")],
        "question 2": [answer(content="")],
    }
    assert generate_on_server(patient(fake), CONVERSATIONS[:3]) == ["", "I can't help with that.", ""]


def test_progress_counts_to_the_end(fake: Fake) -> None:
    seen: list[tuple[int, int]] = []
    generate_on_server(patient(fake), CONVERSATIONS, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 8) for done in range(1, 9)]


def test_no_conversations_ask_nothing(fake: Fake) -> None:
    assert generate_on_server(patient(fake), []) == []
    assert not fake.asked


def test_another_number_of_seeds_and_no_attempts_are_errors(fake: Fake) -> None:
    with pytest.raises(ValueError, match="got 1 seeds for 8 conversations"):
        generate_on_server(patient(fake), CONVERSATIONS, seeds=[1])
    with pytest.raises(ValueError, match="attempts=0"):
        generate_on_server(patient(fake, attempts=0), CONVERSATIONS[:1])
