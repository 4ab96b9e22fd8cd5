"""A long poll (shop/long_poll.py): ordered once, asked for until it is ready, and no slot held meanwhile."""

from __future__ import annotations

from tests.examples.partner import said
from tests.examples.stage import Stage
from tests.process.kit import eventually

ORDERED, REPORT, INBOX = "POST /reports", "GET /reports/r-1", "POST /inbox"


def test_it_is_asked_for_until_it_is_ready_and_others_have_the_slot(stage: Stage) -> None:
    stage.partner.on(ORDERED, said({"id": "r-1"}, 202))
    stage.partner.on(REPORT, 202)
    stage.partner.on(INBOX, 201)
    stage.partner.on("GET /ping", 200)
    stage.bring("long_poll.py")
    worker = stage.yard.start("long_poll:registry", concurrency="1", attempts="1")
    stage.yard.publish("report.fetch", {"month": "2026-10"}, "report-10")

    stage.until(REPORT, 1)
    eventually(lambda: stage.yard.waiting(f"{stage.yard.queue}.wait.1s"), "it waits in the broker")
    stage.yard.http_jobs(f"{stage.partner.url}/ping", 3)
    stage.until("GET /ping", 3)
    stage.until(REPORT, 2)
    stage.partner.on(REPORT, said({"month": "2026-10", "sales": 12}))
    (inbox,) = stage.until(INBOX)
    stage.end(worker)

    assert inbox.json == {"month": "2026-10", "sales": 12}
    assert len(stage.partner.calls(ORDERED)) == 1
    assert [call.exchange.status for call in stage.partner.calls(REPORT)][-1] == 200
    ended = [line for line in worker.lines("job.finished") if line["type"] == "report.fetch"]
    assert {line["attempt"] for line in ended} == {1}
    assert [line["outcome"] for line in ended] == ["snoozed"] * (len(ended) - 1) + ["succeeded"]
