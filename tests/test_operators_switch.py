"""B3: what an operator disabled stays disabled until somebody enables it, whatever breaker, configuration, restarts,
registrations and other processes do; and enabling is no less firm."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from geckosched import (
    BreakerState,
    CollectionScheduler,
    Health,
    Outcome,
    RateLimited,
    Reason,
    RunContext,
    SchedulerState,
    SkipRun,
    collector,
    hookimpl,
)
from geckosched.core import to_datetime
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_scheduler import Gate, finished, runs_of, settle, until

HOUR = 3600


class Job:
    """A job that does what the test says, and counts its runs that nobody asked for."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.unasked = 0
        self.collector: Any

        @collector("job", every="10m")
        def job(run: RunContext) -> None:
            self.unasked += run.reason is not Reason.TRIGGERED
            if self.error is not None:
                raise self.error

        self.collector = job

    @hookimpl
    def register_collectors(self, register: Callable[[Any], None]) -> None:
        """A plugin as well, so that the configuration can schedule it."""
        register(self.collector)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def job() -> Job:
    return Job()


def start(new_scheduler: NewScheduler, clock: FakeClock, job: Job, **settings: Any) -> CollectionScheduler:
    scheduler = new_scheduler(clock=clock, max_consecutive_errors=2, error_recovery_delay="1m")
    scheduler.register_collector(job.collector, **settings)
    scheduler.start()
    if scheduler.lead is not None:
        settle(scheduler)
    return scheduler


def stays_off(scheduler: CollectionScheduler, clock: FakeClock, job: Job) -> None:
    """For hours no slot, retry or probe comes up, and every view says `disabled`."""
    count = job.unasked
    for _ in range(12):
        clock.advance(HOUR / 4)
        settle(scheduler)
    until(lambda: all(run.outcome for run in scheduler.get_runs("job")), "the end of the runs")
    assert job.unasked == count
    status = scheduler.get_collector_status("job")
    assert status.health is Health.DISABLED
    assert status.disabled_at is not None
    assert status.next_run_at is None


def test_over_restarts(new_scheduler: NewScheduler, clock: FakeClock, job: Job) -> None:
    """It is stored: five restarts, each with overdue slots, start nothing."""
    scheduler = start(new_scheduler, clock, job)
    runs_of(scheduler, "job", 1)
    scheduler.disable_collector("job")
    since = scheduler.get_collector_status("job").disabled_at
    for _ in range(5):
        scheduler.stop()
        clock.advance(HOUR)
        scheduler = start(new_scheduler, clock, job)
        stays_off(scheduler, clock, job)
    assert scheduler.get_collector_status("job").disabled_at == since


@pytest.mark.parametrize("restart", [False, True])
def test_while_the_breaker_is_open(new_scheduler: NewScheduler, clock: FakeClock, job: Job, restart: bool) -> None:
    """An open breaker's probe does not come up, and leaves the breaker as it was; enabled again, it does."""
    job.error = ValueError("down")
    scheduler = start(new_scheduler, clock, job)
    runs_of(scheduler, "job", 1)
    clock.advance(60)
    runs_of(scheduler, "job", 2)
    scheduler.disable_collector("job")
    if restart:
        scheduler.stop()
        scheduler = start(new_scheduler, clock, job)
    stays_off(scheduler, clock, job)
    assert scheduler.get_collector_status("job").breaker is BreakerState.OPEN
    job.error = None
    asked = scheduler.execute_collector_now("job")
    assert asked is not None
    assert asked.outcome is Outcome.SUCCEEDED
    assert scheduler.get_collector_status("job").breaker is BreakerState.OPEN, "a disabled job's breaker hears nothing"
    stays_off(scheduler, clock, job)
    scheduler.enable_collector("job")
    clock.advance(600)
    probe = runs_of(scheduler, "job", 4)[3]
    assert (probe.reason, probe.outcome) == (Reason.PROBE, Outcome.SUCCEEDED)
    assert scheduler.get_collector_status("job").breaker is BreakerState.CLOSED


@pytest.mark.parametrize(
    "error",
    [None, ValueError("down"), RateLimited(60), SkipRun("no", again_after=60)],
    ids=["ok", "bad", "429", "skip"],
)
def test_while_it_runs(new_scheduler: NewScheduler, clock: FakeClock, error: BaseException | None) -> None:
    """Disabled in the middle of a run: the run ends well, and what its end asks for next does not come."""

    class Guarded(Gate):
        name = "job"
        every = "10m"

        def collect(self, run: RunContext) -> Any:
            yield from super().collect(run)
            if error is not None:
                raise error

    gate, job = Guarded(), Job()
    job.collector = gate
    scheduler = start(new_scheduler, clock, job)
    assert gate.entered.acquire(timeout=30)
    scheduler.disable_collector("job")
    gate.open.set()
    [run] = runs_of(scheduler, "job", 1)
    assert run.rows == 1
    stays_off(scheduler, clock, job)
    assert len(scheduler.get_runs("job")) == 1
    assert scheduler.get_collector_status("job").consecutive_errors == 0


def test_while_it_waits_for_a_worker(new_scheduler: NewScheduler, clock: FakeClock, job: Job) -> None:
    """A slot that waits for a worker is dropped; a trigger that waits is not, for a person asked."""
    gate, scheduler = Gate(), new_scheduler(clock=clock, max_workers=1)
    scheduler.register_collector(gate, "1d")
    scheduler.register_collector(job.collector, priority=-1)
    with scheduler:
        assert scheduler.lead is not None
        ticker = scheduler.lead.ticker
        assert gate.entered.acquire(timeout=30)
        until(lambda: ticker.jobs["job"].waiting, "a slot that waits")
        scheduler.disable_collector("job")
        assert ticker.jobs["job"].waiting is None
        scheduler.execute_collector_now("job", wait=False)
        until(lambda: ticker.jobs["job"].waiting, "a trigger that waits")
        scheduler.disable_collector("job")
        gate.open.set()
        assert runs_of(scheduler, "job", 1)[0].reason is Reason.TRIGGERED
        stays_off(scheduler, clock, job)


def test_the_configuration_does_not_enable_it(new_scheduler: NewScheduler, clock: FakeClock, job: Job) -> None:
    """`enabled = true` is what the configuration wants; the operator's word is another column, and it holds."""
    scheduler = start(new_scheduler, clock, job)
    scheduler.disable_collector("job")
    scheduler.stop()
    again = new_scheduler(clock=clock)
    again.add_plugin(job, "met")
    again.unregister_collector("job")
    again.load_plugins(only=(), collectors={"job": {"every": "5m", "enabled": True}})
    with again:
        status = again.get_collector_status("job")
        assert (status.every, status.enabled) == ("5m", True)
        stays_off(again, clock, job)


@pytest.mark.parametrize("how", ["replace", "unregister", "reschedule", "reset", "other collector's breaker"])
def test_registrations_and_other_switches(new_scheduler: NewScheduler, clock: FakeClock, job: Job, how: str) -> None:
    """Neither a new registration of the job nor any other switch enables it."""
    scheduler = start(new_scheduler, clock, job)
    runs_of(scheduler, "job", 1)
    scheduler.disable_collector("job")
    if how == "replace":
        scheduler.register_collector(job.collector, "5m", replace=True, enabled=True)
    elif how == "unregister":
        scheduler.unregister_collector("job")
        scheduler.register_collector(job.collector, enabled=True)
    elif how == "reschedule":
        scheduler.reschedule_collector("job", "1m")
    else:
        scheduler.reset_breaker("job")
    settle(scheduler)
    until(lambda: "job" in {found.job_id for found in scheduler.get_status().jobs}, "the registration")
    stays_off(scheduler, clock, job)


def test_a_standby_that_takes_over(new_scheduler: NewScheduler, clock: FakeClock, job: Job) -> None:
    """Disabled in the leader or from beside it, it is so for whoever leads next, and an enable reaches the leader."""
    first, second = start(new_scheduler, clock, job), start(new_scheduler, clock, job)
    assert (first.state, second.state) == (SchedulerState.RUNNING, SchedulerState.STANDBY)
    second.disable_collector("job")
    stays_off(first, clock, job)
    first.stop()
    until(lambda: second.state is SchedulerState.RUNNING, "the take-over")
    stays_off(second, clock, job)
    third = start(new_scheduler, clock, job)
    third.enable_collector("job")
    count = len(finished(second, "job"))
    clock.advance(600)
    assert runs_of(second, "job", count + 1)[-1].reason is Reason.SCHEDULED


def test_enabled_again_it_starts_with_the_next_slot(new_scheduler: NewScheduler, clock: FakeClock, job: Job) -> None:
    """What passed while a job was disabled was not wanted: no catch-up, nothing missed."""
    scheduler = start(new_scheduler, clock, job)
    runs_of(scheduler, "job", 1)
    scheduler.disable_collector("job")
    stays_off(scheduler, clock, job)
    scheduler.enable_collector("job")
    settle(scheduler)
    assert len(finished(scheduler, "job")) == 1
    clock.advance(600)
    last = runs_of(scheduler, "job", 2)[-1]
    assert (last.reason, last.missed) == (Reason.SCHEDULED, 0)


@pytest.mark.parametrize("seed", range(4))
def test_any_history(new_scheduler: NewScheduler, clock: FakeClock, job: Job, seed: int) -> None:
    """Whatever happens in whatever order: while the operator's last word is `disable`, no run starts that nobody asked
    for; while it is `enable`, the job goes on."""
    draw, disabled = random.Random(seed), False
    scheduler = start(new_scheduler, clock, job)
    for _ in range(40):
        settle(scheduler)
        until(lambda: scheduler.lead and not scheduler.lead.ticker.is_busy, "the end of the runs")  # noqa: B023
        count = job.unasked
        what = draw.choice(
            ["disable", "enable", "restart", "trigger", "time", "time", "break", "replace", "reset", "step"]
        )
        if what in ("disable", "enable"):
            getattr(scheduler, f"{what}_collector")("job")
            disabled = what == "disable"
        elif what == "restart":
            scheduler.stop()
            clock.advance(draw.choice([0, HOUR]))
            scheduler = start(new_scheduler, clock, job)
        elif what == "trigger":
            scheduler.execute_collector_now("job")
        elif what == "break":
            job.error = draw.choice([None, ValueError("down"), RateLimited(30), SkipRun("no", again_after=20)])
        elif what == "replace":
            scheduler.register_collector(job.collector, replace=True)
        elif what == "reset":
            scheduler.reset_breaker("job")
        else:
            clock.step(draw.choice([-HOUR, 60, HOUR]) if what == "step" else 0)
            clock.advance(1)
            settle(scheduler)
            clock.advance(2 * HOUR)
            settle(scheduler)
            until(lambda: scheduler.lead and not scheduler.lead.ticker.is_busy, "the end of the runs")  # noqa: B023
            assert disabled or job.unasked > count, "it does not go on"
        assert not disabled or job.unasked == count, f"{what} ran a disabled job"
        assert scheduler.get_collector_status("job").health is Health.DISABLED or not disabled


def test_a_switch_with_nobody_leading_leaves_who_led_last(
    new_scheduler: NewScheduler, clock: FakeClock, job: Job
) -> None:
    """After a crash an operator wants to know when the scheduler died: what he switches then is no sign of its life.
    Where nobody has led, and where a run was carried out, it is told who did."""
    other = new_scheduler(clock=clock)
    other.register_collector(job.collector)
    other.disable_collector("job")
    assert other.get_status().scheduler.started_at == to_datetime(clock.now())
    clock.advance(HOUR)
    start(new_scheduler, clock, job).stop()
    led = other.get_status().scheduler
    clock.advance(HOUR)
    for switch in (other.enable_collector, other.disable_collector, other.reset_breaker):
        switch("job")
        assert other.get_status().scheduler == led
    other.execute_collector_now("job")
    assert other.get_status().scheduler.started_at == to_datetime(clock.now())
