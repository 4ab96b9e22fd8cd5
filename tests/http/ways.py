"""All the ways in which a job can ask for an address, and the guards that are asked; run by any_address.py."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Self

from tests.http.any_address import INTERFACE, PUBLIC4, PUBLIC6, START_ADDRESS, Listeners, Reached, Wire, vectors
from tests.http.endpoint_urls import ENDPOINTS, endpoint_urls
from worker import Limits, Request
from worker.http import guard as guards
from worker.http.client import HttpTransport
from worker.http.connector import trusted_context
from worker.http.engine import Engine
from worker.http.guard import Guard
from worker.http.handler import http_registry
from worker.http.lookups import LookupThreads
from worker.http.url import parse_url
from worker.runtime.context import job_gate
from worker.testing import Harness

START = f"http://{START_ADDRESS}/"
MANY = [f"1.1.{number // 250}.{number % 250 + 1}" for number in range(999)]
SECONDS = 2.0
EVERYTHING = ["0.0.0.0/0", "::/0"]
OPENED = ["127.0.0.0/8", "10.0.0.0/24", "::1/128", "fd00::/8"]
NAME = "name.example"
OWN = ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"), ipaddress.ip_network(INTERFACE)

WAYS = (
    *("job", "lean", "httpx", "job redirect", "redirect", "httpx redirect"),
    *("name", "name in a job", "name beside a public one", "name with both families", "name with 1000 answers"),
    *("rebinding", "rebinding by redirect"),
)
SOME = ("lean", "redirect", "name", "name in a job", "name beside a public one", "rebinding", "rebinding by redirect")

Way = Callable[[str], Awaitable[str]]
Corpus = Iterable[tuple[str, str]]


class Tour:
    """One guard, and an engine over it whose names resolve to `answers`: by turns, the last one for ever."""

    def __init__(self, wire: Wire, listeners: Listeners, guard: Guard) -> None:
        self.answers: list[list[str]] = [["127.0.0.1"]]
        self._wire = wire
        self._listeners = listeners
        self._numbers = itertools.count()
        names = LookupThreads(lambda _: self.answers.pop(0) if len(self.answers) > 1 else self.answers[0], threads=1)
        self._engine = Engine(Limits(), guard, names=names, ssl_context=trusted_context())
        self._transport = HttpTransport(self._engine, gate=job_gate)
        self._harness = Harness(http_registry(), transport=self._transport, attempts=1)

    async def __aenter__(self) -> Self:
        await self._harness.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._harness.__aexit__(*exc)
        await self._transport.aclose()

    async def all(self, ways: Iterable[str], corpus: Corpus) -> dict[str, list[dict[str, Any]]]:
        corpus = list(corpus)
        return {name: [await self._one(name, verdict, url) for verdict, url in corpus] for name in ways}

    async def _one(self, name: str, verdict: str, url: str) -> dict[str, Any]:
        self._wire.dialled()
        self._listeners.reached.clear()
        self._listeners.location = ""
        self.answers = [["127.0.0.1"]]
        end = await self._ways()[name](url)
        return {"verdict": verdict, "url": url, "end": end, "dialled": self._wire.dialled(), "heard": self._heard()}

    def _heard(self) -> Reached:
        return list(self._listeners.reached)

    def _ways(self) -> dict[str, Way]:
        client = self._transport.client
        return {
            "job": self.job,
            "lean": lambda url: _end(self.lean(url)),
            "httpx": lambda url: _end(client.get(url, timeout=SECONDS)),
            "job redirect": self._redirected(lambda: self.job(START, redirects=3)),
            "redirect": self._redirected(lambda: _end(self.lean(START, redirects=3))),
            "httpx redirect": self._redirected(lambda: _end(client.get(START, follow_redirects=True))),
            "name": self._named([]),
            "name in a job": self._named([], by_job=True),
            "name beside a public one": self._named([PUBLIC4]),
            "name with both families": self._named([PUBLIC6, PUBLIC4]),
            "name with 1000 answers": self._named(MANY),
            "rebinding": self.rebinding,
            "rebinding by redirect": self.rebinding_by_redirect,
        }

    async def lean(self, url: str, redirects: int = 0) -> Any:
        return await self._engine.send(Request("GET", url, timeout=SECONDS, redirects=redirects))

    async def job(self, url: str, **more: Any) -> str:
        """The reason of the dead letter, or the outcome."""
        name = f"job-{next(self._numbers)}"
        self._harness.publish("http", {"url": url, "retry": {"attempts": 1}, **more}, id=name)
        await self._harness.until_quiet(patience=SECONDS)
        [report] = [one for one in self._harness.reports.all if one.id == name]
        return report.reason or report.outcome

    def _redirected(self, ask: Callable[[], Awaitable[str]]) -> Way:
        async def way(url: str) -> str:
            if not re.fullmatch(r"[^\r\n\x00\ud800-\udfff]*", url):
                return "no header can carry it"
            self._listeners.location = url
            return await ask()

        return way

    def _named(self, beside: list[str], *, by_job: bool = False) -> Way:
        """The vector's address as the answer of a name lookup, after those of `beside`."""

        async def way(url: str) -> str:
            if (found := self._answer_and_port(url)) is None:
                return "no URL"
            self.answers = [[*beside, found[0]]]
            there = f"http://{NAME}:{found[1]}/"
            return await (self.job(there) if by_job else _end(self.lean(there)))

        return way

    async def rebinding(self, url: str) -> str:
        """The first answer is public, and is dialled; the second connection gets the vector."""
        if (found := self._rebound(url)) is None:
            return "no URL"
        host, first, second = found
        if (end := await _end(self.lean(f"http://{host}:{first}/"))) != "200":
            return f"first {end}"
        return await _end(self.lean(f"http://{host}:{second}/"))

    async def rebinding_by_redirect(self, url: str) -> str:
        """The same within one request: the redirect leads to the same name, which has become another address."""
        if (found := self._rebound(url)) is None:
            return "no URL"
        host, first, second = found
        self._listeners.location = f"http://{host}:{second}/again"
        return await _end(self.lean(f"http://{host}:{first}/", redirects=3))

    def _rebound(self, url: str) -> tuple[str, int, int] | None:
        """A name nobody has asked for, and the ports to ask at: the same one, if the first connection may be made."""
        if (found := self._answer_and_port(url)) is None:
            return None
        self.answers = [[START_ADDRESS], [found[0]]]
        usual = found[1] in (80, 443) or found[1] >= 1024
        return f"r{next(self._numbers)}.example", found[1] if usual else 8080, found[1]

    def _answer_and_port(self, url: str) -> tuple[str, int] | None:
        try:
            parsed = parse_url(url)
        except ValueError:
            return None
        return parsed.host if parsed.literal else "127.0.0.1", parsed.port


async def _end(call: Awaitable[Any]) -> str:
    try:
        answer = await call
    except Exception as error:  # noqa: BLE001 (each end is a finding)
        return getattr(error, "code", type(error).__name__)
    return str(getattr(answer, "status", None) or answer.status_code)


def is_own(address: Any) -> bool:
    """What `guard.is_own` says where not every address is this machine's."""
    return any(address.version == network.version and address in network for network in OWN)


async def report(wire: Wire, listeners: Listeners) -> dict[str, Any]:
    """By set-up and way, what each vector led to."""
    corpus = vectors()
    readable = [(verdict, url) for verdict, url in corpus if verdict != "invalid"]
    await listeners.open({port for _, url in corpus if (port := _port(url))} | {5672, 8080, 8081})
    found: dict[str, Any] = {}
    async with Tour(wire, listeners, Guard()) as tour:
        found["nothing allowed"] = await tour.all(WAYS, corpus)
    async with Tour(wire, listeners, Guard(OPENED)) as tour:
        found["networks allowed"] = await tour.all(SOME, readable)
    async with Tour(wire, listeners, Guard([], [NAME])) as tour:
        found["name allowed"] = await tour.all(SOME, readable)
    closed = Guard(EVERYTHING, [], ENDPOINTS, is_own=is_own)
    async with Tour(wire, listeners, closed) as tour:
        found["all but broker and admin allowed"] = await tour.all(SOME, endpoint_urls())
    found["planted"] = await _planted(wire, listeners, readable)
    return found


async def _planted(wire: Wire, listeners: Listeners, corpus: list[tuple[str, str]]) -> dict[str, Any]:
    """A guard with a hole, by which the observer must see somebody go."""
    whole = guards._DENIED_IPV4
    hole = ipaddress.ip_network("10.0.0.0/8")
    guards._DENIED_IPV4 = tuple(network for network in whole if network != hole)  # type: ignore[misc]
    try:
        async with Tour(wire, listeners, Guard()) as tour:
            return await tour.all(("lean", "name"), corpus)
    finally:
        guards._DENIED_IPV4 = whole  # type: ignore[misc]


def _port(url: str) -> int:
    try:
        return parse_url(url).port
    except ValueError:
        return 0
