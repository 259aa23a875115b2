"""Stores of ten million runs: made quickly, and how long the commands take that people wait for.

Runs of the jobs alternate as they do in life, over 34 days that end now, so that neighbours in the file are of
different jobs. One in 99,991 failed; one in 1,009 lost something. A store is made as the first schema had it, and the
first measurement is its migration.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from geckosched.core import SECOND, Store, format_duration, to_text
from tests.benchmarks.measurements import Figure, Figures, Sizes, a_store
from tests.schemas import first_schema

SPAN = 34 * 86_400 * SECOND
PLUGIN = """
from geckosched import collector, hookimpl

def nothing(run):
    return None

@hookimpl
def register_collectors(register, settings):
    for number in range(settings["jobs"]):
        register(collector(f"job-{number:06d}", every=settings["every"])(nothing))
"""


class Shape(NamedTuple):
    """How many jobs have how many runs each."""

    jobs: int
    runs_each: int

    @property
    def every(self) -> int:
        """The interval by which the runs fill the 34 days, in whole seconds."""
        return SPAN // self.runs_each // SECOND * SECOND or SECOND

    @property
    def label(self) -> str:
        return f"{self.jobs:,} jobs, {self.runs_each:,} runs each"


def shapes(total: int) -> tuple[Shape, ...]:
    return Shape(1_000, total // 1_000), Shape(10, total // 10), Shape(total // 100, 100)


def make_store(path: Path, shape: Shape, now: int) -> None:
    """Make a store of the first schema with this history."""
    with closing(first_schema(path)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA cache_size=-200000")
        connection.execute("DROP INDEX idx_geckosched_runs_job_id")  # made at the end, which is a sort
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO geckosched_runs (id, job_id, reason, scheduled_for, started_at, finished_at, outcome, rows, "
            "calls, lost, error_type, error, instance_id) VALUES (?,?,'scheduled',?,?,?,?,3,2,?,?,?,'0123456789ab')",
            _runs(shape, now))
        connection.execute("CREATE INDEX idx_geckosched_runs_job_id ON geckosched_runs (job_id)")
        connection.execute("INSERT INTO geckosched_losses SELECT id, job_id, 'Oslo', lost, started_at, finished_at "
                           "FROM geckosched_runs WHERE lost")
        for row in _jobs(shape, now):
            connection.execute(f"INSERT INTO geckosched_jobs ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
                               tuple(row.values()))
        connection.execute("UPDATE geckosched_jobs SET lost = (SELECT total(count) FROM geckosched_losses l "
                           "WHERE l.job_id = geckosched_jobs.job_id)")
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _runs(shape: Shape, now: int) -> Iterator[tuple[Any, ...]]:
    names, ids, every = [_name(number) for number in range(shape.jobs)], itertools.count(1), shape.every
    for turn in range(shape.runs_each):
        slot = now - (shape.runs_each - turn) * every
        for number, (name, run_id) in enumerate(zip(names, ids, strict=False)):
            due = slot + number * every // shape.jobs
            due_text, started = to_text(due), to_text(due + 1_500 + run_id % 977)
            lost = 0 if run_id % 1_009 else 3
            bad = () if run_id % 99_991 else ("failed", lost, "ValueError", "no such city")
            yield (run_id, name, due_text, started, to_text(due + 250_000 + run_id % 9_973 * 10),
                   *(bad or ("succeeded", lost, None, None)))


def _jobs(shape: Shape, now: int) -> Iterator[dict[str, Any]]:
    total = shape.jobs * shape.runs_each
    failures: dict[int, list[int]] = {}
    for run_id in range(99_991, total + 1, 99_991):
        failures.setdefault((run_id - 1) % shape.jobs, []).append(run_id)
    for number in range(shape.jobs):
        failed = failures.get(number, [])
        at = to_text(now - shape.every + number * shape.every // shape.jobs)
        yield {"job_id": _name(number), "collector": _name(number), "plugin": "many",
               "every": format_duration(shape.every), "enabled": 1, "last_run_id": total - shape.jobs + number + 1,
               "last_scheduled_for": at, "last_success_at": at, "last_sign_at": at, "last_rows_at": at,
               "last_failure_id": failed[-1] if failed else None, "runs": shape.runs_each, "errors": len(failed),
               "rows": 3 * shape.runs_each, "seconds": 0.3 * shape.runs_each,
               "next_run_at": to_text(now + shape.every)}


def _name(number: int) -> str:
    return f"job-{number:06d}"


def history(sizes: Sizes) -> Figures:
    """Ten million runs in three shapes: the migration of the first schema, once, and whole processes of the command
    line, Python's start included: the second of two calls, with the file in the system's cache. `start` is `geckosched
    run` until it says that it leads, its jobs brought by a plugin; the store's own share is the difference to an empty
    store."""
    for shape in shapes(sizes.history):
        with a_store() as path:
            now = time.time_ns() // 1_000
            make_store(path, shape, now)
            began = time.monotonic()
            Store(path).open_writer().close()
            yield Figure(f"{shape.label}: migration, once", time.monotonic() - began, "s")
            yield Figure(f"{shape.label}: size", path.stat().st_size / 1e6, "MB")
            configure(path.parent, shape)
            yield from commands(path.parent, shape)


def configure(folder: Path, shape: Shape) -> None:
    """Write the configuration of such a store, with a plugin that brings its jobs."""
    (folder / "many.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "geckosched.toml").write_text(
        '[scheduler]\ndatabase = "store.db"\ncatchup = "none"\n[plugins]\nload = ["./many.py"]\n'
        f'[plugins.many]\njobs = {shape.jobs}\nevery = "{format_duration(shape.every)}"\n', encoding="utf-8")


def commands(folder: Path, shape: Shape) -> Figures:
    """Measure the commands on a store that is there."""
    job, middle = _name(shape.jobs // 2), str(shape.jobs * shape.runs_each // 2)
    for words in (["status"], ["status", "--json"], ["status", job], ["runs"], ["runs", job], ["runs", middle],
                  ["runs", "--failed"], ["runs", job, "--failed"], ["check"]):
        shown = " ".join(words).replace(job, "JOB").replace(middle, "ID")
        yield Figure(f"{shape.label}: `{shown}`", min(timed(folder, words) for _ in range(2)), "s")
    yield Figure(f"{shape.label}: start", min(time_to_lead(folder) for _ in range(2)), "s")


def timed(folder: Path, words: list[str]) -> float:
    """Return how long a command takes, in seconds."""
    began = time.monotonic()
    with geckosched(folder, words, subprocess.DEVNULL) as process:
        if process.wait() != 0:
            raise RuntimeError(f"{words} ended with {process.returncode}")
    return time.monotonic() - began


def time_to_lead(folder: Path) -> float:
    """Return how long `geckosched run` takes until it leads, in seconds."""
    began = time.monotonic()
    with geckosched(folder, ["run"], subprocess.PIPE) as process:
        assert process.stderr is not None
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if "leading:" in line:
                break
        else:
            raise RuntimeError("".join(said))
        took = time.monotonic() - began
        process.terminate()
        process.stderr.read()
    return took


@contextmanager
def geckosched(folder: Path, words: list[str], errors: int) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the folder of a store; none of the installed plugins takes part."""
    settings = {**os.environ, "GECKOSCHED_LOAD_PLUGINS": "many", "PYTHONPATH": str(Path(__file__).parents[2])}
    settings.pop("GECKOSCHED_CONFIG", None)
    process = subprocess.Popen([sys.executable, "-m", "geckosched", *words], cwd=folder, stdout=subprocess.DEVNULL,
                               stderr=errors, text=True, env=settings)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
