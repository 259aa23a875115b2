"""Which candles to ask for next, decided without a clock, a network or a store.

A pool and a timeframe are a *pair*. Most calls ask for a pair's newest candles, back to the newest that is stored as
final (its *head*). An answer that is full and doesn't reach it leaves a *hole*, a `Stretch` that is paged back by calls
of its own, in turn with all else that is due. What an answer moves (the newest final candle, the holes) is saved in one
transaction with its rows, so that a kill at any moment leaves either both or neither.

All times are epoch seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from .rows import FINAL_LAG, TIMEFRAMES, CandlePage
from .stretches import DAY, LARGEST_LIMIT, REACH, End, Gone, Stretch, again_after

__all__ = ["Ask", "CandlePlan"]

QUIET = 3600.0
"""Seconds without a trade that make a pool a quiet one."""


class Ask(NamedTuple):
    """One call to make: for the head of a pair, or for one of its holes."""

    pool: str
    timeframe: str
    hole: Stretch | None = None


@dataclass(slots=True)
class _Pair:
    """What is known of a pool's candles of one timeframe.

    `final` is `ts` of the newest candle that is stored as final: but for `holes`, none before it is missing back to the
    first answer. `read_at` is when the last answer was made that could be read whole.
    """

    asked_at: float | None = None
    read_at: float | None = None
    final: int | None = None
    newest: int | None = None
    quiet: bool = False  # nothing new at the last answer, and nothing in the hour before it
    not_before: float | None = None
    tries: int = 0
    holes: list[Stretch] = field(default_factory=list)

    def rests(self, now: float) -> bool:
        """Tell whether a quiet pool's day since it was asked is not over yet."""
        return self.quiet and self.asked_at is not None and self.asked_at <= now < self.asked_at + DAY

    def waits(self, now: float) -> bool:
        """Tell whether it failed just now."""
        return self.not_before is not None and now < self.not_before <= now + DAY


class CandlePlan:
    """Decide which candles to ask for next, the most overdue first.

    A pair is due once max(step, `refresh`) has passed since it was last asked; a quiet pool's after a day, unless it is
    known to trade again. A hole is due at once, and again after each of its pages: all that is older goes first. A pool
    that is gone is asked once a day, for one of all these.
    """

    def __init__(self, pools: Iterable[str], timeframes: Sequence[str], *, refresh: float = 3600.0) -> None:
        self.refresh = refresh
        self.gone = Gone()
        self._timeframes = list(timeframes)
        self._pairs = {(pool, name): _Pair() for pool in pools for name in timeframes}
        self._unwatched: dict[str, dict[str, Any]] = {}  # pairs that nobody wants now, and that have holes

    def next(self, now: float, traded: Callable[[str, float], bool]) -> Ask | None:
        """Return what is most overdue, `None` if nothing is due.

        `traded(pool, since)` tells whether a trade of the pool is known that is newer than `since`; it is asked of
        quiet pools only.
        """
        due = [each for each in self._all_due(now) if not self._rests(each[1], now, traded)]
        if not due:
            return None
        return min(due, key=lambda each: (each[0], self._timeframes.index(each[1].timeframe), each[1].pool))[1]

    def is_new(self, ask: Ask) -> bool:
        """Tell whether nothing is known of a pair's candles yet."""
        pair = self._pairs[ask.pool, ask.timeframe]
        return pair.final is None and pair.asked_at is None

    def begin(self, ask: Ask, final: int) -> None:
        """Take in that candles of a new pair are stored from an earlier time, up to `final`."""
        self._pairs[ask.pool, ask.timeframe].final = final

    def limit(self, ask: Ask, now: float) -> int:
        """Return how many candles to ask for, at most 1000: of a head, from the newest final one to now.

        The newest final one is among them. That leaves room for the running candle's coming twice, and shows that
        nothing lies between.
        """
        step = TIMEFRAMES[ask.timeframe].step
        if ask.hole is not None:
            return ask.hole.limit(step)
        final = self._pairs[ask.pool, ask.timeframe].final
        if final is None:
            return LARGEST_LIMIT
        return min(max(int(now // step) - final // step + 1, 1), LARGEST_LIMIT)

    def defer(self, ask: Ask, now: float) -> None:
        """Take in that a call is being made: should it fail, the same is asked again after a while."""
        if ask.hole is not None:
            ask.hole.defer(now, most=self.refresh)
            return
        pair = self._pairs[ask.pool, ask.timeframe]
        pair.not_before = now + again_after(pair.tries, most=self.refresh)
        pair.tries += 1

    def observe(self, ask: Ask, now: float, at: float, limit: int, page: CandlePage) -> Stretch | None:
        """Take in an answer that was made `at`; return what is found to be lost."""
        if ask.hole is not None:
            return self._observe_hole(ask, ask.hole, now, limit, page)
        pair, step = self._pairs[ask.pool, ask.timeframe], TIMEFRAMES[ask.timeframe].step
        newest = None if page.newest is None else min(page.newest, int(now))
        known = -math.inf if pair.newest is None else pair.newest
        found = -math.inf if newest is None else newest
        pair.quiet = found <= known and max(found, known) + step <= now - QUIET
        pair.newest = pair.newest if newest is None else max(newest, pair.newest or 0)
        self._move_final(pair, step, at, limit, page)
        if not page.bad:
            pair.read_at = at
        pair.asked_at, pair.not_before, pair.tries = now, None, 0
        return None

    def refused(self, ask: Ask, now: float) -> None:
        """Take in that the API refuses: a pair is asked again when it is due, a hole after `refresh`, twice that..."""
        if ask.hole is not None:
            ask.hole.defer(now, self.refresh)
            return
        pair = self._pairs[ask.pool, ask.timeframe]
        pair.asked_at, pair.not_before, pair.tries = now, None, 0

    def beyond(self, ask: Ask, now: float) -> Stretch | None:
        """Take in that the plan doesn't show what was asked for; return what of it is lost."""
        if ask.hole is None:
            self.refused(ask, now)
            return None
        self._pairs[ask.pool, ask.timeframe].holes.remove(ask.hole)
        return ask.hole

    def holes(self, pool: str, name: str) -> list[Stretch]:
        """Return the holes of a pair."""
        return list(self._pairs[pool, name].holes)

    def save(self, state: MutableMapping[str, Any]) -> None:
        """Write all that is known into `run.state`."""
        pairs = {pool: dict(names) for pool, names in self._unwatched.items()}
        for (pool, name), pair in self._pairs.items():
            pairs.setdefault(pool, {})[name] = asdict(pair)
        state["pairs"] = pairs
        self.gone.save(state)

    @classmethod
    def restore(
        cls, state: Mapping[str, Any], pools: Iterable[str], timeframes: Sequence[str], *, refresh: float = 3600.0
    ) -> CandlePlan:
        """Read what `save` wrote, as far as it concerns these pools and timeframes, or tells of a hole."""
        plan = cls(pools, timeframes, refresh=refresh)
        for pool, names in state.get("pairs", {}).items():
            for name, known in names.items():
                pair = plan._pairs.get((pool, name))
                if pair is None:
                    if known.get("holes"):
                        plan._unwatched.setdefault(pool, {})[name] = known
                    continue
                for key, value in known.items():
                    setattr(pair, key, value)
                pair.holes = [Stretch(**hole) for hole in known.get("holes", ())]
        plan.gone = Gone.restore(state, dict.fromkeys(pool for pool, _ in plan._pairs))
        return plan

    # -- what is due

    def _all_due(self, now: float) -> Iterator[tuple[float, Ask]]:
        """Yield since when each pair and hole is due, quiet or not."""
        for (pool, name), pair in self._pairs.items():
            if self.gone.rests(pool, now):
                continue
            for hole in pair.holes:
                if hole.due(now) <= now:
                    yield hole.due(now), Ask(pool, name, hole)
            if not pair.waits(now) and (due_at := self._due_at(pair, name, now)) <= now:
                yield due_at, Ask(pool, name)

    def _due_at(self, pair: _Pair, name: str, now: float) -> float:
        """Return when a pair is due; one asked in the future (the clock was set back) is now."""
        if pair.asked_at is None or pair.asked_at > now:
            return -math.inf
        return pair.asked_at + max(TIMEFRAMES[name].step, self.refresh)

    def _rests(self, ask: Ask, now: float, traded: Callable[[str, float], bool]) -> bool:
        """Tell whether a pair is a quiet pool's that has not traded in the last hour nor since it was asked."""
        pair = self._pairs[ask.pool, ask.timeframe]
        if ask.hole is not None or pair.asked_at is None or not pair.rests(now):
            return False
        return not traded(ask.pool, min(now - QUIET, pair.asked_at - FINAL_LAG))

    # -- what an answer moves

    def _move_final(self, pair: _Pair, step: int, at: float, limit: int, page: CandlePage) -> None:
        """Move the newest final candle on, and remember as a hole what the answer leaves between the old one and it."""
        if page.oldest is None or page.newest is None:
            return
        if pair.final is None:  # all before the first answer is none of ours
            pair.final = page.oldest - step if page.newest_final is None else page.newest_final
        elif page.newest_final is not None:
            missing = Stretch(_missing_after(pair, pair.final, step, at), int(at) + 1)
            if missing.end(page, step, full=page.listed >= limit) is None:
                steps = (page.newest - page.oldest) // step + 1
                pair.holes.append(Stretch(missing.after, page.oldest, len(page.rows) / steps, at))
            pair.final = max(pair.final, page.newest_final)

    def _observe_hole(self, ask: Ask, hole: Stretch, now: float, limit: int, page: CandlePage) -> Stretch | None:
        pair, step = self._pairs[ask.pool, ask.timeframe], TIMEFRAMES[ask.timeframe].step
        full = page.listed >= limit
        left = hole.take(page, step, now, full=full, retry=self.refresh)
        pair.holes.remove(hole)
        pair.holes += left.stretches
        return hole if full and left.end is End.UNMOVED else None  # it heeds no `before_timestamp`: no answer at all


def _missing_after(pair: _Pair, final: int, step: int, at: float) -> int:
    """Return after which candle some may be missing, in an answer that was made `at`.

    That is after the newest final one. Where that is older than what one answer spans, it is after the last answer: a
    pool that has not traded for a year, and was asked yesterday, has no hole of a year.
    """
    seen = final if pair.read_at is None else (int(pair.read_at) - FINAL_LAG - step) // step * step
    spanned = -(-(int(at) + 1 - REACH) // step) * step
    return max(final, min(seen, spanned))
