"""`geckoterminal-pools`: the figures of the watched pools, as they are and as they were.

One call shows up to 30 pools. With more than 30 watched a run asks for those that have waited longest, and for further
ones only with calls that are free: `PoolTurns` decides, and is told the time.

A pool that an answer leaves out is gone. It gets a `gone_at` in `gt_pools` and is asked for once a day, unless somebody
else has seen it meanwhile; coming back takes the mark off. An answer in which a row can't be read says of nobody that
it is gone, and one that shows none of several pools is not believed before it comes a second time: it would else cost a
day of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from geckosched import Batch, Collector, RunContext, Setup, SkipRun

from .client import BUDGET, Client, GoneError, PlanLimitError, Settings
from .estimates import pools_watched
from .pools import DAY, MOST_ADDRESSES, drop_shown, pool_batches, read_pools
from .rows import AnswerError, PoolPage, folded
from .watchlist import gone_batch, stored, watched

__all__ = ["PoolTurns", "WatchedPools"]


class WatchedPools(Collector):
    """Ask for the watched pools, 30 in a call. A call is a target and a transaction.

    A call that fails counts as a turn of its pools, so that the others have theirs.
    """

    name = "geckoterminal-pools"
    every = "2m"
    priority = 20
    budget = BUDGET

    @staticmethod
    def calls_per_run(_options: object, setup: Setup) -> int:
        """Count the calls of a run: one for 30 pools, and one that is free where there are more."""
        return min(math.ceil(pools_watched(setup) / MOST_ADDRESSES), 2)

    def collect(self, run: RunContext) -> Iterator[list[Batch] | None]:
        """Yield pools, snapshots and tokens of one call after the other."""
        settings = Settings.read(run.settings)
        network = settings.network
        marked = _marked_gone(run, network)
        turns = PoolTurns.restore(run.state, watched(run, network))
        due = turns.due(run.now().timestamp(), marked)
        if not due:
            raise SkipRun(f"all watched pools of {network} are gone, and were asked for within the last day")
        saved = True
        with Client(run, settings) as client:
            for number, pools in enumerate(_thirties(due), 1):
                if number > 1 and run.calls_free() <= 0:
                    break
                turns.asked(pools, run.now().timestamp())
                saved = False
                with run.target(f"call {number}"):
                    page = _ask(run, client, network, f"call {number}", pools)
                    batches = [] if page is None else _learnt(run, network, page, pools, turns, marked)
                    turns.save(run.state)
                    yield batches
                    saved = True
        if not saved:  # the last call failed: remember that its pools had their turn
            turns.save(run.state)
            yield None


class PoolTurns:
    """Decide which pools to ask for next, the longest wait first. All times are epoch seconds."""

    def __init__(self, pools: Iterable[str]) -> None:
        self._asked: dict[str, float | None] = dict.fromkeys(pools)
        self._gone: set[str] = set()
        self._doubted: set[str] = set()

    def due(self, now: float, marked: Collection[str]) -> list[str]:
        """Return the pools to ask for; `marked` are those that everybody may know to be gone."""
        waited = {pool: self._waited(pool, now) for pool in self._asked}
        due = [pool for pool in waited if waited[pool] >= DAY or pool not in self._gone or pool not in marked]
        return sorted(due, key=lambda pool: -waited[pool])

    def asked(self, pools: Iterable[str], now: float) -> None:
        """Take in that these have their turn."""
        self._asked.update(dict.fromkeys(pools, now))

    def observe(self, pools: Collection[str], shown: Collection[str], *, whole: bool) -> list[str]:
        """Take in which of the pools asked for an answer shows; return those that are gone.

        `whole` says that all of its rows could be read. Raises `AnswerError` if it is not to be believed yet.
        """
        self._gone -= set(shown)
        self._doubted -= set(shown)
        missing = [pool for pool in pools if pool not in shown] if whole else []
        doubtful = set(missing) - self._doubted - self._gone
        if doubtful and not shown and len(pools) > 1:
            self._doubted |= doubtful
            raise AnswerError(f"none of {len(pools)} pools is shown; if that comes again, they are gone")
        self._gone |= set(missing)
        self._doubted -= set(missing)
        return missing

    def save(self, state: MutableMapping[str, Any]) -> None:
        """Write all that is known into `run.state`."""
        state["asked"] = {pool: time for pool, time in self._asked.items() if time is not None}
        state["gone"] = sorted(self._gone)
        state["doubted"] = sorted(self._doubted)

    @classmethod
    def restore(cls, state: Mapping[str, Any], pools: Iterable[str]) -> PoolTurns:
        """Read what `save` wrote, forgetting pools that are not watched any more."""
        turns = cls(pools)
        turns._asked.update({pool: time for pool, time in state.get("asked", {}).items() if pool in turns._asked})
        turns._gone = turns._asked.keys() & set(state.get("gone", ()))
        turns._doubted = turns._asked.keys() & set(state.get("doubted", ()))
        return turns

    def _waited(self, pool: str, now: float) -> float:
        """Seconds since its last turn; endless if there was none, or if it lies in the future: the clock was set."""
        asked_at = self._asked[pool]
        return float("inf") if asked_at is None or asked_at > now else now - asked_at


def _thirties(pools: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(pools), MOST_ADDRESSES):
        yield pools[first : first + MOST_ADDRESSES]


def _ask(run: RunContext, client: Client, network: str, where: str, pools: list[str]) -> PoolPage | None:
    """Ask for up to 30 pools; `None` where the plan doesn't show them. A 404 shows none of them."""
    try:
        return read_pools(run, client, network, "pools", "multi", ",".join(pools), where=where)
    except GoneError:
        return PoolPage(run.now())
    except PlanLimitError as error:
        run.log.info("%s: %s", where, error)
        return None


def _learnt(
    run: RunContext, network: str, page: PoolPage, pools: list[str], turns: PoolTurns, marked: Collection[str]
) -> list[Batch]:
    """Let the turns hear what an answer shows; return what is to be stored of it."""
    found = {folded(row["address"]) for row in page.pools}
    shown = [pool for pool in pools if folded(pool) in found]
    gone = turns.observe(pools, shown, whole=len(page.pools) == page.elements)
    drop_shown(page, set())
    now = run.now().timestamp()
    return [
        *pool_batches(page),
        *(gone_batch(run, network, pool, None) for pool in shown if pool in marked),
        *(gone_batch(run, network, pool, now) for pool in gone if pool not in marked),
    ]


def _marked_gone(run: RunContext, network: str) -> set[str]:
    """Return the watched pools that are marked as gone, by this collector or another."""
    found = stored(
        run,
        "SELECT pool.address AS address FROM gt_watchlist AS watched"
        " JOIN gt_pools AS pool ON pool.network = watched.network AND pool.address = watched.address"
        " WHERE watched.network = ? AND watched.removed_at IS NULL AND pool.gone_at IS NOT NULL",
        network,
    )
    return {row["address"] for row in found}
