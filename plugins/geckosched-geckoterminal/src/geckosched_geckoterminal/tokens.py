"""`geckoterminal-tokens`: the symbol and decimals of tokens that no list of pools has told.

Lists of pools include their tokens, so few lack anything: those of pools that came without their tokens, and tokens
that the API itself knows little of. They are looked up, 30 in a call, and stored with all that is told of them.

A lookup that leaves a token without symbol or decimals is repeated after an hour, then after twice as long as the time
before, at most 30 days; a token that the API doesn't know gets a `gone_at`, and a day to begin with. That stands in
`gt_tokens`, as `lookups` and `lookup_after`, and goes once the token is complete.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from geckosched import Batch, Collector, ConfigError, RunContext, SkipRun

from .client import BUDGET, ApiError, Client, GoneError, PlanLimitError, Settings
from .pools import MOST_ADDRESSES
from .rows import AnswerError, Row, TokenPage, folded, token_page
from .watchlist import stored

__all__ = ["Tokens"]

FIRST_WAIT = timedelta(hours=1)
"""Wait after the first lookup that didn't help; each further one doubles it."""

FIRST_WAIT_UNKNOWN = timedelta(days=1)
"""The same for a token that the API doesn't know."""

LONGEST_WAIT = timedelta(days=30)


@dataclass
class TokensOptions:
    """Options of `geckoterminal-tokens`: a run makes at most `max_calls`, the first one and others that are free."""

    max_calls: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.max_calls, int) or self.max_calls < 1:
            raise ConfigError(f"max_calls: {self.max_calls!r} is no number from 1 up")


class Tokens(Collector):
    """Look up tokens that lack something, those that never were first. A call is a target and a transaction."""

    name = "geckoterminal-tokens"
    every = "1h"
    priority = 0
    budget = BUDGET
    calls_per_run = 1
    Options = TokensOptions

    def collect(self, run: RunContext) -> Iterator[list[Batch]]:
        """Yield the tokens of one call after the other."""
        settings = Settings.read(run.settings)
        network = settings.network
        tokens = _incomplete(run, network, MOST_ADDRESSES * run.options.max_calls)
        if not tokens:
            raise SkipRun(f"no token of {network} lacks symbol or decimals, or it was looked up lately")
        with Client(run, settings) as client:
            for number, first in enumerate(range(0, len(tokens), MOST_ADDRESSES), 1):
                if number > 1 and run.calls_free() <= 0:
                    return
                with run.target(f"call {number}"):
                    yield from _look_up(run, client, network, f"call {number}", tokens[first : first + MOST_ADDRESSES])


@dataclass(frozen=True, slots=True)
class _Token:
    """A token to look up: how often that was done in vain, and since when the API doesn't know it."""

    address: str
    lookups: int = 0
    gone_at: str | None = None


def _look_up(run: RunContext, client: Client, network: str, where: str, tokens: list[_Token]) -> Iterator[list[Batch]]:
    """Ask for up to 30 tokens and yield what is to be stored; tokens that the API refuses to tell of wait, too."""
    now = run.now()
    try:
        page = _ask(run, client, network, where, tokens)
    except PlanLimitError as error:
        run.log.info("%s: %s", where, error)
        page = None
    except (ApiError, AnswerError):
        yield [_batch(run, network, [_waiting(token, now) for token in tokens])]
        raise
    yield [_batch(run, network, _rows(page, tokens, now))]


def _ask(run: RunContext, client: Client, network: str, where: str, tokens: list[_Token]) -> TokenPage:
    """Ask for tokens; a 404 knows none of them."""
    try:
        body = client.get("networks", network, "tokens", "multi", ",".join(token.address for token in tokens))
    except GoneError:
        return TokenPage()
    page = token_page(body, network=network, run_id=run.id)
    for row in page.bad:
        run.problem(f"{where} {row.where}", row.error)
    return page


def _rows(page: TokenPage | None, tokens: list[_Token], now: datetime) -> Iterator[Row]:
    """Yield what is known of each token now; `None` for a page tells nothing of any."""
    shown = {} if page is None else {folded(row["address"]): row for row in page.rows}
    for token in tokens:
        row = shown.get(folded(token.address))
        if row is None:  # unknown to the API, unless it may be one that could not be read
            yield _waiting(token, now, unknown=page is not None and not page.bad)
        elif row.get("symbol") is None or row.get("decimals") is None:
            yield row | _waiting(token, now)
        else:
            yield row | {"address": token.address, "lookups": None, "lookup_after": None}


def _waiting(token: _Token, now: datetime, *, unknown: bool = False) -> Row:
    """Return when a token may be looked up again, after one more lookup in vain."""
    first = FIRST_WAIT_UNKNOWN if unknown else FIRST_WAIT
    wait = min(first * 2 ** min(token.lookups, 16), LONGEST_WAIT)
    row: Row = {"address": token.address, "lookups": token.lookups + 1, "lookup_after": now + wait}
    return row | {"gone_at": token.gone_at or now} if unknown else row


def _batch(run: RunContext, network: str, rows: Iterable[Row]) -> Batch:
    stamped = [row | {"network": network, "run_id": run.id} for row in rows]
    return Batch("gt_tokens", stamped, pk=("network", "address"), stamp=("run_id",))


def _incomplete(run: RunContext, network: str, most: int) -> list[_Token]:
    """Return the tokens that are to be looked up: the new ones, then those that have waited long enough.

    A column that nobody has filled yet is not there, and a table neither.
    """
    columns = {row["name"] for row in stored(run, "SELECT name FROM pragma_table_info('gt_tokens')")}
    known = _known(run, network, most, columns) if columns else []
    new = [_Token(row["address"]) for row in known if row["lookup_after"] is None]
    new += _untold(run, network, most, told=bool(columns))
    again = [
        _Token(row["address"], row["lookups"] or 0, row["gone_at"]) for row in known if row["lookup_after"] is not None
    ]
    return [*new, *again][:most]


def _known(run: RunContext, network: str, most: int, columns: Collection[str]) -> list[dict[str, Any]]:
    """Return rows of tokens that lack something and need not wait; a wait beyond the longest is from a wrong clock."""
    symbol, decimals, lookups, after, gone_at = (
        name if name in columns else "NULL" for name in ("symbol", "decimals", "lookups", "lookup_after", "gone_at")
    )
    now = run.now()
    return stored(
        run,
        f"SELECT address, {lookups} AS lookups, {after} AS lookup_after, {gone_at} AS gone_at FROM gt_tokens"
        f" WHERE network = ? AND ({symbol} IS NULL OR {decimals} IS NULL)"
        f" AND ({after} IS NULL OR {after} <= ? OR {after} > ?) AND instr(address, ',') = 0"
        " ORDER BY lookup_after, address LIMIT ?",
        network,
        _text(now),
        _text(now + LONGEST_WAIT),
        most,
    )


def _untold(run: RunContext, network: str, most: int, *, told: bool) -> list[_Token]:
    """Return tokens of pools that have no row; an address with a comma in it can't be asked for beside others."""
    without = " AND NOT EXISTS (SELECT 1 FROM gt_tokens WHERE network = ?1 AND address = token)" if told else ""
    found = stored(
        run,
        "SELECT token FROM (SELECT base_token AS token FROM gt_pools WHERE network = ?1"
        " UNION SELECT quote_token FROM gt_pools WHERE network = ?1)"
        f" WHERE token IS NOT NULL AND instr(token, ',') = 0{without} ORDER BY token LIMIT ?2",
        network,
        most,
    )
    return [_Token(row["token"]) for row in found]


def _text(moment: datetime) -> str:
    """Write a time as the store does."""
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"
