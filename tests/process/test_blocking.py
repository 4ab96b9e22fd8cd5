"""CPU-bound work in a real service: computed beside it, or named when it blocks the loop."""

from __future__ import annotations

import psutil

from tests.process.kit import Worker, Yard, eventually, is_alive

APP = """
    import os, time
    from pathlib import Path
    from worker import Context, CpuProcessDied, Registry

    registry = Registry()


    def total(n):
        return sum(range(n)), os.getpid()


    def dies_once(note):
        if not Path(note).exists():
            Path(note).touch()
            os._exit(3)
        return "survived"


    def spin(note):
        Path(note).write_text(str(os.getpid()))
        while True:
            pass


    @registry.handler("total")
    async def on_total(payload: dict, context: Context) -> None:
        value, pid = await context.run_cpu(total, payload["n"])
        assert value == sum(range(payload["n"]))
        assert pid != os.getpid()


    @registry.handler("dies", backoff=("10ms", "20ms"))
    async def on_dies(payload: dict, context: Context) -> None:
        assert await context.run_cpu(dies_once, payload["note"]) == "survived"


    @registry.handler("spin", timeout=1, attempts=1)
    async def on_spin(payload: dict, context: Context) -> None:
        await context.run_cpu(spin, payload["note"])


    @registry.handler("spin.long")
    async def on_spin_long(payload: dict, context: Context) -> None:
        await context.run_cpu(spin, payload["note"])


    @registry.handler("blocks")
    async def sleepy(payload: dict) -> None:
        time.sleep(1.6)
"""


def started(yard: Yard) -> Worker:
    yard.write("shop.py", "\n".join(line.removeprefix("    ") for line in APP.splitlines()))
    return yard.start("shop:registry", cpu_processes="2", drain_timeout="8s", job_timeout="2m")


def finished(worker: Worker, count: int) -> dict[str, dict[str, object]]:
    lines = eventually(
        lambda: len(found := worker.lines("job.finished")) >= count and found, f"{count} ends of attempts"
    )
    assert lines
    return {str(line["id"]): line for line in lines}


def test_a_process_that_dies_is_a_failed_attempt_and_harms_nobody(yard: Yard) -> None:
    worker = started(yard)
    yard.publish("dies", {"note": str(yard.directory / "died")}, "dies")
    for number in range(5):
        yard.publish("total", {"n": 1000}, f"total-{number}")
    ends = finished(worker, 7)
    assert {str(end["outcome"]) for end in ends.values()} == {"succeeded"}
    assert ends["dies"]["attempt"] == 2
    (died,) = worker.lines("cpu.process_died")
    assert (died["function"], died["ended"], died["id"]) == ("shop.dies_once", "with exit code 3", "dies")
    (failed,) = [line for line in worker.lines("job.finished") if line["outcome"] == "failed"]
    assert failed["error"] == "worker.runtime.cpu.CpuProcessDied"
    assert worker.lines("replica.died") == []
    assert worker.drain() == 0


def test_a_job_timeout_ends_the_process(yard: Yard) -> None:
    worker, note = started(yard), yard.directory / "note"
    yard.publish("spin", {"note": str(note)}, "spins")
    end = finished(worker, 1)["spins"]
    assert (end["outcome"], end["detail"]) == ("failed", "1 attempts, the last: timeout after 1 s")
    eventually(lambda: not is_alive(int(note.read_text())), "its process has ended")
    yard.publish("total", {"n": 10}, "next")
    assert finished(worker, 2)["next"]["outcome"] == "succeeded"
    assert worker.drain() == 0


def test_a_killed_worker_leaves_no_process_behind(yard: Yard) -> None:
    started(yard)
    note = yard.directory / "note"
    yard.publish("spin.long", {"note": str(note)}, "spins")
    pid = int(eventually(lambda: note.exists() and note.read_text(), "it computes") or 0)
    psutil.Process(psutil.Process(pid).ppid()).kill()
    eventually(lambda: not is_alive(pid), "its process has ended")


def test_a_drain_ends_what_computes_and_gives_the_job_back(yard: Yard) -> None:
    worker, note = started(yard), yard.directory / "note"
    yard.publish("spin.long", {"note": str(note)}, "spins")
    pid = int(eventually(lambda: note.exists() and note.read_text(), "it computes") or 0)
    assert worker.drain() == 0
    assert not is_alive(pid)
    assert yard.left() == {yard.queue: 1}


def test_a_handler_that_blocks_the_loop_is_named(yard: Yard) -> None:
    worker = started(yard)
    yard.publish("blocks", {}, "b-1")
    finished(worker, 1)
    (blocks,) = eventually(lambda: worker.lines("handler.blocks_loop"), "it is named")
    (blocked,) = eventually(lambda: worker.lines("handler.blocked_loop"), "and how long it took")
    assert (blocks["type"], blocks["id"], blocks["level"]) == ("blocks", "b-1", "warning")
    assert "shop.py:" in blocks["at"]
    assert blocks["at"].endswith(" sleepy")
    assert blocked["seconds"] >= 1.5
    assert worker.drain() == 0
