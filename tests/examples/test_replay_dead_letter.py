"""A dead letter (shop/replay_dead_letter.*), looked at and sent back once the other side is mended."""

from __future__ import annotations

import shlex

from tests.examples.partner import said
from tests.examples.stage import Stage
from tests.process.kit import eventually

RESERVE, SHIP = "POST /reservations", "POST /shipments"


def test_only_what_was_not_done_is_done_by_the_replay(stage: Stage) -> None:
    stage.partner.on(RESERVE, said({"place": "A-12"}, 201))
    stage.partner.on(SHIP, 422)
    worker = stage.yard.start()
    stage.publish("replay_dead_letter.json", "order-7")
    eventually(stage.yard.dead, "it is dead")
    assert stage.partner.lines() == [RESERVE, SHIP]

    stage.partner.on(SHIP, 201)
    listed, shown, replayed = (command(stage, line) for line in stage.text("replay_dead_letter.sh").splitlines())
    stage.until(SHIP, 2)
    stage.end(worker)

    assert "order-7" in listed
    assert "status 422" in listed
    assert "http_status" in shown
    assert "A-12" in shown  # what is done already travels with the letter
    assert replayed == f"replayed order-7 to {stage.yard.queue}\n"
    assert stage.partner.lines() == [RESERVE, SHIP, SHIP]
    assert {call.key for call in stage.partner.calls(SHIP)} == {"order-7/ship"}
    assert stage.partner.calls(SHIP)[-1].json == {"order": 7, "from": "A-12"}


def command(stage: Stage, line: str) -> str:
    """What a line of the shop prints."""
    name, *arguments = shlex.split(line)
    assert name == "worker"
    ended = stage.yard.command(*arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout
