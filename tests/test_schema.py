"""Stores of other versions: one of the first schema is migrated with its counts right, and read as it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from geckosched.core import Store
from tests.schemas import first_schema

COLUMNS = "id, job_id, reason, scheduled_for, started_at, finished_at, outcome, rows, calls, instance_id"


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
        connection.execute(f"INSERT INTO geckosched_runs ({COLUMNS}) VALUES (?,?,'scheduled',?,?,?,?,1,?,'x')",
                           (last + number, job_id, at, at, ended, words[letter], number))
    ended_runs = outcomes.rstrip("o")
    row = {"job_id": job_id, "collector": "c", "every": "1m", "enabled": 1, "runs": len(ended_runs),
           "errors": sum(letter in "ft" for letter in ended_runs), "last_run_id": last + len(ended_runs) or None,
           "last_scheduled_for": "2026-11-20T00:01:00.000000Z", **columns}  # fmt: skip
    connection.execute(f"INSERT INTO geckosched_jobs ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
                       tuple(row.values()))


@pytest.fixture
def old(store_path: Path) -> Iterator[sqlite3.Connection]:
    """A store of the first schema: what each test adds to it is all that it has."""
    with closing(first_schema(store_path)) as connection:
        yield connection


def counters(path: Path) -> dict[str, tuple[Any, ...]]:
    columns = "job_id, succeeded, calls, last_success_id, runs, errors"
    return {row[0]: tuple(row)[1:] for row in Store(path).read(f"SELECT {columns} FROM geckosched_jobs")}


def test_a_store_of_the_first_schema_is_migrated_with_its_counts(old: sqlite3.Connection, store_path: Path) -> None:
    """Of each job the runs that ended succeeded or partial, the calls of all that ended, and the last success; what was
    counted before stays, and a run that is open counts when it is closed."""
    add_job(old, "mixed", "spfktsrifo")
    add_job(old, "never-well", "ft")
    add_job(old, "never-ran", "")
    Store(store_path).open_writer().close()
    assert counters(store_path) == {
        "mixed": (3, sum(range(1, 10)), 6, 9, 3), "never-well": (0, 3, None, 2, 2), "never-ran": (0, 0, None, 0, 0)}


def test_a_job_that_was_another_collectors_has_no_more_successes_than_runs(
    old: sqlite3.Connection, store_path: Path
) -> None:
    """Its history has runs of the collector before; its counters began anew, and so does the one of successes."""
    add_job(old, "anew", "sssssf", runs=2, errors=1)
    Store(store_path).open_writer().close()
    succeeded, _, _, runs, errors = counters(store_path)["anew"]
    assert succeeded + errors == runs == 2


def test_a_migrated_store_is_that_of_a_new_one(old: sqlite3.Connection, store_path: Path, tmp_path: Path) -> None:
    """The tables, columns and indexes of a migrated store are those of one that is made now."""

    def schema(path: Path) -> list[tuple[Any, ...]]:
        with closing(Store(path).open_writer()) as connection:
            tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            found = [(name, *column) for name in sorted(tables)
                     for column in connection.execute("SELECT * FROM pragma_table_info(?)", (name,))]
            kinds = "SELECT type, name, tbl_name FROM sqlite_master ORDER BY name"
            return found + [tuple(row) for row in connection.execute(kinds)]

    assert schema(store_path) == schema(tmp_path / "new.db")
