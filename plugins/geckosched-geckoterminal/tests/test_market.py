"""The synthetic market: what it shows agrees with itself, and is the same whenever and however it is asked."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from functools import cache
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

import pytest
from geckosched_geckoterminal.answers import Api, Call
from geckosched_geckoterminal.chance import base58, unbase58
from geckosched_geckoterminal.market import WINDOWS, Candle, Pool, Trade
from geckosched_geckoterminal.population import HOUR, LONGEST_LIFE, NEWBORNS_LISTED
from geckosched_geckoterminal.synthetic import SyntheticMarket
from hypothesis import example, given, settings
from hypothesis import strategies as st

START = 1_790_629_200  # 2026-09-28T21:00:00Z
DAY = 86400
STEPS = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "4h": 4 * 3600, "12h": 12 * 3600, "1d": DAY}

slow = settings(derandomize=True, deadline=None, max_examples=20)
moments = st.integers(START - 3600, START + 3 * DAY)


@cache
def market(seed: int) -> SyntheticMarket:
    """Return a small market with many births; what it has made already must not matter."""
    return SyntheticMarket(seed, pools=14, born=START, births=60)


@st.composite
def pools(draw: st.DrawFn) -> tuple[SyntheticMarket, Pool]:
    """Draw a pool of a market: a founder, not the hottest two (they cost seconds), or a newborn."""
    made = market(draw(st.integers(1, 3)))
    if draw(st.booleans()):
        return made, draw(st.sampled_from(made.founders[2:]))
    now = draw(moments)
    born = [pool for pool in made.pools("solana", now).values() if (pool.created_at or 0) > now - DAY]
    return made, draw(st.sampled_from(born))


def ask(made: SyntheticMarket, path: str, now: int, **query: str) -> Any:
    """Ask the API of a market at a moment."""
    return Api(made).answer(Call(f"/networks/solana/{path}", query, now, "id", "http://root")).body


def newer(trades: Iterable[Trade], than: int) -> list[Trade]:
    """Take the trades after a moment off those that come newest first."""
    return list(takewhile(lambda trade: trade.block_time > than, trades))


def stamp(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


# Candles


def aggregated(trades: list[Trade], step: int) -> list[Candle]:
    """Make candles, newest first, of trades in order of time, as api.md describes them; sums are exact."""
    made: list[Candle] = []
    sums: dict[int, Decimal] = {}
    closed = None
    for trade in trades:
        ts = trade.block_time // step * step
        price = float(trade.price_to_usd if trade.kind == "buy" else trade.price_from_usd)
        sums[ts] = sums.get(ts, Decimal(0)) + Decimal(trade.volume_usd)
        if not made or made[-1].ts != ts:
            opened = price if closed is None else closed
            made.append(Candle(ts, opened, max(opened, price), min(opened, price), price, 0.0))
        else:
            last = made[-1]
            made[-1] = last._replace(high=max(last.high, price), low=min(last.low, price), close=price)
        closed = price
    return [candle._replace(volume=float(sums[candle.ts])) for candle in reversed(made)]


@slow
@given(pools(), moments, st.sampled_from(list(STEPS)))
def test_candles_are_the_trades_added_up_to_the_last_digit(
    found: tuple[SyntheticMarket, Pool], now: int, timeframe: str
) -> None:
    """For every timeframe and at any moment, the running candle included: no tolerance."""
    made, pool = found
    step = STEPS[timeframe]
    begins = (now - 2 * DAY) // DAY * DAY
    trades = newer(made.trades(pool, now), begins - 1)[::-1]
    shown = list(made.candles(pool, step, begins, now + 1, now))
    expected = aggregated(trades, step)
    if expected and any(trade.block_time < begins for trade in made.trades(pool, now)):
        opened = next(made.candles(pool, step, 0, begins, now)).close
        first = expected[-1]
        expected[-1] = first._replace(open=opened, high=max(first.high, opened), low=min(first.low, opened))
    assert shown == expected


# Trades


def trades_shown(made: SyntheticMarket, pool: Pool, now: int) -> dict[str, Any]:
    rows = ask(made, f"pools/{pool.address}/trades", now)["data"] if (pool.created_at or 0) <= now else []
    assert len(rows) <= 300
    return {row["id"]: row["attributes"] for row in rows}


@slow
@given(pools(), moments, st.integers(0, 2 * HOUR))
def test_a_trade_once_shown_stays_until_the_window_moves_past_it(
    found: tuple[SyntheticMarket, Pool], now: int, later: int
) -> None:
    """Trades appear late and in between; none changes, and none goes but by 24 hours or 300 newer ones."""
    made, pool = found
    before, after = trades_shown(made, pool, now), trades_shown(made, pool, now + later)
    times = [stamp(row["block_timestamp"]) for row in after.values()]
    assert times == sorted(times, reverse=True)
    assert all(now + later - DAY < time <= now + later for time in times)
    assert all(int(each.rpartition("_")[2]) <= now + later for each in after)
    bottom = times[-1] if len(times) == 300 else now + later - DAY
    staying = {each: row for each, row in before.items() if stamp(row["block_timestamp"]) > bottom}
    assert {each: after.get(each) for each in staying} == staying


def test_some_trades_come_late() -> None:
    """One in fifty is shown 20 to 61 seconds after its block, when newer ones have been there for long."""
    made = market(1)
    trades = newer(made.trades(made.founders[1], START), START - 6 * HOUR)
    lags = [trade.visible_at - trade.block_time for trade in trades]
    assert min(lags) >= 2
    assert max(lags) <= 61
    late = sum(lag >= 20 for lag in lags) / len(lags)
    assert 0.01 < late < 0.06
    times = [trade.block_time for trade in trades]
    assert times == sorted(times, reverse=True)
    assert len({trade.tx_hash for trade in trades}) == len(trades) > 500


def test_the_rates_are_spread_like_the_real_ones_and_some_pools_are_quiet() -> None:
    made = market(1)
    counts = sorted(made.activity(pool, START).trades for pool in made.founders)
    assert counts[0] == 0
    assert counts[2] < 100
    assert counts[-1] > 3000
    assert {pool.dex for pool in made.founders} == {"pumpswap", "raydium"}


@slow
@given(pools(), moments)
def test_what_lists_are_sorted_by_is_what_they_show(found: tuple[SyntheticMarket, Pool], now: int) -> None:
    made, pool = found
    for name, window in made.figures(pool, now).windows.items():
        activity = made.activity(pool, now, WINDOWS[name])
        assert activity == (window.buys + window.sells, window.volume)
        assert activity.trades == len(newer(made.trades(pool, now), now - WINDOWS[name]))
        assert activity.trades <= made.at_most(pool)


@slow
@given(pools(), moments)
def test_windows_are_the_visible_trades_added_up_to_the_last_digit(
    found: tuple[SyntheticMarket, Pool], now: int
) -> None:
    """Counts, traders, volumes and the price: trades of the last minute that can't be seen yet count for nothing."""
    made, pool = found
    figures = made.figures(pool, now)
    for name, window in figures.windows.items():
        inside = newer(made.trades(pool, now), now - WINDOWS[name])
        for kind in ("buy", "sell"):
            those = [trade for trade in inside if trade.kind == kind]
            assert getattr(window, f"{kind}s") == len(those)
            assert getattr(window, f"{kind}ers") == len({trade.tx_from for trade in those})
            volume = float(sum(Decimal(trade.volume_usd) for trade in those))
            assert getattr(window, f"{kind}_volume") == volume
    latest = next(made.trades(pool, now), None)
    if latest:
        price = latest.price_to_usd if latest.kind == "buy" else latest.price_from_usd
        assert float(figures.base_usd or 0) == float(price)
    assert made.reserve(pool, now) == figures.reserve_usd


def test_few_newborns_come_near_the_most_that_they_could_trade() -> None:
    """So that lists of the busiest need not count those that are far from it."""
    made = market(1)
    newborns = [pool for pool in made.pools("solana", START).values() if pool not in made.founders][:300]
    shares = sorted(made.activity(pool, START).trades / made.at_most(pool) for pool in newborns)
    assert shares[len(shares) // 2] > 0.2
    assert shares[-1] < 0.95
    assert {made.at_most(pool) for pool in made.founders} == {float("inf")}


# Births


@slow
@given(st.integers(1, 3), moments)
@example(1, START + 1000 * DAY)
def test_a_pool_is_nowhere_before_its_birth_and_for_ever_after_it(seed: int, now: int) -> None:
    """Lists, the pool itself and its trades; also long after it has left the lists."""
    made = market(seed)
    listed = made.pools("solana", now)
    assert all((pool.created_at or 0) <= now for pool in listed.values())
    youngest = max(listed.values(), key=lambda pool: pool.created_at or 0)
    born = youngest.created_at or 0
    assert made.pool("solana", youngest.address, born - 1) is None
    assert youngest.address not in made.pools("solana", born - 1)
    for moment in (born, born + 1000 * DAY):
        assert made.pool("solana", youngest.address, moment) == youngest
    assert all(trade.block_time >= born for trade in made.trades(youngest, now + DAY))
    assert made.pool("eth", youngest.address, now) is None


def test_new_pools_keep_appearing_at_the_rate_that_was_asked_for() -> None:
    """The endpoint shows each from the second of its birth on, the youngest first."""
    for births in (10, 30):
        made = SyntheticMarket(5, pools=1, born=START, births=births)
        seen: dict[str, int] = {}
        for now in range(START, START + 3 * HOUR, 600):
            rows = list(chain.from_iterable(ask(made, "new_pools", now, page=page)["data"] for page in ("1", "2")))
            times = [stamp(row["attributes"]["pool_created_at"]) for row in rows]
            assert times == sorted(times, reverse=True)
            fresh = {row["id"]: time for row, time in zip(rows, times, strict=True) if row["id"] not in seen}
            assert all(now - 600 < time <= now for time in fresh.values()) or now == START
            seen |= fresh
        assert sum(time > START for time in seen.values()) == pytest.approx(births * 17 / 6, abs=2)
    assert list(SyntheticMarket(5, pools=2, born=START, births=0).pools("solana", START + DAY)) == [
        pool.address for pool in SyntheticMarket(5, pools=2, born=START).founders
    ]


def test_most_newborns_live_short_and_begin_busy() -> None:
    made = SyntheticMarket(2, pools=1, born=START, births=8)
    born = [pool for pool in made.pools("solana", START).values() if (pool.created_at or 0) > START - DAY]
    newborns = [pool for pool in born if pool not in made.founders]
    lives = sorted((made.death(pool) or 0) - (pool.created_at or 0) for pool in newborns)
    assert 90 <= lives[0] < lives[len(lives) // 2] < HOUR
    assert lives[-1] <= LONGEST_LIFE
    first = minutes = 0
    for pool in newborns:
        age = [trade.block_time - (pool.created_at or 0) for trade in made.trades(pool, START)]
        first += sum(each < 90 for each in age)
        minutes += sum(90 <= each < 1890 for each in age)
    assert first / 90 > 2 * minutes / 1800
    assert sum(pool.dex == "pump-fun" for pool in newborns) > len(newborns) / 2


def test_a_market_with_very_many_births_stays_small() -> None:
    made = SyntheticMarket(1, pools=3, born=START, births=5000)
    assert len(made.pools("solana", START + 30 * DAY)) <= 3 + NEWBORNS_LISTED + 1


@given(st.binary(min_size=1, max_size=64))
def test_addresses_can_be_read_back(content: bytes) -> None:
    number = int.from_bytes(content)
    assert unbase58(base58(number)) == number or len(base58(number)) > 64


@slow
@given(st.text("123abcXYZ0l-_", max_size=70))
def test_no_text_is_mistaken_for_a_newborns_address(text: str) -> None:
    assert market(1).pool("solana", text, START) is None


# Deaths and bursts


def test_some_founders_die_and_never_trade_again() -> None:
    """They keep answering, with candles of their past."""
    made = SyntheticMarket(3, pools=50, born=START, births=0)
    dead = [pool for pool in made.founders if made.death(pool) is not None]
    assert 4 <= len(dead) <= 24
    assert made.founders[0] not in dead
    mourned = 0
    for pool in dead:
        death: int = made.death(pool) or 0
        assert death > START
        times = [trade.block_time for trade in newer(made.trades(pool, death + 10 * DAY), death - HOUR)]
        assert all(time < death for time in times)
        mourned += len(times)
        assert made.activity(pool, death + 2 * DAY).trades == 0
        assert not list(made.candles(pool, 60, death, death + 10 * DAY, death + 10 * DAY))
        assert made.pool("solana", pool.address, death + 10 * DAY) == pool
    assert mourned > 100


@slow
@given(pools(), moments)
def test_the_dead_do_not_trade(found: tuple[SyntheticMarket, Pool], now: int) -> None:
    made, pool = found
    death = made.death(pool)
    if death is not None:
        assert all(trade.block_time < death for trade in newer(made.trades(pool, now), now - DAY))


def test_any_pool_has_bursts_of_about_a_quarter_of_an_hour() -> None:
    """In one a pool is 3 to 12 times as busy as in the hour around it."""
    made = SyntheticMarket(4, pools=16, born=START - 6 * DAY, births=0)
    inside, around = 0.0, 0.0
    for pool in made.founders[4:8]:
        bursts = made.bursts(pool, START - 6 * DAY, START)
        assert 4 <= len(bursts) <= 20
        times = [trade.block_time for trade in made.trades(pool, START)]
        for since, until, factor in bursts:
            assert 600 <= until - since <= 1200
            assert 3 <= factor <= 12
            if made.death(pool) is None and since > (pool.created_at or 0):
                inside += sum(since <= time < until for time in times) / factor / (until - since)
                near = sum(since - 1800 <= time < since for time in times)
                around += (near + sum(until <= time < until + 1800 for time in times)) / 3600
    assert around > 0
    assert inside / around == pytest.approx(1, abs=0.15)


# The same market


@cache
def told(seed: int, order: int) -> dict[str, str]:
    """Return all that a market shows at a few moments, by question, asked forwards or backwards."""
    made = SyntheticMarket(seed, pools=5, born=START, births=2)
    quiet = made.founders[1:]
    asked = []
    for now in (START + 3600, START, START + 100, START - DAY):
        asked += [(now, "new_pools", {}), (now, "pools", {"include": "base_token,quote_token,dex"})]
        asked += [(now, "trending_pools", {"include": "base_token,dex", "duration": "1h"})]
        asked += [(now, f"tokens/multi/{quiet[0].quote.address}", {"include": "top_pools"})]
        young = list(made.pools("solana", now).values())[-1]
        asked += [(now, f"tokens/{young.base.address}/info", {}), (now, f"pools/{young.address}/info", {})]
        for pool in quiet:
            if (pool.created_at or 0) <= now:
                asked.append((now, f"pools/{pool.address}/trades", {}))
                asked += [
                    (now, f"pools/{pool.address}/ohlcv/{unit}", {"limit": "200"}) for unit in ("minute", "hour", "day")
                ]
    return {f"{now} {path}": json.dumps(ask(made, path, now, **query)) for now, path, query in asked[::order]}


def digest(seed: int, order: int) -> str:
    return hashlib.sha256(repr(sorted(told(seed, order).items())).encode()).hexdigest()


def test_same_seed_same_bytes_in_another_process_and_order() -> None:
    """Neither the order of questions matters nor the process, nor how it seeds its hashes."""
    code = f"import test_market; print(test_market.digest(5, -1)); print(test_market.START == {START})"
    folder = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join([folder, *sys.path])}
    shown = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).split()
    assert shown == [digest(5, 1), "True"]


def test_another_seed_is_another_market() -> None:
    one, other = told(5, 1), told(6, 1)
    assert not one.keys() & {key for key in other if "/trades" in key}
    assert not {body for body in one.values() if "{\"id" in body} & set(other.values())
