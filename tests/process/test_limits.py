"""Limits in a real service: the rate of worker.toml, a host that is down beside one that is not, a Retry-After."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.process.kit import Yard, eventually
from worker.dev.ports import free_ports
from worker.dev.target import Target

DOWN = "127.0.0.2"


@contextlib.contextmanager
def serving(port: int) -> Iterator[None]:
    """Somebody who answers at the address where nobody did."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer((DOWN, port), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_rate_of_the_configuration_is_kept(yard: Yard, target: Target) -> None:
    yard.write("worker.toml", '[limits."127.0.0.1"]\nrate = ["10/s", "1000/h"]\n')
    yard.declare()
    yard.http_jobs(f"{target.url}/ok", 35)
    worker = yard.start(concurrency="50")
    eventually(lambda: len(target.ledger()) >= 35, "35 requests")
    assert worker.drain() == 0
    began = sorted(one.started for one in target.ledger())
    # A request that starts in time may arrive a little later or earlier than its neighbours.
    assert all(later - earlier >= 0.9 for earlier, later in zip(began, began[10:], strict=False))
    assert {line["attempt"] for line in worker.lines("job.finished")} == {1}
    assert yard.left() == {}
    assert yard.dead() == 0


def test_a_host_that_is_down_is_left_alone_and_taken_up_again(yard: Yard, target: Target) -> None:
    (port,) = free_ports(1)
    yard.declare()
    for number in range(60):
        yard.publish("http", {"url": f"http://{DOWN}:{port}/"}, f"down-{number}")
        yard.publish("http", {"url": f"{target.url}/ok?ms=20"}, f"up-{number}")
    worker = yard.start(concurrency="10")
    eventually(lambda: len(target.ledger()) >= 60, "the healthy host's jobs are done")
    [opened] = eventually(lambda: worker.lines("breaker.opened"), "the breaker opens")
    assert (opened["key"], opened["level"]) == (DOWN, "warning")
    assert 2 * opened["failures"] >= opened["calls"] >= 20
    eventually(lambda: f'worker_breaker_open{{host="{DOWN}"}} 1.0' in worker.ask("/metrics")[1], "the metric says so")
    eventually(lambda: worker.metrics().get("worker_parked_total reason=breaker", 0) >= 20, "jobs are parked")
    with serving(port):
        eventually(lambda: worker.lines("breaker.closed"), "it closes")
        eventually(lambda: not yard.left() and worker.ask("/jobs")[1].strip() == "[]", "all is done")
        assert worker.drain() == 0
    assert f'worker_breaker_open{{host="{DOWN}"}} 1.0' not in worker.said()
    done = [line for line in worker.lines("job.finished") if line["then"] == "done"]
    assert len(done) == 120
    tries = [line for line in worker.lines("job.finished") if line["outcome"] != "snoozed"]
    assert len(tries) <= 120 + 30  # what opened it, what was under way, and the probes
    assert yard.dead() == 0


def test_a_retry_after_holds_back_the_whole_host(yard: Yard, target: Target) -> None:
    yard.declare()
    yard.http_jobs(f"{target.url}/retry-after/2/1/once", 1)
    worker = yard.start(concurrency="5")
    eventually(target.ledger, "the answer that says so")
    for number in range(20):
        yard.publish("http", {"url": f"{target.url}/ok"}, f"other-{number}")
    eventually(lambda: len([one for one in target.ledger() if one.path.startswith("/ok")]) >= 20, "all are done")
    first = min(one.started for one in target.ledger())
    assert min(one.started for one in target.ledger() if one.path.startswith("/ok")) - first >= 2
    assert worker.metrics()["worker_parked_total reason=retry_after"] >= 20
