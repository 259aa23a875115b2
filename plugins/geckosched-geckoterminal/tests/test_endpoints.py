"""Trends, search, tokens and prices of the simulator: what they show agrees with the pools, and with each other."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from itertools import chain
from statistics import median
from typing import Any

import pytest
import requests
from geckosched_geckoterminal.call import Call, highest
from geckosched_geckoterminal.market import WRAPPED_SOL, Pool
from geckosched_geckoterminal.simulator import Simulator
from geckosched_geckoterminal.synthetic import SyntheticMarket
from hypothesis import given, settings
from hypothesis import strategies as st

from geckosched.testing import FakeClock

START = 1_790_629_200  # 2026-09-28T21:00:00Z
DAY = 86400
SOL = WRAPPED_SOL.address
Json = Any


class Client:
    """A simulator without limit and cache, its clock, and a connection to it."""

    def __init__(self, market: SyntheticMarket) -> None:
        self.market = market
        self.clock = FakeClock(datetime.fromtimestamp(START, UTC))
        self.simulator = Simulator(market, self.clock, rate=0, cache=False)
        self.session = requests.Session()

    @property
    def now(self) -> int:
        return self.clock.now() // 1_000_000

    def at(self, moment: int) -> None:
        """Set the market's time, in epoch seconds."""
        self.clock.step(moment - self.now)

    @property
    def youngest(self) -> Pool:
        return max(self.market.pools("solana", self.now).values(), key=lambda pool: pool.created_at or 0)

    def ask(self, path: str, **query: str) -> Json:
        return self.refused(path, 200, **query)

    def refused(self, path: str, status: int, /, **query: str) -> Json:
        answer = self.session.get(self.simulator.base_url + path, params=query, timeout=10)
        assert answer.status_code == status, answer.text
        return answer.json()

    def rows(self, path: str, **query: str) -> list[Json]:
        return list(self.ask(path, **query)["data"])


@cache
def market() -> SyntheticMarket:
    """Return a market, which is the same for every test: nothing that is asked of it changes it."""
    return SyntheticMarket(seed=7, pools=12, born=START, births=30)


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client(market())
    with made.simulator, made.session:
        yield made


def names(rows: list[Json]) -> list[str]:
    return [row["attributes"]["address"] for row in rows]


def trades_of(row: Json, window: str) -> int:
    counted = row["attributes"]["transactions"][window]
    return int(counted["buys"] + counted["sells"])


# Lists


def test_trending_pools_of_a_short_span_are_those_that_trade_in_it(client: Client) -> None:
    """The span decides: of 5 minutes the young and busy come first, and what is dead is nowhere."""
    lists = {span: client.rows("/networks/solana/trending_pools", duration=span) for span in ("5m", "1h", "6h", "24h")}
    assert len({tuple(names(rows)) for rows in lists.values()}) == 4
    assert lists["24h"] == client.rows("/networks/solana/trending_pools")
    dead = {pool.address for pool in client.market.pools("solana", START).values() if died(client, pool, START - 300)}
    path = "/networks/solana/trending_pools"
    every = [row for page in "123456" for row in client.rows(path, duration="5m", page=page)]
    assert len(dead) > 20
    assert len(names(every)) == len(set(names(every)))
    assert not dead & set(names(every))
    assert sum(trades_of(row, "m5") for row in every[:10]) > sum(trades_of(row, "m5") for row in every[-10:])
    assert median_age(lists["5m"][1:8]) < 3600
    assert median_age(lists["24h"][:8]) < 0.7 * median_age(client.rows("/networks/solana/pools")[:8])


def median_age(rows: list[Json]) -> float:
    return median(START - stamp(row["attributes"]["pool_created_at"]) for row in rows)


def died(client: Client, pool: Pool, moment: int) -> bool:
    death = client.market.death(pool)
    return death is not None and death <= moment


def stamp(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


@pytest.mark.parametrize("what", ["new_pools", "trending_pools"])
def test_lists_over_all_networks_tell_the_network(client: Client, what: str) -> None:
    """Also without `include`; the lists of one network don't."""
    every, one = client.rows(f"/networks/{what}"), client.rows(f"/networks/solana/{what}")
    assert names(every) == names(one)
    assert {row["relationships"]["network"]["data"]["id"] for row in every} == {"solana"}
    assert not any("network" in row["relationships"] for row in one)
    included = client.ask(f"/networks/{what}", include="network")["included"]
    assert [(row["type"], row["id"]) for row in included] == [("network", "solana")]
    assert "included" not in client.ask(f"/networks/solana/{what}", include="network")
    assert client.rows(f"/networks/eth/{what}") == []


heights = st.tuples(st.integers(0, 20), st.integers(0, 30))


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 120).flatmap(lambda size: st.lists(heights, min_size=size, max_size=size)), st.integers(1, 5))
def test_a_page_of_the_highest_is_that_of_all_sorted_and_asks_no_more_than_it_must(
    found: list[tuple[int, int]], page: int
) -> None:
    """A key is at most its bound; equal keys are told apart by address."""
    pools = [Pool("solana", f"{n:04}", "", "", WRAPPED_SOL, WRAPPED_SOL, None) for n in range(len(found))]
    key = {pool.address: height for pool, (height, _) in zip(pools, found, strict=True)}
    bound = {pool.address: height + slack for pool, (height, slack) in zip(pools, found, strict=True)}
    asked: list[str] = []

    def height(pool: Pool) -> float:
        asked.append(pool.address)
        return key[pool.address]

    call = Call("", {"page": str(page)}, START, "", "")
    shown = [pool.address for pool in highest(call, pools, height, lambda pool: bound[pool.address])]
    ranked = sorted(key, key=lambda address: (-key[address], address))
    assert shown == ranked[20 * (page - 1) : 20 * page]
    assert len(asked) == len(set(asked))
    if len(pools) > 20 * page:
        lowest = key[ranked[20 * page - 1]]
        assert all(bound[address] >= lowest for address in asked)
    assert [each.address for each in highest(call, pools, lambda pool: key[pool.address])] == shown


# Search


def test_a_search_finds_by_address_symbol_and_name(client: Client) -> None:
    """Addresses whole and in their case, words in any case and in part; the exact ones first."""
    pool = client.market.founders[3]
    for text in (pool.address, pool.base.address, pool.base.symbol, pool.base.name.lower(), pool.base.symbol[:3]):
        assert pool.address in names(client.rows("/search/pools", query=text, network="solana"))
    assert names(client.rows("/search/pools", query=pool.address)) == [pool.address]
    assert client.rows("/search/pools", query=pool.address.lower()) == []
    assert client.rows("/search/pools", query="no such thing") == []
    assert client.rows("/search/pools", query="") == client.rows("/search/pools") == []
    assert client.rows("/search/pools", query=pool.base.symbol, network="eth") == []
    client.refused("/search/pools", 404, query="x", network="ethereum")


def test_a_search_sorts_by_fit_then_by_trades(client: Client) -> None:
    letter = client.market.founders[5].base.symbol[:1].lower()
    rows = [row for page in "123" for row in client.rows("/search/pools", query=letter, page=page)]
    starts = [row["attributes"]["name"].lower().startswith(letter) for row in rows]
    assert starts == sorted(starts, reverse=True)
    assert 0 < sum(starts) < len(starts)
    counts = [trades_of(row, "h24") for row in rows[: sum(starts)]]
    assert counts == sorted(counts, reverse=True)
    pages = [names(client.rows("/search/pools", query="sol", page=page)) for page in "12"]
    assert len(set(chain(*pages))) == 40


def test_a_pool_of_three_tokens_has_no_candles(client: Client) -> None:
    """A search finds it, no list shows it, and all but its candles is as of other pools."""
    address = client.market.basket.address
    [found] = client.rows("/search/pools", query=client.market.basket.others[0].symbol)
    assert found["attributes"]["name"].count(" / ") == 2
    assert names([found]) == [address]
    error = client.refused(f"/networks/solana/pools/{address}/ohlcv/hour", 422)["errors"][0]
    assert error == {"status": "422", "title": "Pools with >2 tokens are not yet supported for this endpoint"}
    assert client.rows(f"/networks/solana/pools/{address}/trades")
    assert names([client.ask(f"/networks/solana/pools/{address}")["data"]]) == [address]
    assert len(client.rows(f"/networks/solana/pools/{address}/info")) == 3
    third = client.market.basket.others[0].address
    assert names(client.rows(f"/networks/solana/tokens/{third}/pools")) == [address]
    assert client.ask(f"/networks/solana/tokens/{third}")["data"]["attributes"]["price_usd"] is None
    lists = [client.rows("/networks/solana/pools", page=page) for page in "1234"]
    assert address not in names(list(chain(*lists)))


# Tokens


def test_a_tokens_figures_are_those_of_its_pool(client: Client) -> None:
    for pool in (*client.market.founders[1:4], client.youngest):
        token = client.ask(f"/networks/solana/tokens/{pool.base.address}")["data"]
        shown = client.ask(f"/networks/solana/pools/{pool.address}")["data"]["attributes"]
        a = token["attributes"]
        assert token["id"] == f"solana_{pool.base.address}"
        assert a["price_usd"] == shown["base_token_price_usd"]
        assert a["volume_usd"]["h24"] == shown["volume_usd"]["h24"]
        assert Decimal(a["total_reserve_in_usd"]) == Decimal(shown["reserve_in_usd"]) / 2
        assert float(a["fdv_usd"]) == pytest.approx(float(shown["fdv_usd"]), rel=1e-4)
        assert Decimal(a["total_supply"]) == Decimal(a["normalized_total_supply"]) * 10 ** a["decimals"]
        assert a.get("launchpad_details") == shown.get("launchpad_details")
        assert token["relationships"]["top_pools"]["data"] == [{"id": f"solana_{pool.address}", "type": "pool"}]
    client.refused(f"/networks/solana/tokens/{client.market.founders[1].base.address.lower()}", 404)
    client.refused(f"/networks/eth/tokens/{SOL}", 404)


def test_a_token_of_many_pools_adds_them_up_and_shows_the_first_three(client: Client) -> None:
    body = client.ask(f"/networks/solana/tokens/{SOL}", include="top_pools", include_composition="true")
    pools = client.market.searchable("solana", START).values()
    volumes = sorted((client.market.activity(pool, START).volume for pool in pools), reverse=True)
    assert float(body["data"]["attributes"]["volume_usd"]["h24"]) == pytest.approx(sum(volumes))
    top = [row["id"] for row in body["data"]["relationships"]["top_pools"]["data"]]
    assert top == [row["id"] for row in body["included"]]
    assert [float(row["attributes"]["volume_usd"]["h24"]) for row in body["included"]] == pytest.approx(volumes[:3])
    for row in body["included"]:
        assert row["attributes"]["token_price_usd"] == row["attributes"]["quote_token_price_usd"]
        assert row["attributes"]["quote_token_balance"]
        assert "pool_name" not in row["attributes"]
    assert "included" not in client.ask(f"/networks/solana/tokens/{SOL}")
    assert "included" not in client.ask(f"/networks/solana/tokens/{SOL}", include="dex")
    plain = client.ask(f"/networks/solana/tokens/{SOL}", include="top_pools")["included"][0]["attributes"]
    assert "quote_token_balance" not in plain


def test_several_tokens_show_one_top_pool_each_and_unknown_ones_are_left_out(client: Client) -> None:
    known = [SOL, client.youngest.base.address, client.market.founders[2].base.address]
    asked = ",".join(["unknown", *known, known[2], known[1].lower()])
    body = client.ask(f"/networks/solana/tokens/multi/{asked}", include="top_pools")
    assert names(body["data"]) == known
    tops = [row["relationships"]["top_pools"]["data"] for row in body["data"]]
    assert [len(top) for top in tops] == [1, 1, 1]
    assert {row["id"] for row in body["included"]} == {top[0]["id"] for top in tops}
    assert "included" not in client.ask(f"/networks/solana/tokens/multi/{asked}")
    assert client.rows("/networks/solana/tokens/multi/unknown") == []


def test_a_tokens_pools_are_sorted_and_priced_from_its_side(client: Client) -> None:
    path = f"/networks/solana/tokens/{SOL}/pools"
    volumes = [float(row["attributes"]["volume_usd"]["h24"]) for row in client.rows(path)]
    assert volumes == sorted(volumes, reverse=True)
    assert client.rows(path, sort="h24_volume_usd_desc") == client.rows(path)
    rows = client.rows(path, sort="h24_tx_count_desc") + client.rows(path, sort="h24_tx_count_desc", page="2")
    counts = [trades_of(row, "h24") for row in rows]
    assert counts == sorted(counts, reverse=True)
    assert len(set(names(rows))) == 40
    assert all(row["attributes"]["token_price_usd"] == row["attributes"]["quote_token_price_usd"] for row in rows)
    pool = client.market.founders[2]
    [row] = client.rows(f"/networks/solana/tokens/{pool.base.address}/pools")
    assert row["attributes"]["token_price_usd"] == row["attributes"]["base_token_price_usd"]
    client.refused(path, 400, sort="pool_created_at_desc")


def test_a_pools_info_is_that_of_both_tokens_in_no_fixed_order(client: Client) -> None:
    firsts = set()
    for pool in client.market.founders:
        body = client.ask(f"/networks/solana/pools/{pool.address}/info", include="pool")
        assert {*names(body["data"])} == {pool.base.address, pool.quote.address}
        firsts.add(names(body["data"])[0] == pool.base.address)
        for row in body["data"]:
            assert row["relationships"]["pool"]["data"]["id"] == f"solana_{pool.address}"
            told = client.ask(f"/networks/solana/tokens/{row['attributes']['address']}/info")["data"]
            assert told == {key: row[key] for key in ("id", "type", "attributes")}
        [shown] = body["included"]
        assert shown["attributes"]["base_token_address"] == pool.base.address
        assert shown["attributes"]["quote_token_address"] == pool.quote.address
    assert firsts == {True, False}
    assert "included" not in client.ask(f"/networks/solana/pools/{pool.address}/info")


def test_holders_are_counted_once_a_token_is_some_minutes_old(client: Client) -> None:
    path = f"/networks/solana/tokens/{client.youngest.base.address}/info"
    before = client.ask(path)["data"]["attributes"]
    assert before["holders"] == {"count": None, "distribution_percentage": None, "last_updated": None}
    client.at(client.now + 1200)
    after = client.ask(path)["data"]["attributes"]
    shares = after["holders"]["distribution_percentage"]
    assert after["holders"]["count"] > 0
    assert sum(Decimal(share) for share in shares.values()) == pytest.approx(100, abs=Decimal("0.001"))
    unchanged = {"holders", "launchpad_details"}
    assert {k: v for k, v in after.items() if k not in unchanged} == {
        k: v for k, v in before.items() if k not in unchanged
    }


def test_the_recently_updated_are_the_last_100_newest_first_and_none_of_tomorrow(client: Client) -> None:
    rows = client.rows("/tokens/info_recently_updated")
    moments = [stamp(row["attributes"]["metadata_updated_at"]) for row in rows]
    assert moments == sorted(moments, reverse=True)
    assert START - 600 < moments[0] <= START
    assert len(set(names(rows))) == 100
    assert rows == client.rows("/tokens/info_recently_updated", network="solana")
    assert client.rows("/tokens/info_recently_updated", network="eth") == []
    client.refused("/tokens/info_recently_updated", 404, network="ethereum")
    client.at(client.now + 3600)
    later = client.rows("/tokens/info_recently_updated")
    fresh = {stamp(row["attributes"]["metadata_updated_at"]) for row in later if row not in rows}
    assert fresh
    assert all(START < moment <= START + 3600 for moment in fresh)


# Prices


def test_simple_prices_are_maps_of_what_was_asked_for(client: Client) -> None:
    pool = client.market.founders[2]
    asked = [pool.base.address, SOL, client.youngest.base.address]
    path = f"/simple/networks/solana/token_price/{','.join([*asked, 'unknown'])}"
    body = client.ask(path)["data"]
    assert (body["type"], set(body["attributes"])) == ("simple_token_price", {"token_prices"})
    prices = body["attributes"]["token_prices"]
    assert list(prices) == sorted(asked)
    shown = client.ask(f"/networks/solana/pools/{pool.address}")["data"]["attributes"]
    assert prices[pool.base.address] == shown["base_token_price_usd"]
    flags = {
        "include_market_cap": "market_cap_usd",
        "include_24hr_vol": "h24_volume_usd",
        "include_24hr_price_change": "h24_price_change_percentage",
        "include_total_reserve_in_usd": "total_reserve_in_usd",
    }
    for flag, name in flags.items():
        attributes = client.ask(path, **{flag: "true"})["data"]["attributes"]
        assert set(attributes) == {"token_prices", name}
        assert set(attributes[name]) == set(asked)
    every = client.ask(path, **dict.fromkeys(flags, "true"))["data"]["attributes"]
    assert every["h24_volume_usd"][pool.base.address] == shown["volume_usd"]["h24"]
    change = float(every["h24_price_change_percentage"][pool.base.address])
    assert change == pytest.approx(float(shown["price_change_percentage"]["h24"]), abs=0.001)
    assert abs(float(every["h24_price_change_percentage"][SOL])) < 12
    assert every["market_cap_usd"][pool.base.address] is None
    assert float(every["market_cap_usd"][SOL]) > 10**9
    filled = client.ask(path, include_market_cap="true", mcap_fdv_fallback="true")["data"]["attributes"]
    assert float(filled["market_cap_usd"][pool.base.address]) == pytest.approx(float(shown["fdv_usd"]), rel=1e-4)


def test_the_change_of_sol_is_that_of_its_candles(client: Client) -> None:
    path = f"/simple/networks/solana/token_price/{SOL}"
    told = client.ask(path, include_24hr_price_change="true")["data"]["attributes"]["h24_price_change_percentage"][SOL]
    address = client.market.founders[2].address  # two days old, and busy
    candles = client.ask(f"/networks/solana/pools/{address}/ohlcv/hour", token="quote", limit="100")
    closes = {row[0]: row[4] for row in candles["data"]["attributes"]["ohlcv_list"]}
    before = closes[(START - DAY) // 3600 * 3600 - 3600]
    newest = next(iter(closes.values()))
    assert float(told) == pytest.approx((newest / before - 1) * 100, abs=1.5)


# Tokens that lists know in part


def test_some_new_tokens_lack_symbol_or_decimals_in_lists_until_they_are_some_minutes_old(client: Client) -> None:
    """Asked for themselves they have both, at any age."""
    pools = [pool for pool in client.market.pools("solana", START).values() if pool not in client.market.founders]
    partial = [pool for pool in pools if pool.unknown]
    assert 0.02 < len(partial) / len(pools) < 0.12
    assert {pool.unknown for pool in partial} == {("symbol", "decimals"), ("symbol",), ("decimals",)}
    for pool in partial[-3:]:
        born = pool.created_at or 0
        assert 120 <= pool.known_at - born <= 1200
        for moment in (born + 1, pool.known_at - 1, pool.known_at):
            lacking = {*pool.unknown} if moment < pool.known_at else set()
            client.at(moment)
            for path in (f"/pools/{pool.address}", f"/pools/multi/{pool.address}", "/new_pools"):
                included = client.ask(f"/networks/solana{path}", include="base_token,quote_token")["included"]
                [shown] = [row["attributes"] for row in included if row["attributes"]["address"] == pool.base.address]
                assert {name for name, value in shown.items() if value is None} == lacking | {"coingecko_coin_id"}
            [told] = client.rows(f"/networks/solana/tokens/multi/{pool.base.address}")
            assert told["attributes"]["symbol"] == pool.base.symbol
            assert told["attributes"]["decimals"] == 6


def test_a_token_is_known_as_long_as_its_pool_also_when_no_list_shows_it(client: Client) -> None:
    pool = client.youngest
    client.at(client.now + 40 * DAY)
    assert pool.address not in client.market.pools("solana", client.now)
    [row] = client.rows(f"/networks/solana/tokens/multi/{pool.base.address}")
    assert row["relationships"]["top_pools"]["data"][0]["id"] == f"solana_{pool.address}"
    assert names(client.rows("/search/pools", query=pool.base.address)) == [pool.address]
    client.at((pool.created_at or 0) - 1)
    client.refused(f"/networks/solana/tokens/{pool.base.address}", 404)


# The dead


def test_a_dead_pool_keeps_answering(client: Client) -> None:
    """With figures of zero, its last price, no trades and its old candles."""
    pool = next(each for each in client.market.founders[1:] if client.market.death(each))
    client.at((client.market.death(pool) or 0) + 3 * DAY)
    shown = client.ask(f"/networks/solana/pools/{pool.address}")["data"]["attributes"]
    assert trades_of({"attributes": shown}, "h24") == 0
    assert set(shown["price_change_percentage"].values()) == {"0"}
    assert float(shown["base_token_price_usd"]) > 0
    assert client.rows(f"/networks/solana/pools/{pool.address}/trades") == []
    candles = client.ask(f"/networks/solana/pools/{pool.address}/ohlcv/hour")["data"]["attributes"]["ohlcv_list"]
    assert candles
    assert float(shown["base_token_price_usd"]) == candles[0][4]


# A market as busy as Solana


def test_lists_of_a_market_with_30_births_a_minute_are_in_order() -> None:
    """Although most pools are never looked at: what a page shows is what counting all gives."""
    market = SyntheticMarket(seed=3, pools=20, born=START, births=1800)
    made = Client(market)
    with made.simulator, made.session:
        rows = made.rows("/networks/solana/pools") + made.rows("/networks/solana/pools", page="2")
        counts = [trades_of(row, "h24") for row in rows]
        assert counts == sorted(counts, reverse=True)
        every = [market.activity(pool, START).trades for pool in market.pools("solana", START).values()]
        assert len(every) > 1500
        assert counts == heapq.nlargest(40, every)
        new = [row for page in range(1, 11) for row in made.rows("/networks/solana/new_pools", page=str(page))]
        ages = [START - stamp(row["attributes"]["pool_created_at"]) for row in new]
        assert len(set(names(new))) == 200
        assert ages == sorted(ages)
        assert 300 < ages[-1] < 500
