"""A requester (shop/reply_to_requester.py): it waits for the result in a queue of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.examples.partner import said
from tests.examples.stage import QUICK, Stage

PRICE = "GET /prices/red"


def ask(stage: Stage, job: dict[str, Any]) -> Any:
    """What the program of the shop prints; it is nobody the worker knows."""
    program = stage.bring("reply_to_requester.py")
    told = {"AMQP_URL": stage.yard.url, "QUEUE": stage.yard.queue}
    ended = subprocess.run(
        [sys.executable, program, json.dumps(job)],
        env=os.environ | told,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


def test_it_gets_the_value_of_a_job_that_is_done_and_the_reason_of_one_that_is_dead(stage: Stage) -> None:
    stage.partner.on(PRICE, 503, 503, 503, said({"cents": 110}))
    worker = stage.yard.start(backoff=QUICK)
    job = {"url": f"{stage.partner.url}/prices/red", "save": "json.cents"}

    done = ask(stage, job)
    assert (done["status"], done["attempts"], done["value"]) == ("succeeded", 2, {"request": 110})
    assert (done["reason"], done["detail"]) == (None, None)

    dead = ask(stage, job | {"url": f"{stage.partner.url}/prices/ultraviolet"})
    assert (dead["status"], dead["attempts"], dead["value"]) == ("dead", 1, None)
    assert (dead["reason"], dead["detail"]) == ("http_status", "status 404")

    keys = {call.key for call in stage.partner.calls()}
    assert keys == {f"{done['id']}/request", f"{dead['id']}/request"}
    assert stage.dead_letter(dead["id"]).reason == "http_status"
    stage.end(worker)
