"""What the API answers, as rows for the tables: pure functions of a parsed body.

Each takes the JSON of one answer and what the answer itself doesn't say (network, pool, moment),
and returns a page: rows ready for a `Batch`, and the bad rows it had to leave out. A body that is
no answer at all raises `AnswerError`.

Here is the border where prefixed ids become `network` and a bare address. Addresses are opaque and
keep their case. Text is stored as it was sent; "NaN", "", null and a missing value are NULL;
attributes that api.md doesn't name are ignored.

Sources: api.md parts 3 and 4, and the recorded responses in `samples/`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = [
    "TIMEFRAMES",
    "AnswerError",
    "BadRow",
    "CandlePage",
    "CatalogPage",
    "PoolPage",
    "Timeframe",
    "TokenPage",
    "TradePage",
    "bare",
    "candle_page",
    "catalog_page",
    "epoch",
    "folded",
    "pool_page",
    "token_page",
    "trade_page",
]

Row = dict[str, Any]

WINDOWS = ("m5", "m15", "m30", "h1", "h6", "h24")
SIDES = ("buys", "sells", "buyers", "sellers")

TRADE_ATTRIBUTES = (
    "block_number",
    "block_timestamp",
    "tx_from_address",
    "kind",
    "from_token_address",
    "to_token_address",
    "from_token_amount",
    "to_token_amount",
    "price_from_in_usd",
    "price_to_in_usd",
    "price_from_in_currency_token",
    "price_to_in_currency_token",
    "volume_in_usd",
)
"""api.md 3.2, but for `tx_hash`, which is a key."""

POOL_ATTRIBUTES = (
    "name",
    "pool_created_at",
    "base_token_price_usd",
    "quote_token_price_usd",
    "base_token_price_native_currency",
    "quote_token_price_native_currency",
    "base_token_price_quote_token",
    "quote_token_price_base_token",
    "fdv_usd",
    "market_cap_usd",
    "reserve_in_usd",
)
"""api.md 4.1: what every list of pools shows, without windows."""

POOL_WINDOWED = ("price_change_percentage", "volume_usd")
"""Attributes of every list with one value for each window; `transactions` has four."""

POOL_DETAILS = (
    "pool_name",
    "pool_fee_percentage",
    "locked_liquidity_percentage",
    "base_token_balance",
    "quote_token_balance",
    "base_token_liquidity_usd",
    "quote_token_liquidity_usd",
    "sentiment_vote_positive_percentage",
    "sentiment_vote_negative_percentage",
    "community_sus_report",
    "last_trade_timestamp",
)
"""Attributes that only some endpoints or parameters show."""

POOL_DETAILS_WINDOWED = ("net_buy_volume_usd", "buy_volume_usd", "sell_volume_usd")

LAUNCHPAD_DETAILS = (
    "graduation_percentage",
    "completed",
    "completed_at",
    "migrated_destination_pool_address",
)

POOL_FIXED = frozenset({"name", "pool_name", "pool_created_at"})
"""Attributes that don't change, and are no part of a snapshot."""

TOKEN_ATTRIBUTES = ("name", "symbol", "decimals", "image_url", "coingecko_coin_id")
"""api.md 4.2: a token as lists of pools include it."""

TOKEN_DETAILS = (
    *TOKEN_ATTRIBUTES,
    "total_supply",
    "normalized_total_supply",
    "price_usd",
    "fdv_usd",
    "total_reserve_in_usd",
    "market_cap_usd",
    "last_trade_timestamp",
)
"""api.md 4.3: a token that was asked for; besides these `volume_usd` of a day, and launchpad_details."""


class AnswerError(ValueError):
    """A body, or a row of one, that is not what the API answers."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out: where it stood, as "row 3", and what is wrong with it."""

    where: str
    error: AnswerError


@dataclass(frozen=True, slots=True)
class Timeframe:
    """A width of candles: `step` in seconds, and how the API's path and query call it."""

    name: str
    step: int
    unit: str
    aggregate: int


TIMEFRAMES: Mapping[str, Timeframe] = {
    each.name: each
    for each in (
        Timeframe("1m", 60, "minute", 1),
        Timeframe("5m", 300, "minute", 5),
        Timeframe("15m", 900, "minute", 15),
        Timeframe("1h", 3600, "hour", 1),
        Timeframe("4h", 4 * 3600, "hour", 4),
        Timeframe("12h", 12 * 3600, "hour", 12),
        Timeframe("1d", 86400, "day", 1),
    )
}
"""api.md 3.1: all that the public plan offers."""

NETWORK_ATTRIBUTES = ("name", "coingecko_asset_platform_id")
DEX_ATTRIBUTES = ("name",)
"""api.md 4.6."""

CATALOG_ROWS = 100
"""Rows of a full page of networks or exchanges, for an answer that has no links (api.md, part 2)."""

FINAL_LAG = 60
"""Seconds after its end in which a candle may still change (cache and ingestion)."""


@dataclass(slots=True)
class TradePage:
    """One answer of `/pools/{address}/trades`.

    `rows` are for `gt_trades`. `times` are the block times of *all* its elements, in epoch
    seconds, newest first: an unreadable one bears the time of the element before it, so that the
    length says how full the page was. `keys` are `(tx_hash, n)` of the rows, in the same order. `lags` are the seconds
    from block to first sight of those whose id tells, and `seen` is the latest such sight, in epoch seconds.
    """

    rows: list[Row] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keys: list[tuple[str, int | str]] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    seen: float | None = None
    bad: list[BadRow] = field(default_factory=list)


@dataclass(slots=True)
class PoolPage:
    """One answer that lists pools: rows for `gt_pools`, `gt_pool_snapshots` and `gt_tokens`.

    `at` is when it was made. `elements` counts the pools in it, those that can't be read included: it says whether the
    page is full.
    """

    at: datetime
    elements: int = 0
    pools: list[Row] = field(default_factory=list)
    snapshots: list[Row] = field(default_factory=list)
    tokens: list[Row] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


@dataclass(slots=True)
class TokenPage:
    """One answer of `/networks/{id}/tokens/multi/{addresses}`, or on one token: rows for `gt_tokens`."""

    rows: list[Row] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


@dataclass(slots=True)
class CandlePage:
    """One answer of `/pools/{address}/ohlcv/{timeframe}`: rows for `gt_ohlcv`, newest first.

    `listed` is how many elements it had, which tells how full it was: more than `rows` where a candle came twice or
    could not be read. `newest_final` is `ts` of the newest candle that won't change any more and has no unreadable one
    before it, `None` without any: what is newer has to be asked for again. `unread` are, where elements could not be
    read, `ts` of the nearest candles that are older and newer than all of these; `None` is the page's edge.
    """

    rows: list[Row] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    listed: int = 0
    newest_final: int | None = None
    unread: tuple[int | None, int | None] | None = None

    @property
    def newest(self) -> int | None:
        """`ts` of the newest candle, `None` without any."""
        return self.rows[0]["ts"] if self.rows else None

    @property
    def oldest(self) -> int | None:
        """`ts` of the oldest candle, `None` without any."""
        return self.rows[-1]["ts"] if self.rows else None


@dataclass(slots=True)
class CatalogPage:
    """One answer of `/networks` or `/networks/{id}/dexes`; `more` says that another page follows."""

    rows: list[Row] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    more: bool = False


def bare(network: str, identity: str) -> str:
    """Take the network off a prefixed id: `solana_7bqJ` of `solana` is `7bqJ`.

    Ids of networks may hold underscores themselves, so only the known prefix is taken off; an
    address that has none is returned as it is.
    """
    return identity.removeprefix(f"{network}_")


def folded(address: str) -> str:
    """Return an address as the API compares it: hex ones in lower case, all others, which are opaque, as they are."""
    return address.lower() if address.startswith(("0x", "0X")) else address


def epoch(text: object, name: str) -> float:
    """Read an ISO 8601 time of the API, such as `2026-09-28T20:45:04Z`; `name` says whose it is in an `AnswerError`."""
    if not isinstance(text, str):
        raise AnswerError(f"{name}: {_short(text)} is no time")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise AnswerError(f"{name}: {_short(text)} is no time") from None
    if moment.tzinfo is None:
        raise AnswerError(f"{name}: {_short(text)} has no offset from UTC")
    return moment.timestamp()


def trade_page(body: object, *, network: str, pool: str, run_id: int) -> TradePage:
    """Read the trades of `pool`, a bare address."""
    page = TradePage()
    elements = _list_of(body)
    times: list[float | None] = []
    for number, element in enumerate(elements, 1):
        try:
            row = _trade(element, network=network, pool=pool, run_id=run_id)
            time = epoch(row["block_timestamp"], "block_timestamp")
        except AnswerError as error:
            page.bad.append(BadRow(f"row {number}", error))
            times.append(None)
            continue
        page.rows.append(row)
        page.keys.append((row["tx_hash"], row["n"]))
        times.append(time)
        if shown := _first_sight(element):
            page.lags.append(shown - time)
            page.seen = max(shown, page.seen or shown)
    page.times = sorted(_without_gaps(times), reverse=True)
    _check_readable(page.rows, page.bad)
    return page


def pool_page(body: object, *, network: str, at: datetime, run_id: int) -> PoolPage:
    """Read a list of pools, or one pool, with the tokens it includes; `at` is when it was made.

    What every list shows and this answer lacks becomes NULL, because the old value isn't true
    any more. What only some endpoints show is left out of the row instead, so that one that lacks
    it doesn't wipe out what another has stored.
    """
    elements = _list_of(body, single=True)
    page = PoolPage(at, len(elements))
    for number, element in enumerate(elements, 1):
        try:
            row = _pool(element, network)
        except AnswerError as error:
            page.bad.append(BadRow(f"row {number}", error))
            continue
        key = {"network": network, "address": row.pop("address")}
        relations = {name: _relation(element, name, network) for name in _RELATIONS}
        snapshot = {name: value for name, value in row.items() if name not in POOL_FIXED}
        page.pools.append(key | row | relations | {"gone_at": None, "run_id": run_id})
        page.snapshots.append(key | {"at": at} | snapshot | {"run_id": run_id})
    _check_readable(page.pools, page.bad)
    for number, element in enumerate(_included(body), 1):
        if not isinstance(element, dict) or element.get("type") != "token":
            continue
        try:
            page.tokens.append(_token(element, network) | {"gone_at": None, "run_id": run_id})
        except AnswerError as error:
            page.bad.append(BadRow(f"included {number}", error))
    return page


def token_page(body: object, *, network: str, run_id: int) -> TokenPage:
    """Read tokens that were asked for, with all that the answer shows of them (api.md 4.3)."""
    page = TokenPage()
    for number, element in enumerate(_list_of(body, single=True), 1):
        try:
            row = _token(element, network, TOKEN_DETAILS) | _token_figures(element, network)
        except AnswerError as error:
            page.bad.append(BadRow(f"row {number}", error))
            continue
        page.rows.append(row | {"gone_at": None, "run_id": run_id})
    _check_readable(page.rows, page.bad)
    return page


def candle_page(body: object, *, network: str, pool: str, timeframe: Timeframe, at: float, run_id: int) -> CandlePage:
    """Read the candles of `pool`; `at` is when the answer was made, in epoch seconds.

    Of several candles with one `ts` the last in the answer wins, and if that one can't be read, none. Prices and volume
    are the JSON numbers that the API sends. A candle is final once `ts + step + 60 s` has passed.
    """
    page = CandlePage()
    candles: dict[int, Row] = {}
    older = newer = None
    for number, element in enumerate(_candle_list(body), 1):
        page.listed = number
        try:
            ts, *values = _candle(element)
        except AnswerError as error:
            if isinstance(element, list) and element and isinstance(element[0], int):
                candles.pop(element[0], None)
            newer = newer if page.bad else min(candles, default=None)
            page.bad.append(BadRow(f"row {number}", error))
            page.newest_final = older = None
            continue
        key = {"network": network, "pool": pool, "timeframe": timeframe.name, "ts": ts}
        figures = dict(zip(("open", "high", "low", "close", "volume"), values, strict=True))
        final = int(ts + timeframe.step + FINAL_LAG <= at)
        candles[ts] = key | figures | {"final": final, "run_id": run_id}
        older = ts if older is None else max(older, ts)
        if final and (page.newest_final is None or ts > page.newest_final):
            page.newest_final = ts
    page.rows = [candles[ts] for ts in sorted(candles, reverse=True)]
    page.unread = (older, newer) if page.bad else None
    _check_readable(page.rows, page.bad)
    return page


def catalog_page(body: object, attributes: tuple[str, ...], *, run_id: int) -> CatalogPage:
    """Read a page of networks or exchanges with those attributes of theirs."""
    page = CatalogPage()
    elements = _list_of(body)
    for number, element in enumerate(elements, 1):
        try:
            row = {"id": _identity(element)}
            row |= {name: _scalar(_attributes(element).get(name), name) for name in attributes}
        except AnswerError as error:
            page.bad.append(BadRow(f"row {number}", error))
            continue
        page.rows.append(row | {"gone_at": None, "run_id": run_id})
    _check_readable(page.rows, page.bad)
    links = body.get("links") if isinstance(body, dict) else None
    page.more = bool(links.get("next")) if isinstance(links, dict) else len(elements) >= CATALOG_ROWS
    return page


# Trades


_COUNT = re.compile("[0-9]{1,18}")


def _trade(element: object, *, network: str, pool: str, run_id: int) -> Row:
    attributes = _attributes(element)
    identity = element.get("id") if isinstance(element, dict) else None
    parts = identity.rsplit("_", 2) if isinstance(identity, str) else []
    if len(parts) < 3 or not parts[1]:
        raise AnswerError(f"an id that names no trade: {_short(identity)}")
    n: int | str = int(parts[1]) if _COUNT.fullmatch(parts[1]) else parts[1]
    tx_hash = _scalar(attributes.get("tx_hash"), "tx_hash")
    if not isinstance(tx_hash, str):
        raise AnswerError(f"tx_hash: {_short(tx_hash)} is no hash")
    row: Row = {"network": network, "tx_hash": tx_hash, "n": n, "pool": pool}
    for name in TRADE_ATTRIBUTES:
        row[name] = _scalar(attributes.get(name), name)
    row["price_usd"] = _base_price(row)
    row["run_id"] = run_id
    return row


def _first_sight(element: Any) -> int | None:
    """Return when a trade was first shown, in epoch seconds: the last part of its id, if that is a number."""
    text = element["id"].rpartition("_")[2]
    return int(text) if _COUNT.fullmatch(text) else None


def _base_price(row: Row) -> Any:
    """Price of the base token: what a buy brings in, and what a sell gives away."""
    if row["kind"] == "buy":
        return row["price_to_in_usd"]
    return row["price_from_in_usd"] if row["kind"] == "sell" else None


def _without_gaps(times: list[float | None]) -> list[float]:
    """Give each unknown time its predecessor's, the first ones their successor's."""
    known = [time for time in times if time is not None]
    if not known:
        return []
    last = known[0]
    filled = []
    for time in times:
        last = last if time is None else time
        filled.append(last)
    return filled


# Pools and tokens

_RELATIONS = ("base_token", "quote_token", "dex")


def _pool(element: object, network: str) -> Row:
    """Read one pool without its relations."""
    attributes = _attributes(element)
    row: Row = {"address": _address(element, attributes, network)}
    for name in POOL_ATTRIBUTES:
        row[name] = _scalar(attributes.get(name), name)
    for name in POOL_WINDOWED:
        row |= _windows(attributes, name)
    transactions = _object(attributes.get("transactions"), "transactions")
    for window in WINDOWS:
        counts = _object(transactions.get(window), f"transactions.{window}")
        for side in SIDES:
            row[f"transactions_{window}_{side}"] = _scalar(counts.get(side), side)
    for name in POOL_DETAILS:
        if name in attributes:
            row[name] = _scalar(attributes[name], name)
    for name in POOL_DETAILS_WINDOWED:
        if name in attributes:
            row |= _windows(attributes, name)
    return row | _launchpad(attributes)


def _launchpad(attributes: Mapping[str, Any]) -> Row:
    """Return what is told of a launchpad; nothing where the answer has no such attribute."""
    if "launchpad_details" not in attributes:
        return {}
    details = _object(attributes["launchpad_details"], "launchpad_details")
    return {f"launchpad_details_{name}": _scalar(details.get(name), name) for name in LAUNCHPAD_DETAILS}


def _address(element: object, attributes: Mapping[str, Any], network: str) -> str:
    """Return the bare address of a pool or a token; some answers have it in the id only."""
    found = attributes.get("address")
    if not found and isinstance(element, dict):
        found = element.get("id")
    address = _scalar(bare(network, found), "address") if isinstance(found, str) else None
    if not isinstance(address, str):
        raise AnswerError(f"address: {_short(found)} is none")
    return address


def _windows(attributes: Mapping[str, Any], name: str) -> Row:
    values = _object(attributes.get(name), name)
    return {f"{name}_{window}": _scalar(values.get(window), name) for window in WINDOWS}


def _relation(element: object, name: str, network: str) -> str | None:
    """Return the bare address or id that a pool is related to."""
    found = element
    for step in ("relationships", name, "data", "id"):
        found = found.get(step) if isinstance(found, dict) else None
    if not isinstance(found, str):
        return None
    related = _scalar(bare(network, found), name)
    return related if isinstance(related, str) else None


def _included(body: object) -> list[Any]:
    included = body.get("included") if isinstance(body, dict) else None
    return included if isinstance(included, list) else []


def _token(element: object, network: str, names: Iterable[str] = TOKEN_ATTRIBUTES) -> Row:
    attributes = _attributes(element)
    row = {"network": network, "address": _address(element, attributes, network)}
    for name in names:
        if name in attributes:
            row[name] = _scalar(attributes[name], name)
    return row


def _token_figures(element: object, network: str) -> Row:
    """Return what is nested in a token: a day's volume, its launchpad, and the bare addresses of its top pools."""
    attributes = _attributes(element)
    row = _launchpad(attributes)
    if "volume_usd" in attributes:
        row["volume_usd_h24"] = _scalar(_object(attributes["volume_usd"], "volume_usd").get("h24"), "volume_usd")
    found = element
    for step in ("relationships", "top_pools", "data"):
        found = found.get(step) if isinstance(found, dict) else None
    if isinstance(found, list):
        ids = [pool.get("id") for pool in found if isinstance(pool, dict)]
        row["top_pools"] = [bare(network, _scalar(each, "top_pools")) for each in ids if each and isinstance(each, str)]
    return row


# Candles


def _candle_list(body: object) -> list[Any]:
    found = body
    for step in ("data", "attributes", "ohlcv_list"):
        found = found.get(step) if isinstance(found, dict) else None
    if not isinstance(found, list):
        raise AnswerError(f"no list of candles in the answer, but {_short(body)}")
    return found


def _candle(element: object) -> list[Any]:
    """Check one candle: `[ts, open, high, low, close, volume]`, JSON numbers."""
    if not isinstance(element, list) or len(element) != 6:
        raise AnswerError(f"{_short(element)} is no candle")
    ts, *values = element
    if isinstance(ts, bool) or not isinstance(ts, int) or not 0 <= ts < 2**40:
        raise AnswerError(f"ts: {_short(ts)} is no epoch second")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise AnswerError(f"the candle of {ts}: {_short(value)} is no number")
    return [ts, *values]


# Networks and exchanges


def _identity(element: object) -> str:
    """Return an id that isn't prefixed: that of a network or an exchange."""
    found = element.get("id") if isinstance(element, dict) else None
    identity = _scalar(found, "id") if isinstance(found, str) else None
    if not isinstance(identity, str):
        raise AnswerError(f"id: {_short(found)} is none")
    return identity


# What all need


def _list_of(body: object, *, single: bool = False) -> list[Any]:
    """Return the `data` of an answer; a `single` object counts as a list of one."""
    data = body.get("data") if isinstance(body, dict) else None
    if single and isinstance(data, dict):
        return [data]
    if not isinstance(data, list):
        raise AnswerError(f"no `data` in the answer, but {_short(body)}")
    return data


def _check_readable(rows: list[Row], bad: list[BadRow]) -> None:
    """Refuse an answer of which nothing can be read: that is one problem, not three hundred."""
    if bad and not rows:
        raise AnswerError(f"none of {len(bad)} rows can be read; {bad[0].where}: {bad[0].error}")


def _attributes(element: object) -> Mapping[str, Any]:
    attributes = element.get("attributes") if isinstance(element, dict) else None
    if not isinstance(attributes, dict):
        raise AnswerError(f"{_short(element)} has no attributes")
    return attributes


def _object(value: object, name: str) -> Mapping[str, Any]:
    """Return a nested object; null and missing are an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AnswerError(f"{name}: {_short(value)} is no object")
    return value


_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which JSON can say and UTF-8 cannot: SQLite refuses the whole batch."""


def _scalar(value: object, name: str) -> Any:
    """Return a value as it was sent; `None` for "NaN", "" and null."""
    if value is None or value == "" or value == "NaN":
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    if not isinstance(value, str | int | float):
        raise AnswerError(f"{name}: {_short(value)} is no single value")
    if isinstance(value, str) and _SURROGATE.search(value):
        raise AnswerError(f"{name}: {_short(value)} is no text")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
