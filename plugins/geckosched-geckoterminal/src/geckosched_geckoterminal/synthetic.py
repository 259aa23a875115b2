"""The market that the simulator makes from a seed: `population.py` says who trades when, `fills.py` what."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from .chance import Chance
from .fills import LAG, UNIT, Fill, hour_of_fills, measure, since_moment, sol_price, written
from .market import (
    BONDING,
    NETWORKS,
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
    joined,
    plain,
    quotient,
)
from .population import DAY, HOUR, NEWBORNS_LISTED, SUPPLY, Burst, Life, Population
from .tallies import Ledger, Print, Sum, Tally, added

__all__ = ["BIRTHS", "SyntheticMarket"]

BIRTHS = 30.0
"""New pools an hour, unless asked otherwise; on Solana there are 25 to 33 a minute."""

_AFTER = 2**40
"""A moment at which every trade is visible."""
_EMPTY, _NOTHING = Ledger(()), Sum(0, 0, 0)
"""What quiet hours share."""

_CURVE_USD = 400.0
"""Dollars of reserve for each percent of a launchpad's curve."""


class SyntheticMarket:
    """A market of SOL pools on the exchanges of one network.

    Everything is a function of (seed, pool, time) and made when asked for, an hour of a pool at a time, so that any
    moment can be asked in any order. `pools` founders are there from the beginning; `born` is the moment, in epoch
    seconds, that their ages count from: the quiet ones are months old, the hottest an hour or two. `births` pools
    an hour are born, before and after.

    No list shows the `basket`, a pool of three tokens: a search finds it, and it has no candles.

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
        self._founders_ledger = lru_cache(maxsize=1024 + 27 * pools)(self._made_ledger)
        self._newborns_ledger = lru_cache(maxsize=3 * NEWBORNS_LISTED)(self._made_ledger)
        self._hour = lru_cache(maxsize=131_072)(self._hour_sum)
        self._sums = lru_cache(maxsize=1024 + 8 * pools + 2 * NEWBORNS_LISTED)(self._added_sums)
        self._tally = lru_cache(maxsize=1024 + 32 * pools)(self._hour_tally)
        self._tallies = lru_cache(maxsize=1024 + 8 * pools)(self._added_tallies)
        self._bar = lru_cache(maxsize=65536)(self._hour_bar)
        self._written = lru_cache(maxsize=16384)(self._trade)

    @property
    def founders(self) -> Sequence[Pool]:
        """The pools that are there from the beginning, the hottest first."""
        return tuple(life.pool for life in self._population.founders)

    @property
    def basket(self) -> Pool:
        """The pool of three tokens."""
        return self._population.basket.pool

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

    def searchable(self, network: str, now: int) -> Mapping[str, Pool]:
        """Return what lists show, and the basket."""
        extra = {self.basket.address: self.basket} if self.pool(network, self.basket.address, now) else {}
        return {**self.pools(network, now), **extra}

    def token(self, network: str, address: str, now: int) -> Token | None:
        """Return a token whose pool is born."""
        if network == self.network and address == WRAPPED_SOL.address:
            return WRAPPED_SOL
        known = (token for pool in self.pools_of(network, address, now) for token in pool.tokens)
        return next((token for token in known if token.address == address), None)

    def pools_of(self, network: str, token: str, now: int) -> Sequence[Pool]:
        """Return the one pool of a token if it is born, listed or not; of SOL all that can be found."""
        if network != self.network:
            return ()
        if token == WRAPPED_SOL.address:
            return tuple(self.searchable(network, now).values())
        life = self._population.of_token(token)
        return (life.pool,) if life and life.born_at <= now else ()

    def activity(self, pool: Pool, now: int, span: int = DAY) -> Activity:
        """Count the visible trades of a span."""
        life, since = self._life(pool), now - span
        whole, edges = _hours_of(life, since, now, now)
        parts = [self._ledger(pool.address, hour).sum(since, now, now) for hour in edges]
        if whole:
            parts.append(self._sums(pool.address, whole[0], whole[-1]))
        trades, bought, sold = _total(parts)
        return Activity(trades, bought / UNIT + sold / UNIT)

    def at_most(self, pool: Pool) -> float:
        """Tell it of newborns, whose whole lives are short."""
        return self._population.at_most(pool.address)

    def heat(self, pool: Pool, now: int, span: int) -> float:
        """Add up the rates over a span."""
        return self._population.expected(self._life(pool), now - span, now)

    def reserve(self, pool: Pool, now: int) -> str | None:
        """Follow the price from what the pool began with."""
        life = self._life(pool)
        last = self._last(life, now)
        return _reserve(life, last.price if last else life.price)

    def figures(self, pool: Pool, now: int) -> Figures:
        """Add up the visible trades of each window; reserve and FDV follow the price."""
        life = self._life(pool)
        last = self._last(life, now)
        base_usd = last.price if last else life.price
        base, quote = plain(base_usd), plain(sol_price(self._chance, int(last.time if last else now)) / 10**9)
        reserve = _reserve(life, base_usd)
        return Figures(
            windows=dict(self._windows(life, now, base_usd)),
            base_usd=base,
            quote_usd=quote,
            base_native=quotient(base, quote),
            quote_native="1.0",
            fdv_usd=f"{base_usd * SUPPLY:.6f}",
            reserve_usd=reserve,
            locked_percentage="100.0" if pool.dex == "pumpswap" else None,
            graduation=round(min(99.99, float(reserve) / _CURVE_USD), 2) if pool.dex in BONDING else None,
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

    def _ledger(self, address: str, hour: int) -> Ledger:
        """Return an hour of trades; of founders a day is kept, at whose far edge each list looks."""
        kept = self._founders_ledger if self._population.is_founder(address) else self._newborns_ledger
        return kept(address, hour)

    def _made_ledger(self, address: str, hour: int) -> Ledger:
        fills = self._fills(address, hour)
        return Ledger(fills) if fills else _EMPTY

    def _hours(self, life: Life, end: int) -> range:
        """Return the hours before `end` in which there can be trades, the newest first."""
        if not life.rate:
            return range(0)
        return range((life.last(end) - 1) // HOUR, life.born_at // HOUR - 1, -1)

    def _seen(self, pool: Pool, now: int) -> Iterator[Fill]:
        """Yield the trades visible at `now`, newest first."""
        for hour in self._hours(self._life(pool), now + 1):
            settled = _settled(hour, now)
            if settled and not self._hour(pool.address, hour).trades:
                continue
            fills = self._fills(pool.address, hour)
            for fill in reversed(fills if settled else fills[: since_moment(fills, now)]):
                if settled or fill.visible_at <= now:
                    yield fill

    def _trade(self, address: str, fill: Fill) -> Trade:
        return written(self._chance, address, fill)

    # -- sums

    def _hour_sum(self, address: str, hour: int) -> Sum:
        """Add up an hour; quiet pools have months of hours without a trade."""
        counted = self._ledger(address, hour).sum((hour - 1) * HOUR, (hour + 1) * HOUR, _AFTER)
        return counted if counted.trades else _NOTHING

    def _hour_tally(self, address: str, hour: int) -> Tally:
        return self._ledger(address, hour).tally((hour - 1) * HOUR, (hour + 1) * HOUR, _AFTER)

    def _added_sums(self, address: str, first: int, last: int) -> Sum:
        return _total([self._hour(address, hour) for hour in range(first, last + 1)])

    def _added_tallies(self, address: str, first: int, last: int) -> Tally:
        return added(self._tally(address, hour) for hour in range(first, last + 1))

    def _parts(self, life: Life, since: int, until: int, now: int) -> list[Tally]:
        """Cut (since, until] into tallies: the whole hours together, the edges by trade."""
        whole, edges = _hours_of(life, since, until, now)
        parts = [self._ledger(life.pool.address, hour).tally(since, until, now) for hour in edges]
        if whole:
            parts.append(self._tallies(life.pool.address, whole[0], whole[-1]))
        return parts

    def _windows(self, life: Life, now: int, price: float) -> Iterator[tuple[str, Window]]:
        """Yield all windows, each made of the shorter one before it and what it reaches further back."""
        total, until = added([]), now
        for name, span in WINDOWS.items():
            total = added([total, *self._parts(life, now - span, until, now)])
            until = now - span
            yield name, Window(
                buys=total.buys,
                sells=total.sells,
                buyers=len(total.buyers),
                sellers=len(total.sellers),
                buy_volume=total.buy_volume / UNIT,
                sell_volume=total.sell_volume / UNIT,
                change=self._change(life, now, until, price) if total.buys or total.sells else 0.0,
            )

    def _change(self, life: Life, now: int, since: int, price: float) -> float:
        """Percent since the last price before the window, or since the first one ever."""
        older = self._last(life, since)
        return (price / (older.price if older else self._first_price(life, now)) - 1) * 100

    def _last(self, life: Life, now: int) -> Print | None:
        """Return the last visible trade."""
        for hour in self._hours(life, now + 1):
            if _settled(hour, now) and not self._hour(life.pool.address, hour).trades:
                continue
            if found := self._ledger(life.pool.address, hour).last(now):
                return found
        return None

    def _first_price(self, life: Life, now: int) -> float:
        for hour in reversed(self._hours(life, now + 1)):
            if found := self._ledger(life.pool.address, hour).first():
                return found.price
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
            if settled and not self._hour(pool.address, hour).trades:
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


def _hours_of(life: Life, since: int, until: int, now: int) -> tuple[range, list[int]]:
    """Return the hours of a life that lie in (since, until] with all their trades, and those of which a part may."""
    begin, end = max(since, life.born_at) // HOUR, life.last(until + 1) - 1
    first = life.born_at // HOUR if since < life.born_at else since // HOUR + 1
    last = end // HOUR if life.died_at is not None and end < until else (until + 1) // HOUR - 1
    whole = range(first, min(last, (now - LAG) // HOUR - 1) + 1)
    return whole, [hour for hour in range(begin, end // HOUR + 1) if hour not in whole]


def _total(parts: Sequence[Sum]) -> Sum:
    return Sum(sum(part.trades for part in parts), sum(part.bought for part in parts), sum(part.sold for part in parts))


def _reserve(life: Life, price: float) -> str:
    return f"{life.reserve * math.sqrt(price / life.price):.4f}"
