"""What the simulated API answers: paths, paging, refusals and objects, at a moment of the market.

`Api` is told the path, the query and the time, and gives the body or raises `ApiError`; HTTP, the
rate limit and the CDN's cache are `simulator`'s. Shapes and wording are those of responses that
were recorded in 2025 and 2026. Where none settles what the API does, the answer is strict rather
than kind: a malformed `before_timestamp`, `currency` or `token` is 400.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, takewhile

from .call import (
    CATALOG_ROWS,
    Answer,
    ApiError,
    Call,
    Json,
    addresses_of,
    canonical,
    check_page,
    highest,
    not_found,
    paged,
)
from .market import Candle, Currency, Market, Pool, Side
from .objects import Extras, candles_body, network_row, pool_row, resource, trade_row, with_included
from .token_answers import TokenAnswers

__all__ = ["Answer", "Api", "ApiError", "Call"]

MAX_TRADES, TRADES_SPAN = 300, 86400
MAX_CANDLES, CANDLES_SPAN, CANDLES_REACH = 1000, 184 * 86400, 180 * 86400
"""Candles of one answer, seconds that it may span, and how far back the public plan reaches."""
STEPS: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "day": (86400, (1,)),
    "hour": (3600, (1, 4, 12)),
    "minute": (60, (1, 5, 15)),
}
"""Seconds of a timeframe, and the aggregates of it that are allowed."""
DURATIONS: Mapping[str, int] = {"5m": 300, "1h": 3600, "6h": 6 * 3600, "24h": 86400}
"""What lists of trending pools may be asked for, in seconds."""

_UNKNOWN_AGE = 365 * 86400
"""The age in seconds that a pool of unknown birth is taken to have."""


class Api:
    """Answers of the API over a market; knows nothing of HTTP, limits and caches."""

    def __init__(self, market: Market) -> None:
        self.market = market
        tokens = TokenAnswers(market)
        within = r"/networks/(?P<network>[^/]+)"
        pool, token = within + r"/pools/(?P<address>[^/]+)", within + r"/tokens/(?P<address>[^/]+)"
        several = r"/multi/(?P<addresses>[^/]+)"
        self._routes: list[tuple[re.Pattern[str], Callable[..., Answer]]] = [
            (re.compile(pattern), endpoint)
            for pattern, endpoint in (
                (r"/networks", self._networks),
                (r"/networks/new_pools", self._new_pools),
                (r"/networks/trending_pools", self._trending),
                (within + r"/dexes", self._dexes),
                (within + r"/new_pools", self._new_pools),
                (within + r"/trending_pools", self._trending),
                (within + r"/dexes/(?P<dex>[^/]+)/pools", self._top_pools),
                (within + r"/pools", self._top_pools),
                (within + r"/pools" + several, self._pools),
                (pool, self._one_pool),
                (pool + r"/info", partial(self._pool_info, tokens)),
                (pool + r"/trades", self._trades),
                (pool + r"/ohlcv/(?P<timeframe>[^/]+)", self._candles),
                (within + r"/tokens" + several, tokens.several),
                (token, tokens.one),
                (token + r"/pools", tokens.pools),
                (token + r"/info", tokens.info),
                (r"/tokens/info_recently_updated", tokens.recently_updated),
                (r"/simple" + within + r"/token_price/(?P<addresses>[^/]+)", tokens.prices),
                (r"/search/pools", self._search),
                (r"/pools/megafilter|/pools/trending_search|/categories", self._paid),
                (r"/networks/[^/]+/tokens/[^/]+/(top_holders|holders_chart|trades|ohlcv/[^/]+)", self._paid),
            )
        ]

    def answer(self, call: Call) -> Answer:
        """Answer a call, or raise `ApiError`."""
        for pattern, endpoint in self._routes:
            if match := pattern.fullmatch(call.path):
                if "network" in pattern.groupindex:
                    self._check_network(match["network"])
                return endpoint(call, **match.groupdict())
        raise not_found()

    # -- catalog

    def _networks(self, call: Call) -> Answer:
        return Answer(_catalog(call, [network_row(network) for network in self.market.networks]))

    def _dexes(self, call: Call, network: str) -> Answer:
        return Answer(_catalog(call, [resource("dex", dex.id, name=dex.name) for dex in self.market.dexes(network)]))

    # -- lists of pools

    def _top_pools(self, call: Call, network: str, dex: str | None = None) -> Answer:
        if dex is not None and dex not in {known.id for known in self.market.dexes(network)}:
            raise not_found()
        allowed = ("h24_volume_usd_desc", "h24_tx_count_desc")
        by_count = call.choice("sort", "h24_tx_count_desc", allowed, "sort option") == "h24_tx_count_desc"
        check_page(call)
        page = highest(
            call,
            [pool for pool in self.market.pools(network, call.now).values() if dex is None or pool.dex == dex],
            lambda pool: self.market.activity(pool, call.now)[0 if by_count else 1],
            self.market.at_most if by_count else None,
        )
        return self._listed(call, page)

    def _new_pools(self, call: Call, network: str | None = None) -> Answer:
        check_page(call)
        born = [pool for pool in self._known(call, network) if pool.created_at is not None]
        page = highest(call, born, lambda pool: pool.created_at or 0)
        return self._listed(call, page, over_networks=network is None)

    def _trending(self, call: Call, network: str | None = None) -> Answer:
        """The order of trending pools is the API's secret; here the busy come first, and of them the young."""
        span = DURATIONS[call.choice("duration", "24h", DURATIONS, "duration")]
        check_page(call)

        def damped(trades: float, pool: Pool) -> float:
            age = call.now - pool.created_at if pool.created_at is not None else _UNKNOWN_AGE
            return trades / math.sqrt(1 + age / 3600)

        page = highest(
            call,
            self._known(call, network),
            lambda pool: damped(self.market.heat(pool, call.now, span), pool),
            lambda pool: damped(self.market.at_most(pool), pool),
        )
        hot = [pool for pool in page if self.market.heat(pool, call.now, span)]
        return self._listed(call, hot, over_networks=network is None)

    def _search(self, call: Call) -> Answer:
        """Addresses match whole and in their own case, names and symbols in part and in any case."""
        network, text = call.query.get("network"), call.query.get("query", "").strip()
        if network is not None:
            self._check_network(network)
        check_page(call)
        found = _matches(self._searchable(call, network, text), text)
        busy = {pool.address: self.market.activity(pool, call.now).trades for pool in found}
        found.sort(key=lambda pool: (_relevance(pool, text), -busy[pool.address], pool.address))
        return self._listed(call, paged(call, found))

    # -- pools by address

    def _pools(self, call: Call, network: str, addresses: str) -> Answer:
        known = [self.market.pool(network, address, call.now) for address in addresses_of(addresses)]
        pools = [pool for pool in known if pool is not None]
        return Answer(with_included(call, self.market, [self._single(call, pool) for pool in pools], pools))

    def _one_pool(self, call: Call, network: str, address: str) -> Answer:
        pool = self._pool(call, network, address)
        return Answer(with_included(call, self.market, self._single(call, pool), [pool]))

    def _pool_info(self, tokens: TokenAnswers, call: Call, network: str, address: str) -> Answer:
        return tokens.pool_info(call, self._pool(call, network, address))

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
        rows = [trade_row(pool, trade, side) for trade in islice(young, MAX_TRADES)]
        return Answer({"data": rows}, fresh_for=30)

    def _candles(self, call: Call, network: str, address: str, timeframe: str) -> Answer:
        if timeframe == "second":
            raise ApiError(401, _SECOND)
        if timeframe not in STEPS:
            raise not_found()
        pool = self._pool(call, network, address)
        if pool.others:
            raise ApiError(422, "Pools with >2 tokens are not yet supported for this endpoint")
        seconds, aggregates = STEPS[timeframe]
        aggregate = call.choice("aggregate", "1", [str(each) for each in aggregates], "aggregate")
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
        return Answer(candles_body(call.request_id, pool, side, islice(found, int(limit))))

    # -- what several need

    def _paid(self, _: Call) -> Answer:
        raise ApiError(401, "Unauthorized")

    def _check_network(self, network: str) -> None:
        if network not in {known.id for known in self.market.networks}:
            raise not_found()

    def _pool(self, call: Call, network: str, address: str) -> Pool:
        pool = self.market.pool(network, canonical(address), call.now)
        if pool is None:
            raise not_found()
        return pool

    def _known(self, call: Call, network: str | None) -> Iterator[Pool]:
        """Yield the pools that lists show, of one network or of all."""
        for each in self._networks_of(network):
            yield from self.market.pools(each, call.now).values()

    def _searchable(self, call: Call, network: str | None, text: str) -> Iterator[Pool]:
        """Yield what a search looks through: also pools that no list shows, if asked for by an address."""
        address = canonical(text)
        for each in self._networks_of(network):
            asked = self.market.pool(each, address, call.now)
            of_token = self.market.pools_of(each, address, call.now)
            listed = self.market.searchable(each, call.now)
            yield from {**listed, **{pool.address: pool for pool in [*([asked] if asked else []), *of_token]}}.values()

    def _networks_of(self, network: str | None) -> list[str]:
        return [each.id for each in self.market.networks] if network is None else [network]

    def _single(self, call: Call, pool: Pool) -> Json:
        extras = Extras(
            single=True,
            breakdown=call.flag("include_volume_breakdown"),
            composition=call.flag("include_composition"),
        )
        return pool_row(pool, self.market.figures(pool, call.now), extras)

    def _listed(self, call: Call, pools: Sequence[Pool], *, over_networks: bool = False) -> Answer:
        extras = Extras(network=over_networks)
        rows = [pool_row(pool, self.market.figures(pool, call.now), extras) for pool in pools]
        return Answer(with_included(call, self.market, rows, pools, over_networks=over_networks))


_SECOND = (
    "timeframe=second is exclusive to Paid plan subscribers only. Upgrade to Analyst plan & above"
    " to access: https://www.coingecko.com/en/api/pricing."
)
_TOO_OLD = (
    "You can only access data from the past 180 days with Public API. To access data beyond 180"
    " days, please upgrade to the Analyst plan or above."
)


def _matches(pools: Iterable[Pool], text: str) -> list[Pool]:
    return [pool for pool in pools if text and _relevance(pool, text) is not None]


def _relevance(pool: Pool, text: str) -> int | None:
    """Return how well a pool fits a search, 0 best; None where it doesn't."""
    address, lower = canonical(text), text.lower()
    if address == pool.address or any(address == token.address for token in pool.tokens):
        return 0
    words = [word.lower() for token in pool.tokens for word in (token.symbol, token.name)]
    if lower in words:
        return 1
    if any(word.startswith(lower) for word in words):
        return 2
    return 3 if lower in pool.name.lower() or any(lower in word for word in words) else None


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


def _filled_up(newest_first: Iterable[Candle], step: int, until: int) -> Iterator[Candle]:
    """Fill the steps without trades, up to `until`, with the close before them and no volume."""
    newer = (until - 1) // step * step + step
    for candle in newest_first:
        for ts in range(newer - step, candle.ts, -step):
            yield Candle(ts, candle.close, candle.close, candle.close, candle.close, 0.0)
        yield candle
        newer = candle.ts


def _catalog(call: Call, rows: Sequence[Json]) -> Json:
    """A page of networks or exchanges with its links, which are absolute."""
    page, last = call.page(), max(1, -(-len(rows) // CATALOG_ROWS))
    links: dict[str, str | None] = {"first": None, "prev": None, "next": None, "last": None}
    for name, number in (("first", 1), ("prev", page - 1), ("next", page + 1), ("last", last)):
        if 1 <= number <= last:
            links[name] = f"{call.root}{call.path}?page={number}"
    return {"data": list(paged(call, rows, CATALOG_ROWS)), "links": links}
