"""Whether anything real may come: it decides whether the moved clock waits for it."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from worker.testing.real_time import RealTime


async def test_nothing_comes_to_a_loop_that_waits_for_nothing() -> None:
    real = RealTime()
    waiting = asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    assert not real.may_bring_something()
    waiting.cancel()


async def test_a_timer_counts_until_it_is_cancelled() -> None:
    real = RealTime()
    timer = asyncio.get_running_loop().call_later(60, print)
    assert real.may_bring_something()
    timer.cancel()
    assert not real.may_bring_something()


async def test_a_socket_counts_while_it_is_waited_for_and_not_when_it_was_there_before() -> None:
    loop, (one, other) = asyncio.get_running_loop(), socket.socketpair()
    before = RealTime()
    loop.add_reader(one, print)
    assert before.may_bring_something()
    assert not RealTime().may_bring_something()
    loop.remove_reader(one)
    assert not before.may_bring_something()
    one.close()
    other.close()


async def test_a_thread_counts_until_it_ends() -> None:
    real, go = RealTime(), threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    assert real.may_bring_something()
    go.set()
    thread.join()
    assert not real.may_bring_something()


async def test_of_a_loop_that_tells_nothing_all_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    with monkeypatch.context() as without:
        selector = loop._selector  # type: ignore[attr-defined]
        without.delattr(loop, "_selector")
        real = RealTime()
        expected = real.may_bring_something()
        loop._selector = selector  # type: ignore[attr-defined]
    assert expected
