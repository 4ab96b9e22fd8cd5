"""Webhook delivery (shop/webhook_delivery.json): one POST, until whoever listens has taken it or says never."""

from __future__ import annotations

import json

from tests.examples.stage import Stage
from worker.dev.target_script import Answer

HOOK = "POST /orders"


def test_it_is_delivered_once_the_listener_is_well_again(stage: Stage) -> None:
    stage.partner.on(HOOK, 503, 503, 503, 503, 200)
    worker = stage.yard.start(backoff="1s..1s")
    stage.publish("webhook_delivery.json", "paid-7")
    calls = stage.until(HOOK, 5)
    stage.end(worker)

    assert len(stage.partner.calls()) == 5
    assert {call.key for call in calls} == {"paid-7/request"}
    assert {call.request.headers["x-event"] for call in calls} == {"order.paid"}
    assert [call.json for call in calls] == [{"order": 7, "cents": 1250}] * 5
    # Three quick tries are an attempt; the next one comes when its wait in the broker is over.
    assert calls[3].exchange.started - (calls[2].exchange.ended or 0.0) >= 1


def test_a_listener_that_is_gone_for_good_is_not_asked_again(stage: Stage) -> None:
    stage.partner.on(HOOK, 410)
    worker = stage.yard.start()
    body = stage.publish("webhook_delivery.json", "paid-8")
    letter = stage.dead_letter("paid-8")
    stage.end(worker)

    assert (letter.reason, letter.detail, letter.body) == ("http_status", "status 410", body)
    assert stage.partner.lines() == [HOOK]


def test_a_listener_that_asks_to_wait_costs_no_attempt(stage: Stage) -> None:
    stage.partner.on(HOOK, Answer(429, headers=(("Retry-After", "1"),)), 200)
    worker = stage.yard.start(attempts="1")  # the one it has would be spent
    stage.publish("webhook_delivery.json", "paid-9")
    first, second = stage.until(HOOK, 2)
    stage.end(worker)

    assert second.exchange.started - (first.exchange.ended or 0.0) >= 1
    assert json.loads(first.request.body) == second.json
