"""What filling the templates of one step may cost: counted before it is spent, so that none can hold up the loop."""

from __future__ import annotations

from json.encoder import encode_basestring_ascii
from typing import Any, Final

MAX_VISITS: Final = 150_000
"""Nodes of expressions evaluated and elements looked at: some 15 ms at worst (tests/benchmarks/templates.py)."""

MAX_TEXT: Final = 4 * 1024 * 1024
"""Bytes that may come out of results, as they are sent in JSON."""

MAX_ELEMENT_TEXT: Final = 2 * 1024 * 1024
"""The same for one element of a fan-out, of which hundreds may be on their way at once."""

_BYTES_PER_VISIT: Final = 64
_NUMBER: Final = 24
"""Bytes of the longest number of 64 bits, integer or double."""


class TemplateFault(Exception):
    """A template that is refused, or cannot be filled.

    The text is for whoever published the job: it names the place and the kind of fault, never what a result holds.
    """


class Budget:
    """What is left for one rendering. All templates of one step share one: its URL, query, headers and body."""

    __slots__ = ("_text", "_visits", "_weights", "text", "visits")

    def __init__(self, visits: int = MAX_VISITS, text: int = MAX_TEXT) -> None:
        self._visits = self.visits = visits
        self._text = self.text = text
        # Each with its value, which it keeps alive: an id may be given again as soon as a value is gone.
        self._weights: dict[int, tuple[Any, int, int]] = {}

    def visit(self, count: int) -> None:
        """Take `count` visits; a TemplateFault when they are not there."""
        if count > self.visits:
            raise TemplateFault(f"the templates of one step may look at {self._visits} values in all, these need more")
        self.visits -= count

    def produce(self, size: int) -> None:
        """Take `size` bytes of text, and the visits that handling them costs; a TemplateFault when there are fewer."""
        if size > self.text:
            raise TemplateFault(f"the templates of one step may produce {self._text} bytes in all, these would be more")
        self.text -= size
        self.visit(size // _BYTES_PER_VISIT)

    def weigh(self, value: Any) -> int:
        """The bytes of `value` as JSON, numbers counted at their longest.

        A value is looked at once, and each time costs the visits of the first: that often it will be written.
        """
        if not isinstance(value, list | dict):
            return self._weigh(value)
        if (known := self._weights.get(id(value))) is None:
            before = self.visits
            size = self._weigh(value)
            self._weights[id(value)] = value, size, before - self.visits
            return size
        self.visit(known[2])
        return known[1]

    def _weigh(self, value: Any) -> int:
        size = 0
        rest = [value]
        while rest:
            one = rest.pop()
            if isinstance(one, str):
                # The length alone may be too much already: then it is not worth a copy.
                size += len(one) if len(one) > self.text else len(encode_basestring_ascii(one))
            elif isinstance(one, list):
                self.visit(len(one) + 2)
                size += len(one) + 2
                rest += one
            elif isinstance(one, dict):
                self.visit(2 * len(one) + 2)
                size += 2 * len(one) + 2
                rest += one
                rest += one.values()
            else:
                size += _NUMBER
            if size > self.text:
                break
        return size
