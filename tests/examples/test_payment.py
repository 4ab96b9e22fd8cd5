"""A payment (shop/payment.json): repeated only when surely not sent; its key makes a repeat by hand harmless."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.examples.partner import CUT, Partner, said
from tests.examples.stage import QUICK, Stage
from tests.process.kit import eventually
from worker.dev.target_script import Answer, Request

CHARGE = "POST /charges"


@dataclass
class Bank:
    """Charges once per Idempotency-Key, and loses the line after the first time."""

    charged: Counter[str] = field(default_factory=Counter)

    def answer(self, request: Request) -> Answer:
        key = request.headers["idempotency-key"]
        if key in self.charged:
            return said({"charge": "ch_1"})
        self.charged[key] += 1
        return CUT


def test_a_charge_that_may_have_been_made_is_not_repeated_but_by_hand(stage: Stage) -> None:
    bank = Bank()
    stage.partner.on(CHARGE, bank.answer)
    worker = stage.yard.start(backoff=QUICK)
    stage.publish("payment.json", "pay-7")
    eventually(stage.yard.dead, "it is dead")
    (letter,) = json.loads(stage.yard.command("dead", "list", "--json").stdout)
    assert (letter["id"], letter["reason"], letter["attempts"]) == ("pay-7", "not_repeated", 1)
    assert stage.partner.lines() == [CHARGE]

    replayed = stage.yard.command("dead", "replay", "pay-7")
    assert (replayed.returncode, replayed.stderr) == (0, "")
    first, second = stage.until(CHARGE, 2)
    stage.end(worker)

    assert first.key == second.key == "pay-7/charge"
    assert first.json == second.json == {"order": 7, "cents": 1250}
    assert bank.charged == {"pay-7/charge": 1}


def test_a_charge_that_was_surely_not_sent_is_tried_again(stage: Stage, tmp_path: Path) -> None:
    bank = Partner(tmp_path / "bank.ledger")  # it does not listen yet
    worker = stage.yard.start(backoff="1s..1s")
    stage.publish("payment.json", "pay-8", url=f"{bank.url}/charges")
    (failed,) = eventually(lambda: worker.lines("job.finished"), "the first attempt is over")
    assert (failed["outcome"], failed["then"], failed["requests"]) == ("failed", "parked", 3)
    with bank:
        bank.on(CHARGE, 201)
        eventually(bank.calls, "it is charged")
        stage.end(worker)
        assert [call.key for call in bank.calls()] == ["pay-8/charge"]
