"""A step that computes (shop/cpu_step.py), in a process of its own."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import psutil

from tests.examples.partner import said
from tests.examples.stage import Stage
from tests.process.kit import Worker, eventually

STOPS, ORDER, PING = "GET /tours/7/stops", "PUT /tours/7/order", "GET /ping"
FAR_TOO_MANY = [(math.sin(number), math.cos(3 * number)) for number in range(14)]
BUSY = 1.0
"""Seconds of CPU time that a process needs less of than that to be there."""


def pool(worker: Worker) -> list[psutil.Process]:
    found = []
    for pid in worker.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if "worker.cli.cpu_child" in process.cmdline():
                found.append(process)
    return found


def kill(processes: list[psutil.Process]) -> bool:
    """As the kernel does when memory is short. One that had not begun is replaced: that fails no attempt yet."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return False


def tours(worker: Worker) -> list[dict[str, Any]]:
    """The attempts that have ended."""
    return [line for line in worker.lines("job.finished") if line["type"] == "tour.plan"]


def test_others_go_on_while_it_computes_and_its_process_may_die(stage: Stage) -> None:
    stage.partner.on(STOPS, said(FAR_TOO_MANY), said([(0, 0), (0, 9), (0, 1), (0, 5)]))
    stage.partner.on(ORDER, 204)
    stage.partner.on(PING, 200)
    stage.bring("cpu_step.py")
    worker = stage.yard.start("cpu_step:registry", backoff="1s..1s")
    stage.yard.publish("tour.plan", {"id": 7}, "tour-7")
    eventually(lambda: any(process.cpu_times().user > BUSY for process in pool(worker)), "it computes")

    stage.yard.http_jobs(f"{stage.partner.url}/ping", 20)
    stage.until(PING, 20)
    assert stage.partner.lines() == [STOPS] + [PING] * 20

    eventually(lambda: tours(worker) or kill(pool(worker)), "the attempt has failed")
    (order,) = stage.until(ORDER)
    stage.end(worker)

    assert order.json == [[0, 0], [0, 1], [0, 5], [0, 9]]
    assert len(stage.partner.calls(STOPS)) == 2
    failed, succeeded = tours(worker)
    assert (failed["outcome"], failed["detail"]) == ("failed", "worker.runtime.cpu.CpuProcessDied")
    assert (succeeded["outcome"], succeeded["attempt"]) == ("succeeded", 2)
