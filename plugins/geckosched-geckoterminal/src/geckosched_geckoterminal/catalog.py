"""`geckoterminal-catalog`: the networks that the API knows, and the exchanges of the configured one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from geckosched import Batch, Collector, RunContext

from .client import BUDGET, Client, GoneError, PlanLimitError, Settings
from .pools import LAST_PAGE, dex_batch, network_gone_batch
from .rows import DEX_ATTRIBUTES, NETWORK_ATTRIBUTES, AnswerError, CatalogPage, catalog_page
from .watchlist import stored

__all__ = ["Catalog"]


class Catalog(Collector):
    """Read both lists once a day; an exchange of the settings that its list lacks is a problem.

    Each list is a target, a page of it a transaction. What a list no longer shows is marked `gone_at`, and stays; that
    takes a list that was read to its end without a doubt. `geckoterminal-top-pools` marks exchanges too: what was
    seen last stands.
    """

    name = "geckoterminal-catalog"
    every = "1d"
    priority = 0
    budget = BUDGET
    calls_per_run = 4

    def collect(self, run: RunContext) -> Iterator[Batch]:
        """Yield the networks, then the exchanges, a page at a time."""
        settings = Settings.read(run.settings)
        with Client(run, settings) as client:
            with run.target("networks"):
                yield from _networks(run, client)
            with run.target("dexes"):
                yield from _dexes(run, client, settings)


@dataclass(slots=True)
class _Listing:
    """What was read of a list so far: its ids, whether to its end, and whether nothing of it is in doubt."""

    shown: set[str] = field(default_factory=set)
    ended: bool = False
    whole: bool = True


def _networks(run: RunContext, client: Client) -> Iterator[Batch]:
    listing = _Listing()
    for page in _pages(run, client, ("networks",), NETWORK_ATTRIBUTES, listing):
        yield Batch("gt_networks", page.rows, pk=("id",), stamp=("run_id",))
    known = stored(run, "SELECT id FROM gt_networks WHERE gone_at IS NULL")
    if gone := _vanished(listing, (row["id"] for row in known)):
        run.log.warning("no longer among the networks: %s", ", ".join(gone))
        rows = [{"id": each, "gone_at": run.now(), "run_id": run.id} for each in gone]
        yield Batch("gt_networks", rows, pk=("id",), stamp=("run_id",))


def _dexes(run: RunContext, client: Client, settings: Settings) -> Iterator[Batch]:
    network, listing = settings.network, _Listing()
    try:
        for page in _pages(run, client, ("networks", network, "dexes"), DEX_ATTRIBUTES, listing):
            yield dex_batch([{"network": network} | row for row in page.rows])
    except GoneError:
        yield network_gone_batch(run, network)
        listing.ended, listing.whole = True, False
    known = stored(run, "SELECT id FROM gt_dexes WHERE network = ? AND gone_at IS NULL", network)
    if gone := _vanished(listing, (row["id"] for row in known)):
        run.log.warning("no longer among the exchanges of %s: %s", network, ", ".join(gone))
        yield dex_batch([{"network": network, "id": each, "gone_at": run.now(), "run_id": run.id} for each in gone])
    if listing.ended:
        for dex in settings.dexes:
            if dex not in listing.shown:
                run.problem(dex, LookupError(_missing(dex, network, listing.shown)))


def _pages(
    run: RunContext, client: Client, path: tuple[str, ...], attributes: tuple[str, ...], listing: _Listing
) -> Iterator[CatalogPage]:
    """Yield the pages of a list, each row once, to its end or as far as the plan reaches.

    An empty first page is no list. A later one is the end, but perhaps not of a whole list. A page that repeats what
    was shown is a problem, and the last: the paging goes round in circles.
    """
    name = path[-1]
    for number in range(1, LAST_PAGE + 1):
        try:
            body = client.get(*path, page=number)
        except PlanLimitError as error:
            run.log.info("%s, page %d: %s", name, number, error)
            return
        page = catalog_page(body, attributes, run_id=run.id)
        for row in page.bad:
            listing.whole = False
            run.problem(f"{name} page {number} {row.where}", row.error)
        if not page.rows:
            if number == 1:
                raise AnswerError(f"{name}: an empty list")
            listing.ended, listing.whole = True, False
            return
        fresh = {row["id"]: row for row in page.rows if row["id"] not in listing.shown}
        if not fresh:
            run.problem(f"{name} page {number}", AnswerError("it shows nothing that the pages before it did not"))
            return
        listing.shown.update(fresh)
        listing.ended = not page.more
        page.rows = list(fresh.values())
        yield page
        if listing.ended:
            return
    run.log.info("%s: the plan shows %d pages of them, and there are more", name, LAST_PAGE)


def _vanished(listing: _Listing, known: Iterable[str]) -> list[str]:
    """Return what was known and is not in the list; nothing, if that may lie in what could not be read."""
    return sorted(set(known) - listing.shown) if listing.ended and listing.whole else []


def _missing(dex: str, network: str, shown: Iterable[str]) -> str:
    close = difflib.get_close_matches(dex, sorted(shown), n=1)
    hint = f', did you mean "{close[0]}"?' if close else ""
    return f"{network} has no exchange of this id, named in [plugins.geckoterminal] dexes{hint}"
