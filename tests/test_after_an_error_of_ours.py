"""What a host's log handler, a damaged row, an unusable file or an error of ours may end: what it touches, no more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from geckosched import (
    BreakerState,
    CollectionScheduler,
    Health,
    Outcome,
    RunContext,
    SchedulerClosed,
    SchedulerConfig,
    SchedulerState,
    SkipRun,
    StoreError,
)
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_hooks import job, judged, ran
from tests.test_scheduler import until
from tests.workbench import Begun, Workbench


class Broken(logging.Handler):
    """A log handler of a careless host."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(f"no room for {record.name}")


@pytest.fixture
def broken_log() -> Iterator[logging.Handler]:
    handler = Broken()
    logging.getLogger("geckosched").addHandler(handler)
    yield handler
    logging.getLogger("geckosched").removeHandler(handler)


@pytest.mark.usefixtures("broken_log")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_log_handler_that_raises_ends_no_loop(new_scheduler: NewScheduler) -> None:
    """X1: a breaker that opens is a line in the log; what the host's logging does wrong costs that line."""

    def collect(run: RunContext) -> None:
        raise ValueError("no")

    scheduler = new_scheduler(clock=FakeClock(), catchup="none", max_consecutive_errors=1)
    scheduler.register_collector(job("one", collect))
    with scheduler:
        begun = begin(scheduler, "one")
        assert begun.ended.wait(10), f"the run never ended, the scheduler is {scheduler.state}"
        assert scheduler.state is SchedulerState.RUNNING
        assert scheduler.get_collector_status("one").breaker is BreakerState.OPEN


def begin(scheduler: CollectionScheduler, job_id: str) -> Begun:
    """Run a job for somebody who waits, in a thread of its own."""
    begun = Begun()

    def wait() -> None:
        try:
            begun.run = scheduler.execute_collector_now(job_id)
        except SchedulerClosed as error:
            begun.error = error
        begun.ended.set()

    threading.Thread(target=wait, daemon=True).start()
    return begun


def test_who_waits_for_a_run_when_the_ticker_dies_is_told(bench: Workbench) -> None:
    """After an error of ours nobody waits for what will not come, he whose run was going on included."""
    inside, go_on = threading.Event(), threading.Event()

    def collect(_: RunContext) -> None:
        inside.set()
        go_on.wait(10)

    def bug() -> None:
        raise AssertionError("a bug of geckosched")

    begun = bench.begin(collect)
    assert inside.wait(10)
    lead = bench.scheduler.lead
    assert lead is not None
    lead.ticker.inbox.put((bug,))
    until(lambda: bench.scheduler.state is SchedulerState.ERROR)
    go_on.set()
    assert begun.ended.wait(5), "he waits for ever"
    assert isinstance(begun.error, SchedulerClosed)
    bench.scheduler.stop()
    bench.scheduler.start()
    assert bench.run(lambda _: None).outcome is Outcome.SUCCEEDED


def test_one_damaged_row_hides_the_health_of_no_other_job(
    new_scheduler: NewScheduler, store_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A job whose row somebody damaged is unhealthy, the others are judged, and the log is not filled with it."""
    clock, outside = FakeClock(), new_scheduler()
    scheduler = new_scheduler(clock=clock, catchup="none")
    for name in ("a", "b"):
        scheduler.register_collector(job(name, lambda _: None, every="1d"))
    with scheduler:
        until(lambda: len(judged(scheduler)) == 2)
        outside._requests._write("UPDATE geckosched_jobs SET every='banana' WHERE job_id='a'")
        ran(scheduler, "b")
        clock.advance(60)
        until(lambda: judged(scheduler).get("b") is Health.HEALTHY, "b, judged beside the damaged one")
        assert judged(scheduler)["a"] is Health.UNHEALTHY
    said = [record.getMessage() for record in caplog.records if "banana" in record.getMessage()]
    assert len(said) == 1, said


def test_a_standby_that_can_not_show_itself_says_so_in_words(new_scheduler: NewScheduler, store_path: Path) -> None:
    """S2: where the file beside the store can't be made, `start` raises StoreError with its name, is stopped, keeps
    nobody waiting, and starts when it can."""
    beside = store_path.with_name("store.db.standby")
    standby = CollectionScheduler(SchedulerConfig(database=store_path))
    beside.mkdir()
    with new_scheduler():
        with pytest.raises(StoreError, match=r"store\.db\.standby: Is a directory"):
            standby.start()
        assert standby.state == "stopped"
        beside.rmdir()
        with standby:
            assert standby.state == "standby"


def test_a_hurried_stop_hurries_no_later_one(bench: Workbench) -> None:
    """`hurry` ends the wait of one `stop`; after the next `start` a stop waits for the runs again."""
    bench.scheduler.hurry()
    bench.scheduler.stop()
    bench.scheduler.start()
    inside, go_on = threading.Event(), threading.Event()

    def collect(run: RunContext) -> None:
        inside.set()
        while not run.stopping:
            go_on.wait(0.01)
        go_on.wait(0.3)  # what it has still to do

    begun = bench.begin(collect)
    assert inside.wait(10)
    bench.scheduler.stop(10)
    assert begun.ended.wait(10)
    assert begun.run is not None
    assert begun.run.outcome is Outcome.SUCCEEDED


def test_what_a_skip_after_an_error_asked_for_outlasts_a_restart(new_scheduler: NewScheduler) -> None:
    """`SkipRun(again_after=3600)` of a job whose run before had failed: an hour, over a restart, too."""
    clock, runs = FakeClock(), list[str]()

    def collect(run: RunContext) -> None:
        runs.append(run.reason)
        if len(runs) == 1:
            raise ValueError("no")
        raise SkipRun("later", again_after=3600)

    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(job("daily", collect, every="1d"))
    with scheduler:
        until(lambda: scheduler.get_collector_status("daily").last_outcome is Outcome.FAILED)
        clock.advance(61)
        until(lambda: scheduler.get_collector_status("daily").last_outcome is Outcome.SKIPPED)
        asked_for = scheduler.get_collector_status("daily").next_run_at
    with scheduler:
        assert scheduler.get_collector_status("daily").next_run_at == asked_for
        assert ran(scheduler, "daily").reason == "triggered"
    assert runs == ["first", "retry", "triggered"]


def test_a_million_missed_slots_and_a_longer_interval_end_no_loop(new_scheduler: NewScheduler) -> None:
    """T3: slots missed at a second, told in slots of a week, would lie before the year 1; the job goes on all the same
    and says how many it missed."""
    clock, inside, go_on = FakeClock(), threading.Event(), threading.Event()

    def collect(_: RunContext) -> None:
        inside.set()
        go_on.wait(10)

    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(job("one", collect, every="1s", timeout="3000d"))
    with scheduler:
        assert inside.wait(10)
        lead = scheduler.lead
        assert lead is not None
        clock.advance(1_000_000)
        until(lambda: lead.ticker.jobs["one"].missed > 999_990)
        missed = lead.ticker.jobs["one"].missed
        scheduler.reschedule_collector("one", "1w")
        go_on.set()
        until(lambda: scheduler.state is SchedulerState.ERROR or scheduler.get_runs("one")[-1].outcome)
        assert scheduler.state is SchedulerState.RUNNING
        assert ran(scheduler, "one").missed == missed
