"""Logging: structlog and the standard library's loggers through one sink; JSON lines, or colours on a terminal."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.typing import EventDict

from worker.ops.log_foreign import QUIET, foreign_event, is_foreign
from worker.ops.log_lines import Line, console_line, json_line
from worker.ops.log_sink import LogSink, stream_writer

__all__ = ["LogSink", "configure_logging"]

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_FLUSH_AT_EXIT: Final = 2.0


def configure_logging(level: str = "info", stream: TextIO | None = None, json: bool | None = None) -> LogSink:
    """Send everything that is logged in this process to `stream` (standard output), from `level` on.

    `json` None: JSON lines unless `stream` is a terminal. Colours are left out when NO_COLOR is set. A later call
    replaces an earlier one. What waits in the sink is written at exit, within 2 seconds.
    """
    target = sys.stdout if stream is None else stream
    line = _line(json, target)
    sink = LogSink(stream_writer(target), notice=functools.partial(_notice, line))
    least = LEVELS[level]
    structlog.configure(
        processors=[merge_contextvars, _Render(line, sink)],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=functools.partial(_Out, sink),
        # not cached: a logger that was used before a second call would keep its old level; costs 1 us per line
        cache_logger_on_first_use=False,
    )
    _route_standard_logging(_Bridge(line, sink), least)
    atexit.register(sink.close, _FLUSH_AT_EXIT)
    return sink


def _line(json: bool | None, target: TextIO | None) -> Line:
    terminal = _is_terminal(target)
    if json or (json is None and not terminal):
        return json_line
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return functools.partial(console_line, colour=colour)


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _notice(line: Line, lost: int) -> bytes:
    return line({"event": "log.dropped", "level": "warning", "lines": lost})


def _route_standard_logging(bridge: logging.Handler, least: int) -> None:
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(bridge)
    root.setLevel(least)
    for name, quiet in QUIET.items():
        logging.getLogger(name).setLevel(max(quiet, least))
    logging.captureWarnings(capture=True)


class _Out:
    """structlog's end of the sink: a line that could not be made comes as None."""

    __slots__ = ("name", "sink")

    def __init__(self, sink: LogSink, name: str | None = None, *_: Any) -> None:
        self.sink = sink
        self.name = name

    def msg(self, line: bytes) -> None:
        self.sink.put(line)

    debug = info = warning = error = critical = fatal = failure = exception = warn = err = log = msg


class _Render:
    """The last processor: from an event to a line. Logging never raises into a handler."""

    def __init__(self, line: Line, sink: LogSink) -> None:
        self._line = line
        self._sink = sink

    def __call__(self, logger: Any, method: str, event: EventDict) -> tuple[tuple[bytes], dict[str, Any]]:
        event["level"] = "error" if method == "exception" else method
        if isinstance(logger, _Out) and logger.name:
            event["logger"] = logger.name
        try:
            return (self._line(event),), {}
        except Exception:  # noqa: BLE001 - whatever a value did, the job goes on
            self._sink.lose()
            raise structlog.DropEvent from None


class _Bridge(logging.Handler):
    """Records of the standard library's loggers, as lines like the others."""

    def __init__(self, line: Line, sink: LogSink) -> None:
        super().__init__()
        self._line = line
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._sink.put(self._line(_event(record)))
        except Exception:  # noqa: BLE001 - as in _Render
            self._sink.lose()


def _event(record: logging.LogRecord) -> MutableMapping[str, Any]:
    head = {**get_contextvars(), "level": record.levelname.lower(), "logger": record.name}
    if is_foreign(record.name):
        return head | dict(foreign_event(record))
    return head | {"event": _message(record), "exc_info": record.exc_info, "stack": record.stack_info}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that do not fit the format, or that cannot be shown
        return f"{record.msg} (its arguments do not fit)"
