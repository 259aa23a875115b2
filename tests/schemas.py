"""Stores of other versions, for tests: the first schema, frozen as SQL, and marks of a version yet to come.

    store = first_schema(tmp_path / "store.db")    # sqlite3.Connection on a store as 0.1.0's first schema had it
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

FIRST_SCHEMA = """
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY, "migration_set" TEXT, "name" TEXT, "applied_at" TEXT
);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name" ON "_sqlite_migrations" ("migration_set", "name");
INSERT INTO "_sqlite_migrations" VALUES (1, 'geckosched', 'm001_first_schema', '2026-11-25 00:00:00+00:00');
CREATE TABLE "geckosched_jobs" (
   "job_id" TEXT PRIMARY KEY,
   "collector" TEXT,
   "plugin" TEXT,
   "every" TEXT,
   "at" TEXT,
   "quiet" TEXT,
   "enabled" INTEGER,
   "disabled_at" TEXT,
   "state" TEXT DEFAULT '{}',
   "breaker" TEXT DEFAULT 'closed',
   "consecutive_errors" INTEGER DEFAULT 0,
   "consecutive_rate_limits" INTEGER DEFAULT 0,
   "opened_at" TEXT,
   "retry_at" TEXT,
   "next_run_at" TEXT,
   "last_run_id" INTEGER,
   "last_scheduled_for" TEXT,
   "last_success_at" TEXT,
   "last_sign_at" TEXT,
   "last_failure_id" INTEGER,
   "last_rows_at" TEXT,
   "runs" INTEGER DEFAULT 0,
   "errors" INTEGER DEFAULT 0,
   "rows" INTEGER DEFAULT 0,
   "missed" INTEGER DEFAULT 0,
   "lost" INTEGER DEFAULT 0,
   "seconds" REAL DEFAULT 0.0,
   "abandoned" INTEGER DEFAULT 0,
   "retired_at" TEXT
);
CREATE TABLE "geckosched_runs" (
   "id" INTEGER PRIMARY KEY,
   "job_id" TEXT,
   "reason" TEXT,
   "scheduled_for" TEXT,
   "started_at" TEXT,
   "finished_at" TEXT,
   "outcome" TEXT,
   "rows" INTEGER DEFAULT 0,
   "calls" INTEGER DEFAULT 0,
   "missed" INTEGER DEFAULT 0,
   "lost" INTEGER DEFAULT 0,
   "detail" TEXT,
   "error_type" TEXT,
   "error" TEXT,
   "traceback" TEXT,
   "instance_id" TEXT
);
CREATE INDEX "idx_geckosched_runs_job_id" ON "geckosched_runs" ("job_id");
CREATE INDEX geckosched_runs_open ON geckosched_runs (id) WHERE outcome IS NULL;
CREATE TABLE "geckosched_losses" (
   "run_id" INTEGER, "job_id" TEXT, "target" TEXT, "count" INTEGER, "since" TEXT, "until" TEXT
);
CREATE INDEX "idx_geckosched_losses_job_id_until" ON "geckosched_losses" ("job_id", "until");
CREATE TABLE "geckosched_requests" (
   "id" INTEGER PRIMARY KEY, "action" TEXT, "job_id" TEXT, "arguments" TEXT, "requested_at" TEXT,
   "requested_by" TEXT, "answered_at" TEXT, "answer" TEXT, "run_id" INTEGER
);
CREATE INDEX geckosched_requests_open ON geckosched_requests (id) WHERE answered_at IS NULL;
CREATE TABLE "geckosched_budgets" (
   "name" TEXT PRIMARY KEY, "rate" TEXT, "burst" INTEGER, "calls" TEXT, "closed_until" TEXT
);
CREATE TABLE "geckosched_instances" (
   "id" TEXT PRIMARY KEY, "pid" INTEGER, "host" TEXT, "version" TEXT, "started_at" TEXT, "heartbeat_at" TEXT,
   "stopped_at" TEXT, "abandoned" INTEGER, "plugins" TEXT
);
"""


def first_schema(path: Path) -> sqlite3.Connection:
    """Make a store as the first schema had it, empty, and return a connection that commits each statement."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(FIRST_SCHEMA)
    return connection


def written_by_a_newer_version(path: Path) -> None:
    """Mark a store as one that a later version has migrated."""
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
                           "VALUES ('geckosched', 'm999_of_tomorrow', '2027-01-01 00:00:00+00:00')")
    connection.close()


_COLUMNS = "id, job_id, reason, scheduled_for, started_at, finished_at, outcome, rows, calls, instance_id"


def add_job(connection: sqlite3.Connection, job_id: str, outcomes: str, **columns: Any) -> None:
    """Add a job and its runs, one a letter: s(ucceeded), p(artial), f(ailed), t(imed out), k (skipped), i(nterrupted),
    r(ate limited), and o(pen). Each run made as many calls as its number; the job's row has what the first schema
    counted."""
    words = {"s": "succeeded", "p": "partial", "f": "failed", "t": "timed_out", "k": "skipped", "i": "interrupted",
             "r": "rate_limited", "o": None}  # fmt: skip
    [(last,)] = connection.execute("SELECT coalesce(max(id), 0) FROM geckosched_runs")
    for number, letter in enumerate(outcomes, 1):
        at = f"2026-11-20T00:{number:02d}:00.000000Z"
        ended = None if letter == "o" else f"2026-11-20T00:{number:02d}:30.000000Z"
        connection.execute(f"INSERT INTO geckosched_runs ({_COLUMNS}) VALUES (?,?,'scheduled',?,?,?,?,1,?,'x')",
                           (last + number, job_id, at, at, ended, words[letter], number))
    ended_runs = outcomes.rstrip("o")
    row = {"job_id": job_id, "collector": "c", "every": "1m", "enabled": 1, "runs": len(ended_runs),
           "errors": sum(letter in "ft" for letter in ended_runs), "last_run_id": last + len(ended_runs) or None,
           "last_scheduled_for": "2026-11-20T00:01:00.000000Z",
           "last_failure_id": next((last + n for n in range(len(outcomes), 0, -1) if outcomes[n - 1] in "ft"), None),
           **columns}  # fmt: skip
    connection.execute(f"INSERT INTO geckosched_jobs ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
                       tuple(row.values()))
