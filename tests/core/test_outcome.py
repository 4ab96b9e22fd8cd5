"""What a handler may raise, what is refused of it, and the closed list of reasons."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from worker.core.outcome import REASONS, JobSignal, Reject, Retry, Snooze

CONTRACT = """
    malformed no_type unknown_type invalid_payload too_large rejected http_status tls template credential
    blocked_address response_too_large result_too_large not_repeated attempts_exhausted expired crashed_worker
    delivery_limit
"""


def test_the_reasons_are_those_of_the_contract() -> None:
    assert frozenset(CONTRACT.split()) == REASONS


def test_a_retry_without_a_wait_leaves_it_to_the_backoff() -> None:
    retry = Retry("later")
    assert (str(retry), retry.after, retry.spent) == ("later", None, "attempts_exhausted")


@pytest.mark.parametrize("seconds", [0, 0.5, 3600, float("inf")])
def test_a_wait_is_any_time_that_is_not_negative(seconds: float) -> None:
    assert Retry(after=seconds).after == seconds
    assert Snooze(seconds).delay == seconds


@pytest.mark.parametrize("seconds", [-1, -0.001, float("-inf"), float("nan")])
@pytest.mark.parametrize("signal", [lambda wait: Retry(after=wait), Snooze], ids=["Retry", "Snooze"])
def test_a_negative_wait_is_refused_where_it_is_written(signal: Callable[[float], object], seconds: float) -> None:
    with pytest.raises(ValueError, match=r"a wait in seconds, 0 or more, is needed") as refused:
        signal(seconds)
    assert repr(seconds) in str(refused.value)


def test_a_snooze_says_why_in_a_word() -> None:
    assert Snooze(5).reason == "handler"
    assert Snooze(5, reason="night").reason == "night"


def test_a_reject_is_rejected_and_its_text_the_detail() -> None:
    reject = Reject("no such customer")
    assert (reject.code, reject.detail, str(reject)) == ("rejected", "no such customer", "no such customer")


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_a_reject_may_name_any_reason_of_the_list(reason: str) -> None:
    assert Reject(code=reason).code == reason  # type: ignore[arg-type] # each of them is a Reason


@pytest.mark.parametrize("reason", ["", "Rejected", "rejected ", "broken"])
def test_a_reason_outside_of_the_list_is_refused_with_the_list(reason: str) -> None:
    with pytest.raises(ValueError, match=r"one of attempts_exhausted, .* is needed"):
        Reject(code=reason)  # type: ignore[arg-type] # what is refused here


def test_signals_are_no_errors_of_the_handler_but_one_kind() -> None:
    assert all(issubclass(signal, JobSignal) for signal in (Retry, Snooze, Reject))
