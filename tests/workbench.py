"""A started scheduler with one job, whose `collect` is whatever the test gives: `bench.run(collect) -> Run`.

    run = bench.store(Batch("cities", [{"city": "Oslo"}], pk="city"))
    assert (run.rows, bench.table("cities")) == (1, [{"city": "Oslo"}])

The job is registered switched off, so that it runs when the test says so and at no other time. What the tests look at
they read with a connection of their own, as any other program would.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from geckosched import Batch, CollectionScheduler, GeckoschedError, Outcome, Run, RunContext, collector

Collect = Callable[[RunContext], Any]
PATIENCE = 10.0  # real seconds, whatever the scheduler's clock says, until a run that should have ended is given up


class Begun:
    """A run that somebody waits for: `run` is there when `ended` is set."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.run: Run | None = None
        self.error: GeckoschedError | None = None


class Workbench:
    """One job and its store."""

    def __init__(self, scheduler: CollectionScheduler, path: Path, **settings: Any) -> None:
        self.scheduler = scheduler
        self.path = path
        self._collect: Collect = lambda _: None

        @collector("bench")
        def bench(run: RunContext) -> Any:
            return self._collect(run)

        scheduler.register_collector(bench, **{"enabled": False, **settings})
        scheduler.start()

    def run(self, collect: Collect) -> Run:
        """Run the job once, with this `collect`, to its end."""
        begun = self.begin(collect)
        assert begun.ended.wait(PATIENCE), "the run never ended"
        assert begun.run is not None, begun.error
        assert begun.run.outcome is not None
        assert begun.run.finished_at is not None
        return begun.run

    def begin(self, collect: Collect) -> Begun:
        """Begin a run of the job, and return at once."""
        self._collect = collect
        begun = Begun()

        def wait() -> None:
            try:
                begun.run = self.scheduler.execute_collector_now("bench")
            except GeckoschedError as error:
                begun.error = error
            begun.ended.set()

        threading.Thread(target=wait, name="bench", daemon=True).start()
        return begun

    def store(self, *batches: Batch) -> Run:
        """Yield these batches at once."""

        def collect(_: RunContext) -> Any:
            yield list(batches)

        run = self.run(collect)
        assert run.outcome is Outcome.SUCCEEDED, run.error
        return run

    def refuse(self, *batches: Batch) -> str:
        """Yield these batches at once where every Exception is caught; return why the run failed all the same."""

        def collect(run: RunContext) -> Any:
            with run.target("guarded"):
                yield list(batches)

        run = self.run(collect)
        assert (run.outcome, run.rows) == (Outcome.FAILED, 0)
        assert run.error_type == "YieldRefused", f"not refused as a signal, but {run.error_type}: {run.error}"
        assert run.error is not None
        return run.error

    def sql(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Execute one statement from outside; its rows as tuples, or as plain values where there is one column."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            rows = connection.execute(sql, params).fetchall()
        return [row[0] if len(row) == 1 else row for row in rows]

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return a table's rows in the order in which they were inserted."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            quoted = '"' + name.replace('"', '""') + '"'
            return [dict(row) for row in connection.execute(f"SELECT * FROM {quoted} ORDER BY rowid")]

    def tables(self) -> set[str]:
        """Return the names of the collected tables: all that aren't ours or SQLite's."""
        names = self.sql("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for name in names if not name.startswith(("geckosched_", "sqlite_", "_sqlite"))}

    def state(self) -> str:
        """Return the job's saved state, as the store has it."""
        [text] = self.sql("SELECT state FROM geckosched_jobs")
        assert isinstance(text, str)
        return text
