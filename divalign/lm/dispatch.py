"""Many requests over the servers of one model: a shared queue, and failover when a server stops answering.

Each request goes to the server with the fewest requests under way. A request that has failed on a server, retries
included, or that a server rejects or finds too long, goes to another that it has not tried. A server that has answered
nothing since a request was sent that failed is down: it gets no more requests in this call, and for `REST` seconds
after it none but those that have no other server left.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from divalign.lm.connection import Connection, RejectedRequestError
from divalign.lm.endpoint import Server
from divalign.lm.responses import Response

logger = logging.getLogger(__name__)
REST = 300.0  # seconds for which a server that went down is left alone
SEVERAL = 3  # requests that a server declines without answering any, before it is left alone
# What another server of the model may answer. "blocked" is not among them: to ask until a server without that content
# filter answers would measure the least filtered one.
DECLINED = ("too_long", "unreadable")
_went_down: dict[str, float] = {}  # by endpoint: when, for later calls of this process


@dataclass
class _Replica:
    """One server, the requests under way at it, and what it has replied.

    `rejections` are those of an unknown kind, `replies` all other responses, `answers` those with a text; `overruled`
    counts requests that it declined and another server answered. A `resting` server gets none but the requests that
    have no other server left.
    """

    connection: Connection
    resting: bool = False
    running: int = 0
    rejections: int = 0
    replies: int = 0
    answers: int = 0
    overruled: int = 0
    down: bool = False

    @property
    def server(self) -> Server:
        return self.connection.server


class _Sent(NamedTuple):
    """A request under way: its number, its server, that server's replies until then, and the endpoints it has tried."""

    number: int
    replica: _Replica
    replies: int
    excluded: frozenset[str]


class _Declined(NamedTuple):
    """What a server said of a request that it declined; the error where the reason is unknown."""

    replica: _Replica
    response: Response
    error: RejectedRequestError | None


@dataclass
class _Queue:
    """What is still to be sent, and what became of the rest; if `named`, responses tell their server.

    Requests wait by the endpoints that they have tried, which are excluded. `rejected` are those that nobody answers
    and that are no outcome yet, as the servers that rejected them have not replied to any other.
    """

    replicas: list[_Replica]
    waiting: dict[frozenset[str], deque[int]]
    add: Callable[[int, Response], None]
    named: bool
    declined: dict[int, list[_Declined]] = field(default_factory=lambda: defaultdict(list))
    rejected: dict[int, RejectedRequestError] = field(default_factory=dict)
    failure: BaseException | None = None
    last: BaseException | None = None

    def take(self) -> _Sent | None:
        """Return the next request with the server to send it to; None where nothing is to be sent now.

        After a failure that stays, and after a second rejection by servers without a reply, only the requests under
        way can still save the run.
        """
        if self.failure or len(self.rejected) > 1:
            return None
        pending = [endpoints for endpoints, numbers in self.waiting.items() if numbers]
        for excluded in sorted(pending, key=len, reverse=True):
            left = self._left(excluded)
            awake = [replica for replica in left if not replica.resting] or left
            free = [replica for replica in awake if replica.running < replica.server.concurrency]
            if free:
                replica = min(free, key=lambda replica: replica.running)
                replica.running += 1
                return _Sent(self.waiting[excluded].popleft(), replica, replica.replies, excluded)
        return None

    def _left(self, excluded: frozenset[str]) -> list[_Replica]:
        return [replica for replica in self.replicas if not replica.down and replica.server.endpoint not in excluded]

    def revive(self) -> bool:
        """Let requests try again what is left of the servers, where nothing runs and all of them have failed on it.

        They waited for a server that has gone down meanwhile. Returns False where there is nothing to try.
        """
        if self.failure or len(self.rejected) > 1:
            return False
        numbers = [number for waiting in self.waiting.values() for number in waiting]
        again = deque(number for number in numbers if number not in self.declined)
        self.waiting = {frozenset(): again}
        for number in self.declined.keys() & {*numbers}:
            self._conclude(number)
        if again and all(replica.down for replica in self.replicas):
            self.failure = self.last
        return bool(again) and self.failure is None and len(self.rejected) < 2

    def settle(self, sent: _Sent, future: Future[Response]) -> None:
        """Record the outcome of a request, or let it wait for another server.

        A rejection of an unknown kind is recorded as one row's outcome once its server has replied to another request,
        since the settings are then right.
        """
        sent.replica.running -= 1
        error = future.exception()
        if isinstance(error, RejectedRequestError):
            self._decline(sent, Response("", "unreadable", error=str(error)), error)
        elif isinstance(error, ConnectionError):
            self._move(sent, error)
        elif error is not None:
            self.failure = self.failure or error
        else:
            self._reply(sent, future.result())
        for number in list(self.rejected):
            self._conclude(number)

    def _reply(self, sent: _Sent, response: Response) -> None:
        replica = sent.replica
        replica.replies += 1
        _went_down.pop(replica.server.endpoint, None)
        if response.finish_reason in DECLINED:
            self._decline(sent, response)
            return
        replica.resting = False
        self._record(sent.number, replica, response)
        declined = self.declined.pop(sent.number, [])
        if response.answered:
            replica.answers += 1
            for other in declined:
                _overrule(other)

    def _record(self, number: int, replica: _Replica, response: Response) -> None:
        self.add(number, response._replace(server=replica.server.address) if self.named else response)

    def _decline(self, sent: _Sent, response: Response, error: RejectedRequestError | None = None) -> None:
        """Send a request that a server declines to another; without one what the servers said is its outcome."""
        replica = sent.replica
        replica.rejections += error is not None
        replica.resting |= replica.rejections >= SEVERAL and not replica.replies
        self.declined[sent.number].append(_Declined(replica, response, error))
        if not self._wait_for_another(sent):
            self._conclude(sent.number)

    def _conclude(self, number: int) -> None:
        """Record what the servers said of a request that no server answers, a reason that is known before others."""
        for replica, response, error in sorted(self.declined[number], key=lambda declined: declined.error is not None):
            if error is None or replica.replies:
                self.rejected.pop(number, None)
                del self.declined[number]
                self._record(number, replica, response)
                return
            self.rejected.setdefault(number, error)

    def _move(self, sent: _Sent, error: ConnectionError) -> None:
        """Send a request that has failed for good to another server; without one the failure is the run's."""
        replica, address, self.last = sent.replica, sent.replica.server.address, error
        if replica.replies == sent.replies and not replica.down:
            replica.down = True
            _went_down[replica.server.endpoint] = time.monotonic()
            logger.warning("%s answers no more; its requests go to the other servers: %s", address, error)
        if self._wait_for_another(sent):
            return
        if sent.number in self.declined:
            self._conclude(sent.number)
        else:
            self.failure = self.failure or error

    def _wait_for_another(self, sent: _Sent) -> bool:
        """Let a request wait for a server that it has not tried. Returns False where there is none."""
        excluded = sent.excluded | {sent.replica.server.endpoint}
        if not self._left(excluded):
            return False
        self.waiting.setdefault(excluded, deque()).append(sent.number)
        return True


def _overrule(declined: _Declined) -> None:
    """Count a request that a server declined and another answered; leave alone a server that answers none."""
    replica = declined.replica
    replica.overruled += 1
    if replica.overruled == SEVERAL and not replica.answers:
        replica.resting = True
        logger.warning(
            "%s declined %d requests that other servers answered, and answered none; it now gets only requests that no "
            "other server answers, so check its settings: %s", replica.server.address, SEVERAL, declined.response.error
        )  # fmt: skip


def send_all(
    server: Server,
    bodies: Mapping[int, dict[str, Any]],
    add: Callable[[int, Response], None],
    pause: Callable[[float], None],
) -> None:
    """Send every request, by its number, and hand each response to `add`, in this thread, as it comes.

    Raises what `generate_responses_on_server` raises.
    """
    with ExitStack() as clients:
        replicas = [_Replica(_connect(each, clients, pause), _rests(each)) for each in server.each()]
        pool = clients.enter_context(ThreadPoolExecutor(server.concurrency * len(replicas)))
        queue = _Queue(replicas, {frozenset(): deque(bodies)}, add, named=bool(server.replicas))
        running: dict[Future[Response], _Sent] = {}
        while True:
            while sent := queue.take():
                running[pool.submit(sent.replica.connection.request, bodies[sent.number])] = sent
            if not running and queue.revive():
                continue
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                queue.settle(running.pop(future), future)
    if failure := queue.failure or next(iter(queue.rejected.values()), None):
        raise failure


def _connect(server: Server, clients: ExitStack, pause: Callable[[float], None]) -> Connection:
    import httpx2

    if server.exposes_key:
        warn_of_plain_http(server.address)
    limits = httpx2.Limits(max_connections=server.concurrency, max_keepalive_connections=server.concurrency)
    client = httpx2.Client(timeout=server.timeout, limits=limits, follow_redirects=False)
    return Connection(server, clients.enter_context(client), pause, set())


@cache
def warn_of_plain_http(address: str) -> None:
    """Warn, once for each server, that its key can be read on the way."""
    logger.warning("the key travels unencrypted to %s; use https, or a tunnel to this machine", address)


def _rests(server: Server) -> bool:
    """Tell whether a server went down lately."""
    return time.monotonic() - _went_down.get(server.endpoint, -REST) < REST
