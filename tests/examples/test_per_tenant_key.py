"""A key per tenant (shop/per_tenant_key.*): its jobs run one at a time, and nobody else waits for them."""

from __future__ import annotations

from tests.examples.partner import said
from tests.examples.stage import Stage
from tests.process.kit import at_once

SEVEN, EIGHT = "POST /tenants/7/sync", "POST /tenants/8/sync"


def test_one_tenant_runs_one_at_a_time_while_another_runs_on(stage: Stage) -> None:
    stage.partner.on(SEVEN, said({}, ms=300))
    stage.partner.on(EIGHT, said({}, ms=300))
    stage.bring("per_tenant_key.toml", to="worker.toml")
    stage.yard.declare()
    for number in range(3):
        stage.publish("per_tenant_key.json", f"seven-{number}")
    for number in range(8):
        url = f"{stage.partner.url}/tenants/8/sync"
        stage.publish("per_tenant_key.json", f"eight-{number}", url=url, limit_key="tenant-8")
    worker = stage.yard.start(attempts="1")
    seven, eight = stage.until(SEVEN, 3), stage.until(EIGHT, 8)
    stage.end(worker)

    assert at_once(call.exchange for call in seven) == 1
    assert at_once(call.exchange for call in eight) == 4
    # Who came later, of another tenant, was served while the first one's jobs waited for each other.
    assert min(call.exchange.started for call in eight) < max(call.exchange.started for call in seven)
    assert (len(seven), len(eight)) == (3, 8)
