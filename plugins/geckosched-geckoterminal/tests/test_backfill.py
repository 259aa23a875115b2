"""The history of candles is paged back in spare budget, to its end and no further."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from geckosched_geckoterminal.backfill import CALLS_SINCE, BackfillOptions, BackfillPlan, Page
from geckosched_geckoterminal.rows import TIMEFRAMES, CandlePage, candle_page

from geckosched import ConfigError, Outcome
from geckosched.testing import FakeClock

if TYPE_CHECKING:
    from conftest import Answer, FakeApi, House, Series

    Open = Callable[..., House]

DAY = 86_400
POOL = {"pools": ["A"]}
MINUTES = {"timeframes": ["1m"]}
MINUTE_PATH = "/pools/A/ohlcv/minute"
BIG = {"timeframes": ["1m"], "depth": {"1m": "4d"}}


def refusal(status: int, title: str) -> Answer:
    return status, {"errors": [{"status": str(status), "title": title}]}


def stored(home: House, timeframe: str = "1m", pool: str = "A") -> dict[int, float]:
    """Return volume by ts of the final candles."""
    sql = "SELECT ts, volume FROM gt_ohlcv WHERE pool = ? AND timeframe = ? AND final = 1 ORDER BY ts"
    return {row["ts"]: row["volume"] for row in home.rows(sql, pool, timeframe)}


def truth(candles: Series, since: float, until: float) -> dict[int, float]:
    return {ts: candles.candle(ts)[5] for ts in candles.final(since, until)}


def first_page(home: House) -> None:
    home.run("watchlist")
    home.run("ohlcv")


def until_skipped(home: House, most: int = 60) -> tuple[int, str]:
    """Run the collector each minute until it skips; return how many calls that took, and why it did."""
    calls = 0
    for _ in range(most):
        home.advance(60)  # for the budget
        run = home.run("backfill")
        calls += run.calls
        if run.outcome == Outcome.SKIPPED:
            return calls, run.detail or ""
        assert run.outcome == Outcome.SUCCEEDED, run.detail
    raise AssertionError("the collector finds no end")


OF_ONE = "nothing to page back now; of 1 pairs of pool and timeframe 1"
AT_ITS_END = f"{OF_ONE} at their end"


def test_history_is_paged_back_to_its_depth_and_then_left_alone(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    """The first page is 1000 minutes; four days are 5760: five pages more."""
    now = clock.now() // 1_000_000
    api.answers[MINUTE_PATH] = candles = series(60, now - 30 * DAY)
    home = house(watchlist=POOL, ohlcv=MINUTES, backfill=BIG)
    first_page(home)
    assert until_skipped(home) == (5, AT_ITS_END)
    bounds = [now - 999 * 60 - n * 60_000 for n in range(5)]
    assert [call["before_timestamp"] for call in candles.calls[1:]] == [str(each) for each in bounds]
    assert {call["limit"] for call in candles.calls} == {"1000"}
    since = clock.now() // 1_000_000 - 4 * DAY
    assert stored(home).items() >= truth(candles, since, now).items()
    assert len(stored(home)) == 5998
    clock.advance(3600)
    assert until_skipped(home) == (0, AT_ITS_END)


def test_it_begins_once_a_first_page_is_stored(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    now = clock.now() // 1_000_000
    api.answers[MINUTE_PATH] = series(60, now - 30 * DAY)
    home = house(watchlist=POOL, ohlcv=MINUTES, backfill=BIG)
    assert home.run("backfill").detail == "no pool of solana is watched"
    home.run("watchlist")
    assert until_skipped(home) == (0, f"{OF_ONE} without a first candle")
    home.run("ohlcv")
    assert until_skipped(home)[0] == 5


def end_by(api: FakeApi, candles: Series, how: str) -> None:
    """Let history end at what `candles` has, in one of three ways."""

    def answer(query: Mapping[str, str]) -> Answer:
        status, body = candles(query)
        assert isinstance(body, dict)
        if not body["data"]["attributes"]["ohlcv_list"]:
            if how == "plan":
                return refusal(401, "You can only access data from the past 180 days")
            if how == "unmoved":
                body["data"]["attributes"]["ohlcv_list"] = [candles.candle(int(candles.since))]
        return status, body

    api.answers[MINUTE_PATH] = answer


@pytest.mark.parametrize("how", ["empty", "unmoved", "plan"])
def test_history_ends_where_the_api_has_no_more_until_more_is_asked_for(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock, how: str
) -> None:
    """A short page is no end: two calls get 1500 minutes, the third gets nothing. A greater depth tries again."""
    now = clock.now() // 1_000_000
    candles = series(60, now - 2500 * 60)
    end_by(api, candles, how)
    home = house(watchlist=POOL, ohlcv=MINUTES, backfill=BIG)
    first_page(home)
    assert until_skipped(home) == (3, AT_ITS_END)
    assert stored(home).items() >= truth(candles, 0, now).items()
    assert home.state("backfill")["pairs"]["A"]["1m"]["end"] == how
    assert home.rows("SELECT * FROM geckosched_losses") == []
    again = house(watchlist=POOL, ohlcv=MINUTES, backfill=BIG)
    assert until_skipped(again)[0] == 0
    deeper = house(watchlist=POOL, ohlcv=MINUTES, backfill={"timeframes": ["1m"], "depth": {"1m": "5d"}})
    assert until_skipped(deeper) == (1, AT_ITS_END)
    assert until_skipped(deeper)[0] == 0


def test_a_day_candles_history_is_at_its_depth_with_the_first_page(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    """One answer spans half a year."""
    now = clock.now() // 1_000_000
    api.answers["/pools/A/ohlcv/day"] = candles = series(DAY, now - 700 * DAY)
    only = {"timeframes": ["1d"]}
    home = house(watchlist=POOL, ohlcv=only, backfill=only)
    first_page(home)
    assert until_skipped(home) == (0, AT_ITS_END)
    assert len(candles.calls) == 1


def test_beyond_the_plan_is_an_end_and_no_error(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    """The depth may be greater; the last page that the plan shows is stored."""
    now = clock.now() // 1_000_000
    api.answers["/pools/A/ohlcv/day"] = candles = series(DAY, now - 700 * DAY)
    only = {"timeframes": ["1d"]}
    home = house(watchlist=POOL, ohlcv=only, backfill=only | {"depth": {"1d": "500d"}})
    first_page(home)
    assert until_skipped(home) == (1, AT_ITS_END)
    assert len(stored(home, "1d")) < 190
    assert "before_timestamp" in candles.calls[1]


# In spare budget only


def test_it_skips_while_no_call_is_free(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    now = clock.now() // 1_000_000
    api.answers[MINUTE_PATH] = series(60, now - 30 * DAY)
    home = house(watchlist=POOL, ohlcv=MINUTES, backfill=BIG)
    first_page(home)
    run = home.run("backfill")  # three of a burst of four
    assert (run.outcome, run.calls) == (Outcome.SUCCEEDED, 3)
    run = home.run("backfill")
    assert (run.outcome, run.calls, run.detail) == (Outcome.SKIPPED, 0, "no call is free now")


def spend(home: House, calls: int, ended: datetime, job: str = "trades") -> None:
    """Put a finished run with so many calls into the history."""
    stamp = f"{ended:%Y-%m-%dT%H:%M:%S.%fZ}"
    with closing(sqlite3.connect(home.database)) as store, store:
        store.execute(
            "INSERT INTO geckosched_runs (job_id, reason, started_at, finished_at, outcome, calls)"
            " VALUES (?, 'scheduled', ?, ?, 'succeeded', ?)",
            (f"geckoterminal-{job}", stamp, stamp, calls),
        )


def test_it_skips_while_the_last_hours_calls_passed_80_percent_of_the_rate(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    """Of 600 an hour that is 480, of all jobs of the plugin, and of those only."""
    now = clock.now() // 1_000_000
    at = datetime.fromtimestamp(now, UTC)
    api.answers[MINUTE_PATH] = series(60, now - 30 * DAY)
    home = house(watchlist=POOL, ohlcv=MINUTES, backfill=BIG)
    first_page(home)  # one call
    spend(home, 5000, at - timedelta(minutes=61))
    spend(home, 300, at - timedelta(minutes=58))
    spend(home, 178, at - timedelta(minutes=5), "top-pools")
    spend(home, 5000, at - timedelta(minutes=5), "of-somebody-else")
    with closing(sqlite3.connect(home.database)) as store, store:
        values = "('geckoterminal-of-somebody-else', 'other', 'other', '2026')"
        store.execute(f"INSERT INTO geckosched_jobs (job_id, collector, plugin, retired_at) VALUES {values}")
    home.advance(60)
    assert home.run("backfill").calls == 1  # which makes 480
    home.advance(30)
    run = home.run("backfill")
    assert (run.outcome, run.calls) == (Outcome.SKIPPED, 0)
    assert run.detail == "480 calls in the last hour; it takes part below 480, 80 % of 10/m"
    home.advance(60)
    assert home.run("backfill").calls > 1  # the 300 are more than an hour ago


def test_the_rate_is_the_configured_one(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    now = clock.now() // 1_000_000
    api.answers[MINUTE_PATH] = series(60, now - 30 * DAY)
    home = house(watchlist=POOL, ohlcv=MINUTES, backfill=BIG)
    first_page(home)
    spend(home, 1000, datetime.fromtimestamp(now, UTC))
    home.advance(60)
    assert home.run("backfill").detail == "1001 calls in the last hour; it takes part below 480, 80 % of 10/m"
    with closing(sqlite3.connect(home.database)) as store, store:
        store.execute("UPDATE geckosched_budgets SET rate = '30/m'")
    assert home.run("backfill").calls > 0


def test_counting_the_calls_of_an_hour_looks_into_indexes_only(
    house: Open, api: FakeApi, series: Callable[..., Series]
) -> None:
    """The history may have millions of runs."""
    home = house(watchlist=POOL)
    home.run("watchlist")
    with closing(sqlite3.connect(home.database)) as store:
        plan = store.execute(f"EXPLAIN QUERY PLAN {CALLS_SINCE}", {"job_id": "x", "since": "2026"}).fetchall()
    steps = [row[3] for row in plan]
    runs = [step for step in steps if any(name in step for name in (" run", " newest", " older"))]
    assert len(runs) >= 4
    assert all(step.startswith("SEARCH") for step in runs), steps


# Which is next, and what is forgotten


def plan_of(pools: list[str], now: float, **oldest: float) -> BackfillPlan:
    """Return a plan of two timeframes, `A_1m=3600` for a pair whose oldest candle is of an hour ago."""
    plan = BackfillPlan(pools, {"1m": timedelta(days=7), "1h": timedelta(days=70)})
    for pair, ago in oldest.items():
        pool, name = pair.split("_")
        plan.begin(pool, name, int(now - ago))
    return plan


def page_of(page: Page, at: float, *openings: float, **bad: Any) -> CandlePage:
    rows: list[Any] = [[int(ts), 1, 1, 1, 1, 1] for ts in openings]
    for place in bad.get("bad", ()):
        rows[place][2] = None
    body = {"data": {"attributes": {"ohlcv_list": rows}}}
    return candle_page(body, network="solana", pool="A", timeframe=TIMEFRAMES[page.timeframe], at=at, run_id=1)


def test_the_least_history_for_its_depth_comes_first() -> None:
    now = 400.0 * DAY
    plan = plan_of(["A", "B"], now, A_1m=DAY, A_1h=9 * DAY, B_1m=1.2 * DAY, B_1h=12 * DAY)
    order = []
    for _ in range(4):
        page = plan.next(now)
        assert page is not None
        order.append((page.pool, page.timeframe))
        plan.defer(page, now)
    assert order == [("A", "1h"), ("A", "1m"), ("B", "1h"), ("B", "1m")]  # of equal ones the longer candles
    assert plan.next(now) is None
    assert plan.told(now).endswith("of 4 pairs of pool and timeframe 4 to be tried again later")
    assert plan.next(now + 300) is not None


def test_what_could_not_be_read_is_asked_for_again_and_history_goes_on() -> None:
    now = 400.0 * DAY
    plan = plan_of(["A"], now, A_1m=DAY)
    page = plan.next(now)
    assert page is not None
    begins = page.stretch.before
    openings = [begins - 60 * n for n in range(1, 1001)]
    plan.observe(page, now, 1000, page_of(page, now, *openings, bad=(3, 4)))
    after = plan.next(now)
    assert after is not None
    assert (after.gap, after.stretch.before) == (False, openings[-1])
    plan.defer(after, now + 3600)
    again = plan.next(now + 3600)
    assert again is not None
    assert (again.gap, again.stretch.after, again.stretch.before) == (True, openings[5], openings[2] + 1)
    state: dict[str, Any] = {}
    plan.save(state)
    restored = BackfillPlan.restore(state, ["A"], {"1m": timedelta(days=7)})
    assert restored.next(now + 3600) == again
    plan.defer(again, now + 3600)
    plan.observe(again, now + 3600, 4, page_of(again, now, *openings[2:6]))
    page = plan.next(now + 7200)
    assert page is not None
    assert not page.gap


def test_a_page_whose_end_could_not_be_read_goes_on_from_there() -> None:
    """Nothing of it is passed over: neither the rows at its end nor those in its middle."""
    now = 400.0 * DAY
    plan = plan_of(["A"], now, A_1m=DAY)
    page = plan.next(now)
    assert page is not None
    begins = page.stretch.before
    openings = [begins - 60 * n for n in range(1, 1001)]
    plan.observe(page, now, 1000, page_of(page, now, *openings, bad=(3, 998, 999)))
    after = plan.next(now)
    assert after is not None
    assert after.stretch.before == openings[997] + 1
    again = plan.next(now + 3600)
    assert again is not None
    assert (again.gap, again.stretch.after, again.stretch.before) == (True, openings[997], openings[2] + 1)


def test_a_pool_that_is_gone_is_asked_once_a_day(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    now = clock.now() // 1_000_000
    api.answers[MINUTE_PATH] = candles = series(60, now - 30 * DAY)
    home = house(watchlist=POOL, ohlcv=MINUTES, backfill=BIG)
    first_page(home)
    del api.answers[MINUTE_PATH]
    calls, why = until_skipped(home)
    assert (calls, why) == (1, f"{OF_ONE} to be tried again later")
    (pool,) = home.rows("SELECT gone_at FROM gt_pools WHERE address = 'A'")
    assert pool["gone_at"] == "2026-09-28T20:47:00.000000Z"
    home.advance(DAY - 120)
    assert home.run("backfill").calls == 0
    api.answers[MINUTE_PATH] = candles
    home.advance(60)
    assert home.run("backfill").calls > 1
    assert home.rows("SELECT gone_at FROM gt_pools") == [{"gone_at": None}]


def test_one_pairs_error_is_a_problem_that_holds_up_no_other(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    now = clock.now() // 1_000_000
    api.answers[MINUTE_PATH] = series(60, now - 30 * DAY)
    api.answers["/pools/B/ohlcv/minute"] = candles = series(60, now - 30 * DAY)
    home = house(watchlist={"pools": ["A", "B"]}, ohlcv=MINUTES, backfill=BIG)
    first_page(home)
    api.answers[MINUTE_PATH] = refusal(422, "Pools with >2 tokens")
    home.advance(60)
    run = home.run("backfill")
    assert (run.outcome, run.calls) == (Outcome.PARTIAL, 4)
    assert run.detail is not None
    assert "A 1m: ApiError: 422 Pools with >2 tokens" in run.detail
    assert len(candles.calls) == 4
    assert api.asked(MINUTE_PATH) == 2


def test_a_new_pool_gets_its_history_and_one_that_is_not_watched_is_forgotten(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    now = clock.now() // 1_000_000
    for pool in ("A", "B"):
        api.answers[f"/pools/{pool}/ohlcv/minute"] = series(60, now - 2 * DAY)
    home = house(watchlist=POOL, ohlcv=MINUTES, backfill=BIG)
    first_page(home)
    assert until_skipped(home)[0] == 3
    home = house(watchlist={"pools": ["B"]}, ohlcv=MINUTES, backfill=BIG)
    home.run("watchlist")
    home.run("backfill")
    assert home.state("backfill")["pairs"] == {}
    home.run("ohlcv")
    until_skipped(home)
    assert set(home.state("backfill")["pairs"]) == {"B"}
    assert stored(home, pool="A").keys() <= stored(home, pool="B").keys()


def test_a_kill_at_any_moment_leaves_nothing_out(
    house: Open,
    api: FakeApi,
    series: Callable[..., Series],
    clock: FakeClock,
    commits: Callable[[House], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the store as it was after each commit the same history comes, and no page of it twice."""
    now = clock.now() // 1_000_000
    api.answers[MINUTE_PATH] = candles = series(60, now - 30 * DAY, gap=3)
    deep = {"timeframes": ["1m"], "depth": {"1m": "9d"}}
    options: dict[str, Mapping[str, Any]] = {"watchlist": POOL, "ohlcv": MINUTES, "backfill": deep}
    home = house(**options)
    first_page(home)
    copies = commits(home)
    assert until_skipped(home) == (4, AT_ITS_END)
    monkeypatch.undo()
    whole = truth(candles, clock.now() // 1_000_000 - 9 * DAY, now)
    assert stored(home).items() >= whole.items()
    calls = []
    for copy in copies:
        again = type(home)(copy, api.base_url, options, clock)
        calls.append(until_skipped(again)[0])
        assert stored(again).items() >= whole.items()
    assert sorted(set(calls)) == [0, 1, 2, 3, 4]
    assert calls == sorted(calls, reverse=True)


# Options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeframes": ["2m"]}, "timeframes: '2m' is none of"),
        ({"depth": {"15min": "7d"}}, "depth: '15min' is none of 1m 5m 15m 1h 4h 12h 1d, did you mean \"15m\""),
        ({"depth": {"4h": "7d"}}, "depth: 4h is not among the timeframes 1m 15m 1h 1d"),
        ({"depth": {"1m": "soon"}}, "depth 1m: found 'soon'"),
        ({"depth": {"1m": "0s"}}, "depth 1m: found '0s'"),
        ({"depth": "7d"}, "depth: '7d' is no table"),
    ],
)
def test_bad_options_are_refused_in_a_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BackfillOptions(**options)


def test_each_timeframe_has_a_depth_of_its_own() -> None:
    options = BackfillOptions(["1m", "5m", "15m", "1h", "4h", "12h", "1d"], {"1h": "30d"})  # type: ignore[dict-item]
    days = {name: depth / timedelta(days=1) for name, depth in options.depth.items()}
    assert days == {"1m": 7, "5m": 30, "15m": 90, "1h": 30, "4h": 180, "12h": 180, "1d": 180}
