"""Pruning ten million runs while jobs run: does it keep up, and whom does it delay."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from geckosched import Batch, CollectionScheduler, RunContext, SchedulerConfig, collector
from geckosched.core import Store
from tests.benchmarks.history import make_store, shapes
from tests.benchmarks.measurements import Figure, Figures, Sizes, a_store, quantile


class Retention(NamedTuple):
    """What is kept."""

    days: int
    runs: int


KEEP_ALL, DEFAULT = Retention(36_500, 1_000_000_000), Retention(30, 10_000)


def pruning(sizes: Sizes) -> Figures:
    """100 jobs run each second, each yields a row, on a store of ten million runs in three shapes: first with a
    retention that keeps all, then with the default (30 days of the 34, and 10,000 runs a job). Lateness is from the
    slot until `collect` is called, which is after the commit of the run's row, and until its own row is committed."""
    for shape in shapes(sizes.history):
        with a_store() as path:
            make_store(path, shape, time.time_ns() // 1_000)
            Store(path).open_writer().close()
            yield from lateness_on(path, shape.label, sizes.seconds)


def lateness_on(path: Path, label: str, seconds: float) -> Figures:
    """Measure on a store that is there, without and with pruning."""
    for how, keep in ((" without pruning", KEEP_ALL), ("", DEFAULT)):
        called: list[float] = []
        stored: list[float] = []

        @collector("late")
        def late(run: RunContext, called: list[float] = called, stored: list[float] = stored) -> Any:
            slot = run.scheduled_for or run.now()
            called.append((run.now() - slot).total_seconds() * 1e3)
            yield Batch("rows", [{"job": run.job_id, "value": run.id}], pk="job")
            stored.append((run.now() - slot).total_seconds() * 1e3)

        config = SchedulerConfig(database=path, catchup="none", retention_days=keep.days, retention_runs=keep.runs)
        scheduler = CollectionScheduler(config)
        for number in range(100):
            scheduler.register_collector(late, "1s", job_id=f"late-{number:03d}")
        before = history_rows(path)
        scheduler.start()
        time.sleep(2.0)
        called.clear()
        stored.clear()
        time.sleep(seconds)
        figures = [("collect called", list(called)), ("row stored", list(stored))]
        scheduler.stop()
        gone = before - history_rows(path)
        for what, values in figures:
            for name, q in (("p50", 0.5), ("p99", 0.99), ("worst", 1.0)):
                yield Figure(f"{label}{how}: {what} late, {name}", quantile(values, q), "ms")
        if not how:
            yield Figure(f"{label}: deleted", gone / (seconds + 2.0), "runs/s")


def history_rows(path: Path) -> int:
    """Return how many runs of the made history are there; those of this measurement are not among them."""
    return int(Store(path).read("SELECT count(*) FROM geckosched_runs WHERE job_id LIKE 'job-%'")[0][0])
