"""Fan-out, then post (shop/fan_out_then_post.json): six prices, two at a time, and one report of them all."""

from __future__ import annotations

from tests.examples.partner import said
from tests.examples.stage import QUICK, Stage
from tests.process.kit import at_once

CENTS = {"red": 110, "orange": 120, "yellow": 130, "green": 140, "blue": 150, "violet": 160}
REPORT = "POST /reports"


def test_one_price_that_fails_is_asked_for_again_and_no_other(stage: Stage) -> None:
    for number, (color, cents) in enumerate(CENTS.items()):
        stage.partner.on(f"GET /prices/{color}", said({"cents": cents}, ms=300 - 40 * number))
    stage.partner.on("GET /prices/yellow", 500, 500, 500, said({"cents": CENTS["yellow"]}))
    stage.partner.on(REPORT, 201)
    worker = stage.yard.start(backoff=QUICK)
    stage.publish("fan_out_then_post.json", "prices-1")
    (report,) = stage.until(REPORT)
    stage.end(worker)

    assert report.json == {"cents": list(CENTS.values())}  # in call order
    prices = stage.partner.calls()[:-1]
    assert {call.line: call.key for call in prices} == {
        f"GET /prices/{color}": f"prices-1/prices/{number}" for number, color in enumerate(CENTS)
    }
    asked = [call.line for call in prices]
    assert {color: asked.count(f"GET /prices/{color}") for color in CENTS} == dict.fromkeys(CENTS, 1) | {"yellow": 4}
    assert at_once(call.exchange for call in prices) == 2
    assert stage.partner.lines().count(REPORT) == 1
