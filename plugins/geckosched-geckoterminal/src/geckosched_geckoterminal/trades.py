"""`geckoterminal-trades`: every trade of the watched pools, and a loss for what got away."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import astuple, dataclass
from datetime import timedelta
from hashlib import blake2b
from typing import Any

from geckosched import Batch, Collector, ConfigError, RunContext, Setup, parse_duration

from .client import BUDGET, ApiError, Client, GoneError, PlanLimitError, Settings
from .estimates import pools_watched, trade_calls
from .hints import take_hints
from .lateness import Sight
from .rotation import DAY, Loss, TradeRotation
from .rows import TradePage, trade_page
from .watchlist import gone_batch, stored, watched

__all__ = ["Trades", "next_pool"]

KEYS = 20
"""Trades of the last answer that are remembered, to see whether the next one reaches back to it."""

AGAIN_AFTER = 45
"""Seconds until a pool whose call failed is asked again, in the next run; twice as long after each further failure."""

REFUSED_AGAIN_AFTER = 3600
"""Seconds until a pool that the API refuses (400, 422) is asked again, and the longest that a failing one is left."""

SAME_ANSWER_SECONDS = 30
"""How long the API's cache would give the same answer again (api.md, part 2)."""

URGENT_FILL = 0.1
"""Part of a window that a call must be expected to save for a run to wait for its first one."""

SURE_FILL = 0.5
"""Part of a window that a call must be expected to save for a run to wait for further ones."""

LONGEST_WAIT = 35
"""Seconds after which a run waits for no further call: some of each minute's calls are for the others."""

LONGEST_RUN = 50
"""Seconds after which a run starts no further call: the next slot is near, and others want some."""


@dataclass
class TradesOptions:
    """Options of `geckoterminal-trades`.

    Trades of at most `min_volume_usd` are left out. Every pool is asked at least once in
    `max_wait`, which must be less than the 24 hours that the API shows.
    """

    min_volume_usd: float = 0
    max_wait: timedelta = timedelta(hours=6)

    def __post_init__(self) -> None:
        if not isinstance(self.min_volume_usd, int | float) or not self.min_volume_usd >= 0:
            raise ConfigError(f"min_volume_usd: {self.min_volume_usd!r} is no amount from 0 up")
        self.max_wait = timedelta(microseconds=parse_duration(self.max_wait, "max_wait"))
        if not timedelta(minutes=1) <= self.max_wait < timedelta(days=1):
            raise ConfigError(f"max_wait: {self.max_wait} is not between 1m and 24h, which is all the API shows")


class Trades(Collector):
    """Poll the watched pools in the order in which their windows fill up.

    Each pool is one transaction: its trades, and in the state the rotation, the newest keys by
    which the next answer shows whether it reaches back to this one, and the pools that are gone.
    """

    name = "geckoterminal-trades"
    every = "1m"
    priority = 40
    timeout = "5m"
    budget = BUDGET
    Options = TradesOptions

    @staticmethod
    def calls_per_run(_options: TradesOptions, setup: Setup) -> float:
        """Estimate the calls of a run by the number of watched pools, most of them quiet."""
        return trade_calls(pools_watched(setup)) / 60

    def collect(self, run: RunContext) -> Iterator[list[Batch] | None]:
        """Yield one pool's rows after the other, as long as one is worth a call."""
        settings = Settings.read(run.settings)
        pools = watched(run, settings.network)
        memory = _Memory.restore(
            run.state,
            _expected(run, settings.network, pools),
            max_wait=run.options.max_wait.total_seconds(),
        )
        if not run.options.min_volume_usd:  # figures count the small trades, too
            take_hints(run, settings.network, memory.rotation)
        saved, calls = True, 0
        with Client(run, settings) as client:
            while pool := next_pool(run, memory.rotation, calls):
                calls += 1
                memory.asked(pool, _now(run))
                saved = False
                with run.target(pool):
                    batches = _poll(run, client, settings.network, pool, memory)
                    memory.save(run.state)
                    yield batches
                    saved = True
        if not saved:  # the last pool failed: remember when to ask it again
            memory.save(run.state)
            yield None


@dataclass(slots=True)
class _Memory:
    """What the collector knows, as it stands in `run.state`.

    `keys` are the newest trades of each pool's last answer, as short hashes; `sights` tell how late its trades appear;
    `gone` is when a pool was first found to be gone, in epoch seconds; `failures` counts a pool's calls since the last
    one that told something.
    """

    rotation: TradeRotation
    keys: dict[str, list[str]]
    sights: dict[str, Sight]
    gone: dict[str, float]
    failures: dict[str, int]

    @classmethod
    def restore(cls, state: Mapping[str, Any], pools: Mapping[str, float], *, max_wait: float) -> _Memory:
        """Read the state, forgetting pools that are not watched any more."""

        def kept(name: str) -> dict[str, Any]:
            known = state.get(name, {})
            return {pool: known[pool] for pool in pools if pool in known}

        rotation = TradeRotation.restore(state.get("rotation", {}), pools, max_wait=max_wait)
        sights = {pool: Sight(*sight) for pool, sight in kept("sights").items()}
        return cls(rotation, kept("keys"), sights, kept("gone"), kept("failures"))

    def save(self, state: MutableMapping[str, Any]) -> None:
        state["rotation"] = self.rotation.snapshot()
        state["keys"] = self.keys
        state["sights"] = {pool: [*astuple(sight)] for pool, sight in self.sights.items()}
        state["gone"] = self.gone
        state["failures"] = self.failures

    def asked(self, pool: str, now: float) -> None:
        """Leave a pool out for a while, until what it is asked now has told something."""
        failures = self.failures.get(pool, 0)
        self.failures[pool] = failures + 1
        self.rotation.defer(pool, now + min(AGAIN_AFTER * 2.0 ** min(failures, 10), REFUSED_AGAIN_AFTER))

    def answered(self, pool: str, *, not_before: float) -> None:
        """Take in that a pool is not to be asked until then."""
        self.failures.pop(pool, None)
        self.rotation.defer(pool, not_before)

    def observe(self, pool: str, now: float, page: TradePage) -> Loss | None:
        """Take in an answer; return what it shows to be lost."""
        self.failures.pop(pool, None)
        shown = [_short_hash(key) for key in page.keys]
        overlap = not set(self.keys.get(pool, ())).isdisjoint(shown)
        sight = self.sights.setdefault(pool, Sight())
        loss = self.rotation.observe(pool, now, page.times, overlap)
        self.rotation.defer(pool, now + SAME_ANSWER_SECONDS)
        if loss is None and overlap:
            loss = sight.loss(page)
        sight.observe(page)
        if shown:
            self.keys[pool] = shown[:KEYS]
        return loss


def next_pool(run: RunContext, rotation: TradeRotation, calls: int) -> str | None:
    """Name the next pool to ask, after `calls` in this run.

    A call that goes out at once is free for any pool that is worth one. Where there is none, a run waits, in front of
    all collectors of lower priority, for its first call if a pool's window may well overflow, and for further ones if
    a window is probably full, or was never looked at: were it to rely on free calls alone, those who come at a luckier
    moment of the minute would leave it none. It does so for a part of the minute only, so that a market that trades
    more than the calls can carry leaves the others some.
    """
    age = run.now() - run.started_at
    if run.stopping or age > timedelta(seconds=LONGEST_RUN):
        return None
    now, free = _now(run), run.calls_free()
    if free > 0:
        picked = rotation.pick(now, free)
    elif age <= timedelta(seconds=LONGEST_WAIT):
        picked = rotation.pick(now, 1, fill=SURE_FILL if calls else URGENT_FILL)
    else:
        return None
    return picked[0] if picked else None


def _poll(run: RunContext, client: Client, network: str, pool: str, memory: _Memory) -> list[Batch]:
    """Ask for one pool's trades; return what is to be stored."""
    parameters = {}
    if run.options.min_volume_usd:
        parameters["trade_volume_in_usd_greater_than"] = run.options.min_volume_usd
    try:
        body = client.get("networks", network, "pools", pool, "trades", **parameters)
    except GoneError:
        now = _now(run)
        run.log.info("%s is gone; asked again in a day", pool)
        memory.answered(pool, not_before=now + DAY)
        return [gone_batch(run, network, pool, memory.gone.setdefault(pool, now))]
    except PlanLimitError as error:
        run.log.info("%s: %s; asked again in a day", pool, error)
        memory.answered(pool, not_before=_now(run) + DAY)
        return []
    except ApiError:
        memory.answered(pool, not_before=_now(run) + REFUSED_AGAIN_AFTER)
        raise
    page = trade_page(body, network=network, pool=pool, run_id=run.id)
    for row in page.bad:
        run.problem(f"{pool} {row.where}", row.error)
    batches = [_trades_batch(page)]
    if memory.gone.pop(pool, None) is not None:
        batches.append(gone_batch(run, network, pool, None))
    if loss := memory.observe(pool, _now(run), page):
        run.lost(pool, loss.count, loss.since, loss.until)
    return batches


def _now(run: RunContext) -> float:
    return run.now().timestamp()


def _expected(run: RunContext, network: str, pools: Iterable[str]) -> dict[str, float]:
    """Return the trades a day that each pool had when another collector last saw it; else 0."""
    known = stored(
        run,
        "SELECT pool.address AS address,"
        " pool.transactions_h24_buys + pool.transactions_h24_sells AS trades"
        " FROM gt_watchlist AS watched"
        " JOIN gt_pools AS pool ON pool.network = watched.network AND pool.address = watched.address"
        " WHERE watched.network = ? AND watched.removed_at IS NULL",
        network,
    )
    trades: dict[str, Any] = {row["address"]: row["trades"] for row in known}
    return {pool: _believed(trades.get(pool)) for pool in pools}


def _believed(trades: object) -> float:
    """Return a number of trades as an answer may have told it, 0 where that is none: a state can't hold infinity."""
    return max(0.0, trades) if isinstance(trades, int | float) and math.isfinite(trades) else 0.0


def _short_hash(key: tuple[str, int | str]) -> str:
    """Shorten `(tx_hash, n)`: 20 keys against 300 trades coincide once in 700,000 answers."""
    return blake2b(f"{key[0]}_{key[1]}".encode(), digest_size=4).hexdigest()


def _trades_batch(page: TradePage) -> Batch:
    return Batch(
        "gt_trades",
        page.rows,
        pk=("network", "tx_hash", "n"),
        on_conflict="ignore",
        index=(("network", "pool", "block_timestamp"),),
        stamp=("run_id",),
    )
