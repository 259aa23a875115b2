"""The collectors in a real scheduler, over a small loopback server."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from geckosched_geckoterminal import register_commands
from geckosched_geckoterminal.client import Settings
from geckosched_geckoterminal.rotation import TradeRotation
from geckosched_geckoterminal.top_pools import TopPoolsOptions
from geckosched_geckoterminal.trades import LONGEST_RUN, LONGEST_WAIT, TradesOptions, next_pool
from typer.testing import CliRunner

from geckosched import ConfigError, Outcome
from geckosched.testing import FakeClock, SpeedClock

if TYPE_CHECKING:
    from conftest import Answer, FakeApi, House

    Open = Callable[..., House]

DAY = 86_400

NOW = START = datetime(2026, 9, 28, 20, 46, tzinfo=UTC)


def not_found() -> Answer:
    return 404, {"errors": [{"status": "404", "title": "Not Found"}], "meta": {"ref_id": "x"}}


def refusal(status: int, title: str) -> Answer:
    return status, {"errors": [{"status": str(status), "title": title}]}


# All that look after watched pools


@pytest.mark.parametrize("collector", ["trades", "ohlcv"])
def test_without_a_watchlist_the_others_skip_and_look_again_soon(house: Open, api: FakeApi, collector: str) -> None:
    home = house(watchlist={"pools": []})
    for _ in range(2):  # without the table, and with an empty one
        run = home.run(collector)
        assert run.outcome == Outcome.SKIPPED
        (job,) = home.rows(
            "SELECT next_run_at FROM geckosched_jobs WHERE job_id = ?",
            f"geckoterminal-{collector}",
        )
        assert job["next_run_at"] == "2026-09-28T20:46:05.000000Z"
        home.run("watchlist")
    assert api.calls == []


def test_a_watchlist_that_stays_empty_is_looked_at_by_the_slots(house: Open, clock: FakeClock) -> None:
    """An hourly collector would else run every five seconds for ever, each time with a row of history."""
    home = house(watchlist={"pools": []})
    for _ in range(3):
        home.run("watchlist")
    assert home.run("audit").outcome == Outcome.SKIPPED
    (job,) = home.rows("SELECT next_run_at FROM geckosched_jobs WHERE job_id = 'geckoterminal-audit'")
    assert job["next_run_at"] > "2026-09-28T20:51"


# Trades


def trade(place: int, time: float) -> dict[str, Any]:
    stamp = datetime.fromtimestamp(time, UTC)
    attributes = {
        "block_number": 1000 + place,
        "block_timestamp": f"{stamp:%Y-%m-%dT%H:%M:%SZ}",
        "tx_hash": f"tx{place}",
        "kind": "buy",
        "price_to_in_usd": "0.5",
        "price_from_in_usd": "118.7",
        "volume_in_usd": "100.5",
    }
    return {
        "id": f"solana_{1000 + place}_tx{place}_3_{int(time) + 5}",
        "type": "trade",
        "attributes": attributes,
    }


class Pool:
    """A pool with a trade every `gap` seconds since `start`, numbered from 0."""

    def __init__(self, clock: FakeClock, gap: float, start: float) -> None:
        self.clock, self.gap, self.start = clock, gap, start

    def __call__(self, _query: Mapping[str, str]) -> Answer:
        now = self.clock.now() / 1e6
        newest = math.floor((now - self.start) / self.gap)
        shown = range(newest, max(newest - 300, -1), -1)
        young = [n for n in shown if self.start + n * self.gap > now - DAY]
        return 200, {"data": [trade(n, self.start + n * self.gap) for n in young]}


def test_trades_are_stored_once_however_often_they_are_shown(house: Open, api: FakeApi, clock: FakeClock) -> None:
    start = clock.now() / 1e6 - 3000
    api.answers["/pools/A/trades"] = Pool(clock, 10, start)
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    first = home.run("trades")
    assert (first.outcome, first.calls, first.rows, first.lost) == (Outcome.SUCCEEDED, 1, 300, 0)
    home.advance(1200)
    second = home.run("trades")
    assert (second.calls, second.rows, second.lost) == (1, 120, 0)
    rows = home.rows("SELECT * FROM gt_trades ORDER BY block_number")
    assert len(rows) == 420
    assert rows[-1] | {"run_id": None} == {
        "network": "solana",
        "tx_hash": "tx420",
        "n": 3,
        "pool": "A",
        "block_number": 1420,
        "block_timestamp": "2026-09-28T21:06:00Z",
        "tx_from_address": None,
        "kind": "buy",
        "from_token_address": None,
        "to_token_address": None,
        "from_token_amount": None,
        "to_token_amount": None,
        "price_from_in_usd": "118.7",
        "price_to_in_usd": "0.5",
        "price_from_in_currency_token": None,
        "price_to_in_currency_token": None,
        "volume_in_usd": "100.5",
        "price_usd": "0.5",
        "run_id": None,
    }
    assert {row["run_id"] for row in rows} == {first.id, second.id}
    (index,) = home.rows("SELECT name FROM pragma_index_list('gt_trades') WHERE origin = 'c'")
    columns = home.rows("SELECT name FROM pragma_index_info(?)", index["name"])
    assert [each["name"] for each in columns] == ["network", "pool", "block_timestamp"]


def test_a_full_answer_that_does_not_reach_back_is_a_loss_with_its_span(
    house: Open, api: FakeApi, clock: FakeClock
) -> None:
    start = clock.now() / 1e6 - 3000
    api.answers["/pools/A/trades"] = Pool(clock, 10, start)
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    home.run("trades")
    home.advance(6000)  # 600 trades, of which 300 are shown
    run = home.run("trades")
    assert run.rows == 300
    (loss,) = home.rows('SELECT target, count, since, "until" FROM geckosched_losses')
    assert loss["target"] == "A"
    assert loss["since"] < "2026-09-28T20:46:10"  # the first one lost
    assert loss["until"] >= "2026-09-28T21:36:00"  # the last one lost
    assert 270 <= loss["count"] <= 330
    assert run.lost == loss["count"]


def test_a_first_answer_however_full_is_no_loss(house: Open, api: FakeApi, clock: FakeClock) -> None:
    api.answers["/pools/A/trades"] = Pool(clock, 0.1, clock.now() / 1e6 - 3000)
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    assert home.run("trades").lost == 0


def test_a_full_answer_with_one_known_trade_is_no_loss(house: Open, api: FakeApi, clock: FakeClock) -> None:
    api.answers["/pools/A/trades"] = Pool(clock, 10, clock.now() / 1e6 - 3000)
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    home.run("trades")
    home.advance(2990)  # 299 new trades and the newest known one
    run = home.run("trades")
    assert (run.rows, run.lost) == (299, 0)


def test_trades_that_appear_late_and_out_of_order_are_stored(house: Open, api: FakeApi, clock: FakeClock) -> None:
    home = house(watchlist={"pools": ["A"]}, trades={"max_wait": "1m"})
    home.run("watchlist")
    now = clock.now() / 1e6
    api.answers["/pools/A/trades"] = (200, {"data": [trade(9, now - 5), trade(1, now - 90)]})
    home.run("trades")
    late = [trade(9, now - 5), trade(8, now - 6), trade(2, now - 61), trade(1, now - 90)]
    api.answers["/pools/A/trades"] = (200, {"data": late})
    home.advance(60)
    home.run("trades")
    assert home.rows("SELECT count(*) AS trades FROM gt_trades") == [{"trades": 4}]


def test_a_trade_that_is_ingested_again_keeps_its_first_row(house: Open, api: FakeApi, clock: FakeClock) -> None:
    """The last part of the id, the moment of ingestion, may change; the trade is the same."""
    first, again = trade(1, clock.now() / 1e6), trade(1, clock.now() / 1e6)
    again["id"] += "9"
    again["attributes"]["volume_in_usd"] = "7"
    api.answers["/pools/A/trades"] = (200, {"data": [first]})
    home = house(watchlist={"pools": ["A"]}, trades={"max_wait": "1m"})
    home.run("watchlist")
    home.run("trades")
    api.answers["/pools/A/trades"] = (200, {"data": [again]})
    home.advance(60)
    run = home.run("trades")
    assert (run.calls, run.rows) == (1, 0)
    assert home.rows("SELECT volume_in_usd FROM gt_trades") == [{"volume_in_usd": "100.5"}]


def test_a_bad_trade_is_one_problem_and_the_others_are_stored(house: Open, api: FakeApi, clock: FakeClock) -> None:
    now = clock.now() / 1e6
    body = {"data": [trade(1, now), {"id": "solana_1_x_0_1", "attributes": None}, trade(2, now)]}
    api.answers["/pools/A/trades"] = (200, body)
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    run = home.run("trades")
    assert (run.outcome, run.rows) == (Outcome.PARTIAL, 2)
    assert run.detail is not None
    assert "A row 2" in run.detail


def test_one_pools_error_is_its_problem_and_it_is_asked_again_later(
    house: Open, api: FakeApi, clock: FakeClock
) -> None:
    api.answers["/pools/A/trades"] = refusal(400, "Provided token is invalid")
    api.answers["/pools/B/trades"] = (200, {"data": [trade(1, clock.now() / 1e6)]})
    home = house(watchlist={"pools": ["A", "B"]})
    home.run("watchlist")
    run = home.run("trades")
    assert (run.outcome, run.rows) == (Outcome.PARTIAL, 1)
    assert run.detail is not None
    assert "A: ApiError: 400 Provided token is invalid" in run.detail
    home.advance(60)
    home.run("trades")
    assert api.asked("/pools/A/trades") == 1
    home.advance(3600)
    home.run("trades")
    assert api.asked("/pools/A/trades") == 2


def test_a_pool_that_fails_is_asked_again_in_the_next_run_and_then_ever_later(house: Open, api: FakeApi) -> None:
    """The last pool's failure has no later yield that would save when to ask it again."""
    api.answers["/pools/A/trades"] = (200, b"<html>no JSON</html>")
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    assert home.run("trades").outcome == Outcome.FAILED
    calls = []
    for _ in range(12):
        home.advance(60)
        calls.append(home.run("trades").calls)
    assert calls == [1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1]


def test_a_pool_that_has_recovered_is_no_failing_one(house: Open, api: FakeApi, clock: FakeClock) -> None:
    garbage = (200, b"<html>no JSON</html>")
    home = house(watchlist={"pools": ["A"]}, trades={"max_wait": "1m"})
    home.run("watchlist")
    for _ in range(2):
        api.answers["/pools/A/trades"] = garbage
        home.run("trades")
        home.advance(60)
        api.answers["/pools/A/trades"] = (200, {"data": [trade(1, clock.now() / 1e6)]})
        assert home.run("trades").calls == 1
        home.advance(60)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"text"', b"{}", b'{"data": null}', b'{"data": [1, 2]}'])
@pytest.mark.parametrize(
    ("collector", "path"),
    [
        ("trades", "/pools/A/trades"),
        ("ohlcv", "/pools/A/ohlcv/day"),
        ("top-pools", "/dexes/pumpswap/pools"),
    ],
)
def test_garbage_is_a_problem_and_stores_nothing(
    house: Open, api: FakeApi, collector: str, path: str, body: bytes
) -> None:
    api.answers[path] = (200, body)
    home = house(watchlist={"pools": ["A"]}, ohlcv={"timeframes": ["1d"]})
    home.run("watchlist")
    run = home.run(collector)
    assert run.rows <= 1  # the exchange that the server doesn't know is marked as gone
    assert run.outcome in (Outcome.FAILED, Outcome.PARTIAL)
    assert run.detail is not None
    assert "AnswerError" in run.detail


def test_a_pool_that_is_gone_is_marked_and_asked_once_a_day_until_it_is_back(
    house: Open, api: FakeApi, clock: FakeClock
) -> None:
    api.answers["/pools/A/trades"] = not_found()
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    run = home.run("trades")
    assert run.outcome == Outcome.SUCCEEDED
    (pool,) = home.rows("SELECT * FROM gt_pools")
    assert (pool["network"], pool["address"]) == ("solana", "A")
    assert pool["gone_at"] == "2026-09-28T20:46:00.000000Z"
    home.advance(DAY - 60)
    assert home.run("trades").calls == 0
    home.advance(60)
    assert (home.run("trades").calls, home.run("trades").calls) == (1, 0)
    (pool,) = home.rows("SELECT gone_at FROM gt_pools")
    assert pool["gone_at"] == "2026-09-28T20:46:00.000000Z"
    home.advance(DAY)
    api.answers["/pools/A/trades"] = (200, {"data": [trade(1, clock.now() / 1e6)]})
    assert home.run("trades").calls == 1
    assert home.rows("SELECT gone_at FROM gt_pools") == [{"gone_at": None}]


@pytest.mark.parametrize(
    ("collector", "path"),
    [
        ("trades", "/pools/A/trades"),
        ("ohlcv", "/pools/A/ohlcv/day"),
        ("top-pools", "/dexes/pumpswap/pools"),
    ],
)
def test_the_plans_limit_is_no_error(house: Open, api: FakeApi, collector: str, path: str) -> None:
    api.answers[path] = api.answers["/dexes/raydium/pools"] = refusal(401, "Upgrade to Analyst")
    home = house(watchlist={"pools": ["A"]}, ohlcv={"timeframes": ["1d"]})
    home.run("watchlist")
    run = home.run(collector)
    assert (run.outcome, run.rows) == (Outcome.SUCCEEDED, 0)
    home.advance(120)
    if collector != "top-pools":
        assert home.run(collector).calls == 0


@pytest.mark.parametrize("collector", ["trades", "ohlcv", "top-pools"])
def test_429_ends_the_run_as_rate_limited(house: Open, api: FakeApi, collector: str) -> None:
    """The server says `retry-after: 0`, which nobody believes."""
    for path in ("/pools/A/trades", "/pools/A/ohlcv/day", "/dexes/pumpswap/pools"):
        api.answers[path] = (429, {"status": {"error_code": 429}})
    home = house(watchlist={"pools": ["A", "B"]}, ohlcv={"timeframes": ["1d"]})
    home.run("watchlist")
    run = home.run(collector)
    assert (run.outcome, run.calls) == (Outcome.RATE_LIMITED, 1)


def test_a_server_error_is_the_targets_problem_after_some_retries(house: Open, api: FakeApi, clock: FakeClock) -> None:
    api.answers["/pools/A/trades"] = (503, b"<html>down</html>")
    api.answers["/pools/B/trades"] = (200, {"data": [trade(1, clock.now() / 1e6)]})
    home = house(watchlist={"pools": ["A", "B"]}, clock=SpeedClock(START, 50))
    home.run("watchlist")
    run = home.run("trades")
    assert (run.outcome, run.rows) == (Outcome.PARTIAL, 1)
    assert run.detail is not None
    assert "A: HTTPError: 503" in run.detail
    assert api.asked("/pools/A/trades") > 1


def test_min_volume_is_asked_for(house: Open, api: FakeApi) -> None:
    api.answers["/pools/A/trades"] = (200, {"data": []})
    home = house(watchlist={"pools": ["A"]}, trades={"min_volume_usd": 100})
    home.run("watchlist")
    home.run("trades")
    assert api.calls == [("/pools/A/trades", {"trade_volume_in_usd_greater_than": "100"})]


def test_free_calls_go_to_pools_that_are_worth_one_and_no_further(house: Open, api: FakeApi) -> None:
    pools = [f"P{place}" for place in range(4)]
    for pool in pools:
        api.answers[f"/pools/{pool}/trades"] = (200, {"data": []})
    home = house(watchlist={"pools": pools})
    home.run("watchlist")
    assert home.run("trades").calls == 4
    home.advance(60)
    assert home.run("trades").calls == 0
    assert sorted(path for path, _ in api.calls) == [f"/pools/{pool}/trades" for pool in pools]


class Moment:
    """The part of a run that `next_pool` looks at."""

    def __init__(self, free: int, seconds: float = 0) -> None:
        self.free, self.stopping = free, False
        self.started_at = NOW
        self.time = NOW + timedelta(seconds=seconds)

    def now(self) -> datetime:
        return self.time

    def calls_free(self) -> int:
        return self.free


def filling(windows: float) -> TradeRotation:
    """Return a rotation with one pool that has filled so many windows by NOW."""
    rotation = TradeRotation({"A": 0})
    then = NOW.timestamp() - 3600
    gap = 3600 / (300 * windows)
    rotation.observe("A", then, [then - gap * place for place in range(300)], overlap=False)
    assert rotation.fill("A", NOW.timestamp()) == pytest.approx(windows, rel=0.1)
    return rotation


@pytest.mark.parametrize(
    ("windows", "free", "calls", "asked"),
    [
        (0.3, 4, 0, True),  # worth one that nobody needs
        (0.3, 0, 0, False),  # but not one that others would wait for
        (0.95, 0, 0, True),  # about to overflow: the first call of a run may wait
        (0.95, 0, 1, False),  # but no further one,
        (2.0, 0, 1, True),  # unless trades are being lost
        (2.0, 0, 4, True),
        (0.8, 1, 3, True),
    ],
)
def test_a_run_waits_for_a_call_only_where_trades_are_at_stake(
    windows: float, free: int, calls: int, asked: bool
) -> None:
    """Were trades to live on free calls alone, collectors that run just before would take all."""
    run: Any = Moment(free)
    assert next_pool(run, filling(windows), calls) == ("A" if asked else None)


def test_a_run_waits_for_pools_that_were_never_looked_at() -> None:
    """Else candles, of lower priority, would take the calls of a first hour."""
    run: Any = Moment(0)
    assert next_pool(run, TradeRotation({"A": 0}), 3) == "A"


def test_a_pool_that_was_just_asked_is_not_worth_even_a_free_call() -> None:
    rotation = TradeRotation({"A": 0})
    now = NOW.timestamp()
    rotation.observe("A", now - 60, [now - 60 - 30 * place for place in range(300)], overlap=False)
    run: Any = Moment(4)
    assert next_pool(run, rotation, 0) is None


def test_a_run_waits_for_a_part_of_the_minute_only() -> None:
    """A market that trades more than the calls can carry would else take all calls, for ever."""
    overflowing = filling(5)
    runs: list[Any] = [Moment(0, LONGEST_WAIT), Moment(0, LONGEST_WAIT + 1)]
    assert [next_pool(run, overflowing, 3) for run in runs] == ["A", None]
    free: Any = Moment(1, LONGEST_WAIT + 1)
    assert next_pool(free, overflowing, 3) == "A"


def test_a_run_ends_before_the_next_slot_and_when_it_is_told_to() -> None:
    run: Any = Moment(4, LONGEST_RUN + 1)
    assert next_pool(run, filling(2), 1) is None
    run = Moment(4)
    run.stopping = True
    assert next_pool(run, filling(2), 0) is None


def test_what_a_pool_trades_is_known_from_gt_pools(house: Open, api: FakeApi) -> None:
    """A start with 27 unknown pools asks the busy ones first."""
    busy = pool_element("B", buys=20_000)
    api.answers["/dexes/pumpswap/pools"] = (200, {"data": [pool_element("A"), busy]})
    api.answers["/dexes/raydium/pools"] = (200, {"data": []})
    api.answers["/pools/A/trades"] = api.answers["/pools/B/trades"] = (200, {"data": []})
    home = house(watchlist={"pools": ["A", "B"]})
    home.run("watchlist")
    home.run("top-pools")
    home.run("trades")
    assert [path for path, _ in api.calls[2:]] == ["/pools/B/trades", "/pools/A/trades"]


@pytest.mark.parametrize(("min_volume_usd", "asked"), [(0, 1), (100, 0)])
def test_a_burst_that_the_figures_of_pools_show_is_not_waited_out(
    house: Open, api: FakeApi, clock: FakeClock, min_volume_usd: int, asked: int
) -> None:
    """Two pools with a trade a minute; five minutes later B's figures say 280 trades, small ones included."""
    start = clock.now() / 1e6
    api.answers["/pools/A/trades"] = api.answers["/pools/B/trades"] = Pool(clock, 60, start - 9000)
    figures = {"A": 3, "B": 140}
    pools = [
        {"id": f"solana_{pool}", "attributes": {"transactions": {"m5": {"buys": count, "sells": count}}}}
        for pool, count in figures.items()
    ]
    api.answers["/pools/multi/A,B"] = (200, {"data": pools})
    home = house(watchlist={"pools": ["A", "B"]}, trades={"min_volume_usd": min_volume_usd})
    home.run("watchlist")
    home.run("trades")
    home.advance(300)
    home.run("pools")
    home.run("trades")
    assert [api.asked(f"/pools/{pool}/trades") for pool in "AB"] == [1, 1 + asked]


def test_a_pool_is_not_asked_again_while_the_cache_would_show_the_same(
    house: Open, api: FakeApi, clock: FakeClock
) -> None:
    """However busy it is: a run would spend all its calls on one answer."""
    api.answers["/pools/A/trades"] = Pool(clock, 0.01, clock.now() / 1e6 - 9000)
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    calls = []
    for seconds in (0, 29, 1, 30):
        home.advance(seconds)
        calls.append(home.run("trades").calls)
    assert calls == [1, 0, 1, 1]


def test_a_pool_no_longer_watched_is_forgotten(house: Open, api: FakeApi, clock: FakeClock) -> None:
    api.answers["/pools/A/trades"] = Pool(clock, 10, clock.now() / 1e6 - 3000)
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    home.run("trades")
    assert home.state("trades")["rotation"]["pools"].keys() == {"A"}
    home.scheduler.register_collector(
        "geckoterminal-watchlist",
        job_id="geckoterminal-watchlist",
        options={"pools": ["B"]},
        replace=True,
    )
    home.advance(60)
    home.run("watchlist")
    home.run("trades")
    state = home.state("trades")
    assert state["rotation"]["pools"].keys() == {"B"}
    assert state["keys"].keys() == set()


def test_a_pool_that_a_list_shows_is_not_gone(house: Open, api: FakeApi) -> None:
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    home.run("trades")
    api.answers["/dexes/pumpswap/pools"] = (200, {"data": [pool_element("A")]})
    home.run("top-pools")
    assert home.rows("SELECT gone_at FROM gt_pools") == [{"gone_at": None}]


# Top pools


def pool_element(address: str, *, buys: int = 1, name: str = "A / SOL") -> dict[str, Any]:
    return {
        "id": f"solana_{address}",
        "type": "pool",
        "attributes": {
            "address": address,
            "name": name,
            "reserve_in_usd": "12.50",
            "transactions": {"h24": {"buys": buys, "sells": 0}},
        },
        "relationships": {
            "base_token": {"data": {"id": "solana_T", "type": "token"}},
            "dex": {"data": {"id": "pumpswap", "type": "dex"}},
        },
    }


TOKEN = {"id": "solana_T", "type": "token", "attributes": {"address": "T", "symbol": "TEE"}}


def test_top_pools_store_pools_snapshots_and_tokens_of_each_exchange(house: Open, api: FakeApi) -> None:
    body = {"data": [pool_element("A")], "included": [TOKEN]}
    api.answers["/dexes/pumpswap/pools"] = (200, body)
    api.answers["/dexes/raydium/pools"] = (200, {"data": [pool_element("B")]})
    home = house()
    run = home.run("top-pools")
    assert (run.outcome, run.calls, run.rows) == (Outcome.SUCCEEDED, 2, 5)
    assert api.calls[0][1] == {"include": "base_token,quote_token,dex", "page": "1"}
    pools = home.rows("SELECT * FROM gt_pools ORDER BY address")
    assert [(each["address"], each["dex"], each["base_token"]) for each in pools] == [
        ("A", "pumpswap", "T"),
        ("B", "pumpswap", "T"),
    ]
    assert pools[0]["reserve_in_usd"] == "12.50"
    assert pools[0]["run_id"] == run.id
    assert home.rows("SELECT address, symbol FROM gt_tokens") == [{"address": "T", "symbol": "TEE"}]
    home.advance(600)
    assert home.run("top-pools").rows == 2  # two snapshots; nothing else changed
    moments = home.rows("SELECT at, run_id FROM gt_pool_snapshots WHERE address = 'A' ORDER BY at")
    assert [each["at"] for each in moments] == [
        "2026-09-28T20:46:00.000000Z",
        "2026-09-28T20:56:00.000000Z",
    ]


def test_pages_are_asked_while_they_are_full_and_a_row_that_moved_comes_once(
    house: Open, api: FakeApi, clock: FakeClock
) -> None:
    def dex(query: Mapping[str, str]) -> Answer:
        clock.advance(1)
        first = 19 * (int(query["page"]) - 1)  # the last of a page is the first of the next
        shown = range(first, first + (20 if query["page"] in "12" else 5))
        return 200, {"data": [pool_element(f"P{place:03}") for place in shown]}

    api.answers["/dexes/pumpswap/pools"] = dex
    api.answers["/dexes/raydium/pools"] = (200, {"data": []})
    home = house(top_pools={"pages": 5})
    run = home.run("top-pools")
    assert [query["page"] for path, query in api.calls if "pumpswap" in path] == ["1", "2", "3"]
    assert run.outcome == Outcome.SUCCEEDED
    assert home.rows("SELECT count(*) AS n FROM gt_pool_snapshots") == [{"n": 43}]


def test_the_plans_limit_keeps_the_pages_that_came(house: Open, api: FakeApi) -> None:
    full = [pool_element(f"P{place}") for place in range(20)]

    def dex(query: Mapping[str, str]) -> Answer:
        return (200, {"data": full}) if query["page"] == "1" else refusal(401, "page (10)")

    api.answers["/dexes/pumpswap/pools"] = dex
    api.answers["/dexes/raydium/pools"] = (200, {"data": []})
    home = house(top_pools={"pages": 3})
    assert home.run("top-pools").outcome == Outcome.SUCCEEDED
    assert home.rows("SELECT count(*) AS n FROM gt_pools") == [{"n": 20}]


def test_a_page_past_the_end_may_be_a_404_and_the_exchange_is_not_gone(house: Open, api: FakeApi) -> None:
    full = [pool_element(f"P{place}") for place in range(20)]
    api.answers["/dexes/pumpswap/pools"] = lambda query: (200, {"data": full}) if query["page"] == "1" else not_found()
    api.answers["/dexes/raydium/pools"] = (200, {"data": []})
    home = house(top_pools={"pages": 3})
    run = home.run("top-pools")
    assert (run.outcome, run.calls, run.rows) == (Outcome.SUCCEEDED, 3, 40)
    assert home.state("top-pools") == {}


def test_an_exchange_that_is_gone_is_marked_and_asked_once_a_day(house: Open, api: FakeApi) -> None:
    api.answers["/dexes/pumpswap/pools"] = (200, {"data": [pool_element("A")]})
    home = house()
    run = home.run("top-pools")
    assert run.outcome == Outcome.SUCCEEDED
    gone = {"network": "solana", "id": "raydium", "gone_at": "2026-09-28T20:46:00.000000Z"}
    assert home.rows("SELECT network, id, gone_at FROM gt_dexes") == [gone]
    home.advance(DAY - 600)
    home.run("top-pools")
    assert api.asked("/dexes/raydium/pools") == 1
    home.advance(600)
    api.answers["/dexes/raydium/pools"] = (200, {"data": []})
    home.run("top-pools")
    assert api.asked("/dexes/raydium/pools") == 2
    assert home.rows("SELECT gone_at FROM gt_dexes") == [{"gone_at": None}]


def test_one_exchanges_error_leaves_the_other_alone(house: Open, api: FakeApi) -> None:
    api.answers["/dexes/pumpswap/pools"] = refusal(422, "no")
    api.answers["/dexes/raydium/pools"] = (200, {"data": [pool_element("A"), None]})
    home = house()
    run = home.run("top-pools")
    assert run.outcome == Outcome.PARTIAL
    assert run.detail is not None
    assert "pumpswap: ApiError: 422 no" in run.detail
    assert "raydium page 1 row 2" in run.detail
    assert home.rows("SELECT address FROM gt_pools") == [{"address": "A"}]


# Options and settings


@pytest.mark.parametrize(
    "make",
    [
        lambda: TradesOptions(max_wait="24h"),  # type: ignore[arg-type]
        lambda: TradesOptions(max_wait="0s"),  # type: ignore[arg-type]
        lambda: TradesOptions(min_volume_usd=-1),
        lambda: TradesOptions(min_volume_usd="a"),  # type: ignore[arg-type]
        lambda: TopPoolsOptions(pages=0),
        lambda: TopPoolsOptions(pages=11),
        lambda: Settings.read({"netwrok": "solana"}),
        lambda: Settings.read({"network": ""}),
        lambda: Settings.read({"dexes": "pumpswap"}),
        lambda: Settings.read({"dexes": [""]}),
        lambda: Settings.read({"base_url": "api.geckoterminal.com"}),
    ],
)
def test_bad_options_and_settings_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        make()


def test_durations_are_read_from_text() -> None:
    assert TradesOptions(max_wait="90m").max_wait.total_seconds() == 5400  # type: ignore[arg-type]


def test_an_unknown_setting_names_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match='did you mean "network"'):
        Settings.read({"netwrok": "solana"})


def test_settings_are_read() -> None:
    settings = Settings.read({"network": "eth", "dexes": ["sushiswap"], "base_url": "http://x/", "user_agent": "me"})
    assert settings == Settings("eth", ("sushiswap",), "http://x", "me")


def test_calls_are_made_under_a_name_of_our_own(house: Open, api: FakeApi) -> None:
    """The API refuses Python's default User-Agent."""
    house().run("top-pools")
    assert api.agents
    assert all(agent.startswith("geckosched-geckoterminal") for agent in api.agents)


README = Path(__file__).parents[1] / "README.md"


# Commands


def test_the_demo_is_a_command_of_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float, Path | None]] = []

    def run_demo(*arguments: Any) -> int:
        asked.append(arguments)
        return 3

    demo: Any = types.ModuleType("geckosched_geckoterminal.demo")
    demo.run_demo = run_demo
    monkeypatch.setitem(sys.modules, "geckosched_geckoterminal.demo", demo)
    app, own = typer.Typer(), typer.Typer()
    register_commands(own)
    app.add_typer(own, name="geckoterminal")
    runner = CliRunner()
    assert runner.invoke(app, ["geckoterminal", "demo"]).exit_code == 3
    runner.invoke(app, ["geckoterminal", "demo", "--seconds", "5", "--speed", "10", "--database", "x"])
    assert asked == [(30, 60, None), (5, 10, Path("x"))]


def test_importing_the_plugin_loads_neither_the_command_line_nor_the_simulator() -> None:
    code = "import sys, geckosched_geckoterminal as g; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    loaded = set(output.split())
    assert "geckosched_geckoterminal.trades" in loaded
    assert not loaded & {"typer", "geckosched_geckoterminal.demo", "geckosched_geckoterminal.simulator"}
