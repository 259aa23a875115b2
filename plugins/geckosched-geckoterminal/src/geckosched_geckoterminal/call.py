"""A call of the simulated API, what answers it, and what all endpoints have in common: paging, addresses, ranking."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from .market import Pool

PAGE_ROWS, MAX_PAGE = 20, 10
"""Rows in a page of pools, and the last page of the public plan."""
CATALOG_ROWS = 100
MAX_ADDRESSES = 30

Json = dict[str, Any]
Row = TypeVar("Row")
Query = Mapping[str, str]


class ApiError(Exception):
    """An answer that is no success: its status and the title of its body."""

    def __init__(self, status: int, title: str) -> None:
        super().__init__(f"{status} {title}")
        self.status = status
        self.title = title


def not_found() -> ApiError:
    return ApiError(404, "Not Found")


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: the body, and for how many seconds the CDN may keep it."""

    body: Json
    fresh_for: int = 60


@dataclass(frozen=True, slots=True)
class Call:
    """A request as an endpoint sees it; `now` in epoch seconds, `root` for absolute links."""

    path: str
    query: Query
    now: int
    request_id: str
    root: str

    def flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() == "true"

    def page(self) -> int:
        text = self.query.get("page", "1")
        return max(1, int(text)) if text.isdecimal() else 1

    def include(self) -> set[str]:
        return set(self.query.get("include", "").split(","))

    def choice(self, name: str, default: str, allowed: Iterable[str], what: str) -> str:
        """Return a parameter that has a few allowed values; another one is 400."""
        chosen = self.query.get(name, default)
        if chosen not in allowed:
            raise ApiError(400, f"Invalid {what}. Allowed values: {', '.join(allowed)}")
        return chosen


def canonical(address: str) -> str:
    """Hex addresses match in any case; all others, Solana's above all, only in their own."""
    return address.lower() if address.startswith(("0x", "0X")) else address


def addresses_of(text: str) -> list[str]:
    """Return the addresses of a `multi` path, each once; too many are 400."""
    asked = list(dict.fromkeys(canonical(each) for each in text.split(",") if each))
    if len(asked) > MAX_ADDRESSES:
        raise ApiError(400, f"maximum {MAX_ADDRESSES} addresses allowed")
    return asked


def check_page(call: Call) -> None:
    if call.page() > MAX_PAGE:
        title = f"Your request exceeds the allowed max number for page ({MAX_PAGE}). Upgrade to Analyst plan..."
        raise ApiError(401, title)


def paged(call: Call, rows: Sequence[Row], size: int = PAGE_ROWS) -> Sequence[Row]:
    return rows[(call.page() - 1) * size : call.page() * size]


def highest(
    call: Call, pools: Iterable[Pool], key: Callable[[Pool], float], at_most: Callable[[Pool], float] | None = None
) -> Sequence[Pool]:
    """Return the call's page of the pools with the highest `key`; of equal ones the lower address is first.

    `at_most` is a number that a pool's key never exceeds: the keys of pools that can't be on the page aren't asked for.
    """
    wanted = call.page() * PAGE_ROWS
    bounded = [(at_most(pool) if at_most else 0.0, pool) for pool in pools]
    best: list[tuple[float, str, Pool]] = []
    for bound, pool in sorted(bounded, key=lambda each: -each[0]):
        if at_most and len(best) == wanted and bound < -best[-1][0]:
            break
        insort(best, (-key(pool), pool.address, pool))
        del best[wanted:]
    return paged(call, [pool for _, _, pool in best])
