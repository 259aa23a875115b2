"""Answers become rows: pure, on small extracts of our own making."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from geckosched_geckoterminal.rows import (
    TIMEFRAMES,
    AnswerError,
    bare,
    candle_page,
    pool_page,
    trade_page,
)

AT = datetime(2026, 9, 28, 20, 46, 0, tzinfo=UTC)
MINUTE = TIMEFRAMES["1m"]


def trade(n: int = 0, *, kind: str = "buy", time: str = "2026-09-28T20:45:04Z", **changes: Any) -> dict[str, Any]:
    attributes = {
        "block_number": 451430167,
        "block_timestamp": time,
        "tx_hash": "gqcaB_QM3",
        "tx_from_address": "Hfy1",
        "kind": kind,
        "from_token_address": "So11",
        "to_token_address": "5RJG",
        "from_token_amount": "4.911028452",
        "to_token_amount": "635981.867943",
        "price_from_in_usd": "118.738242161225618886967433278566259850591157466",
        "price_to_in_usd": "0.000916892312481002815581917050585391677766421884911919392848741178",
        "price_from_in_currency_token": "1.0",
        "price_to_in_currency_token": "0.00000772196299854283",
        "volume_in_usd": "583.126885594244985545205636828450543893478443335138222632",
        "from_the_future": "ignored",
    }
    identity = f"solana_451430167_gqcaB_QM3_{n}_1790628309"
    return {"id": identity, "type": "trade", "attributes": attributes | changes}


def trades(*elements: object) -> Any:
    return trade_page({"data": list(elements)}, network="solana", pool="Cn", run_id=7)


def test_a_trade_is_keyed_by_transaction_and_the_part_before_the_moment_of_ingestion() -> None:
    """n is the last part but one of the id, whatever underscores come before it."""
    (row,) = trades(trade(40)).rows
    assert (row["network"], row["tx_hash"], row["n"]) == ("solana", "gqcaB_QM3", 40)
    assert row["pool"] == "Cn"
    assert row["run_id"] == 7


def test_a_trade_has_all_attributes_as_text_that_was_sent_and_no_others() -> None:
    sent = trade()["attributes"]
    (row,) = trades(trade()).rows
    assert {name: row[name] for name in sent if name != "from_the_future"} == {
        name: sent[name] for name in sent if name != "from_the_future"
    }
    others = {"network", "n", "pool", "price_usd", "run_id"}
    assert row.keys() - sent.keys() == others
    assert "from_the_future" not in row


def test_price_usd_is_the_base_tokens_of_buys_and_sells() -> None:
    """The system that this replaces stored the other token's price for buys."""
    buy, sell, odd = trades(trade(0), trade(1, kind="sell"), trade(2, kind="burn")).rows
    assert buy["price_usd"] == buy["price_to_in_usd"]
    assert sell["price_usd"] == sell["price_from_in_usd"]
    assert odd["price_usd"] is None


@pytest.mark.parametrize("nothing", ["NaN", "", None, float("nan")])
def test_nan_empty_and_null_are_null(nothing: object) -> None:
    (row,) = trades(trade(price_to_in_usd=nothing)).rows
    assert row["price_to_in_usd"] is None
    assert row["price_usd"] is None


def test_a_missing_attribute_is_null() -> None:
    element = trade()
    del element["attributes"]["volume_in_usd"]
    (row,) = trades(element).rows
    assert row["volume_in_usd"] is None


@pytest.mark.parametrize(
    "bad",
    [
        None,
        17,
        {},
        {"id": "solana_1_x_0_1", "attributes": None},
        {"id": None, "attributes": trade()["attributes"]},
        {"id": "nothing", "attributes": trade()["attributes"]},
        trade(tx_hash=None),
        trade(tx_hash={"not": "text"}),
        trade(block_timestamp="yesterday"),
        trade(block_timestamp="2026-09-28T20:45:04"),
        trade(volume_in_usd=["1", "2"]),
        trade(kind="\ud800"),
    ],
)
def test_one_bad_trade_is_one_problem_and_the_page_goes_on(bad: object) -> None:
    page = trades(trade(0), bad, trade(2))
    assert [row["n"] for row in page.rows] == [0, 2]
    assert [row.where for row in page.bad] == ["row 2"]
    assert str(page.bad[0].error)


def test_a_bad_trade_still_counts_for_how_full_the_page_is() -> None:
    """A full page with one unreadable row must not look like one that has room left."""
    page = trades(trade(0), trade(1, time="2026-09-28T20:45:03Z"), None)
    assert len(page.times) == 3
    assert page.times == [1790628304.0, 1790628303.0, 1790628303.0]
    assert page.keys == [("gqcaB_QM3", 0), ("gqcaB_QM3", 1)]


def test_times_are_newest_first_whatever_the_order_within_the_page() -> None:
    page = trades(trade(0, time="2026-09-28T20:45:03Z"), trade(1, time="2026-09-28T20:45:04Z"))
    assert page.times == [1790628304.0, 1790628303.0]


def test_no_trades_are_an_empty_page() -> None:
    page = trades()
    assert (page.rows, page.times, page.keys, page.bad) == ([], [], [], [])


@pytest.mark.parametrize("body", [None, [], "text", 3, {}, {"data": None}, {"data": {"a": 1}}])
def test_a_body_that_is_no_list_is_a_bad_answer(body: object) -> None:
    with pytest.raises(AnswerError):
        trade_page(body, network="solana", pool="Cn", run_id=7)


def test_a_page_without_a_readable_row_is_one_bad_answer() -> None:
    with pytest.raises(AnswerError, match="none of 3 rows"):
        trades(None, None, None)


def test_only_the_known_prefix_is_taken_off_an_id() -> None:
    assert bare("solana", "solana_7bqJ") == "7bqJ"
    assert bare("polygon_pos", "polygon_pos_0xAb") == "0xAb"
    assert bare("ton", "EQ_x") == "EQ_x"


def pool(address: object = "99C6", **changes: Any) -> dict[str, Any]:
    attributes = {
        "base_token_price_usd": "0.0051569710430943122232500659141196605299492765981036760380599584",
        "base_token_price_native_currency": "NaN",
        "quote_token_price_usd": "118.7",
        "quote_token_price_native_currency": "1.0",
        "base_token_price_quote_token": None,
        "quote_token_price_base_token": "46.7845031122",
        "address": address,
        "name": "COLLECT / CARDS",
        "pool_created_at": "2026-09-25T00:58:47Z",
        "fdv_usd": "5102518.9802527",
        "market_cap_usd": None,
        "price_change_percentage": {"m5": "-2.879", "h1": "64.885", "h24": "0"},
        "transactions": {
            "h1": {"buys": 469, "sells": 519, "buyers": 277, "sellers": 260},
            "h24": {"buys": 1622, "sells": 1710},
        },
        "volume_usd": {"h24": "825534.904497914"},
        "reserve_in_usd": "305617.1784",
    }
    relationships = {
        "base_token": {"data": {"id": "solana_nDZk", "type": "token"}},
        "quote_token": {"data": {"id": "solana_So11", "type": "token"}},
        "dex": {"data": {"id": "pumpswap", "type": "dex"}},
    }
    return {
        "id": f"solana_{address}",
        "type": "pool",
        "attributes": attributes | changes,
        "relationships": relationships,
    }


def pools(*elements: object, included: object = ()) -> Any:
    body = {"data": list(elements), "included": included}
    return pool_page(body, network="solana", at=AT, run_id=7)


def test_a_pools_windows_are_joined_by_underscores_and_its_relations_are_bare() -> None:
    (row,) = pools(pool()).pools
    assert (row["network"], row["address"]) == ("solana", "99C6")
    assert row["price_change_percentage_m5"] == "-2.879"
    assert row["price_change_percentage_m15"] is None
    assert row["transactions_h24_buys"] == 1622
    assert row["transactions_h24_buyers"] is None
    assert row["volume_usd_h24"] == "825534.904497914"
    assert (row["base_token"], row["quote_token"], row["dex"]) == ("nDZk", "So11", "pumpswap")
    assert row["base_token_price_native_currency"] is None
    assert row["base_token_price_usd"] == pool()["attributes"]["base_token_price_usd"]


def test_a_pools_details_are_stored_only_where_the_answer_has_them() -> None:
    """A list of pools, which lacks them, must not wipe out what an answer on one pool has told."""
    (plain,) = pools(pool()).pools
    (detailed,) = pools(
        pool(
            pool_fee_percentage=None,
            locked_liquidity_percentage="100.0",
            buy_volume_usd={"m5": "1.5"},
            launchpad_details={"graduation_percentage": 100.0, "completed": True},
        )
    ).pools
    assert "pool_fee_percentage" not in plain
    assert "launchpad_details_completed" not in plain
    assert detailed["pool_fee_percentage"] is None
    assert detailed["locked_liquidity_percentage"] == "100.0"
    assert detailed["buy_volume_usd_m5"] == "1.5"
    assert detailed["buy_volume_usd_h24"] is None
    assert detailed["launchpad_details_completed"] is True
    assert detailed["launchpad_details_completed_at"] is None


def test_a_snapshot_is_of_the_moment_and_of_what_changes() -> None:
    (snapshot,) = pools(pool()).snapshots
    assert (snapshot["network"], snapshot["address"], snapshot["at"]) == ("solana", "99C6", AT)
    assert snapshot["reserve_in_usd"] == "305617.1784"
    assert not {"name", "pool_created_at", "dex"} & snapshot.keys()


def test_a_pool_without_an_address_of_its_own_has_that_of_its_id() -> None:
    element = pool("7CuT")
    element["attributes"]["address"] = None
    (row,) = pools(element).pools
    assert row["address"] == "7CuT"


@pytest.mark.parametrize(
    "bad",
    [
        None,
        {"id": "solana_x"},
        {"id": None, "attributes": {}},
        pool(volume_usd="1"),
        pool(transactions={"h1": 3}),
        pool(name=["a"]),
        pool({"a": 1}),
    ],
)
def test_one_bad_pool_is_one_problem_and_the_page_goes_on(bad: object) -> None:
    page = pools(pool("A"), bad, pool("B"))
    assert [row["address"] for row in page.pools] == ["A", "B"]
    assert [row["address"] for row in page.snapshots] == ["A", "B"]
    assert [row.where for row in page.bad] == ["row 2"]


def test_included_tokens_are_rows_and_other_resources_are_not() -> None:
    token = {
        "id": "solana_nDZk",
        "type": "token",
        "attributes": {
            "address": "nDZk",
            "name": "COLLECT",
            "symbol": "",
            "decimals": 6,
            "coingecko_coin_id": None,
        },
    }
    page = pools(
        pool(),
        included=[
            token,
            {"id": "pumpswap", "type": "dex", "attributes": {"name": "PumpSwap"}},
            {"id": "solana_x", "type": "token"},
        ],
    )
    assert page.tokens == [
        {
            "network": "solana",
            "address": "nDZk",
            "name": "COLLECT",
            "symbol": None,
            "decimals": 6,
            "coingecko_coin_id": None,
            "gone_at": None,
            "run_id": 7,
        }
    ]
    assert [row.where for row in page.bad] == ["included 3"]


def test_one_pool_instead_of_a_list_is_a_list_of_one() -> None:
    page = pool_page({"data": pool()}, network="solana", at=AT, run_id=7)
    assert len(page.pools) == 1


def candles(*elements: object, at: float = 1790628400.0) -> Any:
    body = {"data": {"id": "x", "attributes": {"ohlcv_list": list(elements)}}, "meta": {}}
    return candle_page(body, network="solana", pool="Cn", timeframe=MINUTE, at=at, run_id=7)


def test_candles_are_newest_first_and_final_a_minute_after_their_end() -> None:
    page = candles(
        [1790628300, 1, 2, 0.5, 1.5, 10.0],
        [1790628240, 1, 2, 0.5, 1.5, 10.0],
        at=1790628360,
    )
    assert [(row["ts"], row["final"]) for row in page.rows] == [(1790628300, 0), (1790628240, 1)]
    assert (page.newest, page.newest_final) == (1790628300, 1790628240)
    earlier = candles([1790628240, 1, 2, 0.5, 1.5, 10.0], at=1790628359.9)
    assert earlier.newest_final is None


def test_of_equal_candles_the_later_element_wins() -> None:
    page = candles([1790628300, 1, 1, 1, 1, 1], [1790628300, 2, 2, 2, 2, 2])
    assert [row["close"] for row in page.rows] == [2]


def test_a_candles_figures_are_the_numbers_of_the_answer() -> None:
    body = json.loads(
        '{"data": {"attributes": {"ohlcv_list": [[1790628240, 1.613691542742065e-05, 2, 1e-05, 1.5, 0.0]]}}}'
    )
    page = candle_page(body, network="solana", pool="Cn", timeframe=MINUTE, at=1790628400, run_id=7)
    assert page.rows == [
        {
            "network": "solana",
            "pool": "Cn",
            "timeframe": "1m",
            "ts": 1790628240,
            "open": 1.613691542742065e-05,
            "high": 2,
            "low": 1e-05,
            "close": 1.5,
            "volume": 0.0,
            "final": 1,
            "run_id": 7,
        }
    ]


@pytest.mark.parametrize(
    "bad", [None, [], [1, 2, 3], ["1790628240", 1, 1, 1, 1, 1], [True, 1, 1, 1, 1, 1], [1, [], 1, 1, 1, 1],
     [1, None, 1, 1, 1, 1], [1, 1, 1, 1, "NaN", 1], [1, 1, 1, 1, 1, math.nan], [1, math.inf, 1, 1, 1, 1]]
)  # fmt: skip
def test_one_bad_candle_is_one_problem_and_the_page_goes_on(bad: object) -> None:
    page = candles([1790628300, 1, 1, 1, 1, 1], bad)
    assert len(page.rows) == 1
    assert [row.where for row in page.bad] == ["row 2"]


@pytest.mark.parametrize("body", [None, {}, {"data": []}, {"data": {"attributes": {}}}])
def test_a_body_without_a_list_of_candles_is_a_bad_answer(body: object) -> None:
    with pytest.raises(AnswerError):
        candle_page(body, network="solana", pool="Cn", timeframe=MINUTE, at=0, run_id=7)


def test_what_is_newer_than_an_unreadable_candle_is_asked_for_again() -> None:
    """The newest final candle is the one before the gap; else a bad row would be a hole for ever."""
    good = [[ts, 1, 1, 1, 1, 1] for ts in (1790628240, 1790628180, 1790628120, 1790628060)]
    page = candles(good[0], [1790628180, None, 1, 1, 1, 1], good[2], good[3])
    assert [row["ts"] for row in page.rows] == [1790628240, 1790628120, 1790628060]
    assert page.newest_final == 1790628120
    assert candles(*good[:3], None).newest_final is None
    assert candles(None, *good).newest_final == 1790628240


def test_no_candles_are_an_empty_page() -> None:
    page = candles()
    assert (page.rows, page.newest, page.newest_final) == ([], None, None)
