"""A dry run in the process that leads leaves the job as it was: its slots, its retries, its instance, its next run."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from geckosched import (
    Batch,
    Budget,
    CollectionScheduler,
    Collector,
    Outcome,
    RateLimited,
    Reason,
    Run,
    RunContext,
    SchedulerClosed,
    collector,
)
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_dry_runs_cut_short import Rehearsal
from tests.test_hooks import job
from tests.test_scheduler import until


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """What a collector that hangs waits for; it is set at the end of the test, too."""
    event = threading.Event()
    yield event
    event.set()


def waiting(go_on: threading.Event, inside: threading.Event) -> Callable[[RunContext], Any]:
    def collect(run: RunContext) -> Any:
        inside.set()
        go_on.wait()
        yield Batch("rows", [{"n": 1}], pk="n")

    return collect


def ended(scheduler: CollectionScheduler, count: int = 1) -> list[Run]:
    """Return the runs, newest first, when so many have ended."""
    until(lambda: [run.outcome is None for run in scheduler.get_runs()] == [False] * count, f"{count} runs")
    return scheduler.get_runs()


# -- what comes due meanwhile


@pytest.mark.parametrize("reason", [Reason.FIRST, Reason.CATCHUP])
def test_a_first_or_overdue_run_comes_after_it(
    new_scheduler: NewScheduler, clock: FakeClock, go_on: threading.Event, reason: Reason
) -> None:
    """T2: a job that is due at once, and is rehearsed before the ticker gets to it, runs when the dry run has ended; it
    does not wait for its next slot, a day away."""
    inside, held = threading.Event(), threading.Event()
    scheduler, hold = new_scheduler(clock=clock), threading.Event()

    def let_messages_gather() -> None:
        held.set()
        hold.wait(10)

    daily = job("daily", waiting(go_on, inside), every="1d")
    if reason is Reason.CATCHUP:
        go_on.set()
        scheduler.register_collector(daily)
        with scheduler:
            ended(scheduler)
        scheduler.unregister_collector("daily")
        clock.advance(3 * 86400)
        go_on.clear()
    with scheduler:
        lead = scheduler.lead
        assert lead is not None
        lead.ticker.inbox.put((let_messages_gather,))
        assert held.wait(10)
        scheduler.register_collector(daily)
        rehearsal = Rehearsal(scheduler, "daily")
        until(lambda: lead.ticker.inbox._queue.qsize() == 2)
        hold.set()
        until(lambda: "daily" in lead.ticker.jobs and lead.ticker.jobs["daily"].running)
        clock.advance(1)
        go_on.set()
        assert rehearsal.end().run.outcome is Outcome.SUCCEEDED
        run = ended(scheduler, 1 if reason is Reason.FIRST else 2)[0]
    assert (run.reason, run.outcome) == (reason, Outcome.SUCCEEDED)


def test_a_slot_that_comes_meanwhile_runs_after_it(
    new_scheduler: NewScheduler, clock: FakeClock, go_on: threading.Event
) -> None:
    """T1: a dry run serves no slot, so the daily run comes late, not tomorrow."""
    inside, scheduler = threading.Event(), new_scheduler(clock=clock, catchup="none")
    scheduler.register_collector(job("daily", waiting(go_on, inside), every="1d", timeout="3d"))
    with scheduler:
        slot = scheduler.get_collector_status("daily").next_run_at
        rehearsal = Rehearsal(scheduler, "daily")
        assert inside.wait(10)
        assert slot is not None
        clock.advance(slot.timestamp() - clock.now() / 1e6 + 30)
        lead = scheduler.lead
        assert lead is not None
        until(lambda: lead.ticker.last_turn == clock.now())
        go_on.set()
        rehearsal.end()
        [run] = ended(scheduler)
    assert (run.reason, run.scheduled_for, run.missed) == (Reason.SCHEDULED, slot, 0)


def test_the_retry_after_it_bears_the_slot_that_it_repeats(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """A retry repeats the run that failed, whatever was rehearsed between them."""
    well = threading.Event()

    def collect(run: RunContext) -> None:
        if not well.is_set():
            raise ValueError("no")

    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(job("daily", collect, every="1d"))
    with scheduler:
        [failed] = ended(scheduler)
        well.set()
        assert scheduler.dry_run("daily").run.outcome is Outcome.SUCCEEDED
        clock.advance(61)
        retry = ended(scheduler, 2)[0]
    assert failed.scheduled_for is not None
    assert (retry.reason, retry.scheduled_for) == (Reason.RETRY, failed.scheduled_for)


def test_it_has_an_instance_of_its_own(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """What a collector notes in itself after a yield ("stored up to 5") must not come from a dry run: the next run
    would leave those rows out."""

    class Counting(Collector):
        name = "counting"
        every = "1d"
        stored = 0

        def collect(self, _: RunContext) -> Any:
            yield Batch("numbers", [{"n": n} for n in range(self.stored, 5)], pk="n")
            self.stored = 5

    scheduler = new_scheduler(clock=clock, catchup="none")
    scheduler.register_collector(Counting)
    with scheduler:
        assert scheduler.dry_run("counting").run.rows == 5
        run = scheduler.execute_collector_now("counting")
    assert run is not None
    assert run.rows == 5


# -- what the caller gets


def test_of_a_job_that_is_taken_out_meanwhile(
    new_scheduler: NewScheduler, clock: FakeClock, go_on: threading.Event
) -> None:
    """The run in progress goes on to its end, and the caller gets it."""
    inside, scheduler = threading.Event(), new_scheduler(clock=clock, catchup="none")
    scheduler.register_collector(job("one", waiting(go_on, inside)))
    with scheduler:
        rehearsal = Rehearsal(scheduler, "one")
        assert inside.wait(10)
        scheduler.unregister_collector("one")
        go_on.set()
        found = rehearsal.end()
    assert (found.run.outcome, found.state) == (Outcome.SUCCEEDED, {})


def test_a_stop_while_the_file_is_locked(new_scheduler: NewScheduler, clock: FakeClock, store_path: Path) -> None:
    """S1: a dry run that the writer has to give up ends interrupted, with a run that says so."""
    scheduler = new_scheduler(clock=clock, catchup="none")
    scheduler.register_collector(job("one", lambda _: None))
    scheduler.start()
    lead = scheduler.lead
    assert lead is not None
    with closing(sqlite3.connect(store_path, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        rehearsal = Rehearsal(scheduler, "one")
        until(lambda: "one" in lead.ticker.jobs and lead.ticker.jobs["one"].running)
        scheduler.stop(0.3)
        foreign.execute("ROLLBACK")
    run: Run | None = rehearsal.end().run
    assert run is not None
    assert run.outcome is Outcome.INTERRUPTED


def test_a_nan_is_shown_as_it_would_be_stored(new_scheduler: NewScheduler) -> None:
    """NaN becomes NULL in the store, so it is None here, and the JSON of it is JSON."""
    scheduler = new_scheduler()
    scheduler.register_collector(job("one", lambda _: Batch("rows", [{"n": math.nan, "m": 1.5}])))
    assert scheduler.dry_run("one").batches[0].rows == ({"n": None, "m": 1.5},)


def test_a_refusal_says_why(new_scheduler: NewScheduler, clock: FakeClock, go_on: threading.Event) -> None:
    """Of a run in progress, of a full pool and of a closed budget each is named, the last with its end."""
    service, inside = Budget("service", rate="10/m"), threading.Event()

    @collector("limited", every="1d", budget=service)
    def limited(run: RunContext) -> None:
        with run.call():
            raise RateLimited(300)

    scheduler = new_scheduler(clock=clock, catchup="none", max_workers=1)
    scheduler.register_collector(limited)
    scheduler.register_collector(job("busy", waiting(go_on, inside), every="1d"))
    scheduler.register_collector(job("other", lambda _: None, every="1d"))
    with scheduler:
        scheduler.execute_collector_now("limited")
        with pytest.raises(SchedulerClosed, match="limited: budget service is closed until 2026-01-01 00:05"):
            scheduler.dry_run("limited")
        scheduler.execute_collector_now("busy", wait=False)
        assert inside.wait(10)
        with pytest.raises(SchedulerClosed, match=r"dry run of busy: a run of it is going on$"):
            scheduler.dry_run("busy")
        with pytest.raises(SchedulerClosed, match=r"dry run of other: no worker is free$"):
            scheduler.dry_run("other")
        go_on.set()
