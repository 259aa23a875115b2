"""How a collector calls an API: `Session(run)`, a `requests.Session` for one run.

    with Session(run) as session:
        answer = session.get("https://api.example.org/prices", params={"key": key})
        answer.raise_for_status()
        prices = answer.json()

requests has no default time limit, knows no budget, and puts the full URL, keys included, into its errors.

- **An attempt** is one request on the wire, to the last byte of its body. Each is a call of the budget
  (`run.call`), redirects and retries included. Once the run must stop none is sent; one under way is finished.
- **Limits.** Connecting, silence, and the attempt as a whole are limited in seconds of real time, for sockets
  know no other; the body in bytes. `timeout=` replaces the first two for one request, nothing lifts the rest.
  Left to the system: how long it looks up a name. Each address of a host may take `connect_timeout` anew.
- **Retries**, after pauses (`run.sleep`) that grow and vary: connections that fail or break off, and 5xx, for
  methods that may be repeated. What was too slow, too large or not HTTP is left for the next run. The last
  5xx is returned, as every 4xx is: call `raise_for_status`.
- **429**, and a 5xx whose Retry-After is beyond a minute, raise `RateLimited` out of the call, which closes
  the budget for all who share it.
- **Errors** are those of requests (`ConnectTimeout`, `HTTPError`, ...) in our words: method,
  scheme://host/path and why, in one line. Neither they nor what they are chained to hold a query, a password
  or a header; `error.response` still has everything. (urllib3 logs queries at level DEBUG: leave that off.)
- **Connections** are shared by all runs of a scheduler. Cookies, headers and auth belong to the session.

Reading order: `Session` and `Response`, what callers see; `_Calls`, from one request to several attempts;
`_Connections`, which take the limits down to the socket; last, how errors are told.
"""

from __future__ import annotations

import http.client
import io
import math
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import unquote_plus, urlsplit

import requests
import urllib3.exceptions
from requests import PreparedRequest, RequestException, adapters
from requests import exceptions as errors

from geckosched.core import (
    SECOND,
    Budget,
    ConfigError,
    Duration,
    RateLimited,
    RunContext,
    RunStopped,
    __version__,
    parse_duration,
)

__all__ = ["Response", "Session"]

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
LONGEST_PAUSE = 60  # seconds: what a Retry-After may ask for within a run
LONGEST_BELIEVED = 86_400  # seconds: who asks for more than a day is asked again after a day
PIECE = 65_536  # bytes: how a body is read

Options = Mapping[str, Any]  # requests' verify, cert and proxies


class Session(requests.Session):
    """Call an API from within `run`; the module says what that means.

    Make it in `collect`, and don't keep it beyond the run. Durations are seconds, timedeltas or text
    (`"30s"`); `max_body` is in bytes after decompression; `retries` counts the attempts after the first, anew
    for each redirect. `budget` names another budget than the collector's own. `stream=True` is refused: only
    what is read before the call returns has limits. `iter_content` and `iter_lines` work without it.
    """

    def __init__(
        self,
        run: RunContext,
        *,
        budget: Budget | None = None,
        user_agent: str | None = None,
        connect_timeout: Duration = 5,
        read_timeout: Duration = 30,
        total_timeout: Duration = 60,
        max_body: int = 64 * 1024 * 1024,
        retries: int = 3,
        max_redirects: int = 5,
    ) -> None:
        super().__init__()
        if retries < 0 or max_body < 1:
            raise ConfigError(f"Session: {retries=}, {max_body=}: must be at least 0 and at least 1")
        limits = _Limits(
            connect=_seconds(connect_timeout, "connect_timeout"),
            read=_seconds(read_timeout, "read_timeout"),
            total=_seconds(total_timeout, "total_timeout"),
            body=max_body,
        )
        calls = _Calls(run, run.shared("geckosched.http", _Connections), budget, limits, retries)
        self.mount("https://", calls)
        self.mount("http://", calls)
        ours = f"geckosched/{__version__} (+{run.job_id})"  # a job id may hold letters that a header may not
        self.headers["User-Agent"] = user_agent or ours.encode("ascii", "replace").decode()
        self.max_redirects = max_redirects

    # The rest keeps the URL and headers out of what requests raises outside of an attempt. Here and below,
    # errors are raised after the `except` block: inside, the original would stay in their `__context__`.

    def prepare_request(self, request: requests.Request) -> PreparedRequest:
        try:
            return super().prepare_request(request)
        except (RequestException, ValueError) as error:
            failure = _unsendable(error, f"{request.method} request")
        raise failure

    def send(self, request: PreparedRequest, **kwargs: Any) -> requests.Response:
        try:
            return super().send(request, **kwargs)
        except requests.TooManyRedirects:
            where, kind = _where(request), requests.TooManyRedirects
            failure: RequestException = kind(f"{where}: more than {self.max_redirects} redirects")
        except errors.InvalidSchema:
            failure = errors.InvalidSchema(f"{_where(request)}: leads to no http:// or https:// URL")
        raise failure

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        try:
            target = super().get_redirect_target(resp)
            urlsplit(target or "")
            return target
        except ValueError:
            failure = errors.InvalidURL(f"{_where(resp.request)}: redirected to what is not a URL")
        raise failure


class Response(requests.Response):
    """A `requests.Response` whose errors show no more of the URL than scheme://host/path."""

    def raise_for_status(self) -> None:
        """Raise `requests.HTTPError` for a 4xx or 5xx."""
        if 400 <= self.status_code < 600:
            side = "Client" if self.status_code < 500 else "Server"
            phrase = http.client.responses.get(self.status_code, "no standard status")  # theirs may say anything
            text = f"{self.status_code} {side} Error: {phrase} for url: {_safe(self.url)}"
            raise requests.HTTPError(text, response=self)

    def json(self, **kwargs: Any) -> Any:
        """Read the body as JSON, or raise `requests.JSONDecodeError`, a ValueError, with how it begins."""
        try:
            return super().json(**kwargs)
        except requests.JSONDecodeError as error:
            why, body, position = error.msg, error.doc, error.pos
        except (ValueError, RecursionError) as error:  # numbers too long, lists too deep
            if kwargs:
                raise  # perhaps by a hook of the caller's
            why, body, position = type(error).__name__, "", 0
        found = "an empty body"
        if self.content:
            hide = vars(self)["connection"].run.hide  # before it is cut
            start = _quote(hide(self.content[:10_000].decode(errors="replace")), self.request)
            found = f"{self.headers.get('Content-Type', 'text').partition(';')[0][:40]} that begins with {start}"
        text = f"{_where(self.request)}: {self.status_code} with {found}, which is not JSON: {why}"
        raise requests.JSONDecodeError(text, body, position)


Result = Response | RequestException  # of an attempt: its answer, or why there is none


# ---- From one request to several attempts


class _Calls(adapters.BaseAdapter):
    """What a Session mounts: answers each request, redirects included, with as many attempts as it takes."""

    def __init__(
        self, run: RunContext, connections: _Connections, budget: Budget | None, limits: _Limits, retries: int
    ) -> None:
        super().__init__()
        self.run, self.connections, self.budget = run, connections, budget
        self.limits, self.retries = limits, retries
        self.random = random.Random(f"{run.job_id} {run.id}")  # our own, so that a simulation repeats itself

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        if stream:
            raise ValueError("stream=True: leave it out, for a Session reads bodies whole, within its limits")
        limits = self.limits.replaced(timeout)
        options = {"verify": verify, "cert": cert, "proxies": proxies}
        retries = self.retries if _repeatable(request) else 0
        for attempt in range(1 + retries):
            answer = self._call(request, limits, options)
            if attempt == retries or not _passing(answer):
                break
            pause = self._pause(answer, attempt)
            said = answer if isinstance(answer, RequestException) else f"{_where(request)}: {answer.status_code}"
            self.run.log.info("%s, again in %.1f s", said, pause)
            self.run.sleep(pause)
        if isinstance(answer, RequestException):
            raise answer
        return answer

    def close(self) -> None:
        """Leave the connections open: they are the scheduler's."""

    def _call(self, request: PreparedRequest, limits: _Limits, options: Options) -> Result:
        """Make one attempt as one call of the budget."""
        if self.run.stopping:
            raise RunStopped("the run must end")
        try:
            with self.run.call(self.budget):
                return self._attempt(request, limits.started(), options)
        except RequestException as error:
            return error

    def _attempt(self, request: PreparedRequest, limits: _Limits, options: Options) -> Response:
        try:
            with self.connections.ask(request, limits, options) as answer:
                self._heed_rate_limit(answer)
                body = _body(answer, limits.body)
        except (RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            failure = _failure(error, request, limits, self.run.hide)
        else:
            if body is not None:
                return self._response(answer, body)
            failure = RequestException(f"{_where(request)}: more than {limits.body:,} bytes of body")
        raise failure

    def _heed_rate_limit(self, answer: requests.Response) -> None:
        asked = _retry_after(answer.headers, self.run.now())
        if answer.status_code == 429 or (answer.status_code >= 500 and asked > LONGEST_PAUSE):
            raise RateLimited(asked)  # which takes less than 1 for 1; the budget adds a delay of its own

    def _response(self, answer: requests.Response, body: bytes) -> Response:
        response = Response()
        vars(response).update(vars(answer), _content=body, connection=self)  # digest auth sends by that
        return response

    def _pause(self, answer: Result, attempt: int) -> float:
        pause = min(2.0**attempt, LONGEST_PAUSE) * self.random.uniform(0.5, 1)
        if isinstance(answer, RequestException):
            return pause
        return max(pause, _retry_after(answer.headers, self.run.now()))


def _repeatable(request: PreparedRequest) -> bool:
    """Whether the same can be sent twice: a body that is a file or a generator is spent."""
    return request.method in IDEMPOTENT and isinstance(request.body, str | bytes | None)


def _passing(answer: Result) -> bool:
    """Whether another attempt may fare better."""
    if isinstance(answer, RequestException):
        broken = isinstance(answer, requests.ConnectionError | errors.ChunkedEncodingError)
        return broken and not isinstance(answer, errors.SSLError)
    return answer.status_code >= 500


def _body(answer: requests.Response, limit: int) -> bytes | None:
    """Read the body; None where it is longer than `limit`."""
    pieces, size = [], 0
    for piece in answer.iter_content(PIECE):
        size += len(piece)
        if size > limit:
            return None
        pieces.append(piece)
    return b"".join(pieces)


def _retry_after(headers: Mapping[str, str], now: datetime) -> int:
    """Read Retry-After as whole seconds, 0 where it says nothing of use.

    A date is held against the answer's own Date: it is the far side's clock that both were read from.
    """
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", value):
        seconds = float(value)
    elif date := _date(value):
        seconds = (date - (_date(headers.get("Date", "")) or now)).total_seconds()
    else:
        return 0
    return math.ceil(min(max(seconds, 0), LONGEST_BELIEVED))


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


# ---- Down to the socket. http.client has a limit for each read only: a byte now and then keeps it for ever.


@dataclass(frozen=True, slots=True)
class _Limits:
    """What an attempt may take: seconds to connect, of silence, and in total; bytes of its body."""

    connect: float
    read: float
    total: float
    body: int
    end: float = math.inf  # of the total, by time.monotonic

    def replaced(self, timeout: Any) -> _Limits:
        """Heed requests' `timeout=`: seconds, or a pair for connecting and silence; None leaves ours."""
        connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        connect = self.connect if connect is None else _seconds(connect, "timeout")
        return replace(self, connect=connect, read=self.read if read is None else _seconds(read, "timeout"))

    def started(self) -> _Limits:
        return replace(self, end=time.monotonic() + self.total)

    def patience(self) -> float:
        """How long the next read may wait; 0 or less if the total is used up."""
        return min(self.read, self.end - time.monotonic())


def _seconds(value: Duration, name: str) -> float:
    return parse_duration(value, f"Session: {name}") / SECOND


class _Connections(adapters.HTTPAdapter):
    """A scheduler's connections. One thread makes an attempt, so its limits wait there for the answer."""

    def __init__(self) -> None:
        self.thread = threading.local()
        super().__init__(pool_connections=32, pool_maxsize=32)

    def ask(self, request: PreparedRequest, limits: _Limits, options: Options) -> requests.Response:
        self.thread.limits = limits
        timeout = min(limits.connect, limits.total), min(limits.read, limits.total)
        return self.send(request, stream=True, timeout=timeout, **options)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if "ConnectionCls" not in vars(pool):  # a new pool, of http, https or a proxy of any kind
            timed = {"response_class": staticmethod(partial(_TimedAnswer, self.thread))}
            pool.ConnectionCls = type("TimedConnection", (pool.ConnectionCls,), timed)
        return pool


class _TimedAnswer(http.client.HTTPResponse):
    """An answer that is read within its attempt's limits, from the first byte of its status line."""

    def __init__(self, thread: threading.local, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReader(sock, thread.limits))

    def begin(self) -> None:
        super().begin()
        self.msg.defects.clear()  # else urllib3 would log a warning, with the full URL
        self.msg.set_payload("")


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: Any, limits: _Limits) -> None:
        self.sock, self.file, self.limits = sock, sock.makefile("rb", buffering=0), limits

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        if (patience := self.limits.patience()) <= 0:
            raise TimeoutError
        self.sock.settimeout(patience)
        return self.file.readinto(buffer)

    def close(self) -> None:
        self.file.close()
        super().close()


# ---- Errors in our words

_BROKEN: dict[type[RequestException], str] = {
    errors.SSLError: "no safe connection",
    errors.ProxyError: "no connection through the proxy",
    errors.ChunkedEncodingError: "the body broke off",
    requests.ConnectionError: "no connection, or it broke",
}
_UNSENDABLE: dict[type[RequestException], str] = {
    errors.MissingSchema: "its URL does not begin with http:// or https://",
    errors.InvalidURL: "its URL is not valid",
    errors.InvalidHeader: "a header that cannot be sent",
    errors.InvalidJSONError: "json= with something that JSON cannot hold",
}


def _failure(
    error: Exception, request: PreparedRequest, limits: _Limits, hide: Callable[[str], str]
) -> RequestException:
    """Say why there is no answer, by kind and root of what requests and urllib3 raised, not by their texts."""
    where, root = _where(request), _root(error)
    if isinstance(error, requests.ConnectTimeout):
        return requests.ConnectTimeout(f"{where}: no connection within {limits.connect:g} s")
    if isinstance(root, TimeoutError | urllib3.exceptions.TimeoutError):
        if limits.patience() <= 0:
            return requests.Timeout(f"{where}: not done within {limits.total:g} s")
        return requests.ReadTimeout(f"{where}: silent for {limits.read:g} s")
    if isinstance(error, errors.ContentDecodingError):
        return errors.ContentDecodingError(f"{where}: a body that is not what its Content-Encoding says")
    reason = _reason(root, request, hide)
    if _is_garbage(root):
        return RequestException(f"{where}: an answer that is not HTTP ({reason})")
    for kind, words in _BROKEN.items():
        if isinstance(error, kind):
            return kind(f"{where}: {words} ({reason})")
    return _unsendable(error, where)


def _unsendable(error: Exception, where: str) -> RequestException:
    for kind, words in _UNSENDABLE.items():
        if isinstance(error, kind):
            return kind(f"{where}: {words}")
    return RequestException(f"{where}: it cannot be sent ({type(error).__name__})")


def _root(error: BaseException) -> BaseException:
    """Follow what errors say of their cause; their `__context__` may lead on to the caller's own trouble."""
    for cause in (getattr(error, "reason", None), *error.args[-1:], error.__cause__):
        if isinstance(cause, BaseException):
            return _root(cause)
    return error


def _is_garbage(root: BaseException) -> bool:
    """Whether something came that is not HTTP, rather than nothing or too little."""
    if isinstance(root, urllib3.exceptions.InvalidChunkLength):
        return bool(root.length)  # of an older urllib3 it may be empty: the body broke off there
    if isinstance(root, http.client.HTTPException):
        return not isinstance(root, http.client.RemoteDisconnected | http.client.IncompleteRead)
    return isinstance(root, urllib3.exceptions.InvalidHeader)


def _reason(root: BaseException, request: PreparedRequest, hide: Callable[[str], str]) -> str:
    if isinstance(root, OSError) and root.strerror:
        return root.strerror
    if isinstance(root, OSError | http.client.BadStatusLine | http.client.LineTooLong):
        return _quote(hide(str(root)), request)
    return type(root).__name__


def _where(request: PreparedRequest) -> str:
    return f"{request.method} {_safe(request.url)}"


def _safe(url: str | None) -> str:
    """Cut a URL down to scheme://host/path."""
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return "(not a URL)"
    if parts.scheme not in ("http", "https"):  # of "user:password@host" the scheme would be "user"
        return "(not an http URL)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.partition(';')[0]}"


def _quote(text: str, request: PreparedRequest) -> str:
    """Quote the first 60 characters of what came, unless they repeat what was sent.

    Error pages like to repeat the URL or a header. Whole words are compared, so that no escape hides one;
    that some of them are no secrets costs a quotation at most.
    """
    query = urlsplit(request.url or "").query
    sent = f"{query} {unquote_plus(query)} {list(request.headers.values())}"
    if _words(sent) & _words(text[:500]):
        return "text that repeats the request"
    return repr(" ".join(text[:500].split())[:60])


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]{4,}", text.casefold()))
