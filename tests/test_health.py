"""What `status` calls a job: part 7 of the design, as rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geckosched.core import DAY, HOUR, MINUTE, SECOND, Health, format_duration, judge, parse_duration, to_text

QUICK = settings(derandomize=True, max_examples=150, deadline=None)
NOW = 1_795_448_734_123_456


def ago(microseconds: int) -> str:
    return to_text(NOW - microseconds)


def row(**different: Any) -> dict[str, Any]:
    """Return the row of a job of 10 minutes that ran well five minutes ago."""
    fine = {
        "every": "10m", "quiet": None, "enabled": 1, "disabled_at": None, "breaker": "closed", "consecutive_errors": 0,
        "consecutive_rate_limits": 0, "abandoned": 0, "runs": 7, "last_sign_at": ago(5 * MINUTE),
        "last_success_at": ago(5 * MINUTE), "last_rows_at": ago(5 * MINUTE),
        "plugin": "weather", "retry_at": None, "next_run_at": ago(-5 * MINUTE),
    }  # fmt: skip
    assert fine.keys() >= different.keys()
    return {**fine, **different}


def health(led_for: int | None = DAY, lost: int = 0, broken: bool = False, **different: Any) -> Health:
    fine = {**row(**different), "lost_lately": lost}
    return judge(fine, NOW, None if led_for is None else NOW - led_for, broken).health


NEVER_RAN: dict[str, Any] = {"runs": 0, "last_sign_at": None, "last_success_at": None, "last_rows_at": None}

ROWS: list[tuple[str, dict[str, Any], Health]] = [
    ("ran well", {}, Health.HEALTHY),
    ("ran well, nobody leads", {"led_for": None}, Health.HEALTHY),
    ("never ran", {**NEVER_RAN, "led_for": MINUTE}, Health.PENDING),
    ("never ran, nobody leads", {**NEVER_RAN, "led_for": None}, Health.PENDING),
    ("errors with the breaker closed", {"consecutive_errors": 1}, Health.DEGRADED),
    ("losses in the last day", {"lost": 1}, Health.DEGRADED),
    ("quiet longer than `quiet`", {"quiet": "1h", "last_rows_at": ago(HOUR + 1)}, Health.DEGRADED),
    ("quiet, not longer than `quiet`", {"quiet": "1h", "last_rows_at": ago(HOUR)}, Health.HEALTHY),
    ("quiet without a `quiet`", {"last_rows_at": ago(300 * DAY)}, Health.HEALTHY),
    ("no row ever, longer than `quiet`", {"quiet": "1h", "last_rows_at": None, "led_for": 2 * HOUR}, Health.DEGRADED),
    ("no row yet, and just started", {"quiet": "1h", "last_rows_at": None, "led_for": MINUTE}, Health.HEALTHY),
    ("rate limited now and then", {"consecutive_rate_limits": 2}, Health.HEALTHY),
    ("breaker open", {"breaker": "open", "consecutive_errors": 5}, Health.UNHEALTHY),
    ("breaker half-open", {"breaker": "half_open", "consecutive_errors": 5}, Health.UNHEALTHY),
    ("breaker open, nobody leads", {"breaker": "open", "consecutive_errors": 5, "led_for": None}, Health.UNHEALTHY),
    ("abandoned runs", {"abandoned": 1}, Health.UNHEALTHY),
    ("its plugin is broken", {"broken": True}, Health.UNHEALTHY),
    ("its plugin is broken and it never ran", {**NEVER_RAN, "led_for": None, "broken": True}, Health.UNHEALTHY),
    ("no sign of life for three intervals", {"last_sign_at": ago(30 * MINUTE + 1)}, Health.UNHEALTHY),
    ("a sign of life within three intervals", {"last_sign_at": ago(30 * MINUTE)}, Health.HEALTHY),
    ("three intervals are at least three minutes", {"every": "1s", "last_sign_at": ago(3 * MINUTE)}, Health.HEALTHY),
    ("three minutes are over", {"every": "1s", "last_sign_at": ago(3 * MINUTE + 1)}, Health.UNHEALTHY),
    ("the leader has just started", {"last_sign_at": ago(9 * DAY), "led_for": 30 * MINUTE}, Health.HEALTHY),
    ("the leader started long ago", {"last_sign_at": ago(9 * DAY), "led_for": 31 * MINUTE}, Health.UNHEALTHY),
    ("never ran, three intervals after the start", {**NEVER_RAN, "led_for": 31 * MINUTE}, Health.UNHEALTHY),
    ("silent, but the leader runs it never", {"last_sign_at": ago(9 * DAY), "next_run_at": None}, Health.HEALTHY),
    ("silent, but nobody leads", {"last_sign_at": ago(9 * DAY), "led_for": None}, Health.HEALTHY),
    ("runs, but nothing that is a sign of life", {"last_sign_at": None, "led_for": 31 * MINUTE}, Health.UNHEALTHY),
    ("the clock was set back", {"last_sign_at": ago(-DAY), "last_rows_at": ago(-DAY), "quiet": "1h"}, Health.HEALTHY),
    ("disabled in the configuration", {"enabled": 0}, Health.DISABLED),
    ("disabled by the operator", {"disabled_at": ago(HOUR)}, Health.DISABLED),
    ("disabled, breaker open", {"disabled_at": ago(HOUR), "breaker": "open", "consecutive_errors": 5}, Health.DISABLED),
    ("disabled, silent", {"disabled_at": ago(9 * DAY), "last_sign_at": ago(9 * DAY)}, Health.DISABLED),
    ("disabled, never ran", {**NEVER_RAN, "enabled": 0}, Health.DISABLED),
    ("errors and silence", {"consecutive_errors": 2, "last_sign_at": ago(DAY)}, Health.UNHEALTHY),
]


@pytest.mark.parametrize(("what", "different", "found"), ROWS, ids=[case[0] for case in ROWS])
def test_health(what: str, different: dict[str, Any], found: Health) -> None:
    """pending, healthy, degraded, unhealthy, disabled: the worst that holds, but disabled before all."""
    assert health(**different) is found, what


@QUICK
@given(st.integers(1, 3 * DAY), st.none() | st.integers(0, 10 * DAY), st.integers(0, 10 * DAY))
def test_silence(every: int, sign: int | None, led_for: int) -> None:
    """Three intervals, at least three minutes, from the later of the last sign of life and the leader's start."""
    every = max(every // SECOND, 1) * SECOND
    silent = min(led_for, led_for if sign is None else sign) > max(3 * every, 3 * MINUTE)
    found = health(led_for, every=format_duration(every), last_sign_at=None if sign is None else ago(sign))
    assert found is (Health.UNHEALTHY if silent else Health.HEALTHY)


@pytest.mark.parametrize("interval", [0.25, 1.5, 90.5, 1 / 3])
def test_an_interval_with_a_fraction_of_a_second(interval: float) -> None:
    """What may be registered may be shown: `every=1.5` is stored as text that `status` reads."""
    assert health(every=format_duration(parse_duration(interval)), last_sign_at=ago(MINUTE)) is Health.HEALTHY
