"""The values that carry secrets through the worker do not show them, however they are printed."""

from __future__ import annotations

import json
import pickle
import traceback
from pathlib import Path

from tests.secrets.canaries import Canaries, Sink
from worker.cli.order import Order
from worker.cli.wiring import access_of
from worker.ops.settings import load_settings

TOML = """
amqp_url = "amqp://u:{url}@h:1/"
admin_token = "{token}"
http_proxy = "http://u:{proxy}@h:1"
[credentials.a]
bearer = "{bearer}"
origins = ["https://h"]
[credentials.b]
user = "u"
password = "{password}"
origins = ["https://h"]
[credentials.c]
header = "X"
value = "{value}"
origins = ["https://h"]
[credentials.d]
token_url = "https://h/"
client_id = "c"
client_secret = "{secret}"
origins = ["https://h"]
"""
NAMES = ("url", "token", "proxy", "bearer", "password", "value", "secret")


def test_settings_orders_and_accesses(tmp_path: Path) -> None:
    canaries = Canaries()
    secrets = {name: canaries.operator(name) for name in NAMES}
    (tmp_path / "worker.toml").write_text(TOML.format(**secrets))
    loaded = load_settings({}, {}, cwd=tmp_path)
    order = Order(loaded.settings, (), builtin=True, admin=None, version="0", json_logs=True)
    access = access_of(loaded.settings, "worker")
    shown = [
        *(f"{one!r} {one!s}" for one in (loaded, loaded.settings, order, access)),
        repr(list(loaded.rows())),
        json.dumps({name: str(one) for name, one in loaded.settings.credentials.items()}),
        raised(loaded.settings, order),
    ]
    assert canaries.leaks([Sink("shown", text) for text in shown]) == []
    canaries.saw(pickle.dumps(order))  # they are all in there: it is what a child gets
    assert canaries.idle() == set()


def raised(*values: object) -> str:
    """The traceback of an error about these values."""
    error = ValueError(*values)
    return "".join(traceback.format_exception(error))
