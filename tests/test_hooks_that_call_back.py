"""Hooks that call the scheduler back, over restarts, and health beside them: what plugin code may do on its thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geckosched import (
    BreakerState,
    CollectionScheduler,
    Health,
    Outcome,
    Run,
    RunContext,
    SchedulerConfig,
    SchedulerState,
    collector,
    hookimpl,
)
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_hooks import Diary, job, judged, ran
from tests.test_scheduler import until


def test_a_hook_may_call_everything(new_scheduler: NewScheduler) -> None:
    """A hook registers, switches, triggers, rehearses, takes out, adds a plugin, stops and starts the scheduler."""
    scheduler, said, done = new_scheduler(clock=FakeClock(), catchup="none"), list[Any](), threading.Event()
    calls: list[Callable[[], Any]] = [
        lambda: scheduler.register_collector(job("new", lambda _: None)),
        lambda: scheduler.disable_collector("new"),
        lambda: scheduler.enable_collector("new"),
        lambda: scheduler.reschedule_collector("new", "2d"),
        lambda: scheduler.reset_breaker("new"),
        lambda: ran(scheduler, "new").outcome,
        lambda: scheduler.dry_run("new").run.outcome,
        lambda: scheduler.unregister_collector("new"),
        lambda: scheduler.add_plugin(Diary(), "late"),
        lambda: scheduler.stop(3),
        lambda: scheduler.start(),
        lambda: scheduler.state,
    ]

    class CallsBack:
        @hookimpl
        def run_finished(self) -> None:
            if not said:
                said.extend(call() for call in calls)
                done.set()

    scheduler.add_plugin(CallsBack())
    scheduler.register_collector(job("one", lambda _: None))
    scheduler.start()
    ran(scheduler, "one")
    assert done.wait(20), said
    good = Outcome.SUCCEEDED
    assert said == ["new", None, None, None, None, good, good, None, "late", None, None, SchedulerState.RUNNING]
    assert ran(scheduler, "one").outcome is good


def test_a_hook_may_run_another_job_and_wait_for_it(new_scheduler: NewScheduler) -> None:
    """A chain of jobs by hooks: what `execute_collector_now` waits for does not wait for the hook's thread."""
    scheduler, chained = new_scheduler(clock=FakeClock(), catchup="none", max_workers=1), threading.Event()

    class Chain:
        @hookimpl
        def run_finished(self, run: Run) -> None:
            if run.job_id == "first":
                assert ran(scheduler, "second").outcome is Outcome.SUCCEEDED
                chained.set()

    scheduler.add_plugin(Chain())
    for name in ("first", "second"):
        scheduler.register_collector(job(name, lambda _: None))
    with scheduler:
        ran(scheduler, "first")
        assert chained.wait(10)


def test_over_restarts_each_event_is_told_once(new_scheduler: NewScheduler) -> None:
    """The same scheduler stopped and started three times, and used for a moment between: no event twice, none lost, and
    no thread is left (see conftest)."""
    diary, scheduler = Diary(job("one", lambda _: None)), new_scheduler(clock=FakeClock(), catchup="none")
    scheduler.add_plugin(diary, "diary")
    runs = []
    for _ in range(3):
        with scheduler:
            runs.append(ran(scheduler, "one").id)
        runs.append(ran(scheduler, "one").id)
    assert [run.id for (run,) in diary.of("started")] == runs
    assert [run.id for (run,) in diary.of("finished")] == runs


def test_two_schedulers_of_one_process_tell_their_own_runs(new_scheduler: NewScheduler, tmp_path: Path) -> None:
    """Two schedulers in one process share nothing, also with one plugin object in both."""
    heard: list[tuple[str, str]] = []

    class Ears:
        @hookimpl
        def run_finished(self, run: Run) -> None:
            heard.append((run.job_id, threading.current_thread().name))

    plugin = Ears()
    first, second = new_scheduler(), new_scheduler(database=tmp_path / "other.db")
    for scheduler, name in ((first, "a"), (second, "b")):
        scheduler.add_plugin(plugin, name)
        scheduler.register_collector(job(name, lambda _: None, every="1d"), enabled=False)
    with first, second:
        ran(first, "a")
        ran(second, "b")
    assert sorted(heard) == [("a", "geckosched-hooks-a"), ("b", "geckosched-hooks-b")]


@pytest.mark.parametrize("restart", [False, True])
def test_the_breaker_over_a_restart(new_scheduler: NewScheduler, restart: bool) -> None:
    """B2: what a restart takes up is no change; the probe and its success are told alike on either side of it."""
    clock, well = FakeClock(), threading.Event()

    def collect(run: RunContext) -> None:
        if not well.is_set():
            raise ValueError("no")

    diary, scheduler = Diary(job("one", collect)), new_scheduler(clock=clock, max_consecutive_errors=1)
    scheduler.add_plugin(diary, "diary")
    scheduler.start()
    until(lambda: diary.of("breaker"))
    if restart:
        scheduler.stop()
        scheduler.start()
    well.set()
    ran(scheduler, "one")
    scheduler.stop()
    closed, open_, half = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
    assert [change[1:3] for change in diary.of("breaker")] == [(closed, open_), (open_, half), (half, closed)]


def test_a_probe_that_a_stop_interrupts_leaves_the_breaker_open(new_scheduler: NewScheduler) -> None:
    """open -> half-open -> open, the last with the interrupted run: who listens never takes it for closed."""
    clock, probe = FakeClock(), threading.Event()

    def collect(run: RunContext) -> None:
        if run.reason == "triggered":
            probe.set()
            run.sleep(1000)
        raise ValueError("no")

    diary, scheduler = Diary(job("one", collect)), new_scheduler(clock=clock, max_consecutive_errors=1)
    scheduler.add_plugin(diary, "diary")
    scheduler.start()
    until(lambda: diary.of("breaker"))
    scheduler.execute_collector_now("one", wait=False)
    assert probe.wait(10)
    scheduler.stop()
    *_, (_, old, new, reason) = diary.of("breaker")
    assert (old, new) == (BreakerState.HALF_OPEN, BreakerState.OPEN)
    assert "the last run interrupted" in reason
    assert scheduler.get_collector_status("one").breaker is BreakerState.OPEN


# -- health


def test_two_and_a_half_thousand_jobs_are_judged(new_scheduler: NewScheduler) -> None:
    """More than two portions, none of them left out, and none told of that did not change."""
    diary, scheduler = Diary(), new_scheduler(clock=FakeClock(), catchup="none")
    scheduler.add_plugin(diary, "diary")

    @collector("each", every="1d")
    def each(run: RunContext) -> None: ...

    for number in range(2500):
        scheduler.register_collector(each, job_id=f"job-{number:04}")
    with scheduler:
        until(lambda: len(judged(scheduler)) == 2500)
    assert set(judged(scheduler).values()) <= {Health.PENDING}
    assert diary.of("health") == []


def test_a_job_that_was_taken_out_is_judged_no_more(new_scheduler: NewScheduler) -> None:
    """An unregistered job grows silent, and nobody is told that it is unhealthy."""
    clock = FakeClock()
    diary, scheduler = Diary(), new_scheduler(clock=clock, catchup="none")
    scheduler.add_plugin(diary, "diary")
    for name in ("gone", "there"):
        scheduler.register_collector(job(name, lambda _: None, every="1d", max_consecutive_errors=1))
    with scheduler:
        until(lambda: len(judged(scheduler)) == 2)
        scheduler.unregister_collector("gone")
        scheduler.disable_collector("there")
        clock.advance(4 * 86400)  # the other one would be unhealthy, and told of first
        until(lambda: diary.of("health"))
    assert [change[0] for change in diary.of("health")] == ["there"]


# -- standing by


def test_who_stood_by_is_awaited_no_more(new_scheduler: NewScheduler, store_path: Path) -> None:
    """A standby that was stopped keeps no caller waiting for it, and may stand by again."""
    leader, standby = new_scheduler(), CollectionScheduler(SchedulerConfig(database=store_path))
    with leader:
        standby.start()
        assert leader._lock.is_awaited()
        standby.stop()
        assert not leader._lock.is_awaited()
        with standby:
            assert standby.state is SchedulerState.STANDBY
