"""R3 and R1: a kill of the process at any instant loses no committed row, doubles none, and moves no cursor too far.

Real processes, real SIGKILL, real files: a child runs five collectors that number their rows; the parent kills it at
random moments and looks at what it left.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from geckosched import CollectionScheduler, SchedulerConfig

CHILD = """
import sys
from geckosched import Batch, CollectionScheduler, SchedulerConfig, collector

def rows(run, table, size):
    first = run.state.get("next", 0)
    run.state["next"] = first + size
    return Batch(table, ({"k": k, "run_id": run.id} for k in range(first, first + size)), pk="k", on_conflict="ignore")

def appended(run, table, size):
    first = run.state.get("next", 0)
    run.state["next"] = first + size
    return Batch(table, [{"k": k} for k in range(first, first + size)])

@collector("single", every="1s")
def single(run):
    while True:
        yield rows(run, "single", 1)

@collector("many", every="1s")
def many(run):
    while True:
        yield rows(run, "many", 200)

@collector("append", every="1s")
def append(run):
    while True:
        yield appended(run, "append", 3)

@collector("pair", every="1s")
def pair(run):
    while True:
        batch = appended(run, "pair_a", 2)
        yield [batch, Batch("pair_b", batch.rows)]

@collector("short", every="1s")
def short(run):
    for _ in range(3):
        yield appended(run, "short", 1)

scheduler = CollectionScheduler(SchedulerConfig(database=sys.argv[1], max_workers=5, error_recovery_delay=0.01))
for each in (single, many, append, pair, short):
    scheduler.register_collector(each)
scheduler.start()
print("running", flush=True)
for line in sys.stdin:
    pass
"""

TABLES = {
    "single": ("single",),
    "many": ("many",),
    "append": ("append",),
    "pair": ("pair_a", "pair_b"),
    "short": ("short",),
}


def check(database: Path) -> dict[str, int]:
    """Hold every table against its cursor; returns the cursors."""
    cursors = {}
    with contextlib.closing(sqlite3.connect(database)) as connection:
        for job_id, tables in TABLES.items():
            found = connection.execute("SELECT state, rows FROM geckosched_jobs WHERE job_id=?", (job_id,)).fetchone()
            cursor = json.loads(found[0]).get("next", 0) if found else 0
            cursors[job_id] = cursor
            for table in tables if cursor else ():
                stored = [row[0] for row in connection.execute(f"SELECT k FROM {table} ORDER BY k")]
                assert stored == list(range(cursor)), f"{table}: rows lost, doubled, or past the cursor {cursor}"
            if found:
                assert found[1] == cursor * len(tables), f"{job_id}: the job's count of rows is off"
    return cursors


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_nothing_is_lost_or_doubled(tmp_path: Path, seed: int) -> None:
    """R3, R1: five kills each; rows are exactly those before the cursor, orphans are closed once, as interrupted."""
    database, moments, before = tmp_path / "crash.db", random.Random(seed), dict.fromkeys(TABLES, 0)
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(moments.uniform(0.0, 0.4))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        after = check(database)
        assert all(after[job_id] >= before[job_id] for job_id in TABLES), "committed rows were lost"
        before = after
    assert sum(before.values()) > 0
    scheduler = CollectionScheduler(SchedulerConfig(database=database))
    with scheduler:  # a leader without jobs: it closes the orphans
        runs = scheduler.get_runs(limit=100_000)
    assert runs
    assert all(run.outcome is not None and run.finished_at is not None for run in runs)
    assert {run.job_id for run in runs if run.outcome == "interrupted"} >= {"single", "many", "append", "pair"}
    slots = [(run.job_id, run.scheduled_for) for run in runs if run.outcome != "interrupted"]
    assert len(slots) == len(set(slots)), "a slot has two runs though its first was not interrupted"
