"""The scheduler as its users see it: time, runs, breaker, operator's switches, stop. Time is a FakeClock's."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geckosched import (
    Batch,
    BreakerState,
    Budget,
    CollectionScheduler,
    Collector,
    ConfigError,
    DuplicateJob,
    GeckoschedError,
    Health,
    Inbox,
    Outcome,
    RateLimited,
    Reason,
    Run,
    RunContext,
    RunStopped,
    SchedulerClosed,
    SchedulerConfig,
    SchedulerState,
    SkipRun,
    UnknownJob,
    collector,
)
from geckosched.core import Grid, from_datetime, to_datetime
from geckosched.testing import FakeClock

Make = Callable[..., CollectionScheduler]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make(tmp_path: Path, clock: FakeClock) -> Iterator[Make]:
    """Make schedulers on one store and one clock; all are stopped at the end."""
    made: list[CollectionScheduler] = []

    def build(**config: Any) -> CollectionScheduler:
        scheduler = CollectionScheduler(SchedulerConfig(database=tmp_path / "test.db", **config), clock=clock)
        made.append(scheduler)
        return scheduler

    yield build
    for scheduler in made:
        scheduler.stop(5)


def until(holds: Callable[[], object], what: str = "the condition") -> None:
    """Wait for what other threads bring about; fails after 30 s of real time."""
    deadline, pause = time.monotonic() + 30, threading.Event()
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not come true"
        pause.wait(0.005)


def settle(scheduler: CollectionScheduler) -> None:
    """Wait until the ticker has done all that is due by now: two turns of its own, the second begun after this."""
    assert scheduler.lead is not None
    for _ in range(2):
        reply = Inbox()
        scheduler.lead.ticker.inbox.put((reply.put, True))
        reply.wait(30)
        assert reply, "the ticker does not turn"


def finished(scheduler: CollectionScheduler, job_id: str | None = None) -> list[Run]:
    """Return the runs that have ended, oldest first."""
    runs = scheduler.get_runs(job_id, 10_000) if job_id is None or job_id in known(scheduler) else []
    return [run for run in reversed(runs) if run.outcome is not None]


def known(scheduler: CollectionScheduler) -> set[str]:
    return {job.job_id for job in scheduler.get_status().jobs}


def runs_of(scheduler: CollectionScheduler, job_id: str, count: int) -> list[Run]:
    """Wait until a job has that many finished runs, and return them."""
    until(lambda: len(finished(scheduler, job_id)) >= count, f"{count} runs of {job_id}")
    return finished(scheduler, job_id)


@collector("plain", every="1m")
def plain(run: RunContext) -> None:
    """Does nothing."""


class Gate(Collector):
    """Waits in `collect` until the test opens it, deaf to everything."""

    name = "gate"
    every = "1m"

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __copy__(self) -> Gate:
        return self

    def collect(self, run: RunContext) -> Any:
        self.entered.release()
        self.open.wait(60)
        yield Batch("gate", [{"run_id": run.id}])


# -- time --------------------------------------------------------------------------------------------------------------


def test_a_job_that_never_ran_runs_at_once_then_on_its_grid(make: Make, clock: FakeClock) -> None:
    """T1: slots are phase + k * every, the same for every process; being late moves none."""
    scheduler = make()
    scheduler.register_collector(plain)
    grid = Grid("plain", 60_000_000)
    with scheduler:
        first = runs_of(scheduler, "plain", 1)[0]
        assert (first.reason, first.missed) == (Reason.FIRST, 0)
        clock.advance(91)  # past any slot that the first run passed over
        before = len(runs_of(scheduler, "plain", 2))
        for late in (7.5, 0.0, 31.0, 2.25):
            clock.advance((grid.after(clock.now()) - clock.now()) / 1e6 + late)
            before += 1
            last = runs_of(scheduler, "plain", before)[-1]
            assert last.scheduled_for == to_datetime(grid.before(clock.now()))
            assert last.missed == 0
            assert last.started_at == to_datetime(clock.now())


def test_missed_slots_become_one_run_that_says_how_many(make: Make, clock: FakeClock) -> None:
    """T1: a standstill of ten slots is one catch-up run with nine missed, its slot the latest."""
    scheduler = make()
    scheduler.register_collector(plain)
    grid = Grid("plain", 60_000_000)
    with scheduler:
        runs_of(scheduler, "plain", 1)
        clock.advance(90)
        count = len(runs_of(scheduler, "plain", 2))
        clock.advance(600)
        last = runs_of(scheduler, "plain", count + 1)[-1]
        assert (last.reason, last.missed) == (Reason.CATCHUP, 9)
        assert last.scheduled_for == to_datetime(grid.before(clock.now()))


def test_slots_during_a_run_are_counted_in_the_next(make: Make, clock: FakeClock) -> None:
    """Admission: already running - counted in the next run's `missed`, no row of their own."""
    gate, scheduler = Gate(), make()
    scheduler.register_collector(gate)
    grid = Grid("gate", 60_000_000)
    with scheduler:
        gate.entered.acquire()
        start, slot = clock.now(), grid.after(clock.now())
        clock.advance((slot - start) / 1e6 + 181)
        passed = 4 - (slot - start < 30_000_000)  # four slots, of which the first run may have passed over one
        settle(scheduler)
        gate.open.set()
        runs_of(scheduler, "gate", 1)
        clock.advance(60)
        second = runs_of(scheduler, "gate", 2)[1]
        assert (second.reason, second.missed) == (Reason.SCHEDULED, passed)


def test_a_daily_job_on_a_machine_restarted_every_hour_runs_daily(make: Make, clock: FakeClock) -> None:
    """T2: state is stored, so a restart restarts no countdown."""
    slots: list[Any] = []
    for _ in range(24 * 4):
        scheduler = make()
        scheduler.register_collector(plain, "1d")
        with scheduler:
            settle(scheduler)
            before = scheduler.get_collector_status("plain").runs
            due = scheduler.get_collector_status("plain").next_run_at
            clock.advance(3600)
            if due is not None and due <= to_datetime(clock.now()):
                runs_of(scheduler, "plain", before + 1)
    runs = [run for run in finished(make()) if run.reason is not Reason.FIRST]
    slots = [run.scheduled_for for run in runs]
    assert len(slots) in (3, 4)
    assert all(later - earlier == timedelta(days=1) for earlier, later in pairwise(slots))
    assert all(run.missed == 0 for run in runs)


def test_overdue_jobs_run_once_right_after_the_start(make: Make, clock: FakeClock) -> None:
    """T2: five days off are one run, at once, with four slots missed."""
    first = make()
    first.register_collector(plain, "1d")
    with first:
        runs_of(first, "plain", 1)
        due = first.get_collector_status("plain").next_run_at
        assert due is not None
        clock.advance((from_datetime(due) - clock.now()) / 1e6)
        assert runs_of(first, "plain", 2)[-1].reason is Reason.SCHEDULED
    clock.advance(86400 * 5)
    second = make()
    second.register_collector(plain, "1d")
    with second:
        last = runs_of(second, "plain", 3)[-1]
        assert (last.reason, last.missed) == (Reason.CATCHUP, 4)
        assert last.started_at == to_datetime(clock.now())


def test_catchup_none_starts_nothing_overdue(make: Make, clock: FakeClock) -> None:
    """`catchup="none"`: neither first nor catch-up; the next slot counts what was missed."""
    grid, scheduler = Grid("plain", 3_600_000_000), make(catchup="none")
    scheduler.register_collector(plain, "1h")
    with scheduler:
        clock.advance((grid.after(clock.now()) - clock.now()) / 1e6)
        only = runs_of(scheduler, "plain", 1)[0]
        assert only.reason is Reason.SCHEDULED
    clock.advance(86400)
    again = make(catchup="none")
    again.register_collector(plain, "1h")
    with again:
        clock.advance((grid.after(clock.now()) - clock.now()) / 1e6)
        last = runs_of(again, "plain", 2)[-1]
        assert (last.reason, last.missed) == (Reason.SCHEDULED, 24)


def test_a_clock_set_back_stops_no_job(make: Make, clock: FakeClock) -> None:
    """T3: twelve hours back, and the next run is an interval away, not twelve hours."""
    scheduler = make()
    scheduler.register_collector(plain)
    with scheduler:
        runs_of(scheduler, "plain", 1)
        clock.step(-12 * 3600)
        clock.advance(1)
        settle(scheduler)
        count = len(finished(scheduler))
        clock.advance(90)
        runs_of(scheduler, "plain", count + 1)


@pytest.mark.parametrize(
    "every",
    ["banana", 0, -5, "0s", float("nan"), True, "", "10"],
)
def test_invalid_intervals_are_refused_at_registration(make: Make, every: Any) -> None:
    """T5: whatever can't be an interval is refused in one line that says where, what and what is allowed."""
    scheduler = make()
    with pytest.raises(ConfigError, match="every") as caught:
        scheduler.register_collector(plain, every)
    assert "\n" not in str(caught.value)
    assert repr(every) in str(caught.value)
    assert not scheduler.get_status().jobs


@pytest.mark.parametrize(
    "bad",
    [
        {"at": "25:00"},
        {"at": "02:30"},
        {"timeout": 0},
        {"max_consecutive_errors": 0},
        {"priority": "high"},
        {"quiet": "soon"},
        {"job_id": "no spaces"},
    ],
)
def test_other_invalid_settings_are_refused_at_registration(make: Make, bad: dict[str, Any]) -> None:
    """T5: at, timeout, priority and the rest; `at` goes with whole days only."""
    with pytest.raises(ConfigError, match=next(iter(bad))):
        make().register_collector(plain, "1h", **bad)


# -- runs --------------------------------------------------------------------------------------------------------------


def test_the_row_of_a_run_is_committed_before_its_collector_is_called(make: Make) -> None:
    """R1: the collector finds its own row, open; afterwards it is closed with one outcome."""
    seen: list[dict[str, Any]] = []

    @collector("witness")
    def witness(run: RunContext) -> None:
        seen.extend(run.query("SELECT * FROM geckosched_runs WHERE id = ?", (run.id,)))

    scheduler = make()
    scheduler.register_collector(witness)
    run = scheduler.execute_collector_now("witness")
    assert run is not None
    assert [(row["outcome"], row["finished_at"], row["reason"]) for row in seen] == [(None, None, "triggered")]
    assert run.outcome is Outcome.SUCCEEDED
    assert run.finished_at is not None


def test_triggers_during_a_run_join_one_run_afterwards(make: Make) -> None:
    """R2 and admission: one run at a time; triggers wait for it to end and share the next."""
    gate, scheduler = Gate(), make()
    scheduler.register_collector(gate)
    with scheduler:
        gate.entered.acquire()
        assert scheduler.execute_collector_now("gate", wait=False) is None
        results: list[Run | None] = []
        askers = [
            threading.Thread(target=lambda: results.append(scheduler.execute_collector_now("gate"))) for _ in "ab"
        ]
        for asker in askers:
            asker.start()
        until(lambda: scheduler.lead and len(scheduler.lead.ticker.jobs["gate"].queued) == 3)
        gate.open.set()
        for asker in askers:
            asker.join()
        runs = runs_of(scheduler, "gate", 2)
    assert [run.reason for run in runs] == [Reason.FIRST, Reason.TRIGGERED]
    assert [run.id for run in results if run] == [runs[1].id] * 2
    assert runs[1].started_at >= (runs[0].finished_at or runs[1].started_at)
    assert runs[1].scheduled_for is None


def test_whatever_a_collector_raises_ends_that_run_and_nothing_else(make: Make) -> None:
    """R5: SystemExit, KeyboardInterrupt and worse are `failed` runs of one job; the others go on."""
    errors: list[type[BaseException]] = [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, StopIteration]

    @collector("wild")
    def wild(run: RunContext) -> None:
        raise errors[(run.id - 1) % len(errors)]("now")

    scheduler = make(max_workers=1, max_consecutive_errors=100)
    scheduler.register_collector(wild)
    scheduler.register_collector(plain)
    with scheduler:
        for _ in errors:
            run = scheduler.execute_collector_now("wild")
            assert run is not None
            assert run.outcome is Outcome.FAILED
        found = {run.error_type for run in scheduler.get_runs("wild")}
        after = scheduler.execute_collector_now("plain")
    assert found >= {error.__name__ for error in errors}
    assert after is not None
    assert after.outcome is Outcome.SUCCEEDED


def test_an_interrupted_run_is_run_again_at_the_next_start_but_not_for_ever(make: Make, clock: FakeClock) -> None:
    """Outcomes: interrupted is due at the next start with the same slot, unless the run before was interrupted too."""

    @collector("victim", every="1d")
    def victim(run: RunContext) -> None:
        run.sleep(3600)

    reasons: list[Any] = []
    for _ in range(3):
        scheduler = make()
        scheduler.register_collector(victim)
        with scheduler:
            if len(reasons) < 2:
                until(lambda: scheduler.lead and scheduler.get_collector_status("victim").running_for is not None)  # noqa: B023
            else:
                settle(scheduler)
        reasons = [(run.reason, run.outcome, run.scheduled_for) for run in finished(scheduler)]
    slot = reasons[0][2]
    assert reasons == [(Reason.FIRST, Outcome.INTERRUPTED, slot), (Reason.CATCHUP, Outcome.INTERRUPTED, slot)]


def test_skip_and_again_after(make: Make, clock: FakeClock) -> None:
    """SkipRun is neutral; `again_after` brings the next run forward, as a retry of the same slot."""

    @collector("idle", every="1h")
    def idle(run: RunContext) -> None:
        raise SkipRun("nothing new", again_after=5)

    scheduler = make()
    scheduler.register_collector(idle)
    with scheduler:
        first = runs_of(scheduler, "idle", 1)[0]
        clock.advance(4)
        clock.advance(1)
        second = runs_of(scheduler, "idle", 2)[1]
    assert (first.outcome, first.detail) == (Outcome.SKIPPED, "nothing new")
    assert (second.reason, second.scheduled_for) == (Reason.RETRY, first.scheduled_for)
    status = scheduler.get_collector_status("idle")
    assert (status.errors, status.success_rate, status.consecutive_errors) == (0, None, 0)


def test_rate_limits_put_a_job_off_and_are_no_errors(make: Make, clock: FakeClock) -> None:
    """RateLimited: next run after the larger of retry_after and the doubling delay, slots in between do not come up."""

    @collector("limited", every="10s")
    def limited(run: RunContext) -> None:
        raise RateLimited(45)

    scheduler = make(error_recovery_delay="40s")
    scheduler.register_collector(limited)
    with scheduler:
        started = [runs_of(scheduler, "limited", 1)[0].started_at]
        for expected in (45, 80, 160):
            clock.advance(expected - 0.001)
            settle(scheduler)
            assert len(finished(scheduler)) == len(started)
            clock.advance(0.001)
            started.append(runs_of(scheduler, "limited", len(started) + 1)[-1].started_at)
        status = scheduler.get_collector_status("limited")
    assert (status.errors, status.breaker, status.consecutive_errors) == (0, BreakerState.CLOSED, 0)


def test_time_limit_abandonment_and_fence(make: Make, clock: FakeClock) -> None:
    """R4: asked to stop at the limit, abandoned 30 s later with its stack in the row, nothing it yields is stored; a
    fresh worker and instance run the job again; after two such runs its slots wait and health says so."""
    gate = Gate()
    scheduler = make(max_workers=4, timeout="10s", error_recovery_delay="1s")
    scheduler.register_collector(gate, "1h")
    with scheduler:
        for number in (1, 2):
            gate.entered.acquire()
            clock.advance(10)
            until(lambda: scheduler.lead and all(e.stop for e in scheduler.lead.ticker._running))
            clock.advance(30)
            last = runs_of(scheduler, "gate", number)[-1]
            assert last.outcome is Outcome.TIMED_OUT
            assert "open.wait" in (last.traceback or "")
            clock.advance(2)
        until(lambda: scheduler.get_collector_status("gate").health is Health.UNHEALTHY)
        clock.advance(3600)
        settle(scheduler)
        assert len(scheduler.get_runs("gate")) == 2
        gate.open.set()
        runs_of(scheduler, "gate", 3)
        rows = scheduler._store.read("SELECT run_id FROM gate")
    assert [row["run_id"] for row in rows] == [3]


def test_a_run_that_is_asked_to_stop_and_returns_in_time_is_succeeded(make: Make, clock: FakeClock) -> None:
    """A run that returns after the request to stop keeps its success, the overtime in `detail`."""

    @collector("slow", timeout=10)
    def slow(run: RunContext) -> Any:
        with contextlib.suppress(RunStopped):
            run.sleep(3600)
        return Batch("slow", [{"stopping": run.stopping}])

    scheduler = make()
    scheduler.register_collector(slow, "1h")
    with scheduler:
        until(lambda: scheduler.get_collector_status("slow").running_for is not None)
        clock.advance(10)
        run = runs_of(scheduler, "slow", 1)[0]
    assert (run.outcome, run.rows) == (Outcome.SUCCEEDED, 1)
    assert "time limit" in (run.detail or "")


# -- breaker and switches ----------------------------------------------------------------------------------------------


def broken_collector(switch: dict[str, bool]) -> Any:
    @collector("broken", every="1d")
    def broken(run: RunContext) -> None:
        if switch["broken"]:
            raise ValueError("service down")

    return broken


def test_the_breaker_opens_survives_a_restart_and_closes_by_a_probe(make: Make, clock: FakeClock) -> None:
    """B2: open after the threshold, still open in a new scheduler on the same store, before `start` too."""
    switch = {"broken": True}
    first = make(max_consecutive_errors=3, error_recovery_delay="1m")
    first.register_collector(broken_collector(switch))
    with first:
        for number, wait in enumerate((0, 60, 120), 1):
            clock.advance(wait)
            runs_of(first, "broken", number)
    second = make(max_consecutive_errors=3, error_recovery_delay="1m")
    second.register_collector(broken_collector(switch))
    status = second.get_collector_status("broken")
    assert (status.breaker, status.health, status.consecutive_errors) == (BreakerState.OPEN, Health.UNHEALTHY, 3)
    assert status.last_error == "ValueError: service down"
    assert [job.job_id for job in second.get_unhealthy_collectors()] == ["broken"]
    with second:
        clock.advance(239)
        settle(second)
        assert len(finished(second)) == 3
        switch["broken"] = False
        clock.advance(1)
        probe = runs_of(second, "broken", 4)[-1]
        assert (probe.reason, probe.outcome) == (Reason.PROBE, Outcome.SUCCEEDED)
        assert second.get_collector_status("broken").breaker is BreakerState.CLOSED


def test_a_failed_daily_job_does_not_wait_for_tomorrow(make: Make, clock: FakeClock) -> None:
    """Retry: while the breaker is closed an error brings the next run forward; the retry bears the slot it repeats."""
    switch = {"broken": True}
    scheduler = make(error_recovery_delay="1m")
    scheduler.register_collector(broken_collector(switch))
    with scheduler:
        first = runs_of(scheduler, "broken", 1)[0]
        switch["broken"] = False
        clock.advance(60)
        second = runs_of(scheduler, "broken", 2)[1]
    assert (second.reason, second.scheduled_for, second.outcome) == (
        Reason.RETRY,
        first.scheduled_for,
        Outcome.SUCCEEDED,
    )


def test_a_disabled_job_stays_disabled_until_enabled_and_a_trigger_runs_it(make: Make, clock: FakeClock) -> None:
    """B3 and admission: disable survives a restart; a trigger runs the job, and the breaker hears nothing."""
    switch = {"broken": True}
    first = make(max_consecutive_errors=1)
    first.register_collector(broken_collector(switch), "1h")
    first.disable_collector("broken")  # before start, nobody leading: this caller leads for that moment
    second = make(max_consecutive_errors=1)
    second.register_collector(broken_collector(switch), "1h")
    with second:
        clock.advance(7200)
        run = second.execute_collector_now("broken")
        assert run is not None
        assert (run.outcome, run.reason) == (Outcome.FAILED, Reason.TRIGGERED)
        status = second.get_collector_status("broken")
        assert (status.health, status.breaker, status.consecutive_errors) == (Health.DISABLED, BreakerState.CLOSED, 0)
        switch["broken"] = False
        second.enable_collector("broken")
        clock.advance(3600)
        assert runs_of(second, "broken", 2)[-1].reason in (Reason.SCHEDULED, Reason.CATCHUP)


def test_a_trigger_of_an_open_breaker_is_its_probe_and_reset_closes_it(make: Make, clock: FakeClock) -> None:
    """Admission: a person asks because something was mended."""
    switch = {"broken": True}
    scheduler = make(max_consecutive_errors=1)
    scheduler.register_collector(broken_collector(switch))
    with scheduler:
        runs_of(scheduler, "broken", 1)
        assert scheduler.get_collector_status("broken").breaker is BreakerState.OPEN
        scheduler.reset_breaker("broken")
        assert scheduler.get_collector_status("broken").breaker is BreakerState.CLOSED
        scheduler.execute_collector_now("broken")
        assert scheduler.get_collector_status("broken").breaker is BreakerState.OPEN
        switch["broken"] = False
        run = scheduler.execute_collector_now("broken")
        assert run is not None
        assert (run.reason, run.outcome) == (Reason.TRIGGERED, Outcome.SUCCEEDED)
        assert scheduler.get_collector_status("broken").breaker is BreakerState.CLOSED


def test_register_reschedule_unregister(make: Make, clock: FakeClock) -> None:
    """The seed's usage: text intervals, a second job of one collector, reschedule, unregister, unknown ids."""
    scheduler = make()
    for every in ("1h", "30m", "1d", "45s"):
        scheduler.register_collector(plain, every, job_id=f"plain-{every}")
    with pytest.raises(DuplicateJob):
        scheduler.register_collector(plain, job_id="plain-1h")
    with scheduler:
        until(lambda: len(finished(scheduler)) == 4)
        scheduler.reschedule_collector("plain-1d", "10m")
        assert scheduler.get_collector_status("plain-1d").every == "10m"
        scheduler.unregister_collector("plain-45s")
        assert "plain-45s" not in known(scheduler)
        late = scheduler.register_collector(plain, "1h", job_id="late")
        runs_of(scheduler, late, 1)
        with pytest.raises(UnknownJob, match='did you mean "plain-30m"'):
            scheduler.execute_collector_now("plain-30")
        with pytest.raises(UnknownJob):
            scheduler.disable_collector("nothing-like-it")


def test_second_jobs_of_a_collector_are_named_by_their_options(make: Make) -> None:
    """`NAME`, then `NAME-` and six characters of a hash of the options; an identical one is a DuplicateJob."""

    @collector("city")
    def city(run: RunContext) -> None: ...

    scheduler = make()
    assert scheduler.register_collector(city, options={"name": "Oslo"}) == "city"
    second = scheduler.register_collector(city, options={"name": "Rome"})
    assert second.startswith("city-")
    assert len(second) == len("city-") + 6
    for name in ("Oslo", "Rome"):
        with pytest.raises(DuplicateJob):
            scheduler.register_collector(city, options={"name": name})
    assert scheduler.register_collector(city, options={"name": "Rome"}, replace=True) == second


def test_a_job_that_is_gone_is_retired_and_taken_up_again(make: Make) -> None:
    """Retirement: hidden at the next start, row and state kept, back with the same id and collector."""

    @collector("counter")
    def counter(run: RunContext) -> Any:
        run.state["n"] = run.state.get("n", 0) + 1
        yield Batch("counted", [{"n": run.state["n"]}])

    for registered in (True, False, True):
        scheduler = make()
        if registered:
            scheduler.register_collector(counter)
        scheduler.register_collector(plain)
        with scheduler:
            assert ("counter" in known(scheduler)) is registered
            if registered:
                scheduler.execute_collector_now("counter")
    rows = make()._store.read("SELECT n FROM counted")
    assert sorted(row["n"] for row in rows) == list(range(1, len(rows) + 1))
    assert len(rows) >= 3


# -- who goes first ----------------------------------------------------------------------------------------------------


def test_waiting_runs_go_by_priority_then_age(make: Make) -> None:
    """Admission: no worker free - by priority, then age."""
    gate, order = Gate(), []

    def job(name: str, priority: int) -> Any:
        @collector(name, every="1d", priority=priority)
        def collect(run: RunContext) -> None:
            order.append(name)

        return collect

    scheduler = make(max_workers=1)
    scheduler.register_collector(gate)
    with scheduler:
        gate.entered.acquire()
        for name, priority in (("low", -1), ("middle", 0), ("late", 5), ("later", 5)):
            scheduler.register_collector(job(name, priority))
        until(lambda: scheduler.lead and scheduler.lead.ticker._waiting == 4)
        gate.open.set()
        until(lambda: len(order) == 4)
    assert order == ["late", "later", "middle", "low"]


def test_jobs_of_one_budget_take_half_of_the_workers_the_last_for_the_most_urgent(make: Make) -> None:
    """Budget: one slow API stops neither the others nor its own most urgent job."""
    api = Budget("api", "100/m", 100)
    gates = {}
    scheduler = make(max_workers=4)

    def gate(name: str, priority: int, budget: Budget | None) -> Gate:
        made = gates[name] = Gate()
        made.name, made.priority, made.budget = name, priority, budget
        return made

    for number in range(3):
        scheduler.register_collector(gate(f"api-{number}", 0, api))
    scheduler.register_collector(gate("urgent", 9, api))
    scheduler.register_collector(gate("other", 0, None))
    with scheduler:
        gates["urgent"].entered.acquire()
        gates["other"].entered.acquire()
        until(lambda: scheduler.lead and len(scheduler.lead.ticker._running) == 3)
        running = sorted(run.job_id for run in scheduler.get_runs() if run.outcome is None)
        assert len([name for name in running if name.startswith("api-")]) == 1
        for made in gates.values():
            made.open.set()
        until(lambda: len(finished(scheduler)) == 5)


def test_calls_wait_for_their_budget_and_a_429_closes_it_for_all(make: Make, clock: FakeClock) -> None:
    """Budget: shared by whoever names it; a RateLimited out of the block closes it for everybody."""
    api = Budget("api", "6/m", 2)
    sent: list[tuple[str, float]] = []

    def job(name: str) -> Any:
        @collector(name, every="1d", budget=api)
        def collect(run: RunContext) -> None:
            for _ in range(2):
                with run.call():
                    sent.append((name, run.now().timestamp()))

        return collect

    scheduler = make(max_workers=8)
    for name in ("a", "b"):
        scheduler.register_collector(job(name))
    start = clock.now() / 1e6
    with scheduler:
        until(lambda: len(sent) == 2)
        until(lambda: scheduler.lead and sum(len(s.waiting) for s in scheduler.lead.ticker._calls._services.values()))
        clock.advance(10)
        until(lambda: len(sent) == 3)
        clock.advance(10)
        until(lambda: len(sent) == 4)
        runs = [*runs_of(scheduler, "a", 1), *runs_of(scheduler, "b", 1)]
    assert [round(at - start) for _, at in sent] == [0, 0, 10, 20]
    assert [run.calls for run in runs] == [2, 2]


def test_what_was_called_counts_after_a_restart(make: Make, clock: FakeClock) -> None:
    """B2: the ledger is stored; a new scheduler on the same store waits for the places that the last one took."""
    api = Budget("api", "2/m", 2)
    sent: list[float] = []

    @collector("caller", every="1d", budget=api)
    def caller(run: RunContext) -> None:
        for _ in range(2):
            with run.call():
                sent.append(run.now().timestamp())

    start = clock.now() / 1e6
    for seconds in (0, 15):
        clock.advance(seconds)
        scheduler = make()
        scheduler.register_collector(caller)
        with scheduler:
            if not seconds:
                runs_of(scheduler, "caller", 1)
                continue
            scheduler.execute_collector_now("caller", wait=False)
            until(lambda: scheduler.lead and any(s.waiting for s in scheduler.lead.ticker._calls._services.values()))  # noqa: B023
            clock.advance(44.9)
            assert len(sent) == 2
            clock.advance(0.1)
            runs_of(scheduler, "caller", 2)
    assert [round(at - start) for at in sent] == [0, 0, 60, 60]


# -- stop, fork, two schedulers ----------------------------------------------------------------------------------------


def test_stop_returns_in_time_with_hung_and_sleeping_collectors(make: Make) -> None:
    """X1: their runs are interrupted, the state is stopped, and what the hung one yields later is not stored."""
    gate, scheduler = Gate(), make()

    @collector("sleeper")
    def sleeper(run: RunContext) -> None:
        run.sleep(3600)

    scheduler.register_collector(gate)
    scheduler.register_collector(sleeper)
    scheduler.start()
    gate.entered.acquire()
    until(lambda: sum(run.outcome is None for run in scheduler.get_runs()) == 2)
    asked_at = time.monotonic()
    scheduler.stop(0.2)
    assert time.monotonic() - asked_at < 10  # the promise is 1.2 s, the rest is for a busy machine; the run takes 60
    assert scheduler.state is SchedulerState.STOPPED
    assert {run.job_id: run.outcome for run in scheduler.get_runs()} == {
        "gate": Outcome.INTERRUPTED,
        "sleeper": Outcome.INTERRUPTED,
    }
    threads = [thread for thread in threading.enumerate() if thread.name == "geckosched-worker"]
    gate.open.set()
    for thread in threads:
        thread.join(10)
    assert not scheduler._store.read("SELECT 1 FROM sqlite_master WHERE name = 'gate'")


def test_stop_releases_who_waits_and_later_calls_say_so(make: Make) -> None:
    """A caller that waits for a run which can't start any more gets SchedulerClosed, not silence."""
    gate, scheduler = Gate(), make(max_workers=1)
    scheduler.register_collector(gate)
    scheduler.register_collector(plain, "1d")
    scheduler.start()
    gate.entered.acquire()
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            scheduler.execute_collector_now("plain")
        except GeckoschedError as error:
            caught.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    until(lambda: scheduler.lead and (job := scheduler.lead.ticker.jobs["plain"]).waiting and job.waiting.waiters)
    scheduler.stop(0.1)
    asker.join(10)
    gate.open.set()
    assert [type(error) for error in caught] == [SchedulerClosed]


def test_two_schedulers_of_one_process_share_nothing(tmp_path: Path, clock: FakeClock) -> None:
    """A library touches no global: two schedulers on two stores run side by side."""
    both = [CollectionScheduler(SchedulerConfig(database=tmp_path / f"{n}.db"), clock=clock) for n in "ab"]
    for scheduler in both:
        scheduler.register_collector(plain)
    with both[0], both[1]:
        assert [scheduler.state for scheduler in both] == [SchedulerState.RUNNING] * 2
        assert all(len(runs_of(scheduler, "plain", 1)) == 1 for scheduler in both)


def test_a_forked_child_has_a_stopped_scheduler_and_leaves_the_parent_alone(make: Make) -> None:
    """X3: the child neither leads nor unlocks; the parent goes on."""
    scheduler = make()
    scheduler.register_collector(plain, "1d")
    with scheduler:
        runs_of(scheduler, "plain", 1)
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                code = 0 if scheduler.state is SchedulerState.STOPPED and scheduler._lock.is_held() else 2
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert scheduler.state is SchedulerState.RUNNING
        assert scheduler._lock.is_held()
        run = scheduler.execute_collector_now("plain")
        assert run is not None
        assert run.outcome is Outcome.SUCCEEDED


# -- the whole as a state machine --------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from(["ok", "fail", "skip", "limit", "partial", "restart", "trigger"]), max_size=12),
    st.integers(1, 4),
)
def test_the_accounts_of_a_job_agree_with_its_history(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], threshold: int
) -> None:
    """B1, R1, R2: after any history, restarts included, the job's row agrees with its runs and no slot ran twice
    without being a retry or probe."""
    clock, todo = FakeClock(), ["ok"]
    database = tmp_path_factory.mktemp("accounts") / "a.db"

    @collector("job", every="10m")
    def job(run: RunContext) -> None:
        step = todo[0]
        if step == "fail":
            raise ValueError("no")
        if step == "skip":
            raise SkipRun("no")
        if step == "limit":
            raise RateLimited(2)
        if step == "partial":
            run.good_targets.add("a")
            run.problem("b", "no")

    def build() -> CollectionScheduler:
        config = SchedulerConfig(database=database, max_consecutive_errors=threshold)
        scheduler = CollectionScheduler(config, clock=clock)
        scheduler.register_collector(job)
        scheduler.start()
        return scheduler

    scheduler = build()
    try:
        count = len(runs_of(scheduler, "job", 1))
        for step in steps:
            if step == "restart":
                scheduler.stop(5)
                scheduler = build()
                settle(scheduler)
                count = len(finished(scheduler))
                continue
            if step == "trigger":
                scheduler.execute_collector_now("job")
                count += 1
                continue
            todo[0] = step
            due = scheduler.get_collector_status("job").next_run_at
            assert due is not None
            clock.advance(max(0.0, (from_datetime(due) - clock.now()) / 1e6))
            count += 1
            runs_of(scheduler, "job", count)
        runs, status = finished(scheduler), scheduler.get_collector_status("job")
    finally:
        scheduler.stop(5)
    assert status.runs == len(runs)
    assert status.errors == sum(run.outcome is Outcome.FAILED for run in runs)
    assert status.missed == sum(run.missed for run in runs)
    heard = [run.outcome for run in runs if run.outcome in (Outcome.SUCCEEDED, Outcome.PARTIAL, Outcome.FAILED)]
    trailing = next((n for n, outcome in enumerate(reversed(heard)) if outcome is not Outcome.FAILED), len(heard))
    assert status.consecutive_errors == trailing
    assert (status.breaker is BreakerState.OPEN) == (trailing >= threshold)
    fresh = [run.scheduled_for for run in runs if run.scheduled_for and run.reason not in (Reason.RETRY, Reason.PROBE)]
    assert len(fresh) == len(set(fresh))


def test_an_advance_between_reading_the_clock_and_waiting_is_not_slept_through(clock: FakeClock) -> None:
    """FakeClock: a wait counts from the thread's last reading, so a test can't lose a loop's wake-up."""
    clock.monotonic()
    clock.advance(5)
    clock.wait(Inbox(), 5)
    woken: list[bool] = []

    def sleeper() -> None:
        clock.monotonic()
        clock.wait(Inbox(), 5)
        woken.append(True)

    thread = threading.Thread(target=sleeper, daemon=True)
    thread.start()
    until(lambda: clock._waiting)
    clock.advance(4)
    assert not woken
    clock.advance(1)
    thread.join(10)
    assert woken


def test_the_first_failed_target_leaves_its_traceback(make: Make) -> None:
    """A partial run, and one that failed by its targets, show where the first of them went wrong."""

    @collector("targets")
    def targets(run: RunContext) -> None:
        for name in run.options["names"]:
            with run.target(name):
                if name != "good":
                    raise KeyError(name)

    scheduler = make()
    for job_id, names in (("partial", ["good", "bad", "worse"]), ("failed", ["bad"])):
        scheduler.register_collector(targets, job_id=job_id, options={"names": names})
        run = scheduler.execute_collector_now(job_id)
        assert run is not None
        assert run.outcome == job_id
        assert "raise KeyError(name)" in (run.traceback or "")
        assert (run.traceback or "").endswith("KeyError: 'bad'\n")


def test_the_log_says_when_a_breaker_opens_and_closes(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """An operator reads in the log that a breaker opened, until when, and that it closed."""
    switch = {"broken": True}
    scheduler = make(max_consecutive_errors=1)
    scheduler.register_collector(broken_collector(switch))
    with caplog.at_level("INFO", "geckosched"), scheduler:
        runs_of(scheduler, "broken", 1)
        switch["broken"] = False
        scheduler.execute_collector_now("broken")
    assert "broken: breaker open, one probe at 2026-01-01 00:01:00 UTC" in caplog.text
    assert "broken: breaker closed" in caplog.text


class SlowToRead(FakeClock):
    """A clock on a machine so busy that two seconds pass while it is read."""

    def now(self) -> int:
        """Return the time, two seconds later than a moment ago."""
        self.advance(2)
        return super().now()


def test_a_slow_reading_of_the_clocks_is_no_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """T3: only what both readings can't explain is a step of the clock."""
    scheduler = CollectionScheduler(SchedulerConfig(database=tmp_path / "slow.db"), clock=SlowToRead())
    scheduler.register_collector(plain, "1m")
    with scheduler:
        runs_of(scheduler, "plain", 3)
    assert "the clock was set" not in caplog.text
    assert all(run.outcome is Outcome.SUCCEEDED for run in finished(scheduler))


def test_another_collector_of_the_same_name_makes_no_twin(make: Make) -> None:
    """A name is one collector's: a function that makes collectors, called twice, does not collect everything twice."""

    def twin() -> Any:
        return collector("twin", every="1h")(lambda _: None)

    scheduler = make()
    scheduler.register_collector(twin())
    with pytest.raises(DuplicateJob):
        scheduler.register_collector(twin())
    assert scheduler.register_collector(twin(), replace=True) == "twin"


def test_a_clean_stop_leaves_one_file(make: Make) -> None:
    """What was collected is in the database file itself after a stop: no WAL beside it that a copy would miss."""

    @collector("one", every="1h")
    def one(run: RunContext) -> Any:
        run.query("SELECT 1")
        yield Batch("rows", [{"n": 1}])

    scheduler = make()
    scheduler.register_collector(one)
    with scheduler:
        runs_of(scheduler, "one", 1)
    left = {path.name for path in scheduler._store.path.parent.iterdir()}
    assert not {name for name in left if name.endswith(("-wal", "-shm"))}
