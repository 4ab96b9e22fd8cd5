"""Rows 7, 8, 12, 13, 14: the broker dies, restarts, loses a queue or closes a channel. One process repeats nothing."""

from __future__ import annotations

import time

import pytest

from tests.faults.trial import Trial
from tests.process.kit import Worker, eventually

APP = "tests.faults.handlers:registry"
BACK = 5.0
"""Seconds after the listener is up until jobs start again."""

BAD_ACK = (
    "[rabbit_channel_common:do(C, {'basic.ack', 99999, false}) || C <- rabbit_channel:list(),"
    " proplists:get_value(consumer_count, rabbit_channel:info(C, [consumer_count])) > 0]."
)
"""What a client that settles twice sends, put into the channels of all consumers."""


def busy(trial: Trial, jobs: int = 80, ms: int = 300) -> Worker:
    """A worker in the midst of its jobs."""
    trial.declare()
    worker = trial.start(concurrency="10", prefetch="20")
    trial.publish_all(trial.jobs(jobs, f"/ok?ms={ms}&job={{}}"))
    trial.until_done(15)
    return worker


@pytest.mark.faults
def test_row_7_a_killed_broker(rough: Trial) -> None:
    busy(rough)
    rough.restart_broker(kill=True, recover=BACK)
    rough.judge()


@pytest.mark.faults
def test_row_7_a_killed_broker_with_two_workers(rough: Trial) -> None:
    """Each may get what the other one still runs: at most all that runs is repeated."""
    busy(rough, jobs=120)
    rough.start(concurrency="10", prefetch="20")
    rough.until_running(15)
    rough.restart_broker(kill=True, recover=BACK, bound=20)
    rough.judge()


@pytest.mark.faults
def test_row_8_a_broker_restarted_by_its_operator(rough: Trial) -> None:
    busy(rough)
    rough.restart_broker(recover=BACK)
    rough.judge()


@pytest.mark.faults
def test_row_8_an_application_that_is_stopped_and_started(trial: Trial) -> None:
    busy(trial)
    trial.note_complaints()
    with trial.fault("broker.stop_app", recover=BACK):
        trial.node.ctl("stop_app")
        trial.node.ctl("start_app")
    trial.judge()


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_row_8_ten_restarts_in_turn(rough: Trial) -> None:
    """From the second loss on jobs count as suspects, and still none is lost, repeated or blamed."""
    rough.declare()
    rough.start(concurrency="10", prefetch="20")
    with rough.publishing(rough.jobs(1500, "/ok?ms=200&job={}"), rate=25, patient=True) as publisher:
        for number in range(10):
            rough.until_done(20 * (number + 1))
            rough.restart_broker(recover=BACK)
        assert publisher.wait(120) == 0
        rough.judge(seconds=120)


def test_row_8_all_connections_closed(trial: Trial) -> None:
    busy(trial)
    with trial.fault("connections.closed", recover=BACK):
        trial.node.ctl("close_all_connections", "for a trial")
    trial.judge()


def test_row_13_a_channel_closed_by_the_broker(trial: Trial) -> None:
    """An acknowledgement the broker does not understand closes the channel: both lanes' channels have one."""
    worker = busy(trial)
    # What was on its way then is answered by closing the connection; there are two of each.
    with trial.fault("channel.closed", recover=BACK, errors=4):
        trial.node.ctl("eval", BAD_ACK)
        eventually(lambda: worker.lines("session.lost"), "the worker notices")
    trial.judge()
    assert len(worker.lines("session.lost")) == 1


@pytest.mark.faults
def test_row_12_a_work_queue_that_is_deleted(trial: Trial) -> None:
    """What it held is gone with it, and nobody's fault; the worker says so, and is back within 10 s."""
    trial.declare()
    worker = trial.start(concurrency="5", prefetch="10")
    trial.publish_all(trial.jobs(20, "/ok?ms=100&job={}"))
    trial.until_over()
    with trial.fault("queue.deleted", recover=10):
        trial.node.ctl("delete_queue", trial.queue)
        eventually(lambda: worker.lines("session.lost"), "it is noticed", 5)
        since = time.monotonic()
        worker.until_ready()
        assert time.monotonic() - since < 10
    trial.publish_all(trial.jobs(20, "/ok?ms=100&job={}"))
    trial.judge()


@pytest.mark.faults
def test_row_14_a_consumer_timeout_that_is_shorter_than_a_job(trial: Trial) -> None:
    """Only on purpose, for `worker check` warns of it: the job goes on, and joins its redeliveries until it is done."""
    settings = (
        "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})."
    )
    try:
        trial.node.ctl("eval", settings.format(4000, 1000))
        trial.declare()
        trial.start(APP, concurrency="5", step_timeout="30s")
        trial.publish_all(trial.jobs(3, "/delay/9000?{}", more={"timeout": 20}))
        with trial.fault("consumer.timeout", errors=4):
            trial.until_done(3)
        trial.judge()
    finally:
        trial.node.ctl("eval", settings.format(1_800_000, 60_000))
