"""The measurements. Each is a function `(sizes) -> figures`; its docstring says what is measured and how.

All use a real store, a file in a temporary directory, and real time. Each is run in a process of its own, so that the
memory and the processor time of one are not those of another.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from geckosched import Batch, CollectionScheduler, RunContext, SchedulerConfig, collector
from geckosched.core import Store, from_text

PATIENCE = 600.0  # seconds until a measurement that doesn't end is given up


class Sizes(NamedTuple):
    """How large the measurements are."""

    many: int  # jobs, where the question is what many jobs cost
    few: int  # jobs to compare with
    burst: int  # jobs that are due at once
    runs_each: int  # runs of each job, in the store that get_status reads
    history: int  # runs in the store that the commands read
    seconds: float  # how long the measurements that last last


FULL = Sizes(many=100_000, few=1_000, burst=20_000, runs_each=10, history=10_000_000, seconds=20.0)
QUICK = Sizes(many=5_000, few=500, burst=2_000, runs_each=10, history=200_000, seconds=3.0)


class Figure(NamedTuple):
    """One number of a measurement."""

    what: str
    value: float
    unit: str


Figures = Iterator[Figure]
Measurement = Callable[[Sizes], Figures]


@collector("nothing")
def nothing(run: RunContext) -> None:
    """Collect nothing, at once."""


@collector("one-row")
def one_row(run: RunContext) -> Iterator[Batch]:
    """Yield one row of the job's own: a transaction of its own, with the run's and the job's row."""
    yield Batch("rows", [{"job": run.job_id, "value": run.id}], pk="job")


# -- what the measurements share


@contextmanager
def a_store() -> Iterator[Path]:
    """Give the path of a store that is not there yet, in a directory that is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="geckosched-benchmark-") as directory:
        yield Path(directory) / "store.db"


def with_jobs(path: Path, count: int, every: str, made: Any = nothing, **settings: Any) -> CollectionScheduler:
    """Make a scheduler and register this many jobs of one collector."""
    scheduler = CollectionScheduler(SchedulerConfig(database=path, **settings))
    for number in range(count):
        scheduler.register_collector(made, every, job_id=f"job-{number:06d}")
    return scheduler


class Watch:
    """Wall and processor time since it was made, or since `again`."""

    def __init__(self) -> None:
        self.again()

    def again(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    @property
    def wall(self) -> float:
        return time.monotonic() - self._wall

    @property
    def cpu(self) -> float:
        return time.process_time() - self._cpu

    def figures(self, what: str) -> Figures:
        """Give the time of something that is done once, by the wall and by the processor."""
        wall, cpu = self.wall, self.cpu
        yield Figure(what, wall, "s")
        yield Figure(f"{what}, processor time", cpu, "s")


def cpu_of_threads() -> dict[str, float]:
    """Return the processor seconds of our threads, those of one loop together."""
    seconds: dict[str, float] = defaultdict(float)
    for thread in threading.enumerate():
        if thread.name.startswith("geckosched-") and thread.ident is not None:
            clock = time.pthread_getcpuclockid(thread.ident)
            seconds[thread.name.removeprefix("geckosched-")] += time.clock_gettime(clock)
    return seconds


def resident() -> int:
    """Return the memory of this process, in bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def recorded(path: Path) -> int:
    """Return how many runs the store has from start to end. Cheap: by the last id and the index of the open runs."""
    sql = "SELECT (SELECT coalesce(max(id), 0) FROM geckosched_runs) - " \
          "(SELECT count(*) FROM geckosched_runs WHERE outcome IS NULL)"
    return int(Store(path).read(sql)[0][0])


def await_runs(path: Path, count: int) -> None:
    """Wait until the store has this many runs from start to end."""
    until = time.monotonic() + PATIENCE
    while recorded(path) < count:
        if time.monotonic() > until:
            raise TimeoutError(f"{recorded(path)} of {count} runs in {PATIENCE:.0f} s")
        time.sleep(0.02)


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


# -- the measurements


def burst(sizes: Sizes) -> Figures:
    """N jobs are due at once: first runs, of which the workers are never short.

    Runs per second that the store has from start to end, and processor time a run, from the moment at which `start`
    returns (runs that ended before it are not counted) until the last run is closed. Collectors do nothing, or yield
    one row each; 10 workers are the default, 100 let more runs share a commit. Then the store's size by run.
    """
    for made, workers in ((nothing, 10), (nothing, 100), (one_row, 10), (one_row, 100)):
        with a_store() as path:
            scheduler = with_jobs(path, sizes.burst, "1d", made, max_workers=workers)
            scheduler.start()
            watch, before, threads = Watch(), recorded(path), cpu_of_threads()
            await_runs(path, sizes.burst)
            runs, wall, cpu, after = sizes.burst - before, watch.wall, watch.cpu, cpu_of_threads()
            scheduler.stop()
            label = f"burst of {sizes.burst:,} {made.name} runs, {workers} workers"
            yield Figure(f"{label}: recorded", runs / wall, "runs/s")
            yield Figure(f"{label}: processor time", cpu / runs * 1e6, "µs/run")
            for loop in ("ticker", "writer", "worker"):
                yield Figure(f"{label}: of it the {loop}", (after[loop] - threads[loop]) / runs * 1e6, "µs/run")
            if workers == 10:
                yield Figure(f"{label}: store, with its job", path.stat().st_size / sizes.burst, "bytes/run")


def sustained(sizes: Sizes) -> Figures:
    """1,000 jobs are due every 100 ms, 10,000 runs a second, which is more than gets through here: what does, for some
    seconds, and how many slots were missed for each that was served (T1: they are counted, not queued)."""
    with a_store() as path:
        scheduler = with_jobs(path, 1_000, "100ms", catchup="none", max_workers=100)
        scheduler.start()
        time.sleep(1.0)
        watch, before = Watch(), recorded(path)
        time.sleep(sizes.seconds)
        runs, wall, cpu = recorded(path) - before, watch.wall, watch.cpu
        scheduler.stop()
        [missed] = Store(path).read("SELECT total(missed) / count(*) FROM geckosched_runs")
        label = "1,000 jobs every 100 ms, 100 workers"
        yield Figure(f"{label}: recorded", runs / wall, "runs/s")
        yield Figure(f"{label}: processor time", cpu / runs * 1e6, "µs/run")
        yield Figure(f"{label}: slots missed for one served", missed[0], "slots")


def lateness(sizes: Sizes) -> Figures:
    """100 runs a second, of few and of many jobs: how late they start, and what it costs.

    With N jobs each has an interval of N / 100 s. `catchup="none"` leaves out the N first runs that a start would begin
    with: a job's first run is that of its first slot. Lateness is `started_at` minus `scheduled_for`, from the rows,
    and once more as the collector sees it: when `collect` is called, after the commit of the run's row.
    """
    for count in sorted({sizes.few, sizes.many}):
        seen: list[float] = []

        @collector("late")
        def late(run: RunContext, seen: list[float] = seen) -> None:
            if run.scheduled_for is not None:
                seen.append((run.now() - run.scheduled_for).total_seconds() * 1e3)

        with a_store() as path:
            scheduler = with_jobs(path, count, f"{count * 10}ms", late, catchup="none")
            scheduler.start()
            time.sleep(1.0)
            seen.clear()
            watch, first = Watch(), recorded(path)
            time.sleep(sizes.seconds)
            wall, cpu, at_collect, runs = watch.wall, watch.cpu, list(seen), recorded(path) - first
            scheduler.stop()
            sql = "SELECT started_at, scheduled_for FROM geckosched_runs WHERE id > ?"
            rows = [(from_text(a) - from_text(b)) / 1e3 for a, b in Store(path).read(sql, (first,))]
            label = f"100 runs/s of {count:,} jobs"
            yield Figure(f"{label}: recorded", runs / wall, "runs/s")
            yield Figure(f"{label}: started late, p50", quantile(rows, 0.5), "ms")
            yield Figure(f"{label}: started late, p99", quantile(rows, 0.99), "ms")
            yield Figure(f"{label}: collect called late, p50", quantile(at_collect, 0.5), "ms")
            yield Figure(f"{label}: collect called late, p99", quantile(at_collect, 0.99), "ms")
            yield Figure(f"{label}: processor", cpu / wall * 100, "% of a core")


def start(sizes: Sizes) -> Figures:
    """Registering many jobs, the first start with them, doing nothing for some seconds, the stop, and the start of
    another scheduler on the store that knows them (each job has one run there: its last).

    Memory is what the process has grown by, a job. The jobs are weekly and `catchup="none"`, so that none is due.
    """
    label = f"{sizes.many:,} jobs"
    with a_store() as path:
        before, watch = resident(), Watch()
        scheduler = with_jobs(path, sizes.many, "1w", catchup="none")
        yield from watch.figures(f"{label}: registering")
        yield Figure(f"{label}: memory when registered", (resident() - before) / sizes.many, "bytes/job")
        watch.again()
        scheduler.start()
        yield from watch.figures(f"{label}: first start")
        yield Figure(f"{label}: memory when started", (resident() - before) / sizes.many, "bytes/job")
        watch.again()
        time.sleep(sizes.seconds)
        yield Figure(f"{label}: idle, processor", watch.cpu / watch.wall * 100, "% of a core")
        watch.again()
        scheduler.stop()
        yield Figure(f"{label}: stop", watch.wall, "s")
        add_runs(path, 1)
        again = with_jobs(path, sizes.many, "1w", catchup="none")
        watch.again()
        again.start()
        yield from watch.figures(f"{label}: start with a store that knows them")
        again.stop()


def add_runs(path: Path, each: int) -> None:
    """Give every job in the store so many succeeded runs, its last among them, by SQL."""
    with closing(Store(path).open_writer()) as connection:
        connection.execute("BEGIN")
        jobs = [row[0] for row in connection.execute("SELECT job_id FROM geckosched_jobs ORDER BY job_id")]
        for number in range(each):
            at = f"2026-01-{number % 28 + 1:02d}T00:00:00.000000Z"
            connection.executemany(
                "INSERT INTO geckosched_runs (job_id, reason, scheduled_for, started_at, finished_at, outcome, "
                f"instance_id) VALUES (?, 'scheduled', '{at}', '{at}', '{at}', 'succeeded', 'benchmark')",
                ((job,) for job in jobs))
        last = "(SELECT max(id) FROM geckosched_runs r WHERE r.job_id = geckosched_jobs.job_id)"
        connection.execute(f"UPDATE geckosched_jobs SET runs = {each}, last_run_id = {last}, "
                           "last_scheduled_for = '2026-01-01T00:00:00.000000Z'")
        connection.execute("COMMIT")


def status(sizes: Sizes) -> Figures:
    """`get_status` with many jobs, each with some runs in the store (put there by SQL); from a second scheduler that
    does not lead, as `geckosched status` is. The second of two calls, so that the file is in the system's cache."""
    with a_store() as path:
        scheduler = with_jobs(path, sizes.many, "1w", catchup="none")
        scheduler.start()
        scheduler.stop()
        add_runs(path, sizes.runs_each)
        asking = CollectionScheduler(SchedulerConfig(database=path))
        for _ in range(2):
            watch = Watch()
            found = asking.get_status()
        label = f"{len(found.jobs):,} jobs, {sizes.runs_each} runs each"
        yield from watch.figures(f"{label}: get_status")
        watch = Watch()
        asking.get_collector_status(found.jobs[-1].job_id)
        yield Figure(f"{label}: get_collector_status", watch.wall, "s")
