"""What the simulated API answers: paths, paging, refusals and objects, at a moment of the market.

`Api` is told the path, the query and the time, and gives the body or raises `ApiError`; HTTP, the
rate limit and the CDN's cache are `simulator`'s. Shapes and wording are those of responses that
were recorded in 2025 and 2026. Where none settles what the API does, the answer is strict rather
than kind: a malformed `before_timestamp`, `currency` or `token` is 400.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice, takewhile
from typing import Any, TypeVar

from .market import (
    WINDOWS,
    Activity,
    Candle,
    Currency,
    Figures,
    Market,
    Pool,
    Side,
    Token,
    Trade,
    Window,
    plain,
    quotient,
)

PAGE_ROWS, MAX_PAGE = 20, 10
"""Rows in a page of pools, and the last page of the public plan."""
CATALOG_ROWS = 100
MAX_ADDRESSES = 30
MAX_TRADES, TRADES_SPAN = 300, 86400
MAX_CANDLES, CANDLES_SPAN, CANDLES_REACH = 1000, 184 * 86400, 180 * 86400
"""Candles of one answer, seconds that it may span, and how far back the public plan reaches."""
STEPS: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "day": (86400, (1,)),
    "hour": (3600, (1, 4, 12)),
    "minute": (60, (1, 5, 15)),
}
"""Seconds of a timeframe, and the aggregates of it that are allowed."""

Json = dict[str, Any]
Row = TypeVar("Row")
Query = Mapping[str, str]


class ApiError(Exception):
    """An answer that is no success: its status and the title of its body."""

    def __init__(self, status: int, title: str) -> None:
        super().__init__(f"{status} {title}")
        self.status = status
        self.title = title


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: the body, and for how many seconds the CDN may keep it."""

    body: Json
    fresh_for: int = 60


@dataclass(frozen=True, slots=True)
class Call:
    """A request as an endpoint sees it; `now` in epoch seconds, `root` for absolute links."""

    path: str
    query: Query
    now: int
    request_id: str
    root: str

    def flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() == "true"

    def page(self) -> int:
        text = self.query.get("page", "1")
        return max(1, int(text)) if text.isdecimal() else 1

    def include(self) -> set[str]:
        return set(self.query.get("include", "").split(","))


class Api:
    """Answers of the API over a market; knows nothing of HTTP, limits and caches."""

    def __init__(self, market: Market) -> None:
        self.market = market
        pools = r"/networks/(?P<network>[^/]+)/pools"
        self._routes: list[tuple[re.Pattern[str], Callable[..., Answer]]] = [
            (re.compile(pattern), endpoint)
            for pattern, endpoint in (
                (r"/networks", self._networks),
                (r"/networks/(?P<network>[^/]+)/dexes", self._dexes),
                (r"/networks/(?P<network>[^/]+)/new_pools", self._new_pools),
                (r"/networks/(?P<network>[^/]+)/dexes/(?P<dex>[^/]+)/pools", self._top_pools),
                (pools, self._top_pools),
                (pools + r"/multi/(?P<addresses>[^/]+)", self._pools),
                (pools + r"/(?P<address>[^/]+)", self._one_pool),
                (pools + r"/(?P<address>[^/]+)/trades", self._trades),
                (pools + r"/(?P<address>[^/]+)/ohlcv/(?P<timeframe>[^/]+)", self._candles),
                (r"/pools/megafilter|/pools/trending_search", self._paid),
                (r"/networks/[^/]+/tokens/[^/]+/top_holders", self._paid),
            )
        ]

    def answer(self, call: Call) -> Answer:
        """Answer a call, or raise `ApiError`."""
        for pattern, endpoint in self._routes:
            if match := pattern.fullmatch(call.path):
                return endpoint(call, **match.groupdict())
        raise not_found()

    # -- catalog

    def _networks(self, call: Call) -> Answer:
        rows = [
            _resource("network", n.id, name=n.name, coingecko_asset_platform_id=n.platform)
            for n in self.market.networks
        ]
        return Answer(_catalog(call, rows))

    def _dexes(self, call: Call, network: str) -> Answer:
        self._check_network(network)
        rows = [_resource("dex", dex.id, name=dex.name) for dex in self.market.dexes(network)]
        return Answer(_catalog(call, rows))

    # -- pools

    def _top_pools(self, call: Call, network: str, dex: str | None = None) -> Answer:
        self._check_network(network)
        if dex is not None and dex not in {known.id for known in self.market.dexes(network)}:
            raise not_found()
        ranks: dict[str, Callable[[Activity], float]] = {
            "h24_tx_count_desc": lambda day: day.trades,
            "h24_volume_usd_desc": lambda day: day.volume,
        }
        rank = ranks.get(call.query.get("sort", "h24_tx_count_desc"))
        if rank is None:
            allowed = "h24_volume_usd_desc, h24_tx_count_desc"
            raise ApiError(400, f"Invalid sort option. Allowed values: {allowed}")
        _check_page(call)
        found = [
            (-rank(self.market.activity(pool, call.now)), pool.address, pool)
            for pool in self.market.pools(network, call.now).values()
            if dex is None or pool.dex == dex
        ]
        found.sort(key=lambda each: each[:2])
        return self._listed(call, [pool for _, _, pool in _paged(call, found, PAGE_ROWS)])

    def _new_pools(self, call: Call, network: str) -> Answer:
        self._check_network(network)
        _check_page(call)
        known = self.market.pools(network, call.now).values()
        born = sorted(
            (pool for pool in known if pool.created_at is not None),
            key=lambda pool: (-(pool.created_at or 0), pool.address),
        )
        return self._listed(call, _paged(call, born, PAGE_ROWS))

    def _pools(self, call: Call, network: str, addresses: str) -> Answer:
        asked = list(dict.fromkeys(_canonical(each) for each in addresses.split(",") if each))
        if len(asked) > MAX_ADDRESSES:
            raise ApiError(400, f"maximum {MAX_ADDRESSES} addresses allowed")
        self._check_network(network)
        known = [self.market.pool(network, address, call.now) for address in asked]
        pools = [pool for pool in known if pool is not None]
        found = [(pool, self.market.figures(pool, call.now)) for pool in pools]
        return Answer(self._with_included(call, [_pool_row(call, *each) for each in found], pools))

    def _one_pool(self, call: Call, network: str, address: str) -> Answer:
        pool = self._pool(call, network, address)
        row = _pool_row(call, pool, self.market.figures(pool, call.now))
        return Answer(self._with_included(call, row, [pool]))

    def _listed(self, call: Call, pools: Sequence[Pool]) -> Answer:
        rows = [_list_row(pool, self.market.figures(pool, call.now)) for pool in pools]
        return Answer(self._with_included(call, rows, pools))

    def _with_included(self, call: Call, data: Json | list[Json], pools: Sequence[Pool]) -> Json:
        """Add `included`: the asked resources of these pools, each once."""
        asked = call.include() & {"base_token", "quote_token", "dex"}
        if not asked:
            return {"data": data}
        names = {dex.id: dex.name for pool in pools for dex in self.market.dexes(pool.network)}
        included: dict[tuple[str, str], Json] = {}
        for pool in pools:
            rows = {
                "base_token": _token_row(pool.network, pool.base),
                "quote_token": _token_row(pool.network, pool.quote),
                "dex": _resource("dex", pool.dex, name=names[pool.dex]),
            }
            for wanted, row in rows.items():
                if wanted in asked:
                    included[row["type"], row["id"]] = row
        return {"data": data, "included": list(included.values())}

    # -- trades and candles

    def _trades(self, call: Call, network: str, address: str) -> Answer:
        pool = self._pool(call, network, address)
        side = _side(pool, call.query.get("token", "base"), "Provided token is invalid")
        try:
            above = float(call.query.get("trade_volume_in_usd_greater_than", 0))
        except ValueError:
            above = 0.0
        seen = self.market.trades(pool, call.now, above)
        young = takewhile(lambda trade: trade.block_time > call.now - TRADES_SPAN, seen)
        rows = [_trade_row(pool, trade, side) for trade in islice(young, MAX_TRADES)]
        return Answer({"data": rows}, fresh_for=30)

    def _candles(self, call: Call, network: str, address: str, timeframe: str) -> Answer:
        if timeframe == "second":
            raise ApiError(401, _SECOND)
        if timeframe not in STEPS:
            raise not_found()
        pool = self._pool(call, network, address)
        seconds, aggregates = STEPS[timeframe]
        aggregate = call.query.get("aggregate", "1")
        if aggregate not in map(str, aggregates):
            allowed = ", ".join(map(str, aggregates))
            raise ApiError(400, f"Invalid aggregate. Allowed values: {allowed}")
        limit = call.query.get("limit", "100")
        if not limit.isdecimal() or not 1 <= int(limit) <= MAX_CANDLES:
            title = f"must be positive integer less than or equal to {MAX_CANDLES}"
            raise ApiError(400, f"Invalid limit. {title}")
        side = _side(pool, call.query.get("token", "base"), "Provided token is invalid")
        currency = _currency(call.query.get("currency", "usd"))
        until = _before(call)
        step = seconds * int(aggregate)
        oldest = until - CANDLES_SPAN
        found = self.market.candles(pool, step, oldest, until, call.now, side, currency)
        if call.flag("include_empty_intervals"):
            found = _filled_up(found, step, min(until, call.now + 1))
        return Answer(_candles_body(call, pool, side, islice(found, int(limit))))

    # -- what several need

    def _paid(self, _: Call) -> Answer:
        raise ApiError(401, "Unauthorized")

    def _check_network(self, network: str) -> None:
        if network not in {known.id for known in self.market.networks}:
            raise not_found()

    def _pool(self, call: Call, network: str, address: str) -> Pool:
        self._check_network(network)
        pool = self.market.pool(network, _canonical(address), call.now)
        if pool is None:
            raise not_found()
        return pool


_SECOND = (
    "timeframe=second is exclusive to Paid plan subscribers only. Upgrade to Analyst plan & above"
    " to access: https://www.coingecko.com/en/api/pricing."
)
_TOO_OLD = (
    "You can only access data from the past 180 days with Public API. To access data beyond 180"
    " days, please upgrade to the Analyst plan or above."
)
_TOO_FAR = f"Your request exceeds the allowed max number for page ({MAX_PAGE}). Upgrade to Analyst plan..."


def not_found() -> ApiError:
    return ApiError(404, "Not Found")


def _canonical(address: str) -> str:
    """Hex addresses match in any case; all others, Solana's above all, only in their own."""
    return address.lower() if address.startswith(("0x", "0X")) else address


def _check_page(call: Call) -> None:
    if call.page() > MAX_PAGE:
        raise ApiError(401, _TOO_FAR)


def _side(pool: Pool, token: str, title: str) -> Side:
    if token in ("base", pool.base.address):
        return "base"
    if token in ("quote", pool.quote.address):
        return "quote"
    raise ApiError(400, title)


def _currency(text: str) -> Currency:
    if text == "usd":
        return "usd"
    if text == "token":
        return "token"
    raise ApiError(400, "Invalid currency. Allowed values: usd, token")


def _before(call: Call) -> int:
    """Return the exclusive upper bound of a request for candles."""
    text = call.query.get("before_timestamp")
    if text is None:
        return call.now + 1
    if not text.isdecimal():
        raise ApiError(400, "Invalid before_timestamp")
    if int(text) < call.now - CANDLES_REACH:
        raise ApiError(401, _TOO_OLD)
    return int(text)


def _paged(call: Call, rows: Sequence[Row], size: int) -> Sequence[Row]:
    return rows[(call.page() - 1) * size : call.page() * size]


def _filled_up(newest_first: Iterable[Candle], step: int, until: int) -> Iterator[Candle]:
    """Fill the steps without trades, up to `until`, with the close before them and no volume."""
    newer = (until - 1) // step * step + step
    for candle in newest_first:
        for ts in range(newer - step, candle.ts, -step):
            yield Candle(ts, candle.close, candle.close, candle.close, candle.close, 0.0)
        yield candle
        newer = candle.ts


# ---------------------------------------------------------------------------------------------
# Objects


def _resource(kind: str, identity: str, /, **attributes: object) -> Json:
    return {"id": identity, "type": kind, "attributes": attributes}


def _catalog(call: Call, rows: Sequence[Json]) -> Json:
    """A page of networks or exchanges with its links, which are absolute."""
    page, last = call.page(), max(1, -(-len(rows) // CATALOG_ROWS))
    links: dict[str, str | None] = {"first": None, "prev": None, "next": None, "last": None}
    for name, number in (("first", 1), ("prev", page - 1), ("next", page + 1), ("last", last)):
        if 1 <= number <= last:
            links[name] = f"{call.root}{call.path}?page={number}"
    return {"data": list(_paged(call, rows, CATALOG_ROWS)), "links": links}


def _list_row(pool: Pool, figures: Figures) -> Json:
    """A pool as lists show it."""
    base, quote = figures.base_usd, figures.quote_usd
    ratio = quotient(base, quote) if base and quote else None
    inverse = quotient(quote, base) if base and quote else None
    windows = figures.windows
    return _resource(
        "pool",
        f"{pool.network}_{pool.address}",
        base_token_price_usd=base,
        base_token_price_native_currency=figures.base_native,
        quote_token_price_usd=quote,
        quote_token_price_native_currency=figures.quote_native,
        base_token_price_quote_token=ratio,
        quote_token_price_base_token=inverse,
        address=pool.address,
        name=pool.name,
        pool_created_at=_iso(pool.created_at),
        fdv_usd=figures.fdv_usd,
        market_cap_usd=figures.market_cap_usd,
        price_change_percentage={name: _percent(windows[name].change) for name in WINDOWS},
        transactions={name: _transactions(windows[name]) for name in WINDOWS},
        volume_usd={name: plain(_volume(windows[name])) for name in WINDOWS},
        reserve_in_usd=figures.reserve_usd,
    ) | {
        "relationships": {
            "base_token": _reference("token", f"{pool.network}_{pool.base.address}"),
            "quote_token": _reference("token", f"{pool.network}_{pool.quote.address}"),
            "dex": _reference("dex", pool.dex),
        }
    }


def _pool_row(call: Call, pool: Pool, figures: Figures) -> Json:
    """A pool as `/pools/{address}` and `/pools/multi/` show it: some attributes more."""
    row = _list_row(pool, figures)
    attributes: Json = row["attributes"]
    attributes["pool_name"] = pool.name
    attributes["pool_fee_percentage"] = None
    attributes["locked_liquidity_percentage"] = figures.locked_percentage
    if call.flag("include_volume_breakdown"):
        each = {name: figures.windows[name] for name in WINDOWS}
        attributes["net_buy_volume_usd"] = {
            name: plain(window.buy_volume - window.sell_volume) for name, window in each.items()
        }
        attributes["buy_volume_usd"] = {n: plain(w.buy_volume) for n, w in each.items()}
        attributes["sell_volume_usd"] = {n: plain(w.sell_volume) for n, w in each.items()}
    if call.flag("include_composition"):
        half = plain(Decimal(figures.reserve_usd or 0) / 2)
        for side, price in (("base", figures.base_usd), ("quote", figures.quote_usd)):
            attributes[f"{side}_token_balance"] = quotient(half, price) if price else None
            attributes[f"{side}_token_liquidity_usd"] = half
    return row


def _token_row(network: str, token: Token) -> Json:
    return _resource(
        "token",
        f"{network}_{token.address}",
        address=token.address,
        name=token.name,
        symbol=token.symbol,
        decimals=token.decimals,
        image_url=token.image_url,
        coingecko_coin_id=token.coingecko_coin_id,
    )


def _trade_row(pool: Pool, trade: Trade, side: Side) -> Json:
    """A trade; its `kind` is turned round where the asked token is the quote."""
    buy = trade.kind == "buy"
    kinds = ("buy", "sell") if side == "base" else ("sell", "buy")
    given, taken = (pool.quote, pool.base) if buy else (pool.base, pool.quote)
    rate = quotient(trade.from_amount, trade.to_amount) if buy else quotient(trade.to_amount, trade.from_amount)
    return _resource(
        "trade",
        f"{pool.network}_{trade.block_number}_{trade.tx_hash}_{trade.n}_{trade.visible_at}",
        block_number=trade.block_number,
        block_timestamp=_iso(trade.block_time),
        tx_hash=trade.tx_hash,
        tx_from_address=trade.tx_from,
        kind=kinds[0] if buy else kinds[1],
        from_token_address=given.address,
        to_token_address=taken.address,
        from_token_amount=trade.from_amount,
        to_token_amount=trade.to_amount,
        price_from_in_usd=trade.price_from_usd,
        price_to_in_usd=trade.price_to_usd,
        price_from_in_currency_token="1.0" if buy else rate,
        price_to_in_currency_token=rate if buy else "1.0",
        volume_in_usd=trade.volume_usd,
    )


def _candles_body(call: Call, pool: Pool, side: Side, candles: Iterable[Candle]) -> Json:
    row = _resource("ohlcv_request_response", call.request_id, ohlcv_list=[*map(list, candles)])
    base, quote = _meta(pool.base), _meta(pool.quote)
    if side == "quote":
        base, quote = quote, base
    return {"data": row, "meta": {"base": base, "quote": quote}}


def _meta(token: Token) -> Json:
    return {
        "name": token.name,
        "symbol": token.symbol,
        "coingecko_coin_id": token.coingecko_coin_id,
        "address": token.address,
    }


def _reference(kind: str, identity: str) -> Json:
    return {"data": {"id": identity, "type": kind}}


def _transactions(window: Window) -> dict[str, int]:
    return {
        "buys": window.buys,
        "sells": window.sells,
        "buyers": window.buyers,
        "sellers": window.sellers,
    }


def _volume(window: Window) -> float:
    return window.buy_volume + window.sell_volume


def _percent(change: float) -> str:
    text = f"{change:.3f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _iso(seconds: int | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
