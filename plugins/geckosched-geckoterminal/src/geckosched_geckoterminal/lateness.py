"""Late trades: what a full answer may hide although it reaches back to the one before.

A trade is shown some seconds after its block, most after 2 to 5, some after a minute (measured over the recorded
series: 2 to 61). One whose block is older than the oldest of a full answer, but that was not shown yet when the answer
before was made, is never seen. Answers tell how likely that is: the last part of a trade's id is when it was first
shown, so that all counts by the API's own clock, and a pool's own trades say how late they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .rotation import LATE, PAGE, Loss
from .rows import TradePage

__all__ = ["Sight", "hidden"]

WORTH_SAYING = 0.002
"""Expected trades from which on an answer is said to have lost one."""


def hidden(seen: float, oldest: float, lags: Sequence[float], rate: float) -> float:
    """Return how many trades are expected to be older than `oldest` and to have been shown after `seen`.

    Times are epoch seconds, `lags` the seconds from block to sight of trades of the pool, `rate` its trades a second.
    """
    depth = seen - oldest
    return rate * sum(max(0.0, lag - depth) for lag in lags) / len(lags) if lags else 0.0


@dataclass(slots=True)
class Sight:
    """What a pool's answers so far say of when its trades are seen.

    `seen` is when the last of the newest answer's trades to appear was first shown (epoch seconds), `latest` the
    longest lag of any. A lag of more than `LATE` tells of a trade that the API took in again, and says nothing.
    """

    seen: float | None = None
    latest: float = 0.0

    def observe(self, page: TradePage) -> None:
        """Take in an answer, after asking what it hides."""
        self.seen = self.seen if page.seen is None else page.seen
        self.latest = max([self.latest, *_believed(page)])

    def loss(self, page: TradePage) -> Loss | None:
        """Return what a full answer that reaches back hides, None if that is next to nothing."""
        if self.seen is None or len(page.times) < PAGE:
            return None
        newest, oldest = page.times[0], page.times[-1]
        rate = len(page.times) / max(newest - oldest, 1.0)
        count = hidden(self.seen, oldest, [self.latest, *_believed(page)], rate)
        if count < WORTH_SAYING:
            return None
        return Loss(max(1, round(count)), min(self.seen, oldest) - LATE, oldest)


def _believed(page: TradePage) -> list[float]:
    return [lag for lag in page.lags if 0 <= lag <= LATE]
