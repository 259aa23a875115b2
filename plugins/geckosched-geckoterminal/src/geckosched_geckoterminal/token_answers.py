"""What the simulated API answers about tokens: figures over all their pools, prices, and what else is told of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from .call import Answer, Call, Json, addresses_of, canonical, check_page, highest, not_found
from .market import WINDOWS, Figures, Market, Pool, Token, plain
from .objects import (
    Extras,
    half_of,
    included_token,
    launchpad,
    network_row,
    pool_row,
    price_of,
    reference,
    resource,
    supply_of,
    with_included,
    worth,
)
from .profiles import in_any_order, profile, recent, updated_at

MAX_RECENT = 100
"""Tokens in the list of the recently updated."""

_DAY = WINDOWS["h24"]


@dataclass(frozen=True, slots=True)
class _Standing:
    """A token over all its pools, the busiest by volume first, of which `best` are the first; all in USD."""

    token: Token
    pools: Sequence[Pool]
    best: Sequence[tuple[Pool, Figures]]
    price: str | None
    volume: float
    reserve: str

    @property
    def own(self) -> Figures | None:
        """The figures of the best pool, where the token is its base."""
        pool, figures = self.best[0]
        return figures if pool.base == self.token else None


class TokenAnswers:
    """Answers about the tokens of a market."""

    def __init__(self, market: Market) -> None:
        self.market = market

    def one(self, call: Call, network: str, address: str) -> Answer:
        """`/tokens/{address}`: with up to three top pools."""
        standing = self._standing(call, network, canonical(address), 3)
        if standing is None:
            raise not_found()
        return self._told(call, _token_row(network, standing), [standing], Extras(token=standing.token.address))

    def several(self, call: Call, network: str, addresses: str) -> Answer:
        """`/tokens/multi/`: only the first top pool of each, unknown tokens are left out."""
        asked = addresses_of(addresses)
        found = [each for each in (self._standing(call, network, address, 1) for address in asked) if each]
        return self._told(call, [_token_row(network, each) for each in found], found, Extras())

    def pools(self, call: Call, network: str, address: str) -> Answer:
        """`/tokens/{address}/pools`: each with the price of this token."""
        token = self._known(call, network, canonical(address))
        ways = ("h24_volume_usd_liquidity_desc", "h24_tx_count_desc", "h24_volume_usd_desc")
        by_count = call.choice("sort", ways[0], ways, "sort option") == "h24_tx_count_desc"
        check_page(call)
        pools = self.market.pools_of(network, token.address, call.now)
        page = highest(
            call,
            pools,
            lambda pool: self.market.activity(pool, call.now)[0 if by_count else 1],
            self.market.at_most if by_count else None,
        )
        extras = Extras(token=token.address)
        rows = [pool_row(pool, self.market.figures(pool, call.now), extras) for pool in page]
        return Answer(with_included(call, self.market, rows, page))

    def info(self, call: Call, network: str, address: str) -> Answer:
        """`/tokens/{address}/info`."""
        token = self._known(call, network, canonical(address))
        return Answer({"data": self._info_row(call, network, token)})

    def pool_info(self, call: Call, pool: Pool) -> Answer:
        """`/pools/{address}/info`: both tokens, whichever comes first."""
        of_pool = {"relationships": {"pool": reference("pool", f"{pool.network}_{pool.address}")}}
        rows = [self._info_row(call, pool.network, token) | of_pool for token in in_any_order(pool)]
        if "pool" not in call.include():
            return Answer({"data": rows})
        votes: Json = {
            "base_token_address": pool.base.address,
            "quote_token_address": pool.quote.address,
            "sentiment_vote_positive_percentage": 0,
            "sentiment_vote_negative_percentage": 0,
            "community_sus_report": 0,
        }
        return Answer({"data": rows, "included": [resource("pool", f"{pool.network}_{pool.address}", **votes)]})

    def recently_updated(self, call: Call) -> Answer:
        """`/tokens/info_recently_updated`: the last 100 of one network, or of all."""
        networks = [each for each in self.market.networks if each.id == call.query.get("network", each.id)]
        if not networks:
            raise not_found()
        pools = [pool for each in networks for pool in self.market.pools(each.id, call.now).values()]
        shown = _newest(pools, call.now)
        rows = [
            resource("token", f"{pool.network}_{pool.base.address}", **recent(pool))
            | {"relationships": {"network": reference("network", pool.network)}}
            for pool in shown
        ]
        if "network" not in call.include():
            return Answer({"data": rows})
        used = {pool.network for pool in shown}
        return Answer({"data": rows, "included": [network_row(each) for each in networks if each.id in used]})

    def prices(self, call: Call, network: str, addresses: str) -> Answer:
        """`/simple/.../token_price/`: maps by address, not in the order asked for."""
        asked = sorted(addresses_of(addresses))
        found = [each for each in (self._standing(call, network, address, 1) for address in asked) if each]
        fallback = call.flag("mcap_fdv_fallback")
        maps: dict[str, Mapping[str, str | None]] = {"token_prices": {each.token.address: each.price for each in found}}
        if call.flag("include_market_cap"):
            caps = {each.token.address: _market_cap(each) or (_fdv(each) if fallback else None) for each in found}
            maps["market_cap_usd"] = caps
        if call.flag("include_24hr_vol"):
            maps["h24_volume_usd"] = {each.token.address: plain(each.volume) for each in found}
        if call.flag("include_24hr_price_change"):
            maps["h24_price_change_percentage"] = {each.token.address: self._change(call, each) for each in found}
        if call.flag("include_total_reserve_in_usd"):
            maps["total_reserve_in_usd"] = {each.token.address: each.reserve for each in found}
        return Answer({"data": resource("simple_token_price", call.request_id, **maps)})

    # -- what several need

    def _known(self, call: Call, network: str, address: str) -> Token:
        token = self.market.token(network, address, call.now)
        if token is None:
            raise not_found()
        return token

    def _standing(self, call: Call, network: str, address: str, top: int) -> _Standing | None:
        """Add up a token's pools; None where it is unknown."""
        token = self.market.token(network, address, call.now)
        if token is None:
            return None
        pools = self.market.pools_of(network, address, call.now)
        volumes = {pool.address: self.market.activity(pool, call.now).volume for pool in pools}
        pools = sorted(pools, key=lambda pool: (-volumes[pool.address], pool.address))
        best = [(pool, self.market.figures(pool, call.now)) for pool in pools[:top]]
        halves = [Decimal(half_of(self.market.reserve(pool, call.now))) for pool in pools]
        price = price_of(*best[0], address)
        return _Standing(token, pools, best, price, sum(volumes.values()), plain(sum(halves, Decimal(0))))

    def _change(self, call: Call, standing: _Standing) -> str | None:
        """Percent in 24 hours; of a quote token by the candles of its busiest pool that has any from before."""
        if own := standing.own:
            return plain(own.windows["h24"].change)
        for pool in standing.pools:
            newest, older = (self._close(call, pool, call.now - back) for back in (0, _DAY))
            if newest and older:
                return plain((newest / older - 1) * 100)
        return None

    def _close(self, call: Call, pool: Pool, moment: int) -> float | None:
        """Return the price of a pool's quote token at a moment, to the hour."""
        candles = self.market.candles(pool, 3600, moment - _DAY, moment + 1, call.now, "quote")
        return next((candle.close for candle in candles), None)

    def _told(self, call: Call, data: Json | list[Json], found: Sequence[_Standing], extras: Extras) -> Answer:
        """Return tokens, and their top pools if asked for, each once."""
        if "top_pools" not in call.include():
            return Answer({"data": data})
        extras = replace(extras, composition=call.flag("include_composition"))
        best = {pool.address: (pool, figures) for each in found for pool, figures in each.best}
        return Answer({"data": data, "included": [pool_row(*each, extras) for each in best.values()]})

    def _info_row(self, call: Call, network: str, token: Token) -> Json:
        pools = self.market.pools_of(network, token.address, call.now)
        own = next((pool for pool in pools if pool.base == token), None)
        told = profile(token, own, call.now)
        if own is not None:
            told |= launchpad(self.market.figures(own, call.now))
        return resource("token", f"{network}_{token.address}", **told)


def _newest(pools: Iterable[Pool], now: int) -> list[Pool]:
    """Return a pool for each of the tokens that were updated last."""
    dated = [(updated_at(pool) or now + 1, pool.base.address, pool) for pool in pools]
    found: dict[str, Pool] = {}
    for moment, address, pool in sorted(dated, key=lambda each: (-each[0], each[1])):
        if moment <= now and len(found) < MAX_RECENT:
            found.setdefault(address, pool)
    return list(found.values())


def _token_row(network: str, standing: _Standing) -> Json:
    row = included_token(network, standing.token)
    total, normalized = supply_of(standing.token)
    row["attributes"] |= {
        "total_supply": total,
        "normalized_total_supply": normalized,
        "price_usd": standing.price,
        "fdv_usd": _fdv(standing),
        "total_reserve_in_usd": standing.reserve,
        "volume_usd": {"h24": plain(standing.volume)},
        "market_cap_usd": _market_cap(standing),
        **(launchpad(standing.own) if standing.own else {}),
    }
    pools = [{"id": f"{pool.network}_{pool.address}", "type": "pool"} for pool, _ in standing.best]
    row["relationships"] = {"top_pools": {"data": pools}}
    return row


def _fdv(standing: _Standing) -> str | None:
    recorded = standing.own.fdv_usd if standing.own else None
    return worth(standing.token, standing.price) or recorded


def _market_cap(standing: _Standing) -> str | None:
    """Of what CoinGecko knows all is in circulation; of new tokens nobody tells."""
    if standing.own:
        return standing.own.market_cap_usd
    return worth(standing.token, standing.price) if standing.token.coingecko_coin_id else None
