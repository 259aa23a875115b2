"""`geckoterminal-top-pools`: the busiest pools of each exchange, as they are and as they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from geckosched import Batch, Collector, ConfigError, RunContext

from .client import BUDGET, Client, GoneError, PlanLimitError, Settings
from .rows import PoolPage, pool_page

__all__ = ["LAST_PAGE", "TopPools", "dex_batch", "pool_batches"]

PAGE_ROWS = 20
"""Pools of a full page (api.md, part 2)."""

LAST_PAGE = 10
"""The last page that the public plan shows (api.md, part 2)."""

INCLUDE = "base_token,quote_token,dex"

GONE_AGAIN_AFTER = 86_400
"""Seconds until an exchange that the API doesn't know is asked for again."""


@dataclass
class TopPoolsOptions:
    """Options of `geckoterminal-top-pools`: `pages` of 20 pools for each exchange, at most 10."""

    pages: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.pages, int) or not 1 <= self.pages <= LAST_PAGE:
            raise ConfigError(f"pages: {self.pages!r} is no number from 1 to {LAST_PAGE}")


class TopPools(Collector):
    """Poll the lists of the exchanges in the plugin's settings, the most traded pools first.

    An exchange is a target, a page of it a transaction.
    """

    name = "geckoterminal-top-pools"
    every = "10m"
    priority = 10
    budget = BUDGET
    Options = TopPoolsOptions

    @staticmethod
    def calls_per_run(options: TopPoolsOptions) -> int:
        """Count the calls of a run for the usual two exchanges."""
        return 2 * options.pages

    def collect(self, run: RunContext) -> Iterator[list[Batch]]:
        """Yield pools, snapshots and tokens of a page at a time."""
        settings = Settings.read(run.settings)
        with Client(run, settings) as client:
            for dex in settings.dexes:
                asked_at = run.state.get("gone", {}).get(dex, {}).get("asked_at", 0)
                if 0 <= run.now().timestamp() - asked_at < GONE_AGAIN_AFTER:
                    continue
                with run.target(dex):
                    yield from _pages(run, client, settings.network, dex)


def dex_batch(rows: list[dict[str, Any]]) -> Batch:
    """Return rows of exchanges for the table that they are stored in."""
    return Batch("gt_dexes", rows, pk=("network", "id"), stamp=("run_id",))


def pool_batches(page: PoolPage) -> list[Batch]:
    """Return a page's rows for the three tables that pools and their tokens are stored in."""
    stamp = ("run_id",)
    key = ("network", "address")
    snapshots = ("network", "address", "at")
    return [
        Batch("gt_pools", page.pools, pk=key, index=(("network", "pool_created_at"),), stamp=stamp),
        Batch("gt_pool_snapshots", page.snapshots, pk=snapshots, on_conflict="ignore", stamp=stamp),
        Batch("gt_tokens", page.tokens, pk=key, stamp=stamp),
    ]


def _pages(run: RunContext, client: Client, network: str, dex: str) -> Iterator[list[Batch]]:
    """Yield the pages of one exchange; rows that moved on to a later page come once."""
    seen: set[str] = set()
    for number in range(1, run.options.pages + 1):
        try:
            body = client.get("networks", network, "dexes", dex, "pools", include=INCLUDE, page=number)
        except GoneError:
            yield [_mark_gone(run, network, dex)]
            return
        except PlanLimitError as error:
            run.log.info("%s, page %d: %s", dex, number, error)
            return
        page = pool_page(body, network=network, at=run.now(), run_id=run.id)
        for row in page.bad:
            run.problem(f"{dex} page {number} {row.where}", row.error)
        full = len(body["data"]) >= PAGE_ROWS
        page.pools = [row for row in page.pools if row["address"] not in seen]
        page.snapshots = [row for row in page.snapshots if row["address"] not in seen]
        seen.update(row["address"] for row in page.pools)
        batches = pool_batches(page)
        if run.state.get("gone", {}).pop(dex, None):
            batches.append(_gone_batch(run, network, dex, None))
        yield batches
        if not full:
            return


def _mark_gone(run: RunContext, network: str, dex: str) -> Batch:
    """Remember that the API doesn't know an exchange, and since when."""
    now = run.now().timestamp()
    known = run.state.setdefault("gone", {}).setdefault(dex, {"since": now})
    known["asked_at"] = now
    run.log.warning("%s has no exchange %s; asked again in a day", network, dex)
    return _gone_batch(run, network, dex, known["since"])


def _gone_batch(run: RunContext, network: str, dex: str, since: float | None) -> Batch:
    gone_at = None if since is None else datetime.fromtimestamp(since, UTC)
    return dex_batch([{"network": network, "id": dex, "gone_at": gone_at, "run_id": run.id}])
