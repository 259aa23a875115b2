"""Faults on purpose: each kind as it looks on the wire, and what the collectors make of it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import groupby, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from geckosched_geckoterminal.answers import Api, Call
from geckosched_geckoterminal.client import LONGEST_WAY, _made_at
from geckosched_geckoterminal.faults import BURST, ERRORS, Fault, Faults
from geckosched_geckoterminal.market import NETWORKS, SOLANA_DEXES, Pool, Trade
from geckosched_geckoterminal.rows import TIMEFRAMES
from geckosched_geckoterminal.simulator import Simulator, main
from geckosched_geckoterminal.synthetic import SyntheticMarket

from geckosched import Outcome, Run
from geckosched.testing import FakeClock, SpeedClock

if TYPE_CHECKING:
    from conftest import House

    Open = Callable[..., House]

START = datetime(2026, 9, 28, 20, 46, tzinfo=UTC)
BORN = int(START.timestamp())
COLLECTORS = ("trades", "ohlcv", "top-pools", "catalog")

PATIENT = {"timeout": "7d"}
"""Options of a collector on a fast clock: a slow machine's second is many minutes there."""

# Which request meets which fault


def test_the_rate_is_the_share_of_all_requests_and_every_kind_has_its_part() -> None:
    for rate in (0.05, 0.3, 1.0):
        met = [Faults(rate, seed=1).meets(number, "/ohlcv/minute") for number in range(6000)]
        counted = Counter(met)
        assert 1 - counted[None] / 6000 == pytest.approx(rate, rel=0.15)
        assert counted.keys() - {None} == set(Fault)
        assert all(count == pytest.approx(6000 * rate / 7, rel=0.3) for kind, count in counted.items() if kind)
        lengths = [len(list(group)) for kind, group in groupby(met) if kind is Fault.RATE_LIMITED]
        assert all(length % BURST == 0 for length in lengths)


def test_the_same_seed_meets_the_same_faults() -> None:
    def met(seed: int) -> list[Fault | None]:
        return [Faults(0.3, seed).meets(number, "/trades") for number in range(300)]

    assert met(4) == met(4) != met(5)
    assert Fault.DUPLICATES not in met(4)  # there is nothing in it that could come twice
    assert {Faults(0.0, 4).meets(number, "/trades") for number in range(300)} == {None}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--faults", "0.1", "--fault-kinds", "nulls,banana"],
            "'banana' found, allowed are latency, 5xx, reset, truncated, nulls, duplicates, 429",
        ),
        (["--fault-kinds", "5xx"], "--fault-kinds: there are no faults without --faults RATE"),
    ],
)
def test_kinds_that_make_no_sense_are_refused_in_a_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_the_command_fails_only_in_the_ways_that_were_asked_for() -> None:
    options = ["--faults", "1", "--fault-kinds", "5xx,429", "--rate", "0", "--pools", "1", "--births", "0"]
    command = [sys.executable, "-m", "geckosched_geckoterminal.simulator", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        met = [requests.get(f"{url}/networks", timeout=10).status_code for _ in range(40)]
        assert set(met) <= {429, *ERRORS}
        assert 429 in met
        assert len(set(met)) > 2
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.parametrize("rate", ["-0.1", "1.5", "nan"])
def test_a_rate_that_is_no_share_is_refused_in_a_line(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--faults", rate])
    assert f"faults: {float(rate)} found, allowed is a share from 0 to 1" in capsys.readouterr().err.splitlines()[-1]


def test_every_kind_is_told_by_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out.partition("faults:")[2]
    assert [line.split()[0] for line in told.splitlines() if line.startswith("    ")] == [*Fault]


# On the wire


@cache
def market_of(seed: int) -> SyntheticMarket:
    """Return a small market, which is the same for every test: nothing that is asked of it changes it."""
    return SyntheticMarket(seed, pools=6, born=BORN, births=10)


@contextmanager
def failing(kind: Fault, clock: Any = None, **options: Any) -> Iterator[Simulator]:
    """Serve a market of which every answer fails in one way."""
    market = market_of(2)
    more = {"rate": 0, "cache": False, "faults": 1.0, "seed": 3} | options
    with Simulator(market, clock or FakeClock(START), kinds=[kind], **more) as simulator:
        yield simulator


def got(simulator: Simulator, path: str) -> requests.Response:
    return requests.get(f"{simulator.base_url}/networks{path}", timeout=10)


def path_of(simulator: Simulator, what: str) -> str:
    assert isinstance(simulator.market, SyntheticMarket)
    return f"/solana/pools/{simulator.market.founders[1].address}/{what}"


def marks(simulator: Simulator) -> set[tuple[int, Fault | None]]:
    return {(request.status, request.fault) for request in simulator.requests}


def test_a_5xx_is_a_page_of_html() -> None:
    with failing(Fault.SERVER_ERROR) as simulator:
        answers = [got(simulator, "") for _ in range(20)]
        assert {answer.status_code for answer in answers} == set(ERRORS)
        assert all(answer.headers["content-type"].startswith("text/html") for answer in answers)
        assert all(str(answer.status_code) in answer.text for answer in answers)
        assert marks(simulator) == {(status, Fault.SERVER_ERROR) for status in ERRORS}


def test_a_reset_is_a_reset_and_the_next_connection_is_answered() -> None:
    with failing(Fault.RESET) as simulator:
        for _ in range(3):
            with pytest.raises(requests.ConnectionError, match="reset by peer"):
                got(simulator, "")
        assert marks(simulator) == {(0, Fault.RESET)}
        assert len(simulator.requests) == 3


def test_a_truncated_answer_is_whole_http_and_half_json() -> None:
    with failing(Fault.TRUNCATED) as simulator:
        sizes = set()
        for _ in range(5):
            answer = got(simulator, "")
            assert answer.status_code == 200
            assert answer.text.startswith("{")
            with pytest.raises(requests.JSONDecodeError):
                answer.json()
            sizes.add(len(answer.content))
        assert len(sizes) == 5
        assert marks(simulator) == {(200, Fault.TRUNCATED)}


def test_a_late_answer_is_right_and_late_by_a_bounded_time() -> None:
    """A clock that stands still waits 0.2 s of life, a fast one 20 s of the market."""
    for clock in (FakeClock(START), SpeedClock(START, 400)):
        with failing(Fault.LATENCY, clock) as simulator:
            began, before = time.monotonic(), clock.now()
            answer = got(simulator, "/solana/dexes")
            assert [row["id"] for row in answer.json()["data"]] == [dex.id for dex in SOLANA_DEXES]
            waited, passed = time.monotonic() - began, (clock.now() - before) / 1e6
            assert waited >= 0.2 or passed >= 20
            assert marks(simulator) == {(200, Fault.LATENCY)}


def test_values_are_missing_null_or_nan() -> None:
    with failing(Fault.NULLS) as simulator:
        rows = [row["attributes"] for row in got(simulator, path_of(simulator, "trades")).json()["data"]]
        values = [row.get(key, "missing") for row in rows for key in rows[0] | rows[1] | rows[2]]
        assert {"missing", None, "NaN"} <= set(values)
        assert all(row["tx_hash"] and row["block_timestamp"] and row["from_token_amount"] for row in rows)
        candles = got(simulator, path_of(simulator, "ohlcv/minute")).json()["data"]["attributes"]["ohlcv_list"]
        assert any(value is None or value != value for candle in candles for value in candle)
        assert marks(simulator) == {(200, Fault.NULLS)}


def test_figures_of_pools_are_missing_null_or_nan_in_windows_too() -> None:
    """What makes a row known stays: addresses, names, relationships, counts."""
    with failing(Fault.NULLS) as simulator:
        found: dict[str, set[Any]] = {}
        for path in ("/solana/pools", "/solana/new_pools", "/solana/trending_pools"):
            right = Api(simulator.market).answer(Call(f"/networks{path}", {}, BORN, "", "")).body["data"]
            for spoilt, true in zip(got(simulator, path).json()["data"], right, strict=True):
                a, b = spoilt["attributes"], true["attributes"]
                assert spoilt["relationships"] == true["relationships"]
                assert [a[name] for name in ("address", "name", "transactions")] == [
                    b[name] for name in ("address", "name", "transactions")
                ]
                for name in b["volume_usd"]:
                    found.setdefault("windows", set()).add(kind_of(a["volume_usd"], b["volume_usd"], name))
                found.setdefault("prices", set()).add(kind_of(a, b, "base_token_price_usd"))
                found.setdefault("reserves", set()).add(kind_of(a, b, "reserve_in_usd"))
        every = {"missing", "null", "NaN", "right"}
        assert found == {"windows": every, "prices": every, "reserves": every}


def kind_of(ours: dict[str, Any], true: dict[str, Any], name: str) -> str:
    if name not in ours:
        return "missing"
    if ours[name] is None:
        return "null" if true[name] is not None else "right"
    return "right" if ours[name] == true[name] else str(ours[name])


def test_a_candle_that_comes_twice_comes_right_at_last() -> None:
    with failing(Fault.DUPLICATES) as simulator:
        path = path_of(simulator, "ohlcv/minute")
        candles = got(simulator, path).json()["data"]["attributes"]["ohlcv_list"]
        assert len(candles) > len({candle[0] for candle in candles}) == 100
        assert candles[0][0] == candles[1][0]
        market = simulator.market
        pool = market.pools("solana", BORN)[path.split("/")[3]]
        right = {candle.ts: list(candle) for candle in market.candles(pool, 60, 0, BORN + 1, BORN)}
        last = {candle[0]: candle for candle in candles}
        assert last == {ts: right[ts] for ts in last}
        got(simulator, "/solana/dexes")  # which has none
        assert marks(simulator) == {(200, Fault.DUPLICATES), (200, None)}


def test_a_burst_of_429_is_the_apis_own_refusal_three_times() -> None:
    with failing(Fault.RATE_LIMITED, faults=0.5) as simulator:
        answers = [got(simulator, "") for _ in range(30)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert 0 < len(refused) < 30
        assert len(refused) % BURST == 0
        assert {answer.headers["retry-after"] for answer in refused} == {"0"}
        assert refused[0].json()["status"]["error_code"] == 429
        assert marks(simulator) == {(429, Fault.RATE_LIMITED), (200, None)}


# What is stored is the market's


def iso(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def true_trade(trade: Trade, pool: Pool) -> dict[str, Any]:
    buy = trade.kind == "buy"
    tokens = [pool.quote.address, pool.base.address]
    return {
        "n": trade.n,
        "pool": pool.address,
        "block_number": trade.block_number,
        "block_timestamp": iso(trade.block_time),
        "tx_from_address": trade.tx_from,
        "kind": trade.kind,
        "from_token_address": tokens[not buy],
        "to_token_address": tokens[buy],
        "from_token_amount": trade.from_amount,
        "to_token_amount": trade.to_amount,
        "price_from_in_usd": trade.price_from_usd,
        "price_to_in_usd": trade.price_to_usd,
        "volume_in_usd": trade.volume_usd,
        "price_usd": trade.price_to_usd if buy else trade.price_from_usd,
    }


def hold_against_the_market(home: House, market: SyntheticMarket, now: int) -> Counter[str]:
    """Check all that is stored, field by field; a price or an amount in USD may be NULL. Returns how much there is."""
    tables = {row["name"] for row in home.rows("SELECT name FROM sqlite_master WHERE name LIKE 'gt_%'")}
    counted: Counter[str] = Counter()

    def stored(table: str, where: str = "1") -> list[dict[str, Any]]:
        rows = home.rows(f"SELECT * FROM {table} WHERE {where}") if table in tables else []
        counted[table] += len(rows)
        return rows

    pools = {pool.address: pool for pool in market.founders}
    trades = stored("gt_trades")
    truth: dict[str, tuple[Trade, Pool]] = {}
    for pool in (pools[address] for address in {row["pool"] for row in trades}):
        shown = takewhile(lambda trade: trade.block_time > BORN - 86_400, market.trades(pool, now))
        truth |= {trade.tx_hash: (trade, pool) for trade in shown}
    assert len({row["tx_hash"] for row in trades}) == len(trades)
    for row in trades:
        for key, value in true_trade(*truth[row["tx_hash"]]).items():
            nullable = "price" in key or "usd" in key
            assert row[key] == value or (nullable and row[key] is None), key
    candles = sorted(stored("gt_ohlcv", "final = 1"), key=lambda row: (row["pool"], row["timeframe"], row["ts"]))
    for (address, timeframe), rows in groupby(candles, key=lambda row: (row["pool"], row["timeframe"])):
        listed = [tuple(row[key] for key in ("ts", "open", "high", "low", "close", "volume")) for row in rows]
        made = market.candles(pools[address], TIMEFRAMES[timeframe].step, listed[0][0], now + 1, now)
        assert set(listed) <= set(map(tuple, made))
    for row in stored("gt_pools", "name IS NOT NULL"):
        known = market.pool("solana", row["address"], now)
        assert known is not None
        assert (row["name"], row["dex"], row["base_token"]) == (known.name, known.dex, known.base.address)
        assert row["gone_at"] is None
    assert all(market.pool("solana", row["address"], now) for row in stored("gt_pool_snapshots"))
    names = {network.id: network.name for network in NETWORKS} | {dex.id: dex.name for dex in SOLANA_DEXES}
    for row in [*stored("gt_networks"), *stored("gt_dexes")]:
        assert (row["name"], row["gone_at"]) == (names[row["id"]], None)
    return counted


KNOWN = {"AnswerError", "HTTPError", "ConnectionError", "ChunkedEncodingError", "ReadTimeout"}
"""What a call may fail with, as the client's docstring says."""


def said(run: Run) -> set[str]:
    """Return the kinds of errors that a run tells of."""
    return {*re.findall(r": (\w+): ", f": {run.detail or ''}"), *filter(None, [run.error_type])}


EXPECTED: dict[Fault, tuple[set[Outcome], set[str]]] = {
    Fault.LATENCY: ({Outcome.SUCCEEDED}, set()),
    Fault.SERVER_ERROR: ({Outcome.FAILED}, {"HTTPError"}),
    Fault.RESET: ({Outcome.FAILED}, {"ConnectionError"}),
    Fault.TRUNCATED: ({Outcome.FAILED}, {"AnswerError"}),
    Fault.NULLS: ({Outcome.SUCCEEDED, Outcome.PARTIAL, Outcome.FAILED}, {"AnswerError"}),
    Fault.DUPLICATES: ({Outcome.SUCCEEDED}, set()),
    Fault.RATE_LIMITED: ({Outcome.RATE_LIMITED}, {"RateLimited"}),
}


@pytest.mark.parametrize("collector", COLLECTORS)
@pytest.mark.parametrize("kind", Fault)
def test_a_fault_is_a_problem_or_a_limit_and_stores_nothing_wrong(
    house: Open, tmp_path: Path, collector: str, kind: Fault
) -> None:
    """No other exception than those that a call may fail with; what is stored is the market's, once."""
    clock = SpeedClock(START, 200)
    with failing(kind, clock) as simulator:
        market = simulator.market
        assert isinstance(market, SyntheticMarket)
        pools = [pool.address for pool in market.founders[1:3]]
        home = house(
            base_url=simulator.base_url,
            clock=clock,
            watchlist=PATIENT | {"pools": pools},
            trades=PATIENT,
            ohlcv=PATIENT | {"timeframes": ["1m"]},
            top_pools=PATIENT,
            catalog=PATIENT,
        )
        home.run("watchlist")
        run = home.run(collector)
        outcomes, errors = EXPECTED[kind]
        assert run.outcome in outcomes, (run.detail, run.error)
        assert said(run) <= errors
        counted = hold_against_the_market(home, market, clock.now() // 1_000_000)
        if kind in (Fault.LATENCY, Fault.DUPLICATES, Fault.NULLS):
            assert sum(counted.values()) > 8
        else:
            assert not counted.total()
            assert said(run) == errors or run.outcome == Outcome.RATE_LIMITED
        untouched = collector != "ohlcv" if kind is Fault.DUPLICATES else (kind, collector) == (Fault.NULLS, "catalog")
        assert (kind in {request.fault for request in simulator.requests}) is not untouched
        if kind in (Fault.SERVER_ERROR, Fault.RESET):
            assert run.calls > 2  # it was tried again


# All together

OTHERS = ("top_pools", "catalog", "new_pools", "pools", "backfill", "tokens", "audit", "trending")


def test_all_collectors_through_a_storm_of_faults(house: Open) -> None:
    """Three of ten requests fail, of every kind; what is stored in the end is the market's, and nothing is doubled."""
    clock = SpeedClock(START, 1000)
    market = market_of(8)
    market.activity(market.founders[0], BORN)  # the first look costs a second: a quarter of an hour of this clock
    met: set[Fault | None] = set()
    with Simulator(market, clock, faults=0.3, seed=8) as simulator:
        home = house(
            base_url=simulator.base_url,
            clock=clock,
            watchlist=PATIENT | {"pools": [pool.address for pool in market.founders]},
            ohlcv=PATIENT | {"refresh": "2m"},
            trades=PATIENT | {"max_wait": "5m"},
            **dict.fromkeys(OTHERS, PATIENT),
        )
        names = [name.removeprefix("geckoterminal-") for name in home.scheduler.registry.collectors]
        assert set(COLLECTORS) < set(names)
        runs: list[Run] = []
        while len(simulator.requests) < 100 or not met >= set(Fault):
            assert len(runs) < 1000, met
            runs += [home.run(name) for name in names]
            met = {request.fault for request in simulator.requests}
        requests = simulator.requests
    share = sum(request.fault is not None for request in requests) / len(requests)
    assert 0.15 < share < 0.45
    allowed = {Outcome.SUCCEEDED, Outcome.PARTIAL, Outcome.FAILED, Outcome.RATE_LIMITED, Outcome.SKIPPED}
    assert {run.outcome for run in runs} <= allowed
    assert set().union(*map(said, runs)) <= KNOWN | {"RateLimited"}
    counted = hold_against_the_market(home, market, clock.now() // 1_000_000)
    assert counted["gt_trades"] > 300
    assert counted["gt_ohlcv"] > 1000
    assert counted["gt_networks"] > 100
    assert min(counted[table] for table in ("gt_pools", "gt_pool_snapshots", "gt_dexes")) > 5
    again = home.rows("SELECT count(*) AS n FROM gt_ohlcv GROUP BY network, pool, timeframe, ts HAVING n > 1")
    assert again == []


# When an answer was made


def test_a_candle_out_of_a_cache_is_as_old_as_its_answer(house: Open) -> None:
    """Else one that was asked by somebody else before its last trades were shown would be final without them."""
    clock = FakeClock(START)
    market = market_of(2)
    pool = market.founders[1].address
    with Simulator(market, clock) as simulator:
        home = house(
            base_url=simulator.base_url, clock=clock, watchlist={"pools": [pool]}, ohlcv={"timeframes": ["1m"]}
        )
        home.run("watchlist")
        clock.advance(30)  # half a minute after the end of the candle of 20:45
        assert got(simulator, f"/solana/pools/{pool}/ohlcv/minute?aggregate=1&limit=1000").status_code == 200
        clock.advance(40)
        home.run("ohlcv")
        assert [request.cached for request in simulator.requests] == [False, True]
        (newest,) = home.rows("SELECT max(ts) AS ts FROM gt_ohlcv WHERE final = 1")
        assert newest["ts"] < BORN - 60


def test_the_moment_of_an_answer_is_believed_within_reason() -> None:
    """Date and Age count; a clock that is ahead, or far behind, doesn't."""
    now = START

    def made(**headers: str) -> timedelta:
        response = requests.Response()
        response.headers.update(headers)
        return now - _made_at(response, now)

    assert made() == timedelta(0)
    assert made(Date="Mon, 28 Sep 2026 20:45:40 GMT") == timedelta(seconds=20)
    assert made(Date="Mon, 28 Sep 2026 20:45:40 GMT", Age="31") == timedelta(seconds=51)
    assert made(Age="31") == timedelta(seconds=31)
    assert made(Date="Mon, 28 Sep 2026 20:47:00 GMT") == timedelta(0)
    assert made(Date="Mon, 28 Sep 2026 19:00:00 GMT", Age="x") == timedelta(0) < LONGEST_WAY
    assert made(Date="yesterday", Age="-5") == timedelta(0)
