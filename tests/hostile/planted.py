"""Workers with a bug on purpose: the APP `tests.hostile.planted:registry`, the bug named by HOSTILE_PLANT.

Each harms one message out of many, as a mistake in the handling of hostile ones would. The judge must see every one
of them from outside.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from worker import Registry
from worker.amqp.codec import decode_properties
from worker.amqp.session import Session
from worker.core import copies, job
from worker.core.message import Message, Outgoing, Properties, Undecodable
from worker.runtime import settlement
from worker.runtime.settlement import ACK, Settlements

__all__ = ["BUGS", "registry"]

registry = Registry()


def swallowed() -> None:
    """A message that is no job is acknowledged, and that is all."""
    _once(Settlements, "of_malformed", lambda made: ACK)


def altered_body() -> None:
    """The dead letter's body is what was understood of it."""
    _once(settlement, "malformed_copy", lambda made: _with(made, body=made.message.body[:-1]))


def altered_properties() -> None:
    """The bytes that nobody can read lose their last one."""

    def cut(made: Outgoing) -> Outgoing:
        raw = _headers(made).get("x-worker-raw")
        return made if raw is None else _with_headers(made, {**_headers(made), "x-worker-raw": raw[:-4]})

    _every(settlement, "malformed_copy", cut)


def without_a_reason() -> None:
    """A dead letter that does not tell why."""

    def unsaid(made: Outgoing) -> Outgoing:
        return _with_headers(made, {name: value for name, value in _headers(made).items() if name != "x-worker-reason"})

    _once(settlement, "malformed_copy", unsaid)


def reason_of_its_own() -> None:
    """A reason that is not of the closed list."""
    _once(settlement, "malformed_copy", lambda made: _with_headers(made, {**_headers(made), "x-worker-reason": "odd"}))


def twice() -> None:
    """Two dead letters for one message."""

    def doubled(made: Any) -> Any:
        (copy,) = made.copies
        properties = replace(copy.message.properties, message_id="again")
        return replace(made, copies=(copy, replace(copy, message=replace(copy.message, properties=properties))))

    _once(Settlements, "of_malformed", doubled)


def copies_to_others() -> None:
    """CC and BCC travel on, so that whoever they name gets the dead letter as well."""

    def all_but_ours(headers: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in headers.items() if not name.startswith(("x-worker-", "x-death"))}

    _set(copies, "own_headers", all_but_ours)


def believes_anyone() -> None:
    """What anybody claims to be the worker's own headers counts."""
    _set(job, "_believed", lambda properties, rules: properties.headers)


def lost_connection() -> None:
    """What cannot be read is taken for a broken connection."""
    deliver, closing = Session._deliver, set[asyncio.Task[None]]()

    def closes(self: Session, *arguments: Any) -> None:
        if isinstance(decode_properties(arguments[3]), Undecodable) and not closing:
            closing.add(asyncio.get_running_loop().create_task(self._connected.close()))
        deliver(self, *arguments)

    _set(Session, "_deliver", closes)


def crash() -> None:
    """One message ends the process."""

    def dies(made: Any) -> Any:
        os._exit(1)

    _once(Settlements, "of_malformed", dies)


def stuck() -> None:
    """A message that nobody settles."""

    def raises(made: Any) -> Any:
        raise asyncio.CancelledError

    _once(settlement, "malformed_copy", raises)


BUGS: Final[dict[str, Callable[[], None]]] = {
    bug.__name__: bug
    for bug in (
        *(swallowed, altered_body, altered_properties, without_a_reason, reason_of_its_own, twice, copies_to_others),
        *(believes_anyone, lost_connection, crash, stuck),
    )
}


def _headers(made: Outgoing) -> dict[str, Any]:
    assert isinstance(made.message.properties, Properties)
    return dict(made.message.properties.headers)


def _with(made: Outgoing, **changes: Any) -> Outgoing:
    message: Message = replace(made.message, **changes)
    return replace(made, message=message)


def _with_headers(made: Outgoing, headers: dict[str, Any]) -> Outgoing:
    assert isinstance(made.message.properties, Properties)
    return _with(made, properties=replace(made.message.properties, headers=headers))


def _every(where: object, name: str, change: Callable[[Any], Any]) -> None:
    """Change what a function makes."""
    make = getattr(where, name)
    _set(where, name, lambda *arguments, **options: change(make(*arguments, **options)))


def _once(where: object, name: str, change: Callable[[Any], Any]) -> None:
    """The same for the first call alone."""
    changes = iter([change])

    def changed(made: Any) -> Any:
        return next(changes, _as_it_is)(made)

    _every(where, name, changed)


def _as_it_is(made: Any) -> Any:
    return made


def _set(where: object, name: str, what: object) -> None:
    getattr(where, name)  # an AttributeError when it is called otherwise by now: the bug would not be planted
    setattr(where, name, what)


if planted := os.environ.get("HOSTILE_PLANT"):
    BUGS[planted]()
