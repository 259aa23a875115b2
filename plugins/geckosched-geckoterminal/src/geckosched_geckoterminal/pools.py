"""What the collectors of pools share: how they ask, and the tables that they fill.

`read_pools` asks one question and returns a page, whose unreadable rows are told by then; `pool_batches` says where its
rows belong. A list moves while it is read, so that a pool may stand on two pages: `drop_shown` leaves out the second.
A network that the API doesn't know is marked in `gt_networks` and left alone for a day (`network_rests`,
`network_gone`, `network_back`).
"""

from __future__ import annotations

from datetime import datetime

from geckosched import Batch, RunContext

from .client import Client
from .rows import PoolPage, Row, pool_page
from .watchlist import stored

__all__ = [
    "DAY",
    "INCLUDE",
    "LAST_PAGE",
    "MOST_ADDRESSES",
    "PAGE_ROWS",
    "dex_batch",
    "drop_shown",
    "network_back",
    "network_gone",
    "network_gone_batch",
    "network_rests",
    "pool_batches",
    "read_pools",
]

PAGE_ROWS = 20
"""Pools of a full page (api.md, part 2)."""

LAST_PAGE = 10
"""The last page that the public plan shows (api.md, part 2)."""

MOST_ADDRESSES = 30
"""Pools or tokens of one question at most (api.md, part 2)."""

INCLUDE = "base_token,quote_token,dex"

DAY = 86_400
"""Seconds until something that the API doesn't know is asked for again."""


def read_pools(
    run: RunContext, client: Client, network: str, *path: str, where: str, include: str = INCLUDE, **more: str | int
) -> PoolPage:
    """Ask for pools below a network's path; each row that can't be read is a problem, named after `where`.

    Raises what `Client.ask` does, and `AnswerError` for a body without a readable pool.
    """
    body, at = client.ask("networks", network, *path, include=include, **more)
    page = pool_page(body, network=network, at=at, run_id=run.id)
    for row in page.bad:
        run.problem(f"{where} {row.where}", row.error)
    return page


def drop_shown(page: PoolPage, shown: set[str]) -> None:
    """Take out the pools that are in `shown`, and second rows of one pool; add the others to `shown`."""
    before = set(shown)
    page.pools = _first_of_each(page.pools, shown)
    page.snapshots = _first_of_each(page.snapshots, before)


def pool_batches(page: PoolPage, *, snapshots: bool = True) -> list[Batch]:
    """Return a page's rows for the tables that pools and their tokens are stored in."""
    stamp = ("run_id",)
    key = ("network", "address")
    born = (("network", "pool_created_at"),)
    batches = [
        Batch("gt_pools", page.pools, pk=key, index=born, stamp=stamp),
        Batch("gt_tokens", page.tokens, pk=key, stamp=stamp),
    ]
    if snapshots:
        moments = ("network", "address", "at")
        batches.append(Batch("gt_pool_snapshots", page.snapshots, pk=moments, on_conflict="ignore", stamp=stamp))
    return batches


def dex_batch(rows: list[Row]) -> Batch:
    """Return rows of exchanges for the table that they are stored in."""
    return Batch("gt_dexes", rows, pk=("network", "id"), stamp=("run_id",))


def network_rests(run: RunContext, network: str) -> bool:
    """Tell whether this collector found the network to be gone within the last day."""
    asked_at: float | None = run.state.get("gone", {}).get(network)
    return asked_at is not None and 0 <= run.now().timestamp() - asked_at < DAY


def network_gone(run: RunContext, network: str) -> Batch:
    """Mark a network that the API doesn't know, and remember that it was asked for now."""
    run.state["gone"] = {network: run.now().timestamp()}
    return network_gone_batch(run, network)


def network_gone_batch(run: RunContext, network: str) -> Batch:
    """Mark a network that the API doesn't know, keeping since when."""
    run.log.warning("the API has no network %s", network)
    since = stored(run, "SELECT gone_at FROM gt_networks WHERE id = ?", network)
    return _network_batch(run, network, (since[0]["gone_at"] if since else None) or run.now())


def network_back(run: RunContext, network: str) -> list[Batch]:
    """Return what takes the mark off a network that this collector found to be gone; nothing for any other."""
    gone = run.state.pop("gone", {})
    return [_network_batch(run, network, None)] if network in gone else []


def _network_batch(run: RunContext, network: str, gone_at: datetime | str | None) -> Batch:
    row = {"id": network, "gone_at": gone_at, "run_id": run.id}
    return Batch("gt_networks", [row], pk=("id",), stamp=("run_id",))


def _first_of_each(rows: list[Row], shown: set[str]) -> list[Row]:
    first = []
    for row in rows:
        if row["address"] not in shown:
            shown.add(row["address"])
            first.append(row)
    return first
