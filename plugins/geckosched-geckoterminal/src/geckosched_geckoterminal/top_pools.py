"""`geckoterminal-top-pools`: the busiest pools of each exchange, as they are and as they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from geckosched import Batch, Collector, ConfigError, RunContext, Setup

from .client import BUDGET, Client, GoneError, PlanLimitError, Settings
from .estimates import exchanges
from .pools import DAY, LAST_PAGE, PAGE_ROWS, dex_batch, drop_shown, pool_batches, read_pools

__all__ = ["TopPools"]


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
    def calls_per_run(options: TopPoolsOptions, setup: Setup) -> int:
        """Count the calls of a run for the exchanges of the settings."""
        return exchanges(setup) * options.pages

    def collect(self, run: RunContext) -> Iterator[list[Batch]]:
        """Yield pools, snapshots and tokens of a page at a time."""
        settings = Settings.read(run.settings)
        with Client(run, settings) as client:
            for dex in settings.dexes:
                asked_at = run.state.get("gone", {}).get(dex, {}).get("asked_at", 0)
                if 0 <= run.now().timestamp() - asked_at < DAY:
                    continue
                with run.target(dex):
                    yield from _pages(run, client, settings.network, dex)


def _pages(run: RunContext, client: Client, network: str, dex: str) -> Iterator[list[Batch]]:
    """Yield the pages of one exchange; rows that moved on to a later page come once."""
    shown: set[str] = set()
    for number in range(1, run.options.pages + 1):
        where = f"{dex} page {number}"
        try:
            page = read_pools(run, client, network, "dexes", dex, "pools", where=where, page=number)
        except GoneError:
            if number == 1:  # else it is the end of the list
                yield [_mark_gone(run, network, dex)]
            return
        except PlanLimitError as error:
            run.log.info("%s: %s", where, error)
            return
        drop_shown(page, shown)
        batches = pool_batches(page)
        if run.state.get("gone", {}).pop(dex, None):
            batches.append(_gone_batch(run, network, dex, None))
        yield batches
        if page.elements < PAGE_ROWS:
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
