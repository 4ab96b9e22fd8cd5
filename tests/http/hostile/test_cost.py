"""What floods and bombs cost: memory, time of the loop, sockets. Measured in a process that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.http.hostile.behaviour import GOOD, says
from tests.http.hostile.corpus import CORPUS, Certificates, stand
from tests.http.hostile.farm import Farm

COSTLY = [behaviour for behaviour in CORPUS if behaviour.costly]
MOST_MEMORY = 16 << 20
LONGEST_TURN = 0.1
SHORT = 0.4


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def cost(request: pytest.FixtureRequest) -> dict[str, Any]:
    with Farm() as farm:
        certificates = Certificates()
        stands = [stand(farm, certificates, behaviour) for behaviour in COSTLY]
        port, _ = farm.open(says(GOOD))
        given = {
            "authority": certificates.authority,
            "good": f"http://127.0.0.1:{port}/",
            "calls": [
                {
                    "name": one.behaviour.name,
                    "method": one.request.method,
                    "url": one.url,
                    "body": len(one.request.body or b""),
                    "timeout": SHORT if one.is_timed else one.request.timeout,
                }
                for one in stands
            ],
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.http.hostile.probe", request.param],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    taken: dict[str, Any] = json.loads(done.stdout)
    return taken


def test_each_ended_as_it_must(cost: dict[str, Any]) -> None:
    ends = {one["name"]: one["end"] for one in cost["calls"]}
    assert [one.name for one in COSTLY if ends[one.name] not in one.end.split("|")] == []


def test_memory_is_bounded(cost: dict[str, Any]) -> None:
    assert {one["name"]: one["grown"] for one in cost["calls"] if one["grown"] > MOST_MEMORY} == {}


def test_the_loop_turns(cost: dict[str, Any]) -> None:
    assert {one["name"]: one["turn"] for one in cost["calls"] if one["turn"] > LONGEST_TURN} == {}


def test_no_socket_is_left(cost: dict[str, Any]) -> None:
    """Not even those of peers that read nothing, with megabytes still to be written to them."""
    assert cost["left_open"] <= 0
