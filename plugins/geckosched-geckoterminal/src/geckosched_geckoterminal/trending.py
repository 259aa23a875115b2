"""`geckoterminal-trending`: the pools that the API calls trending. Off unless the configuration says otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from geckosched import Batch, Collector, RunContext, SkipRun

from .client import BUDGET, Client, GoneError, PlanLimitError, Settings
from .pools import drop_shown, network_back, network_gone, network_rests, pool_batches, read_pools

__all__ = ["Trending"]


class Trending(Collector):
    """Read the first page, of 20 pools, one call a run.

    It takes calls that the watched pools could use, so it runs only with `enabled = true` in its table.
    """

    name = "geckoterminal-trending"
    every = "15m"
    priority = 0
    enabled = False
    budget = BUDGET
    calls_per_run = 1

    def collect(self, run: RunContext) -> Iterator[list[Batch]]:
        """Yield the page's pools and their tokens."""
        settings = Settings.read(run.settings)
        if network_rests(run, settings.network):
            raise SkipRun(f"the API has no network {settings.network}; asked again a day after it was last")
        with Client(run, settings) as client, run.target("trending"):
            yield _read(run, client, settings.network)


def _read(run: RunContext, client: Client, network: str) -> list[Batch]:
    try:
        page = read_pools(run, client, network, "trending_pools", where="trending")
    except GoneError:
        return [network_gone(run, network)]
    except PlanLimitError as error:
        run.log.info("trending: %s", error)
        return []
    drop_shown(page, set())
    return [*pool_batches(page, snapshots=False), *network_back(run, network)]
