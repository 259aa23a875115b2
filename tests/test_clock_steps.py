"""T3, T4: clock steps, suspends and both nights of daylight saving neither stop jobs nor burst them.

What should run is said by `Expected`, a few lines that know nothing of the ticker; runs are held against it one by one.
A machine that sleeps looks different by platform: on Linux monotonic time stands still meanwhile, so that a suspend is
a step forward; elsewhere both clocks go on. Both are tested.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest

from geckosched import (
    BreakerState,
    Budget,
    CollectionScheduler,
    Outcome,
    RateLimited,
    Reason,
    Run,
    RunContext,
    SkipRun,
    collector,
)
from geckosched.core import DAY, HOUR, MINUTE, SECOND, Grid, from_datetime, to_datetime
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_races import one_turn
from tests.test_scheduler import Gate, settle, until

BERLIN = ZoneInfo("Europe/Berlin")
JOBS: dict[str, tuple[int, str | None]] = {
    "five": (5 * MINUTE, None),
    "four": (4 * HOUR, None),
    "day": (DAY, None),
    "night": (DAY, "02:30"),
}
TWELVE_HOURS = 12 * 3600


@collector("plain")
def plain(run: RunContext) -> None:
    """Does nothing."""


def grid_of(job_id: str) -> Grid:
    every, at = JOBS[job_id]
    return Grid(job_id, every, None if at is None else (2, 30), BERLIN)


def quiet(scheduler: CollectionScheduler) -> None:
    """Wait until all that is due by now has run, and what came due by that as well."""
    assert scheduler.lead is not None
    ticker, deadline, busy = scheduler.lead.ticker, time.monotonic() + 30, True
    while busy:
        assert time.monotonic() < deadline, "a run does not end"
        before, busy = ticker.last_run_id, ticker.is_busy
        settle(scheduler)
        busy = busy or ticker.is_busy or ticker.last_run_id != before


def runs_of(scheduler: CollectionScheduler, job_id: str) -> list[Run]:
    """Return a job's runs, oldest first, when all of them are closed."""
    until(lambda: all(run.outcome for run in scheduler.get_runs(job_id, 100_000)), "the end of the runs")
    return scheduler.get_runs(job_id, 100_000)[::-1]


class Ran(NamedTuple):
    """A run as far as time is concerned."""

    slot: int
    missed: int


class Expected:
    """What a job's slots come to: a run each; after a standstill one run for all that passed."""

    def __init__(self, grid: Grid, now: int, *, passes_over: bool) -> None:
        self.grid = grid
        self.served = grid.before(now)
        self.runs: list[Ran] = []
        self.passes_over = passes_over  # a catch-up run serves a slot nearer than half an interval as well
        self._pass_over(now)  # the first run, which is none of the slots'

    def time_passes(self, now: int, until: int) -> None:
        """From slot to slot, never late."""
        while (slot := self.grid.after(max(now, self.served))) <= until:
            self.runs.append(Ran(slot, 0))
            self.served = slot

    def set_back(self, now: int) -> None:
        self.served = min(self.served, self.grid.before(now))

    def stood_still(self, now: int, *, started: bool = False) -> None:
        """Slots have passed, by a step forward, a suspend or a stop."""
        if passed := self.grid.count(self.served, now):
            self.served = self.grid.before(now)
            self.runs.append(Ran(self.served, passed - 1))
            hour_late = now - self.served > max(MINUTE, min(self.grid.every // 2, HOUR))
            if started or passed > 1 or hour_late:
                self._pass_over(now)

    def _pass_over(self, now: int) -> None:
        slot = self.grid.after(max(now, self.served))
        if self.passes_over and slot - now < self.grid.every / 2:
            self.served = slot


class Story:
    """A scheduler with the four jobs, taken through time from slot to slot, and what is expected of each job."""

    def __init__(self, new_scheduler: NewScheduler, clock: FakeClock) -> None:
        self.clock = clock
        self._new = new_scheduler
        self.expected = {
            job_id: Expected(grid_of(job_id), clock.now(), passes_over=at is None) for job_id, (_, at) in JOBS.items()
        }
        self.start()

    def start(self) -> None:
        self.scheduler = self._new(clock=self.clock, timezone="Europe/Berlin", max_workers=4)
        for job_id, (every, at) in JOBS.items():
            self.scheduler.register_collector(plain, timedelta(microseconds=every), job_id=job_id, at=at)
        self.scheduler.start()
        quiet(self.scheduler)

    def go_on(self, seconds: float) -> None:
        """Let time pass, slot by slot, so that no run is late."""
        end = self.clock.now() + round(seconds * SECOND)
        for expected in self.expected.values():
            expected.time_passes(self.clock.now(), end)
        while (now := self.clock.now()) < end:
            moment = min(end, *(expected.grid.after(now) for expected in self.expected.values()))
            self.clock.advance((moment - now) / SECOND)
            quiet(self.scheduler)

    def step(self, seconds: float) -> None:
        """Set the clock. The ticker turns at least once a second: it has seen it a second later."""
        self.clock.step(seconds)
        self.clock.advance(1)
        quiet(self.scheduler)
        for expected in self.expected.values():
            (expected.set_back if seconds < 0 else expected.stood_still)(self.clock.now())

    def stand_still(self, seconds: float) -> None:
        """Let time pass for both clocks at once, as a suspend does where monotonic time goes on."""
        self.clock.advance(seconds)
        quiet(self.scheduler)
        for expected in self.expected.values():
            expected.stood_still(self.clock.now())

    def restart(self, seconds: float) -> None:
        """Set the clock while nothing runs."""
        self.scheduler.stop(5)
        self.clock.step(seconds)
        self.start()
        for expected in self.expected.values():
            expected.set_back(self.clock.now())
            expected.stood_still(self.clock.now(), started=True)

    def check(self) -> None:
        """Hold every run of every job against what is expected."""
        for job_id, expected in self.expected.items():
            runs = [run for run in runs_of(self.scheduler, job_id) if run.reason is not Reason.FIRST]
            found = [Ran(from_datetime(run.scheduled_for or to_datetime(0)), run.missed) for run in runs]
            assert found == expected.runs, job_id
            assert all(run.outcome is Outcome.SUCCEEDED for run in runs)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 6, 1, 9, 17, 3, tzinfo=UTC))


@pytest.fixture
def story(new_scheduler: NewScheduler, clock: FakeClock) -> Story:
    return Story(new_scheduler, clock)


# -- daylight saving ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "nights"),
    [
        ((2026, 3, 27), ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"]),
        ((2026, 10, 23), ["2026-10-24T00:30", "2026-10-25T00:30", "2026-10-26T01:30"]),
    ],
)
def test_the_nights_on_which_clocks_change(
    new_scheduler: NewScheduler, start: tuple[int, int, int], nights: list[str]
) -> None:
    """T3, T4: no gap of 65 minutes and no burst; "02:30" runs once a day: at the first instant after the gap, at the
    first of the two 02:30, and on the days around it."""
    clock = FakeClock(datetime(*start, 12, tzinfo=UTC))
    story = Story(new_scheduler, clock)
    story.go_on(3 * 86400)
    story.check()
    runs = {job_id: [r for r in runs_of(story.scheduler, job_id) if r.reason is Reason.SCHEDULED] for job_id in JOBS}
    assert [run.started_at for run in runs["night"]] == [datetime.fromisoformat(f"{n}:00Z") for n in nights]
    for job_id in ("five", "four", "day"):
        times = [run.started_at for run in runs[job_id]]
        every = timedelta(microseconds=JOBS[job_id][0])
        assert {later - sooner for sooner, later in pairwise(times)} == {every}
        assert 3 * 86400 - every.total_seconds() * 1.5 <= len(times) * every.total_seconds() <= 3 * 86400
        assert all(run.started_at == run.scheduled_for and run.missed == 0 for run in runs[job_id])


# -- steps, suspends, restarts -----------------------------------------------------------------------------------------


def test_the_clock_set_back_twelve_hours(story: Story, clock: FakeClock) -> None:
    """T3: no job waits for the old time to come again; every slot that the step repeats runs again, once."""
    story.go_on(86400 + 3600)
    before = {job_id: len(expected.runs) for job_id, expected in story.expected.items()}
    story.step(-TWELVE_HOURS)
    assert {job_id: len(expected.runs) for job_id, expected in story.expected.items()} == before, "nothing is due"
    story.go_on(TWELVE_HOURS)
    again = {job_id: len(expected.runs) - before[job_id] for job_id, expected in story.expected.items()}
    assert (again["five"], again["four"]) == (144, 3)
    story.go_on(TWELVE_HOURS)
    story.check()


def test_the_clock_set_forward_twelve_hours(story: Story) -> None:
    """T3: no burst: one run for all slots that were jumped over, which says how many."""
    story.go_on(86400 + 3600)
    before = {job_id: len(expected.runs) for job_id, expected in story.expected.items()}
    story.step(TWELVE_HOURS)
    caught_up = {job_id: expected.runs[before[job_id] :] for job_id, expected in story.expected.items()}
    assert [run.missed for run in caught_up["five"] + caught_up["four"]] == [143, 2]
    story.go_on(TWELVE_HOURS)
    story.check()
    reasons = [run.reason for run in runs_of(story.scheduler, "five")]
    assert reasons.count(Reason.CATCHUP) == 1


@pytest.mark.parametrize("hours", [-12, 12])
def test_the_clock_set_while_nothing_runs(story: Story, hours: int) -> None:
    """T3: the same over a restart; a stored slot that lies ahead stops no job."""
    story.go_on(86400 + 3600)
    story.restart(hours * 3600)
    story.go_on(86400)
    story.check()


@pytest.mark.parametrize("monotonic_runs", [False, True])
def test_a_machine_that_sleeps_for_six_hours(story: Story, monotonic_runs: bool) -> None:
    """T3: one catch-up run of each job that has missed a slot, right after the machine wakes."""
    story.go_on(7200)
    before = {job_id: len(expected.runs) for job_id, expected in story.expected.items()}
    if monotonic_runs:
        story.stand_still(6 * 3600)
    else:
        story.step(6 * 3600)
    assert [run.missed for run in story.expected["five"].runs[before["five"] :]] == [71]
    story.go_on(86400)
    story.check()


def test_there_and_back_again(story: Story) -> None:
    """T3: a clock that somebody sets wrong and then right, five times: no slot is lost, none comes in a burst."""
    for hours in (12, 1, 12, 24, 3):
        story.go_on(1500)
        story.step(hours * 3600)
        story.go_on(1500)
        story.step(-hours * 3600)
    story.go_on(6 * 3600)
    story.check()


def test_many_small_steps(story: Story) -> None:
    """T3: a clock that is set by less than a second, either way, right at a slot: it runs neither twice nor never."""
    grid = grid_of("five")
    for number in range(60):
        story.go_on((grid.after(story.clock.now()) - story.clock.now()) / SECOND)
        story.clock.step(0.9 if number % 3 == 0 else -0.7)
        quiet(story.scheduler)
        story.go_on(5)
    story.check()


@pytest.mark.parametrize("seed", range(3))
def test_any_history_of_steps(story: Story, seed: int) -> None:
    """T3: steps of seconds to days either way, suspends of both kinds and restarts, in any order: every job's every run
    is the one that its slots come to."""
    draw = random.Random(seed)
    for _ in range(12):
        seconds = draw.choice([1, -1]) * draw.choice([2, 40, 400, 3601, 12345.678901, TWELVE_HOURS, 100_000])
        what = draw.choice(["step", "step", "restart", "suspend"])
        if what == "step":
            story.step(seconds)
        elif what == "restart":
            story.restart(seconds)
        else:
            story.stand_still(abs(seconds))
        story.go_on(draw.choice([1, 60, 1000, 2 * 3600]))
    story.check()


# -- a step while something is under way -------------------------------------------------------------------------------


def _gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()  # whatever failed


gate = pytest.fixture(_gate, name="gate")


@pytest.mark.parametrize(("hours", "missed"), [(-12, 0), (12, 144)])
def test_a_step_during_a_run(
    new_scheduler: NewScheduler, clock: FakeClock, gate: Gate, hours: int, missed: int
) -> None:
    """T3: the run goes on to its end, its time limit is untouched, and its job's next slot is the clock's next."""
    grid, scheduler = Grid("gate", 5 * MINUTE), new_scheduler(clock=clock)
    scheduler.register_collector(gate, "5m", timeout="10m")
    with scheduler:
        assert gate.entered.acquire(timeout=30)
        clock.advance((grid.after(clock.now()) - clock.now()) / SECOND + 60)  # a slot was missed, or passed over
        settle(scheduler)
        clock.step(hours * 3600)
        clock.advance(1)
        settle(scheduler)
        assert [run.outcome for run in scheduler.get_runs("gate")] == [None]
        gate.open.set()
        quiet(scheduler)
        slot = grid.after(clock.now())
        clock.advance((slot - clock.now()) / SECOND)
        quiet(scheduler)
        first, second = runs_of(scheduler, "gate")
    assert first.outcome is Outcome.SUCCEEDED
    assert second.scheduled_for == to_datetime(slot) == second.started_at
    assert second.missed - missed in (0, 1)


class Service:
    """What a collector calls: in order, broken, or rate limited."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.calls: list[int] = []

    def collector(self, clock: FakeClock, **settings: Any) -> Any:
        @collector("caller", every="1d", **settings)
        def caller(run: RunContext) -> None:
            self.calls.append(clock.monotonic())
            if self.error is not None:
                raise self.error

        return caller


def count_within(scheduler: CollectionScheduler, clock: FakeClock, service: Service, seconds: int) -> list[int]:
    """Let time pass; return after how many seconds the collector was called."""
    begin, before = clock.monotonic(), len(service.calls)
    for _ in range(seconds // 10):
        clock.advance(10)
        quiet(scheduler)
    return [(moment - begin) // SECOND for moment in service.calls[before:]]


@pytest.mark.parametrize("threshold", [1, 5])
@pytest.mark.parametrize("restart", [False, True])
def test_a_retry_that_lies_further_ahead_than_its_delay_counts_as_now(
    new_scheduler: NewScheduler, clock: FakeClock, threshold: int, restart: bool
) -> None:
    """T3: the clock set back 12 hours leaves neither a retry nor an open breaker's probe 12 hours ahead."""

    def started() -> CollectionScheduler:
        scheduler = new_scheduler(clock=clock, max_consecutive_errors=threshold, error_recovery_delay="20m")
        scheduler.register_collector(service.collector(clock))
        scheduler.start()
        quiet(scheduler)
        return scheduler

    service = Service()
    service.error = ValueError("down")
    scheduler = started()
    [failed] = runs_of(scheduler, "caller")
    assert failed.outcome is Outcome.FAILED
    service.error = None
    if restart:
        scheduler.stop(5)
        clock.step(-TWELVE_HOURS)
        scheduler = started()
    else:
        clock.step(-TWELVE_HOURS)
    count_within(scheduler, clock, service, 20 * 60)
    assert len(service.calls) == 2
    _, again = runs_of(scheduler, "caller")
    assert (again.reason, again.outcome) == (Reason.PROBE if threshold == 1 else Reason.RETRY, Outcome.SUCCEEDED)
    assert scheduler.get_collector_status("caller").breaker is BreakerState.CLOSED


@pytest.mark.parametrize("restart", [False, True])
def test_a_rate_limit_does_not_last_twelve_hours_longer(
    new_scheduler: NewScheduler, clock: FakeClock, restart: bool
) -> None:
    """T3: a 429's pause of 10 minutes ends within 10 minutes after the clock was set back."""

    def started() -> CollectionScheduler:
        scheduler = new_scheduler(clock=clock)
        scheduler.register_collector(service.collector(clock))
        scheduler.start()
        quiet(scheduler)
        return scheduler

    service = Service()
    service.error = RateLimited(600)
    scheduler = started()
    service.error = None
    if restart:
        scheduler.stop(5)
        clock.step(-TWELVE_HOURS)
        scheduler = started()
    else:
        clock.step(-TWELVE_HOURS)
    count_within(scheduler, clock, service, 610)
    assert len(service.calls) == 2
    assert runs_of(scheduler, "caller")[1].outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("hours", [0, -12, 12, 6])
@pytest.mark.parametrize("refused", [False, True])
def test_a_step_while_calls_wait(new_scheduler: NewScheduler, clock: FakeClock, hours: int, refused: bool) -> None:
    """T3, B4: whatever the clock does, a call that waits for its place or for a closed budget goes out no sooner than
    the far side allows, and no later than that pause counted once more."""
    service = Service()

    @collector("caller", every="1d", budget=Budget("api", "1/m", 1), timeout="1h")
    def caller(run: RunContext) -> None:
        for _ in range(2):
            try:
                with run.call():
                    service.calls.append(clock.monotonic())
                    if refused and len(service.calls) == 1:
                        raise RateLimited(90)
            except RateLimited:
                pass

    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(caller)
    with scheduler:
        assert scheduler.lead is not None
        services = scheduler.lead.ticker._calls._services
        until(lambda: services and services["api"].waiting, "a call that waits")
        clock.advance(10)
        settle(scheduler)
        clock.step(hours * 3600)
        for _ in range(180):
            if services["api"].waiting:
                clock.advance(1)
                settle(scheduler)
        until(lambda: len(service.calls) == 2, "the call that waited")
        quiet(scheduler)
    first, second = service.calls
    pause = 90 if refused else 60
    assert pause <= (second - first) / SECOND <= pause + (pause + 11 if hours < 0 else 1)


@pytest.mark.parametrize("monotonic_runs", [False, True])
def test_a_suspend_during_a_run_and_its_time_limit(
    new_scheduler: NewScheduler, clock: FakeClock, gate: Gate, monotonic_runs: bool
) -> None:
    """T3, R4: a machine that slept for a night doesn't take it off a run's time limit where monotonic time stood; where
    it ran, the limit has passed and the run is asked to stop, not abandoned at once."""
    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(gate, "1d", timeout="10m")
    with scheduler:
        assert gate.entered.acquire(timeout=30)
        settle(scheduler)
        if monotonic_runs:
            clock.advance(6 * 3600)
        else:
            clock.step(6 * 3600)
            clock.advance(1)
        settle(scheduler)
        assert scheduler.lead is not None
        [execution] = scheduler.lead.ticker._running
        assert execution.stopping == monotonic_runs
        gate.open.set()
        quiet(scheduler)
        run = runs_of(scheduler, "gate")[0]
    assert (run.outcome, run.rows) == (Outcome.TIMED_OUT if monotonic_runs else Outcome.SUCCEEDED, 1)


# -- a step in the worst moment ----------------------------------------------------------------------------------------


def test_a_run_that_ends_just_before_the_clock_is_set_back(
    new_scheduler: NewScheduler, clock: FakeClock, gate: Gate
) -> None:
    """T3: the ticker may hear of a run's end, and of the time it ended at, after it has seen the step: that old time
    must not stop the job until it comes again."""
    grid, scheduler = Grid("gate", 5 * MINUTE), new_scheduler(clock=clock)
    scheduler.register_collector(gate, "5m")
    with scheduler:
        assert gate.entered.acquire(timeout=30)
        settle(scheduler)
        assert scheduler.lead is not None
        inbox = scheduler.lead.ticker.inbox
        with one_turn(scheduler):
            gate.open.set()
            until(lambda: inbox, "the run's end")
            clock.step(-TWELVE_HOURS)
        quiet(scheduler)
        for _ in range(3):
            clock.advance((grid.after(clock.now()) - clock.now()) / SECOND)
            quiet(scheduler)
        assert len(runs_of(scheduler, "gate")) in (3, 4)  # the first may have passed over a slot


def test_a_run_takes_no_time_that_did_not_pass(new_scheduler: NewScheduler, clock: FakeClock, gate: Gate) -> None:
    """T3: the clock set back during a run makes it neither end before it began nor take less than nothing."""
    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(gate, "5m")
    with scheduler:
        assert gate.entered.acquire(timeout=30)
        clock.step(-TWELVE_HOURS)
        clock.advance(10)
        gate.open.set()
        quiet(scheduler)
        [run] = runs_of(scheduler, "gate")
        [row] = scheduler._store.read("SELECT seconds FROM geckosched_jobs")
    assert run.seconds is not None
    assert run.seconds >= 0
    assert row["seconds"] >= 0


@pytest.mark.parametrize("how", ["a small step", "a restart"])
def test_what_a_skipped_run_asked_for_is_kept(new_scheduler: NewScheduler, clock: FakeClock, how: str) -> None:
    """`SkipRun(again_after=60)` of a daily job holds over a step of two seconds, and over a restart."""
    service = Service()
    service.error = SkipRun("not yet", again_after=60)
    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(service.collector(clock))
    scheduler.start()
    quiet(scheduler)
    service.error = None
    if how == "a restart":
        scheduler.stop(5)
        scheduler = new_scheduler(clock=clock)
        scheduler.register_collector(service.collector(clock))
        scheduler.start()
    else:
        clock.step(-2)
    count_within(scheduler, clock, service, 70)
    assert len(service.calls) == 2


def test_a_step_in_the_middle_of_a_turn_closes_no_budget(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """T3, B4: a machine that falls asleep while the ticker notes a call's end (which bears the new time, and is moved
    by the step once more) does not close the budget for as long as it slept."""
    service, inside, go_on = Service(), threading.Event(), threading.Event()

    @collector("caller", every="1d", budget=Budget("api", "1/m", 1), timeout="1h")
    def caller(run: RunContext) -> None:
        for _ in range(2):
            with run.call():
                service.calls.append(clock.monotonic())
                inside.set()
                go_on.wait(30)

    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(caller)
    with scheduler:
        assert inside.wait(30)
        settle(scheduler)
        assert scheduler.lead is not None
        inbox, services = scheduler.lead.ticker.inbox, scheduler.lead.ticker._calls._services
        with one_turn(scheduler):
            inbox.put((clock.step, TWELVE_HOURS))
            go_on.set()
            until(lambda: inbox._queue.qsize() >= 3, "a call's end, and the next call")
        settle(scheduler)
        for _ in range(130):
            if services["api"].waiting:
                clock.advance(1)
                settle(scheduler)
        assert not services["api"].waiting, "closed for twelve hours"
        quiet(scheduler)
    assert len(service.calls) == 2
