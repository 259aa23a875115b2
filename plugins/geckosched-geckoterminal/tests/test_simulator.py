"""The simulator answers as the recorded API does: rules, shapes, limits, cache and markets."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
from geckosched_geckoterminal.market import Market
from geckosched_geckoterminal.replay import ReplayMarket
from geckosched_geckoterminal.simulator import CdnCache, RateLimit, Simulator, main
from geckosched_geckoterminal.synthetic import SyntheticMarket

START = 1_790_629_200  # 2026-09-28T21:00:00Z
SAMPLES = Path(__file__).parents[3] / "../shared/geckoterminal/samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="no recorded samples beside here")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
Json = Any


class Hands:
    """A clock that a test sets, in epoch seconds."""

    def __init__(self, seconds: float = START) -> None:
        self.seconds = seconds

    def now(self) -> int:
        return int(self.seconds * 1_000_000)


class Client:
    """A simulator, the hands of its clock and a connection to it."""

    def __init__(self, simulator: Simulator, hands: Hands, session: requests.Session) -> None:
        self.simulator = simulator
        self.hands = hands
        self.session = session

    def get(self, path: str, status: int = 200, **headers: str) -> requests.Response:
        answer = self.session.get(self.simulator.base_url + path, headers=headers, timeout=10)
        assert answer.status_code == status, answer.text
        return answer

    def json(self, path: str) -> Json:
        return self.get(path).json()

    def error(self, path: str, status: int) -> str:
        """Return the title of an error, after checking its form."""
        body = self.get(path, status).json()
        assert set(body) == {"errors", "meta"}
        assert UUID.fullmatch(body["meta"]["ref_id"])
        [error] = body["errors"]
        assert error == {"status": str(status), "title": error["title"]}
        return str(error["title"])

    def candles(self, address: str, query: str, timeframe: str = "minute") -> list[list[float]]:
        path = f"/networks/solana/pools/{address}/ohlcv/{timeframe}?{query}"
        return list(self.json(path)["data"]["attributes"]["ohlcv_list"])


@contextmanager
def serving(market: Market, hands: Hands, **options: Any) -> Iterator[Client]:
    with Simulator(market, hands, **options) as simulator, requests.Session() as session:
        yield Client(simulator, hands, session)


@pytest.fixture(scope="module")
def market() -> SyntheticMarket:
    return SyntheticMarket(seed=7, pools=12, born=START, births=0)


@pytest.fixture
def client(market: SyntheticMarket) -> Iterator[Client]:
    """A client of the synthetic market without limit and cache."""
    with serving(market, Hands(), rate=0, cache=False) as made:
        yield made


def ranked(market: SyntheticMarket) -> list[str]:
    """Return the addresses of the pools that a market begins with, the hottest first."""
    return [pool.address for pool in market.founders]


# -- trades


def test_a_hot_pool_shows_its_newest_300_trades_newest_first(client: Client, market: SyntheticMarket) -> None:
    hot = ranked(market)[0]
    rows = client.json(f"/networks/solana/pools/{hot}/trades")["data"]
    times = [row["attributes"]["block_timestamp"] for row in rows]
    assert len(rows) == 300
    assert times == sorted(times, reverse=True)
    assert len({row["id"] for row in rows}) == 300


def test_a_surge_holds_more_trades_a_minute_than_one_answer(market: SyntheticMarket) -> None:
    pool = market.pools("solana", START)[ranked(market)[0]]
    minutes = Counter(trade.block_time // 60 for trade in market.trades(pool, START))
    assert sum(count > 300 for count in minutes.values()) >= 3
    assert sum(count < 100 for count in minutes.values()) > 30


def test_a_quiet_pool_shows_24_hours_and_nothing_older(client: Client, market: SyntheticMarket) -> None:
    address = ranked(market)[8]
    pool = market.pools("solana", START)[address]
    known = [trade for trade in market.trades(pool, START) if trade.block_time > START - 86400]
    rows = client.json(f"/networks/solana/pools/{address}/trades")["data"]
    assert 0 < len(known) <= 300
    assert [row["attributes"]["tx_hash"] for row in rows] == [t.tx_hash for t in known]
    assert next(t for t in market.trades(pool, START) if t not in known).block_time <= START - 86400


def test_a_trade_appears_2_to_61_seconds_after_its_block_and_not_before(
    client: Client, market: SyntheticMarket
) -> None:
    path = f"/networks/solana/pools/{ranked(market)[1]}/trades"
    shown: dict[str, int] = {}
    for second in range(0, 180, 2):
        client.hands.seconds = START + second
        for row in client.json(path)["data"]:
            shown.setdefault(row["id"], START + second)
    fresh = {each: moment for each, moment in shown.items() if moment > START}
    assert fresh
    for each, moment in fresh.items():
        assert 0 <= moment - int(each.rsplit("_", 1)[1]) < 2
    rows = client.json(path)["data"]
    for row in rows:
        block = datetime.fromisoformat(row["attributes"]["block_timestamp"]).timestamp()
        assert 2 <= int(row["id"].rsplit("_", 1)[1]) - block <= 61


def test_a_trade_says_the_same_thing_in_every_field(client: Client, market: SyntheticMarket) -> None:
    address = ranked(market)[1]
    pool = market.pools("solana", START)[address]
    rows = client.json(f"/networks/solana/pools/{address}/trades")["data"]
    kinds = set()
    for row in rows:
        a = row["attributes"]
        parts = (a["block_number"], a["tx_hash"], row["id"].rsplit("_", 2)[1])
        assert row["id"].startswith("solana_{}_{}_{}_".format(*parts))
        kinds.add(a["kind"])
        tokens = (a["from_token_address"], a["to_token_address"])
        sold = (pool.base.address, pool.quote.address)
        assert tokens == (sold if a["kind"] == "sell" else sold[::-1])
        with localcontext(prec=200):
            moved = Decimal(a["from_token_amount"]) * Decimal(a["price_from_in_usd"])
        assert moved == Decimal(a["volume_in_usd"])
        worth = Decimal(a["to_token_amount"]) * Decimal(a["price_to_in_usd"])
        assert float(worth) == pytest.approx(float(moved), rel=1e-6)
        quote = "from" if a["kind"] == "buy" else "to"
        assert a[f"price_{quote}_in_currency_token"] == "1.0"
        assert not any("E" in str(value) for key, value in a.items() if "price" in key)
    assert kinds == {"buy", "sell"}


def test_the_volume_filter_comes_before_the_300(client: Client, market: SyntheticMarket) -> None:
    path = f"/networks/solana/pools/{ranked(market)[0]}/trades"
    rows = client.json(path + "?trade_volume_in_usd_greater_than=100")["data"]
    assert len(rows) == 300
    assert all(Decimal(row["attributes"]["volume_in_usd"]) > 100 for row in rows)


def test_the_quote_tokens_view_inverts_the_kind(client: Client, market: SyntheticMarket) -> None:
    path = f"/networks/solana/pools/{ranked(market)[1]}/trades"
    turned = {"buy": "sell", "sell": "buy"}
    base = [row["attributes"]["kind"] for row in client.json(path)["data"]]
    quote = [row["attributes"]["kind"] for row in client.json(path + "?token=quote")["data"]]
    assert [turned[kind] for kind in base] == quote
    assert client.error(path + "?token=nonsense", 400) == "Provided token is invalid"


# -- candles


def test_candles_agree_with_the_trades(client: Client, market: SyntheticMarket) -> None:
    address = ranked(market)[2]
    pool = market.pools("solana", START)[address]
    trades = list(market.trades(pool, START))[::-1]
    expected: dict[int, list[float]] = {}
    closed: float | None = None
    for trade in trades:
        ts = trade.block_time // 300 * 300
        price = float(trade.price_to_usd if trade.kind == "buy" else trade.price_from_usd)
        opened = price if closed is None else closed
        row = expected.setdefault(ts, [ts, opened, opened, opened, price, 0.0])
        row[2], row[3], row[4] = max(row[2], price), min(row[3], price), price
        row[5] += float(trade.volume_usd)
        closed = price
    rows = client.candles(address, "aggregate=5&limit=1000")
    assert len(rows) > 200
    newest_first = sorted(expected.values(), reverse=True)
    for row, wanted in zip(rows, newest_first, strict=False):
        assert row == pytest.approx(wanted, rel=1e-12)


def test_every_candle_opens_at_the_close_before_it(client: Client, market: SyntheticMarket) -> None:
    rows = client.candles(ranked(market)[3], "limit=1000")
    assert len(rows) > 100
    assert all(newer[1] == older[4] for newer, older in pairwise(rows))
    assert all(row[3] <= min(row[1], row[4]) <= max(row[1], row[4]) <= row[2] for row in rows)


def test_long_candles_are_the_sums_of_short_ones(client: Client, market: SyntheticMarket) -> None:
    address = ranked(market)[5]
    steps = [("minute", 15), ("hour", 1), ("hour", 4), ("hour", 12), ("day", 1)]
    volumes = []
    for timeframe, aggregate in steps:
        rows = client.candles(address, f"aggregate={aggregate}&limit=1000", timeframe)
        step = {"minute": 60, "hour": 3600, "day": 86400}[timeframe] * aggregate
        assert all(row[0] % step == 0 for row in rows)
        day = START // 86400 * 86400
        volumes.append(sum(row[5] for row in rows if day - 86400 <= row[0] < day))
        assert len(rows) == len({row[0] for row in rows})
    assert volumes == pytest.approx([volumes[0]] * len(steps))
    assert volumes[0] > 0


def test_the_running_candle_grows_with_the_visible_trades(client: Client, market: SyntheticMarket) -> None:
    address = ranked(market)[0]
    client.hands.seconds = START + 40
    first = client.candles(address, "limit=1", "day")[0]
    client.hands.seconds = START + 100
    second = client.candles(address, "limit=1", "day")[0]
    assert first[0] == second[0] == START // 86400 * 86400
    assert first[:2] == second[:2]
    assert second[5] > first[5]


def test_before_timestamp_is_exclusive_and_pages_back_without_gap_or_overlap(
    client: Client, market: SyntheticMarket
) -> None:
    address = ranked(market)[4]
    whole = client.candles(address, "limit=900")
    paged: list[list[float]] = []
    before = START + 60
    while len(paged) < 900:
        paged += client.candles(address, f"limit=300&before_timestamp={before}")
        before = int(paged[-1][0])
    assert paged == whole
    inside = client.candles(address, f"aggregate=4&before_timestamp={before}", "hour")
    assert inside[0][0] == before // 14400 * 14400
    everything = client.candles(address, "aggregate=4", "hour")
    assert inside[0] in everything  # the bucket that contains the bound, whole


def test_candles_reach_back_180_days_and_span_184() -> None:
    hands = Hands(START + 200 * 86400)
    market = SyntheticMarket(seed=1, pools=12, born=START)
    with serving(market, hands, rate=0, cache=False) as client:
        address = ranked(market)[8]
        days = client.candles(address, "limit=1000", "day")
        assert len(days) == 184
        assert len(client.candles(address, "aggregate=12&limit=1000", "hour")) == 368
        edge = int(hands.seconds) - 180 * 86400
        assert client.candles(address, f"before_timestamp={edge}", "day")
        path = f"/networks/solana/pools/{address}/ohlcv/day?before_timestamp={edge - 1}"
        assert client.error(path, 401) == (
            "You can only access data from the past 180 days with Public API. To access data"
            " beyond 180 days, please upgrade to the Analyst plan or above."
        )


def test_no_trade_no_row_unless_empty_intervals_are_asked_for(client: Client, market: SyntheticMarket) -> None:
    address = ranked(market)[8]
    rows = client.candles(address, "limit=1000")
    assert rows[0][0] - rows[-1][0] > 2000 * 60
    filled = client.candles(address, "limit=1000&include_empty_intervals=true")
    assert [row[0] for row in filled] == list(range(START, START - 1000 * 60, -60))
    traded = {row[0]: row for row in rows}
    for newer, older in pairwise(filled):
        if newer[0] in traded:
            assert newer == traded[newer[0]]
        else:
            assert newer[1:] == [older[4]] * 4 + [0.0]


def test_candles_in_other_units_follow_token_and_currency(client: Client, market: SyntheticMarket) -> None:
    address = ranked(market)[1]
    path = f"/networks/solana/pools/{address}/ohlcv/minute?limit=5"
    base, quote = client.json(path), client.json(path + "&token=quote")
    assert base["meta"]["base"] == quote["meta"]["quote"]
    assert base["meta"]["quote"] == quote["meta"]["base"]
    sol = quote["data"]["attributes"]["ohlcv_list"][0][4]
    in_usd = base["data"]["attributes"]["ohlcv_list"][0]
    [in_sol, *_] = client.candles(address, "limit=5&currency=token")
    assert in_sol[4] == pytest.approx(in_usd[4] / sol)
    assert in_sol[5] == pytest.approx(in_usd[5] / sol, rel=0.01)
    address_of_quote = quote["meta"]["base"]["address"]
    again = client.json(path + f"&token={address_of_quote}")
    assert again["data"]["attributes"] == quote["data"]["attributes"]


@pytest.mark.parametrize(
    ("tail", "status", "title"),
    [
        ("minute?aggregate=2", 400, "Invalid aggregate. Allowed values: 1, 5, 15"),
        ("hour?aggregate=5", 400, "Invalid aggregate. Allowed values: 1, 4, 12"),
        ("day?aggregate=4", 400, "Invalid aggregate. Allowed values: 1"),
        (
            "minute?limit=1001",
            400,
            "Invalid limit. must be positive integer less than or equal to 1000",
        ),
        (
            "minute?limit=0",
            400,
            "Invalid limit. must be positive integer less than or equal to 1000",
        ),
        (
            "second?aggregate=1&limit=100",
            401,
            "timeframe=second is exclusive to Paid plan subscribers only. Upgrade to Analyst plan"
            " & above to access: https://www.coingecko.com/en/api/pricing.",
        ),
        ("fortnight", 404, "Not Found"),
    ],
)
def test_candles_refuse_in_the_apis_words(
    client: Client, market: SyntheticMarket, tail: str, status: int, title: str
) -> None:
    path = f"/networks/solana/pools/{ranked(market)[0]}/ohlcv/{tail}"
    assert client.error(path, status) == title


# -- pools


def test_pool_lists_come_in_pages_of_20_up_to_page_10() -> None:
    market = SyntheticMarket(seed=2, pools=45, born=START, births=0)
    with serving(market, Hands(), rate=0, cache=False) as client:
        pages = [client.json(f"/networks/solana/pools?page={n}")["data"] for n in (1, 2, 3, 4)]
        assert [len(page) for page in pages] == [20, 20, 5, 0]
        found = {row["attributes"]["address"] for page in pages for row in page}
        assert found == set(ranked(market))
        title = "Your request exceeds the allowed max number for page (10). Upgrade to Analyst plan"
        assert client.error("/networks/solana/pools?page=11", 401) == title + "..."
        assert client.error("/networks/solana/new_pools?page=11", 401) == title + "..."
        assert client.error("/networks/solana/dexes/raydium/pools?page=11", 401) == title + "..."


def test_top_pools_sort_by_transactions_or_volume_of_24_hours(client: Client) -> None:
    def counted(row: Json) -> int:
        day = row["attributes"]["transactions"]["h24"]
        return int(day["buys"] + day["sells"])

    counts = [counted(row) for row in client.json("/networks/solana/pools")["data"]]
    assert counts == sorted(counts, reverse=True)
    rows = client.json("/networks/solana/pools?sort=h24_volume_usd_desc")["data"]
    volumes = [float(row["attributes"]["volume_usd"]["h24"]) for row in rows]
    assert volumes == sorted(volumes, reverse=True)
    assert len(counts) == len(volumes) == 12
    title = "Invalid sort option. Allowed values: h24_volume_usd_desc, h24_tx_count_desc"
    assert client.error("/networks/solana/pools?sort=pool_created_at_desc", 400) == title


def test_a_dex_lists_its_own_pools(client: Client) -> None:
    dexes = {}
    for dex in ("pumpswap", "raydium"):
        rows = client.json(f"/networks/solana/dexes/{dex}/pools")["data"]
        dexes[dex] = {row["relationships"]["dex"]["data"]["id"] for row in rows}
    assert dexes == {"pumpswap": {"pumpswap"}, "raydium": {"raydium"}}
    assert client.json("/networks/solana/dexes/orca/pools") == {"data": []}
    assert client.error("/networks/solana/dexes/nowhere/pools", 404) == "Not Found"


def test_new_pools_are_the_youngest_first_and_appear_when_born(client: Client) -> None:
    rows = client.json("/networks/solana/new_pools")["data"]
    born = [row["attributes"]["pool_created_at"] for row in rows]
    assert born == sorted(born, reverse=True)
    youngest = rows[0]["attributes"]
    client.hands.seconds = datetime.fromisoformat(youngest["pool_created_at"]).timestamp() - 1
    assert len(client.json("/networks/solana/new_pools")["data"]) == 11
    assert client.error(f"/networks/solana/pools/{youngest['address']}", 404) == "Not Found"


def test_figures_are_what_the_trades_add_up_to(client: Client, market: SyntheticMarket) -> None:
    now = START + 1234
    client.hands.seconds = now
    address = ranked(market)[2]
    pool = market.pools("solana", now)[address]
    [row] = client.json(f"/networks/solana/pools/multi/{address}")["data"]
    a = row["attributes"]
    trades = list(market.trades(pool, now))
    for name, span in {"m5": 300, "h1": 3600, "h6": 21600, "h24": 86400}.items():
        inside = [trade for trade in trades if trade.block_time > now - span]
        buys = [trade for trade in inside if trade.kind == "buy"]
        sells = [trade for trade in inside if trade.kind == "sell"]
        assert a["transactions"][name] == {
            "buys": len(buys),
            "sells": len(sells),
            "buyers": len({trade.tx_from for trade in buys}),
            "sellers": len({trade.tx_from for trade in sells}),
        }
        volume = sum(float(trade.volume_usd) for trade in inside)
        assert float(a["volume_usd"][name]) == pytest.approx(volume)
    latest = trades[0]
    price = latest.price_to_usd if latest.kind == "buy" else latest.price_from_usd
    assert float(a["base_token_price_usd"]) == pytest.approx(float(price))
    earlier = next(t for t in trades if t.block_time <= now - 86400)
    before = earlier.price_to_usd if earlier.kind == "buy" else earlier.price_from_usd
    change = (float(price) / float(before) - 1) * 100
    assert float(a["price_change_percentage"]["h24"]) == pytest.approx(change, abs=0.001)


def test_multi_takes_30_addresses_and_leaves_out_unknown_ones(client: Client, market: SyntheticMarket) -> None:
    known = ranked(market)
    asked = ",".join([*known, *(f"unknown{n}" for n in range(18))])
    rows = client.json(f"/networks/solana/pools/multi/{asked}")["data"]
    assert [row["attributes"]["address"] for row in rows] == known
    path = f"/networks/solana/pools/multi/{asked},one-more"
    assert client.error(path, 400) == "maximum 30 addresses allowed"


def test_include_adds_each_resource_once(client: Client) -> None:
    body = client.json("/networks/solana/pools?include=base_token,quote_token,dex,nonsense")
    keys = [(row["type"], row["id"]) for row in body["included"]]
    assert len(keys) == len(set(keys))
    wanted = set()
    for row in body["data"]:
        for name in ("base_token", "quote_token", "dex"):
            data = row["relationships"][name]["data"]
            wanted.add((data["type"], data["id"]))
    assert set(keys) == wanted
    only_dex = client.json("/networks/solana/pools?include=dex")["included"]
    assert {row["attributes"]["name"] for row in only_dex} == {"PumpSwap", "Raydium"}
    assert "included" not in client.json("/networks/solana/pools")


def test_an_address_in_the_wrong_case_and_unknown_things_are_404(client: Client, market: SyntheticMarket) -> None:
    address = ranked(market)[0]
    client.get(f"/networks/solana/pools/{address}")
    for path in (
        f"/networks/solana/pools/{address.lower()}",
        f"/networks/solana/pools/{address.lower()}/trades",
        f"/networks/eth/pools/{address}",
        "/networks/ethereum/new_pools",
        "/networks/ethereum/dexes",
        "/no/such/path",
        "",
    ):
        assert client.error(path, 404) == "Not Found"
    assert client.error("/pools/megafilter?networks=solana", 401) == "Unauthorized"


def test_the_catalog_is_followed_by_its_links(client: Client, market: SyntheticMarket) -> None:
    url: str | None = client.simulator.base_url + "/networks"
    found: list[str] = []
    pages = 0
    while url is not None:
        body = client.session.get(url, timeout=10).json()
        assert list(body["links"]) == ["first", "prev", "next", "last"]
        found += [row["id"] for row in body["data"]]
        pages += 1
        url = body["links"]["next"]
    assert pages == 3
    assert found == [network.id for network in market.networks]
    assert {"eth", "polygon_pos", "solana"} <= set(found)
    body = client.json("/networks/solana/dexes")
    assert {"pumpswap", "raydium"} <= {row["id"] for row in body["data"]}
    assert body["links"]["prev"] is None
    assert body["links"]["next"] is None


# -- shapes, as recorded on 2026-09-28


def kinds(value: Json) -> Json:
    """Return a body's shape: keys, and the kind of each value; lists by their first element."""
    if isinstance(value, dict):
        return {key: kinds(each) for key, each in value.items()}
    if isinstance(value, list):
        return [kinds(value[0])] if value else []
    return "number" if type(value) in (int, float) else type(value).__name__


def agree(ours: Json, recorded: Json, where: str = "") -> None:
    """Check that two shapes have the same keys and kinds; a null may stand for anything."""
    if isinstance(recorded, dict):
        assert isinstance(ours, dict), where
        optional = {"launchpad_details"}  # only pools of launchpads have it
        assert set(ours) - optional == set(recorded) - optional, where
        for key in set(ours) & set(recorded):
            agree(ours[key], recorded[key], f"{where}/{key}")
    elif isinstance(recorded, list):
        assert isinstance(ours, list), where
        for ours_each, recorded_each in zip(ours, recorded, strict=False):
            agree(ours_each, recorded_each, f"{where}[]")
    else:
        assert "NoneType" in (ours, recorded) or ours == recorded, where


WINDOWED = dict.fromkeys(("m5", "m15", "m30", "h1", "h6", "h24"), "str")
TRANSACTIONS = dict.fromkeys(("buys", "sells", "buyers", "sellers"), "number")
LIST_POOL = {
    **dict.fromkeys(
        (
            "base_token_price_usd",
            "base_token_price_native_currency",
            "quote_token_price_usd",
            "quote_token_price_native_currency",
            "base_token_price_quote_token",
            "quote_token_price_base_token",
            "address",
            "name",
            "pool_created_at",
            "fdv_usd",
            "market_cap_usd",
            "reserve_in_usd",
        ),
        "str",
    ),
    "price_change_percentage": WINDOWED,
    "transactions": dict.fromkeys(WINDOWED, TRANSACTIONS),
    "volume_usd": WINDOWED,
}
ONE_POOL = {
    **LIST_POOL,
    "pool_name": "str",
    "pool_fee_percentage": "str",
    "locked_liquidity_percentage": "str",
}
POOL_ATTRIBUTES = {
    "/networks/solana/pools": LIST_POOL,
    "/networks/solana/dexes/pumpswap/pools": LIST_POOL,
    "/networks/solana/new_pools": LIST_POOL,
    "/networks/solana/pools/multi/{}": ONE_POOL,
    "/networks/solana/pools/{}": ONE_POOL,
}


@pytest.mark.parametrize("path", POOL_ATTRIBUTES)
def test_pools_have_the_recorded_attributes(client: Client, market: SyntheticMarket, path: str) -> None:
    body = client.json(path.format(ranked(market)[0]))
    row = body["data"][0] if isinstance(body["data"], list) else body["data"]
    assert set(body) == {"data"}
    assert set(row) == {"id", "type", "attributes", "relationships"}
    agree(kinds(row["attributes"]), POOL_ATTRIBUTES[path])


def sampled(name: str) -> Json:
    return json.loads((SAMPLES / name).read_text())


@needs_samples
@pytest.mark.parametrize(
    ("path", "sample"),
    [
        ("/networks/solana/pools/{}/trades", "trades_solana_2026_3of300.json"),
        ("/networks/solana/pools/{}/ohlcv/minute", "ohlcv_minute1_solana_2026_3of48.json"),
        ("/networks/solana/pools/multi/{}", "pools_multi_solana_2026_3of30.json"),
        (
            "/networks/solana/pools/{}?include=base_token,quote_token,dex"
            "&include_volume_breakdown=true&include_composition=true",
            "pool_solana_include_composition_2026.json",
        ),
        ("/networks/solana/new_pools", "new_pools_solana_2026_3rows_cdn_hit.json"),
        (
            "/networks/solana/new_pools?include=base_token,quote_token,dex",
            "new_pools_solana_include_2025-09-08.json",
        ),
        ("/networks", "networks_page1_2025.json"),
        ("/networks/solana/dexes", "dexes_solana_2026.json"),
        (
            "/networks/solana/pools/{}/ohlcv/minute?aggregate=2",
            "error_400_invalid_aggregate_2026.json",
        ),
        ("/networks/solana/pools/{}/ohlcv/minute?limit=1001", "error_400_invalid_limit_2026.json"),
        ("/networks/solana/pools?sort=bogus", "error_400_invalid_sort_2026.json"),
        ("/networks/solana/pools?page=11", "error_401_page_over_10_2026.json"),
        ("/pools/megafilter", "error_401_paid_endpoint_2026.json"),
        ("/networks/solana/pools/{}/ohlcv/second", "error_401_timeframe_second_2026.json"),
        (
            "/networks/solana/pools/{}/ohlcv/day?before_timestamp=1",
            "error_401_older_than_180_days_2026.json",
        ),
        ("/networks/solana/pools/unknown", "error_404_not_found_2026.json"),
    ],
)
def test_bodies_have_the_shape_of_the_recorded_ones(
    client: Client, market: SyntheticMarket, path: str, sample: str
) -> None:
    url = client.simulator.base_url + path.format(ranked(market)[0])
    ours, recorded = client.session.get(url, timeout=10).json(), sampled(sample)
    agree(kinds(ours), kinds(recorded))
    assert ours.get("errors") == recorded.get("errors")


@needs_samples
def test_headers_are_the_recorded_ones() -> None:
    recorded = json.loads((SAMPLES / "headers.json").read_text())
    market = SyntheticMarket(seed=7, born=START)
    with serving(market, Hands(), rate=1, burst=2) as client:
        ours = client.get("/networks/solana/new_pools")
        hit = client.get("/networks/solana/new_pools")
        error = client.get("/nowhere", 404)
        limited = client.get("/networks", 429)
    for name, answer in {
        "trending_pools_solana_5m_include_2026_3rows.json": ours,
        "new_pools_solana_2026_3rows_cdn_hit.json": hit,
        "error_400_invalid_aggregate_2026.json": error,
        "error_429_2026.json": limited,
    }.items():
        for header, value in recorded[name]["response_headers"].items():
            if header in ("date", "etag", "x-runtime", "age"):
                assert header in answer.headers
            else:
                assert answer.headers[header] == value
    assert limited.json() == sampled("error_429_2026.json")


# -- limit, cache, headers


def test_the_limit_refuses_the_sixth_call_and_refills_in_market_time(
    market: SyntheticMarket,
) -> None:
    with serving(market, Hands(), rate=10, burst=5) as client:
        for page in range(1, 6):
            client.get(f"/networks/solana/pools?page={page}")
        refused = client.get("/networks/solana/pools?page=6", 429)
        assert refused.headers["retry-after"] == "0"
        assert refused.headers["content-type"] == "application/json"
        assert "access-control-allow-origin" not in refused.headers
        assert "cf-cache-status" not in refused.headers
        status = refused.json()["status"]
        assert status["error_code"] == 429
        assert status["error_message"].startswith("You've exceeded the Rate Limit. Please visit")
        client.hands.seconds += 5.9
        client.get("/networks/solana/pools?page=6", 429)
        client.hands.seconds += 0.2
        client.get("/networks/solana/pools?page=6")
        client.get("/networks/solana/pools?page=7", 429)


def test_refused_answers_cost_a_call_too_and_a_burst_never_grows() -> None:
    limit = RateLimit(rate=10, burst=5)
    taken = [limit.take("here", second * 1_000_000) for second in range(600)]
    assert sum(taken) == 5 + 99
    assert limit.take("elsewhere", 600_000_000)
    later = 10**12
    assert [limit.take("here", later) for _ in range(7)] == [True] * 5 + [False] * 2
    assert all(RateLimit(rate=0, burst=0).take("here", 0) for _ in range(100))


def test_the_cdn_answers_an_identical_url_for_a_minute_at_no_cost(
    market: SyntheticMarket,
) -> None:
    with serving(market, Hands(), rate=10, burst=2) as client:
        first = client.get("/networks/solana/pools")
        assert first.headers["cf-cache-status"] == "MISS"
        assert first.headers["cache-control"] == "max-age=30, public, must-revalidate, s-maxage=60"
        assert re.fullmatch(r'W/"[0-9a-f]{32}"', first.headers["etag"])
        assert "age" not in first.headers
        client.get("/nowhere", 404)
        client.get("/networks", 429)
        client.hands.seconds += 59
        client.get("/networks/solana/pools?page=1")  # spends what has come back
        client.get("/networks/solana/pools?page=2")
        client.get("/networks/solana/pools?page=3", 429)
        hit = client.get("/networks/solana/pools")  # works while throttled
        assert hit.headers["cf-cache-status"] == "HIT"
        assert hit.headers["age"] == "59"
        assert hit.content == first.content
        assert hit.headers["etag"] == first.headers["etag"]
        client.hands.seconds += 7
        assert client.get("/networks/solana/pools").headers["cf-cache-status"] == "MISS"


def test_trades_are_kept_for_half_a_minute_and_errors_never(market: SyntheticMarket) -> None:
    path = f"/networks/solana/pools/{ranked(market)[0]}/trades"
    with serving(market, Hands(), rate=0) as client:
        first = client.get(path)
        assert first.headers["cache-control"].endswith("s-maxage=30")
        client.hands.seconds += 29
        assert client.get(path).content == first.content
        client.hands.seconds += 1
        assert client.get(path).content != first.content
        for _ in range(2):
            error = client.get("/nowhere", 404)
            assert error.headers["cf-cache-status"] == "BYPASS"
            assert "etag" not in error.headers


def test_the_cache_forgets_what_is_no_longer_fresh(market: SyntheticMarket) -> None:
    with serving(market, Hands(), rate=0) as client:
        reply = client.simulator.reply("/api/v2/networks", "here", "test")
    cache = CdnCache()
    for minute in range(100):
        cache.put(f"/{minute}", minute * 60_000_000, 60, reply)
    assert len(cache) == 1
    assert [n for n in range(100) if cache.get(f"/{n}", 99 * 60_000_000)] == [99]
    assert cache.get("/99", 98 * 60_000_000) is None  # a clock that was set back


def test_pythons_own_user_agent_is_forbidden(market: SyntheticMarket) -> None:
    with serving(market, Hands(), rate=0) as client:
        answer = client.get("/networks", 403, **{"User-Agent": "Python-urllib/3.11"})
        assert "json" not in answer.headers["content-type"]


def test_requests_are_counted_at_the_far_side(market: SyntheticMarket) -> None:
    with serving(market, Hands(), rate=10, burst=2) as client:
        client.get("/networks?page=1")
        client.hands.seconds += 1
        client.get("/networks?page=1")
        client.get("/nowhere?x=%20y", 404)
        client.get("/networks?page=2", 429)
        now = (START + 1) * 1_000_000
        assert client.simulator.requests == [
            (START * 1_000_000, "/api/v2/networks?page=1", 200, False, None),
            (now, "/api/v2/networks?page=1", 200, True, None),
            (now, "/api/v2/nowhere?x=%20y", 404, False, None),
            (now, "/api/v2/networks?page=2", 429, False, None),
        ]


def test_the_request_id_is_the_candles_id_and_new_each_time(client: Client, market: SyntheticMarket) -> None:
    path = f"/networks/solana/pools/{ranked(market)[0]}/ohlcv/minute"
    answers = [client.get(path) for _ in range(2)]
    ids = [answer.json()["data"]["id"] for answer in answers]
    assert ids == [answer.headers["x-request-id"] for answer in answers]
    assert ids[0] != ids[1]


def test_closing_ends_every_thread_also_of_open_connections(market: SyntheticMarket) -> None:
    before = set(threading.enumerate())
    session = requests.Session()
    with Simulator(market, Hands(), rate=0) as simulator:
        session.get(simulator.base_url + "/networks", timeout=10)
        session.get(simulator.base_url + "/networks", timeout=10)
        assert len(set(threading.enumerate()) - before) == 2  # one connection, kept alive
    assert set(threading.enumerate()) == before
    with pytest.raises(requests.ConnectionError):
        session.get(simulator.base_url + "/networks", timeout=10)
    session.close()


# -- the replay


POOL, TOKEN, OTHER = "PooLa1", "ToKeNa1", "NewPooL2"
T0 = 1_757_990_000  # 2025-09-16T02:33:20Z, a moment within the minute that starts at ...980


def wall(seconds: int, offset: str = "-06:00") -> str:
    """Return a time as the files have it: UTC read off the wall, with a wrong offset."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + offset


def trade(block: int, shown: int, side: str, paid: str, got: str, price: str, volume: str) -> Json:
    return {
        "id": f"solana_{block}_tx{block}_30_{shown}",
        "pool_id": f"solana_{POOL}",
        "block_number": block,
        "tx_hash": f"tx{block}",
        "tx_from_address": "someone",
        "from_token_amount": paid,
        "to_token_amount": got,
        "price_usd": price,
        "volume_usd": volume,
        "side": side,
        "block_timestamp": wall(block),
    }


def candle(timeframe: str, ts: int, prices: str, volume: str) -> Json:
    names = ("open_price", "high_price", "low_price", "close_price")
    row = dict(zip(names, prices.split(), strict=True))
    return {
        "pool_id": f"solana_{POOL}",
        "timeframe": timeframe,
        "timestamp": ts,
        "volume_usd": volume,
        **row,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of small dumps: block numbers are block times, for reading's sake."""
    minute = T0 // 60 * 60
    tables: dict[str, list[Json]] = {
        "trades_data": [
            trade(T0 + 1, T0 + 5, "buy", "2.0000000000", "1000.0", "200.0", "400.00"),
            trade(T0 + 2, T0 + 30, "sell", "500.0", "1.0", "0.40000000", "200.00"),  # late
            trade(T0 + 9, T0 + 12, "sell", "100.0", "0.25", "0.50000000", "50.00"),
        ],
        "ohlcv_data": [
            candle("1m", minute - 60, "0.3 0.4 0.2 0.35", "900.5"),
            candle("1m", minute, "0.35 0.9 0.3 0.55", "7000.25"),
        ],
        "pools_data": [
            {
                "id": f"solana_{POOL}",
                "address": f"solana_solana_{POOL}",
                "name": "",
                "dex_id": "solana_unknown",
                "base_token_id": None,
                "quote_token_id": None,
                "created_at": wall(T0 + 10**6),
            },
            {
                "id": f"solana_{OTHER}",
                "address": OTHER,
                "name": "NEW / SOL",
                "dex_id": "pump-fun",
                "base_token_id": TOKEN,
                "quote_token_id": "So11111111111111111111111111111111111111112",
                "created_at": wall(T0 + 60),
            },
        ],
        "tokens_data": [
            {"id": TOKEN, "name": "Token ToKeNa1...", "symbol": "TKNx", "network": "solana"},
        ],
        "new_pools_history": [
            {
                "pool_id": f"solana_{OTHER}",
                "address": OTHER,
                "name": "NEW / SOL",
                "dex_id": "pump-fun",
                "network_id": "solana",
                "base_token_id": TOKEN,
                "quote_token_id": "So11111111111111111111111111111111111111112",
                "base_token_price_usd": "3.04E-8",
                "quote_token_price_usd": "235.2847681951",
                "pool_created_at": wall(T0 + 60),
                "collected_at": wall(T0 + 120),
                "fdv_usd": "7162.7809",
                "market_cap_usd": None,
                "reserve_in_usd": "5669.5166",
                "price_change_percentage_h1": "5.7900",
                "price_change_percentage_h24": "5.7900",
                "transactions_h1_buys": 2,
                "transactions_h1_sells": 1,
                "transactions_h24_buys": 2,
                "transactions_h24_sells": 1,
                "volume_usd_h24": "654.1385",
            }
        ],
    }
    for name, rows in tables.items():
        with gzip.open(tmp_path / f"{name}_2025.json.gz", "wt") as file:
            json.dump(rows, file)
    return tmp_path


@pytest.fixture
def replay(folder: Path) -> Iterator[Client]:
    with serving(ReplayMarket(folder), Hands(T0), rate=0, cache=False) as made:
        yield made


def test_a_replay_begins_when_its_first_trade_became_visible(folder: Path) -> None:
    assert ReplayMarket(folder).begins == T0 + 5


def test_recorded_trades_appear_late_and_out_of_order_as_they_did(replay: Client) -> None:
    path = f"/networks/solana/pools/{POOL}/trades"
    shown = []
    for second in (4, 5, 12, 29, 30):
        replay.hands.seconds = T0 + second
        rows = replay.json(path)["data"]
        shown.append([row["attributes"]["block_number"] - T0 for row in rows])
    assert shown == [[], [1], [9, 1], [9, 1], [9, 2, 1]]
    replay.hands.seconds = T0 + 86400 + 2
    assert [row["attributes"]["block_number"] - T0 for row in replay.json(path)["data"]] == [9]
    replay.hands.seconds = T0 + 40
    rows = replay.json(path + "?trade_volume_in_usd_greater_than=200")["data"]
    assert [row["attributes"]["volume_in_usd"] for row in rows] == ["400.00"]


def test_what_recorded_trades_lack_is_rebuilt(replay: Client) -> None:
    replay.hands.seconds = T0 + 40
    _, sell, buy = replay.json(f"/networks/solana/pools/{POOL}/trades")["data"]
    a = buy["attributes"]
    assert buy["id"] == f"solana_{T0 + 1}_tx{T0 + 1}_30_{T0 + 5}"
    assert a["block_timestamp"] == wall(T0 + 1, "Z")
    assert (a["price_from_in_usd"], a["price_to_in_usd"]) == ("200.0", "0.4")
    assert a["price_to_in_currency_token"] == "0.002"
    assert (a["from_token_address"], a["to_token_address"]) == (f"quote{POOL}", f"base{POOL}")
    a = sell["attributes"]
    assert (a["price_from_in_usd"], a["price_to_in_usd"]) == ("0.40000000", "200.0")
    assert (a["from_token_address"], a["to_token_address"]) == (f"base{POOL}", f"quote{POOL}")


def test_recorded_candles_show_once_over_and_the_running_one_grows(replay: Client) -> None:
    minute = T0 // 60 * 60
    assert replay.candles(POOL, "") == [[minute - 60, 0.3, 0.4, 0.2, 0.35, 900.5]]
    replay.hands.seconds = T0 + 5
    assert replay.candles(POOL, "")[0] == [minute, 0.35, 0.4, 0.35, 0.4, 400.0]
    replay.hands.seconds = T0 + 30
    assert replay.candles(POOL, "")[0] == [minute, 0.35, 0.5, 0.35, 0.5, 650.0]
    replay.hands.seconds = minute + 60
    assert replay.candles(POOL, "") == [
        [minute, 0.35, 0.9, 0.3, 0.55, 7000.25],
        [minute - 60, 0.3, 0.4, 0.2, 0.35, 900.5],
    ]
    in_quote = replay.candles(POOL, "currency=token")
    assert in_quote == [[minute, 0.002, 0.0025, 0.002, 0.0025, 3.25]]
    assert replay.candles(POOL, f"before_timestamp={minute}")[0][0] == minute - 60


def test_recorded_pools_appear_when_created_with_their_snapshot(replay: Client) -> None:
    replay.hands.seconds = T0 + 59
    assert replay.json("/networks/solana/new_pools")["data"] == []
    replay.hands.seconds = T0 + 60
    body = replay.json("/networks/solana/new_pools?include=base_token,dex")
    [row] = body["data"]
    a = row["attributes"]
    assert row["relationships"]["base_token"]["data"]["id"] == f"solana_{TOKEN}"
    assert a["base_token_price_usd"] == "0.0000000304"
    assert a["quote_token_price_native_currency"] == "1.0"
    assert a["transactions"]["h24"]["buys"] == 2
    assert float(a["volume_usd"]["h24"]) == pytest.approx(654.1385)
    assert a["price_change_percentage"]["h24"] == "5.79"
    assert body["included"][0]["attributes"]["symbol"] == "NEW"
    rows = replay.json("/networks/solana/pools")["data"]
    assert {row["id"] for row in rows} == {f"solana_{POOL}", f"solana_{OTHER}"}
    [known] = [row for row in rows if row["id"] == f"solana_{POOL}"]
    assert known["relationships"]["dex"]["data"]["id"] == "unknown"
    assert known["attributes"]["pool_created_at"] is None
    assert known["attributes"]["transactions"]["m5"]["sells"] == 2
    agree(kinds(known["attributes"]), LIST_POOL)


def test_a_replay_knows_its_tokens_as_far_as_its_files_go(replay: Client) -> None:
    """Supply, holders' counts and births are in no file: what follows from them is null or made up."""
    replay.hands.seconds = T0 + 59
    assert replay.error(f"/networks/solana/tokens/{TOKEN}", 404) == "Not Found"
    assert replay.json("/networks/solana/trending_pools?duration=5m")["data"][0]["id"] == f"solana_{POOL}"
    replay.hands.seconds = T0 + 60
    token = replay.json(f"/networks/solana/tokens/{TOKEN}?include=top_pools")
    a = token["data"]["attributes"]
    assert (a["symbol"], a["price_usd"], a["fdv_usd"]) == ("NEW", "0.0000000304", "7162.7809")
    assert (a["total_supply"], a["total_reserve_in_usd"]) == (None, "2834.7583")
    assert float(a["volume_usd"]["h24"]) == pytest.approx(654.1385)
    assert [row["id"] for row in token["included"]] == [f"solana_{OTHER}"]
    [row] = replay.json("/search/pools?query=new&network=solana")["data"]
    assert row["id"] == f"solana_{OTHER}"
    assert replay.json(f"/search/pools?query=base{POOL}")["data"][0]["id"] == f"solana_{POOL}"
    assert len(replay.json(f"/networks/solana/pools/{OTHER}/info")["data"]) == 2
    assert replay.json(f"/networks/solana/tokens/{TOKEN}/info")["data"]["attributes"]["symbol"] == "NEW"
    prices = replay.json(f"/simple/networks/solana/token_price/{TOKEN},quote{POOL}?include_24hr_vol=true")["data"]
    assert prices["attributes"]["token_prices"] == {TOKEN: "0.0000000304", f"quote{POOL}": "200.0"}
    assert prices["attributes"]["h24_volume_usd"][f"quote{POOL}"] == "650.0"
    rows = replay.json(f"/networks/solana/tokens/{TOKEN}/pools")["data"]
    assert [row["attributes"]["token_price_usd"] for row in rows] == ["0.0000000304"]
    assert {row["id"] for row in replay.json("/networks/new_pools")["data"]} == {f"solana_{OTHER}"}
    assert replay.json("/tokens/info_recently_updated")["data"] == []
    replay.hands.seconds = T0 + 3 * 3600
    assert [row["id"] for row in replay.json("/tokens/info_recently_updated")["data"]] == [f"solana_{TOKEN}"]
    trending = {
        span: [row["id"] for row in replay.json(f"/networks/solana/trending_pools?duration={span}")["data"]]
        for span in ("5m", "24h")
    }
    assert f"solana_{POOL}" not in trending["5m"]
    assert f"solana_{POOL}" in trending["24h"]


def test_a_replay_needs_something_to_play(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such folder"):
        ReplayMarket(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"\*_data\*\.json\.gz"):
        ReplayMarket(tmp_path)


@needs_samples
def test_the_recorded_day_is_played_back_whole() -> None:
    """Polled often enough, the simulator shows every recorded trade, and no trade too early."""
    market = ReplayMarket(SAMPLES / "series")
    hands = Hands(market.begins)
    pool = "Cnd9CKtG6meUJqKu9NkSeriAgzPSbQpZV5qwq5B44Spz"
    with gzip.open(next((SAMPLES / "series").glob("trades_data*"))) as file:
        rows = {row["id"] for row in json.load(file) if row["pool_id"].endswith(pool)}
    seen: set[str] = set()
    with serving(market, hands, rate=0, cache=False) as client:
        while hands.seconds < market.begins + 90000:
            answer = client.json(f"/networks/solana/pools/{pool}/trades")["data"]
            fresh = {row["id"] for row in answer} - seen
            assert all(int(each.rsplit("_", 1)[1]) <= hands.seconds for each in fresh)
            seen |= fresh
            hands.seconds += 600
    assert seen == rows


# -- the command line


def test_the_command_tells_its_url_and_ends_cleanly() -> None:
    anchor = time.time() - 60
    command = [sys.executable, "-m", "geckosched_geckoterminal.simulator", "--port", "0"]
    options = ["--seed", "3", "--pools", "2", "--start", "2026-09-28T21:00:00Z", "--speed", "60"]
    process = subprocess.Popen(
        [*command, *options, "--births", "0", "--anchor", repr(anchor), "--rate", "0", "--no-cache"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url, *facts = process.stdout.readline().split()
        assert facts == ["start=2026-09-28T21:00:00+00:00", f"anchor={anchor!r}", "speed=60"]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/api/v2", url)
        answer = requests.get(url + "/networks/solana/pools", timeout=10)
        date = parsedate_to_datetime(answer.headers["date"])
        market_now = START + (time.time() - anchor) * 60
        assert abs(date.timestamp() - market_now) < 120
        shown = {row["attributes"]["address"] for row in answer.json()["data"]}
        assert shown == set(ranked(SyntheticMarket(seed=3, pools=2, born=START)))
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=10)
        assert (process.returncode, output, errors) == (0, "", "")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pools", "0"], "pools: 0 found, at least 1 allowed"),
        (["--births", "-1"], "births: -1.0 found, allowed is 0 or more an hour"),
        (["--speed", "0"], "speed: found 0.0"),
        (["--start", "banana"], "'banana' is no ISO 8601 time"),
        (["--replay", "nowhere"], "nowhere: no such folder to replay"),
    ],
)
def test_the_command_says_in_a_line_what_it_cannot_use(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
