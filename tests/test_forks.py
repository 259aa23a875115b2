"""X3: a fork leaves the child's scheduler stopped and its parent's unharmed, in the middle of load, in a leader and in
a standby, by `os.fork` and by multiprocessing. In scripts of their own: what is forked is a program with threads."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from geckosched import CollectionScheduler, Outcome, SchedulerConfig

COMMON = """
import json, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: a fork in a program with threads
from geckosched import Batch, CollectionScheduler, SchedulerClosed, SchedulerConfig, collector

def busy(name):
    @collector(name, every="20ms")
    def collect(run):
        for _ in range(3):
            n = run.state["next"] = run.state.get("next", 0) + 1
            yield Batch(name, [{"k": n}], pk="k")
    return collect

def new(**settings):
    scheduler = CollectionScheduler(SchedulerConfig(database=sys.argv[1], max_workers=4, **settings))
    for number in range(4):
        scheduler.register_collector(busy(f"busy{number}"))
    return scheduler

def until(holds):
    deadline = time.monotonic() + 30
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError("waited in vain")
        threading.Event().wait(0.005)

def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("geckosched-")]

def exit_code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def count():
    return scheduler.get_collector_status("busy0").runs

def goes_on():
    before = count()
    until(lambda: count() > before + 2)
    return True

def in_child(work):
    "Fork; the child does its work and ends as every Python program does, its at-exit functions included."
    child = os.fork()
    if child == 0:
        try:
            sys.exit(work())
        except AssertionError as error:
            sys.exit(f"child: {error}")
    return child

said = {}
"""

LOAD = """
scheduler = new()
scheduler.start()
until(lambda: count() > 3)

def look():
    stopped = (scheduler.state, scheduler.lead, threads()) == ("stopped", None, [])
    scheduler.reset_breaker("busy1")  # reads and writes the store
    return 0 if stopped and scheduler._lock.is_held() else 3

children = []
for _ in range(20):
    before = count()
    until(lambda: count() > before)
    children.append(in_child(look))
said["children"] = [exit_code(child) for child in children]
said["state"], said["held"], said["goes_on"] = scheduler.state, scheduler._lock.is_held(), goes_on()
scheduler.stop()
print(json.dumps(said))
"""

AMID_A_TRANSACTION = """
@collector("bulk", every="1d")
def bulk(run):
    while True:
        first = run.state.get("next", 0) + 1
        run.state["next"] = first + 9_999
        yield Batch("bulk", [{"k": k} for k in range(first, first + 10_000)])

scheduler = new()
scheduler.register_collector(bulk)
scheduler.start()
until(lambda: count() > 3)

def use_it():
    "The child inherits no belief that the file is locked: it writes."
    scheduler.reset_breaker("busy1")
    return 0

children = []
for number in range(12):
    until(lambda: scheduler.lead.writer.connection.in_transaction)
    children.append(in_child(use_it))
said["children"] = [exit_code(child) for child in children]
said["state"], said["goes_on"] = scheduler.state, goes_on()
scheduler.stop(10)
print(json.dumps(said))
"""

START = """
scheduler = new()
scheduler.start()
until(lambda: count() > 3)

def start_own():
    "The forked object, and one of the child's own: both stand by, ask the parent, stop; the parent still leads."
    mine = new()
    for each in (scheduler, mine):
        each.start()
        assert each.state == "standby", each.state
        run = each.execute_collector_now("busy1")
        assert run.outcome == "succeeded", run.outcome
    for each in (scheduler, mine):
        each.stop()
        assert each.state == "stopped"
        assert each._lock.is_held(), "the parent's lock is gone"
    return 0

said["children"] = [exit_code(in_child(start_own)) for _ in range(2)]
said["state"], said["held"], said["goes_on"] = scheduler.state, scheduler._lock.is_held(), goes_on()

def outlive():
    "Stand by until the parent stops, then lead and run jobs."
    scheduler.start()
    assert scheduler.state == "standby"
    print("ready", file=sys.stderr, flush=True)
    until(lambda: scheduler.state == "running")
    goes_on()
    scheduler.stop()
    return 0

child = in_child(outlive)
instances = lambda: [row[0] for row in scheduler._store.read("SELECT pid FROM geckosched_instances")]
goes_on()
scheduler.stop()
said["heir"] = exit_code(child)
said["led"] = instances().count(child)
print(json.dumps(said))
"""

STANDBY = """
leader = new()
leader.start()
scheduler = new()
scheduler.start()
said["before"] = scheduler.state

def look():
    ok = (scheduler.state, leader.state, threads()) == ("stopped", "stopped", []) and scheduler._lock.is_held()
    run = scheduler.execute_collector_now("busy0")  # the parent leads: it is asked
    return 0 if ok and run.outcome == "succeeded" else 3

said["children"] = [exit_code(in_child(look)) for _ in range(3)]
said["after"] = scheduler.state
leader.stop()
until(lambda: scheduler.state == "running")
said["goes_on"] = goes_on()
scheduler.stop()
print(json.dumps(said))
"""

POOL = """
import multiprocessing

def work(number):
    try:
        scheduler.disable_collector("busy3") if number % 2 else scheduler.enable_collector("busy3")
        return scheduler.state, scheduler.get_collector_status("busy0").runs > 0, scheduler._lock.is_held()
    except Exception as error:
        return repr(error)

if __name__ == "__main__":
    scheduler = new()
    scheduler.start()
    until(lambda: count() > 3)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        said["work"] = pool.map(work, range(12), chunksize=1)
    said["state"], said["held"], said["goes_on"] = scheduler.state, scheduler._lock.is_held(), goes_on()
    scheduler.stop()
    print(json.dumps(said))
"""


WHILE_THEY_CALL = """
scheduler = new()
scheduler.start()
until(lambda: count() > 3)
ending = threading.Event()

def call():
    while not ending.is_set():
        scheduler.get_status()
        scheduler.disable_collector("busy3")
        scheduler.enable_collector("busy3")
        scheduler.execute_collector_now("busy2")

callers = [threading.Thread(target=call) for _ in range(3)]
for each in callers:
    each.start()

def use_it():
    "Whatever lock another thread held at the fork, the child can use its scheduler."
    assert scheduler.state == "stopped"
    assert any(job.job_id == "busy0" for job in scheduler.get_status().jobs)
    scheduler.reset_breaker("busy0")
    return 0

said["children"] = [exit_code(in_child(use_it)) for _ in range(15)]
ending.set()
for each in callers:
    each.join(30)
said["state"], said["goes_on"] = scheduler.state, goes_on()
scheduler.stop()
print(json.dumps(said))
"""


def run(script: str, store: Path) -> dict[str, Any]:
    """Run a script to its end; return what it said. One that hangs ends with its children."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMON + script, str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == 0, errors
    said: dict[str, Any] = json.loads(out)
    return said


def check_store(store: Path) -> None:
    """Every run is closed, none was interrupted by a fork, and rows are exactly those before each cursor."""
    runs = CollectionScheduler(SchedulerConfig(database=store)).get_runs(limit=100_000)
    assert runs
    assert {r.outcome for r in runs if r.error or r.outcome not in (Outcome.SUCCEEDED, Outcome.INTERRUPTED)} == set()
    assert all(run.outcome is not None and run.finished_at is not None for run in runs)
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for job_id, state in connection.execute("SELECT job_id, state FROM geckosched_jobs").fetchall():
            stored = [k for (k,) in connection.execute(f"SELECT k FROM {job_id} ORDER BY k")]
            assert stored == list(range(1, json.loads(state)["next"] + 1)), job_id


def test_forks_under_load_leave_the_parent_unharmed(store_path: Path) -> None:
    """In a leader that writes all the time: the child's scheduler is stopped and has no threads; the parent goes on
    leading and writing, and the child's end does not release its lock."""
    said = run(LOAD, store_path)
    assert said == {"children": [0] * 20, "state": "running", "held": True, "goes_on": True}
    check_store(store_path)


def test_forks_amid_a_transaction(store_path: Path) -> None:
    """The writer ends its transaction before a fork: a child that writes to the store finds it unlocked."""
    said = run(AMID_A_TRANSACTION, store_path)
    assert said == {"children": [0] * 12, "state": "running", "goes_on": True}
    check_store(store_path)


def test_a_child_may_start_schedulers_of_its_own(store_path: Path) -> None:
    """They stand by, since the parent leads; when it stops, the child takes over, even with the forked object."""
    said = run(START, store_path)
    assert said["children"] == [0, 0]
    assert (said["state"], said["held"], said["goes_on"]) == ("running", True, True)
    assert (said["heir"], said["led"]) == (0, 1)
    check_store(store_path)


def test_a_fork_of_a_standby(store_path: Path) -> None:
    """The child's schedulers are stopped and can ask; the parent's standby still stands by, and takes over later."""
    said = run(STANDBY, store_path)
    assert said == {"before": "standby", "children": [0] * 3, "after": "standby", "goes_on": True}
    check_store(store_path)


def test_multiprocessing_by_fork(store_path: Path) -> None:
    """Workers of a pool look at the forked scheduler and ask the parent through it."""
    said = run(POOL, store_path)
    assert said["work"] == [["stopped", True, True]] * 12
    assert (said["state"], said["held"], said["goes_on"]) == ("running", True, True)
    check_store(store_path)


def test_a_fork_while_other_threads_call(store_path: Path) -> None:
    """A lock that another thread held at the fork is nobody's in the child: it can use its scheduler all the same."""
    said = run(WHILE_THEY_CALL, store_path)
    assert said == {"children": [0] * 15, "state": "running", "goes_on": True}
    check_store(store_path)
