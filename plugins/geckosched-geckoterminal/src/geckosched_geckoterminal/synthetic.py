"""The market that the simulator makes from a seed: `population.py` says who trades when, `fills.py` what."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from .chance import Chance
from .fills import LAG, UNIT, Fill, hour_of_fills, measure, since_moment, sol_price, written
from .market import (
    NETWORKS,
    SOLANA_DEXES,
    WINDOWS,
    Activity,
    Bar,
    Candle,
    Currency,
    Dex,
    Figures,
    Network,
    Pool,
    Side,
    Trade,
    Window,
    bars,
    chained,
    joined,
    plain,
    quotient,
)
from .population import DAY, HOUR, Burst, Life, Population

__all__ = ["BIRTHS", "SyntheticMarket"]

BIRTHS = 30.0
"""New pools an hour, unless asked otherwise; on Solana there are 25 to 33 a minute."""

_SUPPLY = 1_000_000_000


class _Tally(NamedTuple):
    """What a stretch of trades adds up to; volumes in `UNIT`."""

    buys: int
    sells: int
    buyers: frozenset[int]
    sellers: frozenset[int]
    buy_volume: int
    sell_volume: int


class SyntheticMarket:
    """A market of SOL pools on the exchanges of one network.

    Everything is a function of (seed, pool, time) and made when asked for, an hour of a pool at a time, so that any
    moment can be asked in any order. `pools` founders are there from the beginning; `born` is the moment, in epoch
    seconds, that their ages count from: the quiet ones are months old, the hottest an hour or two. `births` pools
    an hour are born, before and after.

    What is kept is bounded, whatever time passes: hours of trades, and sums of hours.
    """

    def __init__(
        self, seed: int = 0, pools: int = 12, *, born: int, births: float = BIRTHS, network: str = "solana"
    ) -> None:
        self.seed = seed
        self.network = network
        self.networks: Sequence[Network] = NETWORKS
        self._chance = Chance(seed)
        self._population = Population(self._chance, network, founders=pools, births=births, born=born)
        self._fills = lru_cache(maxsize=512 + 6 * pools)(self._made_fills)
        self._quiet = lru_cache(maxsize=65536)(self._without_trade)
        self._tally = lru_cache(maxsize=1024 + 32 * pools)(self._hour_tally)
        self._tallies = lru_cache(maxsize=1024 + 8 * pools)(self._added_tallies)
        self._bar = lru_cache(maxsize=65536)(self._hour_bar)
        self._written = lru_cache(maxsize=16384)(self._trade)

    @property
    def founders(self) -> Sequence[Pool]:
        """The pools that are there from the beginning, the hottest first."""
        return tuple(life.pool for life in self._population.founders)

    def death(self, pool: Pool) -> int | None:
        """Return the second from which a pool never trades again, None if it lives for ever."""
        return self._life(pool).died_at

    def bursts(self, pool: Pool, since: int, until: int) -> list[Burst]:
        """Return the spans in which a pool is several times as busy as else."""
        return list(self._population.bursts(self._life(pool), since, until))

    def dexes(self, network: str) -> Sequence[Dex]:
        """Return the exchanges; only those of the market's own network are known."""
        return SOLANA_DEXES if network == self.network else ()

    def pools(self, network: str, now: int) -> Mapping[str, Pool]:
        """Return the pools born by `now`, by address, without newborns that have been dead for a day."""
        return self._population.listed(now) if network == self.network else {}

    def pool(self, network: str, address: str, now: int) -> Pool | None:
        """Return the pool of an address, if it is born; the dead keep answering."""
        life = self._population.life(address) if network == self.network else None
        return life.pool if life and life.born_at <= now else None

    def activity(self, pool: Pool, now: int) -> Activity:
        """Count the visible trades of the last 24 hours."""
        parts = self._parts(pool.address, now - DAY, now, now)
        trades = sum(part.buys + part.sells for part in parts)
        return Activity(trades, sum(part.buy_volume + part.sell_volume for part in parts) / UNIT)

    def figures(self, pool: Pool, now: int) -> Figures:
        """Add up the visible trades of each window; reserve and FDV follow the price."""
        life = self._life(pool)
        last = next(self._seen(pool, now), None)
        base_usd = last.base_usd if last else life.price
        quote_usd = last.quote_usd if last else sol_price(self._chance, now) / 10**9
        base, quote = plain(base_usd), plain(quote_usd)
        return Figures(
            windows=dict(self._windows(pool, now, base_usd)),
            base_usd=base,
            quote_usd=quote,
            base_native=quotient(base, quote),
            quote_native="1.0",
            fdv_usd=f"{base_usd * _SUPPLY:.6f}",
            reserve_usd=f"{life.reserve * math.sqrt(base_usd / life.price):.4f}",
            locked_percentage="100.0" if pool.dex == "pumpswap" else None,
        )

    def trades(self, pool: Pool, now: int, above: float = 0.0) -> Iterator[Trade]:
        """Yield what `Market.trades` says, hour by hour back to the pool's birth."""
        for fill in self._seen(pool, now):
            if above <= 0 or fill.volume / UNIT > above:
                yield self._written(pool.address, fill)

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
        unit = UNIT if currency == "usd" else 1
        for candle in chained(self._bars(pool, step, end, now, side, currency)):
            if candle.ts < since:
                return
            yield candle._replace(volume=candle.volume / unit)

    # -- trades

    def _life(self, pool: Pool) -> Life:
        life = self._population.life(pool.address)
        if life is None:
            raise LookupError(f"{pool.address}: no pool of this market")
        return life

    def _made_fills(self, address: str, hour: int) -> tuple[Fill, ...]:
        life = self._population.life(address)
        if life is None:
            return ()
        stretches = self._population.stretches(life, hour * HOUR, (hour + 1) * HOUR)
        return hour_of_fills(self._chance, life, hour, stretches)

    def _hours(self, life: Life, end: int) -> range:
        """Return the hours before `end` in which there can be trades, the newest first."""
        if not life.rate:
            return range(0)
        return range((life.last(end) - 1) // HOUR, life.born_at // HOUR - 1, -1)

    def _seen(self, pool: Pool, now: int) -> Iterator[Fill]:
        """Yield the trades visible at `now`, newest first."""
        for hour in self._hours(self._life(pool), now + 1):
            settled = _settled(hour, now)
            if settled and self._quiet(pool.address, hour):
                continue
            fills = self._fills(pool.address, hour)
            for fill in reversed(fills if settled else fills[: since_moment(fills, now)]):
                if settled or fill.visible_at <= now:
                    yield fill

    def _trade(self, address: str, fill: Fill) -> Trade:
        return written(self._chance, address, fill)

    # -- sums

    def _hour_tally(self, address: str, hour: int) -> _Tally:
        return _tallied(self._fills(address, hour))

    def _without_trade(self, address: str, hour: int) -> bool:
        """Tell whether nothing happened in an hour; quiet pools have months of such hours."""
        return not self._fills(address, hour)

    def _added_tallies(self, address: str, first: int, last: int) -> _Tally:
        return _added([self._tally(address, hour) for hour in range(first, last + 1)])

    def _parts(self, address: str, since: int, until: int, now: int) -> list[_Tally]:
        """Cut (since, until] into sums: the whole settled hours together, the edges by trade."""
        first, last = since // HOUR + 1, (until + 1) // HOUR - 1
        while last >= first and not _settled(last, now):
            last -= 1
        whole = range(first, last + 1)
        parts = [self._tallies(address, first, last)] if whole else []
        for hour in range(since // HOUR, until // HOUR + 1):
            if hour not in whole:
                fills = self._fills(address, hour)
                inside = fills[since_moment(fills, since + 1) : since_moment(fills, until + 1)]
                parts.append(_tallied([fill for fill in inside if fill.visible_at <= now]))
        return parts

    def _windows(self, pool: Pool, now: int, price: float) -> Iterator[tuple[str, Window]]:
        """Yield all windows, each made of the shorter one before it and what it reaches further back."""
        total, until = _added([]), now
        for name, span in WINDOWS.items():
            total = _added([total, *self._parts(pool.address, now - span, until, now)])
            until = now - span
            yield name, Window(
                buys=total.buys,
                sells=total.sells,
                buyers=len(total.buyers),
                sellers=len(total.sellers),
                buy_volume=total.buy_volume / UNIT,
                sell_volume=total.sell_volume / UNIT,
                change=self._change(pool, now, until, price) if total.buys or total.sells else 0.0,
            )

    def _change(self, pool: Pool, now: int, since: int, price: float) -> float:
        """Percent since the last price before the window, or since the first one ever."""
        older = next(self._seen(pool, since), None)
        return (price / (older.base_usd if older else self._first_price(pool, now)) - 1) * 100

    def _first_price(self, pool: Pool, now: int) -> float:
        life = self._life(pool)
        for hour in reversed(self._hours(life, now + 1)):
            if fills := self._fills(pool.address, hour):
                return fills[0].base_usd
        return life.price

    # -- candles

    def _hour_bar(self, address: str, hour: int) -> Bar:
        fills = self._fills(address, hour)
        return bars(((fill.time, fill.base_usd, fill.volume) for fill in fills), HOUR)[0]

    def _bars(self, pool: Pool, step: int, end: int, now: int, side: Side, currency: Currency) -> Iterator[Bar]:
        """Yield the bars before `end`, newest first; longer than an hour they are joined hours."""
        pending: Bar | None = None
        for bar in self._short_bars(pool, min(step, HOUR), end, now, side, currency):
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
        plain_hours = step == HOUR and side == "base" and currency == "usd"
        for hour in self._hours(self._life(pool), end):
            settled = _settled(hour, now)
            if settled and self._quiet(pool.address, hour):
                continue
            if plain_hours and settled and (hour + 1) * HOUR <= end:
                yield self._bar(pool.address, hour)
                continue
            fills = self._fills(pool.address, hour)
            fills = fills[: since_moment(fills, end)]
            seen = (f for f in fills if settled or f.visible_at <= now)
            yield from reversed(bars(((f.time, *measure(f, side, currency)) for f in seen), step))


def _settled(hour: int, now: int) -> bool:
    """Tell whether all trades of an hour are visible."""
    return (hour + 1) * HOUR + LAG <= now


def _tallied(fills: Sequence[Fill]) -> _Tally:
    buys = [fill for fill in fills if fill.buy]
    sells = [fill for fill in fills if not fill.buy]
    return _Tally(
        len(buys),
        len(sells),
        frozenset(fill.trader for fill in buys),
        frozenset(fill.trader for fill in sells),
        sum(fill.volume for fill in buys),
        sum(fill.volume for fill in sells),
    )


def _added(parts: Sequence[_Tally]) -> _Tally:
    return _Tally(
        sum(part.buys for part in parts),
        sum(part.sells for part in parts),
        frozenset().union(*(part.buyers for part in parts)),
        frozenset().union(*(part.sellers for part in parts)),
        sum(part.buy_volume for part in parts),
        sum(part.sell_volume for part in parts),
    )
