"""How models on servers are called: a user's options, the same for every verb and for a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from divalign.lm.server import ServerOptions
from divalign.safety.slots import text_with_slots
from divalign.stages.models import LoadOptions, OpenModel

SERVERS_OWN = "server"  # the temperature that leaves the choice to the server


def server_options(
    *,
    system_prompt: str | None = None,
    temperature: float | str | None = None,
    concurrency: int | None = None,
    timeout: float | None = None,
    retries: int | None = None,
) -> ServerOptions | None:
    """Return the options of which each None leaves the default; None where all are.

    Args:
        system_prompt: a text, or its file, before every conversation.
        temperature: a number, or "server" for the server's own.
        concurrency: requests under way at each server.
        timeout: seconds for a request, from connecting to the end of its reply.
        retries: requests after the first that failed.

    Raises ValueError for numbers out of range.

    """
    values: dict[str, Any] = {"concurrency": concurrency, "timeout": timeout}
    if retries is not None:
        values["attempts"] = retries + 1
    changes = {name: value for name, value in values.items() if value is not None}
    if system_prompt is not None:
        changes["system_prompt"] = text_with_slots(system_prompt, (), kind="system prompt")
    if temperature is not None:
        changes["temperature"] = None if temperature == SERVERS_OWN else _number(temperature)
    return ServerOptions(**changes) if changes else None


def for_helpers(options: LoadOptions) -> LoadOptions:
    """Return the options of an attacker beside a target: the system prompt and the temperature are the target's."""
    return replace(options, server=options.server and options.server.of_transport())


def check_served(options: ServerOptions | None, served: Sequence[bool]) -> None:
    """Raise ValueError for options without effect: none of the models is `served`."""
    if options is not None and not any(served):
        raise ValueError("options of a server are given, and no model is on one; leave them out, or name URL#NAME")


def check_target(options: ServerOptions | None, target: OpenModel) -> None:
    """Raise ValueError for a system prompt or a temperature of a target that is not served."""
    if options is not None and target.load is not None and options != options.of_transport():
        raise ValueError(
            f"a system prompt and a temperature are sent to a server, and {target.name} is a local model; leave them "
            "out"
        )


def _number(temperature: float | str) -> float:
    try:
        return float(temperature)
    except ValueError:
        raise ValueError(
            f"got the temperature {temperature!r}; expected a number, or {SERVERS_OWN!r} for the server's own"
        ) from None
