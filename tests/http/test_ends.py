"""What the errors of a request mean, and what stays of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from worker import MaybeSent, NotSent, Reject, Retry, Snooze, StatusError
from worker.http.jobs.ends import is_final, strip
from worker.http.jobs.fields import QuickRetry
from worker.runtime.transport import Headers, Response

ANSWERED = StatusError(Response(500, Headers([]), b"", "https://a.example/"))


@pytest.mark.parametrize(
    ("error", "when", "final"),
    [
        (NotSent(), "any", False),
        (NotSent(), "unsent", False),
        (MaybeSent(), "any", False),
        (MaybeSent(), "unsent", True),
        (ANSWERED, "any", False),
        (ANSWERED, "unsent", True),
        (Reject(), "any", True),
        (Snooze(1), "any", True),
        (Retry(), "any", True),
        (KeyError(), "any", True),
    ],
)
def test_when_no_quick_try_follows(error: Exception, when: Any, final: bool) -> None:
    assert is_final(error, QuickRetry(when=when)) is final
    assert is_final(error, QuickRetry(when=when, attempts=1))


@pytest.mark.parametrize("error", [MaybeSent(), NotSent(), Reject(), ANSWERED, asyncio.CancelledError()])
def test_of_an_error_that_is_foreseen_nothing_stays_but_itself(error: BaseException) -> None:
    error.__cause__ = error.__context__ = OSError()
    with pytest.raises(type(error)):
        raise error
    strip(error)
    assert [error.__traceback__, error.__cause__, error.__context__].count(None) == 3


def test_of_a_bug_it_is_known_where_it_is() -> None:
    with pytest.raises(KeyError) as caught:
        raise KeyError
    strip(caught.value)
    assert caught.value.__traceback__ is not None
