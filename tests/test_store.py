"""The store: what a batch does to its table, our own schema, and files that can't be used."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geckosched import Batch, Budget, Clock, Outcome, RunContext, SchedulerState, StoreError, collector
from geckosched.core import LeaderLock, Message, Requests, Store, Writer, row_groups
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler, without_the_right_to_write
from tests.workbench import Workbench

HOSTILE = ['a"b; DROP TABLE x', "with spaces", "été 🦎", "[brackets]", "select", "a.b", "it's", "100%", "?", ":n",
           "back\\slash", "`ticks`", "--", "a\nb"]  # fmt: skip

# -- update ------------------------------------------------------------------------------------------------------------


def test_update_touches_only_the_keys_that_a_row_has(bench: Workbench) -> None:
    """A row that leaves out a column leaves what is stored there alone."""
    bench.store(Batch("cities", [{"city": "Oslo", "people": 700, "mayor": "Anne"}], pk="city"))
    run = bench.store(Batch("cities", [{"city": "Oslo", "people": 701}], pk="city"))
    assert run.rows == 1
    assert bench.table("cities") == [{"city": "Oslo", "people": 701, "mayor": "Anne"}]


def test_a_none_that_is_given_is_written(bench: Workbench) -> None:
    """A key that is there with None becomes NULL; only keys that are left out are left alone."""
    bench.store(Batch("cities", [{"city": "Oslo", "mayor": "Anne"}], pk="city"))
    assert bench.store(Batch("cities", [{"city": "Oslo", "mayor": None}], pk="city")).rows == 1
    assert bench.table("cities") == [{"city": "Oslo", "mayor": None}]


def test_a_second_identical_run_changes_nothing(bench: Workbench) -> None:
    """Rows that are the same already are neither counted nor written."""
    rows = [{"id": 1, "price": "0.10", "seen": None, "size": 2.5, "tags": ["a", {"b": 1}], "raw": b"\0", "ok": 1},
            {"id": 2, "price": "0.2", "seen": math.nan, "size": 2**70, "tags": {}, "raw": b"", "ok": 0}]  # fmt: skip
    assert bench.store(Batch("trades", rows, pk="id")).rows == 2
    bench.sql("CREATE TABLE audit (what)")
    bench.sql("CREATE TRIGGER watch AFTER UPDATE ON trades BEGIN INSERT INTO audit VALUES (new.id); END")
    assert bench.store(Batch("trades", rows, pk="id")).rows == 0
    assert bench.table("audit") == []


def test_only_the_rows_that_change_are_counted_and_written(bench: Workbench) -> None:
    """Of many rows the one that differs is the one that is updated, and `rows` counts inserted and changed ones."""
    bench.store(Batch("trades", [{"id": n, "price": n} for n in range(100)], pk="id"))
    bench.sql("CREATE TABLE audit (what)")
    bench.sql("CREATE TRIGGER watch AFTER UPDATE ON trades BEGIN INSERT INTO audit VALUES (new.id); END")
    run = bench.store(Batch("trades", [{"id": n, "price": 0 if n == 50 else n} for n in range(102)], pk="id"))
    assert run.rows == 3
    assert bench.table("audit") == [{"what": 50}]


def test_a_key_of_several_columns(bench: Workbench) -> None:
    """A row is known by all columns of its key, whatever their order in the row."""
    bench.store(Batch("forecast", [{"city": "Oslo", "time": 1, "t": 5}, {"time": 2, "t": 6, "city": "Oslo"}],
                      pk=("city", "time")))  # fmt: skip
    assert bench.store(Batch("forecast", [{"t": 7, "time": 2, "city": "Oslo"}], pk=["city", "time"])).rows == 1
    assert bench.table("forecast") == [{"city": "Oslo", "time": 1, "t": 5}, {"city": "Oslo", "time": 2, "t": 7}]


def test_rows_that_are_nothing_but_a_key(bench: Workbench) -> None:
    """A row of key columns only is inserted once, and never changes."""
    assert bench.store(Batch("seen", [{"id": 1}, {"id": 2}, {"id": 1}], pk="id")).rows == 2
    assert bench.store(Batch("seen", [{"id": 1}], pk="id")).rows == 0


# -- ignore, append ----------------------------------------------------------------------------------------------------


def test_ignore_keeps_the_old_row(bench: Workbench) -> None:
    """With "ignore" what is stored stays, and only new rows count."""
    bench.store(Batch("trades", [{"id": 1, "price": 5}], pk="id", on_conflict="ignore"))
    again = [{"id": 1, "price": 6, "new": "x"}, {"id": 2, "price": 7, "new": "y"}]
    assert bench.store(Batch("trades", again, pk="id", on_conflict="ignore")).rows == 1
    assert bench.table("trades") == [{"id": 1, "price": 5, "new": None}, {"id": 2, "price": 7, "new": "y"}]


def test_without_a_key_rows_are_appended(bench: Workbench) -> None:
    """Every row is a new one, identical or not, in the order given."""
    rows: list[dict[str, Any]] = [{"at": 1}, {"at": 1}, {"at": 0, "note": "late"}]
    assert [bench.store(Batch("log", rows)).rows for _ in range(2)] == [3, 3]
    assert [row["at"] for row in bench.table("log")] == [1, 1, 0, 1, 1, 0]


# -- stamp, index, columns ---------------------------------------------------------------------------------------------


def test_a_stamp_is_written_with_a_change_and_never_compared(bench: Workbench) -> None:
    """A stamp alone changes no row; with another change, or a new row, it is written."""

    def store(run_id: int, **prices: int) -> int:
        rows = [{"coin": coin, "price": price, "run_id": run_id, "seen_at": -run_id} for coin, price in prices.items()]
        return bench.store(Batch("prices", rows, pk="coin", stamp=("run_id", "seen_at"))).rows

    assert store(1, a=10, b=20) == 2
    assert store(2, a=10, b=21) == 1
    assert store(3, c=30) == 1
    assert bench.table("prices") == [
        {"coin": "a", "price": 10, "run_id": 1, "seen_at": -1},
        {"coin": "b", "price": 21, "run_id": 2, "seen_at": -2},
        {"coin": "c", "price": 30, "run_id": 3, "seen_at": -3},
    ]


def test_a_row_of_key_and_stamp_is_written_once(bench: Workbench) -> None:
    """Where there is nothing to compare nothing changes: the stamp says when the row was first seen."""
    assert [bench.store(Batch("seen", [{"id": 1, "at": n}], pk="id", stamp="at")).rows for n in (1, 2)] == [1, 0]
    assert bench.table("seen") == [{"id": 1, "at": 1}]


def indexes(bench: Workbench, table: str) -> set[tuple[str, ...]]:
    """Return the columns of a table's indexes; an index on anything but columns has None in it."""
    made_by_sql = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL"
    names = bench.sql(made_by_sql, [table])
    return {tuple(bench.sql("SELECT name FROM pragma_index_info(?) ORDER BY seqno", [name])) for name in names}


@pytest.mark.parametrize(
    ("index", "expected"),
    [("a", {("a",)}), (["a", "b"], {("a", "b")}), ([["a"], ["b", "c"]], {("a",), ("b", "c")}), ((), set())],
)
def test_index_names_one_group_of_columns_or_several(bench: Workbench, index: Any, expected: set[Any]) -> None:
    """`index` is the columns of one index, or several such groups; a second run makes no second one."""
    for _ in range(2):
        bench.store(Batch("t", [{"id": 1, "a": 1, "b": 2, "c": 3}], pk="id", index=index))
    assert indexes(bench, "t") == expected


def test_an_index_comes_to_a_table_that_is_there_already(bench: Workbench) -> None:
    """An index that a later version of a collector names is created then."""
    bench.store(Batch("t", [{"id": 1, "a": 1}], pk="id"))
    bench.store(Batch("t", [{"id": 1, "a": 1}], pk="id", index="a"))
    assert indexes(bench, "t") == {("a",)}


def test_an_index_on_a_key_that_the_first_rows_lack(bench: Workbench) -> None:
    """An index is on its column, also when the column comes with a later row."""
    bench.store(Batch("t", [{"id": 1}, {"id": 2, "a": 5}], pk="id", index="a"))
    bench.store(Batch("t", [{"id": 3, "a": 6}], pk="id", index="a"))
    assert indexes(bench, "t") == {("a",)}
    assert bench.sql("PRAGMA integrity_check") == ["ok"]
    assert bench.sql("SELECT id FROM t WHERE a = 5") == [2]


def test_indexes_of_names_that_look_alike(bench: Workbench) -> None:
    """No index is left out because another table's, or another group's, has a name like it."""
    bench.store(Batch("t", [{"a": 1, "b": 2, "a_b": 3}], index=[["a", "b"], ["a_b"]]))
    bench.store(Batch("t_a", [{"b": 1}], index="b"))
    assert indexes(bench, "t") == {("a", "b"), ("a_b",)}
    assert indexes(bench, "t_a") == {("b",)}


def test_new_keys_become_columns(bench: Workbench) -> None:
    """A key that no row had before is a new column; what was stored before has NULL there."""
    bench.store(Batch("t", [{"id": 1, "a": 1}, {"id": 2, "b": "0010"}], pk="id"))
    bench.store(Batch("t", [{"id": 3, "c": "0.50"}], pk="id"))
    nothing = {"a": None, "b": None, "c": None}
    assert bench.table("t") == [{"id": 1, **nothing, "a": 1}, {"id": 2, **nothing, "b": "0010"},
                                {"id": 3, **nothing, "c": "0.50"}]  # fmt: skip


def test_a_key_in_another_case_is_the_same_column(bench: Workbench) -> None:
    """Columns are SQLite's: "Price" and "price" are one."""
    bench.store(Batch("t", [{"id": 1, "Price": 1}], pk="id"))
    bench.store(Batch("t", [{"id": 2, "price": 2}], pk="id"))
    assert bench.table("t") == [{"id": 1, "Price": 1}, {"id": 2, "Price": 2}]


def test_letters_that_sqlite_tells_apart_are_two_columns(bench: Workbench) -> None:
    """SQLite folds the case of ASCII only: "Ä" and "ä" are two columns, in one row or in two."""
    bench.store(Batch("t", [{"id": 1, "Ä": 1}], pk="id"))
    bench.store(Batch("t", [{"id": 2, "ä": 2}], pk="id"))
    bench.store(Batch("t", [{"id": 3, "ä": 3, "Ä": 4}], pk="id"))
    assert bench.table("t") == [{"id": 1, "Ä": 1, "ä": None}, {"id": 2, "Ä": None, "ä": 2}, {"id": 3, "Ä": 4, "ä": 3}]


def test_a_table_in_another_case_is_the_same_table(bench: Workbench) -> None:
    """Tables are SQLite's: "Prices" and "prices" are one."""
    bench.store(Batch("Prices", [{"id": 1}], pk="id"))
    bench.store(Batch("prices", [{"id": 2, "new": 1}], pk="id"))
    assert bench.table("prices") == [{"id": 1, "new": None}, {"id": 2, "new": 1}]


# -- values ------------------------------------------------------------------------------------------------------------


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


BERLIN = timezone(timedelta(hours=1))
VALUES = [
    ("0.00000012", "0.00000012"),
    ("12345678901234567890123", "12345678901234567890123"),
    ("007", "007"),
    ("1e5", "1e5"),
    ("", ""),
    ("nul\0 byte", "nul\0 byte"),
    (0, 0),
    (2**63 - 1, 2**63 - 1),
    (-(2**63), -(2**63)),
    (2**63, "9223372036854775808"),
    (-(2**63) - 1, "-9223372036854775809"),
    (10**22, "10000000000000000000000"),
    (1.5, 1.5),
    (1e300, 1e300),
    (math.inf, math.inf),
    (True, 1),
    (False, 0),
    (b"\x00\xff", b"\x00\xff"),
    (bytearray(b"ab"), b"ab"),
    (memoryview(b"ab"), b"ab"),
    (Decimal("0.000000000000000000120"), "1.20E-19"),
    (Decimal("10.50"), "10.50"),
    (Decimal("123456789012345678901234.5"), "123456789012345678901234.5"),
    (datetime(2026, 11, 23, 15, 45, 34, 123456, tzinfo=UTC), "2026-11-23T15:45:34.123456Z"),
    (datetime(2026, 11, 23, 15, 45, tzinfo=BERLIN), "2026-11-23T14:45:00.000000Z"),
    (date(2026, 11, 23), "2026-11-23"),
    ({"b": 1, "a": "é"}, '{"b": 1, "a": "é"}'),
    ([1, None, True, "x", 1.5], '[1, null, true, "x", 1.5]'),
    ((1, 2), "[1, 2]"),
    ({"price": Decimal("0.10"), "at": datetime(2026, 1, 1, tzinfo=UTC)},
     '{"price": "0.10", "at": "2026-01-01T00:00:00.000000Z"}'),
    ({"big": 2**70}, '{"big": 1180591620717411303424}'),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
]  # fmt: skip


@pytest.mark.parametrize(("value", "stored"), VALUES, ids=lambda value: ascii(value).split(" at 0x")[0][:40])
def test_values_are_stored_as_given(bench: Workbench, value: Any, stored: Any) -> None:
    """No column changes a value, or its type: not of a key, not of a new table, not one that was added later."""
    key, log = Batch("keys", [{"id": value, "x": 1}], pk="id"), Batch("log", [{"v": value}])
    bench.store(Batch("t", [{"id": 0}], pk="id"), key, log)
    bench.store(Batch("t", [{"id": 1, "later": value}], pk="id"))
    bench.store(Batch("t", [{"id": 1, "later": "other"}, {"id": 1, "later": value}], pk="id"))
    found = [bench.table("t")[1]["later"], bench.table("keys")[0]["id"], bench.table("log")[0]["v"]]
    assert found == [stored] * 3
    assert [type(value) for value in found] == [type(stored)] * 3
    assert bench.store(key).rows == 0


@pytest.mark.parametrize("nan", [math.nan, -math.nan, None])
def test_nan_is_null(bench: Workbench, nan: Any) -> None:
    """SQLite has no NaN: it is NULL, and stays one without being counted as a change."""
    assert [bench.store(Batch("t", [{"id": 1, "v": nan}], pk="id")).rows for _ in range(2)] == [1, 0]
    assert bench.table("t") == [{"id": 1, "v": None}]


def test_what_is_stored_of_a_dict_is_json(bench: Workbench) -> None:
    """Dicts and lists are JSON that SQLite can read, whatever floats are in them, or they are refused."""
    run = bench.run(lambda _: Batch("t", [{"id": 1, "v": {"a": [math.nan, 1.5]}}], pk="id"))
    if run.outcome is Outcome.SUCCEEDED:
        assert bench.sql("SELECT json_extract(v, '$.a[1]') FROM t") == [1.5]
    else:
        assert "t.v" in (run.error or "")


# -- what is refused ---------------------------------------------------------------------------------------------------

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - that is the point
REFUSED = {
    "naive datetime": (Batch("t", [{"id": 1, "at": NAIVE}], pk="id"), ("t.at", "naive")),
    "naive datetime in a dict": (Batch("t", [{"id": 1, "v": {"at": NAIVE}}], pk="id"), ("t.v", "naive")),
    "NULL in pk": (Batch("t", [{"id": None, "v": 1}], pk="id"), ("t.id", "NULL")),
    "NULL in a part of pk": (Batch("t", [{"a": 1, "b": None}], pk=("a", "b")), ("t.b", "NULL")),
    "NaN in pk": (Batch("t", [{"id": math.nan, "v": 1}], pk="id"), ("t.id", "NULL")),
    "unknown type": (Batch("t", [{"id": 1, "v": object()}], pk="id"), ("t.v", "object")),
    "a set": (Batch("t", [{"id": 1, "v": {1}}], pk="id"), ("t.v", "set")),
    "a set in a list": (Batch("t", [{"id": 1, "v": [{1}]}], pk="id"), ("t.v", "set")),
    "bytes in a dict": (Batch("t", [{"id": 1, "v": {"raw": b"x"}}], pk="id"), ("t.v",)),
    "a dict's key that is no text": (Batch("t", [{"id": 1, "v": {(1, 2): 3}}], pk="id"), ("t.v",)),
    "a timedelta": (Batch("t", [{"id": 1, "v": timedelta(1)}], pk="id"), ("t.v", "timedelta")),
    "lone surrogate": (Batch("t", [{"id": 1, "v": "\ud800"}], pk="id"), ("t.v",)),
    "lone surrogate in a dict": (Batch("t", [{"id": 1, "v": ["\ud800"]}], pk="id"), ("t.v",)),
    "lone surrogate in a key": (Batch("t", [{"id": 1, "\ud800": 1}], pk="id"), ("t",)),
    "lone surrogate in a table": (Batch("t\ud800", [{"id": 1}], pk="id"), ("t",)),
    "missing pk key": (Batch("t", [{"v": 1}], pk="id"), ("t.id", "lacks")),
    "missing stamp key": (Batch("t", [{"id": 1}], pk="id", stamp="at"), ("t.at", "lacks")),
    "keys differing in case": (Batch("t", [{"id": 1, "Price": 1, "price": 2}], pk="id"), ("t", "Price", "case")),
    "a key that is no text": (Batch("t", [{1: 1}], pk=None), ("t", "1")),  # type: ignore[dict-item]
    "an empty key": (Batch("t", [{"": 1}]), ("t", "''")),
    "an empty row": (Batch("t", [{}]), ("t", "row 1")),
    "a row that is none": (Batch("t", [["id", 1]]), ("t", "row 1", "list")),  # type: ignore[list-item]
    "a table without a name": (Batch("", [{"id": 1}]), ("table",)),
    "a table that is no text": (Batch(5, [{"id": 1}]), ("table", "5")),  # type: ignore[arg-type]
    "another on_conflict": (Batch("t", [{"id": 1}], pk="id", on_conflict="replace"), ("t", "replace", "ignore")),
    "a column in pk and stamp": (Batch("t", [{"id": 1}], pk="id", stamp="id"), ("t", "stamp")),
}


@pytest.mark.parametrize(("batch", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_stored_is_refused(bench: Workbench, batch: Batch, words: Sequence[str]) -> None:
    """A refused batch is a signal that no target block holds: the run fails, naming table and key, on one line."""
    text = bench.refuse(Batch("before", [{"id": 1}], pk="id"), batch)
    assert all(word in text for word in words), text
    assert "\n" not in text
    assert bench.tables() == set()
    assert bench.store(Batch("after", [{"id": 1}], pk="id")).rows == 1


TAKEN = ["geckosched_runs", "GECKOSCHED_jobs", "Geckosched_x", "sqlite_x", "SQLite_x", "_sqlite_x", "_SQLITE_x"]


@pytest.mark.parametrize("name", TAKEN)
def test_our_tables_and_those_of_sqlite_are_taken(bench: Workbench, name: str) -> None:
    """A collector can't write tables that begin with geckosched_, sqlite_ or _sqlite, in any case."""
    assert name in bench.refuse(Batch(name, [{"id": 1}]))


def test_a_table_that_has_another_key(bench: Workbench) -> None:
    """A key that the table hasn't got is refused, naming the table."""
    bench.store(Batch("t", [{"id": 1}]))
    assert "t:" in bench.refuse(Batch("t", [{"id": 1}], pk="id"))


def test_a_view_of_that_name(bench: Workbench) -> None:
    """What SQLite itself refuses names the table too, and leaves the view alone."""
    bench.sql("CREATE VIEW mine AS SELECT 1 AS id")
    assert "mine" in bench.refuse(Batch("mine", [{"id": 1}], pk="id"))
    assert bench.sql("SELECT id FROM mine") == [1]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_data(bench: Workbench, name: str) -> None:
    """Names of tables, columns and indexes may be any text, and are never SQL."""
    bench.sql("CREATE TABLE x (a)")
    for n in (1, 2):
        row = {name: n, f"{name} 2": n}
        run = bench.store(Batch(name, [row, {**row, f"{name} 3": n}], pk=name, index=f"{name} 2", stamp=f"{name} 2"))
        assert run.rows == 2
    assert bench.table(name) == [{name: n, f"{name} 2": n, f"{name} 3": n} for n in (1, 2)]
    assert bench.tables() == {name, "x"}
    assert indexes(bench, name) == {(f"{name} 2",)}


# -- order and size ----------------------------------------------------------------------------------------------------


def test_rows_of_mixed_keys_keep_their_order(bench: Workbench) -> None:
    """Of rows with the same key the later one wins, whichever columns they have."""
    rows = [{"id": 1, "a": "first", "b": "first"}, {"id": 1, "a": "second"}, {"id": 1, "b": "third", "a": "third"},
            {"id": 1, "a": "last"}]  # fmt: skip
    bench.store(Batch("t", rows, pk="id"))
    assert bench.table("t") == [{"id": 1, "a": "last", "b": "third"}]


def test_appended_rows_of_mixed_keys_keep_their_order(bench: Workbench) -> None:
    """Without a key, too, rows stand in the table as they came."""
    bench.store(Batch("log", [{"n": n} if n % 3 else {"n": n, "x": 1} for n in range(20)]))
    assert [row["n"] for row in bench.table("log")] == list(range(20))


def test_of_duplicates_in_one_batch_the_later_wins(bench: Workbench) -> None:
    """A key twice in one batch is no error."""
    bench.store(Batch("t", [{"id": 1, "v": n} for n in range(5)], pk="id"))
    assert bench.table("t") == [{"id": 1, "v": 4}]


def test_of_duplicates_the_first_stays_with_ignore(bench: Workbench) -> None:
    """With "ignore" the first of a batch is the old one."""
    assert bench.store(Batch("t", [{"id": 1, "v": n} for n in range(5)], pk="id", on_conflict="ignore")).rows == 1
    assert bench.table("t") == [{"id": 1, "v": 0}]


def test_a_hundred_thousand_rows_from_an_iterable(bench: Workbench) -> None:
    """Rows may come from any iterable, many of them, and are counted exactly."""
    batch = Batch("t", ({"id": n, "v": str(n)} for n in range(100_000)), pk="id")
    assert bench.store(batch).rows == 100_000
    assert bench.sql("SELECT count(*), count(DISTINCT id), min(id), max(id) FROM t") == [(100_000, 100_000, 0, 99_999)]


def test_rows_may_be_any_mapping(bench: Workbench) -> None:
    """Rows are mappings, not only dicts."""

    class Row(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            return {"id": 7}[key]

        def __iter__(self) -> Iterator[str]:
            return iter(["id"])

        def __len__(self) -> int:
            return 1

    assert bench.store(Batch("t", [Row()], pk="id")).rows == 1


def test_an_empty_batch_is_fine(bench: Workbench) -> None:
    """No rows, no table, no error."""
    assert bench.store(Batch("t", [], pk="id")).rows == 0
    assert bench.tables() == set()


# -- transactions ------------------------------------------------------------------------------------------------------


def breaking(rows: int) -> Iterator[dict[str, int]]:
    yield from ({"id": n} for n in range(rows))
    raise ConnectionError("the line broke")


def test_an_iterable_that_raises_stores_nothing_of_that_yield(bench: Workbench) -> None:
    """Rows that break off halfway are not stored, nor is what was yielded with them; what was yielded before stays."""

    def collect(_: RunContext) -> Any:
        yield Batch("t", [{"id": "earlier"}], pk="id")
        yield [Batch("other", [{"id": 1}], pk="id"), Batch("t", breaking(10), pk="id")]

    run = bench.run(collect)
    assert (run.outcome, run.rows) == (Outcome.FAILED, 1)
    assert (run.error_type, run.error) == ("ConnectionError", "the line broke")
    assert bench.table("t") == [{"id": "earlier"}]
    assert bench.tables() == {"t"}


def test_a_target_block_holds_what_an_iterable_raises(bench: Workbench) -> None:
    """Rows that break off are their target's problem; the run goes on."""

    def collect(run: RunContext) -> Any:
        with run.target("bad"):
            yield Batch("t", breaking(10), pk="id")
        with run.target("good"):
            yield Batch("t", [{"id": 99}], pk="id")

    run = bench.run(collect)
    assert run.outcome is Outcome.PARTIAL
    assert "ConnectionError: the line broke" in (run.detail or "")
    assert bench.table("t") == [{"id": 99}]


@pytest.mark.parametrize("table", ["new", "old"])
def test_what_is_yielded_at_once_is_one_transaction(bench: Workbench, table: str) -> None:
    """Of several batches in one yield all are stored or none, also when SQLite itself refuses a later one."""
    bench.store(Batch("old", [{"id": 1, "v": 1}], pk="id"), Batch("plain", [{"id": 1}]))
    first = Batch(table, [{"id": 1, "v": 2}, {"id": 2, "extra": 1}], pk="id", index="extra")
    bench.refuse(first, Batch("plain", [{"id": 1}], pk="id"))  # `plain` has no key: only SQLite knows
    assert bench.tables() == {"old", "plain"}
    assert bench.table("old") == [{"id": 1, "v": 1}]
    assert indexes(bench, "old") == set()


def test_after_a_refusal_tables_columns_and_indexes_are_made_anew(bench: Workbench) -> None:
    """What was created for a refused yield is gone again, and the same work done later finds that out."""
    bench.store(Batch("plain", [{"id": 1}]), Batch("t", [{"id": 0}], pk="id"))
    bad = Batch("plain", [{"id": 1}], pk="id")
    altered = Batch("t", [{"id": 1, "v": 5}], pk="id", index="v")
    created = Batch("new", [{"id": 1, "w": 2}], pk="id", index="w")
    for _ in range(2):
        bench.refuse(altered, created, bad)
        assert bench.tables() == {"plain", "t"}
        assert bench.table("t") == [{"id": 0}]
    assert bench.store(altered, created).rows == 2
    assert bench.store(altered, created).rows == 0
    assert bench.table("t") == [{"id": 0, "v": None}, {"id": 1, "v": 5}]
    assert (indexes(bench, "t"), indexes(bench, "new")) == ({("v",)}, {("w",)})


def test_a_table_that_a_person_dropped_comes_again(bench: Workbench) -> None:
    """Dropping a collected table costs at most the run that notices."""
    batch = Batch("t", [{"id": 1}], pk="id")
    bench.store(batch)
    bench.sql("DROP TABLE t")
    bench.run(lambda _: batch)
    bench.store(batch)
    assert bench.table("t") == [{"id": 1}]


class Rows(Message):
    """A batch for the writer, as a yield brings it; `count` is what run.rows would be."""

    def __init__(self, batch: Batch) -> None:
        self.groups = row_groups(batch)
        self.count = -1

    def write(self, writer: Writer) -> None:
        self.count = sum(writer.write_rows(group) for group in self.groups)

    def refused(self, error: BaseException) -> None:
        raise error


CELLS = st.sampled_from([None, 0, 1, 2, 1.5, True, "1", "01", "", b"1", b""])
ROW = st.fixed_dictionaries({"id": st.sampled_from([1, "1", 2]), "at": st.integers(0, 9)},
                            optional={"a": CELLS, "b": CELLS, "c": CELLS})  # fmt: skip
BATCH = st.tuples(st.sampled_from(["update", "ignore"]), st.lists(ROW, max_size=6))


@settings(max_examples=60, deadline=None)
@given(st.lists(BATCH, max_size=5))
def test_a_table_is_what_a_dict_would_be(batches: list[tuple[str, list[dict[str, Any]]]]) -> None:
    """Whatever rows come in whatever order, table and count are those of a dict with the same rules (`at`: a stamp)."""
    model: dict[Any, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as undo:
        writer = Writer(Store(Path(folder) / "store.db"), Clock())
        undo.callback(writer.connection.close)
        for on_conflict, rows in batches:
            count = 0
            for row in rows:
                old = model.get(row["id"])
                if old is None:
                    model[row["id"]] = {"a": None, "b": None, "c": None, **row}
                elif on_conflict == "ignore" or all(old[key] == row[key] for key in row.keys() - {"at"}):
                    continue
                else:
                    old.update(row)
                count += 1
            message = Rows(Batch("t", rows, pk="id", on_conflict=on_conflict, stamp="at"))
            writer.inbox.put(message)
            writer.turn()
            assert message.count == count
        found = writer.connection.execute("SELECT * FROM t").fetchall() if model else []
    assert {row["id"]: {"a": None, "b": None, "c": None, **dict(row)} for row in found} == model


# -- our tables --------------------------------------------------------------------------------------------------------

SCHEMA = {
    "geckosched_jobs": "job_id collector plugin every at quiet enabled disabled_at state breaker consecutive_errors "
    "consecutive_rate_limits opened_at retry_at next_run_at last_run_id last_scheduled_for last_success_at "
    "last_sign_at last_failure_id last_rows_at runs errors rows missed lost seconds abandoned retired_at "
    "succeeded calls last_success_id",
    "geckosched_runs": "id job_id reason scheduled_for started_at finished_at outcome rows calls missed lost detail "
    "error_type error traceback instance_id",
    "geckosched_losses": "run_id job_id target count since until",
    "geckosched_requests": "id action job_id arguments requested_at requested_by answered_at answer run_id",
    "geckosched_budgets": "name rate burst calls closed_until",
    "geckosched_instances": "id pid host version started_at heartbeat_at stopped_at abandoned plugins",
}
KEYS = {"geckosched_jobs": ["job_id"], "geckosched_runs": ["id"], "geckosched_requests": ["id"],
        "geckosched_budgets": ["name"]}  # fmt: skip


def test_our_tables_are_the_documented_ones(bench: Workbench) -> None:
    """Ours are a public schema: these tables, these columns, in this order, and no other."""
    names = bench.sql("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'geckosched%'")
    found = {name: bench.sql("SELECT name FROM pragma_table_info(?) ORDER BY cid", [name]) for name in names}
    assert found == {name: columns.split() for name, columns in SCHEMA.items()}
    for name, key in KEYS.items():
        assert bench.sql("SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", [name]) == key


def test_a_runs_columns_are_those_of_its_row(bench: Workbench) -> None:
    """`Run` has the columns of `geckosched_runs`, and `as_dict` the very values of its row."""
    run = bench.store(Batch("t", [{"id": 1}]))
    [row] = bench.table("geckosched_runs")
    assert run.as_dict() == row


def test_our_times_are_text_with_six_digits(new_scheduler: NewScheduler, store_path: Path) -> None:
    """Every time in our tables is UTC text with six digits, on the full second too."""
    clock = FakeClock(datetime(2026, 11, 23, 15, 45, 34, tzinfo=UTC))
    bench = Workbench(new_scheduler(clock=clock, max_workers=1), store_path)

    def collect(run: RunContext) -> Any:
        run.lost("Oslo", 3, 1_795_000_000, datetime(2026, 11, 23, 16, 45, 34, tzinfo=BERLIN))
        with run.call(Budget("api")):
            yield Batch("t", [{"id": run.id}], pk="id")

    bench.run(collect)
    bench.run(lambda _: 1 / 0)
    bench.scheduler.disable_collector("bench")
    bench.scheduler.stop()
    Requests(Store(store_path), LeaderLock(store_path)).put("reset", "bench", {}, clock.now())
    times, others = [], ("scheduled_for", "last_scheduled_for", "since", "until", "closed_until")
    for table, columns in SCHEMA.items():
        for column in columns.split():
            if column.endswith("_at") or column in others:
                times += bench.sql(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL")
    assert len(times) >= 12
    assert [text for text in times if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(text))] == []
    assert bench.sql("SELECT started_at FROM geckosched_runs WHERE id = 1") == ["2026-11-23T15:45:34.000000Z"]
    assert bench.sql("SELECT since, until FROM geckosched_losses") == [
        ("2026-11-18T11:06:40.000000Z", "2026-11-23T15:45:34.000000Z")]


def test_the_store_is_in_wal_mode(bench: Workbench) -> None:
    """Readers and the writer don't wait for each other."""
    assert bench.sql("PRAGMA journal_mode") == ["wal"]


def test_a_second_start_finds_everything(new_scheduler: NewScheduler, store_path: Path) -> None:
    """Opening a store again changes nothing in it, and goes on where it was."""
    first = Workbench(new_scheduler(), store_path)
    first.store(Batch("t", [{"id": 1}], pk="id"))
    first.scheduler.stop()
    second = Workbench(new_scheduler(), store_path)
    assert second.store(Batch("t", [{"id": 1}, {"id": 2}], pk="id")).rows == 1
    assert second.sql("SELECT id, rows FROM geckosched_runs ORDER BY id") == [(1, 1), (2, 1)]
    assert second.sql("SELECT runs, rows FROM geckosched_jobs") == [(2, 2)]


# -- files that can't be used ------------------------------------------------------------------------------------------


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_of_a_newer_version_is_refused_in_words(new_scheduler: NewScheduler, store_path: Path) -> None:
    """A store that a newer geckosched has written is refused in words, and left as it is."""
    Store(store_path).open_writer().close()
    with closing(sqlite3.connect(store_path)) as connection, connection:
        connection.execute("INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
                           "VALUES ('geckosched', 'm999_later', '2036-01-01')")  # fmt: skip
    scheduler = new_scheduler()
    line = refused(scheduler.start)
    assert str(store_path) in line
    assert "newer" in line
    assert scheduler.state is SchedulerState.STOPPED
    assert refused(lambda: scheduler.disable_collector("any"))
    assert scheduler.get_status().jobs == ()
    with closing(sqlite3.connect(store_path)) as connection:
        assert connection.execute("SELECT count(*) FROM geckosched_instances").fetchone() == (0,)


def test_a_file_that_is_no_database(new_scheduler: NewScheduler, store_path: Path) -> None:
    """Another program's file is named in one line and not touched; once it is gone the same scheduler starts."""
    store_path.write_bytes(b"Dear diary, " * 1000)
    scheduler = new_scheduler()
    for call in (scheduler.start, scheduler.get_status, scheduler.get_runs):
        line = refused(call)
        assert str(store_path) in line
        assert "not a database" in line
    assert store_path.read_bytes() == b"Dear diary, " * 1000
    assert scheduler.state is SchedulerState.STOPPED
    store_path.unlink()
    scheduler.start()
    assert scheduler.get_status().jobs == ()


def test_a_folder_where_the_file_should_be(new_scheduler: NewScheduler, store_path: Path) -> None:
    """A directory is no store: one line that names it."""
    store_path.mkdir()
    scheduler = new_scheduler()
    assert str(store_path) in refused(scheduler.start)
    assert str(store_path) in refused(scheduler.get_status)


def test_a_folder_that_is_not_there(new_scheduler: NewScheduler, tmp_path: Path) -> None:
    """A store in a missing folder can't be started in one line, and has no jobs yet."""
    scheduler = new_scheduler(database=tmp_path / "missing" / "store.db")
    assert str(tmp_path / "missing") in refused(scheduler.start)
    assert scheduler.get_status().jobs == ()


def test_a_folder_that_is_read_only(new_scheduler: NewScheduler, read_only_folder: Path) -> None:
    """A store can't be made in a read-only folder, which is said in one line."""
    scheduler = new_scheduler(database=read_only_folder / "store.db")
    assert str(read_only_folder) in refused(scheduler.start)


def test_a_store_in_a_folder_that_is_read_only(new_scheduler: NewScheduler) -> None:
    """It can be read, by a user who may do no more than that; a start is refused. SQLite says "readonly database" of
    the file, or "unable to open"; that it is the folder has to be said by us."""

    @collector("counts")
    def counts(run: RunContext) -> Batch:
        return Batch("counted", [{"n": 1}])

    with tempfile.TemporaryDirectory() as name:
        scheduler = new_scheduler(database=Path(name) / "store.db")
        scheduler.register_collector(counts)
        scheduler.execute_collector_now("counts")
        for path in Path(name).iterdir():
            path.chmod(0o666)
        with without_the_right_to_write(Path(name)):
            assert [job.runs for job in scheduler.get_status().jobs] == [1]
            assert [run.outcome for run in scheduler.get_runs("counts")] == [Outcome.SUCCEEDED]
            why = "(this user may not write in its folder, and SQLite needs files beside it)"
            assert refused(scheduler.start).endswith(why)
        Path(name).chmod(0o777)
        with without_the_right_to_write(Path(name) / "store.db"):
            assert len(scheduler.get_runs("counts")) == 1  # and leaves no file that the leader may not write
        assert {path.name for path in Path(name).iterdir()} <= {"store.db", "store.db.lock", "store.db.standby"}


def test_who_may_not_lead_is_told_who_may(new_scheduler: NewScheduler, read_only_folder: Path) -> None:
    """Another user than the store's owner can't take the lock, whatever he asks for."""
    scheduler = new_scheduler(database=read_only_folder / "store.db")
    scheduler.register_collector(collector("one", every="1h")(lambda _: None))
    for ask in (scheduler.start, lambda: scheduler.disable_collector("one")):
        assert refused(ask).endswith("store.db.lock: Permission denied (run it as the user that owns the store)")


def test_json_of_a_status_of_a_fresh_store(bench: Workbench) -> None:
    """What `as_dict` gives can be written as JSON."""
    json.dumps(bench.scheduler.get_status().as_dict())
