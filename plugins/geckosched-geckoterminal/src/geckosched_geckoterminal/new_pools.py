"""`geckoterminal-new-pools`: every pool that a network's list of new ones shows, and a loss for those that got away.

The list is in the order of birth, newest first, 20 a page and ten pages deep: some minutes of Solana. A run reads down
from page 1 until a page shows a pool that the last complete run showed too; all that was born in between has then been
seen. `Descent` decides when that is, and what was missed where the pages end before.

What makes this harder than it sounds:

- **Pages are no snapshot.** The list moves down while it is read, and a page may come out of the CDN's cache, up to a
  minute old. A page counts only if it joins those above it: by a pool that they share, or by beginning where they end
  and being made no earlier. One that doesn't is stored too, but ends the descent: between may lie what nobody showed.
- **The cache lives exactly as long as the time between two runs**, so that every other run would be told what the one
  before it was, and lose half of the minutes. Runs therefore ask by two spellings of the same question, in turns.
- **Complete** is a run that met what was known, or came to the end: of its pages, of the list, or of what the plan
  shows (401). Only then does it become what the next run must reach, in one transaction with its last page. A run that
  fails or is killed on page 2 leaves page 1 stored and the state as it was: the next one reads down to where the last
  complete run was, or finds that it can't.
- **A loss** is what a complete run could not reach: from the newest birth known before to the oldest one now shown. Its
  count is that span times the rate of the births shown, less the pools that are stored of that span; at least 1.

A pool that the list shows late, below the place where a run stopped reading, is missed without a trace; nothing in the
answers would tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from geckosched import Batch, Collector, ConfigError, RunContext, SkipRun

from .client import BUDGET, Client, GoneError, PlanLimitError, Settings
from .pools import (
    LAST_PAGE,
    PAGE_ROWS,
    drop_shown,
    network_back,
    network_gone,
    network_rests,
    pool_batches,
    read_pools,
)
from .rows import AnswerError, PoolPage, Row, epoch
from .watchlist import stored

__all__ = ["Birth", "Descent", "Known", "NewPools"]

SPELLINGS = ("base_token,quote_token,dex", "dex,base_token,quote_token")
"""Two ways to ask for the same resources: two places in the CDN's cache."""

BORN_AHEAD = 300.0
"""Seconds by which a birth may lie after the answer that shows it; what is later is no time to reckon with."""


@dataclass
class NewPoolsOptions:
    """Options of `geckoterminal-new-pools`: a run reads at most `max_pages` of 20 pools, which must be 1 to 10."""

    max_pages: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.max_pages, int) or not 1 <= self.max_pages <= LAST_PAGE:
            raise ConfigError(f"max_pages: {self.max_pages!r} is no number from 1 to {LAST_PAGE}")


class NewPools(Collector):
    """Read a network's new pools down to those of the last run. A page is a target and a transaction.

    `gt_new_pools` keeps each pool as it was first seen. On Solana a page holds 35 to 46 seconds of births, so a run
    takes two calls.
    """

    name = "geckoterminal-new-pools"
    every = "1m"
    priority = 30
    budget = BUDGET
    Options = NewPoolsOptions

    @staticmethod
    def calls_per_run(options: NewPoolsOptions) -> int:
        """Count the pages that hold a minute of Solana's births."""
        return min(options.max_pages, 2)

    def collect(self, run: RunContext) -> Iterator[list[Batch]]:
        """Yield one page's pools after the other."""
        settings = Settings.read(run.settings)
        network = settings.network
        if network_rests(run, network):
            raise SkipRun(f"the API has no network {network}; asked again a day after it was last")
        descent = Descent(Known.restore(run.state, network), run.options.max_pages, run.now().timestamp())
        run.state["turn"] = 1 - run.state.get("turn", 1)
        shown: set[str] = set()
        with Client(run, settings) as client:
            while not descent.ended:
                failed = True
                with run.target(f"page {descent.pages + 1}"):
                    yield _read(run, client, network, descent, shown)
                    failed = False
                if failed:  # what it left is for the next run to reach
                    return


class Birth(NamedTuple):
    """A pool of the list, and when it was created, in epoch seconds; `None` where the list doesn't say."""

    address: str
    time: float | None


@dataclass(frozen=True, slots=True)
class Known:
    """Where a complete run ended: its pools, the newest birth among them, and when its first page was made.

    Times are epoch seconds.
    """

    pools: Sequence[str]
    newest: float | None
    at: float

    @classmethod
    def restore(cls, state: Mapping[str, Any], network: str) -> Known | None:
        """Read what `save` wrote of this network, `None` without any."""
        saved = state.get("known", {}).get(network)
        return None if saved is None else cls(**saved)

    def save(self, state: MutableMapping[str, Any], network: str) -> None:
        """Write it into `run.state`, in place of whatever another network left."""
        state["known"] = {network: asdict(self)}


class Descent:
    """Decide how far down a list to read, and tell what lies out of reach; one for each run.

    `ended` says that no further page is wanted. `known` is what to reach, `None` at the first run, which has nothing to
    reach and reads one page; `now` is when the run begins. All times are epoch seconds.
    """

    def __init__(self, known: Known | None, max_pages: int, now: float) -> None:
        self.known = known
        self.pages = 0
        self.ended = False
        self._max_pages = max_pages
        self._now = now
        self._met = known is None
        self._at: float | None = None  # when page 1 was made
        self._last_at = -math.inf  # and the last one
        self._joined: dict[str, float | None] = {}  # born when, of the pages that hang together
        self._aside: dict[str, float | None] = {}  # the same of one that doesn't

    def take(self, births: Sequence[Birth], at: float, *, full: bool) -> None:
        """Take in the next page, in its own order; `at` is when it was made, and `full` that more may follow."""
        self.pages += 1
        births = [birth._replace(time=_believed(birth.time, at)) for birth in births]
        if self._at is None:
            self._at = at
        elif not self._joins(births, at):
            self._aside.update(births)
            self.ended = True
            return
        self._last_at = at
        self._joined = dict(births) | self._joined
        self._met = self._met or self._outdated or self._shows_known(births)
        self.ended = self._met or not full or self.pages >= self._max_pages

    def stop(self) -> None:
        """Take in that there is no further page."""
        self.ended = True

    @property
    def reached(self) -> Known | None:
        """What the next run must reach, now that this one has ended."""
        if self._at is None or self._outdated or not self._joined:
            return self.known
        times = [time for time in self._joined.values() if time is not None]
        before = self.known.newest if self.known else None
        return Known(list(self._joined), max(times, default=before), self._at)

    @property
    def gap(self) -> tuple[float, float] | None:
        """From the newest birth known before to the oldest that hangs together with page 1; `None`: nothing missed."""
        if self._met or self.known is None or self._at is None or not self._joined:
            return None
        since = self.known.at if self.known.newest is None else self.known.newest
        times = [time for time in self._joined.values() if time is not None]
        until = min((time for time in times if time >= since), default=None if times else self._at)
        return None if until is None or until < since else (since, until)

    def missed(self, stored: Iterable[str]) -> int:
        """Estimate how many pools of the gap nobody saw, at least 1; `stored` are those in the store that lie in it."""
        if self.gap is None:
            return 0
        since, until = self.gap
        aside = {pool for pool, time in self._aside.items() if time is not None and since < time < until}
        return max(1, round(self._rate(since) * (until - since)) - len(aside | set(stored)))

    def _rate(self, since: float) -> float:
        """Births a second as the pages show them; late ones, from before `since`, say nothing about it."""
        times = [time for time in self._joined.values() if time is not None and time >= since]
        return (len(times) - 1) / max(max(times) - min(times), 1.0) if times else 0.0

    def _joins(self, births: Sequence[Birth], at: float) -> bool:
        """Tell whether nothing can lie between the pages above and this one."""
        if any(birth.address in self._joined for birth in births):
            return True
        oldest = min((time for time in self._joined.values() if time is not None), default=None)
        newest = max((birth.time for birth in births if birth.time is not None), default=None)
        return at >= self._last_at and (oldest is None or newest is None or newest <= oldest)

    @property
    def _outdated(self) -> bool:
        """Whether page 1 is older than what is known. What is known from the future is from before a clock's step."""
        return self.known is not None and self._at is not None and self._at < self.known.at <= self._now

    def _shows_known(self, births: Sequence[Birth]) -> bool:
        return self.known is not None and not {birth.address for birth in births}.isdisjoint(self.known.pools)


def _believed(time: float | None, at: float) -> float | None:
    return None if time is None or time > at + BORN_AHEAD else time


def _read(run: RunContext, client: Client, network: str, descent: Descent, shown: set[str]) -> list[Batch]:
    """Ask for the next page; return what is to be stored of it. The last one brings losses and the new state along."""
    batches: list[Batch] = []
    number, spelling = descent.pages + 1, SPELLINGS[run.state["turn"]]
    where = f"page {number}"
    try:
        page = read_pools(run, client, network, "new_pools", where=where, include=spelling, page=number)
    except GoneError:
        descent.stop()
        if not descent.pages:
            return [network_gone(run, network)]
    except PlanLimitError as error:
        run.log.info("%s: %s", where, error)
        descent.stop()
    else:
        descent.take(_births(run, page, where), page.at.timestamp(), full=page.elements >= PAGE_ROWS)
        drop_shown(page, shown)
        batches = [*_batches(page), *network_back(run, network)]
    if descent.ended:
        _conclude(run, network, descent)
    return batches


def _births(run: RunContext, page: PoolPage, where: str) -> list[Birth]:
    births = []
    for row in page.pools:
        created_at, time = row["pool_created_at"], None
        try:
            time = None if created_at is None else epoch(created_at, "pool_created_at")
        except AnswerError as error:  # the pool is stored all the same
            run.problem(f"{where} {row['address']}", error)
        births.append(Birth(row["address"], time))
    return births


def _batches(page: PoolPage) -> list[Batch]:
    first: list[Row] = [
        {name: value for name, value in row.items() if name != "gone_at"} | {"first_seen_at": page.at}
        for row in page.pools
    ]
    new = Batch(
        "gt_new_pools",
        first,
        pk=("network", "address"),
        on_conflict="ignore",
        index=(("network", "pool_created_at"),),
        stamp=("run_id",),
    )
    return [new, *pool_batches(page, snapshots=False)]


def _conclude(run: RunContext, network: str, descent: Descent) -> None:
    """Announce what a complete run could not reach, and remember what the next one must."""
    if descent.gap is not None:
        run.lost("new_pools", descent.missed(_stored_of(run, network, *descent.gap)), *descent.gap)
    if descent.reached is not None:
        descent.reached.save(run.state, network)


def _stored_of(run: RunContext, network: str, since: float, until: float) -> list[str]:
    """Return the pools that unfinished runs have stored of a gap."""
    bounds = [f"{datetime.fromtimestamp(time, UTC):%Y-%m-%dT%H:%M:%SZ}" for time in (since, until)]
    found = stored(
        run,
        "SELECT address FROM gt_new_pools WHERE network = ? AND pool_created_at > ? AND pool_created_at < ?",
        network,
        *bounds,
    )
    return [row["address"] for row in found]
