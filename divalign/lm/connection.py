"""One request to a server over HTTP: retries, Retry-After, refused parameters, and what an error means for its row."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from divalign.limits import REPLY, counted
from divalign.lm import chat_completions as protocol
from divalign.lm.api_key import without_key
from divalign.lm.deadline import deadline
from divalign.lm.endpoint import Server
from divalign.lm.responses import Response

# httpx2 and tenacity are imported where they are used: a run without a server does not pay for them.

logger = logging.getLogger(__name__)
LONGEST_PAUSE = 60.0  # seconds
UNUSABLE_ATTEMPTS = 3  # requests for a reply without choices or text, before that is recorded as the outcome


class RetryableError(Exception):
    """A failure that may pass, and how many seconds the server asks to wait."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class RejectedRequestError(ValueError):
    """A request that the server rejects for a reason unknown here: its own, or that of every request."""


class Connection(NamedTuple):
    """A client of one server. `refused` collects the request parameters that it does not take, for all requests."""

    server: Server
    client: Any
    pause: Callable[[float], None]
    refused: set[str]

    def request(self, body: dict[str, Any]) -> Response:
        """Return the response to one request, with retries."""
        import tenacity

        generator = random.Random(json.dumps(body, sort_keys=True))
        doubling = tenacity.wait_exponential(multiplier=self.server.first_pause, max=LONGEST_PAUSE)

        def seconds(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            retry_after = getattr(error, "pause", None)
            return (
                doubling(state) * generator.uniform(0.5, 1.0)
                if retry_after is None
                else min(LONGEST_PAUSE, retry_after)
            )

        def last(state: tenacity.RetryCallState) -> bool:
            unusable = isinstance(state.outcome and state.outcome.exception(), protocol.UnusableReplyError)
            limit = min(UNUSABLE_ATTEMPTS, self.server.attempts) if unusable else self.server.attempts
            return state.attempt_number >= limit

        retrying = tenacity.Retrying(
            stop=last,
            wait=seconds,
            sleep=self.pause,
            retry=tenacity.retry_if_exception_type((RetryableError, protocol.UnusableReplyError)),
            reraise=True,
        )
        try:
            return retrying(self.exchange, body)
        except protocol.UnusableReplyError as error:
            return error.response
        except RetryableError as error:
            raise ConnectionError(
                f"{self.server.address} failed {self.server.attempts} times, last with: {error}. Responses that came "
                "are kept; is the server up, and does it allow as many requests at a time?"
            ) from None

    def exchange(self, body: dict[str, Any]) -> Response:
        """Send a request once, and once more for each parameter that turns out to be refused."""
        while True:
            sent = set(self.refused)
            status, content, headers = self.send(protocol.without(body, sent))
            inner = protocol.error_in(content) if status == 200 else None
            if inner is not None:
                status, content = inner
            elif status == 200:
                try:
                    response = protocol.read_completion(content, max_tokens=body.get("max_tokens"))
                except protocol.NotACompletionError as error:
                    raise RetryableError(str(error)) from None
                dropped = tuple(sorted(name for name in sent if protocol.OPTIONAL[name] is None))
                text, reasoning = self.redact(response.text), self.redact(response.reasoning)
                return response._replace(text=text, reasoning=reasoning, dropped=dropped)
            outcome = self.outcome(status, content, headers)
            if outcome is not None:
                return outcome
            refused = protocol.refused_parameters(content) - sent
            if not refused:
                raise RejectedRequestError(self.sentence(status, content, "check the options"))
            if not refused <= self.refused:
                logger.warning("%s refuses the parameters %s", self.server.address, ", ".join(sorted(refused)))
            self.refused.update(refused)

    def send(self, body: dict[str, Any]) -> tuple[int, bytes, Any]:
        """Return the status, content and headers of one HTTP exchange.

        It may take `timeout` seconds from here to the end of the reply, however that trickles in.
        """
        import httpx2

        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.server.api_key:
            headers["Authorization"] = f"Bearer {self.server.api_key}"
        try:
            content = json.dumps(body).encode()
            with (
                deadline(self.server.timeout) as extensions,
                self.client.stream(
                    "POST", self.server.endpoint, content=content, headers=headers, extensions=extensions
                ) as reply,
            ):
                answer = b"".join(counted(reply.iter_bytes(), REPLY, self.server.address))
        except (TimeoutError, httpx2.ReadTimeout, httpx2.WriteTimeout):
            raise RetryableError(f"no complete reply {self.server.timeout:g} seconds after the request") from None
        except httpx2.LocalProtocolError:  # its text repeats the header that is at fault, and the key is one
            raise RetryableError("the request could not be written as HTTP") from None
        except httpx2.RequestError as error:  # refused, reset, timed out, cut short
            raise RetryableError(f"{type(error).__name__}: {self.redact(str(error))}") from None
        # Before anything is cut out of it, as a part of the key would not be recognized. Latin-1 keeps every byte.
        return reply.status_code, self.redact(answer.decode("latin-1")).encode("latin-1"), reply.headers

    def redact(self, text: str) -> str:
        """Return text without the key, should the server repeat it: replies are written down."""
        return without_key(text, self.server.api_key)

    def outcome(self, status: int, content: bytes, headers: Any) -> Response | None:
        """Return what an error means for this row, None for a refused parameter; raise where it is not the row's."""
        kind = protocol.classify(status, content)
        if kind == "parameter":
            return None
        if kind in ("blocked", "too_long"):
            return Response("", kind, error=self.reason(status, content))
        if kind == "retry":
            raise RetryableError(self.reason(status, content), _retry_after(headers.get("Retry-After")))
        advice = {
            401: "check the key",
            403: "check the key",
            404: "check the url, which ends in /v1, and the model's name",
        }.get(status, "check the prompt length against the model, and the options")
        if kind == "quota":
            advice = "the account's quota is used up; the responses so far are saved, so resume after a top-up"
        elif kind == "temperature":
            advice = "set the server's temperature to None to use its own, which is not greedy"
        elif 300 <= status < 400:
            target = self.redact(headers.get("Location") or "")
            advice = f"it redirects to {target!r}: give the final url"
        raise (RejectedRequestError if kind == "row" else ValueError)(self.sentence(status, content, advice))

    def sentence(self, status: int, content: bytes, advice: str) -> str:
        rejection = f"{self.server.address} rejected a request for {self.server.model}"
        return f"{rejection}: {self.reason(status, content)}; {advice}"

    def reason(self, status: int, content: bytes) -> str:
        return f"status {status}, {protocol.error_words(content)[:200]!r}"


def _retry_after(value: str | None) -> float | None:
    """Return the seconds a Retry-After header asks for: a number or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
