"""The objects of the simulated API as JSON: pools, tokens, trades and candles, their attributes in the API's order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from .call import Call, Json
from .market import WINDOWS, Candle, Figures, Market, Network, Pool, Side, Token, Trade, Window, plain, quotient


@dataclass(frozen=True, slots=True)
class Extras:
    """What a pool's row shows beyond what every list does.

    `single`: the attributes of `/pools/{address}` and `/pools/multi/`. `token`: the one whose price is told apart.
    `network`: the relationship that lists over all networks have.
    """

    single: bool = False
    breakdown: bool = False
    composition: bool = False
    network: bool = False
    token: str | None = None


def resource(kind: str, identity: str, /, **attributes: object) -> Json:
    return {"id": identity, "type": kind, "attributes": attributes}


def reference(kind: str, identity: str) -> Json:
    return {"data": {"id": identity, "type": kind}}


def iso(seconds: int | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def network_row(network: Network) -> Json:
    return resource("network", network.id, name=network.name, coingecko_asset_platform_id=network.platform)


def with_included(
    call: Call, market: Market, data: Json | list[Json], pools: Sequence[Pool], *, over_networks: bool = False
) -> Json:
    """Return a body with `included`: the asked resources of these pools, each once; without any asked there is none."""
    asked = call.include() & {"base_token", "quote_token", "dex", *(["network"] if over_networks else [])}
    if not asked:
        return {"data": data}
    names = {(each, dex.id): dex.name for each in {pool.network for pool in pools} for dex in market.dexes(each)}
    networks = {each.id: each for each in market.networks} if "network" in asked else {}
    included: dict[tuple[str, str], Json] = {}
    for pool in pools:
        lacking = pool.unknown if call.now < pool.known_at else ()
        rows = {
            "base_token": included_token(pool.network, pool.base, lacking),
            "quote_token": included_token(pool.network, pool.quote),
            "dex": resource("dex", pool.dex, name=names[pool.network, pool.dex]),
            **({"network": network_row(networks[pool.network])} if networks else {}),
        }
        included |= {(row["type"], row["id"]): row for wanted, row in rows.items() if wanted in asked}
    return {"data": data, "included": list(included.values())}


# ---------------------------------------------------------------------------------------------
# Pools


def pool_row(pool: Pool, figures: Figures, extras: Extras = Extras()) -> Json:
    """Return a pool as lists show it, and with what `extras` ask for."""
    base, quote, windows = figures.base_usd, figures.quote_usd, figures.windows
    attributes = {
        **_side("base", base, figures.base_native, figures, extras),
        **_side("quote", quote, figures.quote_native, figures, extras),
        "base_token_price_quote_token": quotient(base, quote) if base and quote else None,
        "quote_token_price_base_token": quotient(quote, base) if base and quote else None,
        "address": pool.address,
        "name": pool.name,
        **({"pool_name": pool.name, "pool_fee_percentage": None} if extras.single else {}),
        "pool_created_at": iso(pool.created_at),
        **({"token_price_usd": price_of(pool, figures, extras.token)} if extras.token else {}),
        "fdv_usd": figures.fdv_usd,
        "market_cap_usd": figures.market_cap_usd,
        "price_change_percentage": {name: _percent(windows[name].change) for name in WINDOWS},
        "transactions": {name: _transactions(windows[name]) for name in WINDOWS},
        "volume_usd": {name: plain(windows[name].volume) for name in WINDOWS},
        **(_breakdown(windows) if extras.breakdown else {}),
        "reserve_in_usd": figures.reserve_usd,
        **(_single(figures) if extras.single else {}),
    }
    row = resource("pool", f"{pool.network}_{pool.address}", **attributes)
    row["relationships"] = {
        "base_token": reference("token", f"{pool.network}_{pool.base.address}"),
        "quote_token": reference("token", f"{pool.network}_{pool.quote.address}"),
        **({"network": reference("network", pool.network)} if extras.network else {}),
        "dex": reference("dex", pool.dex),
    }
    return row


def price_of(pool: Pool, figures: Figures, token: str) -> str | None:
    """Return the price in USD of a pool's token; None of a third one."""
    if token == pool.base.address:
        return figures.base_usd
    return figures.quote_usd if token == pool.quote.address else None


def launchpad(figures: Figures) -> Json:
    """Return what is told only of the pools and tokens of launchpads."""
    if figures.graduation is None:
        return {}
    return {
        "launchpad_details": {
            "graduation_percentage": figures.graduation,
            "completed": False,
            "completed_at": None,
            "migrated_destination_pool_address": None,
        }
    }


def _single(figures: Figures) -> Json:
    return {"locked_liquidity_percentage": figures.locked_percentage, **launchpad(figures)}


def _side(name: str, price: str | None, native: str | None, figures: Figures, extras: Extras) -> Json:
    """Return what is told of one side; half of the reserve is on each."""
    shown: Json = {f"{name}_token_price_usd": price, f"{name}_token_price_native_currency": native}
    if extras.composition:
        half = half_of(figures.reserve_usd)
        shown[f"{name}_token_balance"] = quotient(half, price) if price else None
        shown[f"{name}_token_liquidity_usd"] = half
    return shown


def half_of(reserve: str | None) -> str:
    return plain(Decimal(reserve or 0) / 2)


def _breakdown(windows: Mapping[str, Window]) -> Json:
    each = {name: windows[name] for name in WINDOWS}
    return {
        "net_buy_volume_usd": {name: plain(window.buy_volume - window.sell_volume) for name, window in each.items()},
        "buy_volume_usd": {name: plain(window.buy_volume) for name, window in each.items()},
        "sell_volume_usd": {name: plain(window.sell_volume) for name, window in each.items()},
    }


def _transactions(window: Window) -> dict[str, int]:
    return {
        "buys": window.buys,
        "sells": window.sells,
        "buyers": window.buyers,
        "sellers": window.sellers,
    }


def _percent(change: float) -> str:
    text = f"{change:.3f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


# ---------------------------------------------------------------------------------------------
# Tokens


def included_token(network: str, token: Token, lacking: Iterable[str] = ()) -> Json:
    """Return a token as `included` shows it beside its pool; what is `lacking` is null."""
    attributes: Json = {
        "address": token.address,
        "name": token.name,
        "symbol": token.symbol,
        "decimals": token.decimals,
        "image_url": token.image_url,
        "coingecko_coin_id": token.coingecko_coin_id,
    }
    return resource("token", f"{network}_{token.address}", **attributes | dict.fromkeys(lacking))


def supply_of(token: Token) -> tuple[str | None, str | None]:
    """Return a token's supply in raw units and in whole tokens."""
    if token.supply is None or token.decimals is None:
        return None, None
    return plain(Decimal(token.supply) * 10**token.decimals), plain(Decimal(token.supply))


def worth(token: Token, price: str | None) -> str | None:
    """Return what all of a token is worth in USD."""
    return plain((Decimal(price) * token.supply).normalize()) if price and token.supply else None


# ---------------------------------------------------------------------------------------------
# Trades and candles


def trade_row(pool: Pool, trade: Trade, side: Side) -> Json:
    """A trade; its `kind` is turned round where the asked token is the quote."""
    buy = trade.kind == "buy"
    kinds = ("buy", "sell") if side == "base" else ("sell", "buy")
    given, taken = (pool.quote, pool.base) if buy else (pool.base, pool.quote)
    rate = quotient(trade.from_amount, trade.to_amount) if buy else quotient(trade.to_amount, trade.from_amount)
    return resource(
        "trade",
        f"{pool.network}_{trade.block_number}_{trade.tx_hash}_{trade.n}_{trade.visible_at}",
        block_number=trade.block_number,
        block_timestamp=iso(trade.block_time),
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


def candles_body(request_id: str, pool: Pool, side: Side, candles: Iterable[Candle]) -> Json:
    row = resource("ohlcv_request_response", request_id, ohlcv_list=[*map(list, candles)])
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
