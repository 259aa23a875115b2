"""A local server that speaks the GeckoTerminal API, for tests and for the demo.

`python -m geckosched_geckoterminal.simulator` serves a market (a synthetic one, or recorded rows
with `--replay`) under `http://127.0.0.1:PORT/api/v2` with the API's paths, limits, error bodies
and headers. `RateLimit` and `CdnCache` are told the time and decide; `Simulator` is the server
around them and the `Api` of answers.py.

With `--faults RATE` that share of the requests fails on purpose (faults.py, drawn from the seed),
in all of these ways or in those of `--fault-kinds`:

    latency     the answer is right and late: 20 s of the market, at most 0.2 s of life
    5xx         500, 502, 503, 504 or 520 with a page of HTML
    reset       the connection is reset before a byte of the answer
    truncated   200 with the first part of the JSON
    nulls       prices and amounts in USD that are "NaN", null or missing; candles with null or NaN
    duplicates  candles that come twice, first as they were some trades ago (only candles)
    429         three requests in a row are refused, with retry-after: 0

All ages are measured in the market's time, which is the clock's: trades appear, cached answers
expire and the rate limit refills as that clock runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from geckosched.testing import SpeedClock

from .answers import Api, ApiError, Call
from .call import not_found
from .faults import LATENCY, Fault, Faults
from .market import Market
from .replay import ReplayMarket
from .synthetic import BIRTHS, SyntheticMarket

PREFIX = "/api/v2"
REQUESTS_KEPT = 100_000
RESET = 0
"""The status of a request whose connection is reset: it gets none."""
_SPOILING = (Fault.TRUNCATED, Fault.NULLS, Fault.DUPLICATES)


class TimeSource(Protocol):
    """The part of a geckosched `Clock` that the simulator uses."""

    def now(self) -> int:
        """Return microseconds since the epoch, UTC."""


class Request(NamedTuple):
    """One request as counted here: `time` in microseconds of market time, `path` with query.

    `status` is 0 where the connection was reset instead; `fault` names what went wrong on purpose.
    """

    time: int
    path: str
    status: int
    cached: bool
    fault: Fault | None = None


# ---------------------------------------------------------------------------------------------
# The limit and the cache


class RateLimit:
    """A bucket of `burst` calls per client that refills at `rate` a minute; a rate of 0 is none."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self._buckets: dict[str, tuple[float, int]] = {}

    def take(self, client: str, now: int) -> bool:
        """Take one call at `now` (microseconds); False where the bucket is empty."""
        if not self.rate:
            return True
        level, since = self._buckets.get(client, (float(self.burst), now))
        level = min(self.burst, level + max(0, now - since) * self.rate / 60_000_000)
        taken = level >= 1
        self._buckets[client] = (level - taken, now)
        return taken


@dataclass(frozen=True, slots=True)
class _Reply:
    """What goes over the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class CdnCache:
    """Answers by URL, kept for as long as the API lets its CDN keep them."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[int, int, _Reply]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, url: str, now: int) -> tuple[_Reply, int] | None:
        """Return the fresh reply to `url` and its age in seconds; `now` in microseconds."""
        kept = self._kept.get(url)
        if kept is None or not kept[0] <= now < kept[1]:
            return None
        return kept[2], (now - kept[0]) // 1_000_000

    def put(self, url: str, now: int, fresh_for: int, reply: _Reply) -> None:
        """Keep a reply for `fresh_for` seconds, and forget those that are no longer fresh."""
        self._kept = {each: kept for each, kept in self._kept.items() if now < kept[1]}
        self._kept[url] = (now, now + fresh_for * 1_000_000, reply)


# ---------------------------------------------------------------------------------------------
# The server

_CORS = {
    "access-control-allow-methods": "GET",
    "access-control-allow-origin": "*",
    "access-control-max-age": "7200",
}
_SAFETY = {
    "referrer-policy": "strict-origin-when-cross-origin",
    "strict-transport-security": "max-age=15724800; includeSubdomains",
    "x-content-type-options": "nosniff",
    "x-download-options": "noopen",
    "x-frame-options": "SAMEORIGIN",
    "x-permitted-cross-domain-policies": "none",
    "x-xss-protection": "1; mode=block",
}
_LIMITED = {
    "status": {
        "error_code": 429,
        "error_message": (
            "You've exceeded the Rate Limit. Please visit https://www.coingecko.com/en/api/pricing"
            " to subscribe to our API plans for higher rate limits and use the onchain endpoints:"
            " https://docs.coingecko.com/reference/endpoint-overview"
        ),
    }
}
_UNCACHED = "private, max-age=0, no-store, no-cache, must-revalidate, post-check=0, pre-check=0"


class Simulator:
    """The API on a loopback port, answered by threads of its own.

        with Simulator(SyntheticMarket(born=start), clock) as simulator:
            requests.get(f"{simulator.base_url}/networks")

    `clock` gives the market's time. `rate` calls a minute are allowed per client address after a
    burst of `burst`, counted in market time; 0 is no limit. An identical URL within the cache's
    time costs nothing, unless `cache` is off. `faults` is the share of requests that fail on
    purpose, drawn from `seed`, of those `kinds`. `requests` tells what was asked here, the newest
    100,000 of it: the far side's own count.
    """

    def __init__(
        self,
        market: Market,
        clock: TimeSource,
        *,
        rate: float = 10,
        burst: int = 5,
        cache: bool = True,
        faults: float = 0,
        seed: int = 0,
        kinds: Sequence[Fault] = tuple(Fault),
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.market = market
        self.clock = clock
        self.api = Api(market)
        self._limit = RateLimit(rate, burst)
        self._cache = CdnCache() if cache else None
        self._faults = Faults(faults, seed, kinds)
        self._numbers = itertools.count()
        self._requests: deque[Request] = deque(maxlen=REQUESTS_KEPT)
        self._lock = threading.Lock()
        self._server = _Server((host, port), self)
        self.base_url = f"http://{host}:{self._server.server_port}{PREFIX}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="simulator", daemon=True)

    @property
    def requests(self) -> list[Request]:
        """What was asked so far, oldest first."""
        with self._lock:
            return list(self._requests)

    def start(self) -> None:
        """Start answering; once."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering, and end the connections that are still open."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def reply(self, url: str, client: str, user_agent: str) -> _Reply:
        """Answer one request and count it; `url` is path and query as sent."""
        now = self.clock.now()
        with self._lock:
            number = next(self._numbers)
        fault = self._faults.meets(number, url.partition("?")[0])
        reply = self._failure(fault, number)
        if reply is None:
            reply = self._decided(url, client, user_agent, now)
            if fault in _SPOILING:
                spoiled = self._faults.spoiled(fault, number, reply.body) if reply.status == 200 else None
                fault = fault if spoiled else None
                reply = _Reply(reply.status, reply.headers, spoiled or reply.body)
        headers = {"date": formatdate(now // 1_000_000, usegmt=True), **reply.headers}
        cached = headers.get("cf-cache-status") == "HIT"
        with self._lock:
            self._requests.append(Request(now, url, reply.status, cached, fault))
        if fault is Fault.LATENCY:
            self._linger(now)
        return _Reply(reply.status, headers, reply.body)

    def _failure(self, fault: Fault | None, number: int) -> _Reply | None:
        """Return what answers in the API's place; None where the API itself does."""
        if fault is Fault.RATE_LIMITED:
            return _refused()
        if fault is Fault.RESET:
            return _Reply(RESET, {}, b"")
        if fault is Fault.SERVER_ERROR:
            status = self._faults.error(number)
            page = f"<!DOCTYPE html>\n<html><head><title>{status}</title></head><body>Error {status}</body></html>\n"
            return _Reply(status, {"content-type": "text/html; charset=UTF-8"}, page.encode())
        return None

    def _linger(self, since: int) -> None:
        """Hold an answer back for as long as `LATENCY` allows, by the market's time and by life's."""
        of_market, of_life = LATENCY
        ends = time.monotonic() + of_life
        while time.monotonic() < ends and self.clock.now() < since + of_market * 1_000_000:
            time.sleep(0.01)

    def _decided(self, url: str, client: str, user_agent: str, now: int) -> _Reply:
        """Pass a request through the CDN's rules, its cache, the limit and the API."""
        if user_agent.startswith("Python-urllib"):
            return _Reply(403, {"content-type": "text/html; charset=UTF-8"}, _FORBIDDEN)
        with self._lock:
            hit = None if self._cache is None else self._cache.get(url, now)
            if hit is not None:
                kept, age = hit
                headers = {**kept.headers, "cf-cache-status": "HIT", "age": str(age)}
                return _Reply(kept.status, headers, kept.body)
            if not self._limit.take(client, now):
                return _refused()
        return self._answered(url, now)

    def _answered(self, url: str, now: int) -> _Reply:
        """Ask the API; what succeeds goes into the cache."""
        began = time.perf_counter()
        request_id = str(uuid.uuid4())
        headers = {
            **_CORS,
            **_SAFETY,
            "content-type": "application/json; charset=utf-8",
            "vary": "Accept, Origin, accept-encoding",
            "x-request-id": request_id,
        }
        parts = urlsplit(url)
        path = unquote(parts.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        call = Call(path.removeprefix(PREFIX), query, now // 1_000_000, request_id, self.base_url)
        try:
            if not path.startswith(PREFIX):
                raise not_found()
            answer = self.api.answer(call)
        except ApiError as error:
            headers |= {"cache-control": _kept_for(60), "cf-cache-status": "BYPASS"}
            body = {
                "errors": [{"status": str(error.status), "title": error.title}],
                "meta": {"ref_id": str(uuid.uuid4())},
            }
            headers["x-runtime"] = f"{time.perf_counter() - began:.6f}"
            return _Reply(error.status, headers, _encoded(body))
        encoded = _encoded(answer.body)
        headers |= {
            "cache-control": _kept_for(answer.fresh_for),
            "cf-cache-status": "MISS",
            "x-runtime": f"{time.perf_counter() - began:.6f}",
            "etag": f'W/"{md5(encoded, usedforsecurity=False).hexdigest()}"',
        }
        reply = _Reply(200, headers, encoded)
        if self._cache is not None:
            with self._lock:
                self._cache.put(url, now, answer.fresh_for, reply)
        return reply


_FORBIDDEN = b"<html><head><title>403 Forbidden</title></head><body>403 Forbidden</body></html>"


def _refused() -> _Reply:
    """Return the API's 429, which is unlike its other errors."""
    headers = {"cache-control": _UNCACHED, "content-type": "application/json", "retry-after": "0"}
    return _Reply(429, headers, _encoded(_LIMITED))


def _kept_for(seconds: int) -> str:
    return f"max-age=30, public, must-revalidate, s-maxage={seconds}"


def _encoded(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


class _Server(ThreadingHTTPServer):
    """A thread per connection; closing it ends them all."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], simulator: Simulator) -> None:
        self.simulator = simulator
        self._open: dict[threading.Thread, socket.socket] = {}
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection on a thread that `server_close` knows of."""
        self._open = {thread: each for thread, each in self._open.items() if thread.is_alive()}
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="simulator-connection",
            daemon=True,
        )
        thread.start()
        self._open[thread] = request

    def server_close(self) -> None:
        """Close the port, wake the threads that wait for a next request, and see them end."""
        super().server_close()
        for thread, connection in self._open.items():
            with suppress(OSError):  # the client may have closed it first
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=1)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless only the client went away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive; every answer is written at once."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        agent = self.headers.get("user-agent", "")
        reply = self.server.simulator.reply(self.path, self.client_address[0], agent)
        if reply.status == RESET:
            self._reset()
            return
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("server", "cloudflare")
        self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def _reset(self) -> None:
        """End the connection as a failing machine does: by RST, with nothing sent."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Print nothing: `Simulator.requests` tells what was asked."""


# ---------------------------------------------------------------------------------------------
# The command line


def main(argv: Sequence[str] | None = None) -> int:
    """Serve a market until SIGTERM or SIGINT; print one line once it listens."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.fault_kinds and not options.faults:
        parser.error("--fault-kinds: there are no faults without --faults RATE")
    try:
        market, start = _market(options)
        anchor = time.time() if options.anchor is None else options.anchor
        clock = SpeedClock(start, options.speed, anchor)
        simulator = Simulator(
            market,
            clock,
            rate=options.rate,
            burst=options.burst,
            cache=not options.no_cache,
            faults=options.faults,
            seed=options.seed,
            kinds=options.fault_kinds or tuple(Fault),
            port=options.port,
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with simulator:
        told = f"start={start.isoformat()} anchor={anchor!r} speed={options.speed:g}"
        sys.stdout.write(f"{simulator.base_url} {told}\n")
        sys.stdout.flush()
        stopped.wait()
    return 0


def _market(options: argparse.Namespace) -> tuple[Market, datetime]:
    """Make the market that was asked for; tell when its time begins."""
    if options.replay is not None:
        replay = ReplayMarket(options.replay)
        return replay, options.start or datetime.fromtimestamp(replay.begins, UTC)
    start = options.start or datetime.now(UTC).replace(microsecond=0)
    born = int(start.timestamp())
    return SyntheticMarket(options.seed, options.pools, born=born, births=options.births), start


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m geckosched_geckoterminal.simulator",
        description="Serve a simulated GeckoTerminal API on a loopback port.",
        epilog="faults:" + (__doc__ or "").partition("`--fault-kinds`:")[2].partition("\n\nAll ages")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="port to listen on (default: a free one)")
    add("--seed", type=int, default=0, help="seed of the synthetic market and of the faults")
    add("--pools", type=int, default=12, help="pools that the synthetic market begins with (12)")
    add("--births", type=float, default=BIRTHS, help=f"new pools an hour of the synthetic market ({BIRTHS:g})")
    add("--start", type=_moment, help="market time at the anchor, ISO 8601, UTC unless it says")
    add("--speed", type=float, default=1.0, help="seconds of market time per real second")
    add("--anchor", type=float, help="real epoch second of --start (default: now)")
    add("--rate", type=float, default=10, help="calls a minute per client, 0: no limit")
    add("--burst", type=int, default=5, help="calls that may follow each other at once")
    add("--no-cache", action="store_true", help="answer every call anew")
    add("--faults", type=float, default=0.0, metavar="RATE", help="share of requests that fail on purpose, 0 to 1")
    add("--fault-kinds", type=_kinds, metavar="KIND,...", help="only these of the faults below")
    add("--replay", type=Path, metavar="FOLDER", help="play recorded rows back instead")
    return parser


def _kinds(text: str) -> tuple[Fault, ...]:
    unknown = sorted(set(text.split(",")) - {*Fault})
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} found, allowed are {', '.join(Fault)}")
    return tuple(kind for kind in Fault if kind in text.split(","))


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no ISO 8601 time") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


if __name__ == "__main__":
    sys.exit(main())
