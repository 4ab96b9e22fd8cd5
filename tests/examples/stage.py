"""An example on stage: its files as a user copies them, a real service and broker, and the partner it talks to."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.examples.partner import Call, Partner
from tests.process.kit import Letter, Worker, Yard, eventually

SHOP: Final = Path(__file__).parent / "shop"
"""The examples, as they are shown in docs/examples.md."""

QUICK: Final = "100ms..100ms"
"""Waits between attempts for who does not test them."""


@dataclass(frozen=True)
class Stage:
    yard: Yard
    partner: Partner

    def text(self, name: str) -> str:
        """A file of the shop. All that changes is whom it talks to."""
        return re.sub(r"https://\w+\.example\.com", self.partner.url, (SHOP / name).read_text(encoding="utf-8"))

    def job(self, name: str) -> Any:
        return json.loads(self.text(name))

    def bring(self, name: str, to: str = "") -> Path:
        """A file of the shop in the folder in which the service runs."""
        return self.yard.write(to or name, self.text(name))

    def publish(self, name: str, id: str, **changed: Any) -> bytes:
        """The job of the shop, published by an outsider under this id. Its body."""
        body = json.dumps(self.job(name) | changed).encode() if changed else self.text(name).encode()
        self.yard.publish("http", body, id)
        return body

    def until(self, line: str, count: int = 1) -> list[Call]:
        """The requests of this line, once so many have been answered."""

        def answered() -> list[Call]:
            calls = [call for call in self.partner.calls(line) if call.exchange.ended is not None]
            return calls if len(calls) >= count else []

        return eventually(answered, f"{count} answers to {line!r}")

    def end(self, worker: Worker) -> None:
        """Drained, and nothing is left: no job, no dead letter."""
        assert worker.drain() == 0
        assert self.yard.left() == {}
        assert self.yard.dead() == 0

    def dead_letter(self, id: str) -> Letter:
        """The one dead letter, once it is there; it is taken out."""
        return self.yard.letters(1)[id]
