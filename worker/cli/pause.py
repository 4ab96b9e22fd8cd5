"""`worker pause` and `worker resume`: orders to the processes of one `worker run`, through its admin listener."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer

from worker.cli.config import Json
from worker.cli.options import Given, takes
from worker.cli.reaching import REFUSED, UNREACHABLE
from worker.cli.terminal import error, note, print_json, printable
from worker.ops.admin_http import LONGEST_KEY
from worker.ops.probe import TIMEOUT, ask, reason_of

if TYPE_CHECKING:
    from worker.ops.settings import Settings

FAILED: Final = 1

_TOKEN_STATUSES: Final = (401, 403)

Key = Annotated[
    str | None,
    typer.Argument(metavar="KEY", help="A host or another key that limits know. Without it everything is meant."),
]


@takes(("admin", "admin_token"))
def pause(given: Given, key: Key = None, as_json: Json = False) -> int:
    """Take no more jobs until worker resume, or hold back those of one key.

    Asks the admin listener of a worker run: all its processes pause, those that are started later too, until worker
    resume or until that worker run ends. Jobs they hold already still run to their end; the rest stays in the queue.
    /ready stays true and says paused. SIGTERM drains as ever.

    With a KEY the queue is consumed as ever, but jobs of that key are parked (reason paused), and so are running ones
    when they come to a step or a request under it. That costs no attempt, but a job's maximum age goes on.

    Other hosts have workers of their own: pause each. Pausing twice is the same as once.
    """
    return _ordered(given.load().settings, "pause", key, as_json=as_json)


@takes(("admin", "admin_token"))
def resume(given: Given, key: Key = None, as_json: Json = False) -> int:
    """Take jobs again after worker pause, or let go of one key.

    Without a KEY consuming goes on, and keys that are paused stay so. With a KEY its parked jobs come back by
    themselves: the longer it was paused the longer that takes, at most half as long and never more than ten minutes.
    """
    return _ordered(given.load().settings, "resume", key, as_json=as_json)


def _ordered(settings: Settings, verb: str, key: str | None, *, as_json: bool) -> int:
    if key is not None and not (0 < len(key) <= LONGEST_KEY and key.isprintable()):
        raise typer.BadParameter(f"a key has 1 to {LONGEST_KEY} printable characters", param_hint="KEY")
    admin = settings.admin
    if admin is None:
        return _refused(f"the admin listener is off, and orders go through it: set WORKER_ADMIN to {verb}")
    if admin.port == 0:
        return _refused("WORKER_ADMIN has port 0: the worker picked one, its log tells which; give it as --admin")
    path = f"/{verb}" if key is None else f"/{verb}?key={quote(key, safe='')}"
    token = None if settings.admin_token is None else settings.admin_token.reveal()
    try:
        status, body = ask(admin.host, admin.port, f"POST {path}", token, timeout=2 * TIMEOUT)
    except (OSError, ValueError) as fault:
        error(f"no worker answers at {admin}: {reason_of(fault)}; is it running, and is WORKER_ADMIN what it has?")
        return UNREACHABLE
    answer = _read(body)
    if status in _TOKEN_STATUSES:
        return _refused(f"{admin} refuses: {printable(str(answer.get('error', status)))}")
    if status != 200 or "changed" not in answer:
        error(f"{admin} answers {status}: {printable(str(answer.get('error', 'not as a worker does')))}")
        return FAILED
    if as_json:
        print_json(answer)
    else:
        _say(answer, verb, key)
    return 0


def _read(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _say(answer: dict[str, Any], verb: str, key: str | None) -> None:
    done, replicas, keys = answer["done"], answer["replicas"], answer["paused_keys"]
    name = "" if key is None else printable(key)
    match verb, key, answer["changed"]:
        case "pause", None, True:
            print("paused: no more jobs are taken, and those that are held run on; worker resume ends it")
        case "pause", None, _:
            print("nothing changes: it was paused already")
        case "pause", _, True:
            print(f"paused {name}: its jobs are parked; worker resume {name} ends it")
        case "pause", _, _:
            print(f"nothing changes: {name} was paused already")
        case _, None, True:
            print("resumed: jobs are taken again")
        case _, None, _:
            print("nothing changes: it was not paused")
        case _, _, True:
            print(f"resumed {name}: its parked jobs come back by themselves")
        case _:
            print(f"nothing changes: {name} was not paused")
    if done < replicas:
        note(f"{done} of {replicas} processes have done so; the others will")
    if verb == "resume" and key is None and keys:
        note(f"paused still: {', '.join(map(printable, keys))}")


def _refused(text: str) -> int:
    error(text)
    return REFUSED
