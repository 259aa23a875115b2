"""Stretches of time whose candles are missing, and what an answer leaves of them: no clock, no network, no store.

The API shows candles newest first, at most 1000 and about half a year in one answer, and on from any moment with
`before_timestamp`. A `Stretch` is what has still to be asked for in this way. `geckoterminal-ohlcv` keeps the holes of
a pool as stretches, `geckoterminal-backfill` all that lies between the oldest candle stored and the depth asked for.

An answer is *full* when it has as many elements as its limit asked for, whatever they are: a candle that comes twice
takes two places. All times are epoch seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from .rows import CandlePage

__all__ = ["DAY", "LARGEST_LIMIT", "REACH", "End", "Gone", "Left", "Stretch", "again_after"]

LARGEST_LIMIT = 1000
"""Candles of one answer at most (api.md, 3.1)."""

DAY = 86_400
"""Seconds of a day: a pool that is gone, and whatever keeps failing, is asked again after one."""

REACH = 180 * DAY
"""Seconds that one answer spans at least (six months, 181 to 184 days), and that the public plan reaches back."""

AGAIN_AFTER = 300.0
"""Seconds until what failed once is asked again; twice that after the second time, and so on."""


def again_after(tries: int, first: float = AGAIN_AFTER, most: float = DAY) -> float:
    """Return the seconds to wait after the failure that follows `tries` others."""
    return min(first * 2.0 ** min(tries, 20), max(first, most))


class End(StrEnum):
    """Why paging back has come to its end."""

    REACHED = "reached"
    """The answer reaches the candle before the stretch."""
    SHORT = "short"
    """The answer is not full: nothing older is left in the half year that it spans."""
    EMPTY = "empty"
    """The answer has no candle."""
    UNMOVED = "unmoved"
    """The answer has nothing older than where it should begin."""
    PLAN = "plan"
    """401: the plan shows nothing older."""


@dataclass(slots=True)
class Stretch:
    """Candles with `after < ts < before` that may be missing.

    `share` is how many of the steps near it have a candle, `due_at` when it is asked for next, `tries` how often that
    failed in a row.
    """

    after: int
    before: int
    share: float = 1.0
    due_at: float = 0.0
    tries: int = 0

    def steps(self, step: int) -> int:
        """Return how many candles there are at most."""
        return max((self.before - 1) // step - self.after // step, 0)

    def limit(self, step: int) -> int:
        """Return how many to ask for: one more than are missing, to see that nothing lies between; at most 1000."""
        return min(self.steps(step) + 1, LARGEST_LIMIT)

    def estimate(self, step: int) -> int:
        """Return about how many there are, at least 1."""
        return max(round(self.steps(step) * self.share), 1)

    def end(self, page: CandlePage, step: int, *, full: bool) -> End | None:
        """Tell why nothing is left below an answer; None: more is to be asked for."""
        if page.oldest is None:
            return End.EMPTY
        if page.oldest >= self.before:
            return End.UNMOVED
        if page.oldest - step <= self.after:
            return End.REACHED
        if not full and self.after >= self.before - REACH:
            return End.SHORT
        return None

    def unread(self, page: CandlePage, end: End | None) -> Stretch | None:
        """Return the part around what could not be read in an answer; None where all could.

        The candle before it is among it: what could not be read may have been its later, right element. What is below
        the oldest candle read belongs to the rest, if there is one.
        """
        if page.unread is None or page.oldest is None:
            return None
        older, newer = page.unread
        if older is None:
            older = page.oldest if end in (None, End.REACHED) else self.after
        after = max(older, self.after)
        before = self.before if newer is None else min(newer + 1, self.before)
        return Stretch(after, before, self.share) if after < before - 1 else None

    def take(self, page: CandlePage, step: int, now: float, *, full: bool, retry: float) -> Left:
        """Tell what an answer leaves. Expects that `defer` came before.

        What could not be read is due after `retry` seconds, and after twice as long each time.
        """
        end, tries = self.end(page, step, full=full), max(self.tries - 1, 0)
        at_the_bottom = page.unread is not None and page.unread[0] is None
        rest = None
        if end is None and page.oldest is not None:
            rest = Stretch(self.after, page.oldest + at_the_bottom, self.share, now)
            if rest.before == self.before:  # no step further: not at once again
                rest.tries = tries
                rest.defer(now, retry)
        if unread := self.unread(page, end):
            unread.tries = tries
            unread.defer(now, retry)
        return Left(rest, unread, end)

    def defer(self, now: float, first: float = AGAIN_AFTER, most: float = DAY) -> None:
        """Take in that it is being asked for: should that fail, it is due again after a while."""
        self.due_at = now + again_after(self.tries, first, most)
        self.tries += 1

    def due(self, now: float) -> float:
        """Return when it is due; more than a day ahead (the clock was set back) is now."""
        return self.due_at if self.due_at <= now + DAY else -math.inf


class Left(NamedTuple):
    """What an answer leaves of a stretch: what is older, what could not be read, and why there is nothing older."""

    rest: Stretch | None
    unread: Stretch | None
    end: End | None

    @property
    def stretches(self) -> list[Stretch]:
        """What has still to be asked for."""
        return [each for each in (self.rest, self.unread) if each is not None]


@dataclass(slots=True)
class Gone:
    """Pools that the API doesn't know: since when, and when it was last asked. Asked again once a day."""

    since: dict[str, float] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)

    def rests(self, pool: str, now: float) -> bool:
        """Tell whether a pool is gone and was asked within the last day."""
        asked_at = self.asked.get(pool)
        return asked_at is not None and asked_at <= now < asked_at + DAY

    def mark(self, pool: str, now: float) -> float:
        """Take in that the API doesn't know a pool; return since when."""
        self.asked[pool] = now
        return self.since.setdefault(pool, now)

    def back(self, pool: str) -> bool:
        """Take in that the API knows a pool; return whether it was gone."""
        self.asked.pop(pool, None)
        return self.since.pop(pool, None) is not None

    def save(self, state: MutableMapping[str, Any]) -> None:
        """Write into `run.state`."""
        state["gone"], state["gone_asked"] = self.since, self.asked

    @classmethod
    def restore(cls, state: Mapping[str, Any], pools: Iterable[str]) -> Gone:
        """Read what `save` wrote, as far as it concerns these pools."""
        since, asked = state.get("gone", {}), state.get("gone_asked", {})
        known = [pool for pool in pools if pool in since and pool in asked]
        return cls({pool: since[pool] for pool in known}, {pool: asked[pool] for pool in known})
