"""`geckoterminal-backfill`: the history of the watched pools' candles, paged back in spare budget only.

`BackfillPlan` decides which pool and timeframe is next; it is told the time. It goes on from the oldest candle that is
stored, once `geckoterminal-ohlcv` has stored a first page, and the place it has come to is saved in one transaction
with the candles. First comes the pair (pool and timeframe) that has the least of its depth, so that all grow together;
of equal ones the longer timeframe, which a call takes further.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from geckosched import Batch, Budget, Collector, ConfigError, RunContext, Setup, SkipRun, parse_duration

from .client import BUDGET, ApiError, Client, GoneError, PlanLimitError, Settings
from .estimates import SPARE, backfill_calls
from .ohlcv import LONGEST_RUN, TIMEFRAMES_DEFAULT, ask_page, candle_batch, checked, lose
from .rows import TIMEFRAMES, CandlePage
from .stretches import DAY, LARGEST_LIMIT, End, Gone, Stretch, again_after
from .watchlist import gone_batch, stored, watched

__all__ = ["Backfill", "BackfillOptions", "BackfillPlan", "Page", "calls_to_spare", "oldest_stored"]

HOUR_MICROSECONDS = 3_600_000_000

RETRY = 3600.0
"""Seconds until what could not be read is asked for again; twice that after the second time, and so on up to a day."""


def _depths() -> dict[str, timedelta]:
    """Return how far back each timeframe goes unless asked otherwise: half a year is all that the public plan shows."""
    days = {"1m": 7, "5m": 30, "15m": 90}
    return {name: timedelta(days=days.get(name, 180)) for name in TIMEFRAMES}


@dataclass
class BackfillOptions:
    """Options of `geckoterminal-backfill`.

    `depth` says by timeframe how far back to go, as in `{"1m" = "2d"}`; those that it leaves out keep their default.
    One of more than 180 days is allowed, and ends where the plan does.
    """

    timeframes: list[str] = field(default_factory=lambda: list(TIMEFRAMES_DEFAULT))
    depth: dict[str, timedelta] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.timeframes = checked(self.timeframes)
        if not isinstance(self.depth, Mapping):
            raise ConfigError(f'depth: {self.depth!r} is no table of timeframes such as {{"1m" = "7d"}}')
        depths = _depths()
        for name, value in self.depth.items():
            if name not in TIMEFRAMES:
                close = difflib.get_close_matches(str(name), TIMEFRAMES, n=1)
                hint = f', did you mean "{close[0]}"?' if close else ""
                raise ConfigError(f"depth: {name!r} is none of {' '.join(TIMEFRAMES)}{hint}")
            if name not in self.timeframes:
                raise ConfigError(f"depth: {name} is not among the timeframes {' '.join(self.timeframes)}")
            depths[name] = timedelta(microseconds=parse_duration(value, f"depth {name}"))
        self.depth = {name: depths[name] for name in self.timeframes}


class Backfill(Collector):
    """Page back from the oldest stored candle of each watched pool to `depth`.

    A pool and a timeframe together are a target, a page a transaction. Only calls that are free at once are made, and
    none while the plugin's jobs made more than 80 % of the hourly rate within the last hour.
    """

    name = "geckoterminal-backfill"
    every = "1m"
    priority = -10
    timeout = "5m"
    budget = BUDGET
    Options = BackfillOptions

    @staticmethod
    def calls_per_run(_options: BackfillOptions, setup: Setup) -> float:
        """Estimate what the others leave of 80 % of the rate; once all history is there it is nothing."""
        return backfill_calls(setup) / 60

    def collect(self, run: RunContext) -> Iterator[list[Batch] | None]:
        """Yield one page at a time; raise `SkipRun` that says why there is none."""
        settings = Settings.read(run.settings)
        network = settings.network
        plan = BackfillPlan.restore(run.state, watched(run, network), run.options.depth)
        for row in oldest_stored(run, network, run.options.timeframes):
            plan.begin(row["pool"], row["timeframe"], row["oldest"])
        plan.save(run.state)
        yield None  # what is no longer watched is forgotten, even if there is nothing to do
        if (page := plan.next(_now(run))) is None:
            raise SkipRun(plan.told(_now(run)))
        calls = calls_to_spare(run)
        with Client(run, settings) as client:
            while page is not None and calls > 0 and _has_time(run) and run.calls_free() > 0:
                calls -= 1
                plan.defer(page, _now(run))  # until it is observed
                with run.target(f"{page.pool} {page.timeframe}"):
                    batches = _ask(run, client, network, page, plan)
                    plan.save(run.state)
                    yield batches
                page = plan.next(_now(run))
        plan.save(run.state)  # if the last call failed: when to try again
        yield None


class Page(NamedTuple):
    """One call to make: for a pair's history, or (`gap`) for what could not be read of it."""

    pool: str
    timeframe: str
    stretch: Stretch
    gap: bool = False


@dataclass(slots=True)
class _Pair:
    """How far a pool's history of one timeframe has come; times in epoch seconds.

    `before` is the oldest candle so far. `end` is why there is no more of it, `depth` how many seconds back it was to
    go then: where the option asks for more, it is tried again.
    """

    before: int
    due_at: float = 0.0
    tries: int = 0
    end: str | None = None
    depth: float = 0.0
    gaps: list[Stretch] = field(default_factory=list)


class BackfillPlan:
    """Decide which history to page back next.

    A pair ends where its depth does, at an answer that is empty or has nothing older, and at the plan's limit; one that
    is merely short may have been cut by its span. What could not be read in a page is a gap, asked for again an hour
    later and then ever more seldom. A pool that is gone is asked once a day. All times are epoch seconds.
    """

    def __init__(self, pools: Iterable[str], depth: Mapping[str, timedelta]) -> None:
        self.gone = Gone()
        self._pools = list(pools)
        self._depth = {name: each.total_seconds() for name, each in depth.items()}
        self._pairs: dict[tuple[str, str], _Pair] = {}

    def begin(self, pool: str, name: str, oldest: int | None) -> None:
        """Take in the oldest candle that is stored of a pair; one that is known goes on from where it was."""
        if oldest is not None and (pool, name) not in self._pairs and name in self._depth:
            self._pairs[pool, name] = _Pair(oldest)

    def next(self, now: float) -> Page | None:
        """Return the call to make, None if there is none now: first a gap that is due, then the least history."""
        wanted = [page for page in self._wanted(now) if page.stretch.due(now) <= now]
        wanted = [page for page in wanted if not self.gone.rests(page.pool, now)]
        if not wanted:
            return None
        return min(wanted, key=lambda page: (not page.gap, self._share(page, now), *_longest_first(page)))

    def told(self, now: float) -> str:
        """Say why there is no call to make: how many pairs are at their end, and what the others wait for."""
        pairs, waiting = len(self._pools) * len(self._depth), len({page[:2] for page in self._wanted(now)})
        counted = {
            "at their end": len(self._pairs) - waiting,
            "to be tried again later": waiting,
            "without a first candle": pairs - len(self._pairs),
        }
        told = ", ".join(f"{count} {what}" for what, count in counted.items() if count)
        return f"nothing to page back now; of {pairs} pairs of pool and timeframe {told}"

    def defer(self, page: Page, now: float) -> None:
        """Take in that a call is being made: should it fail, it is tried again after a while."""
        if page.gap:
            page.stretch.defer(now)
            return
        pair = self._pairs[page.pool, page.timeframe]
        pair.due_at, pair.tries = now + again_after(pair.tries), pair.tries + 1

    def observe(self, page: Page, now: float, limit: int, answer: CandlePage) -> Stretch | None:
        """Take in an answer; return what is found to be lost."""
        pair, step = self._pairs[page.pool, page.timeframe], TIMEFRAMES[page.timeframe].step
        full = answer.listed >= limit
        left = page.stretch.take(answer, step, now, full=full or not page.gap, retry=RETRY)
        if page.gap:
            pair.gaps.remove(page.stretch)
            pair.gaps += left.stretches
            return page.stretch if full and left.end is End.UNMOVED else None
        pair.due_at, pair.tries = now, 0
        if left.unread is not None:
            pair.gaps.append(left.unread)
        if left.rest is not None:
            pair.before, pair.due_at, pair.tries = left.rest.before, left.rest.due_at, left.rest.tries
        elif left.end in (End.EMPTY, End.UNMOVED):
            self._end(page, left.end)
        elif answer.oldest is not None:
            pair.before = answer.oldest
        return None

    def beyond(self, page: Page) -> Stretch | None:
        """Take in that the plan doesn't show what was asked for; return what of it is lost."""
        if not page.gap:
            self._end(page, End.PLAN)
            return None
        self._pairs[page.pool, page.timeframe].gaps.remove(page.stretch)
        return page.stretch

    def refused(self, page: Page, now: float) -> None:
        """Take in that the API refuses: it is tried again after a day."""
        if page.gap:
            page.stretch.due_at = now + DAY
        else:
            self._pairs[page.pool, page.timeframe].due_at = now + DAY

    def save(self, state: MutableMapping[str, Any]) -> None:
        """Write all that is known into `run.state`."""
        pairs: dict[str, dict[str, Any]] = {}
        for (pool, name), pair in self._pairs.items():
            pairs.setdefault(pool, {})[name] = asdict(pair)
        state["pairs"] = pairs
        self.gone.save(state)

    @classmethod
    def restore(cls, state: Mapping[str, Any], pools: Iterable[str], depth: Mapping[str, timedelta]) -> BackfillPlan:
        """Read what `save` wrote, as far as it concerns these pools and timeframes."""
        plan = cls(pools, depth)
        for pool in plan._pools:
            for name, known in state.get("pairs", {}).get(pool, {}).items():
                if name in plan._depth:
                    gaps = [Stretch(**gap) for gap in known["gaps"]]
                    plan._pairs[pool, name] = _Pair(**(known | {"gaps": gaps}))
        plan.gone = Gone.restore(state, plan._pools)
        return plan

    def _wanted(self, now: float) -> Iterator[Page]:
        """Yield what is still to be had, due or not."""
        for (pool, name), pair in self._pairs.items():
            yield from (Page(pool, name, gap, True) for gap in pair.gaps)
            step, depth = TIMEFRAMES[name].step, self._depth[name]
            after = int((now - depth) // step) * step - step
            ended = pair.end is not None and depth <= pair.depth
            if not ended and pair.before - step > after:
                yield Page(pool, name, Stretch(after, pair.before, due_at=pair.due_at, tries=pair.tries))

    def _share(self, page: Page, now: float) -> float:
        return (now - self._pairs[page.pool, page.timeframe].before) / self._depth[page.timeframe]

    def _end(self, page: Page, end: End) -> None:
        pair = self._pairs[page.pool, page.timeframe]
        pair.end, pair.depth = end.value, self._depth[page.timeframe]
        pair.due_at, pair.tries = 0.0, 0  # where more is asked for than that, it is at once


def calls_to_spare(run: RunContext) -> int:
    """Return how many calls there are until those of the last hour are 80 % of the rate; raise `SkipRun` for none.

    A run's calls count from when they are stored until an hour after it has ended.
    """
    found = stored(run, "SELECT rate FROM geckosched_budgets WHERE name = ?", BUDGET.name)
    budget = Budget(BUDGET.name, found[0]["rate"] if found else BUDGET.rate)
    allowed = int(SPARE * budget.calls * HOUR_MICROSECONDS / budget.window)
    since = f"{run.now() - timedelta(hours=1):%Y-%m-%dT%H:%M:%S.%fZ}"
    (made,) = run.query(CALLS_SINCE, {"job_id": run.job_id, "since": since})
    if made["calls"] >= allowed:
        raise SkipRun(f"{made['calls']} calls in the last hour; it takes part below {allowed}, 80 % of {budget.rate}")
    if not run.calls_free():
        raise SkipRun("no call is free now")
    return allowed - int(made["calls"])


CALLS_SINCE = """
WITH RECURSIVE
  mine AS (
    SELECT job_id FROM geckosched_jobs
    WHERE plugin IS (SELECT plugin FROM geckosched_jobs WHERE job_id = :job_id)
  ),
  recent (job_id, id) AS (
    SELECT job_id, (SELECT max(id) FROM geckosched_runs AS newest WHERE newest.job_id = mine.job_id) FROM mine
    UNION ALL
    SELECT
      run.job_id,
      (SELECT max(id) FROM geckosched_runs AS older WHERE older.job_id = run.job_id AND older.id < run.id)
    FROM recent JOIN geckosched_runs AS run ON run.id = recent.id
    WHERE run.finished_at IS NULL OR run.finished_at >= :since
  )
SELECT coalesce(sum(run.calls), 0) AS calls
FROM recent JOIN geckosched_runs AS run ON run.id = recent.id
WHERE run.finished_at IS NULL OR run.finished_at >= :since
"""
"""Calls of the plugin's runs that have not ended before `:since`: job by job, from the newest run back to the first
that has, each a look into the index (job_id), whatever else the table holds."""


def oldest_stored(run: RunContext, network: str, timeframes: Iterable[str]) -> list[dict[str, Any]]:
    """Return the oldest candle of each watched pool and timeframe: one look into the table's key for each."""
    return stored(
        run,
        "SELECT watched.address AS pool, timeframe.value AS timeframe,"
        " (SELECT min(ts) FROM gt_ohlcv AS candle WHERE candle.network = watched.network"
        "  AND candle.pool = watched.address AND candle.timeframe = timeframe.value) AS oldest"
        " FROM gt_watchlist AS watched, json_each(?) AS timeframe"
        " WHERE watched.network = ? AND watched.removed_at IS NULL",
        json.dumps(list(timeframes)),
        network,
    )


def _ask(run: RunContext, client: Client, network: str, page: Page, plan: BackfillPlan) -> list[Batch]:
    """Make one call and tell the plan how it went; return what is to be stored."""
    pool, name, stretch, gap = page
    limit = stretch.limit(TIMEFRAMES[name].step) if gap else LARGEST_LIMIT
    try:
        answer, _ = ask_page(run, client, network, pool, name, limit=limit, before=stretch.before)
    except GoneError:
        run.log.info("%s is gone; asked again in a day", pool)
        return [gone_batch(run, network, pool, plan.gone.mark(pool, _now(run)))]
    except PlanLimitError as error:
        run.log.info("%s %s: %s", pool, name, error)
        lose(run, pool, name, plan.beyond(page))
        return []
    except ApiError:
        plan.refused(page, _now(run))
        raise
    lose(run, pool, name, plan.observe(page, _now(run), limit, answer))
    batches = [candle_batch(answer)]
    if plan.gone.back(pool):
        batches.append(gone_batch(run, network, pool, None))
    return batches


def _longest_first(page: Page) -> tuple[int, str]:
    return -TIMEFRAMES[page.timeframe].step, page.pool


def _has_time(run: RunContext) -> bool:
    return not run.stopping and run.now() - run.started_at <= timedelta(seconds=LONGEST_RUN)


def _now(run: RunContext) -> float:
    return run.now().timestamp()
