"""How the plugin calls the API: its settings, its budget, and what an answer's status means."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import requests

from geckosched import Budget, ConfigError, RunContext, __version__
from geckosched.http import Session

from .rows import AnswerError

__all__ = ["BUDGET", "ApiError", "Client", "GoneError", "PlanLimitError", "Settings"]

BUDGET = Budget("geckoterminal", rate="10/m", burst=4)
"""What the public API stands (api.md, part 2); `[budgets.geckoterminal]` overrides it."""

LONGEST_WAY = timedelta(hours=1)
"""Longest time that an answer is believed to have been under way, if its Date says so."""

ACCEPT = "application/json;version=20230203"


@dataclass(frozen=True, slots=True)
class Settings:
    """The table `[plugins.geckoterminal]`.

    `user_agent` says who asks; the API refuses Python's own (api.md, part 1).
    """

    network: str = "solana"
    dexes: tuple[str, ...] = ("pumpswap", "raydium")
    base_url: str = "https://api.geckoterminal.com/api/v2"
    user_agent: str = f"geckosched-geckoterminal (geckosched/{__version__})"

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Self:
        """Check a table as it was configured; raise `ConfigError` that says what is wrong."""
        known = [field.name for field in fields(cls)]
        for key in table:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f', did you mean "{close[0]}"?' if close else f"; known: {', '.join(known)}"
                raise ConfigError(f"[plugins.geckoterminal] {key}: unknown key{hint}")
        values = dict(table)
        for key in known:
            if key in values and key != "dexes" and not _is_name(values[key]):
                raise ConfigError(f"[plugins.geckoterminal] {key}: {values[key]!r} is no text")
        if "dexes" in values:
            dexes = values["dexes"]
            if not isinstance(dexes, list | tuple) or not all(map(_is_name, dexes)):
                raise ConfigError(f"[plugins.geckoterminal] dexes: {dexes!r} is no list of ids of exchanges")
            values["dexes"] = tuple(dexes)
        if "base_url" in values:
            values["base_url"] = values["base_url"].rstrip("/")
            if not values["base_url"].startswith(("http://", "https://")):
                raise ConfigError(f"[plugins.geckoterminal] base_url: {values['base_url']!r} is no http(s) URL")
        return cls(**values)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


class ApiError(Exception):
    """An answer that says no; `status` is its HTTP status."""

    def __init__(self, status: int, title: str) -> None:
        super().__init__(f"{status} {title}")
        self.status = status
        self.title = title


class GoneError(ApiError):
    """404: the API doesn't know the target, or no more."""


class PlanLimitError(ApiError):
    """401: more than the plan allows; final for this request, and no error."""


class Client:
    """Calls of one run, in a `with` block."""

    def __init__(self, run: RunContext, settings: Settings) -> None:
        self._base_url = settings.base_url
        self._run = run
        self._session = Session(run, user_agent=settings.user_agent)
        self._session.headers["Accept"] = ACCEPT

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.close()

    def get(self, *path: str, **params: str | float) -> Any:
        """Return the parsed body of an answer 200, as `ask` does, without its moment."""
        return self.ask(*path, **params)[0]

    def ask(self, *path: str, **params: str | float) -> tuple[Any, datetime]:
        """Return the parsed body of an answer 200, and when it was made; `path` is given in parts, unquoted.

        Raises `GoneError`, `PlanLimitError`, `ApiError` for every other status below 500, `AnswerError` for a
        body that is no JSON, `requests.RequestException` for a failed call or a 5xx (after the
        session's retries), and the signal `RateLimited` for 429.
        """
        url = "/".join((self._base_url, *(quote(part, safe=",") for part in path)))
        response = self._session.get(url, params=params)
        if response.status_code >= 500:
            response.raise_for_status()
        if response.status_code != 200:
            title = _title(response)
            if response.status_code == 404:
                raise GoneError(404, title)
            if response.status_code == 401:
                raise PlanLimitError(401, title)
            raise ApiError(response.status_code, title)
        try:
            return response.json(), _made_at(response, self._run.now())
        except requests.JSONDecodeError as error:
            raise AnswerError(str(error)) from None


def _made_at(response: requests.Response, now: datetime) -> datetime:
    """Return when an answer was made, by its Date and Age: before it came, and perhaps a minute ago in a cache.

    A Date that is later than `now` or older than `LONGEST_WAY` tells of a clock, not of the answer.
    """
    try:
        date = parsedate_to_datetime(response.headers.get("Date", ""))
        sent = date if date.tzinfo and now - LONGEST_WAY <= date <= now else now
    except (TypeError, ValueError):
        sent = now
    age = response.headers.get("Age", "")
    return sent - timedelta(seconds=int(age) if age.isdecimal() and len(age) < 6 else 0)


def _title(response: requests.Response) -> str:
    """Return what an error's body says, or the words of HTTP where it says nothing."""
    try:
        body = response.json()
        return str(body["errors"][0]["title"])
    except (requests.JSONDecodeError, LookupError, TypeError):
        return response.reason or "error"
