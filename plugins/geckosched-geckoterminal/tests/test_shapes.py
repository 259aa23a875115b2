"""What the simulator answers has the keys, kinds and order of what was recorded, and the headers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import requests
from geckosched_geckoterminal.answers import Api, ApiError, Call
from geckosched_geckoterminal.simulator import Simulator
from geckosched_geckoterminal.synthetic import SyntheticMarket

from geckosched.testing import FakeClock

START = 1_790_629_200  # 2026-09-28T21:00:00Z
SAMPLES = Path(__file__).parents[3] / "../shared/geckoterminal/samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="no recorded samples beside here")
MANY = ",".join(map(str, range(31)))
Json = Any

KEYED_HOST = {"sentiment_vote_positive_percentage", "sentiment_vote_negative_percentage", "community_sus_report"}
"""Documented for the keyed host only (starred in api.md), so their absence is no fault."""
SOMETIMES = {"launchpad_details", "last_trade_timestamp", "network", *KEYED_HOST}
"""Keys that depend on the pool or on what was asked."""


@cache
def market() -> SyntheticMarket:
    return SyntheticMarket(seed=7, pools=12, born=START, births=30)


def asked(path: str) -> Json:
    """Return the body of an answer; `{pool}`, `{token}`, `{young}` and `{sol}` stand for addresses."""
    path, _, query = path.partition("?")
    founder = market().founders[1]
    young = max(market().pools("solana", START).values(), key=lambda pool: pool.created_at or 0)
    path = path.format(
        pool=founder.address, token=founder.base.address, young=young.base.address, sol=founder.quote.address
    )
    pairs = dict(each.split("=", 1) for each in query.split("&") if each)
    body = Api(market()).answer(Call(path, pairs, START, "an-id", "http://root")).body
    assert body["data"]
    return body


def sampled(name: str) -> Json:
    return json.loads((SAMPLES / name).read_text())


# A body's shape


def shape(value: Json) -> Json:
    """Return keys and kinds; rows are merged by their type, so that nulls of one row hide nothing of another."""
    if isinstance(value, dict):
        if len(value) > 1 and all(len(key) > 30 for key in value):  # a map by address
            return shape(list(value.values()))
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        rows = [each for each in value if isinstance(each, dict) and "type" in each]
        if not value:
            return set()
        if not rows:
            return {"*": merged([shape(each) for each in value])}
        return {kind: merged([shape(each) for each in rows if each["type"] == kind]) for kind in kinds(rows)}
    return {"number" if type(value) in (int, float) else type(value).__name__}


def kinds(rows: list[Json]) -> list[str]:
    return list(dict.fromkeys(row["type"] for row in rows))


def merged(shapes: list[Json]) -> Json:
    dicts, scalars = [each for each in shapes if isinstance(each, dict)], [s for s in shapes if isinstance(s, set)]
    if not dicts:
        return set().union(*scalars)
    keys = dict.fromkeys(key for each in dicts for key in each)
    return {key: merged([each[key] for each in dicts if key in each]) for key in keys}


def check(ours: Json, theirs: Json, *, ordered: bool, where: str = "") -> None:
    """Check that a shape has another's keys, in its order, and no kinds that it has not; null fits all."""
    null = {"NoneType"}
    if isinstance(theirs, dict) and isinstance(ours, dict):
        assert set(ours) - SOMETIMES == set(theirs) - SOMETIMES, where
        both = [key for key in ours if key in theirs]
        assert not ordered or both == [key for key in theirs if key in ours], where
        for key in both:
            check(ours[key], theirs[key], ordered=ordered, where=f"{where}/{key}")
    elif isinstance(theirs, set) and isinstance(ours, set):
        assert theirs <= null or ours - null <= theirs, where
    else:  # an object on one side, null on the other
        assert null in (ours, theirs) or set() in (ours, theirs), where


@needs_samples
@pytest.mark.parametrize(
    ("path", "sample"),
    [
        (
            "/networks/solana/tokens/{token}?include=top_pools&include_composition=true",
            "token_solana_include_top_pools_2026.json",
        ),
        ("/networks/solana/tokens/{young}/info", "token_info_bonding_curve_solana_2026.json"),
        ("/networks/solana/tokens/{token}/info", "token_info_solana_2026.json"),
        ("/networks/solana/pools/{pool}/info?include=pool", "pool_info_solana_2026.json"),
        ("/search/pools?query=sol&include=base_token,quote_token,dex", "search_pools_solana_2026_3rows.json"),
        (
            "/simple/networks/solana/token_price/{token},{sol},{young}?include_market_cap=true&mcap_fdv_fallback=true"
            "&include_24hr_vol=true&include_24hr_price_change=true&include_total_reserve_in_usd=true",
            "simple_token_price_solana_2026.json",
        ),
        ("/networks/solana/new_pools", "new_pools_solana_2026_3rows_cdn_hit.json"),
        ("/networks/solana/pools/{pool}/trades", "trades_solana_2026_3of300.json"),
        ("/networks/solana/pools/{pool}/ohlcv/minute", "ohlcv_minute1_solana_2026_3of48.json"),
        (
            "/networks/solana/pools/{pool}?include=base_token,quote_token,dex"
            "&include_volume_breakdown=true&include_composition=true",
            "pool_solana_include_composition_2026.json",
        ),
    ],
)
def test_a_body_has_keys_kinds_and_order_of_the_recorded_one(path: str, sample: str) -> None:
    check(shape(asked(path)), shape(sampled(sample)), ordered=True)


@needs_samples
@pytest.mark.parametrize(
    ("path", "sample", "lacks"),
    [
        ("/networks/new_pools", "new_pools_all_networks_2024.json", {"m15", "m30", "h6"}),
        ("/networks/solana/tokens/{sol}/pools", "token_pools_eth_weth_2024.json", {"m15", "m30", "h6"}),
        ("/networks/solana/tokens/{token}", "token_solana_2025.json", set()),
        (
            "/tokens/info_recently_updated?include=network&network=solana",
            "tokens_info_recently_updated_2025-09-09.json",
            {"farcaster_url", "zora_url"},
        ),
    ],
)
def test_a_body_has_what_older_records_have_and_only_what_came_since(path: str, sample: str, lacks: set[str]) -> None:
    """`lacks` are the attributes and windows that the API has got since the record."""

    def without(value: Json) -> Json:
        if isinstance(value, dict):
            return {key: without(each) for key, each in value.items() if key not in lacks}
        return value

    check(without(shape(asked(path))), without(shape(sampled(sample))), ordered=True)


@needs_samples
@pytest.mark.parametrize(
    ("path", "example"),
    [
        ("/networks", "/networks"),
        ("/networks/solana/dexes", "/networks/{network}/dexes"),
        (
            "/networks/trending_pools?include=base_token,quote_token,dex,network&duration=5m",
            "/networks/trending_pools",
        ),
        (
            "/networks/solana/trending_pools?include=base_token,quote_token,dex",
            "/networks/{network}/trending_pools",
        ),
        ("/networks/solana/pools?include=base_token,quote_token,dex", "/networks/{network}/pools"),
        (
            "/networks/solana/dexes/pumpswap/pools?include=base_token,quote_token,dex",
            "/networks/{network}/dexes/{dex}/pools",
        ),
        ("/networks/new_pools?include=base_token,quote_token,dex,network", "/networks/new_pools"),
        ("/networks/solana/new_pools?include=base_token,quote_token,dex", "/networks/{network}/new_pools"),
        (
            "/networks/solana/tokens/{sol}/pools?include=base_token,quote_token,dex",
            "/networks/{network}/tokens/{token_address}/pools",
        ),
        ("/networks/solana/tokens/{token}?include=top_pools", "/networks/{network}/tokens/{address}"),
        (
            "/networks/solana/tokens/multi/{token},{sol}?include=top_pools",
            "/networks/{network}/tokens/multi/{addresses}",
        ),
        ("/networks/solana/tokens/{token}/info", "/networks/{network}/tokens/{address}/info"),
        ("/tokens/info_recently_updated?include=network", "/tokens/info_recently_updated"),
        ("/search/pools?query=sol&include=base_token,quote_token,dex", "/search/pools"),
        ("/networks/solana/pools/{pool}/ohlcv/hour", "/networks/{network}/pools/{pool_address}/ohlcv/{timeframe}"),
        ("/networks/solana/pools/{pool}/trades", "/networks/{network}/pools/{pool_address}/trades"),
    ],
)
def test_a_body_has_the_keys_of_the_documented_example(path: str, example: str) -> None:
    """The examples of the official documentation, which are of the keyed host."""
    theirs = sampled("official_doc_examples_2026-06.json")[example]
    ours = asked(path)
    for name in ("links", "meta"):  # cut from the examples of networks, and of no other
        if name not in theirs:
            ours.pop(name, None)
    check(shape(ours), shape(theirs), ordered=False)


@needs_samples
@pytest.mark.parametrize(
    ("path", "sample"),
    [
        ("/networks/trending_pools?duration=bogus", "error_400_invalid_duration.json"),
        ("/networks/solana/trending_pools?duration=bogus", "error_400_invalid_duration.json"),
        ("/networks/solana/pools?sort=bogus", "error_400_invalid_sort_2026.json"),
        (f"/networks/solana/tokens/multi/{MANY}", "error_400_too_many_addresses_2026.json"),
        (f"/simple/networks/solana/token_price/{MANY}", "error_400_too_many_addresses_2026.json"),
        ("/networks/new_pools?page=11", "error_401_page_over_10_2026.json"),
        ("/networks/trending_pools?page=11", "error_401_page_over_10_2026.json"),
        ("/networks/solana/trending_pools?page=11", "error_401_page_over_10_2026.json"),
        ("/networks/solana/tokens/{token}/pools?page=11", "error_401_page_over_10_2026.json"),
        ("/search/pools?query=sol&page=11", "error_401_page_over_10_2026.json"),
        ("/networks/solana/tokens/{token}/top_holders", "error_401_paid_endpoint_2026.json"),
        ("/networks/solana/tokens/unknown", "error_404_not_found_2026.json"),
        ("/networks/solana/tokens/unknown/info", "error_404_not_found_2026.json"),
        ("/networks/solana/tokens/unknown/pools", "error_404_not_found_2026.json"),
        ("/networks/solana/pools/unknown/info", "error_404_not_found_2026.json"),
        ("/simple/networks/ethereum/token_price/{token}", "error_404_not_found_2026.json"),
        ("/networks/ethereum/trending_pools", "error_404_not_found_2026.json"),
    ],
)
def test_a_refusal_is_worded_as_recorded(path: str, sample: str) -> None:
    with pytest.raises(ApiError) as refused:
        asked(path)
    [error] = sampled(sample)["errors"]
    assert (str(refused.value.status), refused.value.title) == (error["status"], error["title"])


# Headers

OF_THE_CDN = {
    *("alt-svc", "cf-ray", "content-encoding", "priority", "server-timing", "speculation-rules", "x-content-digest"),
    *("x-firefox-early-data", "x-firefox-http3", "x-rack-cache"),
}
"""What a browser's record of 2025 has of the way that an answer took; none of it is the API's."""
DIFFERENT_EACH_TIME = {"date", "etag", "x-runtime", "age", "x-request-id"}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(market(), FakeClock(datetime.fromtimestamp(START, UTC)), rate=0) as simulator:
        yield simulator


PATHS = {
    "error_400_invalid_aggregate_2026.json": "/networks/solana/pools/{pool}/ohlcv/minute?aggregate=2",
    "error_400_invalid_limit_2026.json": "/networks/solana/pools/{pool}/ohlcv/minute?limit=1001",
    "error_401_timeframe_second_2026.json": "/networks/solana/pools/{pool}/ohlcv/second",
    "error_401_paid_endpoint_2026.json": "/pools/megafilter?networks=solana",
    "error_400_too_many_addresses_2026.json": f"/networks/solana/pools/multi/{MANY}",
    "token_info_solana_2026.json": "/networks/solana/tokens/{token}/info",
    "token_info_bonding_curve_solana_2026.json": "/networks/solana/tokens/{young}/info",
    "pool_info_solana_2026.json": "/networks/solana/pools/{pool}/info?include=pool",
    "trades_solana_2026_3of300.json": "/networks/solana/pools/{pool}/trades",
    "pool_solana_include_composition_2026.json": "/networks/solana/pools/{pool}?include_composition=true",
    "simple_token_price_solana_2026.json": "/simple/networks/solana/token_price/{token}",
    "token_solana_include_top_pools_2026.json": "/networks/solana/tokens/{token}?include=top_pools",
    "search_pools_solana_2026_3rows.json": "/search/pools?query=sol&network=solana",
    "trending_pools_solana_5m_include_2026_3rows.json": "/networks/solana/trending_pools?duration=5m",
    "ohlcv_minute1_solana_2026_3of48.json": "/networks/solana/pools/{pool}/ohlcv/minute?limit=1000",
    "ohlcv_hour4_before_ts_solana_2026_3of1000.json": "/networks/solana/pools/{pool}/ohlcv/hour?aggregate=4",
    "ohlcv_day_include_empty_solana_2026_3of184.json": "/networks/solana/pools/{pool}/ohlcv/day",
    "dexes_solana_2026.json": "/networks/solana/dexes?page=1",
    "pools_multi_solana_2026_3of30.json": "/networks/solana/pools/multi/{pool}",
    "tokens_multi_solana_include_top_pools_2026_3of4.json": "/networks/solana/tokens/multi/{token},{sol}",
    "new_pools_solana_2026_3rows_cdn_hit.json": "/networks/solana/new_pools?page=1",
    "ohlcv_minute15_solana_2025-08-28.json": "/networks/solana/pools/{pool}/ohlcv/minute?aggregate=15",
}


@needs_samples
@pytest.mark.parametrize("sample", PATHS)
def test_an_answer_has_the_headers_that_were_recorded_with_it(simulator: Simulator, sample: str) -> None:
    recorded = sampled("headers.json")[sample]
    founder = market().founders[1]
    young = next(pool for pool in market().pools("solana", START).values() if pool.dex == "pump-fun")
    url = simulator.base_url + PATHS[sample].format(
        pool=founder.address, token=founder.base.address, young=young.base.address, sol=founder.quote.address
    )
    if recorded["response_headers"].get("cf-cache-status") == "HIT":
        requests.get(url, timeout=10)
    answer = requests.get(url, timeout=10)
    assert answer.status_code == recorded["http_status"]
    for name, value in recorded["response_headers"].items():
        if name in DIFFERENT_EACH_TIME:
            assert name in answer.headers
        elif name == "vary":
            assert listed(value) <= listed(answer.headers[name])
        elif name not in OF_THE_CDN:
            assert listed(answer.headers[name]) == listed(value), name
    assert "etag" in answer.headers or answer.status_code != 200
    assert "x-ratelimit-limit" not in answer.headers


@needs_samples
def test_every_record_of_headers_is_compared() -> None:
    """All but the 429, which test_simulator causes."""
    assert {*PATHS, "error_429_2026.json"} == set(sampled("headers.json"))


def listed(value: str) -> set[str]:
    return {each.strip().lower() for each in value.split(",")}
