"""Stores of other versions: one of the first schema is migrated with its counts right, and read as it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from geckosched import CollectionScheduler, Outcome, SchedulerConfig, StoreError
from geckosched.core import Store
from tests.schemas import add_job, first_schema, written_by_a_newer_version
from tests.shell import invoke


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


# -- read as they are: nobody leads with this version ------------------------------------------------------------------


@pytest.fixture
def asking(store_path: Path) -> CollectionScheduler:
    """A scheduler that only asks the store, as `geckosched status` does."""
    return CollectionScheduler(SchedulerConfig(database=store_path))


def test_a_store_of_the_first_schema_is_read_as_it_is(
    old: sqlite3.Connection, asking: CollectionScheduler, store_path: Path
) -> None:
    """Status, runs, failed runs, statistics and forecast answer from it, and nothing migrates it."""
    add_job(old, "mixed", "spfksf", lost=3)
    [job] = asking.get_status().jobs
    assert (job.runs, job.errors, job.success_rate, job.last_outcome) == (6, 2, 0.6, Outcome.FAILED)
    assert "".join(outcome[0] for outcome in job.last_outcomes) == "spfssf"
    assert [run.id for run in asking.get_runs("mixed", limit=2)] == [6, 5]
    assert [run.id for run in asking.get_runs(failed=True)] == [6, 3, 2]
    found = asking.get_statistics("mixed")
    assert not found.counted
    assert (found.in_all.runs, found.in_all.success_rate, found.in_all.calls) == (6, 0.6, 21)
    assert asking.get_forecast().errors == ()
    assert [row[0] for row in Store(store_path).read("SELECT name FROM _sqlite_migrations")] == ["m001_first_schema"]


def test_the_commands_show_a_store_of_the_first_schema(old: sqlite3.Connection, site: Path, store_path: Path) -> None:
    """`status`, `status JOB`, `runs`, `runs --failed` and `check`; the statistics say what they are from."""
    add_job(old, "mixed", "spf")
    for words in (["status"], ["runs"], ["runs", "mixed", "--failed"], ["runs", "3"], ["check"]):
        ended = invoke(*words, "--database", str(store_path))
        assert (words, ended.exit_code) == (words, 0)
    shown = invoke("status", "mixed", "--database", str(store_path))
    assert shown.exit_code == 0
    assert "success rate and calls" in shown.stdout


def test_a_store_of_a_newer_version_is_read_as_far_as_it_can_be(
    asking: CollectionScheduler, store_path: Path, tmp_path: Path
) -> None:
    """Tables and columns that came later are passed over; a start is refused."""
    with closing(Store(store_path).open_writer()) as connection:
        add_job(connection, "mixed", "spf", succeeded=2)
        connection.execute("ALTER TABLE geckosched_jobs ADD COLUMN mood TEXT DEFAULT 'fine'")
        connection.execute("ALTER TABLE geckosched_runs ADD COLUMN mood TEXT DEFAULT 'fine'")
    written_by_a_newer_version(store_path)
    assert [job.success_rate for job in asking.get_status().jobs] == [2 / 3]
    assert [run.id for run in asking.get_runs()] == [3, 2, 1]
    assert asking.get_statistics("mixed").in_all.runs == 3
    with pytest.raises(StoreError, match=r"newer geckosched \(m999_of_tomorrow\), upgrade this one"):
        asking.start()


@pytest.mark.parametrize("change", [
    "UPDATE geckosched_runs SET outcome = 'evaporated'",
    "UPDATE geckosched_jobs SET breaker = 'molten'",
    "ALTER TABLE geckosched_runs RENAME COLUMN outcome TO ending",
    "ALTER TABLE geckosched_runs RENAME COLUMN started_at TO began_at",
])  # fmt: skip
def test_what_a_newer_version_wrote_otherwise_asks_for_an_upgrade(
    change: str, asking: CollectionScheduler, store_path: Path
) -> None:
    """A word or a column that this version doesn't know: one line that names the file and what to do."""
    with closing(Store(store_path).open_writer()) as connection:
        add_job(connection, "mixed", "spf")
        connection.execute("DROP INDEX geckosched_runs_open")
        connection.execute("DROP INDEX geckosched_runs_flawed")
        connection.execute("DROP INDEX geckosched_runs_flawed_of_job")
        connection.execute(change)
        connection.execute("CREATE INDEX geckosched_runs_open ON geckosched_runs (id)")
    written_by_a_newer_version(store_path)
    with pytest.raises(StoreError, match="newer geckosched") as found:
        (asking.get_status(), asking.get_runs())
    assert str(store_path) in str(found.value)
    assert "\n" not in str(found.value)


def test_a_damaged_value_is_said_in_one_line(asking: CollectionScheduler, store_path: Path) -> None:
    """Somebody wrote into our tables what is no time: the file and the value are named."""
    with closing(Store(store_path).open_writer()) as connection:
        add_job(connection, "mixed", "spf")
        connection.execute("UPDATE geckosched_runs SET started_at = 'yesterday' WHERE id = 3")
    for ask in (asking.get_status, asking.get_runs, lambda: asking.get_statistics("mixed")):
        with pytest.raises(StoreError, match=r"damaged: .*yesterday") as found:
            ask()
        assert str(store_path) in str(found.value)
