"""X2 with real processes: three of `geckosched run` on one store, the leader killed again and again, and meanwhile
others who trigger, enable, disable and look. The seconds of a take-over are the promise itself, so they are asserted.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from geckosched import (
    CollectionScheduler,
    Outcome,
    Reason,
    Run,
    RunContext,
    SchedulerClosed,
    SchedulerConfig,
    collector,
)
from geckosched.core import LeaderLock, from_datetime, from_text
from tests.test_scheduler import until

PLUGIN = """
from geckosched import Batch, collector, hookimpl

def rows(run):
    yield Batch("collected", [{"job": run.job_id, "run_id": run.id, "slot": run.scheduled_for}])

def slow(run):
    yield from rows(run)
    run.sleep(0.6)

one = collector("one", every="1s")(rows)
two = collector("two", every="1s")(slow)
switched = collector("switched", every="1s")(rows)

@collector("asked", every="1d")
def asked(run):
    run.sleep(0.2)

@hookimpl
def register_collectors(register, settings):
    for each in (one, two, switched, asked):
        register(each)
"""
KILLS = 10


@collector("asked", every="1d")
def asked(run: RunContext) -> None:
    """The plugin's collector, as a program that asks while nobody leads has it."""


def outsider() -> CollectionScheduler:
    """Return a scheduler of this process that is never started: one that asks the leader."""
    scheduler = CollectionScheduler(SchedulerConfig(database="geckosched.db"))
    scheduler.register_collector(asked)
    return scheduler


def sql(statement: str) -> list[Any]:
    with closing(sqlite3.connect("geckosched.db", timeout=30)) as connection:
        return connection.execute(statement).fetchall()


class House:
    """Processes of `geckosched run` on one store."""

    def __init__(self, size: int) -> None:
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.started = 0
        self.lock = LeaderLock(Path("geckosched.db").absolute())
        for _ in range(size):
            self.add()
        until(lambda: self.leader() is not None and sql("SELECT 1 FROM geckosched_runs"), "a first run")

    def add(self) -> None:
        command = [sys.executable, "-m", "geckosched", "run"]
        with Path("said").open("ab") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said)
        self.processes[process.pid] = process
        self.started += 1

    def leader(self) -> int | None:
        """Return the pid of the one of them that leads; None while none does, or somebody else for a moment."""
        with contextlib.suppress(sqlite3.Error):
            pids = sql("SELECT pid FROM geckosched_instances ORDER BY rowid DESC LIMIT 1")
            if pids and pids[0][0] in self.processes and self.lock.is_held():
                return int(pids[0][0])
        return None

    def kill_leader(self) -> float:
        """Kill the leader; return after how many seconds another one of them led."""
        until(lambda: self.leader() is not None, "a leader")
        old = self.leader()
        assert old is not None
        begin = time.monotonic()
        self.processes[old].kill()
        until(lambda: self.leader() not in (old, None), "a take-over")
        took = time.monotonic() - begin
        self.processes.pop(old).communicate()
        return took

    def end(self) -> list[int]:
        """End them as an operator does, when all are there; return their exit codes."""
        up = "times in UTC"
        until(lambda: Path("said").read_text(encoding="utf-8").count(up) == self.started, "the last one's start")
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        return [process.wait(60) for process in self.processes.values()]

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.communicate()


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    info = tmp_path / "site" / "geckosched_many-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: geckosched-many\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[geckosched]\nmany = geckosched_many\n", encoding="utf-8")
    (tmp_path / "site" / "geckosched_many.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("GECKOSCHED_CONFIG", raising=False)
    monkeypatch.setenv("GECKOSCHED_LOAD_PLUGINS", "many")  # whatever else is installed here stays out of it
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), str(tmp_path / "site")]))
    made = House(3)
    yield made
    made.kill()


class Meanwhile:
    """Does something from outside, over and over, on a thread of its own, until the block ends."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._repeat)
        self.count = 0
        self.errors: list[BaseException] = []

    def _repeat(self) -> None:
        while not self._end.wait(0.1):
            try:
                self._do()
                self.count += 1
            except BaseException as error:
                self.errors.append(error)

    def __enter__(self) -> Meanwhile:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(90)
        assert not self._thread.is_alive(), "a call never came back"


def check_slots(runs: list[Run]) -> None:
    """R1, R2: every run is closed, and a slot has a second run only if its first was interrupted."""
    assert all(run.outcome is not None and run.finished_at is not None for run in runs)
    of_slot = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.id):
        if run.scheduled_for is not None:
            of_slot[run.job_id, run.scheduled_for].append(run.outcome)
    for slot, outcomes in of_slot.items():
        assert set(outcomes[:-1]) <= {Outcome.INTERRUPTED}, slot


def check_rows(runs: list[Run]) -> None:
    """R3: each run that succeeded has stored its row once, with its slot; an interrupted one at most once."""
    stored: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for job_id, run_id, slot in sql("SELECT job, run_id, slot FROM collected"):
        stored[run_id].append((job_id, slot))
    for run in runs:
        if run.job_id in ("one", "two", "switched"):
            assert len(stored[run.id]) == (run.outcome is Outcome.SUCCEEDED) or run.outcome is Outcome.INTERRUPTED
            assert len(stored[run.id]) <= 1
            for job_id, slot in stored.pop(run.id):
                assert job_id == run.job_id
                assert run.scheduled_for is not None
                assert from_text(slot) == from_datetime(run.scheduled_for)
    assert not any(stored.values()), "rows of runs that are in no history"


def test_the_leader_killed_ten_times(house: House) -> None:
    """X2: another process leads within two seconds; no slot runs twice, no run stays open, and whoever asks from
    outside meanwhile gets exactly one run, or is told in words that the leader died before it could start."""
    moments, outside = random.Random(1), outsider()
    answered: list[Run] = []
    refused: list[SchedulerClosed] = []

    def trigger() -> None:
        try:
            run = outsider().execute_collector_now("asked")
        except SchedulerClosed as error:
            refused.append(error)
        else:
            assert run is not None
            answered.append(run)

    def switch() -> None:
        for change in (outside.disable_collector, outside.enable_collector):
            with contextlib.suppress(SchedulerClosed):
                change("switched")

    def look() -> None:
        status = outside.get_status()
        assert {job.job_id for job in status.jobs} == {"one", "two", "switched", "asked"}
        assert all(job.disabled_at is None for job in status.jobs if job.job_id in ("one", "two", "asked"))

    with Meanwhile(trigger) as triggers, Meanwhile(switch) as switches, Meanwhile(look) as looks:
        took = []
        for _ in range(KILLS):
            took.append(house.kill_leader())
            house.add()
            threading.Event().wait(moments.uniform(0.0, 0.7))
        before = len(sql("SELECT 1 FROM geckosched_runs WHERE job_id = 'one' AND outcome = 'succeeded'"))
        until(lambda: len(outside.get_runs("one", 10_000)) > before + 2, "the jobs go on")
        until(lambda: min(asking.count for asking in (triggers, switches, looks)) > KILLS, "enough was asked")
    assert house.end() == [0, 0, 0], Path("said").read_text(encoding="utf-8")
    for asking in (triggers, switches, looks):
        assert asking.errors == []
    assert max(took) <= 2
    runs = outside.get_runs(limit=100_000)
    check_slots(runs)
    check_rows(runs)
    assert any(run.outcome is Outcome.INTERRUPTED for run in runs), "the kills hit nothing"
    assert len(answered) > KILLS
    triggered = {run.id for run in runs if run.reason is Reason.TRIGGERED}
    assert sorted(run.id for run in answered) == sorted(triggered)
    assert {run.outcome for run in answered} <= {Outcome.SUCCEEDED, Outcome.INTERRUPTED}
    assert all("leader ended" in str(error) or "stopped" in str(error) for error in refused)


def test_a_leader_that_is_stopped_and_goes_on(house: House) -> None:
    """A leader that the system stopped (SIGSTOP) still leads: its heartbeat grows old, which says so; when it goes on,
    what it missed is one run, and nobody has run its slots meanwhile."""
    outside = outsider()
    leader = house.leader()
    assert leader is not None

    def beat() -> datetime:
        found = outside.get_status().scheduler.heartbeat_at
        assert found is not None
        return found

    def age() -> float:
        return (datetime.now(beat().tzinfo) - beat()).total_seconds()

    first = beat()
    until(lambda: beat() > first, "a heartbeat")
    until(lambda: len(outside.get_runs("one")) >= 2, "runs")
    os.kill(leader, signal.SIGSTOP)
    stopped = time.monotonic()
    until(lambda: age() > 4 and time.monotonic() > stopped + 4, "an old heartbeat")
    at_rest = max(run.id for run in outside.get_runs())
    assert outside.get_status().scheduler.pid == leader == house.leader()
    os.kill(leader, signal.SIGCONT)
    until(lambda: len([run for run in outside.get_runs("one") if run.id > at_rest and run.outcome]) >= 3, "new runs")
    until(lambda: age() < 3, "a fresh heartbeat")
    assert house.leader() == leader
    assert house.end() == [0, 0, 0], Path("said").read_text(encoding="utf-8")
    runs = outside.get_runs(limit=1000)
    check_slots(runs)
    check_rows(runs)
    assert sum(run.missed for run in runs if run.job_id == "one" and run.id > at_rest) >= 2
