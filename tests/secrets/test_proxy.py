"""A proxy's login goes to the proxy, and is in nothing that anybody can read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Brokers
from tests.process.kit import eventually
from tests.secrets.canaries import Canaries
from tests.secrets.plays import SPENT, play
from tests.secrets.running import Running, SecretYard, judge
from tests.secrets.targets import Target, answer

PUBLIC = "http://93.184.216.34"
"""Never dialled: the proxy is."""

FIRST_TRY = {"retry": {"attempts": 1}}


@pytest.fixture
def yard(brokers: Brokers, tmp_path: Path) -> Iterator[SecretYard]:
    with SecretYard(brokers.for_faults().url, tmp_path, {"PYTHONASYNCIODEBUG": "1"}) as found:
        yield found


@pytest.mark.timeout(300)
def test_a_proxy_that_takes_refuses_and_repeats_the_login(yard: SecretYard) -> None:
    canaries = Canaries()
    with Target() as proxy:
        proxy.answers[f"{PUBLIC}/login"] = lambda request: answer("407 Who are you", request)
        proxy.answers[f"{PUBLIC}/echo"] = lambda request: answer("400 No", request)
        proxy.answers["93.184.216.34:443"] = lambda request: answer(f"403 {len(request)}", request)
        login = f"worker:{canaries.operator('password of the proxy')}"
        yard.write("proxy", f"http://{login}@127.0.0.1:{proxy.port}")
        settings = {"http_proxy_file": "proxy", "log": "debug", "attempts": "1"}
        running = Running(yard, canaries, settings)
        query = canaries.publisher("query of a request by a proxy")
        plays = [
            play("taken", "http_status", url=f"{PUBLIC}/none?t={query}"),
            play("echoed", "http_status", url=f"{PUBLIC}/echo"),
            play("refused", SPENT, url=f"{PUBLIC}/login", **FIRST_TRY),
            play("tunnel", SPENT, url="https://93.184.216.34/", **FIRST_TRY),
        ]
        running.publish(plays)
        eventually(lambda: yard.dead() == len(plays), "all are dead")
        running.jobs()
        running.look()
        running.command("config")
        running.end()
        sinks = [*running.sinks, *judge(plays, yard.take(f"{yard.queue}.dead"), canaries)]
    assert len([one for one in proxy.heard if b"\r\nproxy-authorization: basic " in one.lower()]) == len(plays)
    canaries.saw(*proxy.heard)
    assert canaries.leaks(sinks) == []
    assert canaries.idle() == set()
