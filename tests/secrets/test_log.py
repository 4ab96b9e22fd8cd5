"""What the log takes from libraries and from the interpreter: their words, and nothing they had in hand."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import time
import warnings
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
import structlog
from yarl import URL

from tests.secrets.canaries import Canaries, Sink
from worker.ops.log import LogSink, configure_logging
from worker.ops.log_lines import masked

SECRET = "cnry000x0123456789ab"


class Log:
    """The log of this process, at debug."""

    def __init__(self, *, as_json: bool = True) -> None:
        self._stream = io.StringIO()
        self._sink: LogSink = configure_logging("debug", self._stream, json=as_json)

    def text(self) -> str:
        assert self._sink.flush(5)
        return self._stream.getvalue()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # pytest's own would keep what is logged for its report
    yield Log()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def refuse(secret: str) -> None:
    raise LookupError(secret)


async def test_what_is_left_to_the_loop(log: Log) -> None:
    """Errors nobody asked for, callbacks that fail, and what takes long while the loop is watched."""
    loop = asyncio.get_running_loop()

    async def fails() -> None:
        raise ValueError(SECRET)

    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    left = [loop.create_task(fails())]
    loop.call_soon(refuse, SECRET)
    await asyncio.sleep(0.01)
    loop.set_debug(False)
    left.clear()
    gc.collect()
    lines = log.lines()
    errors = [(line["event"], line["stack"].splitlines()[-1]) for line in lines if line["level"] == "error"]
    assert sorted(errors) == [
        ("Exception in callback refuse", "LookupError"),
        ("Task exception was never retrieved", "ValueError"),
    ]
    slow = [line for line in lines if line["event"].startswith("Executing ... took 0.0")]
    assert any(f"{__file__}:" in line["at"] for line in slow)
    assert SECRET not in log.text()


async def test_a_session_and_its_connection_left_open(log: Log) -> None:
    """aiohttp shows keys of connections, with a proxy's login, and responses with URL and headers."""
    key = aiohttp.client_reqrep.ConnectionKey("h", 1, False, True, URL(f"http://u:{SECRET}@proxy"), None, None)
    asyncio.get_running_loop().call_exception_handler({"message": "Unclosed connection", "client_connection": key})
    logging.getLogger("aiohttp.internal").warning("Can not load cookies: Illegal cookie name %r", SECRET)
    assert [line["event"] for line in log.lines()] == [
        "Unclosed connection",
        "Can not load cookies: Illegal cookie name ...",
    ]


WARNINGS = {
    f"Unclosed response <ClientResponse({SECRET})>": (ResourceWarning, "Unclosed response"),
    f"Serializer warnings:\n  Unexpected(input_value='{SECRET}')": (UserWarning, "Serializer warnings:"),
    "coroutine 'refuse' was never awaited": (RuntimeWarning, "coroutine 'refuse' was never awaited"),
    "utcnow() is deprecated (use now())": (DeprecationWarning, "utcnow() is deprecated (use now())"),
}


@pytest.mark.parametrize("text", WARNINGS)
def test_warnings(text: str, log: Log) -> None:
    kind, shown = WARNINGS[text]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning(text, kind, "shop/jobs.py", 7, line=f"x = '{SECRET}'")
    (line,) = log.lines()
    assert line["event"] == f"shop/jobs.py:7: {kind.__name__}: {shown}"


@pytest.mark.parametrize(
    "name", ["aiormq.connection", "aio_pika", "httpx", "httpcore.http11", "aiohttp.client", "asyncio"]
)
def test_libraries_that_log_every_request_are_quiet(name: str, log: Log) -> None:
    logging.getLogger(name).info("GET https://h/?api_key=%s", SECRET)
    logging.getLogger(name).debug("connecting to amqp://u:%s@h", SECRET)
    assert log.text() == ""


URLS = {
    f"GET https://api.example.com/a?api_key={SECRET}&b=1 failed": "GET https://api.example.com/a?*** failed",
    f"for url 'https://h/?k={SECRET}'": "for url 'https://h/?***'",
    f"amqp://u:{SECRET}@h:5672/ is away": "amqp://u:***@h:5672/ is away",
    f"amqp://u:a/{SECRET}@h,amqp://u:{SECRET}@i": "amqp://u:***@i",
    f"amqp://u:p@{SECRET}@h/": "amqp://u:***@h/",
    f"clone https://{SECRET}@h/x": "clone https://***@h/x",
    f"https://{SECRET}/{SECRET}@h/x.": "https://***@h/x.",
    f"https://us/er:{SECRET}@h": "https://us/er:***@h",
    f"https://u%3a{SECRET}@h/": "https://***@h/",
    f"https://u:a?{SECRET}@h/": "https://u:***?***",
    f"https://a#{SECRET}@h/": "https://***#***",
    f"https://h/x?mail={SECRET}@example.com": "https://h/***?***",
    f"https://h/x#access_token={SECRET}": "https://h/x#***",
    f"https://h/x?a=1#token={SECRET}": "https://h/x?***",
    f"http://h/?q='{SECRET}'": "http://h/?***",
    f'{{"a":"https:\\/\\/u:{SECRET}@h\\/"}}': "u:***@h",
    f"https://{'u' * 300}{SECRET}@h/x": "https://***",
    f"https://u:{'p' * 1100}{SECRET}@h/x": "https://",
    f"{'x' * 240} https://u:{SECRET}{'p' * 5000}@h/x": "x" * 200,
    "http://127.0.0.1:8080 and a?b": "http://127.0.0.1:8080 and a?b",
    "ws://h/a@b, (see https://h/).": "(see https://h/).",
}


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("text", URLS)
def test_passwords_and_queries_of_urls_wherever_they_stand(text: str, as_json: bool, log: Log) -> None:
    shown = Log(as_json=as_json)
    logger = structlog.get_logger("shop")
    logger.info(text)
    logger.info("value", reason=text, items=[text], deep={"a": {"b": text}}, error=ValueError(text))
    logger.info("key", **{text: 1}, deep={text: {text: 1}})
    logging.getLogger("shop").warning("%s", text)
    try:
        refuse(text)
    except LookupError:
        logger.exception("trace")
    found = shown.text()
    assert SECRET not in found
    assert found.count(URLS[text].replace('"', "")) >= 7


def test_a_long_text_costs_little_and_is_masked_at_its_start(log: Log) -> None:
    """Of a URL whose end is not looked at nothing is shown: it may be a login to its end."""
    structlog.get_logger("shop").info("long", text=f"amqp://u:{SECRET}@h/ and " + "://a:" * 400_000)
    structlog.get_logger("shop").info("one", text=f"amqp://u:{SECRET}@h/" + "://a:" * 400_000)
    first, second = log.lines()
    assert first["text"].startswith("amqp://u:***@h/ and ://***... (")
    assert second["text"] == "amqp://***... (2000032 characters)"


@pytest.mark.parametrize("full", ["://a:", "://@", "://a?", "://u:p@h ", ":", "@", "#", "://"])
def test_whatever_a_text_is_full_of_masking_costs_in_proportion(full: str) -> None:
    """A hundred times the length costs a hundred times as much, and not its square."""

    def seconds(times: int) -> float:
        text, began = full * times, time.thread_time()
        masked(text)
        return time.thread_time() - began

    short = min(seconds(4_000) for _ in range(5))
    assert min(seconds(400_000) for _ in range(2)) < 1000 * short + 0.05


def test_the_way_of_an_error_is_kept_without_its_words(log: Log) -> None:
    try:
        refuse(SECRET)
    except LookupError as error:
        error.add_note(SECRET)
        logging.getLogger("aiohttp.internal").exception("Exception in eof callback")
    (line,) = log.lines()
    assert line["event"] == "Exception in eof callback"
    assert "in refuse\n" in line["stack"]
    assert line["stack"].endswith("\nLookupError")
    canaries = Canaries()
    canaries.given("note", SECRET)
    assert canaries.leaks([Sink("log", log.text())]) == []
