"""Where the simulator's answers come from: the `Market` protocol, its values, and a synthetic one.

Times here are whole epoch seconds, as in the API's own trade ids and candles. Amounts and prices
that the API sends as text are text, without exponent. `ReplayMarket` (replay.py) is the other
market. The simulator applies the API's rules (300 trades, 24 hours, paging); a market only knows
what exists and what can be seen at a moment.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import lru_cache
from hashlib import blake2b, shake_256
from typing import Literal, NamedTuple, Protocol

WINDOWS: Mapping[str, int] = {
    "m5": 300,
    "m15": 900,
    "m30": 1800,
    "h1": 3600,
    "h6": 6 * 3600,
    "h24": 24 * 3600,
}
"""The spans, in seconds, over which a pool's figures are given."""

SOL = "So11111111111111111111111111111111111111112"

Side = Literal["base", "quote"]
Currency = Literal["usd", "token"]


# ---------------------------------------------------------------------------------------------
# Values


@dataclass(frozen=True, slots=True)
class Network:
    """A chain: `id` as in paths ("solana", "polygon_pos")."""

    id: str
    name: str
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class Dex:
    """An exchange of one network; its id is not prefixed by the network."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Token:
    """What `included` and the `meta` of candles show of a token; `address` without prefix."""

    address: str
    name: str
    symbol: str
    decimals: int | None = None
    image_url: str | None = None
    coingecko_coin_id: str | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool as it stays for ever; what changes is in `Figures`."""

    network: str
    address: str
    name: str
    dex: str
    base: Token
    quote: Token
    created_at: int | None


@dataclass(frozen=True, slots=True)
class Trade:
    """One trade. `kind` is the base token's view; `visible_at` is when the API first shows it."""

    block_number: int
    block_time: int
    visible_at: int
    tx_hash: str
    n: int
    tx_from: str
    kind: Literal["buy", "sell"]
    from_amount: str
    to_amount: str
    price_from_usd: str
    price_to_usd: str
    volume_usd: str


class Candle(NamedTuple):
    """One OHLCV row in the API's order; `ts` is the open time."""

    ts: int
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True, slots=True)
class Window:
    """A pool's activity over one of `WINDOWS`; volumes in USD, `change` in percent."""

    buys: int = 0
    sells: int = 0
    buyers: int = 0
    sellers: int = 0
    buy_volume: float = 0.0
    sell_volume: float = 0.0
    change: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What the API says of a pool at a moment; None is the API's null."""

    windows: Mapping[str, Window]
    base_usd: str | None = None
    quote_usd: str | None = None
    base_native: str | None = None
    quote_native: str | None = None
    fdv_usd: str | None = None
    market_cap_usd: str | None = None
    reserve_usd: str | None = None
    locked_percentage: str | None = None


class Market(Protocol):
    """What the simulator asks. Every method may be called from several threads at once."""

    @property
    def networks(self) -> Sequence[Network]:
        """All networks, in the API's fixed order."""

    def dexes(self, network: str) -> Sequence[Dex]:
        """The exchanges of a network, in the API's fixed order."""

    def pools(self, network: str, now: int) -> Mapping[str, Pool]:
        """Return the pools that exist at `now`, by address."""

    def figures(self, pool: Pool, now: int) -> Figures:
        """Return what can be said of the pool at `now`."""

    def trades(self, pool: Pool, now: int, above: float = 0.0) -> Iterator[Trade]:
        """Yield the trades visible at `now` whose volume in USD exceeds `above`, newest first.

        With `above` 0 every trade is meant, also one that moved nothing.
        """

    def candles(
        self,
        pool: Pool,
        step: int,
        since: int,
        until: int,
        now: int,
        side: Side = "base",
        currency: Currency = "usd",
    ) -> Iterator[Candle]:
        """Yield the candles of `step` seconds with `since <= ts < until`, newest first.

        They are those of a reader at `now`; there is none for a step without a trade. The one
        that `until` falls into is whole.
        """


# ---------------------------------------------------------------------------------------------
# Decimal text

_DIGITS = Context(prec=60)
_SHORT = Context(prec=15)


def plain(number: Decimal | float | str) -> str:
    """Return a number as the API writes it: decimal, no exponent, at least one decimal place."""
    text = f"{Decimal(repr(number) if isinstance(number, float) else number):f}"
    return text if "." in text else text + ".0"


def quotient(above: str, below: str) -> str | None:
    """Return `above / below` to 15 digits as the API writes it; None where that says nothing."""
    divisor = Decimal(below)
    return plain(_SHORT.divide(Decimal(above), divisor).normalize()) if divisor else None


# ---------------------------------------------------------------------------------------------
# Candles


class Bar(NamedTuple):
    """What one step of a series saw, before it is chained to the step before."""

    ts: int
    first: float
    high: float
    low: float
    close: float
    volume: float


def bars(points: Iterable[tuple[float, float, float]], step: int) -> list[Bar]:
    """Group (time, price, volume) in order of time into bars of `step` seconds, oldest first."""
    made: list[Bar] = []
    for time, price, volume in points:
        ts = int(time) // step * step
        if made and made[-1].ts == ts:
            made[-1] = joined(made[-1], Bar(ts, price, price, price, price, volume))
        else:
            made.append(Bar(ts, price, price, price, price, volume))
    return made


def joined(older: Bar, newer: Bar) -> Bar:
    """Return the bar that covers both."""
    return Bar(
        older.ts,
        older.first,
        max(older.high, newer.high),
        min(older.low, newer.low),
        newer.close,
        older.volume + newer.volume,
    )


def chained(newest_first: Iterable[Bar]) -> Iterator[Candle]:
    """Turn bars into candles that open at the close before them, as the API's do since 2025."""
    newer: Bar | None = None
    for bar in newest_first:
        if newer is not None:
            yield _candle(newer, bar.close)
        newer = bar
    if newer is not None:
        yield _candle(newer, newer.first)


def _candle(bar: Bar, opened: float) -> Candle:
    high, low = max(bar.high, opened), min(bar.low, opened)
    return Candle(bar.ts, opened, high, low, bar.close, bar.volume)


# ---------------------------------------------------------------------------------------------
# The synthetic market

RATES = (
    *(0.0, 0.0, 0.4, 0.9, 1.4, 1.9, 4.2, 6.8, 7.1, 8.5, 15.6, 19.2, 19.2, 20.0, 20.9, 21.8),
    *(22.4, 31.8, 32.6, 44.8, 59.0, 83.0, 108.0, 143.0, 164.0, 309.0, 1586.0),
)
"""Real trades per hour of 27 watched Solana pools on 2025-09-10: the shape of the market."""

_HOUR, _DAY = 3600, 86400
_LAG = 30
"""The longest time in seconds from a block to its trades' visibility."""
_SURGE_EVERY, _SURGE_FOR, _SURGE_RATE = 20, 3, 400.0
"""The hottest pool: out of 20 minutes 3 with about 400 trades each, more than one answer holds."""
_SUPPLY = 1_000_000_000
_WAVES = ((2 * _DAY, 0.9), (6 * _HOUR, 0.4), (_HOUR, 0.15), (600, 0.05))
"""Periods in seconds and strengths of the swings of a pool's log price."""
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

SOLANA_DEXES = (
    Dex("raydium", "Raydium"),
    Dex("orca", "Orca"),
    Dex("raydium-clmm", "Raydium (CLMM)"),
    Dex("meteora", "Meteora"),
    Dex("pumpswap", "PumpSwap"),
    Dex("meteora-damm-v2", "Meteora DAMM V2"),
    Dex("raydium-launchlab", "Raydium Launchlab"),
    Dex("pump-fun", "Pump.fun"),
    Dex("heaven", "Heaven"),
)

NETWORKS = (
    Network("eth", "Ethereum", "ethereum"),
    Network("bsc", "BNB Chain", "binance-smart-chain"),
    Network("polygon_pos", "Polygon POS", "polygon-pos"),
    Network("avax", "Avalanche", "avalanche"),
    Network("arbitrum", "Arbitrum", "arbitrum-one"),
    Network("optimism", "Optimism", "optimistic-ethereum"),
    Network("base", "Base", "base"),
    *(Network(f"simulated-{k}", f"Simulated {k}") for k in range(1, 200)),
    Network("solana", "Solana", "solana"),
    Network("sui-network", "Sui Network", "sui"),
    Network("ton", "TON", "the-open-network"),
)
"""Enough for three pages of 100, as the API has; Solana is on the last."""

WRAPPED_SOL = Token(
    SOL,
    "Wrapped SOL",
    "SOL",
    9,
    "https://coin-images.coingecko.com/coins/images/21629/large/solana.jpg?1696520989",
    "wrapped-solana",
)


class _Fill(NamedTuple):
    """A trade as numbers: raw amounts are in the token's smallest unit, prices in USD."""

    time: float
    visible_at: int
    buy: bool
    trader: int
    base_raw: int
    quote_raw: int
    base_usd: float
    quote_usd: float
    volume: float


class _Tally(NamedTuple):
    """What a stretch of trades adds up to; the price before it is not its business."""

    buys: int
    sells: int
    buyers: frozenset[int]
    sellers: frozenset[int]
    buy_volume: float
    sell_volume: float


_NOTHING = _Tally(0, 0, frozenset(), frozenset(), 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Nature:
    """What makes a synthetic pool what it is."""

    rate: float
    surges: bool
    price: float
    reserve: float
    crowd: int


class SyntheticMarket:
    """A small market of SOL pools on two exchanges of one network, made from a seed.

    Everything is a function of (seed, pool, time) and made when asked for, an hour of a pool at
    a time, so that any moment can be asked in any order. `born` is the moment, in epoch seconds,
    that the pools' ages count from: the quiet ones are months old, the hottest an hour or two.
    Rates follow `RATES`; the hottest pool surges over what one answer of the API can hold.
    Prices swing around a path that is a function of time; candles are made from the trades.
    """

    def __init__(self, seed: int = 0, pools: int = 12, *, born: int, network: str = "solana") -> None:
        if pools < 1:
            raise ValueError(f"pools: {pools} found, at least 1 allowed")
        self.seed = seed
        self.network = network
        self.networks: Sequence[Network] = NETWORKS
        self._pools: dict[str, Pool] = {}
        self._natures: dict[str, _Nature] = {}
        for rank in range(pools):
            self._add(rank, pools, born)
        self._fills = lru_cache(maxsize=1024)(self._made_fills)
        self._tally = lru_cache(maxsize=65536)(self._hour_tally)
        self._bar = lru_cache(maxsize=65536)(self._hour_bar)
        self._node = lru_cache(maxsize=65536)(self._unit)

    def dexes(self, network: str) -> Sequence[Dex]:
        """Return the exchanges; only those of the market's own network are known."""
        return SOLANA_DEXES if network == self.network else ()

    def pools(self, network: str, now: int) -> Mapping[str, Pool]:
        """Return the pools born by `now`, by address."""
        if network != self.network:
            return {}
        return {a: p for a, p in self._pools.items() if p.created_at and p.created_at <= now}

    def figures(self, pool: Pool, now: int) -> Figures:
        """Add up the visible trades of each window; reserve and FDV follow the price."""
        nature = self._natures[pool.address]
        last = next(self._seen(pool, now), None)
        base_usd = last.base_usd if last else nature.price
        quote_usd = last.quote_usd if last else self._sol(now)
        base, quote = plain(base_usd), plain(quote_usd)
        return Figures(
            windows={name: self._window(pool, now, span) for name, span in WINDOWS.items()},
            base_usd=base,
            quote_usd=quote,
            base_native=quotient(base, quote),
            quote_native="1.0",
            fdv_usd=f"{base_usd * _SUPPLY:.6f}",
            reserve_usd=f"{nature.reserve * math.sqrt(base_usd / nature.price):.4f}",
            locked_percentage="100.0" if pool.dex == "pumpswap" else None,
        )

    def trades(self, pool: Pool, now: int, above: float = 0.0) -> Iterator[Trade]:
        """Yield what `Market.trades` says, hour by hour back to the pool's birth."""
        for fill in self._seen(pool, now):
            if fill.volume > above or above <= 0:
                yield self._trade(pool, fill)

    def candles(
        self,
        pool: Pool,
        step: int,
        since: int,
        until: int,
        now: int,
        side: Side = "base",
        currency: Currency = "usd",
    ) -> Iterator[Candle]:
        """Yield what `Market.candles` says, made from the visible trades."""
        end = min(-(-until // step), now // step + 1) * step
        for candle in chained(self._bars(pool, step, end, now, side, currency)):
            if candle.ts < since:
                return
            yield candle

    # -- pools

    def _add(self, rank: int, pools: int, born: int) -> None:
        """Make the pool of one rank; rank 0 is the hottest."""
        rng = random.Random(f"{self.seed}/pool/{rank}")
        share = rank / (pools - 1) if pools > 1 else 0.0
        rate = RATES[round((1 - share) * (len(RATES) - 1))]
        age = min(150 * _DAY, 8000 / max(rate, 1) * _HOUR) if rank else 2 * _HOUR
        symbol = "".join(rng.choices("ABCDEFGHIKLMNOPRSTUVWXY", k=rng.randint(3, 6)))
        base = Token(
            self._base58(f"token/{rank}", 32),
            symbol.title(),
            symbol,
            6,
            f"https://assets.geckoterminal.com/simulated/{symbol.lower()}",
        )
        pool = Pool(
            self.network,
            self._base58(f"pool/{rank}", 32),
            f"{symbol} / SOL",
            ("pumpswap", "raydium")[rank % 2],
            base,
            WRAPPED_SOL,
            born - int(age * rng.uniform(0.5, 1.0)) - 60,
        )
        self._pools[pool.address] = pool
        self._natures[pool.address] = _Nature(
            rate,
            surges=rank == 0,
            price=10 ** rng.uniform(-6, -3),
            reserve=10 ** rng.uniform(3.5, 5.5),
            crowd=40 + int(rate),
        )

    # -- trades

    def _made_fills(self, address: str, hour: int) -> tuple[_Fill, ...]:
        """Make the trades of one hour since the epoch, in order of time."""
        pool, nature = self._pools[address], self._natures[address]
        born = pool.created_at or 0
        rng = random.Random(f"{self.seed}/{address}/{hour}")
        span = 60 if nature.surges else _HOUR
        made: list[_Fill] = []
        for start in range(hour * _HOUR, hour * _HOUR + _HOUR, span):
            count = _poisson(rng, self._mean(pool, nature, start, span))
            for time in sorted(start + span * rng.random() for _ in range(count)):
                path = nature.price * math.exp(self._swing(pool, time))
                fill = _filled(rng, time, path, self._sol(int(time) // 60 * 60), nature.crowd)
                if time >= born:
                    made.append(fill)
        return tuple(made)

    def _mean(self, pool: Pool, nature: _Nature, start: int, span: int) -> float:
        """Return how many trades are to be expected in `span` seconds from `start`."""
        if nature.surges and (start // 60 + self.seed) % _SURGE_EVERY < _SURGE_FOR:
            return _SURGE_RATE * span / 60
        return nature.rate * span / _HOUR * (0.5 + self._wave(pool.address, "mood", start, _DAY))

    def _seen(self, pool: Pool, now: int) -> Iterator[_Fill]:
        """Yield the trades visible at `now`, newest first."""
        for hour in range(now // _HOUR, (pool.created_at or 0) // _HOUR - 1, -1):
            settled = (hour + 1) * _HOUR + _LAG <= now
            if settled and self._quiet(pool.address, hour):
                continue
            for fill in reversed(self._fills(pool.address, hour)):
                if settled or fill.visible_at <= now:
                    yield fill

    def _trade(self, pool: Pool, fill: _Fill) -> Trade:
        """Write a trade out; what it moved in USD is exactly amount times price, as in the API."""
        base = Decimal(fill.base_raw).scaleb(-6)
        quote = Decimal(fill.quote_raw).scaleb(-9)
        given, taken = (quote, base) if fill.buy else (base, quote)
        price_given = Decimal(repr(fill.quote_usd if fill.buy else fill.base_usd))
        volume = _DIGITS.multiply(given, price_given)
        price_taken = _DIGITS.divide(volume, taken) if fill.buy else Decimal(repr(fill.quote_usd))
        key = f"{pool.address}/{fill.time!r}/{fill.trader}/{fill.base_raw}"
        return Trade(
            block_number=451_430_167 + int((fill.time - 1_790_628_304) * 2.583),
            block_time=int(fill.time),
            visible_at=fill.visible_at,
            tx_hash=self._base58(key, 64),
            n=(20, 30, 40, 42, 50, 60)[fill.base_raw % 6],
            tx_from=self._base58(f"{pool.address}/trader/{fill.trader}", 32),
            kind="buy" if fill.buy else "sell",
            from_amount=plain(given),
            to_amount=plain(taken),
            price_from_usd=plain(price_given),
            price_to_usd=plain(price_taken),
            volume_usd=plain(volume),
        )

    # -- sums

    def _hour_tally(self, address: str, hour: int) -> _Tally:
        return _tallied(self._fills(address, hour))

    def _quiet(self, address: str, hour: int) -> bool:
        """Tell whether nothing happened in an hour; quiet pools have months of such hours."""
        return self._tally(address, hour) == _NOTHING

    def _window(self, pool: Pool, now: int, span: int) -> Window:
        """Add up (now - span, now]: whole settled hours from their sums, the edges by trade."""
        since = now - span
        parts: list[_Tally] = []
        for hour in range(now // _HOUR, max(since, pool.created_at or 0) // _HOUR - 1, -1):
            if hour * _HOUR > since and (hour + 1) * _HOUR + _LAG <= now:
                parts.append(self._tally(pool.address, hour))
                continue
            fills = self._fills(pool.address, hour)
            cut = bisect_left(fills, float(since + 1), key=lambda fill: fill.time)
            parts.append(_tallied([fill for fill in fills[cut:] if fill.visible_at <= now]))
        buyers: set[int] = set().union(*(part.buyers for part in parts))
        sellers: set[int] = set().union(*(part.sellers for part in parts))
        return Window(
            buys=sum(part.buys for part in parts),
            sells=sum(part.sells for part in parts),
            buyers=len(buyers),
            sellers=len(sellers),
            buy_volume=math.fsum(part.buy_volume for part in parts),
            sell_volume=math.fsum(part.sell_volume for part in parts),
            change=self._change(pool, now, since) if buyers or sellers else 0.0,
        )

    def _change(self, pool: Pool, now: int, since: int) -> float:
        """Percent since the last price before the window, or since the first one ever."""
        older = next(self._seen(pool, since), None)
        before = older.base_usd if older else self._first_price(pool, now)
        return (next(self._seen(pool, now)).base_usd / before - 1) * 100

    def _first_price(self, pool: Pool, now: int) -> float:
        for hour in range((pool.created_at or 0) // _HOUR, now // _HOUR + 1):
            if fills := self._fills(pool.address, hour):
                return fills[0].base_usd
        return self._natures[pool.address].price

    # -- candles

    def _hour_bar(self, address: str, hour: int) -> Bar:
        fills = self._fills(address, hour)
        return bars(((fill.time, fill.base_usd, fill.volume) for fill in fills), _HOUR)[0]

    def _bars(self, pool: Pool, step: int, end: int, now: int, side: Side, currency: Currency) -> Iterator[Bar]:
        """Yield the bars before `end`, newest first; longer than an hour they are joined hours."""
        pending: Bar | None = None
        for bar in self._short_bars(pool, min(step, _HOUR), end, now, side, currency):
            ts = bar.ts // step * step
            aligned = bar._replace(ts=ts)
            if pending is not None and pending.ts == ts:
                pending = joined(aligned, pending)
                continue
            if pending is not None:
                yield pending
            pending = aligned
        if pending is not None:
            yield pending

    def _short_bars(self, pool: Pool, step: int, end: int, now: int, side: Side, currency: Currency) -> Iterator[Bar]:
        """Yield the bars of at most an hour before `end`, newest first."""
        plain_hours = step == _HOUR and side == "base" and currency == "usd"
        for hour in range((end - 1) // _HOUR, (pool.created_at or 0) // _HOUR - 1, -1):
            settled = (hour + 1) * _HOUR + _LAG <= now
            if settled and self._quiet(pool.address, hour):
                continue
            if plain_hours and settled and (hour + 1) * _HOUR <= end:
                yield self._bar(pool.address, hour)
                continue
            fills = self._fills(pool.address, hour)
            fills = fills[: bisect_left(fills, float(end), key=lambda fill: fill.time)]
            seen = (f for f in fills if settled or f.visible_at <= now)
            yield from reversed(bars(((f.time, *_measure(f, side, currency)) for f in seen), step))

    # -- chance

    def _unit(self, address: str, label: str, node: int) -> float:
        """Return a number in [0, 1) that belongs to this node of this wave."""
        key = f"{self.seed}/{address}/{label}/{node}".encode()
        return int.from_bytes(blake2b(key, digest_size=8).digest()) / 2**64

    def _wave(self, address: str, label: str, time: float, period: int) -> float:
        """Return a smooth wave in [0, 1): random heights, one per period, joined by curves."""
        node, rest = int(time // period), time % period
        share = rest / period
        share = share * share * (3 - 2 * share)
        left, right = self._node(address, label, node), self._node(address, label, node + 1)
        return left + (right - left) * share

    def _swing(self, pool: Pool, time: float) -> float:
        """Return how far the log of the pool's price is from its middle."""
        return sum(
            strength * (2 * self._wave(pool.address, str(period), time, period) - 1) for period, strength in _WAVES
        )

    def _sol(self, time: int) -> float:
        """Return the price of SOL in USD."""
        return round(118 * math.exp(0.05 * (2 * self._wave("", "sol", time, 6 * _HOUR) - 1)), 9)

    def _base58(self, label: str, size: int) -> str:
        """Return an address (32 bytes) or a transaction's hash (64 bytes) of this label."""
        number = int.from_bytes(shake_256(f"{self.seed}/{label}".encode()).digest(size))
        letters: list[str] = []
        while number:
            number, rest = divmod(number, 58)
            letters.append(_ALPHABET[rest])
        return "".join(reversed(letters))


def _filled(rng: random.Random, time: float, path: float, sol: float, crowd: int) -> _Fill:
    """Make one trade near the price path; what it moves has a median of 60 USD and a long tail."""
    price = path * (1 + rng.gauss(0, 0.004))
    worth = rng.lognormvariate(4.1, 1.2)
    buy = rng.random() < 0.53
    base_raw = max(1, int(worth / price * 1e6))
    quote_raw = max(1, int(worth / sol * 1e9))
    if buy:
        volume = quote_raw / 1e9 * sol
        price = volume / (base_raw / 1e6)
    else:
        volume = base_raw / 1e6 * price
    visible_at = int(time) + min(_LAG, 2 + int(rng.expovariate(0.25)))
    trader = int(crowd * rng.random() ** 2)
    return _Fill(time, visible_at, buy, trader, base_raw, quote_raw, price, sol, volume)


def _tallied(fills: Sequence[_Fill]) -> _Tally:
    buys = [fill for fill in fills if fill.buy]
    sells = [fill for fill in fills if not fill.buy]
    return _Tally(
        len(buys),
        len(sells),
        frozenset(fill.trader for fill in buys),
        frozenset(fill.trader for fill in sells),
        math.fsum(fill.volume for fill in buys),
        math.fsum(fill.volume for fill in sells),
    )


def _measure(fill: _Fill, side: Side, currency: Currency) -> tuple[float, float]:
    """Return price and volume of one side's token, in USD or in the other side's token."""
    own, other = (fill.base_usd, fill.quote_usd) if side == "base" else (fill.quote_usd, fill.base_usd)
    return (own, fill.volume) if currency == "usd" else (own / other, fill.volume / other)


def _poisson(rng: random.Random, mean: float) -> int:
    """Draw a count; large means by the normal approximation."""
    if mean > 30:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        count += 1
        product *= rng.random()
    return count
