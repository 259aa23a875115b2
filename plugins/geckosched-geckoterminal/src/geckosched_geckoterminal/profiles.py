"""What the simulated API tells of a token beyond its trades: sites, scores, holders, developer.

No market has such things, so they are made up: a function of the token's address and the time, and nothing else. A
token known to CoinGecko is an established one, all others are as new tokens are: little is filled in, much is null.
"""

from __future__ import annotations

from typing import Any

from .chance import Chance
from .market import Pool, Token
from .objects import iso

Json = dict[str, Any]

UPDATED_SECONDS = 2 * 3600
"""The longest time from a pool's birth to the moment when its token's details are filled in."""

_COUNTED_SECONDS = 600
"""Age in seconds from which on holders are counted."""
_CHANCE = Chance(0)
_RECENT = (
    *("address", "name", "symbol", "decimals", "image_url", "coingecko_coin_id", "websites", "discord_url"),
    *("farcaster_url", "zora_url", "telegram_handle", "twitter_handle", "description", "gt_score"),
)


def updated_at(pool: Pool) -> int | None:
    """Return when the details of a pool's base token were filled in; None where the pool's birth is unknown."""
    if pool.created_at is None:
        return None
    return pool.created_at + int(_unit(pool.base, "updated") * UPDATED_SECONDS)


def recent(pool: Pool) -> Json:
    """Return the base token as the list of the recently updated shows it."""
    info = profile(pool.base, pool, 0)
    return {name: info[name] for name in _RECENT} | {"metadata_updated_at": iso(updated_at(pool))}


def profile(token: Token, pool: Pool | None, now: int) -> Json:
    """Return the attributes of a token's info at `now`; `pool` is the token's first, if it has one of its own."""
    known = token.coingecko_coin_id is not None
    details = {
        "pool": round(100 * _unit(token, "pool"), 3),
        "transaction": round(100 * _unit(token, "transaction"), 3),
        "creation": 0,
        "info": 100 if known else 60,
        "holders": round(100 * _unit(token, "holders"), 3),
    }
    categories = pool is not None and pool.dex == "pump-fun"
    return {
        "address": token.address,
        "name": token.name,
        "symbol": token.symbol,
        "decimals": token.decimals,
        "image_url": token.image_url,
        "image": {size: _sized(token.image_url, size) for size in ("thumb", "small", "large")},
        "banner_image_url": None,
        "coingecko_coin_id": token.coingecko_coin_id,
        **_links(token),
        "gt_score": None if _unit(token, "scored") < 0.05 else sum(details.values()) / len(details),
        "gt_score_details": details,
        "gt_verified": known,
        "categories": ["Pump Fun"] if categories else [],
        "gt_category_ids": ["pump-fun"] if categories else [],
        "holders": _holders(token, pool, now),
        "mint_authority": "no",
        "freeze_authority": "no",
        "is_honeypot": "unknown",
        "developer_address": None if known else _CHANCE.address(f"developer/{token.address}"),
        "developer_holding_percentage": None if known else f"{20 * _unit(token, 'held') ** 4:.2f}",
    }


def in_any_order(pool: Pool) -> list[Token]:
    """Return a pool's tokens in an order that is the same each time, and says nothing of base and quote."""
    return sorted(pool.tokens, key=lambda token: _unit(token, pool.address))


def _links(token: Token) -> Json:
    """Return what its makers filled in; handles are what a user typed, and may be a path."""
    name, draw = token.symbol.lower(), _unit(token, "links")
    return {
        "websites": [f"https://{name}.example"] if draw < 0.6 else [],
        "discord_url": f"https://discord.example/invite/{name}" if draw < 0.1 else None,
        "farcaster_url": None,
        "zora_url": None,
        "telegram_handle": name if draw < 0.3 else None,
        "twitter_handle": None if draw > 0.8 else f"{name}/status/21046" if draw > 0.6 else name,
        "description": (f"{token.name} on chain.", "", None)[int(draw * 30) % 3],
    }


def _holders(token: Token, pool: Pool | None, now: int) -> Json:
    born = 0 if pool is None or pool.created_at is None else pool.created_at
    if now < born + _COUNTED_SECONDS:
        return {"count": None, "distribution_percentage": None, "last_updated": None}
    shares = [20 + 60 * _unit(token, "top"), 4.0, 4.5]
    names = ("top_10", "11_20", "21_40", "rest")
    return {
        "count": int(10 ** (2 + 2 * _unit(token, "count"))),
        "distribution_percentage": {
            name: f"{share:.4f}" for name, share in zip(names, [*shares, 100 - sum(shares)], strict=True)
        },
        "last_updated": iso(now // _COUNTED_SECONDS * _COUNTED_SECONDS),
    }


def _sized(url: str | None, size: str) -> str | None:
    return url and (url.replace("/large/", f"/{size}/") if "/large/" in url else f"{url}/{size}")


def _unit(token: Token, label: str) -> float:
    return _CHANCE.unit(f"{label}/{token.address}")
