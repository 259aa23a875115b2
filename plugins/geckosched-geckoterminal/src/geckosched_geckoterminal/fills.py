"""How a trade of the synthetic market comes about, and how it is written out.

Amounts and prices are whole numbers of their smallest unit, so that sums are exact in whatever order they are made:
a candle's volume is the sum of its trades' volumes to the last digit.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .chance import Chance, poisson
from .market import Currency, Side, Trade
from .population import DAY, HOUR, Life, Stretch

UNIT = 10**24
"""Volumes are counted in this part of a dollar: a token's 6 decimals times a price's 18."""

LAG = 61
"""The longest time in seconds from a block to its trades' visibility."""

_LATE = 0.02
"""Share of the trades that the API shows late: after 20 seconds to `LAG`, most others after a few."""

_WAVES = ((2 * DAY, 0.9), (6 * HOUR, 0.4), (HOUR, 0.15), (600, 0.05))
"""Periods in seconds and strengths of the swings of a pool's log price."""


class Fill(NamedTuple):
    """A trade as numbers: raw amounts in the token's smallest unit, `volume` in `UNIT`, prices in USD."""

    time: float
    visible_at: int
    buy: bool
    trader: int
    base_raw: int
    quote_raw: int
    base_usd: float
    quote_usd: float
    volume: int


def hour_of_fills(chance: Chance, life: Life, hour: int, stretches: Iterable[Stretch]) -> tuple[Fill, ...]:
    """Make the trades of one hour since the epoch, in order of time."""
    rng = chance.rng(f"{life.pool.address}/{hour}")
    made: list[Fill] = []
    minute, path, sol = -1, 0.0, 0
    for since, until, rate in stretches:
        count = poisson(rng, rate * (until - since) / HOUR)
        for time in sorted(since + (until - since) * rng.random() for _ in range(count)):
            if time // 60 != minute:
                minute = int(time // 60)
                path = life.price * math.exp(_swing(chance, life.pool.address, minute * 60))
                sol = sol_price(chance, minute * 60)
            made.append(_filled(rng, time, path, sol, life.crowd))
    return tuple(made)


def sol_price(chance: Chance, time: int) -> int:
    """Return the price of SOL in billionths of a dollar; like all paths of prices it moves once a minute."""
    minute = time // 60 * 60
    return round(118e9 * math.exp(0.05 * (2 * chance.wave("sol", minute, 6 * HOUR) - 1)))


def since_moment(fills: Sequence[Fill], moment: int) -> int:
    """Return the place of the first trade at or after a moment."""
    return bisect_left(fills, float(moment), key=lambda fill: fill.time)


def _swing(chance: Chance, address: str, time: int) -> float:
    """Return how far the log of a pool's price is from its middle."""
    return sum(strength * (2 * chance.wave(f"{address}/{period}", time, period) - 1) for period, strength in _WAVES)


def _filled(rng: random.Random, time: float, path: float, sol: int, crowd: int) -> Fill:
    """Make one trade near the price path; what it moves has a median of 60 USD and a long tail."""
    price = path * (1 + rng.gauss(0, 0.004))
    worth = math.exp(rng.gauss(4.1, 1.2))
    buy = rng.random() < 0.53
    base_raw = max(1, int(worth / price * 1e6))
    quote_raw = max(1, int(worth / sol * 1e18))
    if buy:
        volume = quote_raw * sol * 10**6
        base_usd = volume / (base_raw * 10**18)
    else:
        exact = max(1, round(price * 1e18))
        volume = base_raw * exact
        base_usd = exact / 10**18
    lag = min(LAG, 2 + int(-4 * math.log(1 - rng.random())))
    if rng.random() < _LATE:
        lag = rng.randint(20, LAG)
    trader = int(crowd * rng.random() ** 2)
    return Fill(time, int(time) + lag, buy, trader, base_raw, quote_raw, base_usd, sol / 10**9, volume)


def written(chance: Chance, address: str, fill: Fill) -> Trade:
    """Write a trade out; what it moved in USD is exactly amount times price, as in the API."""
    base, quote = _text(fill.base_raw, 6), _text(fill.quote_raw, 9)
    sol = _text(round(fill.quote_usd * 10**9), 9)
    if fill.buy:
        amounts = quote, base
        prices = sol, _text(fill.volume * 10**22 // fill.base_raw, 40)
    else:
        amounts = base, quote
        prices = _text(fill.volume // fill.base_raw, 18), sol
    return Trade(
        block_number=451_430_167 + int((fill.time - 1_790_628_304) * 2.583),
        block_time=int(fill.time),
        visible_at=fill.visible_at,
        tx_hash=chance.address(f"{address}/{fill.time!r}/{fill.trader}/{fill.base_raw}", 64),
        n=(20, 30, 40, 42, 50, 60)[fill.base_raw % 6],
        tx_from=chance.address(f"{address}/trader/{fill.trader}"),
        kind="buy" if fill.buy else "sell",
        from_amount=amounts[0],
        to_amount=amounts[1],
        price_from_usd=prices[0],
        price_to_usd=prices[1],
        volume_usd=_text(fill.volume, 24),
    )


def measure(fill: Fill, side: Side, currency: Currency) -> tuple[float, float]:
    """Return price and volume of one side's token: in USD the volume in `UNIT`, else in the other token."""
    own, other = (fill.base_usd, fill.quote_usd) if side == "base" else (fill.quote_usd, fill.base_usd)
    return (own, fill.volume) if currency == "usd" else (own / other, fill.volume / UNIT / other)


def _text(number: int, places: int) -> str:
    """Write a number of the `places`-th decimal as the API does: at least one decimal place, no zeros after it."""
    digits = str(number).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:].rstrip('0') or '0'}"
