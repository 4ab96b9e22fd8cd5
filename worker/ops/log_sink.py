"""Where log lines go: a bounded queue, and a thread that empties it, so that a slow reader never holds up the loop."""

from __future__ import annotations

import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final, TextIO

MOST_BYTES: Final = 8 << 20
"""Lines waiting to be written, in bytes; what comes on top is dropped and counted."""

_ATOMIC: Final = 4096
"""Several processes share one pipe; writes up to PIPE_BUF are not mixed with those of others."""

_PATIENCE: Final = 1000
"""Milliseconds between two looks at a descriptor that is full."""


class LogSink:
    """Takes lines from any thread, never waits, never raises, and counts what it had to drop.

    `write` gets whole lines and may block or raise. `notice` makes the line that tells, once writing works again, how
    many were lost.
    """

    _idle: bool
    _writing: bool

    def __init__(
        self,
        write: Callable[[bytes], object],
        *,
        notice: Callable[[int], bytes] | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._write = write
        self._notice = notice
        self._most = most_bytes
        self._dropped = 0
        self._told = 0
        self._closed = False
        self._reset()
        _after_fork(self)

    @property
    def dropped(self) -> int:
        """Lines lost since the start: the reader was too slow, or is gone."""
        return self._dropped

    def put(self, line: bytes) -> None:
        """Take a line, which ends with a newline."""
        with self._changed:
            if self._closed or self._waiting_bytes + len(line) > self._most or not self._started():
                self._dropped += 1
                return
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            if self._idle:
                self._idle = False
                self._changed.notify_all()

    def lose(self) -> None:
        """Count a line that could not even be made."""
        with self._changed:
            self._dropped += 1

    def flush(self, timeout: float) -> bool:
        """Wait until all is written, at most `timeout` seconds; whether it is."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._waiting or self._writing:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self, timeout: float) -> bool:
        """`flush`, and take nothing more: later lines are dropped."""
        done = self.flush(timeout)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        return done

    def _reset(self) -> None:
        # a Condition's lock is re-entrant: a signal handler that logs while this thread logs does not deadlock
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._idle = False
        self._writing = False
        self._thread: threading.Thread | None = None

    def _started(self) -> bool:
        """Started by the first line: a fork has no threads of its parent, and this makes the child's."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="log", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no threads left, or the interpreter is going down
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while lines := self._take():
            if not self._written(b"".join(lines)):
                with self._changed:
                    self._dropped += len(lines)
                continue
            lost = self._dropped - self._told
            if lost and self._notice is not None and self._written(self._notice(lost)):
                self._told += lost

    def _written(self, text: bytes) -> bool:
        try:
            self._write(text)
        except Exception:  # noqa: BLE001 - reader gone, disk full, stream closed: whatever it is, this thread goes on
            return False
        return True

    def _take(self) -> list[bytes]:
        """The next lines to write; none when closed."""
        with self._changed:
            self._writing = False
            while not self._waiting:
                if self._closed:
                    self._changed.notify_all()
                    return []
                self._idle = True
                self._changed.notify_all()
                self._changed.wait()
            lines = [self._waiting.popleft()]
            taken = len(lines[0])
            while self._waiting and taken + len(self._waiting[0]) <= _ATOMIC:
                lines.append(self._waiting.popleft())
                taken += len(lines[-1])
            self._waiting_bytes -= taken
            self._writing = True
        return lines


def stream_writer(stream: TextIO | None) -> Callable[[bytes], object]:
    """How to write to `stream`: to a copy of its descriptor if it has one, else through its `write`.

    A copy, because a closed descriptor's number is given to the next socket, and lines must not end up in there.
    """
    if stream is None:
        return _nowhere
    try:
        stream.flush()
        copy = os.dup(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return lambda lines: (stream.write(lines.decode()), stream.flush())
    return _DescriptorWriter(copy)


class _DescriptorWriter:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def __call__(self, lines: bytes) -> None:
        rest = memoryview(lines)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # whoever shares the terminal or pipe made it non-blocking
                poll = select.poll()  # not select(): it takes no descriptor above 1023
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll(_PATIENCE)


def _nowhere(_lines: bytes) -> None:
    raise OSError("there is no stream")


def _after_fork(sink: LogSink) -> None:
    known = weakref.ref(sink)

    def reset() -> None:
        if (here := known()) is not None:
            here._reset()  # noqa: SLF001 - the same class's business, in the child

    os.register_at_fork(after_in_child=reset)
