"""`ReplayMarket`: recorded rows played back from a folder of database dumps.

The files are those of `samples/series` (the collector that this plugin replaces): JSON lists of
rows, gzipped, one per table. What they lack is rebuilt:

- the wall reading of `block_timestamp`, `pool_created_at` and `collected_at` is UTC, whatever
  offset stands behind it; a trade becomes visible at the last field of its id;
- `price_from_in_usd` is `price_usd` (the price of the token that was paid with), and
  `price_to_in_usd` is `volume_usd / to_token_amount`; volumes stay as recorded, to the cent;
- a pool without token addresses gets placeholders, `base` and `quote` before its own address;
  symbols come from the pool's name;
- a pool whose row came from a watchlist, not from the API (its address bears a prefix), has an
  unknown birth and is there from the beginning;
- windows of activity are counted from the recorded trades; a pool without any shows the one
  snapshot that was recorded of it (windows under an hour like the hour), whatever the time;
- candles are the recorded ones once they are over. The running candle is made of the recorded
  trades visible so far; without any there is none. Candles in other units than the base token in
  USD are made of trades altogether.
"""

from __future__ import annotations

import gzip
import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from .market import (
    NETWORKS,
    SOL,
    SOLANA_DEXES,
    WINDOWS,
    WRAPPED_SOL,
    Activity,
    Bar,
    Candle,
    Currency,
    Dex,
    Figures,
    Network,
    Pool,
    Side,
    Token,
    Trade,
    Window,
    bars,
    chained,
    plain,
    quotient,
)

Row = dict[str, Any]

_STEPS = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "4h": 14400, "12h": 43200, "1d": 86400}
_DAY = 86400


@dataclass(frozen=True, slots=True)
class _Print:
    """A recorded trade and what is counted of it: prices of both tokens in USD."""

    trade: Trade
    base_usd: float
    quote_usd: float
    volume: float


class ReplayMarket:
    """The market of one network as a folder of recorded rows knew it.

    `folder` holds `trades_data*.json.gz`, `ohlcv_data*.json.gz`, `pools_data*.json.gz`,
    `tokens_data*.json.gz` and `new_pools_history*.json.gz`; a missing file is an empty one.
    `begins` is the moment, in epoch seconds, when the first trade became visible (without trades
    the first candle's or pool's), a good start for the clock.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder to replay")
        trades, candles = _rows(folder, "trades_data"), _rows(folder, "ohlcv_data")
        pools, tokens = _rows(folder, "pools_data"), _rows(folder, "tokens_data")
        history = _rows(folder, "new_pools_history")
        if not (trades or candles or pools or history):
            raise FileNotFoundError(f"{folder}: holds no *_data*.json.gz to replay")
        self.network = _network(trades, tokens, history)
        known = {network.id for network in NETWORKS}
        extra = () if self.network in known else (Network(self.network, self.network.title()),)
        self.networks: Sequence[Network] = (*NETWORKS, *extra)
        self._snapshots = {self._bare(row["pool_id"]): row for row in history}
        self._pools = self._read_pools(pools, history, tokens)
        self._prints = self._read_trades(trades)
        self._candles = self._read_candles(candles)
        for address in (*self._prints, *(address for address, _ in self._candles)):
            self._pools.setdefault(address, self._pool(address, {}, {}))
        self._dexes = self._read_dexes()
        self.begins = self._first_moment()

    def dexes(self, network: str) -> Sequence[Dex]:
        """Return the exchanges that Solana is known to have, and those of the files."""
        return self._dexes if network == self.network else ()

    def pools(self, network: str, now: int) -> Mapping[str, Pool]:
        """Return the pools created by `now`, and those whose birth is unknown."""
        if network != self.network:
            return {}
        return {a: p for a, p in self._pools.items() if (p.created_at or 0) <= now}

    def pool(self, network: str, address: str, now: int) -> Pool | None:
        """Return the pool of an address, once it is created."""
        return self.pools(network, now).get(address)

    def searchable(self, network: str, now: int) -> Mapping[str, Pool]:
        """Return all pools that exist; each is in a list too."""
        return self.pools(network, now)

    def token(self, network: str, address: str, now: int) -> Token | None:
        """Return a token as the files or the pools' names tell it."""
        known = (token for pool in self.pools_of(network, address, now) for token in pool.tokens)
        return next((token for token in known if token.address == address), None)

    def pools_of(self, network: str, token: str, now: int) -> Sequence[Pool]:
        """Return the recorded pools that have a token."""
        pools = self.pools(network, now).values()
        return tuple(pool for pool in pools if token in (pool.base.address, pool.quote.address))

    def activity(self, pool: Pool, now: int, span: int = WINDOWS["h24"]) -> Activity:
        """Return a window of the pool's figures."""
        name = next(name for name, seconds in WINDOWS.items() if seconds == span)
        window = self._windows(pool, now, {name: span})[name]
        return Activity(window.buys + window.sells, window.volume)

    def at_most(self, pool: Pool) -> float:
        """Return how many trades were recorded, or told of."""
        if pool.address in self._prints:
            return len(self._prints[pool.address])
        day = _recorded_windows(self._snapshots.get(pool.address, {}))["h24"]
        return day.buys + day.sells

    def heat(self, pool: Pool, now: int, span: int) -> float:
        """Return how many trades there were."""
        return self.activity(pool, now, span).trades

    def reserve(self, pool: Pool, now: int) -> str | None:
        """Return the one that was recorded, from the pool's birth on."""
        row = self._snapshots.get(pool.address, {}) if (pool.created_at or 0) <= now else {}
        return _text(row, "reserve_in_usd")

    def figures(self, pool: Pool, now: int) -> Figures:
        """Count the recorded trades; a pool that has none shows its recorded snapshot."""
        row = self._snapshots.get(pool.address, {})
        windows = self._windows(pool, now, WINDOWS)
        if pool.address in self._prints:
            latest = next(self._seen(pool, now), None)
            base = plain(latest.base_usd) if latest else None
            quote = plain(latest.quote_usd) if latest else None
        else:
            base, quote = _text(row, "base_token_price_usd"), _text(row, "quote_token_price_usd")
        closed = next(self.candles(pool, 60, now - _DAY, now, now), None) if not base else None
        if closed is not None:
            base = plain(closed.close)
        native = pool.quote.address == SOL and base and quote
        return Figures(
            windows=windows,
            base_usd=base,
            quote_usd=quote,
            base_native=quotient(base, quote) if native and base and quote else None,
            quote_native="1.0" if native else None,
            fdv_usd=_text(row, "fdv_usd"),
            market_cap_usd=_text(row, "market_cap_usd"),
            reserve_usd=self.reserve(pool, now),
        )

    def trades(self, pool: Pool, now: int, above: float = 0.0) -> Iterator[Trade]:
        """Yield what `Market.trades` says, from the file."""
        for known in self._seen(pool, now):
            if known.volume > above or above <= 0:
                yield known.trade

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
        """Yield the recorded candles that are over, after the running one made of trades."""
        running = now // step * step
        if side == "base" and currency == "usd":
            recorded = self._candles.get((pool.address, step), [])
            past = recorded[
                bisect_left(recorded, since, key=lambda candle: candle.ts) : bisect_left(
                    recorded, min(until, running), key=lambda candle: candle.ts
                )
            ]
            bar = self._running(pool, step, running, now) if since <= running < until else None
            if bar is not None:
                opened = past[-1].close if past else bar.first
                high, low = max(bar.high, opened), min(bar.low, opened)
                yield Candle(bar.ts, opened, high, low, bar.close, bar.volume)
            yield from reversed(past)
            return
        first, end = -(-since // step) * step, -(-until // step) * step
        seen = [p for p in self._seen(pool, now) if first <= p.trade.block_time < end]
        yield from chained(reversed(bars((_point(p, side, currency) for p in seen[::-1]), step)))

    # -- counting

    def _seen(self, pool: Pool, now: int) -> Iterator[_Print]:
        """Yield the trades visible at `now`, newest block first."""
        prints = self._prints.get(pool.address, [])
        end = bisect_right(prints, now, key=lambda known: known.trade.block_time)
        return (known for known in reversed(prints[:end]) if known.trade.visible_at <= now)

    def _windows(self, pool: Pool, now: int, spans: Mapping[str, int]) -> Mapping[str, Window]:
        if pool.address not in self._prints:
            return _recorded_windows(self._snapshots.get(pool.address, {}))
        return {name: self._window(pool, now, span) for name, span in spans.items()}

    def _window(self, pool: Pool, now: int, span: int) -> Window:
        inside = list(takewhile(lambda p: p.trade.block_time > now - span, self._seen(pool, now)))
        if not inside:
            return Window()
        older = next(self._seen(pool, now - span), inside[-1])
        buys = [known for known in inside if known.trade.kind == "buy"]
        sells = [known for known in inside if known.trade.kind == "sell"]
        return Window(
            buys=len(buys),
            sells=len(sells),
            buyers=len({known.trade.tx_from for known in buys}),
            sellers=len({known.trade.tx_from for known in sells}),
            buy_volume=sum(known.volume for known in buys),
            sell_volume=sum(known.volume for known in sells),
            change=(inside[0].base_usd / older.base_usd - 1) * 100,
        )

    def _running(self, pool: Pool, step: int, ts: int, now: int) -> Bar | None:
        """Return what the visible trades since `ts` make, if there are any."""
        inside = list(takewhile(lambda p: p.trade.block_time >= ts, self._seen(pool, now)))
        made = bars((_point(known, "base", "usd") for known in reversed(inside)), step)
        return made[0] if made else None

    # -- reading

    def _bare(self, text: str) -> str:
        """Return an address without the network's prefix, however often it stands before it."""
        while text.startswith(f"{self.network}_"):
            text = text.removeprefix(f"{self.network}_")
        return text

    def _read_pools(self, pools: list[Row], history: list[Row], tokens: list[Row]) -> dict[str, Pool]:
        named = {self._bare(row["id"]): row for row in tokens}
        read: dict[str, Pool] = {}
        for row in history:
            address = self._bare(row["pool_id"])
            read[address] = self._pool(address, row, named, row["pool_created_at"])
        for row in pools:
            address = self._bare(row["id"])
            if address not in read:
                of_api = row["address"] == address
                created = row["created_at"] if of_api else None
                read[address] = self._pool(address, row, named, created)
        return read

    def _pool(self, address: str, row: Row, tokens: Mapping[str, Row], created: str | None = None) -> Pool:
        symbols = (row.get("name") or "").partition(" / ")
        base = self._token(row.get("base_token_id") or f"base{address}", symbols[0], tokens)
        quote = self._token(row.get("quote_token_id") or f"quote{address}", symbols[2], tokens)
        return Pool(
            network=self.network,
            address=address,
            name=row.get("name") or f"{base.symbol} / {quote.symbol}",
            dex=self._bare(row.get("dex_id") or "unknown"),
            base=base,
            quote=quote,
            created_at=_wall(created) if created else None,
        )

    def _token(self, address: str, symbol: str, tokens: Mapping[str, Row]) -> Token:
        """Name a token by its pool; the file's own names are mostly made up from the address."""
        address = self._bare(address)
        if address == SOL:
            return WRAPPED_SOL
        row = tokens.get(address, {})
        if symbol and str(row.get("name", "Token ")).startswith("Token "):
            return Token(address, symbol, symbol, row.get("decimals"))
        name, symbol = row.get("name") or address[:8], row.get("symbol") or address[:8]
        return Token(address, name, symbol, row.get("decimals"))

    def _read_trades(self, rows: list[Row]) -> dict[str, list[_Print]]:
        read: defaultdict[str, list[_Print]] = defaultdict(list)
        for row in rows:
            read[self._bare(row["pool_id"])].append(_printed(row))
        for prints in read.values():
            prints.sort(key=lambda known: (known.trade.block_time, known.trade.block_number))
        return dict(read)

    def _read_candles(self, rows: list[Row]) -> dict[tuple[str, int], list[Candle]]:
        """Read candles by (pool, step), oldest first; of equal times the later row wins."""
        read: defaultdict[tuple[str, int], dict[int, Candle]] = defaultdict(dict)
        for row in rows:
            key = self._bare(row["pool_id"]), _STEPS[row["timeframe"]]
            read[key][row["timestamp"]] = Candle(
                ts=row["timestamp"],
                open=float(row["open_price"]),
                high=float(row["high_price"]),
                low=float(row["low_price"]),
                close=float(row["close_price"]),
                volume=float(row["volume_usd"]),
            )
        return {key: sorted(found.values()) for key, found in read.items()}

    def _read_dexes(self) -> tuple[Dex, ...]:
        known = {dex.id: dex for dex in (SOLANA_DEXES if self.network == "solana" else ())}
        for pool in self._pools.values():
            known.setdefault(pool.dex, Dex(pool.dex, pool.dex.replace("-", " ").title()))
        return tuple(known.values())

    def _first_moment(self) -> int:
        shown = [known.trade.visible_at for prints in self._prints.values() for known in prints]
        opened = [candles[0].ts for candles in self._candles.values()]
        born = [pool.created_at for pool in self._pools.values() if pool.created_at]
        return min(shown or opened or born, default=0)


def _rows(folder: Path, table: str) -> list[Row]:
    """Read the rows of every dump of one table; the folder may hold none."""
    found: list[Row] = []
    for file in sorted(folder.glob(f"{table}*.json.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as text:
            found += json.load(text)
    return found


def _network(trades: list[Row], tokens: list[Row], history: list[Row]) -> str:
    """Return the one network that a folder is of; ids alone don't tell, as names hold `_` too."""
    for row in history:
        return str(row["network_id"])
    for row in tokens:
        return str(row["network"])
    for row in trades:
        return str(row["id"]).rsplit("_", 4)[0]
    return "solana"


def _wall(text: str) -> int:
    """Return the epoch second of a wall reading that is UTC, whatever offset it claims."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def _text(row: Row, name: str) -> str | None:
    value = row.get(name)
    return None if value is None else plain(value)


def _printed(row: Row) -> _Print:
    """Read one row of trades; `price_usd` is the price of the token that was paid with."""
    _, number, tx_hash, n, shown = row["id"].rsplit("_", 4)
    buy = row["side"] == "buy"
    paid, got = row["price_usd"], quotient(row["volume_usd"], row["to_token_amount"]) or "0.0"
    trade = Trade(
        block_number=int(number),
        block_time=_wall(row["block_timestamp"]),
        visible_at=int(shown),
        tx_hash=tx_hash,
        n=int(n),
        tx_from=row["tx_from_address"],
        kind="buy" if buy else "sell",
        from_amount=plain(row["from_token_amount"]),
        to_amount=plain(row["to_token_amount"]),
        price_from_usd=plain(paid),
        price_to_usd=got,
        volume_usd=plain(row["volume_usd"]),
    )
    base, quote = (got, paid) if buy else (paid, got)
    return _Print(trade, float(base), float(quote), float(row["volume_usd"]))


def _point(known: _Print, side: Side, currency: Currency) -> tuple[float, float, float]:
    """Return time, price and volume of one side's token, in USD or in the other side's token."""
    own, other = known.base_usd, known.quote_usd
    if side == "quote":
        own, other = other, own
    unit = 1.0 if currency == "usd" else other
    return known.trade.block_time, own / unit, known.volume / unit


def _recorded_windows(row: Row) -> dict[str, Window]:
    """Rebuild all windows from the two that a snapshot has; traders were not recorded."""
    made: dict[str, Window] = {}
    for name, span in WINDOWS.items():
        of = "h1" if span <= 3600 else "h24"
        buys, sells = row.get(f"transactions_{of}_buys", 0), row.get(f"transactions_{of}_sells", 0)
        volume = float(row.get("volume_usd_h24") or 0)
        share = buys / (buys + sells) if buys + sells else 0.0
        made[name] = Window(
            buys=buys,
            sells=sells,
            buyers=buys,
            sellers=sells,
            buy_volume=volume * share,
            sell_volume=volume * (1 - share) if buys + sells else 0.0,
            change=float(row.get(f"price_change_percentage_{of}") or 0),
        )
    return made
