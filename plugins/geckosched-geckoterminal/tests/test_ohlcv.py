"""Candles: the head of each pair, holes that are paged back, and the quiet and the gone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from geckosched_geckoterminal.candle_plan import Ask, CandlePlan
from geckosched_geckoterminal.ohlcv import Ohlcv, OhlcvOptions
from geckosched_geckoterminal.rows import TIMEFRAMES, CandlePage, candle_page

from geckosched import ConfigError, Outcome
from geckosched.testing import FakeClock

if TYPE_CHECKING:
    from conftest import Answer, FakeApi, House

    Open = Callable[..., House]

DAY = 86_400


def refusal(status: int, title: str) -> Answer:
    return status, {"errors": [{"status": str(status), "title": title}]}


def traded(time: float) -> Answer:
    """Answer that a pool's newest trade is of `time`."""
    stamp = f"{datetime.fromtimestamp(time, UTC):%Y-%m-%dT%H:%M:%SZ}"
    attributes = {"block_timestamp": stamp, "tx_hash": stamp, "volume_in_usd": "1"}
    return 200, {"data": [{"id": f"solana_1_{stamp}_0_1", "attributes": attributes}]}


def candles(*rows: Sequence[float]) -> Answer:
    return 200, {"data": {"attributes": {"ohlcv_list": list(rows)}}, "meta": {}}


def test_candles_are_stored_with_final_and_asked_for_again_until_they_are(
    house: Open, api: FakeApi, clock: FakeClock
) -> None:
    now = clock.now() // 1_000_000  # 20:46:00
    before, running = now - 120, now - 60
    api.answers["/pools/A/ohlcv/minute"] = candles(
        [running, 1, 2, 0.5, 1.5, 10.0], [running, 1, 3, 0.5, 2.5, 20.0], [before, 1, 1, 1, 1, 5]
    )
    home = house(watchlist={"pools": ["A"]}, ohlcv={"timeframes": ["1m"]})
    home.run("watchlist")
    run = home.run("ohlcv")
    assert (run.outcome, run.calls, run.rows) == (Outcome.SUCCEEDED, 1, 2)
    assert api.calls == [("/pools/A/ohlcv/minute", {"aggregate": "1", "limit": "1000"})]
    rows = home.rows("SELECT * FROM gt_ohlcv ORDER BY ts DESC")
    assert rows[0] == {
        "network": "solana",
        "pool": "A",
        "timeframe": "1m",
        "ts": running,
        "open": 1,
        "high": 3,
        "low": 0.5,
        "close": 2.5,
        "volume": 20.0,
        "final": 0,
        "run_id": run.id,
    }
    assert rows[1]["final"] == 1
    home.advance(3540)
    assert home.run("ohlcv").calls == 0
    home.advance(60)
    api.answers["/pools/A/ohlcv/minute"] = candles([running, 1, 4, 0.5, 3.5, 30.0])
    again = home.run("ohlcv")
    assert (again.calls, again.rows) == (1, 1)
    assert api.calls[-1][1]["limit"] == "63"  # 62 since the newest final one, and that itself
    (now_final,) = home.rows("SELECT * FROM gt_ohlcv WHERE ts = ?", running)
    assert (now_final["close"], now_final["volume"], now_final["final"]) == (3.5, 30.0, 1)
    assert now_final["run_id"] == again.id


def test_timeframes_are_asked_with_their_path_and_aggregate(house: Open, api: FakeApi) -> None:
    timeframes = ["15m", "4h", "1d"]
    home = house(watchlist={"pools": ["A"]}, ohlcv={"timeframes": timeframes})
    for unit in ("minute", "hour", "day"):
        api.answers[f"/pools/A/ohlcv/{unit}"] = candles()
    home.run("watchlist")
    home.run("ohlcv")
    assert [(path.rpartition("/")[2], query["aggregate"]) for path, query in api.calls] == [
        ("minute", "15"),
        ("hour", "4"),
        ("day", "1"),
    ]


def test_the_budget_limits_a_run_and_the_next_one_goes_on(house: Open, api: FakeApi) -> None:
    pools = [f"P{place}" for place in range(6)]
    for pool in pools:
        api.answers[f"/pools/{pool}/ohlcv/day"] = candles()
    home = house(watchlist={"pools": pools}, ohlcv={"timeframes": ["1d"]})
    home.run("watchlist")
    assert home.run("ohlcv").calls == 4
    home.advance(60)
    assert home.run("ohlcv").calls == 2
    home.advance(60)
    assert home.run("ohlcv").calls == 0
    assert sorted(path for path, _ in api.calls) == [f"/pools/{pool}/ohlcv/day" for pool in pools]


def test_one_timeframes_error_is_a_problem_and_is_asked_again_when_due(house: Open, api: FakeApi) -> None:
    api.answers["/pools/A/ohlcv/minute"] = refusal(422, "Pools with >2 tokens")
    api.answers["/pools/A/ohlcv/hour"] = candles([1790625600, 1, 1, 1, 1, 1], [1, 2, 3])
    home = house(watchlist={"pools": ["A"]}, ohlcv={"timeframes": ["1m", "1h"]})
    home.run("watchlist")
    run = home.run("ohlcv")
    assert (run.outcome, run.calls, run.rows) == (Outcome.PARTIAL, 2, 1)
    assert run.detail is not None
    assert "A 1m: ApiError: 422 Pools with >2 tokens" in run.detail
    assert "A 1h row 2" in run.detail
    home.advance(600)
    assert home.run("ohlcv").calls == 0
    home.advance(3000)
    assert home.run("ohlcv").calls == 2


def test_a_pool_without_candles_is_gone_for_all_timeframes(house: Open, api: FakeApi) -> None:
    home = house(watchlist={"pools": ["A"]}, ohlcv={"timeframes": ["1m", "1h"]})
    home.run("watchlist")
    run = home.run("ohlcv")
    assert (run.outcome, run.calls) == (Outcome.SUCCEEDED, 1)
    assert home.rows("SELECT address, gone_at FROM gt_pools") == [
        {"address": "A", "gone_at": "2026-09-28T20:46:00.000000Z"}
    ]
    home.advance(DAY - 60)
    assert home.run("ohlcv").calls == 0
    home.advance(60)
    assert home.run("ohlcv").calls == 1
    api.answers["/pools/A/ohlcv/minute"] = candles()
    api.answers["/pools/A/ohlcv/hour"] = candles()
    home.advance(DAY)
    assert home.run("ohlcv").calls == 2
    assert home.rows("SELECT gone_at FROM gt_pools") == [{"gone_at": None}]


def test_a_quiet_pool_is_asked_once_a_day_until_it_trades(house: Open, api: FakeApi, clock: FakeClock) -> None:
    old = clock.now() // 1_000_000 - 7200
    api.answers["/pools/A/ohlcv/minute"] = candles([old, 1, 1, 1, 1, 1])
    home = house(watchlist={"pools": ["A"]}, ohlcv={"timeframes": ["1m"]})
    home.run("watchlist")
    assert home.run("ohlcv").calls == 1  # its only candle is new to us
    home.advance(3600)
    assert home.run("ohlcv").calls == 1  # nothing new
    home.advance(3600)
    assert home.run("ohlcv").calls == 0
    api.answers["/pools/A/trades"] = traded(clock.now() / 1e6)
    home.run("trades")
    assert home.run("ohlcv").calls == 1
    home.advance(DAY)
    assert home.run("ohlcv").calls == 1


# The plan


def page(timeframe: str, at: float, *openings: float) -> CandlePage:
    rows = [[ts, 1, 1, 1, 1, 1] for ts in openings]
    body = {"data": {"attributes": {"ohlcv_list": rows}}}
    return candle_page(body, network="solana", pool="A", timeframe=TIMEFRAMES[timeframe], at=at, run_id=1)


def never(_pool: str, _since: float) -> bool:
    return False


def answered(plan: CandlePlan, ask: Ask, at: float, *openings: float) -> None:
    """Let a plan ask, and get these candles."""
    limit = plan.limit(ask, at)
    plan.defer(ask, at)
    assert plan.observe(ask, at, at, limit, page(ask.timeframe, at, *openings)) is None


def test_the_most_overdue_pair_comes_first() -> None:
    """1m is due every `refresh`, an hour; 1d every day."""
    plan = CandlePlan(["A", "B"], ["1m", "1d"])
    asked = []
    for moment in range(4):
        ask = plan.next(moment, never)
        assert ask is not None
        asked.append((ask.pool, ask.timeframe))
        answered(plan, ask, moment)
    assert asked == [("A", "1m"), ("B", "1m"), ("A", "1d"), ("B", "1d")]
    assert plan.next(3599, never) is None
    for pool in ("A", "B"):
        answered(plan, Ask(pool, "1m"), DAY - 3599, DAY - 3660)
    assert plan.next(DAY + 2, never) == Ask("A", "1m")  # since 1 s; ("A", "1d") since 0 s


def test_a_failed_pair_waits_longer_each_time_and_holds_up_no_other() -> None:
    plan = CandlePlan(["A", "B"], ["1m"])
    plan.defer(Ask("A", "1m"), 0)
    assert plan.next(0, never) == Ask("B", "1m")
    answered(plan, Ask("B", "1m"), 0)
    assert plan.next(299, never) is None
    assert plan.next(300, never) == Ask("A", "1m")
    plan.defer(Ask("A", "1m"), 300)
    assert plan.next(899, never) is None
    assert plan.next(900, never) == Ask("A", "1m")
    for _ in range(50):
        plan.defer(Ask("A", "1m"), 900)
    assert plan.next(900 + 3600, never) is not None  # never longer than `refresh`


def test_what_is_missing_reaches_from_the_newest_final_candle_to_now() -> None:
    plan, ask = CandlePlan(["A"], ["1m"]), Ask("A", "1m")
    assert plan.limit(ask, 6000) == 1000
    answered(plan, ask, 6000, 5940, 5880, 5820)
    assert plan.limit(ask, 6000) == 3  # 5880, which is final, 5940 and 6000
    assert plan.limit(ask, 6000 + 60 * 5000) == 1000
    assert plan.limit(ask, 0) == 1


def test_a_plan_survives_its_state() -> None:
    plan = CandlePlan(["A", "B"], ["1m", "1h"])
    answered(plan, Ask("A", "1m"), 6000, 5940, 5880)
    answered(plan, Ask("A", "1m"), 600_000, *range(599_940, 599_940 - 60_000, -60))  # leaves a hole
    plan.gone.mark("B", 600_000)
    state: dict[str, Any] = {}
    plan.save(state)
    again = CandlePlan.restore(json.loads(json.dumps(state)), ["A", "B"], ["1m", "1h"])
    saved: dict[str, Any] = {}
    again.save(saved)
    assert saved == json.loads(json.dumps(state))
    assert again.next(600_000, never) == Ask("A", "1h")
    other = CandlePlan.restore(state, ["A", "C"], ["1m"])
    assert other.next(600_000, never) == Ask("C", "1m")


def test_a_clock_that_was_set_back_makes_candles_and_holes_due() -> None:
    plan = CandlePlan(["A"], ["1m"])
    answered(plan, Ask("A", "1m"), 50_000, 49_800)
    assert plan.next(40_000, never) == Ask("A", "1m")
    answered(plan, Ask("A", "1m"), 500_000, *range(499_920, 499_920 - 60_000, -60))
    answered(plan, Ask("A", "1m"), 100_000, 99_960)  # due in an hour, the hole was in 400,000 s
    ask = plan.next(100_000, never)
    assert ask is not None
    assert ask.hole is not None


def test_a_hole_takes_its_turn_after_what_is_overdue_for_longer() -> None:
    """A long hole takes a call now and then, and holds up nobody."""
    plan = CandlePlan(["A", "B"], ["1m"])
    for pool in ("A", "B"):
        answered(plan, Ask(pool, "1m"), 0)
    answered(plan, Ask("A", "1m"), 60, 0)
    answered(plan, Ask("A", "1m"), 300_000, *range(299_940, 239_940, -60))
    order = []
    for moment in (300_001, 300_002, 300_003):
        ask = plan.next(moment, never)
        assert ask is not None
        order.append((ask.pool, ask.hole is not None))
        before = 300_000 if ask.hole is None else ask.hole.before
        answered(plan, ask, moment, *range(before - 60, before - 60_060, -60))
    assert order == [("B", False), ("A", True), ("A", True)]


def test_two_holes_of_one_pair_are_both_kept_and_closed() -> None:
    plan, ask = CandlePlan(["A"], ["1m"]), Ask("A", "1m")
    answered(plan, ask, 600, 480)
    answered(plan, ask, 120_000, *range(119_940, 59_940, -60))
    answered(plan, ask, 240_000, *range(239_940, 179_940, -60))
    holes = plan.holes("A", "1m")
    assert [(hole.after, hole.before) for hole in holes] == [(480, 60_000), (119_880, 180_000)]
    for hole in holes:
        answered(plan, Ask("A", "1m", hole), 240_000, *range(hole.before - 60, hole.after, -60))
    assert plan.holes("A", "1m") == []


def test_a_pool_that_wakes_after_a_year_has_no_hole_of_a_year() -> None:
    """It was asked each day, so that nothing can be missing but what is younger than the last answer."""
    year = 365 * DAY
    plan, ask = CandlePlan(["A"], ["1d"]), Ask("A", "1d")
    answered(plan, ask, 3 * DAY, DAY, 0)
    answered(plan, ask, year)
    now = year + 2 * DAY + 60
    answered(plan, ask, now, year + DAY)
    assert plan.holes("A", "1d") == []
    assert plan.limit(ask, now) == 2


def test_what_was_not_asked_for_half_a_year_is_a_hole_though_the_answer_is_short() -> None:
    """One answer spans half a year, whatever its limit."""
    plan, ask = CandlePlan(["A"], ["1d"]), Ask("A", "1d")
    answered(plan, ask, 3 * DAY, DAY, 0)
    now = 300 * DAY
    answered(plan, ask, now, *range(now, now - 184 * DAY, -DAY))
    (hole,) = plan.holes("A", "1d")
    assert (hole.after, hole.before) == (DAY, 117 * DAY)


# Options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeframes": ["1m", "2m"]}, "timeframes: '2m' is none of 1m 5m 15m 1h 4h 12h 1d"),
        ({"timeframes": []}, "timeframes"),
        ({"timeframes": "1m"}, "timeframes: '1m' is no list"),
        ({"refresh": "10s"}, "refresh: 0:00:10 is less than 1m"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        OhlcvOptions(**options)


def test_options_are_read() -> None:
    options = OhlcvOptions(["1h", "1m", "1h"], "2h")  # type: ignore[arg-type]
    assert options.timeframes == ["1h", "1m"]
    assert options.refresh.total_seconds() == 7200


def test_an_estimate_of_calls_counts_each_timeframe_as_often_as_it_is_due() -> None:
    assert Ohlcv.calls_per_run(OhlcvOptions()) == 2  # 27 pools, 3 + 1/24 an hour
    assert Ohlcv.calls_per_run(OhlcvOptions(["1d"])) == 1
    assert Ohlcv.calls_per_run(OhlcvOptions(["1m"], "1m")) == 27  # type: ignore[arg-type]
