"""The writer alone, its turns called by the test: group commit, savepoints, the fence, and files that make it wait."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from geckosched import (
    Batch,
    Clock,
    CollectionScheduler,
    CollectorRegistry,
    Inbox,
    Outcome,
    RunContext,
    RunStopped,
    SchedulerConfig,
    StoreError,
    YieldRefused,
    collector,
)
from geckosched.core import CommitRows, Ending, Execution, Lead, Message, Statements, Store, Writer, row_groups
from tests.conftest import locked

Seen = Callable[..., list[Any]]


@pytest.fixture
def writer(store_path: Path) -> Iterator[Writer]:
    writer = Writer(Store(store_path), Clock())
    with closing(writer.connection):
        yield writer


@pytest.fixture
def seen(store_path: Path) -> Iterator[Seen]:
    """Read what is committed, as another program sees it: `seen("SELECT id FROM t")`."""
    with closing(sqlite3.connect(store_path, isolation_level=None)) as connection:
        yield lambda sql="SELECT id FROM t ORDER BY rowid": [row[0] for row in connection.execute(sql)]


class Rows(Message):
    """Appends rows to a table; tells the `story` what became of it, and what was committed by then."""

    def __init__(self, story: list[Any], *ids: Any, pk: str | None = None, path: Path | None = None) -> None:
        self.groups = row_groups(Batch("t", [{"id": number} for number in ids], pk=pk))
        self.ids = ids
        self.story = story
        self.path = path

    def write(self, writer: Writer) -> None:
        for group in self.groups:
            writer.write_rows(group)

    def done(self) -> None:
        if self.path is not None:
            with closing(sqlite3.connect(self.path)) as connection:
                self.story.append(connection.execute("SELECT count(*) FROM t").fetchone()[0])
        else:
            self.story.append(("done", *self.ids))

    def refused(self, error: BaseException) -> None:
        self.story.append(("refused", *self.ids, type(error).__name__))


class Faulty(Rows):
    """Writes its rows, and then something goes wrong."""

    def __init__(self, story: list[Any], *ids: Any, error: BaseException, **kwargs: Any) -> None:
        super().__init__(story, *ids, **kwargs)
        self.error = error

    def write(self, writer: Writer) -> None:
        super().write(writer)
        raise self.error


class Busy(Rows):
    """Meets a lock in the midst of its group, the first time."""

    met = False

    def write(self, writer: Writer) -> None:
        super().write(writer)
        if not self.met:
            self.met = True
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error


def put(writer: Writer, *messages: Message) -> None:
    for message in messages:
        writer.inbox.put(message)


# -- group commit ------------------------------------------------------------------------------------------------------


def test_all_that_waits_is_one_transaction(writer: Writer, seen: Seen) -> None:
    """A hundred messages are committed once, in their order; without savepoints, where nothing is refused."""
    story: list[Any] = []
    traced: list[str] = []
    put(writer, *(Rows(story, n) for n in range(100)))
    writer.connection.set_trace_callback(traced.append)
    assert writer.turn()
    count = [sql.split()[0] for sql in traced].count
    assert [count("BEGIN"), count("COMMIT"), count("ROLLBACK")] == [1, 1, 0]
    assert [count("SAVEPOINT"), count("RELEASE")] == [0, 0]
    assert story == [("done", n) for n in range(100)]
    assert seen() == list(range(100))


def test_a_group_with_refused_messages_is_written_at_most_twice(writer: Writer, seen: Seen) -> None:
    """However many messages are refused, the others are written once more, each in a savepoint of its own."""
    story: list[Any] = []
    traced: list[str] = []
    put(writer, *(Faulty(story, n, error=ValueError()) if n % 2 else Rows(story, n) for n in range(100)))
    writer.connection.set_trace_callback(traced.append)
    assert writer.turn()
    count = [sql.split()[0] for sql in traced].count
    assert [count("BEGIN"), count("COMMIT")] == [2, 1]
    assert story == [("refused", n, "ValueError") if n % 2 else ("done", n) for n in range(100)]
    assert seen() == list(range(0, 100, 2))


def test_done_is_told_after_the_commit(writer: Writer, store_path: Path) -> None:
    """Whoever is told "done" finds the rows of the whole group in the file."""
    story: list[Any] = []
    put(writer, Rows(story, 1, path=store_path), Rows(story, 2, 3, path=store_path))
    writer.turn()
    assert story == [3, 3]


def test_statements_answer_when_they_are_committed(writer: Writer, seen: Seen) -> None:
    """A list of statements is one message: all of it or nothing, with an answer either way."""
    create, insert = ("CREATE TABLE t (id UNIQUE)", ()), ("INSERT INTO t VALUES (?)", (1,))
    replies = [Inbox() for _ in range(3)]
    put(writer, Statements([create, insert], replies[0], "made"))
    put(writer, Statements([("INSERT INTO t VALUES (2)", ()), insert], replies[1]))
    put(writer, Statements([("INSERT INTO t VALUES (3)", ())], replies[2], "more"))
    writer.turn()
    first, second, third = (reply.drain() for reply in replies)
    assert (first, third) == (["made"], ["more"])
    assert isinstance(second[0], StoreError)
    assert "UNIQUE" in str(second[0])
    assert seen() == [1, 3]


def test_a_backlog_of_any_size(writer: Writer, seen: Seen) -> None:
    """However many messages wait, none is lost, and their order is kept."""
    story: list[Any] = []
    put(writer, *(Rows(story, n) for n in range(25_000)))
    writer.finish()
    while writer.turn():
        pass
    assert len(story) == 25_000
    assert seen() == list(range(25_000))


def test_finish_writes_what_was_put_before(writer: Writer, seen: Seen) -> None:
    """The loop ends when all that was put before `finish` is written."""
    story: list[Any] = []
    put(writer, Rows(story, 1))
    writer.finish()
    assert writer.turn() is False
    assert (story, seen()) == ([("done", 1)], [1])


# -- a message that is refused -----------------------------------------------------------------------------------------

ERRORS = [sqlite3.IntegrityError("no"), sqlite3.OperationalError("no such column"), YieldRefused("t.id"), ValueError(),
          RunStopped("closed"), RecursionError()]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_refused_message_fails_alone(writer: Writer, seen: Seen, error: BaseException) -> None:
    """Nothing of a refused message is written, everything of the others is, and each is told once."""
    story: list[Any] = []
    put(writer, Rows(story, 1), Faulty(story, 2, 3, error=error), Rows(story, 4))
    writer.turn()
    assert story == [("done", 1), ("refused", 2, 3, type(error).__name__), ("done", 4)]
    assert seen() == [1, 4]
    assert writer.trouble is None


def test_a_group_of_nothing_but_refusals(writer: Writer, seen: Seen) -> None:
    """Every message may be refused; the next group is fine."""
    story: list[Any] = []
    put(writer, *(Faulty(story, n, error=ValueError("x")) for n in range(3)))
    writer.turn()
    put(writer, Rows(story, 3))
    writer.turn()
    assert [word for word, *_ in story] == ["refused"] * 3 + ["done"]
    assert seen() == [3]


def test_a_table_made_by_a_refused_message_is_made_again(writer: Writer, seen: Seen) -> None:
    """What a message creates goes with it, and the next message of the same group creates it for itself."""
    story: list[Any] = []
    put(writer, Faulty(story, 1, error=ValueError("x"), pk="id"), Rows(story, 2, pk="id"), Rows(story, 2, 3, pk="id"))
    writer.turn()
    assert [word for word, *_ in story] == ["refused", "done", "done"]
    assert seen() == [2, 3]


TRIGGERS = ("ROLLBACK", "ABORT", "FAIL")


@pytest.mark.parametrize("how", TRIGGERS)
def test_a_users_trigger_fails_its_own_message_only(writer: Writer, seen: Seen, how: str) -> None:
    """A trigger that rolls everything back costs its own message; the rest of the group is committed exactly once."""
    story: list[Any] = []
    writer.connection.execute("CREATE TABLE t (id)")
    writer.connection.execute(
        f"CREATE TRIGGER never BEFORE INSERT ON t WHEN new.id = 13 BEGIN SELECT RAISE({how}, 'unlucky'); END")
    put(writer, Rows(story, 1), Rows(story, 2, 13, 3), Rows(story, 4), Rows(story, 13), Rows(story, 5))
    writer.turn()
    assert story == [("done", 1), ("refused", 2, 13, 3, "YieldRefused"), ("done", 4), ("refused", 13, "YieldRefused"),
                     ("done", 5)]  # fmt: skip
    assert seen() == [1, 4, 5]


# -- a file that can't be written now ----------------------------------------------------------------------------------


def test_a_foreign_lock_delays_and_loses_nothing(writer: Writer, store_path: Path, seen: Seen) -> None:
    """S1: while another program holds the write lock nothing is done and nothing refused; then all is written once."""
    story: list[Any] = []
    put(writer, Rows(story, 1), Faulty(story, 2, error=ValueError("x")))
    with locked(store_path):
        assert writer.turn()
        assert (story, seen("SELECT 1 FROM sqlite_master WHERE name = 't'")) == ([], [])
        assert writer.trouble is not None
        put(writer, Rows(story, 3))
        writer.finish()
        assert writer.turn(), "the loop may not end with something in hand"
        assert story == []
    assert not writer.turn()
    assert story == [("done", 1), ("refused", 2, "ValueError"), ("done", 3)]
    assert seen() == [1, 3]
    assert not writer.trouble


def test_a_lock_that_comes_in_the_middle(writer: Writer, seen: Seen) -> None:
    """An error of the file in the midst of a group rolls the whole group back, and it is tried again from its start."""

    story: list[Any] = []
    put(writer, Rows(story, 1, pk="id"), Busy(story, 2, pk="id"), Rows(story, 3, pk="id"))
    writer.turn()
    assert (story, seen("SELECT 1 FROM sqlite_master WHERE name = 't'")) == ([], [])
    put(writer, Rows(story, 4, pk="id"))
    writer.turn()
    assert story == [("done", n) for n in (1, 2, 3, 4)]
    assert seen() == [1, 2, 3, 4]


def test_a_full_disk_waits(writer: Writer, seen: Seen) -> None:
    """S2: with no room nothing is lost; when there is some again all is written."""
    story: list[Any] = []
    pages = writer.connection.execute("PRAGMA page_count").fetchone()[0]
    writer.connection.execute(f"PRAGMA max_page_count = {pages}")
    put(writer, Rows(story, *range(2000)))
    for _ in range(3):
        assert writer.turn()
        assert story == []
        assert "full" in (writer.trouble or "")
    writer.connection.execute("PRAGMA max_page_count = 1000000")
    writer.turn()
    assert seen() == list(range(2000))
    assert writer.trouble is None


def test_give_up_refuses_what_is_left(writer: Writer, store_path: Path, seen: Seen) -> None:
    """S1: what could not be written when the scheduler stops is refused, each message once, and the loop ends."""
    story: list[Any] = []
    put(writer, Rows(story, 1), Rows(story, 2))
    with locked(store_path):
        writer.turn()
        writer.finish()
        writer.give_up()
        assert not writer.turn()
    assert story == [("refused", 1, "_GivenUp"), ("refused", 2, "_GivenUp")]
    assert seen("SELECT 1 FROM sqlite_master WHERE name = 't'") == []


# -- the fence ---------------------------------------------------------------------------------------------------------


@collector("job")
def job(_: RunContext) -> None: ...


class Fence:
    """A lead whose loops nobody runs: the writer's turns are the test's, and what a worker does is put by hand."""

    def __init__(self, path: Path) -> None:
        scheduler = CollectionScheduler(SchedulerConfig(database=path))
        scheduler.register_collector(job, enabled=False)
        self.lead = Lead(Store(path), scheduler.config, Clock(), scheduler._registrations.values(), CollectorRegistry(),
                         momentary=True, keep=True, only=None)  # fmt: skip

    def start(self) -> Execution:
        """Put a run's Start."""
        self.lead.ticker.trigger("job", Inbox())
        return next(iter(self.lead.ticker._running))

    def rows(self, execution: Execution, number: int) -> Inbox:
        """Put what a yield of one row and a state puts; returns where the answer comes."""
        reply, groups = Inbox(), row_groups(Batch("t", [{"id": number}], pk="id"))
        self.lead.writer.inbox.put(CommitRows(execution, groups, f'{{"last": {number}}}', [], 0, reply))
        return reply

    def close(self, execution: Execution) -> None:
        """Put the run's Close."""
        self.lead.ticker.ended(execution, Ending(Outcome.SUCCEEDED), self.lead.clock.now())

    def turn(self) -> None:
        self.lead.writer.turn()


@pytest.fixture
def fence(store_path: Path) -> Iterator[Fence]:
    fence = Fence(store_path)
    yield fence
    fence.lead.writer.connection.close()


STATE = "SELECT state FROM geckosched_jobs"


def test_a_runs_row_is_committed_before_it_is_handed_out(fence: Fence, seen: Seen) -> None:
    """R1: a worker gets a run when its row is in the file, and not before."""
    execution = fence.start()
    assert fence.lead.work.empty()
    fence.turn()
    assert fence.lead.work.get_nowait() is execution
    assert seen("SELECT id FROM geckosched_runs WHERE outcome IS NULL") == [execution.id]


def test_rows_and_state_of_a_yield_are_committed_together(fence: Fence, seen: Seen) -> None:
    """R3: rows, state and counts of one yield are in the file when its answer comes."""
    execution = fence.start()
    reply = fence.rows(execution, 1)
    assert not reply
    fence.turn()
    assert reply.drain() == [True]
    assert (seen(), seen(STATE), seen("SELECT rows FROM geckosched_runs")) == ([1], ['{"last": 1}'], [1])


@pytest.mark.parametrize("together", [False, True], ids=["a later group", "one group"])
def test_after_close_everything_of_a_run_is_refused(fence: Fence, seen: Seen, together: bool) -> None:
    """The fence: what an abandoned thread yields after its run was closed is not stored, within one group either."""

    def turn() -> None:
        if not together:
            fence.turn()

    execution = fence.start()
    fence.turn()
    before = fence.rows(execution, 1)
    turn()
    fence.close(execution)
    turn()
    after = [fence.rows(execution, n) for n in (2, 3)]
    fence.turn()
    assert before.drain() == [True]
    assert [[type(answer) for answer in reply.drain()] for reply in after] == [[RunStopped]] * 2
    assert (seen(), seen(STATE), seen("SELECT outcome FROM geckosched_runs")) == ([1], ['{"last": 1}'], ["succeeded"])


def test_the_fence_holds_when_the_group_is_written_twice(fence: Fence, seen: Seen) -> None:
    """A group that is rolled back and tried again lets through what it would have the first time, and no more."""
    execution = fence.start()
    fence.turn()
    before = fence.rows(execution, 1)
    fence.close(execution)
    after = fence.rows(execution, 2)
    put(fence.lead.writer, Busy([], 3, pk="id"))
    fence.turn()
    assert (seen("SELECT outcome FROM geckosched_runs"), before.drain(), after.drain()) == ([None], [], [])
    fence.turn()
    assert before.drain() == [True]
    assert [type(answer) for answer in after.drain()] == [RunStopped]
    assert (seen(), seen("SELECT outcome FROM geckosched_runs")) == ([1, 3], ["succeeded"])


def test_a_trigger_that_rolls_back_leaves_the_fence_in_place(fence: Fence, seen: Seen) -> None:
    """Rows and Close around a message that took the transaction with it are written once, nothing after the Close."""
    fence.lead.writer.connection.execute("CREATE TABLE t (id PRIMARY KEY)")
    fence.lead.writer.connection.execute(
        "CREATE TRIGGER never BEFORE INSERT ON t WHEN new.id = 13 BEGIN SELECT RAISE(ROLLBACK, 'unlucky'); END")
    execution = fence.start()
    fence.turn()
    good, bad = fence.rows(execution, 1), fence.rows(execution, 13)
    fence.close(execution)
    late = fence.rows(execution, 2)
    fence.turn()
    assert good.drain() == [True]
    assert [type(answer) for answer in (*bad.drain(), *late.drain())] == [YieldRefused, RunStopped]
    assert (seen(), seen("SELECT rows FROM geckosched_runs"), seen("SELECT outcome FROM geckosched_runs")) == (
        [1], [1], ["succeeded"])  # fmt: skip


def test_other_runs_pass_the_fence(fence: Fence, seen: Seen) -> None:
    """A closed run closes nothing for the job's next one."""
    first = fence.start()
    fence.turn()
    fence.close(first)
    second = fence.start()
    late, good = fence.rows(first, 1), fence.rows(second, 2)
    fence.turn()
    assert [type(answer) for answer in late.drain()] == [RunStopped]
    assert (good.drain(), seen()) == ([True], [2])


def test_a_run_that_was_closed_before_its_row_was_written(fence: Fence, seen: Seen) -> None:
    """A run that was given up before its Start could be committed leaves no row that nobody would ever close."""
    fence.close(fence.start())
    fence.turn()
    assert seen("SELECT id FROM geckosched_runs") == []


def test_given_up_rows_did_not_move_the_cursor(fence: Fence, store_path: Path, seen: Seen) -> None:
    """S1: what was given up is told to the run that waits, and its cursor had not moved."""
    execution = fence.start()
    fence.rows(execution, 1)
    fence.turn()
    with locked(store_path):
        lost = fence.rows(execution, 2)
        fence.lead.writer.give_up()
        fence.turn()
    assert [type(answer) for answer in lost.drain()] == [RunStopped]
    assert (seen(), seen(STATE)) == ([1], ['{"last": 1}'])
