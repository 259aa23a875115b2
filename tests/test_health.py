"""What `status` calls a job: part 7 of the design, as rows."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geckosched import Batch, CollectionScheduler, RateLimited, RunContext, collector
from geckosched.core import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Checkup,
    Health,
    Verdict,
    format_duration,
    judge,
    parse_duration,
    to_text,
)
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_hooks import Diary, job, judged, look_again
from tests.test_scheduler import until

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
        "plugin": "weather", "retry_at": None, "next_run_at": ago(-5 * MINUTE), "running_since": None,
    }  # fmt: skip
    assert fine.keys() >= different.keys()
    return {**fine, **different}


def verdict(led_for: int | None = DAY, lost: int = 0, broken: bool = False, **different: Any) -> Verdict:
    fine = {**row(**different), "lost_lately": lost}
    return judge(fine, NOW, None if led_for is None else NOW - led_for, broken)


def health(**different: Any) -> Health:
    return verdict(**different).health


NO_SIGN: dict[str, Any] = {"last_sign_at": None, "last_success_at": None, "last_rows_at": None}
NEVER_RAN: dict[str, Any] = {"runs": 0, **NO_SIGN}

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
    ("runs, but nothing that is a sign of life", {**NO_SIGN, "led_for": 31 * MINUTE}, Health.UNHEALTHY),
    ("runs, no sign of life, just started", {**NO_SIGN, "led_for": MINUTE}, Health.PENDING),
    ("runs, no sign of life, nobody leads", {**NO_SIGN, "led_for": None}, Health.PENDING),
    ("no sign of life but an error", {**NO_SIGN, "consecutive_errors": 1, "led_for": MINUTE}, Health.DEGRADED),
    ("no sign of life but losses", {**NO_SIGN, "lost": 3, "led_for": MINUTE}, Health.DEGRADED),
    ("skips and never succeeded", {"last_success_at": None, "last_rows_at": None}, Health.HEALTHY),
    ("a long run goes on", {"last_sign_at": ago(9 * HOUR), "running_since": ago(9 * HOUR)}, Health.HEALTHY),
    ("a long run began in time", {"last_sign_at": ago(9 * HOUR), "running_since": ago(9 * HOUR - 30 * MINUTE)},
     Health.HEALTHY),
    ("a long run began too late", {"last_sign_at": ago(9 * HOUR), "running_since": ago(9 * HOUR - 30 * MINUTE - 1)},
     Health.UNHEALTHY),
    ("the first run is long", {**NEVER_RAN, "led_for": 9 * HOUR, "running_since": ago(9 * HOUR)}, Health.PENDING),
    ("a run goes on since before the leader", {"led_for": HOUR, "last_sign_at": ago(DAY),
                                               "running_since": ago(2 * HOUR)}, Health.HEALTHY),
    ("a run goes on, the one before hangs", {"running_since": ago(HOUR), "abandoned": 1}, Health.UNHEALTHY),
    ("a run goes on as the probe", {"running_since": ago(HOUR), "breaker": "half_open"}, Health.UNHEALTHY),
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
    found = health(led_for=led_for, every=format_duration(every), last_sign_at=None if sign is None else ago(sign))
    well = Health.PENDING if sign is None else Health.HEALTHY
    assert found is (Health.UNHEALTHY if silent else well)


@QUICK
@given(st.integers(0, 10 * DAY), st.integers(0, 10 * DAY), st.integers(0, 10 * DAY))
def test_silence_before_a_run(sign: int, running_for: int, led_for: int) -> None:
    """A run that goes on is no silence, however long it takes, and no sign of life either: a job is what it was when
    the run began."""
    during = health(led_for=led_for + running_for, last_sign_at=ago(sign + running_for), running_since=ago(running_for))
    before = health(led_for=led_for, last_sign_at=ago(sign))
    assert during is before


WORDS: list[tuple[dict[str, Any], str]] = [
    ({**NEVER_RAN, "led_for": MINUTE}, "it never ran"),
    ({**NEVER_RAN, "led_for": MINUTE, "running_since": ago(SECOND)}, "its first run goes on"),
    ({**NO_SIGN, "led_for": MINUTE}, "no run of it has succeeded yet"),
    ({"last_sign_at": ago(2 * HOUR)}, "no sign of life for 2h"),
    ({"last_sign_at": ago(2 * HOUR), "running_since": ago(SECOND)}, "no sign of life for 2h"),
    ({"last_sign_at": ago(2 * HOUR), "next_run_at": to_text(NOW - HOUR)},
     "no sign of life for 2h; its run waits since 2026-11-23 14:45:34 UTC"),
    ({"last_sign_at": ago(2 * HOUR), "next_run_at": to_text(NOW - SECOND)}, "no sign of life for 2h"),
    ({"last_sign_at": ago(2 * HOUR), "next_run_at": to_text(NOW - HOUR), "running_since": ago(SECOND)},
     "no sign of life for 2h"),
    ({"consecutive_errors": 1, "last_sign_at": ago(2 * HOUR), "broken": True},
     "plugin weather is broken; no sign of life for 2h"),
    ({}, ""),
]


@pytest.mark.parametrize(("different", "said"), WORDS, ids=[f"{number}" for number in range(len(WORDS))])
def test_why(different: dict[str, Any], said: str) -> None:
    """The reason is a few words that say what an operator can look at; a run that waits is not a job that sleeps."""
    assert verdict(**different).reason == said


@pytest.mark.parametrize("interval", [0.25, 1.5, 90.5, 1 / 3])
def test_an_interval_with_a_fraction_of_a_second(interval: float) -> None:
    """What may be registered may be shown: `every=1.5` is stored as text that `status` reads."""
    assert health(every=format_duration(parse_duration(interval)), last_sign_at=ago(MINUTE)) is Health.HEALTHY


# -- in a scheduler ----------------------------------------------------------------------------------------------------


class Held:
    """A collector of a minute whose runs go on until the test lets them end, with an error if `errors` has one."""

    name = "held"
    every = "1m"
    timeout = "12h"

    def __init__(self) -> None:
        self.inside, self.free = threading.Semaphore(0), threading.Semaphore(0)
        self.errors: list[BaseException] = []  # a list, since the job's instance is a copy of this one

    def collect(self, _: RunContext) -> Any:
        self.inside.release()
        self.free.acquire()
        if self.errors:
            raise self.errors.pop()
        return Batch("rows", [{"n": 1}])

    def begun(self) -> bool:
        """Wait for the next run to be inside `collect`."""
        return self.inside.acquire(timeout=10)


@contextmanager
def holding(scheduler: CollectionScheduler, held: Held) -> Iterator[Diary]:
    """Run a scheduler with the collector and a plugin that writes down what it hears."""
    diary = Diary()
    scheduler.add_plugin(diary, "diary")
    scheduler.register_collector(held)
    with scheduler:
        assert held.begun()
        try:
            yield diary
        finally:
            held.free.release(100)


def seen(scheduler: CollectionScheduler, clock: FakeClock) -> tuple[Health, Health]:
    """Return a job's health as the checkup and as `status` has it."""
    look_again(scheduler, clock)  # which may have begun before what the test did last
    look_again(scheduler, clock)
    return judged(scheduler)["held"], scheduler.get_collector_status("held").health


def test_a_long_run_is_no_silence(new_scheduler: NewScheduler) -> None:
    """A job of a minute whose run takes hours within its time limit works: neither the checkup nor `status` calls it
    dead, in its first run and in a later one. After a run that ends without a sign of life the silence counts."""
    clock, held = FakeClock(), Held()
    scheduler = new_scheduler(clock=clock, max_recovery_delay="1h")
    with holding(scheduler, held) as diary:
        clock.advance(5 * 3600)
        assert seen(scheduler, clock) == (Health.PENDING, Health.PENDING)
        held.free.release()
        until(lambda: scheduler.get_collector_status("held").runs == 1)
        clock.advance(60)
        assert held.begun()
        clock.advance(5 * 3600)
        assert seen(scheduler, clock) == (Health.HEALTHY, Health.HEALTHY)
        held.errors.append(RateLimited(1))
        held.free.release()
        until(lambda: scheduler.get_collector_status("held").runs == 2)
        assert seen(scheduler, clock) == (Health.UNHEALTHY, Health.UNHEALTHY)
        assert held.begun(), "the next run, after the pause that a 429 asks for"
        assert seen(scheduler, clock) == (Health.UNHEALTHY, Health.UNHEALTHY), "that it runs is no sign of life"
        until(lambda: len(diary.of("health")) == 2)
    assert [(old, new) for _, old, new, _ in diary.of("health")] == [("pending", "healthy"), ("healthy", "unhealthy")]


def test_a_first_success_is_no_news(new_scheduler: NewScheduler, caplog: pytest.LogCaptureFixture) -> None:
    """That jobs turn out well after a start is what everybody expects: the plugins hear of it, the log at its usual
    level says nothing; what goes wrong it says."""
    caplog.set_level(logging.INFO, logger="geckosched")
    clock, diary = FakeClock(), Diary()

    @collector("bad", every="1d")
    def bad(_: RunContext) -> None:
        raise ValueError("no")

    scheduler = new_scheduler(clock=clock, catchup="none", error_recovery_delay="1h")
    scheduler.add_plugin(diary, "diary")
    for name in ("one", "two"):
        scheduler.register_collector(job(name, lambda _: Batch("rows", [{"n": 1}]), every="1d"))
    scheduler.register_collector(bad)
    with scheduler:
        until(lambda: len(judged(scheduler)) == 3)
        for name in ("one", "two", "bad"):
            scheduler.execute_collector_now(name)
        look_again(scheduler, clock)
    assert [(job_id, new) for job_id, _, new, _ in sorted(diary.of("health"))] == [
        ("bad", "degraded"), ("one", "healthy"), ("two", "healthy")
    ]  # fmt: skip
    said = [record.getMessage() for record in caplog.records if ", was " in record.getMessage()]
    assert said == ["bad: degraded, was pending (1 error)"]


@pytest.mark.parametrize("interval", [30, 300])
def test_jobs_are_judged_every_health_check_interval(new_scheduler: NewScheduler, interval: int) -> None:
    """At once, and from then on as often as the setting says: not sooner, though a job has changed, and not later."""
    clock, checkup = FakeClock(), Checkup()
    scheduler = new_scheduler(clock=clock, health_check_interval=interval)
    scheduler.register_collector(job("one", lambda _: None, every="1d"), at="00:00")
    with scheduler:
        assert scheduler.lead is not None
        known = []
        for seconds in (0, interval - 1, 1):
            clock.advance(seconds)
            checkup.turn(scheduler.lead)
            known.append(checkup._known["one"])
            scheduler.execute_collector_now("one")
    assert known == [Health.PENDING, Health.PENDING, Health.HEALTHY]


def test_what_turns_bad_is_a_warning_and_a_damaged_row_is_bad(
    new_scheduler: NewScheduler, store_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that becomes unhealthy stands out in the log, one that recovers doesn't. A row that another program spoilt
    is a job's ill health, and hides no other job's."""
    caplog.set_level(logging.INFO, logger="geckosched")
    clock, checkup = FakeClock(), Checkup()
    scheduler = new_scheduler(clock=clock)
    for name in ("one", "two"):
        scheduler.register_collector(job(name, lambda _: None, every="1d"), at="00:00")
    with scheduler, closing(sqlite3.connect(store_path, isolation_level=None)) as foreign:
        assert scheduler.lead is not None
        checkup.turn(scheduler.lead)
        foreign.execute("UPDATE geckosched_jobs SET last_sign_at = 'soon' WHERE job_id = 'one'")
        scheduler.execute_collector_now("two")
        clock.advance(60)
        checkup.turn(scheduler.lead)
        foreign.execute("UPDATE geckosched_jobs SET last_sign_at = NULL WHERE job_id = 'one'")
        clock.advance(60)
        checkup.turn(scheduler.lead)
        assert checkup._known == {"one": Health.PENDING, "two": Health.HEALTHY}
    said = [(record.levelname, record.getMessage()) for record in caplog.records if ", was " in record.getMessage()]
    assert said[0] == ("WARNING", "one: unhealthy, was pending (its row is damaged: ValueError: "
                                  "Invalid isoformat string: 'soon')")  # fmt: skip
    assert said[1:] == [("INFO", "one: pending, was unhealthy (it never ran)")]
