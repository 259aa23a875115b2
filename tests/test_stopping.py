"""X1, R4: what hangs, spins or sleeps holds neither `stop`, nor the process, nor the other jobs. Hangs are real: a read
of a pipe that never comes, a loop that never ends. The seconds of X1 are the promise itself, so they are asserted."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from geckosched import Batch, CollectionScheduler, Collector, Health, Outcome, Run, RunContext, SchedulerConfig
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_scheduler import finished, plain, runs_of, settle, until

PLUGIN = """
import os
from geckosched import Batch, collector, hookimpl

@collector("hang", every="1d")
def hang(run):
    yield Batch("hangs", [{"run_id": run.id}])
    os.read(os.pipe()[0], 1)

@collector("spin", every="1d")
def spin(run):
    while True:
        pass

@collector("spin-inside", every="1d")
def spin_inside(run):
    yield Batch("spins", [{"run_id": run.id}])
    while True:
        pass
    yield

@collector("nap", every="1d")
def nap(run):
    run.sleep(1000)

@collector("well", every="1s")
def well(run):
    yield Batch("wells", [{"run_id": run.id}])

@hookimpl
def register_collectors(register, settings):
    for each in (hang, spin, spin_inside, nap, well):
        register(each)
"""

EMBEDDED = """
import sys, threading, time
sys.path.insert(0, sys.argv[2])
import geckosched_stubborn as stubborn
from geckosched import CollectionScheduler, SchedulerConfig

scheduler = CollectionScheduler(SchedulerConfig(database=sys.argv[1]))
for each in (stubborn.hang, stubborn.spin, stubborn.spin_inside, stubborn.nap, stubborn.well):
    scheduler.register_collector(each)
scheduler.start()
sys.stdin.readline()
begin = time.monotonic()
scheduler.stop(2)
print(time.monotonic() - begin, scheduler.state, flush=True)
"""
STUBBORN = ("hang", "nap", "spin", "spin-inside")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages that holds the plugin `stubborn`; the working directory is an empty one."""
    site, here = tmp_path / "site", tmp_path / "here"
    info = site / "geckosched_stubborn-1.dist-info"
    info.mkdir(parents=True)
    here.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: geckosched-stubborn\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[geckosched]\nstubborn = geckosched_stubborn\n", encoding="utf-8")
    (site / "geckosched_stubborn.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.chdir(here)
    monkeypatch.delenv("GECKOSCHED_CONFIG", raising=False)
    monkeypatch.setenv("GECKOSCHED_LOAD_PLUGINS", "stubborn")  # whatever else is installed here stays out of it
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), str(site)]))
    return site


def stored_runs(database: Path) -> list[Run]:
    return CollectionScheduler(SchedulerConfig(database=database)).get_runs(limit=10_000)


def all_at_it(database: Path) -> bool:
    """Whether the four that don't end are inside `collect`, and the fifth has run."""
    runs = stored_runs(database)
    with closing(sqlite3.connect(database)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    return (
        sorted(run.job_id for run in runs if run.outcome is None and run.job_id != "well") == list(STUBBORN)
        and any(run.outcome is Outcome.SUCCEEDED for run in runs)
        and tables >= {"hangs", "spins"}
    )


def check_runs(database: Path) -> None:
    """Every run is closed; those that didn't end are interrupted, and say where they were."""
    runs = stored_runs(database)
    assert all(run.outcome is not None and run.finished_at is not None for run in runs)
    last = {run.job_id: run for run in reversed(runs)}
    assert {job_id: last[job_id].outcome for job_id in STUBBORN} == dict.fromkeys(STUBBORN, Outcome.INTERRUPTED)
    assert "os.read(os.pipe()[0], 1)" in (last["hang"].traceback or "")
    for job_id in ("spin", "spin-inside"):
        assert "geckosched_stubborn.py" in (last[job_id].traceback or "")
    assert last["nap"].traceback is None, "it ended when it was asked to"
    assert {run.outcome for run in runs if run.job_id == "well"} <= {Outcome.SUCCEEDED, Outcome.INTERRUPTED}


@pytest.mark.usefixtures("site")
def test_sigterm_ends_run_in_time_whatever_collectors_do() -> None:
    """X1: `geckosched run` with collectors that hang, spin and sleep ends `shutdown_timeout` and at most one second
    after SIGTERM, with exit code 0."""
    Path("geckosched.toml").write_text('[scheduler]\nshutdown_timeout = "2s"\n', encoding="utf-8")
    command = [sys.executable, "-m", "geckosched", "run"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until(Path("geckosched.db").exists, "a store")
        until(lambda: all_at_it(Path("geckosched.db")), "five collectors at work")
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        took = time.monotonic() - begin
    finally:
        process.kill()
        _, said = process.communicate()
    assert (code, "Traceback" in said) == (0, False)
    assert took <= 3
    check_runs(Path("geckosched.db"))


def test_stop_returns_in_time_and_the_interpreter_can_end(site: Path, store_path: Path) -> None:
    """X1: `stop(2)` returns within three seconds, and a program that then simply ends does end."""
    process = subprocess.Popen(
        [sys.executable, "-c", EMBEDDED, str(store_path), str(site)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(store_path.exists, "a store")
        until(lambda: all_at_it(store_path), "five collectors at work")
        begin = time.monotonic()
        said, errors = process.communicate("stop\n", timeout=60)
        took = time.monotonic() - begin
    finally:
        process.kill()
        process.communicate()
    seconds, state = said.split()
    assert (process.returncode, state, errors) == (0, "stopped", "")
    assert float(seconds) <= 3
    assert took <= 3.5  # and the interpreter's own end
    check_runs(store_path)


@pytest.mark.usefixtures("site")
def test_sigterm_before_the_command_has_begun() -> None:
    """SIGTERM ends `run` with 0 from the moment on at which it is handled: also while the command line is still being
    put together, and without a traceback."""
    script = """
import os, signal, sys
import typer.main
from geckosched import cli
build = typer.main.get_command

def signalled(app):
    os.kill(os.getpid(), signal.SIGTERM)
    return build(app)

typer.main.get_command = signalled
sys.argv = ["geckosched", "run"]
cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


# -- time limits -------------------------------------------------------------------------------------------------------


class Deaf(Collector):
    """Hears no request to stop: every run waits until the test lets it go, and yields then."""

    name = "deaf"
    every = "1h"
    made: list[Deaf]
    all_may_go = False

    def __init__(self) -> None:
        self.thread: int | None = None
        self.go_on = threading.Event()
        self.refusal: BaseException | None = None
        self.ended = threading.Event()

    def collect(self, run: RunContext) -> Any:
        self.thread = threading.get_ident()
        type(self).made.append(self)
        if not self.all_may_go:
            self.go_on.wait(60)
        try:
            yield Batch("deaf", [{"run_id": run.id}])
        except BaseException as error:
            self.refusal = error
            raise
        finally:
            self.ended.set()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def deaf() -> Iterator[type[Deaf]]:
    class Fresh(Deaf):
        made: list[Deaf] = []  # noqa: RUF012 - of this test

    yield Fresh
    let_all_go(Fresh)


def let_all_go(deaf: type[Deaf]) -> None:
    deaf.all_may_go = True
    for each in deaf.made:
        each.go_on.set()


def abandon(scheduler: CollectionScheduler, clock: FakeClock, seconds: int) -> None:
    """Let all that runs come to its time limit, and then 30 s more."""
    assert scheduler.lead is not None
    ticker = scheduler.lead.ticker
    clock.advance(seconds)
    until(lambda: all(execution.stop for execution in ticker._running), "a request to stop")
    clock.advance(30)
    settle(scheduler)


def test_an_abandoned_run_stores_nothing_and_its_job_goes_on(
    new_scheduler: NewScheduler, clock: FakeClock, deaf: type[Deaf]
) -> None:
    """R4: 30 s after its time limit a run is `timed_out`, its stack in the row; its job runs again in a fresh instance
    on a fresh worker, and what the abandoned one yields then, while the new one is at it, is refused and not stored."""
    scheduler = new_scheduler(clock=clock, error_recovery_delay="1s")
    scheduler.register_collector(deaf, timeout="10s")
    with scheduler:
        until(lambda: deaf.made, "a first run")
        for seconds in (10, 29.9):
            clock.advance(seconds)
            settle(scheduler)
        assert [run.outcome for run in scheduler.get_runs("deaf")] == [None], "abandoned too early"
        clock.advance(0.1)
        first = runs_of(scheduler, "deaf", 1)[0]
        clock.advance(1)
        until(lambda: len(deaf.made) == 2, "a second run")
        abandoned, fresh = deaf.made
        abandoned.go_on.set()
        assert abandoned.ended.wait(30)
        fresh.go_on.set()
        second = runs_of(scheduler, "deaf", 2)[1]
        [stored] = scheduler._store.read("SELECT * FROM deaf")
    assert (first.outcome, second.outcome, second.rows) == (Outcome.TIMED_OUT, Outcome.SUCCEEDED, 1)
    assert "self.go_on.wait(60)" in (first.traceback or "")
    assert type(abandoned.refusal).__name__ == "RunStopped"
    assert stored["run_id"] == second.id
    assert abandoned is not fresh
    assert abandoned.thread != fresh.thread


def test_two_abandoned_runs_are_the_limit_of_a_job(
    new_scheduler: NewScheduler, clock: FakeClock, deaf: type[Deaf]
) -> None:
    """R4: with two abandoned runs alive a job's slots wait and it is unhealthy, as other programs see too; when one of
    them ends, the job runs again, once, and other jobs were never in the way."""
    scheduler = new_scheduler(clock=clock, max_workers=3, error_recovery_delay="1s", max_recovery_delay="2s")
    scheduler.register_collector(deaf, timeout="10s")
    scheduler.register_collector(plain, "1h")
    outside = new_scheduler(clock=clock)
    with scheduler:
        for number in (1, 2):
            until(lambda: len(deaf.made) == number, "a run")  # noqa: B023
            abandon(scheduler, clock, 10)
            runs_of(scheduler, "deaf", number)
            clock.advance(2)
        until(lambda: outside.get_collector_status("deaf").health is Health.UNHEALTHY, "the health")
        for _ in range(3):
            clock.advance(3600)
            settle(scheduler)
            other = scheduler.execute_collector_now("plain")
            assert other is not None
            assert other.outcome is Outcome.SUCCEEDED
        assert len(deaf.made) == 2
        deaf.made[0].go_on.set()
        until(lambda: len(deaf.made) == 3, "a third run")
        deaf.made[2].go_on.set()
        third = runs_of(scheduler, "deaf", 3)[2]
        settle(scheduler)
        assert third.outcome is Outcome.SUCCEEDED
        assert third.missed >= 2
        assert len(deaf.made) == 3
        deaf.made[1].go_on.set()
        until(lambda: outside.get_collector_status("deaf").health is Health.HEALTHY, "the health again")


def test_all_together_at_most_as_many_abandoned_runs_as_workers(
    new_scheduler: NewScheduler, clock: FakeClock, deaf: type[Deaf]
) -> None:
    """R4: two workers, so two abandoned runs at most, whichever jobs they are of, and never more than four threads;
    what hangs beyond that keeps its worker until an abandoned one ends."""
    scheduler = new_scheduler(clock=clock, max_workers=2)

    def threads() -> int:
        return sum(thread.name == "geckosched-worker" for thread in threading.enumerate())

    before = threads()
    for job_id in "abcd":
        scheduler.register_collector(deaf, job_id=job_id, timeout="10s", every="1d")
    with scheduler:
        assert scheduler.lead is not None
        until(lambda: len(deaf.made) == 2, "two runs")
        abandon(scheduler, clock, 10)
        until(lambda: len(deaf.made) == 4, "two runs on fresh workers")
        abandon(scheduler, clock, 10)
        for _ in range(10):
            clock.advance(10)
            settle(scheduler)
        outcomes = [run.outcome for run in reversed(scheduler.get_runs())]
        assert outcomes == [Outcome.TIMED_OUT] * 2 + [None] * 2
        assert threads() - before == 4
        deaf.made[0].go_on.set()
        assert deaf.made[0].ended.wait(30)
        for _ in range(3):
            clock.advance(1)
            settle(scheduler)
        until(lambda: len(finished(scheduler)) == 3, "one more is abandoned")
        settle(scheduler)
        until(lambda: threads() - before <= 4, "the worker of the one that ended ends")
        assert len([run for run in scheduler.get_runs() if run.outcome is None]) >= 1
        let_all_go(deaf)
