"""Jobs in numbers: each done once, as many at once as the limits say, nothing left behind."""

from __future__ import annotations

from tests.process.kit import Yard, at_once, counted, eventually
from worker.dev.target import Exchange, Target

ORDERS = """
from worker import Context, Registry

registry = Registry()


@registry.handler("order", key=lambda order: order["tenant"])
async def order(order: dict, context: Context) -> None:
    await context.request("GET", order["url"])


@registry.handler("import", concurrency=2)
async def import_(job: dict, context: Context) -> None:
    await context.request("GET", job["url"])
"""


def answered(target: Target) -> list[Exchange]:
    return [one for one in target.ledger() if one.ended is not None]


def test_a_hundred_jobs_run_twenty_at_once_and_each_once(yard: Yard, target: Target) -> None:
    yard.declare()
    ids = yard.http_jobs(f"{target.url}/ok?ms=300", 100)
    worker = yard.start(concurrency="20")

    eventually(lambda: len(answered(target)) >= 100, "100 answers")
    eventually(lambda: worker.ask("/jobs")[1].strip() == "[]", "nothing is in flight")
    assert worker.drain() == 0

    ledger = target.ledger()
    assert sorted(one.key or "" for one in ledger) == sorted(f"{job}/request" for job in ids)
    assert {one.status for one in ledger} == {200}
    assert 15 <= at_once(ledger) <= 20
    assert yard.left() == {}
    assert yard.dead() == 0


def test_keys_and_types_hold_their_own_limits_and_leave_the_others_alone(yard: Yard, target: Target) -> None:
    yard.write("orders.py", ORDERS)
    yard.write("worker.toml", '[limits."tenant-7"]\nconcurrency = 3\n')
    yard.declare()
    for number in range(12):
        yard.publish("order", {"tenant": "tenant-7", "url": f"{target.url}/ok?ms=150&seven"}, f"seven-{number}")
        yard.publish("order", {"tenant": "tenant-8", "url": f"{target.url}/ok?ms=150&eight"}, f"eight-{number}")
        yard.publish("import", {"url": f"{target.url}/ok?ms=150&import"}, f"import-{number}")
    # Prefetch far above concurrency: enough may wait for a busy key here, and none has to be parked.
    worker = yard.start("orders:registry", concurrency="40", prefetch="100")

    eventually(lambda: len(answered(target)) >= 36, "36 answers")
    assert worker.drain() == 0

    ledger = target.ledger()
    assert set(counted(ledger).values()) == {1}
    assert at_once(one for one in ledger if "seven" in one.path) == 3
    assert at_once(one for one in ledger if "import" in one.path) == 2
    assert at_once(one for one in ledger if "eight" in one.path) > 6
    assert yard.left() == {}
    assert yard.dead() == 0


def test_a_busy_key_is_parked_and_costs_no_attempt(yard: Yard, target: Target) -> None:
    yard.write("orders.py", ORDERS)
    yard.write("worker.toml", '[limits."tenant-7"]\nconcurrency = 1\n')
    yard.declare()
    for number in range(4):
        yard.publish("order", {"tenant": "tenant-7", "url": f"{target.url}/ok?ms=400"}, f"seven-{number}")
    # Two slots and a prefetch of four: one may wait for the key, the others make room for who can run.
    worker = yard.start("orders:registry", concurrency="2", prefetch="4")

    eventually(lambda: len(answered(target)) >= 4, "4 answers")
    assert worker.metrics()["worker_parked_total reason=busy_key"] >= 1
    assert {line["attempt"] for line in worker.lines("job.finished")} == {1}
    assert worker.drain() == 0
    assert at_once(target.ledger()) == 1
    assert len(target.ledger()) == 4
    assert yard.left() == {}
