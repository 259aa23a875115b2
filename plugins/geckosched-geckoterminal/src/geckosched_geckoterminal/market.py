"""Where the simulator's answers come from: the `Market` protocol, its values, and what markets share.

Times here are whole epoch seconds, as in the API's own trade ids and candles. Amounts and prices
that the API sends as text are text, without exponent. `SyntheticMarket` (synthetic.py) is made
from a seed, `ReplayMarket` (replay.py) from recorded rows. The simulator applies the API's rules
(300 trades, 24 hours, paging); a market only knows what exists and what can be seen at a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
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
    """What `included` and the `meta` of candles show of a token; `address` without prefix.

    `supply` is in whole tokens, None where it isn't known.
    """

    address: str
    name: str
    symbol: str
    decimals: int | None = None
    image_url: str | None = None
    coingecko_coin_id: str | None = None
    supply: int | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool as it stays for ever; what changes is in `Figures`.

    A pool of more than two tokens has `others`. Until `known_at` the attributes `unknown` of the base token are null
    where the API shows it beside its pool; asked for the token itself, it knows them.
    """

    network: str
    address: str
    name: str
    dex: str
    base: Token
    quote: Token
    created_at: int | None
    others: tuple[Token, ...] = ()
    unknown: tuple[str, ...] = ()
    known_at: int = 0

    @property
    def tokens(self) -> tuple[Token, ...]:
        return (self.base, self.quote, *self.others)


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

    @property
    def volume(self) -> float:
        return self.buy_volume + self.sell_volume


class Activity(NamedTuple):
    """Trades of a pool in a span before a moment, and their volume in USD."""

    trades: int
    volume: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What the API says of a pool at a moment; None is the API's null.

    `graduation` is how far, in percent, a launchpad's pool is from moving on; None for other pools.
    """

    windows: Mapping[str, Window]
    base_usd: str | None = None
    quote_usd: str | None = None
    base_native: str | None = None
    quote_native: str | None = None
    fdv_usd: str | None = None
    market_cap_usd: str | None = None
    reserve_usd: str | None = None
    locked_percentage: str | None = None
    graduation: float | None = None


class Market(Protocol):
    """What the simulator asks. Every method may be called from several threads at once."""

    @property
    def networks(self) -> Sequence[Network]:
        """All networks, in the API's fixed order."""

    def dexes(self, network: str) -> Sequence[Dex]:
        """The exchanges of a network, in the API's fixed order."""

    def pools(self, network: str, now: int) -> Mapping[str, Pool]:
        """Return the pools that lists may show at `now`, by address."""

    def pool(self, network: str, address: str, now: int) -> Pool | None:
        """Return the pool of an address, listed or not; None where there is none at `now`."""

    def searchable(self, network: str, now: int) -> Mapping[str, Pool]:
        """Return the pools that a search looks through: those of lists, and some that no list shows."""

    def token(self, network: str, address: str, now: int) -> Token | None:
        """Return the token of an address; None where no pool has it at `now`."""

    def pools_of(self, network: str, token: str, now: int) -> Sequence[Pool]:
        """Return the pools that have a token, whichever side it is on."""

    def activity(self, pool: Pool, now: int, span: int = WINDOWS["h24"]) -> Activity:
        """Return what lists of the busiest pools are sorted by; `span`, in seconds, is one of `WINDOWS`."""

    def at_most(self, pool: Pool) -> float:
        """Return a number of trades that no span of the pool's ever holds more of; infinity where that is open.

        It is cheap to tell, and spares lists of the busiest the look at all the pools that can't be among them.
        """

    def heat(self, pool: Pool, now: int, span: int) -> float:
        """Return about how many trades were to be expected in a span: what trending lists begin with."""

    def reserve(self, pool: Pool, now: int) -> str | None:
        """Return the pool's reserve in USD, as `figures` has it."""

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
# What both markets know of the world

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

BONDING = frozenset({"pump-fun", "raydium-launchlab"})
"""Launchpads: exchanges on whose pools a token stays until it graduates to another pool."""

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
    12_135_138,
)
