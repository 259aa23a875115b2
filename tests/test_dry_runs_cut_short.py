"""Dry runs that do not end by themselves, and what goes on beside them: they store nothing, whatever happens."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from geckosched import Batch, BreakerState, CollectionScheduler, DryRun, Outcome, RunContext, RunStopped, collector
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.shell import finish, runs_of_store, start, wait_until
from tests.test_dry_run import dump
from tests.test_hooks import Diary, job
from tests.test_scheduler import until


class Rehearsal:
    """A dry run in a thread of its own."""

    def __init__(self, scheduler: CollectionScheduler, job_id: str) -> None:
        self.result: DryRun | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._rehearse, args=(scheduler, job_id), daemon=True)
        self._thread.start()

    def _rehearse(self, scheduler: CollectionScheduler, job_id: str) -> None:
        try:
            self.result = scheduler.dry_run(job_id)
        except BaseException as error:  # the test looks at it
            self.error = error

    def end(self) -> DryRun:
        self._thread.join(10)
        assert not self._thread.is_alive(), "the dry run never returned"
        assert self.result is not None, self.error
        return self.result


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """What a collector that hangs waits for; it is set at the end of the test, too."""
    event = threading.Event()
    yield event
    event.set()


def breaker(scheduler: CollectionScheduler) -> tuple[BreakerState, int]:
    """Return the breaker's state and errors as the ticker has them: of a dry run nothing reaches the store."""
    assert scheduler.lead is not None
    found = scheduler.lead.ticker.jobs["one"].breaker
    return found.state, found.consecutive_errors


def sleeping(inside: threading.Event) -> Callable[[RunContext], Any]:
    def collect(run: RunContext) -> Any:
        run.state["n"] = 1
        yield Batch("rows", [{"n": 1}])
        inside.set()
        run.sleep(1e6)

    return collect


def test_stop_ends_it(new_scheduler: NewScheduler, clock: FakeClock, store_path: Path) -> None:
    """X1: it ends interrupted, with what it had yielded, and the store has nothing of it."""
    scheduler, inside = new_scheduler(clock=clock, catchup="none"), threading.Event()
    scheduler.register_collector(job("one", sleeping(inside)))
    scheduler.start()
    rehearsal = Rehearsal(scheduler, "one")
    assert inside.wait(10)
    before = dump(store_path)
    scheduler.stop(5)
    found = rehearsal.end()
    assert (found.run.outcome, found.run.rows, found.state) == (Outcome.INTERRUPTED, 1, {"n": 1})
    assert [batch.table for batch in found.batches] == ["rows"]
    assert dump(store_path) == before


def test_its_time_limit_ends_it_and_the_breaker_hears_nothing(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """R4: asked to stop at its limit it is timed_out, and the job's accounts stay as they were."""
    scheduler, inside = new_scheduler(clock=clock, catchup="none", max_consecutive_errors=1), threading.Event()
    scheduler.register_collector(job("one", sleeping(inside), every="1d", timeout="1m"))
    with scheduler:
        rehearsal = Rehearsal(scheduler, "one")
        assert inside.wait(10)
        clock.advance(61)
        assert rehearsal.end().run.outcome is Outcome.TIMED_OUT
        assert breaker(scheduler) == (BreakerState.CLOSED, 0)
        found = scheduler.get_collector_status("one")
    assert (found.runs, found.errors, found.breaker, found.last_outcome) == (0, 0, BreakerState.CLOSED, None)


@pytest.mark.hangs
def test_one_that_hangs_is_abandoned(
    new_scheduler: NewScheduler, clock: FakeClock, store_path: Path, go_on: threading.Event
) -> None:
    """R4: half a minute after its limit the caller has it back, with the stack; what it yields later goes nowhere."""
    inside, refused = threading.Event(), threading.Event()

    def collect(run: RunContext) -> Any:
        inside.set()
        go_on.wait()
        try:
            yield Batch("rows", [{"n": 1}])
        except RunStopped:
            refused.set()

    diary, scheduler = Diary(job("one", collect, every="1d", timeout="1m")), new_scheduler(clock=clock, catchup="none")
    scheduler.add_plugin(diary, "diary")
    with scheduler:
        rehearsal = Rehearsal(scheduler, "one")
        assert inside.wait(10)
        clock.advance(61)
        until(lambda: asked_to_stop(scheduler))
        clock.advance(31)
        run = rehearsal.end().run
        assert run.outcome is Outcome.TIMED_OUT
        assert "go_on.wait()" in (run.traceback or "")
        go_on.set()
        assert refused.wait(10)
        assert scheduler.get_runs() == []
    with closing(sqlite3.connect(store_path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'rows'").fetchall() == []
    assert diary.of("started") == diary.of("finished") == diary.of("breaker") == []


def asked_to_stop(scheduler: CollectionScheduler) -> bool:
    assert scheduler.lead is not None
    running = scheduler.lead.ticker.jobs["one"].running
    return running is not None and running.stopping


def test_a_trigger_meanwhile_runs_right_after_it(
    new_scheduler: NewScheduler, clock: FakeClock, go_on: threading.Event
) -> None:
    """R2: one run of a job at a time, dry ones counted; who triggers meanwhile gets a run of his own, a real one."""
    inside = threading.Event()

    def collect(run: RunContext) -> Any:
        inside.set()
        go_on.wait()
        yield Batch("rows", [{"n": 1}])

    scheduler = new_scheduler(clock=clock, catchup="none")
    scheduler.register_collector(job("one", collect, every="1d"))
    with scheduler:
        rehearsal = Rehearsal(scheduler, "one")
        assert inside.wait(10)
        assert scheduler.execute_collector_now("one", wait=False, timeout=0) is None
        assert scheduler.get_runs() == []
        go_on.set()
        dry = rehearsal.end().run
        until(lambda: scheduler.get_runs("one") and scheduler.get_runs("one")[0].outcome)
        [run] = scheduler.get_runs("one")
    assert (run.outcome, run.rows) == (Outcome.SUCCEEDED, 1)
    assert run.id > dry.id


def test_in_one_group_with_a_new_table_and_a_refused_batch(
    new_scheduler: NewScheduler, clock: FakeClock, store_path: Path
) -> None:
    """While the file is locked three yields gather in one transaction: one makes a table, one is refused, one is dry.
    Each has its own fate, whatever the order."""
    gate = {name: threading.Event() for name in ("good", "bad", "dry")}

    def collect_from(batch: Batch) -> Callable[[RunContext], Any]:
        def collect(run: RunContext) -> Any:
            gate[run.job_id].wait(10)
            yield batch

        return collect

    batches = {
        "good": Batch("made", [{"n": 1}], pk="n"),
        "bad": Batch("made", [{"m": 1}], pk="m"),
        "dry": Batch("made", [{"n": 1, "extra": 2}, {"n": 2, "extra": 2}], pk="n"),
    }
    scheduler = new_scheduler(clock=clock, catchup="none", max_workers=3)
    for name, batch in batches.items():
        scheduler.register_collector(job(name, collect_from(batch), every="1d"))
    with scheduler, closing(sqlite3.connect(store_path, isolation_level=None)) as foreign:
        for name in ("good", "bad"):
            scheduler.execute_collector_now(name, wait=False)
        rehearsal = Rehearsal(scheduler, "dry")
        lead = scheduler.lead
        assert lead is not None
        until(lambda: all(running(scheduler, name) for name in gate))
        foreign.execute("BEGIN IMMEDIATE")
        for name, event in gate.items():
            event.set()
            until(lambda: waits_for_the_writer(scheduler, name))  # noqa: B023 - called at once
        foreign.execute("ROLLBACK")
        found = rehearsal.end()
        until(lambda: all(run.outcome for run in scheduler.get_runs()))
        outcomes = {run.job_id: (run.outcome, run.rows) for run in scheduler.get_runs()}
    assert outcomes == {"good": (Outcome.SUCCEEDED, 1), "bad": (Outcome.FAILED, 0)}
    assert (found.run.outcome, [batch.changed for batch in found.batches]) == (Outcome.SUCCEEDED, [2])
    with closing(sqlite3.connect(store_path)) as connection:
        assert connection.execute("SELECT * FROM made").fetchall() == [(1,)]


def running(scheduler: CollectionScheduler, name: str) -> bool:
    assert scheduler.lead is not None
    execution = scheduler.lead.ticker.jobs[name].running
    return execution is not None and execution.context is not None


def waits_for_the_writer(scheduler: CollectionScheduler, name: str) -> bool:
    assert scheduler.lead is not None
    execution = scheduler.lead.ticker.jobs[name].running
    return execution is not None and execution.waiting_since is not None


# -- the command

NAPPING = '''
import os
from geckosched import Batch, collector, hookimpl

@collector("nap", every="1d")
def nap(run):
    print("from the plugin")
    os.write(1, b"past sys.stdout")
    yield Batch("naps", [{"n": 1}])
    open("inside", "w").close()
    run.sleep(1000)

@hookimpl
def register_collectors(register):
    register(nap)
'''


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
def test_a_signal_ends_the_command(number: int, code: int) -> None:
    """Ctrl-C and SIGTERM in the middle of a dry run: its exit code, nothing on stdout, nothing in the store, the
    lead free again."""
    Path("nap.py").write_text(NAPPING, encoding="utf-8")
    Path("geckosched.toml").write_text('[plugins]\nload = ["./nap.py"]\n', encoding="utf-8")
    process = start("trigger", "nap", "--dry-run", "--json")
    wait_until(lambda: Path("inside").exists() or process.poll() is not None)
    os.kill(process.pid, number)
    ended = finish(process)
    assert (ended.code, ended.out) == (code, "")
    assert "from the plugin\npast sys.stdout" in ended.err
    assert "Traceback" not in ended.err
    assert runs_of_store("nap") == []
    store = CollectionScheduler()
    assert not store._lock.is_held()
    assert store.get_collector_status("nap").runs == 0


def test_of_a_disabled_job_and_of_one_whose_breaker_is_open(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """A person asks, so both run; the switch stays, and the breaker lets its own probe through as before."""

    @collector("one", every="1d")
    def one(run: RunContext) -> None:
        if run.reason != "triggered":
            raise ValueError("no")

    diary, scheduler = Diary(one), new_scheduler(clock=clock, max_consecutive_errors=1)
    scheduler.add_plugin(diary, "diary")
    with scheduler:
        until(lambda: diary.of("breaker"))
        before = scheduler.get_collector_status("one")
        assert scheduler.dry_run("one").run.outcome is Outcome.SUCCEEDED
        assert scheduler.get_collector_status("one") == before
        assert breaker(scheduler) == (BreakerState.OPEN, 1)
        assert before.breaker is BreakerState.OPEN
        scheduler.disable_collector("one")
        assert scheduler.dry_run("one").run.outcome is Outcome.SUCCEEDED
        assert scheduler.get_collector_status("one").disabled_at is not None
    assert len(diary.of("breaker")) == 1
