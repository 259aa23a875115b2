"""A scheduler with the plugin in it, on a clock that stands still, over a loopback server."""

from __future__ import annotations

import functools
import json
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from geckosched import Clock, CollectionScheduler, Run, RunContext, SchedulerConfig
from geckosched.testing import FakeClock, SpeedClock

START = datetime(2026, 9, 28, 20, 46, tzinfo=UTC)

PLUGIN = "from geckosched_geckoterminal import register_collectors, register_commands\n"

Answer = tuple[int, object]
"""Status and body; bytes go over the wire as they are, all else as JSON."""


class FakeApi:
    """A loopback server that answers what a test told it to.

    `answers` maps a path below `/api/v2` to an answer, or to a function of the query that returns
    one; `calls` is what was asked, as (path, query). A path that no test named is a 404.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[Mapping[str, str]], Answer]] = {}
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.agents: set[str] = set()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                path, query = unquote(parts.path), dict(parse_qsl(parts.query))
                path = path.removeprefix("/api/v2/networks/solana")
                api.calls.append((path, query))
                api.agents.add(self.headers["User-Agent"])
                found = api.answers.get(path, (404, {"errors": [{"title": "Not Found"}]}))
                status, body = found(query) if callable(found) else found
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/api/v2"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def asked(self, path: str) -> int:
        """Return how often a path was asked."""
        return sum(path == each for each, _ in self.calls)


class Series:
    """A pool's candles as the API shows them, one in every `gap` steps from `since` up to now.

    Newest first, at most `limit`, older than `before_timestamp` (401 if that is more than 180 days ago), and 184 days
    in one answer. The candle that runs, or ended less than a minute ago, has not all of its volume yet. `spoil`, if
    set, changes the list before it is sent; `calls` are the queries.
    """

    def __init__(self, clock: Clock, step: int, since: float, *, gap: int = 1, until: float = math.inf) -> None:
        self.clock, self.step, self.gap, self.until = clock, step, gap * step, until
        self.since = math.ceil(since / self.gap) * self.gap
        self.spoil: Callable[[list[Any]], list[Any]] | None = None
        self.calls: list[Mapping[str, str]] = []

    def __call__(self, query: Mapping[str, str]) -> Answer:
        self.calls.append(query)
        now = self.clock.now() // 1_000_000
        before = int(query.get("before_timestamp", now + 1))
        if before < now - 180 * 86_400:
            return 401, {"errors": [{"title": "You can only access data from the past 180 days with Public API."}]}
        newest = (min(before - 1, now, self.until) - self.since) // self.gap
        listed: list[Any] = []
        while newest >= 0 and len(listed) < int(query["limit"]):
            ts = int(self.since + newest * self.gap)
            if ts < before - 184 * 86_400:
                break
            listed.append(self.candle(ts, now))
            newest -= 1
        listed = self.spoil(listed) if self.spoil else listed
        return 200, {"data": {"attributes": {"ohlcv_list": listed}}, "meta": {}}

    def candle(self, ts: int, now: float = math.inf) -> list[float]:
        return [ts, 1.0, 2.0, 0.5, 1.5, ts % 997 + 0.5 if ts + self.step + 60 <= now else 0.25]

    def final(self, since: float, until: float) -> list[int]:
        """Return `ts` of the candles from `since` on that are final at `until`."""
        first = max(self.since, math.ceil(since / self.gap) * self.gap)
        return [ts for ts in range(int(first), int(until) - self.step - 59, self.gap) if ts <= self.until]


class House:
    """A scheduler with the plugin in it that runs what a test asks for, and nothing else."""

    def __init__(
        self,
        database: Path,
        base_url: str,
        collectors: Mapping[str, Mapping[str, Any]],
        clock: Clock,
        settings: Mapping[str, Any] | None = None,
        calls: int | None = None,
    ) -> None:
        plugin = database.parent / "geckoterminal.py"
        plugin.write_text(PLUGIN)
        self.clock = clock
        self.database = database
        budgets = {"geckoterminal": {"rate": f"{calls}/m", "burst": calls}} if calls else {}
        self.scheduler = CollectionScheduler(SchedulerConfig(database=str(database), budgets=budgets), clock=clock)
        self.scheduler.load_plugins(
            only=[],
            load=[plugin],
            settings={"geckoterminal": {"base_url": base_url, **(settings or {})}},
            collectors={f"geckoterminal-{name}": table for name, table in collectors.items()},
        )

    def run(self, name: str) -> Run:
        """Run a collector once, now."""
        timeout = 600 * (self.clock.speed if isinstance(self.clock, SpeedClock) else 1)  # ten minutes of life
        run = self.scheduler.execute_collector_now(f"geckoterminal-{name}", timeout=timeout)
        assert run is not None
        return run

    def advance(self, seconds: float) -> None:
        """Let time pass, in which nothing runs."""
        assert isinstance(self.clock, FakeClock)
        self.clock.advance(seconds)

    def rows(self, sql: str, *parameters: object) -> list[dict[str, Any]]:
        """Read from the store."""
        connection = sqlite3.connect(self.database)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(sql, parameters)]
        finally:
            connection.close()

    def state(self, name: str) -> dict[str, Any]:
        """Return a job's stored state."""
        (row,) = self.rows("SELECT state FROM geckosched_jobs WHERE job_id = ?", f"geckoterminal-{name}")
        return dict(json.loads(row["state"]))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    api = FakeApi()
    api.start()
    yield api
    api.close()


@pytest.fixture
def series(clock: FakeClock) -> Callable[..., Series]:
    """Return a function that makes a pool's candles on the clock."""
    return functools.partial(Series, clock)


@pytest.fixture
def house(tmp_path: Path, api: FakeApi, clock: FakeClock) -> Callable[..., House]:
    """Return a function that opens a house over the API; its keywords are the collectors' options.

    `base_url` and `clock` may name others than the fixtures'; `settings` are further ones of the plugin, `calls` is how
    many may be made in a minute, at once, where that is not what the test is about.
    """

    def open_house(
        *,
        base_url: str = api.base_url,
        clock: Clock = clock,
        settings: Mapping[str, Any] | None = None,
        calls: int | None = None,
        **collectors: Mapping[str, Any],
    ) -> House:
        tables = {name.replace("_", "-"): table for name, table in collectors.items()}
        return House(tmp_path / "test.db", base_url, tables, clock, settings, calls)

    return open_house


@pytest.fixture
def commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[House], list[Path]]:
    """Return a function that copies a house's store after every commit of a run from now on, into the list it returns.

    A copy is what a kill at that moment would leave.
    """

    def watch(home: House) -> list[Path]:
        copies: list[Path] = []
        store = RunContext.store

        def copied(run: RunContext, *arguments: Any, **more: Any) -> None:
            store(run, *arguments, **more)
            copies.append(tmp_path / f"commit-{len(copies)}" / "test.db")
            copies[-1].parent.mkdir()
            with closing(sqlite3.connect(home.database)) as source, closing(sqlite3.connect(copies[-1])) as copy:
                source.backup(copy)

        monkeypatch.setattr(RunContext, "store", copied)
        return copies

    return watch
