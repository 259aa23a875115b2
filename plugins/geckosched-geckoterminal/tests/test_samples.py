"""Recorded answers are understood field by field, and a recorded day is collected whole.

The recordings are not part of the package; without them these tests are skipped.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from geckosched_geckoterminal.replay import ReplayMarket
from geckosched_geckoterminal.rows import (
    TIMEFRAMES,
    WINDOWS,
    Timeframe,
    bare,
    pool_page,
    trade_page,
)
from geckosched_geckoterminal.simulator import Simulator

from geckosched import Outcome
from geckosched.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import FakeApi, House

SAMPLES = Path(__file__).resolve().parents[4] / "shared/geckoterminal/samples"

pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the recorded responses are not beside this checkout")

AT = datetime(2026, 9, 28, 20, 46, tzinfo=UTC)

TRADES = ["trades_solana_2026_3of300.json", "trades_solana_300_2025-08-28.json"]

POOLS = {
    "dex_pools_eth_sushiswap_2023.json": "eth",
    "dex_pools_solana_heaven_2025_PARTIAL.json": "solana",
    "new_pools_eth_2024.json": "eth",
    "new_pools_solana_2026_3rows_cdn_hit.json": "solana",
    "new_pools_solana_include_2025-09-08.json": "solana",
    "new_pools_solana_include_2025-09-09.json": "solana",
    "pool_solana_include_composition_2026.json": "solana",
    "pools_multi_solana_2026_3of30.json": "solana",
    "top_pools_eth_include_2023.json": "eth",
}

CANDLES = {
    "ohlcv_day1_solana_UNEMPLOYED_2025-09-16_REBUILT.json": "1d",
    "ohlcv_day_eth_wsteth_2026_60of184.json": "1d",
    "ohlcv_day_include_empty_solana_2026_3of184.json": "1d",
    "ohlcv_hour12_solana_UNEMPLOYED_2025-09-16_REBUILT.json": "12h",
    "ohlcv_hour1_solana_UNEMPLOYED_2025-09-16_REBUILT.json": "1h",
    "ohlcv_hour4_before_ts_solana_2026_3of1000.json": "4h",
    "ohlcv_hour4_solana_UNEMPLOYED_2025-09-16_REBUILT.json": "4h",
    "ohlcv_hour_solana_2025-08-30.json": "1h",
    "ohlcv_minute15_solana_2025-08-28.json": "15m",
    "ohlcv_minute15_solana_UNEMPLOYED_2025-09-16_REBUILT.json": "15m",
    "ohlcv_minute1_solana_2026_3of48.json": "1m",
    "ohlcv_minute1_solana_UNEMPLOYED_2025-09-16_REBUILT.json": "1m",
    "ohlcv_minute5_solana_UNEMPLOYED_2025-09-16_REBUILT.json": "5m",
}

OFFICIAL = "official_doc_examples_2026-06.json"


def sample(name: str) -> Any:
    return json.loads((SAMPLES / name).read_text())


def null(value: object) -> object:
    return None if value in ("NaN", "", None) else value


@pytest.mark.parametrize("name", TRADES)
def test_every_field_of_a_recorded_trade_is_stored(name: str) -> None:
    body = sample(name)
    page = trade_page(body, network="solana", pool="P", run_id=1)
    assert not page.bad
    assert len(page.rows) == len(page.times) == len(body["data"])
    for row, raw in zip(page.rows, body["data"], strict=True):
        attributes = raw["attributes"]
        assert {key: row[key] for key in attributes} == {key: null(value) for key, value in attributes.items()}
        whole = "_".join(("solana", str(row["block_number"]), row["tx_hash"], str(row["n"])))
        assert raw["id"].rpartition("_")[0] == whole
        side = "to" if attributes["kind"] == "buy" else "from"
        assert row["price_usd"] == attributes[f"price_{side}_in_usd"]
        assert row.keys() - attributes.keys() == {"network", "n", "pool", "price_usd", "run_id"}
    assert len(set(page.keys)) == len(page.keys)
    expected = [raw["attributes"]["block_timestamp"] for raw in body["data"]]
    shown = [f"{datetime.fromtimestamp(time, UTC):%Y-%m-%dT%H:%M:%SZ}" for time in page.times]
    assert shown == sorted(expected, reverse=True)


def flat(attributes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Join names of nested attributes by underscores."""
    for name, value in attributes.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}_")
        else:
            yield f"{prefix}{name}", null(value)


@pytest.mark.parametrize("name", POOLS)
def test_every_field_of_a_recorded_pool_is_stored(name: str) -> None:
    network, body = POOLS[name], sample(name)
    elements = body["data"] if isinstance(body["data"], list) else [body["data"]]
    page = pool_page(body, network=network, at=AT, run_id=1)
    assert not page.bad
    assert len(page.pools) == len(page.snapshots) == len(elements)
    fixed = {"name", "pool_name", "pool_created_at"}
    for row, snapshot, raw in zip(page.pools, page.snapshots, elements, strict=True):
        attributes = dict(flat(raw["attributes"]))
        assert {key: row[key] for key in attributes} == attributes
        for key in row.keys() - attributes.keys():
            if key in ("base_token", "quote_token", "dex"):
                assert row[key] == bare(network, raw["relationships"][key]["data"]["id"])
            elif key not in ("network", "run_id"):
                assert row[key] is None, key
        assert f"{row['network']}_{row['address']}" == raw["id"]
        figures = attributes.keys() - fixed
        assert {key: snapshot[key] for key in figures} == {key: attributes[key] for key in figures}
        assert snapshot["at"] == AT
        assert {f"volume_usd_{window}" for window in WINDOWS} <= row.keys()


@pytest.mark.parametrize("name", POOLS)
def test_every_field_of_a_recorded_included_token_is_stored(name: str) -> None:
    network, body = POOLS[name], sample(name)
    tokens = [raw for raw in body.get("included", []) if raw["type"] == "token"]
    page = pool_page(body, network=network, at=AT, run_id=1)
    assert len(page.tokens) == len(tokens)
    for row, raw in zip(page.tokens, tokens, strict=True):
        expected = {key: null(value) for key, value in raw["attributes"].items()}
        assert row == expected | {"network": network, "gone_at": None, "run_id": 1}
        assert f"{network}_{row['address']}" == raw["id"]


DOCUMENTED = "official_doc_examples_2026-06.json"


def documented(path: str) -> Any:
    return sample(DOCUMENTED)[f"/networks/{{network}}{path}"]


def fetched(name: str) -> Any:
    """Return a recorded body, or of the documentation's examples the one for a path."""
    return documented(name) if name.startswith("/") else sample(name)


LISTS = [
    ("new-pools", "eth", "new_pools_eth_2024.json"),
    ("new-pools", "solana", "new_pools_solana_2026_3rows_cdn_hit.json"),
    ("new-pools", "solana", "new_pools_solana_include_2025-09-08.json"),
    ("new-pools", "solana", "new_pools_solana_include_2025-09-09.json"),
    ("new-pools", "eth", "/new_pools"),
    ("top-pools", "eth", "dex_pools_eth_sushiswap_2023.json"),
    ("top-pools", "solana", "dex_pools_solana_heaven_2025_PARTIAL.json"),
    ("top-pools", "eth", "top_pools_eth_include_2023.json"),
    ("top-pools", "eth", "/pools"),
    ("top-pools", "eth", "/dexes/{dex}/pools"),
    ("pools", "solana", "pools_multi_solana_2026_3of30.json"),
    ("pools", "eth", "/pools/multi/{addresses}"),
    ("trending", "eth", "/trending_pools"),
]
"""Collector, network, and a recorded or documented answer to what it asks."""


@pytest.mark.parametrize(("collector", "network", "name"), LISTS)
def test_every_field_of_a_served_list_of_pools_is_in_the_tables(
    house: Callable[..., House], api: FakeApi, collector: str, network: str, name: str
) -> None:
    body = fetched(name)
    listed = {bare(network, raw["id"]): raw for raw in body["data"]}
    paths = {
        "new-pools": "/new_pools",
        "top-pools": "/dexes/dex/pools",
        "pools": f"/pools/multi/{','.join(sorted(listed))}",
        "trending": "/trending_pools",
    }
    prefix = "" if network == "solana" else f"/api/v2/networks/{network}"
    api.answers[f"{prefix}{paths[collector]}"] = (200, body)
    home = house(settings={"network": network, "dexes": ["dex"]}, watchlist={"pools": list(listed)})
    home.run("watchlist")
    run = home.run(collector)
    assert (run.outcome, run.calls) == (Outcome.SUCCEEDED, 1)

    for table in ("gt_pools", *(["gt_new_pools"] if collector == "new-pools" else [])):
        rows = home.rows(f"SELECT * FROM {table}")
        assert {row["address"] for row in rows} == set(listed)
        for row in rows:
            raw = listed[row["address"]]
            known = {key: each["data"]["id"] for key, each in raw["relationships"].items() if key != "network"}
            told = dict(flat(raw["attributes"])) | {key: bare(network, each) for key, each in known.items()}
            assert {key: row[key] for key in told} == told
            own = {"network": network, "run_id": run.id}
            own |= {"first_seen_at": "2026-09-28T20:46:00.000000Z"} if table == "gt_new_pools" else {}
            assert {key: each for key, each in row.items() if key not in told and each is not None} == own

    if collector in ("pools", "top-pools"):
        snapshots = home.rows("SELECT * FROM gt_pool_snapshots")
        assert {row["address"] for row in snapshots} == set(listed)
        for row in snapshots:
            figures = dict(flat(listed[row["address"]]["attributes"]))
            for key in ("name", "pool_name", "pool_created_at"):
                figures.pop(key, None)
            assert {key: row[key] for key in figures} == figures
            assert row["at"] == "2026-09-28T20:46:00.000000Z"
    else:
        assert home.rows("SELECT name FROM sqlite_master WHERE name = 'gt_pool_snapshots'") == []

    tokens = {bare(network, raw["id"]): raw for raw in body.get("included", []) if raw["type"] == "token"}
    stored = home.rows("SELECT * FROM gt_tokens") if tokens else []
    assert {row["address"] for row in stored} == set(tokens)
    for row in stored:
        told = {key: null(value) for key, value in tokens[row["address"]]["attributes"].items()}
        own = {"network": network, "gone_at": None, "run_id": run.id}
        assert row == dict.fromkeys(row) | told | own


TOKENS = ["/tokens/multi/{addresses}", "token_solana_2025.json", "token_solana_include_top_pools_2026.json"]


@pytest.mark.parametrize("name", TOKENS)
def test_every_field_of_a_served_token_is_in_its_table(
    house: Callable[..., House], api: FakeApi, name: str
) -> None:
    body = fetched(name)
    elements = body["data"] if isinstance(body["data"], list) else [body["data"]]
    tokens = {bare("solana", raw["id"]): raw for raw in elements}
    sides = {"base_token": next(iter(tokens)), "quote_token": list(tokens)[-1]}
    related = {key: {"data": {"id": f"solana_{each}"}} for key, each in sides.items()}
    pool = {"id": "solana_P", "type": "pool", "attributes": {"address": "P"}, "relationships": related}
    api.answers["/new_pools"] = (200, {"data": [pool]})
    api.answers[f"/tokens/multi/{','.join(sorted(tokens))}"] = (200, body)
    home = house()
    home.run("new-pools")
    run = home.run("tokens")
    assert (run.outcome, run.calls, run.rows) == (Outcome.SUCCEEDED, 1, len(tokens))
    for row in home.rows("SELECT * FROM gt_tokens"):
        raw = tokens[row["address"]]
        told = dict(flat(raw["attributes"]))
        pools = [bare("solana", each["id"]) for each in raw["relationships"]["top_pools"]["data"]]
        own = {"network": "solana", "top_pools": json.dumps(pools), "run_id": run.id}
        assert row == dict.fromkeys(row) | told | own


REFUSALS = [
    ("error_400_too_many_addresses_2026.json", Outcome.FAILED),
    ("error_401_page_over_10_2026.json", Outcome.SUCCEEDED),
    ("error_404_not_found_2026.json", Outcome.SUCCEEDED),
    ("error_429_2026.json", Outcome.RATE_LIMITED),
]


@pytest.mark.parametrize("collector", ["new-pools", "pools", "top-pools", "trending", "tokens"])
@pytest.mark.parametrize(("name", "outcome"), REFUSALS)
def test_every_recorded_error_has_its_consequence_for_lists(
    house: Callable[..., House], api: FakeApi, collector: str, name: str, outcome: Outcome
) -> None:
    home = house(settings={"dexes": ["dex"]}, watchlist={"pools": ["A"]})
    home.run("watchlist")
    pool = {"id": "solana_A", "attributes": {}, "relationships": {"base_token": {"data": {"id": "solana_T"}}}}
    if collector == "tokens":  # of a pool that is known
        api.answers["/new_pools"] = (200, {"data": [pool]})
        home.run("new-pools")
    paths = ("/new_pools", "/pools/multi/A", "/dexes/dex/pools", "/trending_pools", "/tokens/multi/T")
    body = sample(name)
    api.answers.update(dict.fromkeys(paths, (int(name.split("_")[1]), body)))
    run = home.run(collector)
    assert (run.outcome, run.calls) == (outcome, 1)
    if outcome == Outcome.FAILED:
        assert body["errors"][0]["title"] in (run.detail or "")


def recorded_candles(name: str) -> tuple[Any, Timeframe]:
    if name == OFFICIAL:
        return sample(name)["/networks/{network}/pools/{pool_address}/ohlcv/{timeframe}"], TIMEFRAMES["1d"]
    return sample(name), TIMEFRAMES[CANDLES[name]]


def test_every_recording_of_candles_is_looked_at() -> None:
    assert {path.name for path in SAMPLES.glob("ohlcv_*.json")} == set(CANDLES)


@pytest.mark.parametrize("name", [*CANDLES, OFFICIAL])
def test_every_recorded_candle_is_stored(house: Callable[..., House], api: FakeApi, name: str) -> None:
    """Asked a second too early for the newest to be final: it is not, all others are."""
    body, timeframe = recorded_candles(name)
    listed = body["data"]["attributes"]["ohlcv_list"]
    api.answers[f"/pools/P/ohlcv/{timeframe.unit}"] = (200, body)
    clock = FakeClock(datetime.fromtimestamp(listed[0][0] + timeframe.step + 59, UTC))
    home = house(clock=clock, watchlist={"pools": ["P"]}, ohlcv={"timeframes": [timeframe.name]})
    home.run("watchlist")
    run = home.run("ohlcv")
    assert (run.outcome, run.calls) == (Outcome.SUCCEEDED, 1)
    (call,) = api.calls
    assert call[1] == {"aggregate": str(timeframe.aggregate), "limit": "1000"}
    expected = {candle[0]: candle[1:] for candle in listed}  # the later element wins
    rows = home.rows("SELECT * FROM gt_ohlcv ORDER BY ts DESC")
    for row, (ts, figures) in zip(rows, sorted(expected.items(), reverse=True), strict=True):
        assert row == {
            "network": "solana",
            "pool": "P",
            "timeframe": timeframe.name,
            "ts": ts,
            **dict(zip(("open", "high", "low", "close", "volume"), figures, strict=True)),
            "final": int(ts != listed[0][0]),
            "run_id": run.id,
        }
        assert ts % timeframe.step == 0
    pair = home.state("ohlcv")["pairs"]["P"][timeframe.name]
    assert (pair["newest"], pair["final"], pair["holes"]) == (rows[0]["ts"], rows[1]["ts"], [])


CANDLE_ERRORS = [
    "error_400_invalid_aggregate_2026.json",
    "error_400_invalid_limit_2026.json",
    "error_401_older_than_180_days_2026.json",
    "error_401_timeframe_second_2026.json",
    "error_404_not_found_2026.json",
    "error_422_more_than_2_tokens.json",
    "error_429_2026.json",
]


@pytest.mark.parametrize("name", CANDLE_ERRORS)
def test_every_recorded_error_of_candles_has_its_consequence(
    house: Callable[..., House], api: FakeApi, name: str
) -> None:
    """For the newest ones and for their history; a page that came before it stays."""
    body, status = sample(name), int(name.split("_")[1])
    listed = [[ts, 1, 2, 0.5, 1.5, 3] for ts in range(1790628300, 1790568300, -60)]
    api.answers["/pools/A/ohlcv/minute"] = (200, {"data": {"attributes": {"ohlcv_list": listed}}})
    home = house(
        watchlist={"pools": ["A"]}, ohlcv={"timeframes": ["1m"]}, backfill={"timeframes": ["1m"], "depth": {"1m": "5d"}}
    )
    home.run("watchlist")
    home.run("ohlcv")
    api.answers["/pools/A/ohlcv/minute"] = (status, body)
    home.advance(3600)
    outcomes = {401: Outcome.SUCCEEDED, 404: Outcome.SUCCEEDED, 429: Outcome.RATE_LIMITED}
    for collector in ("ohlcv", "backfill"):
        run = home.run(collector)
        assert (run.outcome, run.calls) == (outcomes.get(status, Outcome.FAILED), 1)
        if run.outcome == Outcome.FAILED:
            assert body["errors"][0]["title"] in (run.detail or "")
        if status == 429:
            break  # it closed the budget for the other, too
    assert home.rows("SELECT count(*) AS n FROM gt_ohlcv") == [{"n": 1000}]
    assert home.rows("SELECT * FROM geckosched_losses") == []
    if status == 401:
        assert home.state("backfill")["pairs"]["A"]["1m"]["end"] == "plan"
    if status == 404:
        assert home.rows("SELECT gone_at IS NULL AS there FROM gt_pools") == [{"there": 0}]


@pytest.mark.parametrize(
    "name",
    sorted(path.name for path in SAMPLES.glob("error_*.json")),
)
def test_every_recorded_error_has_its_consequence(house: Callable[..., House], api: FakeApi, name: str) -> None:
    """404 and 401 are no errors, 429 closes the budget, all others are the target's problem."""
    body, status = sample(name), int(name.split("_")[1])
    api.answers["/pools/A/trades"] = (status, body)
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    run = home.run("trades")
    outcomes = {401: Outcome.SUCCEEDED, 404: Outcome.SUCCEEDED, 429: Outcome.RATE_LIMITED}
    assert run.outcome == outcomes.get(status, Outcome.FAILED)
    assert run.calls == 1
    if run.outcome == Outcome.FAILED:
        assert body["errors"][0]["title"] in (run.detail or "")


# A recorded day


class Recorder(Simulator):
    """A simulator that remembers the trades that it showed: their ids, by pool."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.shown: dict[str, set[str]] = {}
        self.polls: dict[str, list[int]] = {}

    def reply(self, url: str, client: str, user_agent: str) -> Any:
        reply = super().reply(url, client, user_agent)
        if url.partition("?")[0].endswith("/trades") and reply.status == 200:
            pool = url.split("/")[-2]
            trades = json.loads(reply.body)["data"]
            self.shown.setdefault(pool, set()).update(trade["id"] for trade in trades)
            self.polls.setdefault(pool, []).append(self.clock.now() // 1_000_000)
        return reply


PAUSES = [600, 600, 900, 600, 1800, 600, 7200, 600, 1200, 600, 600, 2700]
"""Seconds between runs: short ones, and some in which more than 300 trades pass in a busy hour."""


def test_a_recorded_day_is_stored_once_and_every_gap_is_a_loss(
    house: Callable[..., House],
) -> None:
    """Trades appear 2 to 61 s late and out of order. Each one shown is stored once, at its time.

    Each one that came and went between two polls lies within the span of a loss.
    """
    with gzip.open(SAMPLES / "series/trades_data_2025-09-16.json.gz") as file:
        recorded = json.load(file)
    market = ReplayMarket(SAMPLES / "series")
    clock = FakeClock(datetime.fromtimestamp(market.begins + 60, UTC))
    pools = sorted({bare("solana", row["pool_id"]) for row in recorded})
    with Recorder(market, clock) as simulator:
        home = house(watchlist={"pools": pools}, base_url=simulator.base_url, clock=clock)
        home.run("watchlist")
        for turn in range(72):
            assert home.run("trades").outcome == Outcome.SUCCEEDED
            home.advance(PAUSES[turn % len(PAUSES)])

    stored = home.rows("SELECT * FROM gt_trades")
    shown = set().union(*simulator.shown.values())
    raw = {row["id"].rpartition("_")[0]: row for row in recorded}
    assert len(stored) == len(shown) > 3000
    for row in stored:
        key = "_".join(("solana", str(row["block_number"]), row["tx_hash"], str(row["n"])))
        wall = raw.pop(key)["block_timestamp"][:19]  # its -06:00 is wrong (INDEX.md)
        assert row["block_timestamp"] == f"{wall}Z"

    missed = []
    for row in raw.values():
        pool, visible = bare("solana", row["pool_id"]), int(row["id"].rpartition("_")[2])
        polls = simulator.polls[pool]
        if polls[0] < visible <= polls[-1]:
            missed.append((pool, f"{row['block_timestamp'][:19]}.000000Z"))
    losses = home.rows('SELECT target, count, since, "until" FROM geckosched_losses')
    assert len(missed) > 300
    hits = [0] * len(losses)
    for pool, time in missed:
        within = [
            place
            for place, loss in enumerate(losses)
            if loss["target"] == pool and loss["since"] <= time <= loss["until"]
        ]
        assert within, f"{time} of {pool} was lost and is in no loss"
        for place in within:
            hits[place] += 1
    for loss, hit in zip(losses, hits, strict=True):
        assert hit or loss["count"] <= 2, "a loss, of more than late trades that may be hidden, of nothing"
    counted = sum(loss["count"] for loss in losses)
    assert 0.5 < counted / len(missed) < 2
