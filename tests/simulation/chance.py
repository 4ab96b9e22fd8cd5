"""Everything that is left to chance in one run, from one seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final

AT: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "publish": {
        "publish": ("fails", "arrives unconfirmed", "late confirm", "late arrival", "no confirm", "arrives after all"),
        "loss": ("lost before", "lost after"),
        "death": ("dies before", "dies after"),
    },
    "settle": {
        "loss": ("lost before", "lost after", "lost on the way", "full"),
        "death": ("dies before", "dies after"),
    },
    "flush": {"loss": ("lost before", "lost after", "lost soon", "lost soon"), "death": ("dies before", "dies after")},
    "deliver": {"loss": ("lost before", "lost after"), "death": ("dies before", "dies after")},
    "consume": {"loss": ("lost after",), "death": ("dies before", "dies after")},
    "stop": {"loss": ("lost before", "lost after"), "death": ("dies before", "dies after")},
    "close": {"loss": ("lost before",), "death": ("dies before", "dies after")},
}
"""Which faults can happen at which operation of the broker, by family."""

RARER: Final = {"deliver": 0.25, "stop": 2.0, "close": 2.0, "publish": 2.0, "flush": 4.0}
"""How often a fault comes at an operation, compared to others: there are many deliveries and few drains."""

TIMED: Final = ("loss", "death", "refusal", "restart")
"""Families of which faults come at any time, too."""

FAMILIES: Final = {"loss": 0.7, "publish": 0.5, "death": 0.35, "drain": 0.5, "refusal": 0.4, "restart": 0.4}
"""How likely a run has faults of a family at all: many runs without deaths, in which nothing may be repeated."""


class Chance:
    """The dice of a run, and how many faults of which families it may still throw."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.processes = self.dice.choice((1, 1, 1, 2, 3))
        self.families = [name for name, likely in FAMILIES.items() if self.dice.random() < likely]
        self.budget = self.dice.randint(0, 12)
        self.often = self.dice.choice((0.02, 0.05, 0.1, 0.3))
        self.jobs = self.dice.choice((self.dice.randint(3, 12), self.dice.randint(8, 20)))
        self.slow_acks = self.dice.choice((0.1, 0.3, 0.9))
        """How many settlements the broker takes its time to process."""
        self.rollings = self.dice.choice((0, 1, 3)) if "drain" in self.families else 0
        """Rolling restarts of all processes."""
        self.grace = self.dice.choice((10.0, 16.0))
        self.pace = self.dice.choice((0.05, 0.5, 1.5))
        """The longest time between two publishes, in seconds."""
        self.give_backs_count = self.dice.random() < 0.5
        """Whether what is given back counts as a failed delivery, as it does before RabbitMQ 4.3."""
        self.redelivery = self.dice.choice(("in order", "shuffled", "among others"))

    def strikes(self, operation: str) -> str:
        """The fault that happens at this operation; empty for none."""
        often = self.often * RARER.get(operation, 1.0)
        if self.budget <= 0 or self.dice.random() >= often:
            return ""
        families = [AT[operation][family] for family in self.families if family in AT[operation]]
        if not families:
            return ""
        self.budget -= 1
        return self.dice.choice(self.dice.choice(families))

    def strikes_now(self) -> str:
        """The family of a fault that comes at its own time; empty for none."""
        families = [family for family in TIMED if family in self.families]
        if self.budget <= 0 or not families:
            return ""
        self.budget -= 1
        return self.dice.choice(families)

    def between(self, low: float, high: float) -> float:
        return self.dice.uniform(low, high)
