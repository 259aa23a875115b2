"""S1, S2: a store that can't be written, as real files and real processes bring it about: locked by another program,
full, read-only, damaged, deleted, replaced. What is said is one line that names the file; nothing is lost."""

from __future__ import annotations

import logging
import os
import re
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from geckosched import (
    Batch,
    CollectionScheduler,
    Outcome,
    Reason,
    RunContext,
    SchedulerClosed,
    SchedulerState,
    StoreError,
    collector,
)
from geckosched.core import Lead, Secrets, Statements, Store, Trouble, Watcher
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler, without_the_right_to_write
from tests.shell import finish, geckosched, start, wait_until
from tests.test_races import Call
from tests.test_scheduler import Gate, finished, runs_of, settle, until

MINUTE = 60


@collector("counts", every="1m")
def counts(run: RunContext) -> Any:
    """Stores one row a run, and how many it has stored."""
    run.state["n"] = run.state.get("n", 0) + 1
    yield Batch("counted", [{"n": run.state["n"]}], pk="n")


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the write lock in another process, whose id is given."""
    code = ("import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
            "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.read()")
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process.pid
        process.kill()


def lead_of(scheduler: CollectionScheduler) -> Lead:
    assert scheduler.lead is not None
    return scheduler.lead


def meet_trouble(scheduler: CollectionScheduler) -> str:
    """Have the writer try to commit, and wait until the ticker has heard that it can't; returns why."""
    lead = lead_of(scheduler)
    lead.writer.inbox.put(Statements(()))
    until(lambda: lead.ticker._store_trouble, "trouble")
    assert lead.writer.trouble is not None
    assert "\n" not in lead.writer.trouble
    return lead.writer.trouble


def until_written(scheduler: CollectionScheduler) -> None:
    """Wait until the store can be written again, and the ticker knows."""
    until(lambda: not lead_of(scheduler).ticker._store_trouble, "an end of the trouble")


def rows_of(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def counting(new_scheduler: NewScheduler, clock: FakeClock) -> CollectionScheduler:
    """A leader whose one job has run twice, the second time at a slot, and runs each minute."""
    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(counts)
    scheduler.start()
    runs_of(scheduler, "counts", 1)
    clock.advance(1.5 * MINUTE)
    runs_of(scheduler, "counts", 2)
    return scheduler


# -- what is said, and when --------------------------------------------------------------------------------------------


def test_trouble_is_said_once_it_lasts_then_each_minute_and_once_it_is_over() -> None:
    """A lock of a moment is nobody's news; one that lasts is said after a second, each minute, and at its end."""
    trouble = Trouble()
    assert trouble.met("locked", 100.0, "2 runs wait") is None
    assert trouble.met("locked", 100.9, "2 runs wait") is None
    said = trouble.met("locked", 101.1, "2 runs wait")
    assert said is not None
    assert all(word in said for word in ("1 s", "locked", "2 runs wait"))
    assert trouble.met("locked", 160.9, "3 runs wait") is None
    again = trouble.met("full", 161.2, "3 runs wait")
    assert again is not None
    assert all(word in again for word in ("61 s", "full", "3 runs wait"))
    assert trouble.text == "full"
    assert "65 s" in (trouble.over(165.0) or "")
    assert trouble.text is None


def test_trouble_of_a_moment_is_not_said() -> None:
    """What was over within a second has no end to speak of either; the next trouble begins anew."""
    trouble = Trouble()
    trouble.met("locked", 100.0, "")
    assert trouble.over(100.8) is None
    assert trouble.met("locked", 200.0, "") is None
    assert trouble.met("locked", 200.9, "") is None
    assert trouble.met("locked", 201.0, "") is not None


def test_a_store_that_stays_damaged_is_hardly_tried() -> None:
    """A lock is tried for again at once, a full disk each second, a damaged file each five."""
    trouble = Trouble()
    for _ in range(20):
        trouble.met("x", 0.0, "")
    pauses = [trouble.pause(code) for code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CORRUPT)]
    assert pauses == [0.05, 1.0, 5.0]


# -- a foreign lock ----------------------------------------------------------------------------------------------------


def test_while_the_store_is_locked_no_run_starts(
    counting: CollectionScheduler, clock: FakeClock, store_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """S1: slots that come meanwhile become one run that says how many it missed, once the lock is gone."""
    with locked(store_path) as pid:
        assert f"process {pid} " in meet_trouble(counting)
        for _ in range(4):
            clock.advance(MINUTE)
            settle(counting)
        assert not lead_of(counting).ticker._running
        until(lambda: "can't be written" in caplog.text, "a word in the log")
    [_, first, second] = runs_of(counting, "counts", 3)
    assert (second.outcome, second.missed, second.rows) == (Outcome.SUCCEEDED, 3, 1)
    assert second.scheduled_for is not None
    assert first.scheduled_for is not None
    assert (second.scheduled_for - first.scheduled_for).total_seconds() == 4 * MINUTE
    assert second.started_at >= second.scheduled_for
    until(lambda: "can be written again" in caplog.text, "the end in the log")
    assert caplog.text.count("can't be written") == 1


def test_a_trigger_waits_for_the_store(counting: CollectionScheduler, store_path: Path) -> None:
    """A trigger while the store is locked waits, whoever asked, and runs once when the lock is gone."""
    with locked(store_path):
        meet_trouble(counting)
        asked = [Call(counting.execute_collector_now, "counts") for _ in range(2)]
        until(lambda: lead_of(counting).ticker.jobs["counts"].waiting, "a trigger that waits")
        settle(counting)
        assert counting.execute_collector_now("counts", wait=False, timeout=0.1) is None
        with pytest.raises(SchedulerClosed, match=r"the store can't be written: .*database is locked"):
            counting.dry_run("counts")
    runs = {call.answer().id for call in asked}
    assert [run.id for run in finished(counting)[2:]] == list(runs)
    assert finished(counting)[2].reason is Reason.TRIGGERED


def test_a_yield_waits_for_the_store_and_not_at_its_runs_cost(
    new_scheduler: NewScheduler, clock: FakeClock, store_path: Path
) -> None:
    """S1: a yield returns when the lock is gone and its rows are there; the wait, however long, is not the run's."""
    begun, go_on = threading.Event(), threading.Event()

    @collector("late", every="1d", timeout="10s")
    def late(run: RunContext) -> Any:
        begun.set()
        go_on.wait(10)
        yield Batch("t", [{"id": run.id}])

    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(late)
    scheduler.start()
    assert begun.wait(10)
    with locked(store_path):
        go_on.set()
        until(lambda: lead_of(scheduler).writer.trouble, "trouble")
        clock.advance(3600)
        settle(scheduler)
    [run] = runs_of(scheduler, "late", 1)
    assert (run.outcome, run.rows, run.detail) == (Outcome.SUCCEEDED, 1, None)


def test_stop_is_heard_while_the_store_is_locked(
    new_scheduler: NewScheduler, clock: FakeClock, store_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """S1, X1: what could not be written is given up when `stop`'s time is over, in one line; its cursor had not moved,
    and the next start runs it again."""
    begun, go_on = threading.Event(), threading.Event()

    @collector("cut", every="1d")
    def cut(run: RunContext) -> Any:
        yield counts_one(run)
        begun.set()
        go_on.wait(10)
        yield counts_one(run)

    def counts_one(run: RunContext) -> Batch:
        run.state["n"] = run.state.get("n", 0) + 1
        return Batch("counted", [{"n": run.state["n"]}], pk="n")

    first = new_scheduler(clock=clock)
    first.register_collector(cut)
    first.start()
    assert begun.wait(10)
    with locked(store_path):
        go_on.set()
        until(lambda: lead_of(first).writer.trouble, "trouble")
        Call(first.stop, 0.2).answer(1.2 + 1)  # X1's second, and one for the machine
        assert first.state is SchedulerState.STOPPED
    [said] = [line for line in caplog.messages if "given up" in line or "refused" in line]
    assert said.startswith("given up as the scheduler stops: 1 run and ")
    assert f"({store_path}: database is locked" in said
    assert rows_of(store_path, "SELECT n FROM counted") == [(1,)]
    assert rows_of(store_path, "SELECT state FROM geckosched_jobs") == [('{"n": 1}',)]
    second = new_scheduler(clock=clock)
    second.register_collector(cut)
    second.start()
    [interrupted, again] = runs_of(second, "cut", 2)
    assert (interrupted.outcome, interrupted.rows) == (Outcome.INTERRUPTED, 1)
    assert (again.outcome, again.reason, again.rows) == (Outcome.SUCCEEDED, Reason.CATCHUP, 2)
    assert rows_of(store_path, "SELECT n FROM counted") == [(1,), (2,), (3,)]


def test_a_start_waits_for_a_lock_and_says_so(
    new_scheduler: NewScheduler, store_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A start, whose migrations need the write lock, waits for another program, and leads when that lets go."""
    scheduler = new_scheduler()
    with locked(store_path) as pid:
        starting = Call(scheduler.start)
        until(lambda: f"process {pid} " in caplog.text or "another program" in caplog.text, "a word in the log")
        assert scheduler.state.value == "starting"
    starting.answer()
    assert scheduler.state.value == "running"
    assert [line for line in caplog.messages if "at most 10 s" in line and str(store_path) in line]


def test_a_start_gives_a_lock_up_in_one_line(
    new_scheduler: NewScheduler, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that waited in vain says which file, what holds it, and leaves the scheduler as it was: it can start."""
    monkeypatch.setattr(Store, "PATIENCE", 0.1)
    Store(store_path).open_writer().close()
    scheduler = new_scheduler()
    with locked(store_path) as pid, pytest.raises(StoreError) as caught:
        scheduler.start()
    assert str(caught.value).startswith(f"{store_path}: database is locked (process {pid} ")
    scheduler.start()
    assert scheduler.state is SchedulerState.RUNNING


def test_a_standby_takes_over_once_the_lock_is_gone(
    new_scheduler: NewScheduler, store_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """X2: a take-over that meets a lock is tried again, and its trouble is said once, however often it is met."""
    monkeypatch.setattr(Store, "PATIENCE", 0.0)
    first, second = new_scheduler(), new_scheduler()
    first.start()
    second.start()
    tries = 0
    take_lead = second._take_lead

    def counted(*, momentary: bool) -> Lead:
        nonlocal tries
        tries += 1
        return take_lead(momentary=momentary)

    monkeypatch.setattr(second, "_take_lead", counted)
    with locked(store_path):
        first.stop(0.1)
        until(lambda: tries > 2, "three tries")
        assert second.state is SchedulerState.STANDBY
    until(lambda: second.state is SchedulerState.RUNNING, "a take-over")
    assert len([line for line in caplog.messages if "database is locked" in line and "given up" not in line]) <= 2


def test_the_watcher_says_a_trouble_once(caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong at every turn is said once, another thing at once, and the same again after a good turn."""
    errors = iter([StoreError("a.db: x"), StoreError("a.db: x"), StoreError("a.db: y"), None, StoreError("a.db: y")])

    def seek() -> None:
        if (error := next(errors)) is not None:
            raise error

    watcher = Watcher(lambda: None, seek, Secrets())
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            watcher.inbox.put("look")
            watcher.turn()
    assert caplog.messages == ["a.db: x", "a.db: y", "a.db: y"]


def test_the_commands_beside_a_lock(site: Path) -> None:
    """From another process `status` reads during a lock; `disable` says in one line who holds it."""
    leader = start("run")
    try:
        wait_until(lambda: Path("geckosched.db").exists() and "tick" in geckosched("runs").out)
        with locked(Path("geckosched.db")) as pid:
            asking, reading = start("disable", "tick"), start("status")
            assert finish(reading).code == 0
            refused = finish(asking)
        assert refused.code == 1
        holder = rf"database is locked \((process {pid} \(python.*\)|another program) holds it\)"
        assert re.search(rf"^geckosched: .*geckosched\.db: {holder}$", refused.err.splitlines()[-1])
    finally:
        leader.kill()
        leader.communicate()


# -- a disk that takes no more -----------------------------------------------------------------------------------------


def test_a_full_disk_starts_nothing_and_goes_on_by_itself(
    counting: CollectionScheduler, clock: FakeClock, store_path: Path
) -> None:
    """S2: a full disk is said, slots wait, and all goes on once there is room."""
    writer = lead_of(counting).writer
    [pages] = writer.connection.execute("PRAGMA page_count").fetchone()
    writer.connection.execute(f"PRAGMA max_page_count = {pages}")
    much = "INSERT INTO geckosched_requests (answered_at, answer) VALUES ('', hex(zeroblob(100000)))"
    writer.inbox.put(Statements([(much, ())]))
    until(lambda: lead_of(counting).ticker._store_trouble, "trouble")
    assert writer.trouble == f"{store_path}: database or disk is full (make room for it)"
    for _ in range(3):
        clock.advance(MINUTE)
        settle(counting)
    assert len(finished(counting)) == 2
    writer.connection.execute("PRAGMA max_page_count = 1000000")
    late = runs_of(counting, "counts", 3)[-1]
    assert (late.outcome, late.missed) == (Outcome.SUCCEEDED, 2)


def test_a_process_whose_files_may_not_grow(site: Path) -> None:
    """S2: a real refusal by the operating system, of a process: it waits, says so once, and goes on when it may; no row
    is lost and none is there twice."""
    leader = start("run")
    try:
        wait_until(lambda: Path("geckosched.db").exists() and "tick" in geckosched("runs").out)
        size = Path("geckosched.db-wal").stat().st_size
        resource.prlimit(leader.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        said = wait_until(lambda: next((line for line in iter(leader.stderr.readline, "") if "can't be" in line), ""))  # type: ignore[union-attr]
        assert str(Path("geckosched.db").resolve()) in said
        assert "disk I/O error" in said
        resource.prlimit(leader.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        before = rows_of(Path("geckosched.db"), "SELECT max(n) FROM ticks")[0][0]
        wait_until(lambda: rows_of(Path("geckosched.db"), "SELECT max(n) FROM ticks")[0][0] > before + 1)
        leader.terminate()
        ended = finish(leader)
        assert ended.code == 0
        assert "the store can be written again" in ended.err
    finally:
        leader.kill()
        leader.communicate()
    [(count, last)] = rows_of(Path("geckosched.db"), "SELECT count(*), max(n) FROM ticks")
    assert count == last


# -- a file that is gone, or another one -------------------------------------------------------------------------------


def test_a_file_that_is_moved_away_and_put_back(
    counting: CollectionScheduler, clock: FakeClock, store_path: Path, tmp_path: Path
) -> None:
    """S2: while the file is gone nothing starts and nothing is written into it; put back, all goes on by itself."""
    away = tmp_path / "away.db"
    store_path.rename(away)
    said = meet_trouble(counting)
    assert said.startswith(f"{store_path}: No such file or directory (the file was deleted or moved: put it back")
    before = away.read_bytes()
    clock.advance(2 * MINUTE)
    settle(counting)
    assert not lead_of(counting).ticker._running
    assert away.read_bytes() == before
    assert not store_path.exists()
    away.rename(store_path)
    late = runs_of(counting, "counts", 3)[-1]
    assert (late.outcome, late.missed) == (Outcome.SUCCEEDED, 1)
    assert rows_of(store_path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("how", ["unlink", "rename over"])
def test_a_file_that_is_replaced(
    counting: CollectionScheduler, new_scheduler: NewScheduler, clock: FakeClock, store_path: Path, tmp_path: Path,
    how: str
) -> None:  # fmt: skip
    """S2: a file put in the store's place, by whatever means, is said and left alone; what was committed is in the old
    file and never gets into the new one; a restart goes on with the new one."""
    other, old = tmp_path / "other.db", tmp_path / "old.db"
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("CREATE TABLE mine (a)")
        connection.executemany("INSERT INTO mine VALUES (?)", [(f"row {n}" * 50,) for n in range(500)])
    content = other.read_bytes()
    old.hardlink_to(store_path)
    if how == "unlink":
        store_path.unlink()
    other.rename(store_path)
    assert meet_trouble(counting).startswith(f"{store_path}: another file lies there than was opened (put that one")
    clock.advance(MINUTE)
    settle(counting)
    assert not lead_of(counting).ticker._running
    counting.stop(0.1)
    assert store_path.read_bytes() == content
    assert rows_of(old, "SELECT n FROM counted") == [(1,), (2,)]
    again = new_scheduler(clock=clock)
    again.register_collector(counts)
    again.start()
    assert runs_of(again, "counts", 1)[0].id == 1
    assert rows_of(store_path, "SELECT count(*) FROM mine") == [(500,)]
    assert rows_of(store_path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("name", ["store.db-wal", "store.db-shm"])
def test_a_file_of_sqlite_that_is_deleted_beside_the_store(
    counting: CollectionScheduler, new_scheduler: NewScheduler, clock: FakeClock, store_path: Path, name: str
) -> None:
    """S2: it is said, and nothing more is written where other processes don't see it; nothing that was committed is
    lost, and a restart goes on."""
    store_path.with_name(name).unlink()
    said = meet_trouble(counting)
    assert said == f"{store_path.with_name(name)}: deleted or replaced, it belongs to the store (restart geckosched)"
    clock.advance(MINUTE)
    settle(counting)
    assert not lead_of(counting).ticker._running
    counting.stop(0.1)
    assert rows_of(store_path, "SELECT n FROM counted") == [(1,), (2,)]
    again = new_scheduler(clock=clock)
    again.register_collector(counts)
    again.start()
    assert runs_of(again, "counts", 3)[-1].outcome is Outcome.SUCCEEDED
    assert rows_of(store_path, "PRAGMA integrity_check") == [("ok",)]


def test_a_file_that_is_emptied(counting: CollectionScheduler, clock: FakeClock, store_path: Path) -> None:
    """S2: `> store.db` by mistake: nothing is begun in the empty file, and the line says what to do."""
    os.truncate(store_path, 0)
    said = meet_trouble(counting)
    assert said == f"{store_path}: the file was emptied (stop geckosched and put a backup in its place)"
    clock.advance(MINUTE)
    settle(counting)
    assert not lead_of(counting).ticker._running
    counting.stop(0.1)


def test_a_replaced_file_is_noticed_with_nothing_to_do(new_scheduler: NewScheduler, store_path: Path) -> None:
    """A process without a job that is due notices it by its heartbeat, and says so."""
    scheduler = new_scheduler()
    scheduler.start()
    store_path.unlink()
    until(lambda: lead_of(scheduler).writer.trouble, "trouble")
    scheduler.stop(0.1)


# -- files that can't be used ------------------------------------------------------------------------------------------


def overwrite(path: Path, at: int, what: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(what)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "garbage in the header": (lambda path: overwrite(path, 0, b"garbage!" * 12), "file is not a database (another"),
    "a truncated file": (lambda path: path.write_bytes(path.read_bytes()[:6000]), "database disk image is malformed"),
    "its first table overwritten": (lambda path: overwrite(path, 4096, b"\xff" * 40_000), "malformed (damaged: "),
    "another program's text": (lambda path: path.write_text("Dear diary, " * 1000), "file is not a database (another"),
    "a folder": (a_folder, "unable to open database file (it is a folder)"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_said_in_one_line(
    new_scheduler: NewScheduler, store_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    """S2: file, what is wrong and what to do, at the start and by `obstacle`; nothing is left running."""
    first = new_scheduler()
    first.register_collector(counts)
    first.start()
    runs_of(first, "counts", 1)
    first.stop()
    damage(store_path)
    scheduler = new_scheduler()
    scheduler.register_collector(counts)
    with pytest.raises(StoreError) as caught:
        scheduler.start()
    assert str(caught.value).startswith(f"{store_path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert scheduler.state is SchedulerState.STOPPED


def test_a_table_that_is_damaged_while_running_starts_nothing_more(
    new_scheduler: NewScheduler, clock: FakeClock, store_path: Path
) -> None:
    """S2: damage that only shows when a page is read is said when it is met, and the process goes on to say it."""
    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(counts)
    scheduler.start()
    runs_of(scheduler, "counts", 1)
    [(page,)] = rows_of(store_path, "SELECT rootpage FROM sqlite_master WHERE name = 'counted'")
    scheduler.stop()
    overwrite(store_path, (page - 1) * 4096, b"\xff" * 4096)
    again = new_scheduler(clock=clock)
    again.register_collector(counts)
    clock.advance(2 * MINUTE)
    again.start()
    until(lambda: lead_of(again).ticker._store_trouble, "trouble")
    words = "malformed (damaged: stop geckosched and put a backup in its place"
    assert words in (lead_of(again).writer.trouble or "")
    clock.advance(MINUTE)
    settle(again)
    assert len(lead_of(again).ticker._running) == 1
    again.stop(0.1)
    assert rows_of(store_path, "SELECT state FROM geckosched_jobs") == [('{"n": 1}',)]


@pytest.mark.parametrize("name", ["store.db", "store.db-wal"])
def test_what_does_no_harm(new_scheduler: NewScheduler, store_path: Path, name: str) -> None:
    """An empty file becomes a store; a WAL that holds garbage holds no commit, and is begun anew."""
    if name.endswith("wal"):
        Store(store_path).open_writer().close()
    store_path.with_name(name).write_bytes(b"garbage" * 9000 if name.endswith("wal") else b"")
    scheduler = new_scheduler()
    scheduler.register_collector(counts)
    scheduler.start()
    assert runs_of(scheduler, "counts", 1)[0].outcome is Outcome.SUCCEEDED


# -- obstacle ----------------------------------------------------------------------------------------------------------


def test_obstacle_of_a_store_that_can_be_written(counting: CollectionScheduler, store_path: Path) -> None:
    """Nothing is said of a good store, nobody is disturbed by the question, and nothing of it changes."""
    tables = "geckosched_runs", "geckosched_jobs", "counted"
    dump = "PRAGMA user_version", *(f"SELECT * FROM {table}" for table in tables)
    before = [rows_of(store_path, sql) for sql in dump]
    assert Store(store_path).obstacle() is None
    assert [rows_of(store_path, sql) for sql in dump] == before
    assert lead_of(counting).writer.trouble is None


def test_obstacle_says_why(store_path: Path) -> None:
    """Gone, locked, of a newer version, no database: each in one line that names the file; none is made or changed."""
    store = Store(store_path)
    assert store.obstacle() == f"{store_path}: unable to open database file (there is no such file)"
    assert not store_path.exists()
    store.open_writer().close()
    with locked(store_path) as pid:
        assert f"{store_path}: database is locked (process {pid} (" in (store.obstacle() or "")
    with closing(sqlite3.connect(store_path)) as connection, connection:
        connection.execute("INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
                           "VALUES ('geckosched', 'm999_later', '2036-01-01')")  # fmt: skip
    assert store.obstacle() == f"{store_path}: written by a newer geckosched (m999_later), upgrade this one"
    store_path.write_bytes(b"Dear diary, " * 1000)
    assert "file is not a database" in (store.obstacle() or "")


def test_obstacle_of_a_file_that_is_read_only(tmp_path: Path) -> None:
    """A file that this user may not write is said, and the folder where that is what is read-only."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "store.db"
        Store(path).open_writer().close()
        path.chmod(0o444)
        Path(name).chmod(0o777)
        with without_the_right_to_write(Path(name)):
            assert "may not write in its folder" in (Store(path).obstacle() or "")

