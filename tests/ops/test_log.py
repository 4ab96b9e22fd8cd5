"""Logging: what a line says, what cannot be forged, and that no reader, full pipe or closed stream holds up a loop."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import structlog

from worker.ops.log import LogSink, configure_logging
from worker.ops.log_sink import stream_writer

ROOT = Path(__file__).parents[2]


class Output:
    """A stream without a descriptor that keeps what is written, and the sink of the last configuration."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.sink: LogSink | None = None

    def configure(self, level: str = "info", *, json: bool | None = True) -> None:
        logging.getLogger().handlers.clear()  # pytest's own are stricter than ours with bad records
        self.sink = configure_logging(level, self.stream, json)

    def text(self) -> str:
        assert self.sink is not None
        assert self.sink.flush(5)
        return self.stream.getvalue()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]

    def one(self) -> dict[str, Any]:
        [line] = self.lines()
        return line


def fail(error: Exception) -> NoReturn:
    raise error


@pytest.fixture
def output() -> Iterator[Output]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    made = Output()
    yield made
    if made.sink:
        made.sink.close(1)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


# --- what a line says


def test_a_line_is_json_with_time_level_event_logger_and_values(output: Output) -> None:
    output.configure()
    structlog.get_logger("worker.x").warning("job.parked", attempt=2, reason="retry", ratio=0.5, none=None, yes=True)
    line = output.one()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {
        "level": "warning",
        "event": "job.parked",
        "logger": "worker.x",
        "attempt": 2,
        "reason": "retry",
        "ratio": 0.5,
        "none": None,
        "yes": True,
    }


@pytest.mark.parametrize(
    ("level", "logged"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_only_the_asked_levels_are_logged(output: Output, level: str, logged: list[str]) -> None:
    output.configure(level)
    for name in ("debug", "info", "warning", "error"):
        getattr(structlog.get_logger(), name)("mine")
        getattr(logging.getLogger("shop"), name)("theirs")
    assert [line["level"] for line in output.lines() if line["event"] == "mine"] == logged
    assert [line["level"] for line in output.lines() if line["event"] == "theirs"] == logged


def test_a_second_configuration_reaches_loggers_that_were_used_before(output: Output) -> None:
    log = structlog.get_logger("worker.early")
    output.configure("error")
    log.info("not this")
    output.configure("debug")
    log.debug("this")
    assert [line["event"] for line in output.lines()] == ["this"]


async def test_everything_inside_a_job_carries_its_ids(output: Output) -> None:
    output.configure()

    async def job(id: str) -> None:
        with structlog.contextvars.bound_contextvars(id=id, type="t"):
            await asyncio.sleep(0)
            structlog.get_logger().info("own")
            logging.getLogger("library").warning("foreign")

    await asyncio.gather(job("one"), job("two"))
    assert [(line["event"], line["id"]) for line in output.lines()] == [
        ("own", "one"),
        ("foreign", "one"),
        ("own", "two"),
        ("foreign", "two"),
    ]


@pytest.mark.parametrize("name", ["httpx", "httpcore.connection", "aiohttp.access", "asyncio"])
def test_http_libraries_are_heard_from_warning_on(output: Output, name: str) -> None:
    output.configure("debug")
    logging.getLogger(name).info("quiet")
    logging.getLogger(name).warning("loud")
    assert [line["event"] for line in output.lines()] == ["loud"]


@pytest.mark.parametrize("name", ["aiormq.connection", "aio_pika.robust"])
def test_broker_libraries_are_heard_only_when_critical(output: Output, name: str) -> None:
    output.configure("debug")
    logging.getLogger(name).error("quiet")
    logging.getLogger(name).critical("loud")
    assert [line["event"] for line in output.lines()] == ["loud"]


def test_warnings_of_python_are_log_lines(output: Output) -> None:
    output.configure()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("careful", stacklevel=1)
    assert "careful" in output.one()["event"]


def test_an_exception_is_told_with_its_trace(output: Output) -> None:
    output.configure()
    try:
        fail(ValueError("boom"))
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("shop").exception("failed too")
    for line in output.lines():
        assert line["level"] == "error"
        assert line["exception"].startswith("Traceback (most recent call last):\n")
        assert line["exception"].endswith("ValueError: boom")


# --- bounds and escapes


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x" * 256, "x" * 256),
        ("x" * 257, "x" * 256 + "... (257 characters)"),
        (["x" * 300], ["x" * 256 + "... (300 characters)"]),
        ({"k": {"k": "x" * 300}}, {"k": {"k": "x" * 256 + "... (300 characters)"}}),
        (list(range(100)), list(range(50))),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (b"raw", "b'raw'"),
        (ValueError("amqp://u:s3cret@h"), "amqp://u:***@h"),
        ("\ud800", "\ud800"),
        ([[[[["deep"]]]]], [[[["['deep']"]]]]),
    ],
)
def test_a_value_is_bounded_and_always_json(output: Output, value: Any, shown: Any) -> None:
    output.configure()
    structlog.get_logger().info("x", value=value)
    assert output.one()["value"] == shown


def test_a_cycle_ends(output: Output) -> None:
    output.configure()
    cycle: list[Any] = []
    cycle.append(cycle)
    structlog.get_logger().info("x", value=cycle)
    assert output.one()["event"] == "x"


def test_events_and_traces_may_be_longer_but_not_endless(output: Output) -> None:
    output.configure()
    try:
        fail(ValueError("x" * 100_000 + "end"))
    except ValueError:
        structlog.get_logger().exception("e" * 10_000)
    line = output.one()
    assert line["event"].startswith("e" * 4096 + "... ")
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("xend")
    assert len(line["exception"]) < 33_000


def test_values_that_are_named_like_a_field_are_kept_beside_it(output: Output) -> None:
    output.configure()
    structlog.get_logger("worker.x").info("mine", timestamp="theirs", exception="theirs")
    line = output.one()
    assert (line["timestamp_"], line["exception_"], line["event"]) == ("theirs", "theirs", "mine")
    assert "exception" not in line


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class HostileError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_nothing_a_value_does_is_raised_into_the_handler(output: Output) -> None:
    output.configure()
    log = structlog.get_logger()
    log.info("repr", value=Hostile())
    try:
        fail(HostileError())
    except HostileError:
        log.exception("str")
    log.info(Hostile())
    logging.getLogger("shop").warning("%d", "not a number")
    odd = "<Hostile that cannot be shown>"
    assert [line["event"] for line in output.lines()] == ["repr", "str", odd, "%d (its arguments do not fit)"]
    assert output.sink is not None
    assert output.sink.dropped == 0


def test_passwords_in_urls_of_libraries_are_masked(output: Output) -> None:
    output.configure()
    try:
        fail(ConnectionError("cannot reach amqp://u:s3@cret@host:5672/"))
    except ConnectionError:
        logging.getLogger("shop").exception("to %s", "amqp://u:s3cret@host/")
    assert "cret" not in output.text()
    assert "amqp://u:***@host" in output.text()


FORGED = "x\r\n2026-01-01T00:00:00.000000Z info     forged\x1b[2J\x9b31m\u2028\u202e\x00\x7f"


@pytest.mark.parametrize("json", [True, False])
def test_no_value_can_forge_a_line_or_reach_the_terminal(output: Output, json: bool) -> None:
    output.configure(json=json)
    try:
        fail(ValueError(FORGED))
    except ValueError:
        structlog.get_logger(FORGED).exception(FORGED, value=FORGED, items=[FORGED], **{FORGED: 1})
        logging.getLogger("shop").warning("%s", FORGED)
    text = output.text()
    assert not set("\r\x1b\x9b\u2028\u202e\x00") & set(text)
    starts = [line for line in text.split("\n") if line and not line.startswith("    ")]
    assert len(starts) == 2
    assert not [line for line in starts if line.startswith("2026-01-01")]


def test_the_console_shows_what_the_json_says(output: Output) -> None:
    output.configure(json=False)
    structlog.get_logger("worker.x").info("job.finished", id="a b", n=1, empty="", quote='"')
    assert re.fullmatch(
        r'\S+Z info     job\.finished id="a b" n=1 empty="" quote="\\"" \[worker\.x\]\n',
        output.text(),
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)]
)
def test_a_terminal_gets_colours_unless_told_otherwise(
    output: Output, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], colour: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    output.stream = Terminal()
    output.configure(json=None)
    structlog.get_logger().info("hello")
    assert ("\x1b[" in output.text()) is colour
    assert "hello" in output.text()


def test_a_stream_that_is_no_terminal_gets_json(output: Output) -> None:
    output.configure(json=None)
    structlog.get_logger().info("hello")
    assert output.one()["event"] == "hello"


# --- readers that are slow, gone or come back


class Stuck:
    """A writer that blocks until released."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.written: list[bytes] = []

    def __call__(self, text: bytes) -> None:
        self.go.wait(10)
        self.written.append(text)


def test_a_full_queue_drops_counts_and_tells(output: Output) -> None:
    stuck = Stuck()
    sink = LogSink(stuck, notice=lambda lost: b"lost %d\n" % lost, most_bytes=100)
    for _ in range(50):
        sink.put(b"123456789\n")
    assert 30 <= sink.dropped <= 40  # ten fit, and as many the thread may have taken before
    assert not sink.flush(0.05)
    stuck.go.set()
    assert sink.flush(5)
    sink.put(b"more\n")
    assert sink.flush(5)
    text = b"".join(stuck.written)
    assert text.count(b"lost") == 1
    assert b"lost %d\n" % sink.dropped in text
    assert text.count(b"123456789\n") == 50 - sink.dropped
    sink.close(1)
    sink.put(b"late\n")
    assert b"late" not in b"".join(stuck.written)


def test_a_writer_that_fails_is_counted_and_tried_again() -> None:
    written: list[bytes] = []
    faults: list[Exception] = [OSError("full"), ValueError("closed"), RuntimeError("odd")]

    def write(text: bytes) -> None:
        if faults:
            raise faults.pop()
        written.append(text)

    sink = LogSink(write)
    for number in range(5):
        sink.put(b"%d\n" % number)
        assert sink.flush(5)
    assert sink.dropped == 3
    assert written == [b"3\n", b"4\n"]
    sink.close(1)


async def loop_lag(during: Callable[[], None], rounds: int) -> float:
    """The longest turn of the loop while `during` is called again and again."""
    worst = 0.0
    for _ in range(rounds):
        before = time.perf_counter()
        during()
        await asyncio.sleep(0)
        worst = max(worst, time.perf_counter() - before)
    return worst


async def test_a_full_pipe_does_not_hold_up_the_loop(output: Output) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading, "rb") as reader:
        sink = output.sink = configure_logging("info", stream, json=True)
        log = structlog.get_logger()
        before = time.perf_counter()
        worst = await loop_lag(lambda: log.info("line", pad="x" * 200), 60_000)
        assert time.perf_counter() - before < 30
        assert worst < 0.5
        assert sink.dropped > 1000  # 15 MB of lines: a pipe of 64 KiB and a queue of 8 MiB are full
        assert not sink.flush(0.1)
        seen = bytearray()
        drain = threading.Thread(target=lambda: seen.extend(iter_until(reader, b"log.dropped")))
        drain.start()
        await asyncio.to_thread(drain.join, 20)
        lines = seen.split(b"\n")
        assert all(json.loads(line)["event"] in ("line", "log.dropped") for line in lines[:-1])
        [told] = [json.loads(line) for line in lines if b"log.dropped" in line]
        assert told["lines"] == sink.dropped
        sink.close(1)


def iter_until(reader: Any, mark: bytes) -> bytes:
    seen = bytearray()
    while mark not in seen or not seen.endswith(b"\n"):
        part = reader.read1(65536)
        if not part:
            break
        seen += part
    return bytes(seen)


def test_a_socket_that_is_non_blocking_gets_everything() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        stream = ours.makefile("w")
        sink = LogSink(stream_writer(stream))
        for number in range(200_000):
            sink.put(b"%08d\n" % number)
        seen = bytearray()
        while len(seen) < 9 * 200_000:
            seen += theirs.recv(1 << 20)
        assert seen == b"".join(b"%08d\n" % number for number in range(200_000))
        assert sink.dropped == 0
        sink.close(1)
        stream.close()


def test_lines_do_not_end_up_in_a_socket_that_got_the_closed_number(tmp_path: Path) -> None:
    first = (tmp_path / "log").open("w")
    number = first.fileno()
    sink = LogSink(stream_writer(first))
    first.close()
    second = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    try:
        assert second == number
        sink.put(b"line\n")
        assert sink.flush(5)
    finally:
        os.close(second)
        sink.close(1)
    assert (tmp_path / "log").read_bytes() == b"line\n"
    assert (tmp_path / "other").read_bytes() == b""


def run(code: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    start = "from worker.ops.log import configure_logging\nimport structlog, sys, os\n"
    command = [sys.executable, "-c", start + textwrap.dedent(code)]
    return subprocess.run(command, cwd=ROOT, timeout=30, check=False, stderr=subprocess.PIPE, **options)


CLOSED = """
    sink = configure_logging()
    for n in range(1000): structlog.get_logger().info("line", n=n)
    sink.flush(5)
    print(sink.dropped, file=sys.stderr)
"""


@pytest.mark.parametrize("how", ["no_reader", "closed", "full_disk"])
def test_standard_output_that_is_gone_is_survived_and_counted(how: str) -> None:
    if how == "no_reader":
        reading, writing = os.pipe()
        os.close(reading)
        done = run(CLOSED, stdout=writing)
        os.close(writing)
    elif how == "closed":
        done = run(CLOSED, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.close(1))
    else:
        with Path("/dev/full").open("wb") as full:
            done = run(CLOSED, stdout=full)
    assert done.returncode == 0
    assert done.stderr.strip() == b"1000"


def test_what_waits_is_written_at_exit_even_for_a_late_reader(tmp_path: Path) -> None:
    code = "configure_logging()\nfor n in range(5000): structlog.get_logger().info('line', n=n)"
    late = ["sh", "-c", f"sleep 0.7; cat > {tmp_path}/log"]  # the pipe holds 64 KiB, the lines are 400
    with subprocess.Popen(late, stdin=subprocess.PIPE) as reader:
        assert run(code, stdout=reader.stdin).returncode == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == list(range(5000))


def test_a_stuck_reader_does_not_hold_up_the_exit() -> None:
    reading, writing = os.pipe()
    before = time.monotonic()
    code = "configure_logging()\nfor n in range(5000): structlog.get_logger().info('line', n=n)"
    done = run(code, stdout=writing)
    os.close(reading)
    os.close(writing)
    assert done.returncode == 0
    assert time.monotonic() - before < 10


def test_a_forked_child_logs_too() -> None:
    code = """
    sink = configure_logging()
    structlog.get_logger().info("parent")
    sink.flush(5)
    if os.fork() == 0:
        structlog.get_logger().info("child")
        os._exit(0 if sink.flush(5) else 1)
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
    """
    done = run(code, stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["parent", "child"]
