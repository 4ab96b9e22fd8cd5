"""Durations, sizes, rates and ranges: what is read, what is refused, and that what is written is read back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.units import (
    DURATION_FORMS,
    RANGE_FORMS,
    RATE_FORMS,
    SIZE_FORMS,
    Rate,
    format_duration,
    format_range,
    format_rate,
    format_size,
    parse_duration,
    parse_range,
    parse_rate,
    parse_size,
)

DURATIONS = {
    "250ms": 0.25,
    "10s": 10.0,
    "5m": 300.0,
    "2h": 7200.0,
    "1d": 86400.0,
    "30": 30.0,
    "0": 0.0,
    "1.5h": 5400.0,
    "0.25": 0.25,
    " 10 s ": 10.0,
}
SIZES = {
    "0": 0,
    "1500": 1500,
    "64KiB": 65536,
    "1MiB": 1 << 20,
    "2GiB": 2 << 30,
    "10KB": 10_000,
    "1MB": 1_000_000,
    "1.5MiB": 1_572_864,
    "64kib": 65536,
    "5 B": 5,
}
RATES = {"20/s": Rate(20, 1.0), "100/m": Rate(100, 60.0), "5000/h": Rate(5000, 3600.0), "1 / s": Rate(1, 1.0)}
RANGES = {"2s..1h": (2.0, 3600.0), "250ms..250ms": (0.25, 0.25), "1..5": (1.0, 5.0)}

REFUSED: list[tuple[Callable[[str], Any], str, str]] = [
    *((parse_duration, text, DURATION_FORMS) for text in ("", "s", "-1s", "1w", "5 minutes", "1h30m", "1e3", "1,5s")),
    *((parse_duration, text, DURATION_FORMS) for text in ("5M", "10S", "inf", "nan", "٣s", "1.s", ".5s", "9" * 40)),
    *((parse_size, text, SIZE_FORMS) for text in ("", "-1", "1TB", "64K", "64Ki", "1.5", "0.3KiB", "1e6")),
    *((parse_rate, text, RATE_FORMS) for text in ("", "20", "20/", "0/s", "-1/s", "1.5/s", "20/d", "20/min", "/s")),
    *((parse_range, text, RANGE_FORMS) for text in ("", "2s", "2s-1h", "2s...1h..", "1h..2s")[:3]),
    (parse_range, "1h..2s", RANGE_FORMS),
    (parse_range, "2s..x", DURATION_FORMS),
]


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items())
def test_a_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_a_size_is_read_as_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert type(parse_size(text)) is int


@pytest.mark.parametrize(("text", "rate"), RATES.items())
def test_a_rate_is_read(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(("text", "bounds"), RANGES.items())
def test_a_range_is_read(text: str, bounds: tuple[float, float]) -> None:
    assert parse_range(text) == bounds


@pytest.mark.parametrize(("parse", "text", "forms"), REFUSED)
def test_a_refusal_names_the_value_and_the_accepted_forms(parse: Callable[[str], Any], text: str, forms: str) -> None:
    with pytest.raises(ValueError, match="write") as refused:
        parse(text)
    assert forms in str(refused.value)
    shown = text.partition("..")[2] if parse is parse_range and forms is DURATION_FORMS else text
    assert repr(shown[:80])[:-1] in str(refused.value)


def test_a_very_long_value_is_shown_in_part() -> None:
    with pytest.raises(ValueError, match="is not a duration") as refused:
        parse_duration("x" * 10_000)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (0.0005, "0.5ms"),
        (1, "1s"),
        (2.5, "2.5s"),
        (90, "90s"),
        (3600, "1h"),
        (172800, "2d"),
    ],
)
def test_a_duration_is_written_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0"), (1500, "1500"), (65536, "64KiB"), (1 << 20, "1MiB")])
def test_a_size_is_written_short(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 10**15))
def test_durations_survive_being_written(microseconds: int) -> None:
    seconds = microseconds / 1_000_000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


@given(st.integers(0, 10**14))
def test_sizes_survive_being_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("text", RATES)
def test_rates_survive_being_written(text: str) -> None:
    assert parse_rate(format_rate(parse_rate(text))) == parse_rate(text)


@pytest.mark.parametrize("text", RANGES)
def test_ranges_survive_being_written(text: str) -> None:
    assert parse_range(format_range(parse_range(text))) == parse_range(text)
