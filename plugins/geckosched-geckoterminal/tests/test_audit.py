"""Stored trades are held against the candles, hour by hour."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pytest
from geckosched_geckoterminal import audit
from geckosched_geckoterminal.audit import AGAIN_FOR, Known, hours_to_judge, judgeable
from geckosched_geckoterminal.simulator import Simulator
from geckosched_geckoterminal.synthetic import SyntheticMarket

from geckosched import Outcome
from geckosched.testing import FakeClock

if TYPE_CHECKING:
    from conftest import FakeApi, House

    Open = Callable[..., House]

HOUR, DAY = 3600, 86_400
TRADES, CANDLES = "/pools/A/trades", "/pools/A/ohlcv/minute"


def text(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def show(api: FakeApi, now: int, trades: Sequence[tuple[int, float]], lacking: Sequence[int] = ()) -> None:
    """Let the API show trades (time, USD), all of them in the candles, but for the `lacking` in the trades."""
    rows = [
        {
            "id": f"solana_1_tx{time}_0_1",
            "attributes": {"block_timestamp": text(time), "tx_hash": f"tx{time}", "volume_in_usd": str(usd)},
        }
        for time, usd in sorted(trades, reverse=True)
        if time <= now and time not in lacking
    ]
    api.answers[TRADES] = (200, {"data": rows})
    candles: dict[int, float] = {}
    for time, usd in trades:
        if time <= now:
            candles[time // 60 * 60] = candles.get(time // 60 * 60, 0) + usd
    listed = [[ts, 1, 1, 1, 1, candles[ts]] for ts in sorted(candles, reverse=True)]
    api.answers[CANDLES] = (200, {"data": {"attributes": {"ohlcv_list": listed}}})


def home_of(house: Open, **options: Any) -> House:
    home = house(
        watchlist={"pools": ["A"]}, ohlcv={"timeframes": ["1m"]}, trades={"max_wait": "1h"}, audit={}, **options
    )
    home.run("watchlist")
    return home


def collect(home: House) -> None:
    for name in ("trades", "ohlcv", "audit"):
        assert home.run(name).outcome == Outcome.SUCCEEDED


def hours(home: House) -> dict[str, tuple[Any, ...]]:
    """Return what `gt_completeness` says by hour of the day: trades, trade volume, candle volume, share."""
    rows = home.rows("SELECT hour, trades, trade_volume, candle_volume, share FROM gt_completeness ORDER BY hour")
    return {hour[11:13]: tuple(figures) for hour, *figures in (row.values() for row in rows)}


def test_an_hour_is_judged_once_its_trades_and_candles_are_in(house: Open, api: FakeApi, clock: FakeClock) -> None:
    """From the first whole hour that the first poll shows; not the running one, nor one that lacks its end."""
    now = clock.now() // 1_000_000  # 20:46
    begins = now - 46 * 60
    trades = [(begins - 5400, 1.0), (begins - 3000, 2.5), (begins - 2990, 4.0), (begins + 60, 8.0)]
    trades.append((begins + 3900, 16.0))
    home = home_of(house)
    show(api, now, trades)
    collect(home)
    assert hours(home) == {"19": (2, 6.5, 6.5, 1.0)}  # 18 is that of the oldest trade, 20 runs
    (row,) = home.rows("SELECT * FROM gt_completeness")
    assert (row["network"], row["pool"], row["hour"], row["timeframe"]) == ("solana", "A", "2026-09-28T19:00:00Z", "1m")
    home.advance(20 * 60)  # 21:06
    show(api, now + 1200, trades)
    home.run("trades")
    home.run("audit")
    assert set(hours(home)) == {"19"}  # its candles were asked for at 20:46
    home.advance(40 * 60)
    show(api, now + 3600, trades)
    collect(home)
    assert hours(home) == {"19": (2, 6.5, 6.5, 1.0), "20": (1, 8.0, 8.0, 1.0)}


def test_what_is_missing_shows_as_a_share_and_what_comes_late_mends_it(
    house: Open, api: FakeApi, clock: FakeClock
) -> None:
    now = clock.now() // 1_000_000
    begins = now - 46 * 60
    trades = [(begins - 3700, 1.0), (begins - 3000, 30.0), (begins - 2990, 10.0), (begins + 60, 8.0)]
    home = home_of(house)
    show(api, now, trades, lacking=[begins - 2990])
    collect(home)
    assert hours(home) == {"19": (1, 30.0, 40.0, 0.75)}
    home.advance(3600)
    show(api, now, trades)
    collect(home)
    assert hours(home)["19"] == (2, 40.0, 40.0, 1.0)
    first, second = home.rows("SELECT DISTINCT run_id FROM gt_trades ORDER BY run_id")
    assert first != second
    home.advance(3600)
    unchanged = home.rows("SELECT * FROM gt_completeness WHERE hour LIKE '%T19%'")
    home.run("audit")
    assert home.rows("SELECT * FROM gt_completeness WHERE hour LIKE '%T19%'") == unchanged


def test_an_hour_without_volume_has_no_share(house: Open, api: FakeApi, clock: FakeClock) -> None:
    now = clock.now() // 1_000_000
    begins = now - 46 * 60
    home = home_of(house)
    show(api, now, [(begins - 7300, 1.0), (begins - 5000, 2.0), (begins + 60, 8.0)])
    collect(home)
    assert hours(home) == {"18": (1, 2.0, 2.0, 1.0), "19": (0, 0.0, 0.0, None)}


def test_an_hour_in_a_hole_is_judged_when_that_is_closed(house: Open, api: FakeApi, clock: FakeClock) -> None:
    """However long that takes."""
    now = clock.now() // 1_000_000
    begins = now - 46 * 60
    trades = [(begins - 7300, 1.0), (begins - 5000, 2.0), (begins - 3000, 3.0), (begins + 60, 8.0)]
    home = home_of(house)
    show(api, now, trades)
    home.run("trades")
    home.run("ohlcv")
    hole = {"after": begins - 3001 // 60 * 60 - 600, "before": begins - 2400, "share": 1.0, "due_at": 9e9, "tries": 0}
    state = "json_set(state, '$.pairs.A.1m.holes', json(?))"
    with closing(sqlite3.connect(home.database)) as store, store:
        where = "WHERE job_id = 'geckoterminal-ohlcv'"
        store.execute(f"UPDATE geckosched_jobs SET state = {state} {where}", (json.dumps([hole]),))
    home.run("audit")
    assert set(hours(home)) == {"18"}
    clock.advance(5 * DAY)
    home.run("audit")
    assert set(hours(home)) == {"18"}
    with closing(sqlite3.connect(home.database)) as store, store:
        store.execute(f"UPDATE geckosched_jobs SET state = {state} {where}", ("[]",))
    home.run("audit")
    assert hours(home)["19"] == (1, 3.0, 3.0, 1.0)
    assert home.state("audit")["pools"]["A"]["left"] != []  # after it no candles were asked for


def test_an_hour_with_an_unreadable_candle_is_judged_when_that_is_read(
    house: Open, api: FakeApi, clock: FakeClock
) -> None:
    now = clock.now() // 1_000_000
    begins = now - 46 * 60
    trades = [(begins - 7300, 1.0), (begins - 5000, 2.0), (begins - 3000, 3.0), (begins + 60, 8.0)]
    home = home_of(house)
    show(api, now, trades)
    _, body = cast("tuple[int, Any]", api.answers[CANDLES])
    body["data"]["attributes"]["ohlcv_list"][1][5] = None
    for name in ("trades", "ohlcv"):
        home.run(name)
    assert home.run("audit").rows == 0  # nothing tells yet up to when all candles are read
    home.advance(3600)
    show(api, now, trades)
    collect(home)
    assert hours(home)["19"] == (1, 3.0, 3.0, 1.0)


def test_a_market_that_was_collected_whole_is_complete_to_the_last_digit(house: Open, clock: FakeClock) -> None:
    """The simulator's candles are the sums of its trades."""
    begins = clock.now() // 1_000_000
    market = SyntheticMarket(2, pools=6, births=0, born=begins)
    pools = [pool.address for pool in market.founders[3:5]]
    with Simulator(market, clock, rate=0) as simulator:
        home = house(
            base_url=simulator.base_url,
            watchlist={"pools": pools},
            trades={"max_wait": "5m"},
            ohlcv={"timeframes": ["1m", "1h"]},
            audit={},
        )
        home.run("watchlist")
        for _ in range(11):
            clock.advance(1200)
            for name in ("trades", "ohlcv", "audit"):
                assert home.run(name).outcome == Outcome.SUCCEEDED
    assert home.rows("SELECT * FROM geckosched_losses") == []
    rows = home.rows("SELECT * FROM gt_completeness")
    judged = {row["pool"]: sum(row["pool"] == each["pool"] and each["trades"] > 0 for each in rows) for row in rows}
    assert set(judged) == set(pools)
    assert max(judged.values()) >= 3
    assert {row["timeframe"] for row in rows} == {"1m"}
    for row in rows:
        assert row["share"] == (pytest.approx(1, rel=1e-9) if row["trades"] else None)


def test_queries_use_the_tables_keys_and_the_index(house: Open, api: FakeApi, clock: FakeClock) -> None:
    """There may be millions of trades."""
    home = home_of(house)
    now = clock.now() // 1_000_000
    show(api, now, [(now - 9000, 1.0), (now - 60, 1.0)])
    collect(home)
    queries = {audit.TRADED: 2, audit.TRADES_BY_HOUR: 4, audit.VOLUME_BY_HOUR: 5}
    for sql, parameters in queries.items():
        with closing(sqlite3.connect(home.database)) as store:
            steps = [row[3] for row in store.execute(f"EXPLAIN QUERY PLAN {sql}", ("x",) * parameters)]
        reads = [step for step in steps if "gt_trades" in step or "gt_ohlcv" in step]
        assert reads, steps
        assert all(step.startswith("SEARCH") and ("block_timestamp" in step or "ts>" in step) for step in reads), steps


# What is judged when


def test_new_hours_are_judged_once_and_those_of_two_days_again() -> None:
    now = 1000 * HOUR + 100.0
    assert hours_to_judge(now, 997 * HOUR, None, []) == [997 * HOUR, 998 * HOUR, 999 * HOUR]
    assert hours_to_judge(now, 100 * HOUR, 999 * HOUR, []) == [*range(952 * HOUR, 1000 * HOUR, HOUR)]
    assert hours_to_judge(now, 100 * HOUR, 900 * HOUR, [])[0] == 900 * HOUR
    assert hours_to_judge(now, 100 * HOUR, 999 * HOUR, [500 * HOUR])[:2] == [500 * HOUR, 952 * HOUR]
    assert AGAIN_FOR == 48 * HOUR


def test_an_hour_is_left_until_a_later_trade_or_a_day_shows_that_its_own_are_in() -> None:
    hour = 100 * HOUR
    known = {"1m": Known(0, 1000.0 * HOUR), "1h": Known(0, 1000.0 * HOUR)}
    assert judgeable(hour, hour + 2 * HOUR, hour + HOUR + 59, known) is None
    assert judgeable(hour, hour + 2 * HOUR, hour + HOUR + 60, known) == "1m"
    assert judgeable(hour, hour + HOUR + DAY - 1, hour, known) is None
    assert judgeable(hour, hour + HOUR + DAY, hour, known) == "1m"


def test_the_finest_timeframe_that_covers_an_hour_judges_it() -> None:
    hour, later = 100 * HOUR, 200.0 * HOUR
    full = Known(0, later)
    assert judgeable(hour, later, later, {"15m": full, "1h": full, "1d": full}) == "15m"
    assert judgeable(hour, later, later, {"1m": Known(hour + 60, later), "1h": full}) == "1h"
    assert judgeable(hour, later, later, {"1m": Known(None, later), "1d": full}) is None
    assert judgeable(hour, later, later, {"1m": Known(0, None)}) is None


@pytest.mark.parametrize(
    ("read", "missing", "covered"),
    [
        (HOUR + 60, (), True),
        (HOUR + 59, (), False),
        (HOUR + 60, [(-600, 0)], True),
        (HOUR + 60, [(-600, 1)], False),
        (HOUR + 60, [(HOUR, HOUR + 60)], True),
        (HOUR + 60, [(HOUR - 60, HOUR + 60)], False),
    ],
)
def test_an_hour_is_covered_by_candles_read_after_its_end_without_a_gap(
    read: int, missing: Sequence[tuple[int, int]], covered: bool
) -> None:
    hour = 100 * HOUR
    gaps = [(hour + begins, hour + ends) for begins, ends in missing]
    assert Known(hour, float(hour + read), gaps).covers(hour) is covered


def test_without_a_watchlist_or_a_trade_nothing_is_judged(house: Open, api: FakeApi) -> None:
    home = house(watchlist={"pools": ["A"]}, audit={})
    assert home.run("audit").outcome == Outcome.SKIPPED
    home.run("watchlist")
    run = home.run("audit")
    assert (run.outcome, run.rows, run.calls) == (Outcome.SUCCEEDED, 0, 0)
