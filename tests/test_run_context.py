"""What a collector may do with its run: state, yields, targets, signals, losses, and every way to go wrong."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from geckosched import (
    Batch,
    Budget,
    Collector,
    Outcome,
    RateLimited,
    Reason,
    Run,
    RunContext,
    RunStopped,
    SchedulerState,
    SkipRun,
    collector,
)
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.workbench import PATIENCE, Collect, Workbench


def row(key: Any = 1, table: str = "t") -> Batch:
    return Batch(table, [{"id": key}], pk="id")


BAD = Batch("bad", [{"id": None}], pk="id")  # is refused


def ids(bench: Workbench, table: str = "t") -> list[Any]:
    return [found["id"] for found in bench.table(table)] if table in bench.tables() else []


# -- who it is ---------------------------------------------------------------------------------------------------------


def test_a_run_knows_who_it_is(new_scheduler: NewScheduler, store_path: Path) -> None:
    """id, job_id, reason, times, options, settings and log are there for the collector."""
    start = datetime(2026, 11, 23, 12, tzinfo=UTC)
    clock = FakeClock(start)
    bench = Workbench(new_scheduler(clock=clock, max_workers=1), store_path, options={"city": "Oslo"})
    seen: list[Any] = []

    def collect(run: RunContext) -> None:
        seen[:] = [run.id, run.job_id, run.reason, run.scheduled_for, run.started_at, run.options, dict(run.settings),
                   run.log.name, run.stopping, run.now()]  # fmt: skip
        clock.advance(5)
        seen.append(run.now())

    found = bench.run(collect)
    later = start + timedelta(seconds=5)
    assert seen == [found.id, "bench", Reason.TRIGGERED, None, start, {"city": "Oslo"}, {}, "geckosched.job.bench",
                    False, start, later]  # fmt: skip
    assert (found.started_at, found.finished_at) == (start, later)


# -- state -------------------------------------------------------------------------------------------------------------


def test_state_is_saved_with_each_yield(bench: Workbench) -> None:
    """At each yield the state of that moment is committed together with the batch."""
    seen = []

    def collect(run: RunContext) -> Any:
        for n in (1, 2):
            run.state["cursor"] = n
            yield row(n)
            seen.append(run.query("SELECT state, (SELECT max(id) FROM t) AS id FROM geckosched_jobs"))

    assert bench.run(collect).outcome is Outcome.SUCCEEDED
    assert seen == [[{"state": '{"cursor": 1}', "id": 1}], [{"state": '{"cursor": 2}', "id": 2}]]


def test_a_bare_yield_saves_the_state(bench: Workbench) -> None:
    """`yield` alone is a place to save the cursor."""

    def collect(run: RunContext) -> Any:
        run.state["cursor"] = 5
        yield
        raise ValueError("later")

    bench.run(collect)
    assert bench.state() == '{"cursor": 5}'


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_an_exception_leaves_the_last_saved_state(bench: Workbench, error: type[BaseException]) -> None:
    """An exception of any kind loses what was not yielded, and nothing else; the next run begins there."""

    def collect(run: RunContext) -> Any:
        run.state["cursor"] = "saved"
        yield row(1)
        run.state["cursor"] = "not saved"
        raise error()

    bench.run(collect)
    assert bench.state() == '{"cursor": "saved"}'
    assert begins_with(bench) == {"cursor": "saved"}


def begins_with(bench: Workbench) -> dict[str, Any]:
    """Return the state that the next run gets."""
    seen: list[dict[str, Any]] = []
    bench.run(lambda run: seen.append(dict(run.state)))
    return seen[0]


def test_the_normal_end_saves_the_state(bench: Workbench) -> None:
    """What was changed after the last yield is saved when the collector returns."""

    def collect(run: RunContext) -> Any:
        yield row(1)
        run.state["done"] = True

    bench.run(collect)
    assert bench.state() == '{"done": true}'


def test_state_survives_a_restart(new_scheduler: NewScheduler, store_path: Path) -> None:
    """The next process goes on where this one was."""
    state = {"cursor": "é", "list": [1, 2.5, None, True, {"deep": "x"}], "big": 2**70}
    first = Workbench(new_scheduler(), store_path)
    first.run(lambda run: run.state.update(state))
    first.scheduler.stop()
    assert begins_with(Workbench(new_scheduler(), store_path)) == state


def test_a_target_block_puts_the_state_back(bench: Workbench) -> None:
    """An exception that leaves a target block puts the state back to what was last saved, and the run goes on."""
    seen: list[Any] = []

    def collect(run: RunContext) -> Any:
        for city in ("a", "b", "c"):
            with run.target(city):
                run.state[city] = 1
                if city == "b":
                    raise ValueError("no answer")
                yield row(city)
            seen.append(dict(run.state))

    assert bench.run(collect).outcome is Outcome.PARTIAL
    assert seen == [{"a": 1}, {"a": 1}, {"a": 1, "c": 1}]
    assert bench.state() == '{"a": 1, "c": 1}'
    assert ids(bench) == ["a", "c"]


def test_what_a_target_saved_stays_saved(bench: Workbench) -> None:
    """A yield within a target block is committed whatever happens to the target afterwards."""

    def collect(run: RunContext) -> Any:
        with run.target("a"):
            run.state["page"] = 1
            yield row(1)
            run.state["page"] = 2
            raise ValueError("page 2")

    bench.run(collect)
    assert (bench.state(), ids(bench)) == ('{"page": 1}', [1])


def test_a_name_for_the_state_goes_on_to_mean_it(bench: Workbench) -> None:
    """`state = run.state` at the top of a collector still is the state after a target failed."""

    def collect(run: RunContext) -> Any:
        state = run.state
        with run.target("a"):
            state["a"] = 1
            raise ValueError("a")
        with run.target("b"):
            state["b"] = 1
            yield row("b")

    bench.run(collect)
    assert bench.state() == '{"b": 1}'


def test_rows_are_drawn_first_then_the_state(bench: Workbench) -> None:
    """A cursor that the rows' own iterable moves is saved with these rows."""

    def rows(run: RunContext) -> Iterator[dict[str, int]]:
        for n in range(5):
            run.state["last"] = n
            yield {"id": n}

    def collect(run: RunContext) -> Any:
        yield Batch("t", rows(run), pk="id")
        raise ValueError("afterwards")

    bench.run(collect)
    assert (bench.state(), ids(bench)) == ('{"last": 4}', [0, 1, 2, 3, 4])


def test_a_returned_value_is_one_transaction_with_the_state(bench: Workbench) -> None:
    """Returned batches are stored all together with the state, or not at all."""

    def collect(run: RunContext, *batches: Batch) -> list[Batch]:
        run.state["cursor"] = len(batches)
        return list(batches)

    failed = bench.run(lambda run: collect(run, row(1), row(2, "other"), BAD))
    assert (failed.outcome, failed.rows, bench.tables(), bench.state()) == (Outcome.FAILED, 0, set(), "{}")
    run = bench.run(lambda run: collect(run, row(1), row(2, "other")))
    assert (run.outcome, run.rows, bench.state()) == (Outcome.SUCCEEDED, 2, '{"cursor": 2}')


def loop() -> dict[str, Any]:
    state: dict[str, Any] = {}
    state["loop"] = state
    return state


UNFAITHFUL = {
    "a key that is no text": ({"a": {1: "x"}}, "run.state['a'][1]"),
    "keys that would fall together": ({1: "a", "1": "b"}, "run.state[1]"),
    "a tuple": ({"a": {"b": (1, 2)}}, "run.state['a']['b']"),
    "a tuple in a list": ({"a": [0, (1,)]}, "run.state['a'][1]"),
    "a set": ({"ids": {1, 2}}, "run.state['ids']"),
    "NaN": ({"ok": 1, "x": float("nan")}, "run.state['x']"),
    "infinity": ({"x": float("inf")}, "run.state['x']"),
    "bytes": ({"x": b"x"}, "run.state['x']"),
    "a datetime": ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, "run.state['at']"),
    "an object": ({"x": object()}, "run.state['x']"),
    "a lone surrogate": ({"x": {"y": "\ud800"}}, "run.state['x']['y']"),
    "a lone surrogate in a key": ({"x": {"\ud800": 1}}, r"run.state['x']['\ud800']"),
    "a state in itself": (loop(), "run.state['loop']"),
    "a list": ([1], "run.state"),
    "nothing": (None, "run.state"),
}


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"deep": inner}], ids=["lists", "dicts"])
def test_a_state_deeper_than_json_goes_is_refused_or_kept(bench: Workbench, wrap: Callable[[Any], Any]) -> None:
    """How deep JSON goes is the interpreter's affair; the state is whole or refused, which no target block holds."""
    levels = 100_000
    deep: Any = wrap(0)
    for _ in range(levels):
        deep = wrap(deep)

    def collect(run: RunContext) -> Any:
        with run.target("guarded"):
            run.state["deep"] = deep
            yield row("with it")

    run = bench.run(collect)
    assert (run.outcome, run.error_type) in ((Outcome.FAILED, "YieldRefused"), (Outcome.SUCCEEDED, None)), run.error
    assert (bench.state() == "{}") == (run.outcome is Outcome.FAILED)
    assert run.outcome is Outcome.FAILED or len(bench.state()) > 2 * levels


@pytest.mark.parametrize(("state", "path"), UNFAITHFUL.values(), ids=UNFAITHFUL)
def test_state_that_json_would_change_is_refused(bench: Workbench, state: Any, path: str) -> None:
    """It fails the run with the key named, past every target block, and nothing of that yield is stored."""

    def collect(run: RunContext) -> Any:
        run.state["before"] = 1
        yield row("before")
        with run.target("guarded"):
            run.state = state
            yield row("with it")

    run = bench.run(collect)
    assert (run.outcome, run.error_type) == (Outcome.FAILED, "YieldRefused"), run.error
    assert path in (run.error or "")
    assert (bench.state(), ids(bench)) == ('{"before": 1}', ["before"])
    assert bench.run(lambda _: row("next")).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("text", ["{cursor: 5}", "", "[1]", "null"])
def test_a_state_that_somebody_broke_fails_the_run_in_words(bench: Workbench, text: str) -> None:
    """Our tables are public: a state edited into something else fails its run, and harms nothing else."""
    bench.store(row(1))
    bench.scheduler.stop()
    bench.sql("UPDATE geckosched_jobs SET state = ?", [text])
    bench.scheduler.start()
    run = bench.run(lambda _: row(2))
    assert run.outcome is Outcome.FAILED
    assert "state" in (run.error or "")
    assert bench.scheduler.state is SchedulerState.RUNNING


# -- yield -------------------------------------------------------------------------------------------------------------


def test_a_yield_returns_when_it_is_committed(bench: Workbench) -> None:
    """Right after the yield everybody sees the rows: the run itself, and other programs."""
    seen = []

    def collect(run: RunContext) -> Any:
        yield row(1)
        seen.append([run.query("SELECT id FROM t"), bench.sql("SELECT id FROM t")])
        seen.append([run.query("SELECT rows FROM geckosched_runs"), bench.sql("SELECT rows FROM geckosched_runs")])

    bench.run(collect)
    assert seen == [[[{"id": 1}], [1]], [[{"rows": 1}], [1]]]


def test_a_list_is_yielded_at_once(bench: Workbench) -> None:
    """A list of batches is one yield; an empty one saves the state."""

    def collect(run: RunContext) -> Any:
        yield [row(1), row(2), row(1, "other")]
        run.state["x"] = 1
        yield []
        raise ValueError

    assert bench.run(collect).rows == 3
    assert bench.state() == '{"x": 1}'


RETURNS: dict[str, tuple[Collect, list[Any]]] = {
    "nothing": (lambda _: None, []),
    "a batch": (lambda _: row(1), [1]),
    "a list": (lambda _: [row(1), row(2)], [1, 2]),
    "an empty list": (lambda _: [], []),
}


@pytest.mark.parametrize(("collect", "stored"), RETURNS.values(), ids=RETURNS)
def test_collect_may_return(bench: Workbench, collect: Collect, stored: list[Any]) -> None:
    """`collect` may return a batch, a list of batches, or None."""
    run = bench.run(collect)
    assert (run.outcome, run.rows, ids(bench)) == (Outcome.SUCCEEDED, len(stored), stored)


def test_a_generator_may_return_a_batch(bench: Workbench) -> None:
    """What a generator returns in the end is stored as if it were yielded."""

    def collect(_: RunContext) -> Any:
        yield row(1)
        return row(2)

    assert (bench.run(collect).rows, ids(bench)) == (2, [1, 2])


@pytest.mark.parametrize("thing", [{"id": 1}, "rows", 5, [1], iter(()), [{"id": 1}], [row(1), {"id": 2}]])
def test_anything_else_is_refused(bench: Workbench, thing: Any) -> None:
    """Yielding or returning what is no batch fails the run, and says what is allowed."""

    def collect(_: RunContext) -> Any:
        yield thing

    for run in (bench.run(collect), bench.run(lambda _: thing)):
        assert (run.outcome, run.error_type, run.rows) == (Outcome.FAILED, "YieldRefused", 0)
        assert "Batch" in (run.error or "")


def test_a_refusal_is_raised_at_the_yield(bench: Workbench) -> None:
    """The collector may clean up at the yield that was refused, and what it says instead changes nothing."""
    seen = []

    def collect(_: RunContext) -> Any:
        yield row(1)
        try:
            yield BAD
        except BaseException as error:
            seen.append(type(error).__name__)
            raise ValueError("something else") from None

    run = bench.run(collect)
    assert seen == ["YieldRefused"]
    assert (run.outcome, run.error_type, ids(bench)) == (Outcome.FAILED, "YieldRefused", [1])
    assert "bad.id" in (run.error or "")


def test_a_refusal_that_is_swallowed_fails_the_run_all_the_same(bench: Workbench) -> None:
    """Nothing is stored after a refusal, whatever catches it."""

    def collect(run: RunContext) -> Any:
        run.state["x"] = 1
        with suppress(BaseException):
            yield BAD
        yield row("afterwards")

    run = bench.run(collect)
    assert (run.outcome, run.error_type, bench.tables(), bench.state()) == (Outcome.FAILED, "YieldRefused", set(), "{}")


# -- async -------------------------------------------------------------------------------------------------------------


def test_async_def_is_run_to_its_end(bench: Workbench) -> None:
    """An `async def` collector runs on the worker, and what it returns is stored."""

    async def collect(run: RunContext) -> Any:
        run.state["x"] = 1
        await asyncio.sleep(0)
        return [row(1), row(2)]

    assert (bench.run(collect).outcome, ids(bench), bench.state()) == (Outcome.SUCCEEDED, [1, 2], '{"x": 1}')


def test_an_async_generator_yields_as_a_generator_does(bench: Workbench) -> None:
    """Its yields return when they are committed, and its end saves the state."""
    seen = []

    async def collect(run: RunContext) -> AsyncIterator[Any]:
        for n in (1, 2):
            yield row(n)
            await asyncio.sleep(0)
            seen.append(len(run.query("SELECT * FROM t")))
        run.state["x"] = 1

    assert bench.run(collect).outcome is Outcome.SUCCEEDED
    assert (seen, bench.state()) == ([1, 2], '{"x": 1}')


def test_an_async_generator_hears_what_its_yield_raised(bench: Workbench) -> None:
    """Errors of the rows are raised at the yield, where a target block holds them; a refusal ends the run."""
    seen = []

    async def collect(run: RunContext) -> AsyncIterator[Any]:
        with run.target("a"):
            yield Batch("t", ({"id": 1 // n} for n in (1, 0)), pk="id")
        with run.target("b"):
            yield row("b")
        try:
            yield BAD
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned up")

    run = bench.run(collect)
    assert (run.outcome, run.error_type, ids(bench), seen) == (Outcome.FAILED, "YieldRefused", ["b"], ["cleaned up"])
    assert "a: ZeroDivisionError" in (run.detail or "")


def test_async_collectors_raise_and_signal(bench: Workbench) -> None:
    """Errors and signals of coroutines and async generators end the run as those of functions do."""

    async def limited(_: RunContext) -> AsyncIterator[Any]:
        yield row(1)
        raise RateLimited(90)

    async def skipping(_: RunContext) -> None:
        raise SkipRun("nothing new")

    async def cancelled(_: RunContext) -> None:
        raise asyncio.CancelledError

    outcomes = [bench.run(collect).outcome for collect in (limited, skipping, cancelled)]
    assert outcomes == [Outcome.RATE_LIMITED, Outcome.SKIPPED, Outcome.FAILED]


# -- R5: whatever it raises --------------------------------------------------------------------------------------------


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Mean(BaseException):
    def __str__(self) -> str:
        raise SystemExit(3)


def recurse() -> None:
    recurse()


def throw(error: Callable[[], BaseException]) -> Callable[[], None]:
    def raise_it() -> None:
        raise error()

    return raise_it


RAISED: dict[str, tuple[Callable[[], None], str | None]] = {
    "SystemExit": (lambda: sys.exit(3), "SystemExit"),
    "KeyboardInterrupt": (throw(KeyboardInterrupt), "KeyboardInterrupt"),
    "GeneratorExit": (throw(GeneratorExit), "GeneratorExit"),
    "StopIteration": (throw(StopIteration), None),  # in a generator it is a RuntimeError
    "StopAsyncIteration": (throw(StopAsyncIteration), None),
    "MemoryError": (throw(MemoryError), "MemoryError"),
    "RecursionError": (recurse, "RecursionError"),
    "an error without text": (throw(UnprintableError), "UnprintableError"),
    "an error whose text exits": (throw(Mean), "Mean"),
    "an error with a lone surrogate": (throw(lambda: ValueError("\ud800")), "ValueError"),
    "a group": (throw(lambda: BaseExceptionGroup("many", [KeyboardInterrupt(), ValueError()])), "BaseExceptionGroup"),
    "an error of SQLite": (throw(lambda: sqlite3.OperationalError("disk I/O error")), "OperationalError"),
    "RunStopped unasked": (throw(lambda: RunStopped("enough")), "RunStopped"),
}


@pytest.mark.parametrize(("go_wrong", "error_type"), RAISED.values(), ids=RAISED)
@pytest.mark.filterwarnings("error")
def test_whatever_a_collector_raises_ends_that_run_only(
    bench: Workbench, go_wrong: Callable[[], None], error_type: str | None
) -> None:
    """R5: each error ends its run as failed, once, with what was stored before; the next run is fine."""

    def function(_: RunContext) -> None:
        go_wrong()

    def generator(_: RunContext) -> Any:
        yield row("stored")
        go_wrong()

    def in_a_target(run: RunContext) -> Any:
        with run.target("x"):
            go_wrong()
        yield

    async def coroutine(_: RunContext) -> None:
        await asyncio.sleep(0)
        go_wrong()

    async def async_generator(_: RunContext) -> AsyncIterator[Any]:
        yield row("stored")
        go_wrong()

    def rows(_: RunContext) -> Any:
        def drawn() -> Iterator[dict[str, int]]:
            yield {"id": 1}
            go_wrong()

        yield Batch("t", drawn(), pk="id")

    for collect in (function, generator, in_a_target, coroutine, async_generator, rows):
        run = bench.run(collect)
        assert run.outcome is Outcome.FAILED, collect.__name__
        assert run.error is not None, collect.__name__
        if error_type is not None and collect is not in_a_target:
            assert run.error_type == error_type, collect.__name__
        after = bench.run(lambda _: row("after"))
        assert after.outcome is Outcome.SUCCEEDED, collect.__name__
    assert sorted(ids(bench)) == ["after", "stored"]
    assert bench.sql("SELECT count(*), count(outcome), count(finished_at) FROM geckosched_runs") == [(12, 12, 12)]
    assert bench.sql("SELECT runs, errors FROM geckosched_jobs") == [(12, 6)]
    assert bench.scheduler.state is SchedulerState.RUNNING


def test_raising_while_it_is_closed(bench: Workbench) -> None:
    """R5: a generator that raises when it is closed has ended by what it was closed for."""

    def collect(_: RunContext) -> Any:
        try:
            try:
                yield BAD
            except BaseException:
                yield row("more")
        finally:
            raise SystemExit("from finally")

    run = bench.run(collect)
    assert (run.outcome, run.error_type) == (Outcome.FAILED, "YieldRefused")
    assert bench.run(lambda _: row(1)).outcome is Outcome.SUCCEEDED


def test_a_generator_that_cannot_be_closed(bench: Workbench) -> None:
    """R5: swallowing everything around a yield, GeneratorExit too, ends that run and nothing else."""

    def collect(_: RunContext) -> Any:
        for _n in range(3):  # the refusal, our close, and Python's own when the generator is collected
            with suppress(BaseException):
                yield BAD

    async def async_collect(_: RunContext) -> AsyncIterator[Any]:
        for _n in range(2):  # Python's own close of an async generator comes late, and says so on stderr
            with suppress(BaseException):
                yield BAD

    for wrong in (collect, async_collect):
        run = bench.run(wrong)
        assert (run.outcome, run.error_type) == (Outcome.FAILED, "YieldRefused")
        assert bench.run(lambda _: row(1)).outcome is Outcome.SUCCEEDED


def test_errors_that_are_swallowed_around_a_yield_of_good_rows(bench: Workbench) -> None:
    """R5: a collector may swallow what its rows raise; the run goes on and what is good is stored."""

    def collect(_: RunContext) -> Any:
        for n in (1, 0, 2):
            with suppress(BaseException):
                yield Batch("t", ({"id": 2 // n} for _ in range(1)), pk="id")

    assert (bench.run(collect).outcome, ids(bench)) == (Outcome.SUCCEEDED, [2, 1])


@pytest.fixture
def heard(new_scheduler: NewScheduler, store_path: Path) -> Workbench:
    """A bench whose job is switched on, so that its breaker hears how runs end; its clock stands still."""
    scheduler = new_scheduler(clock=FakeClock(), max_workers=1, catchup="none")
    return Workbench(scheduler, store_path, enabled=True, every="1w")


@pytest.mark.parametrize("seconds", [3e11, 1e15, 1e300, float("inf"), float("nan"), -1])
def test_a_service_may_ask_for_any_patience(heard: Workbench, seconds: float) -> None:
    """R5: a Retry-After beyond all time is a rate limit like another, for the job and for the budget."""

    def alone(_: RunContext) -> Any:
        raise RateLimited(seconds)

    def in_a_call(run: RunContext) -> Any:
        with run.call(Budget("api")):
            raise RateLimited(seconds)

    for collect in (alone, in_a_call):
        run = heard.run(collect)
        assert (run.outcome, run.error) == (Outcome.RATE_LIMITED, None)
        assert heard.run(lambda _: None).outcome is Outcome.SUCCEEDED
    assert heard.scheduler.state is SchedulerState.RUNNING


@pytest.mark.parametrize("again_after", [-5, 0, 1e15, 1e300, float("inf"), float("nan"), "soon"])
def test_skip_run_may_ask_for_any_time(heard: Workbench, again_after: Any) -> None:
    """R5: whatever `again_after` is, it ends that run only."""

    def collect(run: RunContext) -> Any:
        if run.reason is Reason.TRIGGERED:
            raise SkipRun("later", again_after)

    assert heard.run(collect).outcome in (Outcome.SKIPPED, Outcome.FAILED)
    assert heard.run(lambda _: None).outcome is Outcome.SUCCEEDED
    assert heard.scheduler.state is SchedulerState.RUNNING


@pytest.mark.parametrize("budget", ["api", 5, object()])
def test_a_budget_that_is_none_fails_the_run_only(bench: Workbench, budget: Any) -> None:
    """R5: naming a budget by its name, or by nonsense, fails that run in words."""

    def calling(run: RunContext) -> Any:
        with run.call(budget):
            pass

    for collect in (calling, lambda run: run.calls_free(budget)):
        run = bench.run(collect)
        assert (run.outcome, bench.scheduler.state) == (Outcome.FAILED, SchedulerState.RUNNING)
        assert "udget" in (run.error or "")
    assert bench.run(lambda _: None).outcome is Outcome.SUCCEEDED


# -- signals -----------------------------------------------------------------------------------------------------------


def test_skip_run(bench: Workbench) -> None:
    """SkipRun ends a run as skipped, with its reason, keeping what was stored; it is no error."""

    def collect(run: RunContext) -> Any:
        run.state["x"] = 1
        yield row(1)
        run.state["x"] = 2
        raise SkipRun("nothing new\nsince noon")

    run = bench.run(collect)
    assert (run.outcome, run.error_type, run.error, run.traceback, run.rows) == (Outcome.SKIPPED, None, None, None, 1)
    assert "nothing new" in (run.detail or "")
    assert bench.state() == '{"x": 1}'


def test_rate_limited(bench: Workbench) -> None:
    """RateLimited ends a run as rate limited, with the pause in its detail; less than a second counts as one."""
    run = bench.run(lambda _: throw(lambda: RateLimited(90))())
    assert (run.outcome, run.error, run.detail) == (Outcome.RATE_LIMITED, None, "retry after 90 s")
    assert RateLimited(0).retry_after == RateLimited(-5).retry_after == 1


@pytest.mark.parametrize("signal", [lambda: SkipRun("x"), lambda: RateLimited(5), lambda: RunStopped("x")])
def test_signals_pass_through_except_exception(bench: Workbench, signal: Callable[[], BaseException]) -> None:
    """No `except Exception`, no target block and no `problem` swallows a signal."""

    def around(_: RunContext) -> Any:
        try:
            raise signal()
        except Exception:
            return row("swallowed")

    def target(run: RunContext) -> Any:
        with run.target("x"):
            raise signal()
        yield row("swallowed")

    def problem(run: RunContext) -> Any:
        try:
            raise signal()
        except BaseException as error:
            run.problem("x", error)
        yield row("swallowed")

    outcomes: dict[type, Outcome] = {SkipRun: Outcome.SKIPPED, RateLimited: Outcome.RATE_LIMITED}
    expected = outcomes.get(type(signal()), Outcome.FAILED)
    assert [bench.run(collect).outcome for collect in (around, target, problem)] == [expected] * 3
    assert bench.tables() == set()


def test_run_stopped_unasked_is_a_failure(bench: Workbench) -> None:
    """A collector that raises RunStopped of its own has failed, with its traceback."""
    run = bench.run(lambda _: throw(lambda: RunStopped("enough"))())
    assert (run.outcome, run.error_type, run.error) == (Outcome.FAILED, "RunStopped", "enough")
    assert run.traceback


# -- targets and outcomes ----------------------------------------------------------------------------------------------


def outcome(bench: Workbench, good: str, bad: str, problems: str = "") -> Run:
    """Run with these targets, a letter each; those in `bad` raise, those in `problems` are reported."""

    def collect(run: RunContext) -> Any:
        for name in good + bad:
            with run.target(name):
                if name in bad:
                    raise KeyError(f"no {name}")
                yield row(name)
        for name in problems:
            run.problem(name, "was odd")

    return bench.run(collect)


@pytest.mark.parametrize(
    ("good", "bad", "problems", "expected"),
    [
        ("", "", "", Outcome.SUCCEEDED),
        ("ab", "", "", Outcome.SUCCEEDED),
        ("ab", "c", "", Outcome.PARTIAL),
        ("a", "bcd", "", Outcome.PARTIAL),
        ("a", "", "b", Outcome.PARTIAL),
        ("", "ab", "", Outcome.FAILED),
        ("", "", "ab", Outcome.FAILED),
        ("ab", "", "ab", Outcome.FAILED),
        ("ab", "", "a", Outcome.PARTIAL),
    ],
)
def test_outcomes_of_targets(bench: Workbench, good: str, bad: str, problems: str, expected: Outcome) -> None:
    """No target failed: succeeded. Some failed: partial. Every one failed: failed. A problem is a failure."""
    run = outcome(bench, good, bad, problems)
    assert run.outcome is expected
    assert run.rows == len(good)
    assert (run.error is not None) == (expected is Outcome.FAILED)


def test_a_detail_names_each_target_and_its_error(bench: Workbench) -> None:
    """The detail says how many failed, and for each what it said."""
    run = outcome(bench, "ab", "c", "d")
    assert run.detail is not None
    assert run.detail.splitlines() == ["2 of 4 targets failed", "c: KeyError: 'no c'", "d: was odd"]
    assert (run.error_type, run.error) == (None, None)
    assert (run.traceback or "").endswith("KeyError: 'no c'\n")


def test_every_target_failed_is_said(bench: Workbench) -> None:
    """When every target failed the error says so, and with what."""
    run = outcome(bench, "", "ab")
    assert "every target failed" in (run.error or "")
    assert "no a" in (run.error or "")


def test_a_target_that_failed_once_has_failed(bench: Workbench) -> None:
    """A target that failed and was well later in the run has failed; its first error stays."""

    def collect(run: RunContext) -> Any:
        for n in range(3):
            with run.target("a"):
                if n < 2:
                    raise ValueError(f"number {n}")
        yield

    run = bench.run(collect)
    assert run.outcome is Outcome.FAILED
    assert "number 0" in (run.detail or "")
    assert "number 1" not in (run.detail or "")


def test_an_error_after_failed_targets_keeps_both(bench: Workbench) -> None:
    """A run that raises has failed by that error, and its detail still tells of the targets."""

    def collect(run: RunContext) -> Any:
        with run.target("a"):
            raise KeyError("a")
        raise ValueError("the end")

    run = bench.run(collect)
    assert (run.outcome, run.error_type, run.error) == (Outcome.FAILED, "ValueError", "the end")
    assert "a: KeyError" in (run.detail or "")


def test_a_thousand_failed_targets_make_a_readable_detail(bench: Workbench) -> None:
    """The detail stays short, whatever fails, and its count is exact."""

    def collect(run: RunContext) -> Any:
        for n in range(1000):
            run.problem(f"target {n}", "x" * 10_000)
        with run.target("good"):
            yield

    run = bench.run(collect)
    assert run.outcome is Outcome.PARTIAL
    assert "1000 of 1001 targets failed" in (run.detail or "")
    assert len(run.detail or "") < 20_000


# -- errors and tracebacks ---------------------------------------------------------------------------------------------


def frames(run: Run) -> list[str]:
    """Return the functions of a run's traceback, outermost first."""
    assert run.traceback is not None
    return [line.rsplit(" in ", 1)[1] for line in run.traceback.splitlines() if line.startswith('  File "')]


def plain_one(run: RunContext) -> Any:
    return int("x" if run else "1")


def generator_one(_: RunContext) -> Any:
    yield row(1)
    int("x")


async def async_one(_: RunContext) -> Any:
    await asyncio.sleep(0)
    int("x")


async def async_generator_one(_: RunContext) -> AsyncIterator[Any]:
    yield row(1)
    int("x")


@pytest.mark.parametrize("function", [plain_one, generator_one, async_one, async_generator_one])
def test_a_traceback_begins_at_the_collector(new_scheduler: NewScheduler, function: Collect) -> None:
    """The author sees the author's own frames, not those of geckosched or asyncio."""
    scheduler = new_scheduler()
    job_id = scheduler.register_collector(collector("job")(function))
    run = scheduler.execute_collector_now(job_id)
    assert run is not None
    assert (run.error_type, run.error) == ("ValueError", "invalid literal for int() with base 10: 'x'")
    assert frames(run) == [function.__name__]
    assert run.traceback is not None
    assert run.traceback.startswith("Traceback (most recent call last):\n")
    assert run.traceback.rstrip().endswith("ValueError: invalid literal for int() with base 10: 'x'")


def refused_one(_: RunContext) -> Any:
    yield BAD


def test_a_refusals_traceback_begins_at_the_yield(new_scheduler: NewScheduler) -> None:
    """Which yield was refused stands on top."""
    scheduler = new_scheduler()
    run = scheduler.execute_collector_now(scheduler.register_collector(collector("job")(refused_one)))
    assert run is not None
    assert frames(run)[0] == "refused_one"
    assert "yield BAD" in (run.traceback or "")


def test_an_error_is_one_line(bench: Workbench) -> None:
    """`error` is one line of text, `error_type` the class, whatever the exception says of itself."""
    run = bench.run(lambda _: throw(lambda: ValueError("first\nsecond: third"))())
    assert (run.error_type, run.error) == ("ValueError", "first second: third")
    run = bench.run(lambda _: throw(ValueError)())
    assert (run.error_type, run.error) == ("ValueError", "")
    run = bench.run(lambda _: throw(lambda: ValueError("x" * 1_000_000))())
    assert len(run.error or "") <= 1000
    assert len(run.traceback or "") <= 20_000


def test_a_succeeded_run_has_no_error(bench: Workbench) -> None:
    """Detail, error and traceback are NULL where nothing went wrong."""
    run = bench.store(row(1))
    assert (run.detail, run.error_type, run.error, run.traceback) == (None, None, None, None)


# -- losses ------------------------------------------------------------------------------------------------------------

SINCE, UNTIL = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
LOSSES = "SELECT target, count FROM geckosched_losses ORDER BY rowid"


def test_losses_are_stored_with_the_yield(bench: Workbench) -> None:
    """A loss is stored with the next yield or the normal end, and counted in run and job."""

    def collect(run: RunContext) -> Any:
        run.lost("a", 3, SINCE, UNTIL)
        yield row(1)
        run.lost("b", 4, SINCE.timestamp(), UNTIL.timestamp())

    run = bench.run(collect)
    stored = bench.table("geckosched_losses")
    span = {"since": "2026-01-01T00:00:00.000000Z", "until": "2026-01-02T00:00:00.000000Z"}
    whose = {"run_id": run.id, "job_id": "bench"}
    assert stored == [{**whose, **span, "target": "a", "count": 3}, {**whose, **span, "target": "b", "count": 4}]
    assert (run.outcome, run.lost) == (Outcome.SUCCEEDED, 7)
    assert bench.sql("SELECT lost FROM geckosched_jobs") == [7]


def test_losses_go_with_the_state(bench: Workbench) -> None:
    """What puts the state back drops the losses announced since, and what ends the run without saving does too."""

    def collect(run: RunContext) -> Any:
        with run.target("a"):
            run.lost("a", 1, SINCE, UNTIL)
            yield row("a")
        with run.target("b"):
            run.lost("b", 10, SINCE, UNTIL)
            raise ValueError
        with run.target("c"):
            run.lost("c", 100, SINCE, UNTIL)
            yield row("c")
        run.lost("d", 1000, SINCE, UNTIL)
        raise ValueError

    run = bench.run(collect)
    assert (bench.sql(LOSSES), run.lost) == ([("a", 1), ("c", 100)], 101)


def test_losses_of_a_refused_yield_are_not_stored(bench: Workbench) -> None:
    """Rows, state and losses of one yield are stored together or not at all."""

    def collect(run: RunContext) -> Any:
        run.lost("a", 1, SINCE, UNTIL)
        yield BAD

    assert (bench.run(collect).lost, bench.sql(LOSSES)) == (0, [])


# -- calls, query, shared, sleep ---------------------------------------------------------------------------------------


def test_calls_without_a_budget_are_counted(bench: Workbench) -> None:
    """A collector without a budget waits for nothing; its calls stand in the run's row, those that fail too."""
    seen: list[Any] = []

    def collect(run: RunContext) -> Any:
        seen.append(run.calls_free())
        for _ in range(3):
            with run.call():
                pass
        yield row(1)
        seen.append(run.query("SELECT calls FROM geckosched_runs"))
        with run.call():
            raise ValueError

    assert bench.run(collect).calls == 4
    assert seen == [sys.maxsize, [{"calls": 3}]]


def test_query_is_read_only(bench: Workbench) -> None:
    """`run.query` reads everything that is committed and changes nothing."""
    bench.store(row(1), row(2))
    found = []

    def collect(run: RunContext) -> Any:
        found.append(run.query("SELECT id FROM t WHERE id > ?", [1]))
        found.append(run.query("SELECT id, :x AS x FROM t ORDER BY id", {"x": "y"}))
        for sql in ("INSERT INTO t VALUES (3)", "DELETE FROM t", "DROP TABLE t", "UPDATE geckosched_jobs SET state = 1",
                    "CREATE TABLE u (a)", "PRAGMA user_version = 5"):  # fmt: skip
            with pytest.raises(sqlite3.OperationalError):
                run.query(sql)
        found.append(run.query("SELECT count(*) AS n FROM t"))

    assert bench.run(collect).outcome is Outcome.SUCCEEDED
    assert found == [[{"id": 2}], [{"id": 1, "x": "y"}, {"id": 2, "x": "y"}], [{"n": 2}]]


def test_query_sees_what_others_committed(bench: Workbench) -> None:
    """Each query sees the store of that moment, also after one that failed."""
    seen = []

    def collect(run: RunContext) -> Any:
        for n in range(3):
            yield row(n)
            with suppress(sqlite3.Error):
                run.query("SELECT * FROM missing")
            seen.append(len(run.query("SELECT * FROM t")))
            bench.sql("INSERT INTO t VALUES (?)", [n + 100])
            seen.append(len(run.query("SELECT * FROM t")))

    assert bench.run(collect).outcome is Outcome.SUCCEEDED
    assert seen == [1, 2, 3, 4, 5, 6]


class Connection:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_shared_is_one_object_for_all_runs(bench: Workbench) -> None:
    """All runs share one object per key; it is closed when the scheduler stops."""
    made = []

    def collect(run: RunContext) -> Any:
        for key in ("a", "b"):
            made.append(run.shared(key, Connection))

    bench.run(collect)
    bench.run(collect)
    assert made[0] is made[2]
    assert made[1] is made[3]
    assert made[0] is not made[1]
    assert [one.closed for one in made[:2]] == [0, 0]
    bench.scheduler.stop()
    assert [one.closed for one in made[:2]] == [1, 1]


def test_a_shared_object_that_cannot_be_made(bench: Workbench) -> None:
    """A factory that raises fails its run; the next one may try again."""
    assert bench.run(lambda run: run.shared("a", lambda: 1 / 0)).error_type == "ZeroDivisionError"
    assert bench.run(lambda run: row(run.shared("a", lambda: 5))).rows == 1
    assert ids(bench) == [5]


def test_a_shared_object_may_use_another(bench: Workbench) -> None:
    """A factory may itself ask for what is shared; no lock is held while it runs."""
    bench_run = bench.run(lambda run: row(run.shared("a", lambda: run.shared("b", lambda: 4) + 1)))
    assert (bench_run.outcome, ids(bench)) == (Outcome.SUCCEEDED, [5])


# -- the request to stop -----------------------------------------------------------------------------------------------


@dataclass
class Limited:
    """A job with a time limit of a minute, on a clock that its own collector moves."""

    bench: Workbench
    clock: FakeClock

    def reach_the_limit(self, run: RunContext) -> None:
        """Let the time limit pass, and return when the run has been asked to stop."""
        self.clock.advance(61)
        run.calls_free(Budget("any"))  # the ticker answers in the turn in which it sees the limit
        with pytest.raises(RunStopped):
            run.sleep(3600)
        assert run.stopping


@pytest.fixture
def limited(new_scheduler: NewScheduler, store_path: Path) -> Limited:
    clock = FakeClock()
    return Limited(Workbench(new_scheduler(clock=clock, max_workers=1), store_path, timeout="1m"), clock)


def test_sleep_raises_when_the_run_must_end(limited: Limited) -> None:
    """A run that sleeps past its time limit is woken, and ends as timed out with what it had stored."""

    def collect(run: RunContext) -> Any:
        yield row(1)
        limited.clock.advance(61)
        run.calls_free(Budget("any"))
        run.sleep(1e6)
        yield row(2)

    run = limited.bench.run(collect)
    assert (run.outcome, run.error, ids(limited.bench)) == (Outcome.TIMED_OUT, None, [1])
    assert "asked to stop (time limit)" in (run.detail or "")


def test_sleep_waits_on_the_schedulers_clock(limited: Limited) -> None:
    """`sleep` ends when the scheduler's time has passed."""
    woken = []

    def collect(run: RunContext) -> Any:
        alarm = threading.Timer(0, lambda: limited.clock.advance(30))
        alarm.start()
        run.sleep(0)
        alarm.join()
        woken.append(run.now())

    assert limited.bench.run(collect).outcome is Outcome.SUCCEEDED
    assert woken == [datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)]


def test_a_yield_after_the_request_to_stop_stores_then_raises(limited: Limited) -> None:
    """The batch in hand is not lost; then RunStopped ends the run as timed out."""

    def collect(run: RunContext) -> Any:
        limited.reach_the_limit(run)
        run.state["x"] = 1
        yield row("stored")
        yield row("not reached")

    run = limited.bench.run(collect)
    assert (run.outcome, run.rows, run.traceback) == (Outcome.TIMED_OUT, 1, None)
    assert (ids(limited.bench), limited.bench.state()) == (["stored"], '{"x": 1}')


def test_a_bare_yield_after_the_request_to_stop_raises(limited: Limited) -> None:
    """A yield with nothing new to store tells of the end, too."""
    stopped: list[Any] = []
    nothings: list[Any] = [None, [], Batch("t", [])]

    def collect(run: RunContext) -> Any:
        limited.reach_the_limit(run)
        for nothing in nothings:
            try:
                yield nothing
            except RunStopped:
                stopped.append(nothing)

    limited.bench.run(collect)
    assert stopped == nothings


def test_a_call_after_the_request_to_stop_raises(limited: Limited) -> None:
    """No call goes out once the run must end, with a budget or without."""
    stopped = []

    def collect(run: RunContext) -> Any:
        limited.reach_the_limit(run)
        for budget in (None, Budget("api")):
            try:
                with run.call(budget):
                    pass
            except RunStopped:
                stopped.append(budget)

    run = limited.bench.run(collect)
    assert (run.calls, len(stopped)) == (0, 2)


def returning_late(limited: Limited, how: str) -> Collect:
    def function(run: RunContext) -> Any:
        limited.reach_the_limit(run)
        run.state["x"] = 1
        return row("last")

    def generator(run: RunContext) -> Any:
        yield row("first")
        limited.reach_the_limit(run)
        run.state["x"] = 1

    def generator_with_value(run: RunContext) -> Any:
        yield row("first")
        limited.reach_the_limit(run)
        run.state["x"] = 1
        return row("last")

    async def coroutine(run: RunContext) -> Any:
        limited.reach_the_limit(run)
        run.state["x"] = 1
        return row("last")

    async def async_generator(run: RunContext) -> AsyncIterator[Any]:
        yield row("first")
        limited.reach_the_limit(run)
        run.state["x"] = 1

    found: Collect = locals()[how]
    return found


@pytest.mark.parametrize("how", ["function", "generator", "generator_with_value", "coroutine", "async_generator"])
def test_a_run_that_was_asked_to_stop_and_returns_has_succeeded(limited: Limited, how: str) -> None:
    """Who returns in time has succeeded, with all that was returned and the state; the overtime is in the detail."""
    run = limited.bench.run(returning_late(limited, how))
    assert (run.outcome, limited.bench.state()) == (Outcome.SUCCEEDED, '{"x": 1}')
    assert "asked to stop (time limit)" in (run.detail or "")


def test_a_run_that_was_asked_to_stop_may_end_partial(limited: Limited) -> None:
    """Who returns in time with some targets failed is partial."""

    def collect(run: RunContext) -> Any:
        with run.target("a"):
            raise ValueError
        with run.target("b"):
            limited.reach_the_limit(run)
        return row(1)
        yield

    assert limited.bench.run(collect).outcome is Outcome.PARTIAL


def test_losses_are_counted_once_by_who_goes_on_after_run_stopped(limited: Limited) -> None:
    """What the yield stored before it raised RunStopped is stored: its losses don't come again with the next one."""

    def collect(run: RunContext) -> Any:
        limited.reach_the_limit(run)
        run.lost("a", 5, SINCE, UNTIL)
        for n in range(3):
            with suppress(RunStopped):
                yield row(n)

    run = limited.bench.run(collect)
    assert (limited.bench.sql(LOSSES), run.lost, ids(limited.bench)) == ([("a", 5)], 5, [0, 1, 2])


def test_the_state_is_put_back_to_what_was_saved_before_run_stopped(limited: Limited) -> None:
    """What the yield saved before it raised RunStopped is what a target block puts the state back to."""

    def collect(run: RunContext) -> Any:
        limited.reach_the_limit(run)
        run.state["x"] = 1
        with suppress(RunStopped):
            yield row("stored")
        with run.target("b"):
            raise ValueError("put it back")
        run.state["y"] = 2
        with suppress(RunStopped):
            yield

    limited.bench.run(collect)
    assert limited.bench.state() == '{"x": 1, "y": 2}'


def test_stopping_the_scheduler_wakes_a_sleeping_run(bench: Workbench) -> None:
    """A run that sleeps when the scheduler stops is interrupted at once, with what it had stored."""
    sleeping = threading.Event()

    def collect(run: RunContext) -> Any:
        run.state["x"] = 1
        yield row(1)
        sleeping.set()
        run.sleep(1e6)

    begun = bench.begin(collect)
    assert sleeping.wait(PATIENCE)
    bench.scheduler.stop(PATIENCE)
    assert begun.ended.wait(PATIENCE)
    assert (run := begun.run) is not None
    assert (run.outcome, run.rows, bench.state()) == (Outcome.INTERRUPTED, 1, '{"x": 1}')


# -- the collector itself ----------------------------------------------------------------------------------------------


def test_a_class_gets_one_instance_per_job(new_scheduler: NewScheduler) -> None:
    """An instance keeps what it has between the runs of its job, and shares it with no other job."""
    seen = []

    class Counting(Collector):
        name = "counting"

        def __init__(self) -> None:
            self.count = 0

        def collect(self, run: RunContext) -> Any:
            self.count += 1
            seen.append((run.job_id, self.count))

    scheduler = new_scheduler()
    for job_id in ("a", "b"):
        scheduler.register_collector(Counting, job_id=job_id, enabled=False)
    scheduler.start()
    for job_id in ("a", "a", "b"):
        scheduler.execute_collector_now(job_id)
    assert seen == [("a", 1), ("a", 2), ("b", 1)]


def test_a_collector_that_cannot_be_made_fails_its_run(new_scheduler: NewScheduler) -> None:
    """R5: a class whose `__init__` raises fails that run, and is tried again in the next."""
    tries = []

    class Fussy(Collector):
        name = "fussy"

        def __init__(self) -> None:
            tries.append(1)
            if len(tries) == 1:
                raise SystemExit("not today")

        def collect(self, _: RunContext) -> None: ...

    scheduler = new_scheduler(max_workers=1)
    scheduler.register_collector(Fussy, enabled=False)
    scheduler.start()
    runs = [scheduler.execute_collector_now("fussy") for _ in range(2)]
    assert [run and run.outcome for run in runs] == [Outcome.FAILED, Outcome.SUCCEEDED]


def test_without_start_one_run_takes_the_lead_and_gives_it_back(new_scheduler: NewScheduler) -> None:
    """`execute_collector_now` works without `start`, on the same store, with the same state."""
    scheduler = new_scheduler()

    @collector("counting")
    def counting(run: RunContext) -> Any:
        run.state["n"] = run.state.get("n", 0) + 1
        return row(run.state["n"])

    scheduler.register_collector(counting)
    runs = [scheduler.execute_collector_now("counting") for _ in range(3)]
    assert [run and run.rows for run in runs] == [1, 1, 1]
    assert scheduler.state is SchedulerState.STOPPED
