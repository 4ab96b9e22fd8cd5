"""`worker publish`: the wire format, the confirms, and what can be wrong."""

from __future__ import annotations

import re
import signal
import time
from urllib.parse import urlsplit

import pytest

from tests.cli.conftest import Broker, Cli, headers_of
from worker.cli.publishing import IN_FLIGHT
from worker.dev.ports import free_ports


def test_a_job_as_the_contract_describes_it(cli: Cli, broker: Broker) -> None:
    before = int(time.time())
    ended = cli("publish", "order.sync", '{"id": 7}', "--id", "order-7", "--declare")
    assert (ended.code, ended.out, ended.err) == (0, f"published order-7 to {broker.queue}\n", "")
    found = broker.take(broker.queue)
    assert found is not None
    properties, body = found
    assert body == b'{"id": 7}'
    assert (properties.type, properties.message_id) == ("order.sync", "order-7")
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
    assert before <= (properties.timestamp or 0) <= time.time()
    assert headers_of(properties) == {}


def test_many_have_ids_of_their_own(cli: Cli, broker: Broker) -> None:
    broker.declare()
    ended = cli("publish", "t", "--count", "450")
    assert (ended.code, ended.out) == (0, f"published 450 to {broker.queue}\n")
    assert broker.count(broker.queue) == 450
    taken = [broker.take(broker.queue) for _ in range(450)]
    assert {one[1] for one in taken if one} == {b"{}"}
    assert len({one[0].message_id for one in taken if one}) == 450


def test_an_id_is_numbered(cli: Cli, broker: Broker) -> None:
    broker.declare()
    assert cli("publish", "t", "--count", "3", "--id", "run").code == 0
    taken = [broker.take(broker.queue) for _ in range(3)]
    assert {one[0].message_id for one in taken if one} == {"run-1", "run-2", "run-3"}


def test_a_delay_is_a_time_in_a_header(cli: Cli, broker: Broker) -> None:
    broker.declare()
    before = time.time()
    assert cli("publish", "t", "{}", "--delay", "10m").code == 0
    found = broker.take(broker.queue)
    assert found is not None
    due = headers_of(found[0])["x-worker-not-before"]
    assert isinstance(due, int)
    assert (before + 600) * 1000 - 1 <= due <= (time.time() + 600) * 1000 + 1


def test_a_deadline_is_a_time_in_a_header(cli: Cli, broker: Broker) -> None:
    broker.declare()
    before = time.time()
    assert cli("publish", "t", "{}", "--delay", "5m", "--deadline", "1h").code == 0
    found = broker.take(broker.queue)
    assert found is not None
    headers = headers_of(found[0])
    assert headers.keys() == {"x-worker-not-before", "x-worker-deadline"}
    until = headers["x-worker-deadline"]
    assert isinstance(until, int)
    assert (before + 3600) * 1000 - 1 <= until <= (time.time() + 3600) * 1000 + 1


@pytest.mark.parametrize("payload", ["@job.json", "-"])
def test_the_payload_may_be_elsewhere(cli: Cli, broker: Broker, payload: str) -> None:
    broker.declare()
    (cli.directory / "job.json").write_bytes(b'["here"]')
    assert cli("publish", "t", payload, given='["here"]').code == 0
    found = broker.take(broker.queue)
    assert found is not None
    assert found[1] == b'["here"]'


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("t", '{"a": 1, "a": 2}'), "invalid value for the payload: a name stands twice in one object"),
        (("t", '{"a": 1,\n "b": nil}'), "invalid value for the payload: not JSON: Expecting value at character 15"),
        (("t", ""), "invalid value for the payload: it is empty, and JSON is needed"),
        (("t", "-"), "invalid value for the payload: it is empty, and JSON is needed"),
        (("t", "@."), "invalid value for the payload: .: Is a directory"),
        (("t", "@nowhere.json"), "invalid value for the payload: nowhere.json: No such file"),
        (("t", "{}", "--delay", "soon"), "invalid value for --delay: 'soon' is not a duration"),
        (("t", "{}", "--delay", "31d"), "invalid value for --delay: 31d is more than the 30d"),
        (("t", "{}", "--deadline", "soon"), "invalid value for --deadline: 'soon' is not a duration"),
        (("t", "{}", "--deadline", "0"), "invalid value for --deadline: 0 must be longer than 0"),
        (("t", "{}", "--deadline", "9999999999d"), "invalid value for --deadline: 9999999999d is beyond"),
        (
            ("t", "{}", "--delay", "1h", "--deadline", "60m"),
            "invalid value for --deadline: 60m must be longer than the 1h",
        ),
        (("t", "{}", "--timeout", "1s"), "invalid value for --timeout: it is for --wait"),
        (("t", "{}", "--wait", "--timeout", "soon"), "invalid value for --timeout: 'soon' is not a duration"),
        (("t", "{}", "--id", "a b"), "invalid value for --id: 'a b' is not an id"),
        (("", "{}"), "invalid value for TYPE: 1 to 255 bytes"),
    ],
)
def test_what_no_worker_would_take_is_refused(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    ended = cli("publish", *arguments)
    assert ended.code == 2
    assert len(ended.errors) == 1
    assert ended.errors[0].startswith(said)


def test_a_body_that_is_too_large_for_the_worker_is_doubted(cli: Cli, broker: Broker) -> None:
    broker.declare()
    ended = cli("publish", "t", '"0123456789"', WORKER_MAX_BODY="10")
    assert ended.code == 0
    assert ended.err.startswith("warning: 12 bytes are more than max_body 10")


def test_a_queue_that_is_missing_is_named_with_the_fix(cli: Cli, broker: Broker) -> None:
    ended = cli("publish", "t", "--count", "300")
    assert ended.code == 1
    assert ended.errors == [
        f"queue '{broker.queue}' does not exist: start the worker once, or add --declare; 0 of 300 were published"
    ]
    assert ended.out == ""


def test_an_interrupted_publish_says_how_far_it_came(cli: Cli, broker: Broker) -> None:
    broker.declare()
    with cli.started("publish", "t", "--count", "1000000") as process:
        deadline = time.monotonic() + 30
        # More than wait for their confirms at once: so it has heard of some.
        while broker.count(broker.queue) <= IN_FLIGHT and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    said = re.fullmatch(r"interrupted: ([0-9]+) of 1000000 were published for certain\n", err)
    assert said is not None
    assert 0 < int(said[1]) <= broker.count(broker.queue)


def test_a_queue_with_other_arguments_is_refused(cli: Cli, broker: Broker) -> None:
    broker.channel.queue_declare(broker.queue, durable=True)
    ended = cli("publish", "t", "--declare")
    assert ended.code == 78
    assert "is there with other arguments" in ended.errors[0]


def test_a_wrong_password_is_a_refusal_with_a_hint(cli: Cli, broker: Broker) -> None:
    place = urlsplit(broker.url)
    ended = cli("publish", "t", WORKER_AMQP_URL=f"amqp://guest:wr0ng@{place.hostname}:{place.port}/")
    assert ended.code == 78
    assert "refuses the user 'guest': check user and password in WORKER_AMQP_URL" in ended.errors[0]
    assert "wr0ng" not in ended.err


def test_nobody_listening_is_told_within_the_patience(cli: Cli) -> None:
    url = f"amqp://127.0.0.1:{free_ports(1)[0]}"
    began = time.monotonic()
    ended = cli("publish", "t", "--connect-timeout", "500ms", "--amqp-url", url)
    assert time.monotonic() - began < 10
    assert ended.code == 69
    assert len(ended.errors) == 1
    assert ended.errors[0].startswith(f"the broker cannot be reached: {url}/: ")
    assert ended.err.startswith("warning: the broker cannot be reached yet, trying for 0.5 s")
