"""Which endpoint a request goes to: several base URLs, sessions that stick, endpoints that rest after an outage.

Purpose: a trajectory's turns share a prefix, which the server holds in its cache, so all its requests go to one server;
new trajectories go to the server with the fewest requests in flight. No I/O happens here.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tools.errors import ConfigError

MAX_SESSIONS = 65_536  # sessions remembered; the oldest are forgotten first and lose no more than a warm prefix cache


@dataclass
class Endpoint:
    """One server.

    `accepted` and `refused` are the optional request fields that it is known to take or not (see `agents.chat`),
    `outages` counts those in a row, `rests_until` is a time of the pool's clock (seconds).
    """

    url: str
    in_flight: int = 0
    accepted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    outages: int = 0
    rests_until: float = 0.0


class EndpointPool:
    """The servers of one model and the sessions on them. Not for use from several threads at once."""

    def __init__(
        self, urls: tuple[str, ...], rest_seconds: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make a pool.

        Args:
            urls: base URLs, such as `http://localhost:8000/v1`; order breaks ties.
            rest_seconds: how long an endpoint gets no new requests after an outage, doubled for each further one in a
                row up to 16 times as long.
            clock: seconds, monotonic.
        """
        self.endpoints = [Endpoint(url) for url in urls]
        self._rest_seconds = rest_seconds
        self._clock = clock
        self._sessions: OrderedDict[str, Endpoint] = OrderedDict()

    def pick(self, session: str | None) -> Endpoint:
        """Return the endpoint of a session; a new session, or one whose endpoint rests, goes to the least loaded.

        When all of them rest, a session stays where it is and a new one gets the endpoint that wakes first.
        """
        held = self._sessions.get(session) if session is not None else None
        now = self._clock()
        awake = [e for e in self.endpoints if e.rests_until <= now]
        if held is None or (awake and held not in awake):
            key = (lambda e: e.in_flight) if awake else (lambda e: e.rests_until)
            held = min(awake or self.endpoints, key=key)
        if session is not None:
            self._remember(session, held)
        return held

    def _remember(self, session: str, endpoint: Endpoint) -> None:
        self._sessions[session] = endpoint
        self._sessions.move_to_end(session)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    def has_other(self, endpoint: Endpoint) -> bool:
        """Say whether another endpoint is awake."""
        now = self._clock()
        return any(e is not endpoint and e.rests_until <= now for e in self.endpoints)

    def outage(self, endpoint: Endpoint) -> None:
        """Let an endpoint rest: its sessions move to others at their next request."""
        endpoint.rests_until = self._clock() + self._rest_seconds * 2 ** min(endpoint.outages, 4)
        endpoint.outages += 1

    def alive(self, endpoint: Endpoint) -> None:
        """Note that an endpoint has answered."""
        endpoint.outages = 0
        endpoint.rests_until = 0.0


def parse_urls(text: str) -> tuple[str, ...]:
    """Split comma-separated base URLs.

    Raises:
        ConfigError: one of them is no http(s) URL with a host and a usable port.
    """
    urls = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    if not urls:
        raise ConfigError("base_url is empty; give one such as http://localhost:8000/v1")
    for url in urls:
        if not _is_http_url(url):
            raise ConfigError(f"base_url {url!r} is not an http(s) URL; give one such as http://localhost:8000/v1")
    return urls


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a broken IPv6 address
        return False
