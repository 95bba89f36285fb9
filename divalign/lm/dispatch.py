"""Many requests over the servers of one model: a shared queue, and failover when a server stops answering.

Each request goes to the server with the fewest requests under way. A request that has failed on a server, retries
included, goes to another that it has not failed on. A server that has answered nothing since such a request was sent is
down: it gets no more requests, in this call and for `REST` seconds after it, unless no other server is left.
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
_went_down: dict[str, float] = {}  # by endpoint: when, for later calls of this process


@dataclass
class _Replica:
    """One server, the requests under way at it, and how many it has answered."""

    connection: Connection
    running: int = 0
    answers: int = 0
    down: bool = False

    @property
    def server(self) -> Server:
        return self.connection.server

    @property
    def free(self) -> bool:
        return not self.down and self.running < self.server.concurrency


class _Sent(NamedTuple):
    """A request under way: its number, where it was sent, and that server's answers until then."""

    number: int
    replica: _Replica
    answers: int


@dataclass
class _Queue:
    """What is still to be sent, and what became of the rest; if `named`, responses tell their server."""

    replicas: list[_Replica]
    waiting: deque[int]
    add: Callable[[int, Response], None]
    named: bool
    failed_on: dict[int, list[_Replica]] = field(default_factory=lambda: defaultdict(list))
    rejected: dict[int, RejectedRequestError] = field(default_factory=dict)
    failure: BaseException | None = None
    last: BaseException | None = None
    answered: bool = False

    def take(self) -> _Sent | None:
        """Return the next request with the server to send it to; None where nothing is to be sent now.

        After a failure that stays, and after a second rejection before any answer, only the requests under way can
        still save the run.
        """
        if self.failure or (not self.answered and len(self.rejected) > 1):
            return None
        free = sorted((replica for replica in self.replicas if replica.free), key=lambda replica: replica.running)
        for index in self.waiting if free else ():
            for replica in free:
                if replica not in self.failed_on[index]:
                    self.waiting.remove(index)
                    replica.running += 1
                    return _Sent(index, replica, replica.answers)
        return None

    def revive(self) -> bool:
        """Let requests try again what is left of the servers, where nothing runs and all of them have failed on it.

        They waited for a server that has gone down meanwhile. Returns False where there is nothing to try.
        """
        if self.failure or not self.waiting or (not self.answered and len(self.rejected) > 1):
            return False
        if all(replica.down for replica in self.replicas):
            self.failure = self.last
            return False
        self.failed_on.clear()
        return True

    def settle(self, sent: _Sent, future: Future[Response]) -> None:
        """Record the outcome of a request.

        A rejection of an unknown kind is recorded as one row's outcome once another request has been answered, since
        the settings are then right.
        """
        sent.replica.running -= 1
        error = future.exception()
        if isinstance(error, RejectedRequestError):
            self.rejected[sent.number] = error
        elif isinstance(error, ConnectionError):
            self._move(sent, error)
        elif error is not None:
            self.failure = self.failure or error
        else:
            self._answer(sent, future.result())
        if self.answered:
            for index in list(self.rejected):
                self.add(index, Response("", "unreadable", error=str(self.rejected.pop(index))))

    def _answer(self, sent: _Sent, response: Response) -> None:
        self.answered = True
        sent.replica.answers += 1
        _went_down.pop(sent.replica.server.endpoint, None)
        self.add(sent.number, response._replace(server=sent.replica.server.address) if self.named else response)

    def _move(self, sent: _Sent, error: ConnectionError) -> None:
        """Send a request that has failed for good to another server; without one the failure is the run's."""
        replica, address, self.last = sent.replica, sent.replica.server.address, error
        self.failed_on[sent.number].append(replica)
        if replica.answers == sent.answers and not replica.down:
            replica.down = True
            _went_down[replica.server.endpoint] = time.monotonic()
            logger.warning("%s answers no more; its requests go to the other servers: %s", address, error)
        if any(not other.down and other not in self.failed_on[sent.number] for other in self.replicas):
            self.waiting.appendleft(sent.number)
        else:
            self.failure = self.failure or error


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
        replicas = [_Replica(_connect(each, clients, pause)) for each in _in_use(server.each())]
        pool = clients.enter_context(ThreadPoolExecutor(server.concurrency * len(replicas)))
        queue = _Queue(replicas, deque(bodies), add, named=bool(server.replicas))
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


def _in_use(servers: list[Server]) -> list[Server]:
    """Return the servers that did not go down lately, or all where all did."""
    now = time.monotonic()
    return [s for s in servers if now - _went_down.get(s.endpoint, -REST) >= REST] or servers
