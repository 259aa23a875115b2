"""X2 and the requests: one process leads, the others stand by, and everybody can ask. Real processes on one file."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from geckosched import (
    CollectionScheduler,
    DuplicateJob,
    Outcome,
    RunContext,
    SchedulerConfig,
    SchedulerState,
    UnknownJob,
    collector,
)
from geckosched.core import LeaderLock, Requests, Store
from tests.conftest import NewScheduler
from tests.test_scheduler import until

LEADER = """
import sys
from geckosched import Batch, CollectionScheduler, SchedulerConfig, collector

@collector("daily", every="1d")
def daily(run):
    yield Batch("daily", [{"run_id": run.id}])

@collector("bad", every="1d")
def bad(run):
    raise ValueError("always")

@collector("often", every="1s")
def often(run):
    yield Batch("often", [{"slot": run.scheduled_for, "run_id": run.id}])

scheduler = CollectionScheduler(SchedulerConfig(database=sys.argv[1]))
for each in (daily, bad, often):
    scheduler.register_collector(each)
scheduler.start()
print(scheduler.state, flush=True)
for line in sys.stdin:
    pass
"""


class Process:
    """A scheduler in a process of its own; `state` is what it said at its start."""

    def __init__(self, database: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", LEADER, str(database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.state = self._process.stdout.readline().strip()
        self.pid = self._process.pid

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()


@pytest.fixture
def leader(store_path: Path) -> Iterator[Process]:
    process = Process(store_path)
    yield process
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def asker(store_path: Path) -> CollectionScheduler:
    return CollectionScheduler(SchedulerConfig(database=store_path))


def test_one_leads_the_others_stand_by_and_take_over(leader: Process, store_path: Path) -> None:
    """X2: the second stands by; when the leader is killed it takes over, and no slot runs twice."""
    second = Process(store_path)
    try:
        assert (leader.state, second.state) == ("running", "standby")
        assert asker(store_path).get_status().scheduler.pid == leader.pid
        until(lambda: asker(store_path).get_collector_status("often").runs >= 2)
        leader.kill()
        until(lambda: asker(store_path).get_status().scheduler.pid == second.pid, "the take-over")
        before = asker(store_path).get_collector_status("often").runs
        until(lambda: asker(store_path).get_collector_status("often").runs >= before + 2)
    finally:
        second.kill()
    runs = [run for run in asker(store_path).get_runs("often", 1000) if run.outcome is Outcome.SUCCEEDED]
    slots = [run.scheduled_for for run in runs]
    assert len(slots) == len(set(slots))


def test_trigger_enable_disable_from_another_process(leader: Process, store_path: Path) -> None:
    """Requests: any process runs, disables, enables and resets a leader's job, and is told of an unknown one."""
    outside = asker(store_path)
    run = outside.execute_collector_now("daily")
    assert run is not None
    assert (run.outcome, run.reason, run.rows) == (Outcome.SUCCEEDED, "triggered", 1)
    failed = outside.execute_collector_now("bad")
    assert failed is not None
    assert (failed.outcome, failed.error) == (Outcome.FAILED, "always")
    outside.disable_collector("often")
    assert outside.get_collector_status("often").disabled_at is not None
    outside.enable_collector("often")
    assert outside.get_collector_status("often").disabled_at is None
    outside.reschedule_collector("often", "10s")
    assert outside.get_collector_status("often").every == "10s"
    outside.reset_breaker("bad")
    assert outside.get_collector_status("bad").consecutive_errors == 0
    with pytest.raises(UnknownJob, match='did you mean "daily"'):
        outside.execute_collector_now("dayly")
    with contextlib.closing(sqlite3.connect(store_path)) as connection:
        open_requests = connection.execute("SELECT count(*) FROM geckosched_requests WHERE answered_at IS NULL")
        assert open_requests.fetchone() == (0,)


def test_a_request_left_while_nobody_led_expires(leader: Process, store_path: Path) -> None:
    """A request older than a minute is answered `expired`, not carried out by a later leader."""
    leader.kill()
    outside = asker(store_path)
    request = outside._requests.put("trigger", "daily", {}, 0)
    second = Process(store_path)
    try:
        until(lambda: outside._requests.get(request)["answered_at"])
    finally:
        second.kill()
    row = outside._requests.get(request)
    assert (row["answer"], row["run_id"]) == ("expired", None)


def test_with_nobody_leading_the_caller_takes_the_lead_for_that_run(new_scheduler: NewScheduler) -> None:
    """`execute_collector_now` before any start: one run, overdue jobs are not started, the lead is given up."""
    ran: list[str] = []

    def job(name: str) -> None:
        @collector(name, every="1h")
        def collect(run: RunContext) -> None:
            ran.append(name)

        scheduler.register_collector(collect)

    scheduler = new_scheduler()
    for name in ("asked", "overdue"):
        job(name)
    run = scheduler.execute_collector_now("asked")
    assert run is not None
    assert run.outcome is Outcome.SUCCEEDED
    assert ran == ["asked"]
    assert scheduler.state is SchedulerState.STOPPED
    assert scheduler.get_status().scheduler.state is SchedulerState.STOPPED
    with scheduler:
        until(lambda: "overdue" in ran)


def test_many_callers_at_once_with_nobody_leading(new_scheduler: NewScheduler) -> None:
    """Callers that race for the momentary lead all get their run, one after the other or shared."""

    @collector("shared", every="1h")
    def shared(run: RunContext) -> None: ...

    results: list[object] = []

    def ask() -> None:
        scheduler = new_scheduler()
        scheduler.register_collector(shared)
        run = scheduler.execute_collector_now("shared")
        results.append(None if run is None else run.outcome)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [Outcome.SUCCEEDED] * 4


def test_probers_do_not_see_each_other_as_leader(tmp_path: Path) -> None:
    """Trap 20: a probe takes a shared lock; any number at once see nobody leading."""
    lock = LeaderLock(tmp_path / "a.db")
    assert lock.acquire()
    assert LeaderLock(tmp_path / "a.db").is_held()
    assert not LeaderLock(tmp_path / "a.db").acquire()
    lock.release()
    seen: list[bool] = []
    threads = [threading.Thread(target=lambda: seen.append(LeaderLock(tmp_path / "a.db").is_held())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [False] * 20


def test_start_twice_and_after_stop(new_scheduler: NewScheduler) -> None:
    """A scheduler starts once at a time, and again after a stop."""

    @collector("one", every="1h")
    def one(run: RunContext) -> None: ...

    scheduler = new_scheduler()
    scheduler.register_collector(one)
    for _ in range(2):
        scheduler.start()
        with pytest.raises(Exception, match="the scheduler is running"):
            scheduler.start()
        scheduler.stop()
        scheduler.stop()
    with pytest.raises(DuplicateJob):
        scheduler.register_collector(one)


def test_a_standby_says_once_how_its_jobs_differ_and_applies_them_when_it_takes_over(
    new_scheduler: NewScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """X2: the leader's jobs are the jobs; a standby's wait in memory, and the log says how they differ."""

    def job(name: str, every: str) -> object:
        return collector(name, every=every)(lambda _: None)

    leader, standby = new_scheduler(), new_scheduler()
    for each in (job("same", "1h"), job("other", "5m"), job("theirs", "1h")):
        leader.register_collector(each)
    for each in (job("same", "1h"), job("other", "10m"), job("ours", "1h")):
        standby.register_collector(each)
    leader.start()
    standby.start()
    said = [record.getMessage() for record in caplog.records if "differ" in record.getMessage()]
    assert said == [
        "the jobs here differ from the leader's, and hold once this process leads: "
        "only here: ours; set otherwise: other; only there: theirs"
    ]
    standby.register_collector(job("late", "1h"))
    assert caplog.records[-1].getMessage().endswith("once this process leads: only here: late")
    assert standby.get_collector_status("other").every == "5m"
    with pytest.raises(UnknownJob, match=r'"ours" is registered here, but the process that leads does not have it'):
        standby.disable_collector("ours")
    leader.stop()
    until(lambda: standby.state is SchedulerState.RUNNING, "the take-over")
    jobs = {job.job_id: job.every for job in standby.get_status().jobs}
    assert jobs == {"same": "1h", "other": "10m", "ours": "1h", "late": "1h"}


def test_a_caller_elsewhere_waits_no_longer_than_its_timeout(new_scheduler: NewScheduler) -> None:
    """`execute_collector_now(timeout=)` in another scheduler than the leader: the run as it stands, then."""
    entered, go_on = threading.Event(), threading.Event()

    @collector("slow", every="1h")
    def slow(run: RunContext) -> None:
        entered.set()
        go_on.wait()

    leader, outside = new_scheduler(), new_scheduler()
    leader.register_collector(slow)
    with leader:
        assert entered.wait(10)
        assert outside.execute_collector_now("slow", timeout=1) is None, "it waits for its turn"
        go_on.set()
        until(lambda: len(leader.get_runs("slow")) == 2, "the run that was asked for")


def test_who_is_interrupted_while_it_asks_asks_for_nothing_more(new_scheduler: NewScheduler, store_path: Path) -> None:
    """Ctrl-C while a hanging leader is asked: the request is taken back, so that it is not carried out later."""

    class Interrupted(Requests):
        def get(self, request: int) -> sqlite3.Row:
            raise KeyboardInterrupt(request)

    scheduler = new_scheduler()
    scheduler.register_collector(collector("one", every="1h")(lambda _: None))
    scheduler.enable_collector("one")  # makes the store; nobody leads after that, so nobody answers
    with pytest.raises(KeyboardInterrupt):
        Interrupted(Store(store_path), LeaderLock(store_path)).ask("disable", "one", {})
    [row] = scheduler._store.read("SELECT answer FROM geckosched_requests")
    assert row["answer"] == "expired"
    with scheduler:
        assert scheduler.get_collector_status("one").disabled_at is None


def test_a_job_that_the_leader_lacks_is_said_before_a_start_too(new_scheduler: NewScheduler) -> None:
    """Another process leads: a job that only this one registered is not called unregistered."""
    leader, outside = new_scheduler(), new_scheduler()
    leader.register_collector(collector("theirs", every="1h")(lambda _: None))
    outside.register_collector(collector("mine", every="1h")(lambda _: None))
    said = 'job "mine" is registered here, but the process that leads does not have it'
    with leader, pytest.raises(UnknownJob, match=said):
        outside.execute_collector_now("mine")
