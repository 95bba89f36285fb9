"""Where a model is served and how to call it: a server's address, its options, and how a command line spells them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from divalign.lm.api_key import is_secret, valid_key

SCHEMES = ("http://", "https://")  # with which the spelling of a served model begins
# Names in a url's query that hold no secret. Of other names nobody can tell, and a url is part of records.
QUERY = ("api-version", "api_version", "version", "v", "alt", "beta", "deployment", "model", "project", "region")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How a served model is called.

    `temperature` None leaves it to the server. `timeout` is in seconds, for a request from connecting to the end of its
    reply; `concurrency` counts the requests under way at each server; `attempts` counts the first request too; pauses
    double from `first_pause` seconds.

    Raises ValueError for numbers out of range.
    """

    system_prompt: str | None = None
    temperature: float | None = 0.0
    concurrency: int = 16
    attempts: int = 6
    timeout: float = 120.0
    first_pause: float = 1.0

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.attempts < 1 or self.timeout <= 0 or self.first_pause < 0:
            raise ValueError(
                f"got concurrency={self.concurrency}, attempts={self.attempts}, timeout={self.timeout}, "
                f"first_pause={self.first_pause}; expected at least 1 of the first two, a timeout over 0 seconds and "
                "a pause of at least 0"
            )
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"got temperature={self.temperature}; expected at least 0, or None for the server's own")

    def of_transport(self) -> ServerOptions:
        """Return the options that change no response: without system prompt and temperature."""
        return replace(self, system_prompt=None, temperature=ServerOptions.temperature)


@dataclass(frozen=True)
class Server(ServerOptions):
    """A served model, and how to call it.

    `url` ends before "/chat/completions", as in "http://localhost:8000/v1"; `replicas` are the urls of further servers
    of the same model, among which requests are shared. White space around the key is stripped. It appears in no repr,
    log line or error.

    Raises ValueError for a url that is no http(s) address or may hold a secret, for one that is named twice, for a key
    that no header can hold, and for numbers out of range.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    replicas: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "api_key", valid_key(self.api_key))
        urls = (self.url, *self.replicas)
        for url in urls:
            _check_url(url)
        if len(set(urls)) < len(urls):
            raise ValueError(f"a server is named twice among {', '.join(urls)}; name each once")

    def each(self) -> list[Server]:
        """Return the server at `url` and its replicas, each by itself."""
        return [replace(self, url=url, replicas=()) for url in (self.url, *self.replicas)]

    @property
    def identity(self) -> dict[str, Any]:
        """What responses depend on, as plain JSON: for keys of caches and for records.

        Replicas serve the same model, so they can be added and removed without another identity.
        """
        return {name: getattr(self, name) for name in ("url", "model", "system_prompt", "temperature")}

    @property
    def endpoint(self) -> str:
        """The address requests go to; a query of the url (Azure's api-version) stays behind the path."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/chat/completions"))

    @property
    def exposes_key(self) -> bool:
        """Whether the key, unless it is as short as the placeholders of local servers, leaves this machine in plain."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and is_secret(self.api_key) and not _is_loopback(parts.hostname or "")

    @property
    def address(self) -> str:
        """The url for messages, without its query."""
        return urlunsplit(urlsplit(self.url)._replace(query="", fragment=""))


class ServedModel(NamedTuple):
    """The parts of "URL#MODEL"; of several servers, the urls stand with commas between in `url`."""

    url: str
    model: str


def served_model(spec: str) -> ServedModel | None:
    """Return the parts of a served model's spelling, "http://host:8000/v1#NAME"; None for a folder or a hub id.

    "http://a:8000/v1,http://b:8000/v1#NAME" is one model on several servers.

    Raises ValueError for a url without its scheme ("localhost:8000/v1#NAME") and for one without the model's name.
    """
    url, _, model = spec.partition("#")
    if not re.match(r"https?://", url):
        if re.match(r"(localhost|\[[0-9a-f:]+\]|[\w-]+(\.[\w-]+)*:\d+|\d+\.\d+\.\d+\.\d+)([:/]|$)", url):
            raise ValueError(f"{spec!r} is a server's address without its scheme; write http://{spec}")
        return None
    if not model:
        raise ValueError(f"{spec!r} names a server and no model; write {url}#NAME, with the name the server gives it")
    return ServedModel(url, model)


def refuse_server(source: str, path: Path) -> None:
    """Raise ValueError where a file of a model's folder names a server as the model: only a user may name one.

    A folder comes from anyone, and a server gets the prompts and the user's API key.
    """
    if source.startswith(SCHEMES):
        raise ValueError(
            f"{path} names the server {source[:200]!r} as its model, which would get the prompts and the API key; a "
            "server is named by you alone: give URL#NAME in place of the folder if you trust it"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _check_url(url: str) -> None:
    """Raise ValueError for a url that is not one, or holds what may be secret, which is not repeated."""
    try:
        parts = urlsplit(url)
        names = [part.partition("=")[0] for part in re.split("[&;]", parts.query) if part]
        unknown = bool(parts.fragment) or any(unquote(name).lower() not in QUERY for name in names)
        secret, valid = parts.username is not None, parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        secret, valid, unknown = "@" in url, False, False
    if secret:
        raise ValueError("the server's url holds a user name or password; leave it out and give the key as api_key")
    if unknown:
        raise ValueError(
            f"the server's url holds more than its address and one of {', '.join(QUERY)}, and urls are written into "
            "records; leave it out, and give a key as api_key, or on the command line in the environment variable "
            "DIVALIGN_API_KEY"
        )
    if not valid:
        raise ValueError(f"the server's url is {url!r}; expected something like http://localhost:8000/v1")
