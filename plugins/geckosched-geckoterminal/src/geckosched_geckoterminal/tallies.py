"""What the trades of the synthetic market add up to, over any span and for a reader at any moment.

A list asks thousands of pools how many trades they had. `Ledger` keeps an hour of a pool's trades in columns, which
answer by bisection, exactly, and take a fifth of the memory of the trades themselves.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from .fills import LAG, Fill


class Tally(NamedTuple):
    """What a stretch of trades adds up to; volumes in `UNIT`, traders by number."""

    buys: int
    sells: int
    buyers: frozenset[int]
    sellers: frozenset[int]
    buy_volume: int
    sell_volume: int


class Sum(NamedTuple):
    """How many trades a stretch has, and what was bought and sold in them, in `UNIT`."""

    trades: int
    bought: int
    sold: int


class Print(NamedTuple):
    """When a trade was, and the price of the base token in USD."""

    time: float
    price: float


class Ledger:
    """An hour of a pool's trades in columns.

    A span is the trades with `since < block time <= until` that a reader at `now` sees; block times are whole seconds.
    """

    __slots__ = ("_buys", "_sells")

    def __init__(self, fills: Sequence[Fill]) -> None:
        self._buys = _Column([fill for fill in fills if fill.buy])
        self._sells = _Column([fill for fill in fills if not fill.buy])

    def tally(self, since: int, until: int, now: int) -> Tally:
        """Add up a span."""
        buys, buyers, bought = self._buys.tally(since, until, now)
        sells, sellers, sold = self._sells.tally(since, until, now)
        return Tally(buys, sells, buyers, sellers, bought, sold)

    def sum(self, since: int, until: int, now: int) -> Sum:
        """Count a span without its traders."""
        buys, bought = self._buys.sum(since, until, now)
        sells, sold = self._sells.sum(since, until, now)
        return Sum(buys + sells, bought, sold)

    def first(self) -> Print | None:
        """Return the first trade, visible or not."""
        return min(filter(None, (self._buys.first(), self._sells.first())), default=None)

    def last(self, now: int) -> Print | None:
        """Return the last trade that is visible at `now`."""
        return max(filter(None, (self._buys.last(now), self._sells.last(now))), default=None)


class _Column:
    """The buys or the sells of an hour, in order of time; `_sums` are the volumes before each."""

    __slots__ = ("_prices", "_shown", "_sums", "_times", "_traders")

    def __init__(self, fills: Sequence[Fill]) -> None:
        self._times = array("d", (fill.time for fill in fills))
        self._shown = array("q", (fill.visible_at for fill in fills))
        self._traders = array("l", (fill.trader for fill in fills))
        self._prices = array("d", (fill.base_usd for fill in fills))
        self._sums = list(accumulate((fill.volume for fill in fills), initial=0))

    def tally(self, since: int, until: int, now: int) -> tuple[int, frozenset[int], int]:
        """Return count, traders and volume of a span."""
        begin, end, hidden = self._span(since, until, now)
        traders = self._traders[begin:end]
        for place in reversed(hidden):
            del traders[place - begin]
        count, volume = self._counted(begin, end, hidden)
        return count, frozenset(traders), volume

    def sum(self, since: int, until: int, now: int) -> tuple[int, int]:
        """Return count and volume of a span."""
        return self._counted(*self._span(since, until, now))

    def first(self) -> Print | None:
        return Print(self._times[0], self._prices[0]) if self._times else None

    def last(self, now: int) -> Print | None:
        place = bisect_left(self._times, now + 1.0) - 1
        while place >= 0 and self._shown[place] > now:
            place -= 1
        return Print(self._times[place], self._prices[place]) if place >= 0 else None

    def _span(self, since: int, until: int, now: int) -> tuple[int, int, list[int]]:
        """Return where a span begins and ends, and which of its trades can't be seen yet."""
        times = self._times
        begin, end = bisect_left(times, since + 1.0), bisect_left(times, until + 1.0)
        if until + LAG <= now:
            return begin, end, []
        young = bisect_left(times, float(now - LAG), begin, end)
        return begin, end, [place for place in range(young, end) if self._shown[place] > now]

    def _counted(self, begin: int, end: int, hidden: Sequence[int]) -> tuple[int, int]:
        unseen = sum(self._sums[place + 1] - self._sums[place] for place in hidden)
        return end - begin - len(hidden), self._sums[end] - self._sums[begin] - unseen


def added(parts: Iterable[Tally]) -> Tally:
    """Add tallies of stretches that have no trade in common."""
    parts = list(parts)
    return Tally(
        sum(part.buys for part in parts),
        sum(part.sells for part in parts),
        frozenset().union(*(part.buyers for part in parts)),
        frozenset().union(*(part.sellers for part in parts)),
        sum(part.buy_volume for part in parts),
        sum(part.sell_volume for part in parts),
    )
