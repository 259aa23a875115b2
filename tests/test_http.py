"""Session: what a collector's calls may cost and say, against a server that is slow, broken or hostile."""

from __future__ import annotations

import gzip
import json
import logging
import re
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import requests
from requests import exceptions as errors
from requests.auth import HTTPDigestAuth

import geckosched.http
from geckosched import (
    Batch,
    Budget,
    Clock,
    CollectionScheduler,
    ConfigError,
    Outcome,
    RateLimited,
    Reason,
    Run,
    RunContext,
    RunStopped,
    SchedulerConfig,
    __version__,
    collector,
    from_datetime,
    to_text,
)
from geckosched.core import SECOND, RunPort, Secrets
from geckosched.http import Session
from geckosched.testing import SpeedClock
from tests.server import CERTIFICATE, Answer, Connection, Server, hang, head, pour, raw, reply, reset, trickle

NOW = datetime(2026, 11, 23, 15, 45, tzinfo=UTC)
PASSWORD, KEY, TOKEN = "pa55w0rd+x", "s3cr3tK3y/x", "t0k3nT0k3n="
SECRETS = ("pa55w0rd", "s3cr3tK3y", "t0k3nT0k3n")


class Port:
    """What a RunContext stands on, without a scheduler: it notes calls and pauses, and waits for nothing."""

    def __init__(self) -> None:
        self.calls: list[str] = []  # how each ended
        self.budgets: list[str] = []
        self.pauses: list[float] = []
        self.stopping = False
        self.stop_at_pause = False
        self.objects: dict[object, Any] = {}

    def now(self) -> int:
        return from_datetime(NOW)

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if self.stop_at_pause:
            self.stopping = True
            raise RunStopped

    def take_call(self, budget: Budget) -> int:
        self.budgets.append(budget.name)
        return 1

    def end_call(self, _budget: Budget, _place: int, error: BaseException | None) -> None:
        if isinstance(error, RateLimited):
            self.calls.append(f"429 {error.retry_after:g}")
        else:
            self.calls.append("none" if error else "answer")

    def shared(self, key: object, factory: Callable[[], Any]) -> Any:
        if key not in self.objects:
            self.objects[key] = factory()
        return self.objects[key]

    def commit(self, *_: Any) -> None:
        raise NotImplementedError

    query = calls_free = commit


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port()
    yield port
    for shared in port.objects.values():
        shared.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers; they and all their threads end with the test."""
    before = set(threading.enumerate())
    servers: list[Server] = []

    def start(*script: Answer, **options: Any) -> Server:
        servers.append(Server(*script, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
    assert set(threading.enumerate()) <= before


def open_run(port: Port, run_id: int = 7, job_id: str = "weather", secrets: tuple[str, ...] = ()) -> RunContext:
    return RunContext(
        cast(RunPort, port), run_id=run_id, job_id=job_id, reason=Reason.FIRST, scheduled_for=None, started_at=0,
        options=None, settings={}, budget=Budget("api"), saved_state="{}", secrets=Secrets(secrets),
    )  # fmt: skip


def open_session(port: Port, *, run_id: int = 7, job_id: str = "weather", **options: Any) -> Session:
    limits = {"connect_timeout": 20, "read_timeout": 20, "total_timeout": 20, **options}
    return Session(open_run(port, run_id, job_id), **limits)


def all_that_shows(error: BaseException | None) -> str:
    """What a log could show of an error: text, traceback, and what it is chained to, suppressed or not."""
    shown = ""
    while error is not None:
        shown += f"{error} {error!r} {error.args} {''.join(traceback.format_exception(error))}"
        error = error.__cause__ or error.__context__
    return shown


# -- An answer -----------------------------------------------------------------------------------------------


def test_an_answer_is_what_requests_would_give(port: Port, serve: Any) -> None:
    """json, text, status, headers, elapsed, cookies and url are there; the url with its query."""
    server = serve(reply(200, b'{"price": "1.50"}', {"Set-Cookie": "a=1"}))
    with open_session(port) as session:
        answer = session.get(server.url + "/prices", params={"page": 2})
        assert (answer.json(), answer.text, answer.ok) == ({"price": "1.50"}, '{"price": "1.50"}', True)
        assert answer.url == server.url + "/prices?page=2"
        assert list(answer.iter_lines()) == [b'{"price": "1.50"}']
        assert session.cookies["a"] == "1"
        answer.raise_for_status()
    assert port.calls == ["answer"]


def test_the_example_of_the_module_runs(port: Port, serve: Any) -> None:
    """What the docstring shows works as it stands, but for the address."""
    server = serve(reply(200, b"[1]"))
    example = re.search(r"\n\n((?:    .*\n)+)", str(geckosched.http.__doc__))
    assert example is not None
    names: dict[str, Any] = {"Session": Session, "run": open_run(port), "key": KEY}
    exec(textwrap.dedent(example[1]).replace("https://api.example.org", server.url), names)
    assert names["prices"] == [1]


def test_a_compressed_and_a_chunked_body_are_read(port: Port, serve: Any) -> None:
    """Content-Encoding and Transfer-Encoding are undone."""
    packed = gzip.compress(b"[1]")
    chunked = head(200, {"Transfer-Encoding": "chunked"}) + b"2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n"
    server = serve(reply(200, packed, {"Content-Encoding": "gzip"}), raw(chunked))
    session = open_session(port)
    assert [session.get(server.url).json() for _ in range(2)] == [[1], [1]]


def test_the_user_agent_is_ours_unless_named(port: Port, serve: Any) -> None:
    """The far side sees who calls: geckosched, its version, the job; or what the collector says instead."""
    server = serve(reply())
    open_session(port).get(server.url)
    open_session(port, job_id="ž-weather").get(server.url)
    open_session(port, user_agent="mine/1").get(server.url)
    ours, ascii_only, theirs = (request.headers["user-agent"] for request in server.requests)
    assert (ours, theirs) == (f"geckosched/{__version__} (+weather)", "mine/1")
    assert ascii_only.endswith("(+?-weather)")


def test_the_budget_that_is_named_pays(port: Port, serve: Any) -> None:
    """`budget` names another one than the collector's own."""
    server = serve(reply())
    open_session(port).get(server.url)
    open_session(port, budget=Budget("other")).get(server.url)
    assert port.budgets == ["api", "other"]


def test_streaming_is_refused(port: Port, serve: Any) -> None:
    """A body that the caller reads later would have no limits; nothing is sent."""
    server = serve(reply())
    with pytest.raises(ValueError, match="stream=True"):
        open_session(port).get(server.url, stream=True)
    assert (server.requests, port.calls) == ([], [])


@pytest.mark.parametrize(
    "options",
    [{"connect_timeout": "no"}, {"total_timeout": 0}, {"read_timeout": -1}, {"retries": -1}, {"max_body": 0}],
)
def test_limits_that_are_none_are_refused(port: Port, options: dict[str, Any]) -> None:
    """Zero or less is an error that names the argument, not a limit that is off."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        open_session(port, **options)


# -- Limits --------------------------------------------------------------------------------------------------


def test_a_server_that_never_answers_ends_at_the_read_limit(port: Port, serve: Any) -> None:
    """It accepts and is silent: ReadTimeout, and no second attempt at something that slow."""
    server = serve(hang())
    with pytest.raises(requests.ReadTimeout, match=r"^GET http://127\.0\.0\.1:\d+/x: silent for 0\.2 s$"):
        open_session(port, read_timeout=0.2).get(server.url + "/x")
    assert port.calls == ["none"]


def test_a_body_that_stops_ends_at_the_read_limit(port: Port, serve: Any) -> None:
    """Silence in the middle of a body is silence."""
    server = serve(hang(head(200, {"Content-Length": "10"}) + b"abc"))
    with pytest.raises(requests.ReadTimeout):
        open_session(port, read_timeout=0.2).get(server.url)


SLOW = {
    "status line": trickle(b"HTTP/1.1 2"),
    "headers": trickle(b"HTTP/1.1 200 OK\r\nX: "),
    "continues": trickle(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body of a length": trickle(head(200, {"Content-Length": "1000000"})),
    "body without one": trickle(head()),
    "chunk": trickle(head(200, {"Transfer-Encoding": "chunked"}) + b"fffff\r\n"),
    "chunks": trickle(head(200, {"Transfer-Encoding": "chunked"}), b"1\r\nx\r\n"),
    "chunk's length": trickle(head(200, {"Transfer-Encoding": "chunked"}), b"0"),
    "trailers": trickle(head(200, {"Transfer-Encoding": "chunked"}) + b"0\r\n", b"x: y\r\n"),
}


@pytest.mark.parametrize("answer", SLOW.values(), ids=SLOW)
def test_what_trickles_ends_at_the_total_limit(port: Port, serve: Any, answer: Answer) -> None:
    """A byte now and then satisfies every read limit; the total one counts, wherever in the answer."""
    server = serve(answer)
    with pytest.raises(requests.Timeout, match=r": not done within 0\.3 s$"):
        open_session(port, total_timeout=0.3).get(server.url)
    assert port.calls == ["none"]


def test_the_limits_hold_through_tls_and_through_a_proxy(port: Port, serve: Any, tmp_path: Path) -> None:
    """They sit where the socket is read, whatever lies on it."""
    certificate = tmp_path / "certificate.pem"
    certificate.write_text(CERTIFICATE)
    secure = serve(trickle(head()), tls=certificate)
    proxy = serve(trickle(head()))
    session = open_session(port, total_timeout=0.3)
    with pytest.raises(requests.Timeout, match=r": not done within 0\.3 s$"):
        session.get(secure.url, verify=str(certificate))
    with pytest.raises(requests.Timeout, match=r": not done within 0\.3 s$"):
        session.get("http://far.example/x", proxies={"http": proxy.url})
    assert proxy.requests[0].target == "http://far.example/x"


def test_a_certificate_that_is_not_trusted_is_said_at_once(port: Port, serve: Any, tmp_path: Path) -> None:
    """No retry makes it better."""
    certificate = tmp_path / "certificate.pem"
    certificate.write_text(CERTIFICATE)
    server = serve(reply(), tls=certificate)
    with pytest.raises(errors.SSLError, match=r"no safe connection .*certificate verify failed: self-signed"):
        open_session(port).get(server.url)
    assert port.calls == ["none"]


def test_a_host_that_does_not_take_up_ends_at_the_connect_limit(port: Port) -> None:
    """A full queue of connections is how it looks from here; it is tried again, as every lost connection."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(address)
        began = time.monotonic()
        with pytest.raises(requests.ConnectTimeout, match=r": no connection within 0\.2 s$"):
            open_session(port, connect_timeout=0.2, retries=1).get(f"http://127.0.0.1:{address[1]}")
        assert time.monotonic() - began < 9  # of 40 s, if the limit were the total one
        for sock in waiting:
            sock.close()
    assert port.calls == ["none", "none"]


def test_timeout_replaces_two_limits_but_not_the_total(port: Port, serve: Any) -> None:
    """requests' own argument works for one request; it cannot lift the total limit."""
    silent, slow = serve(hang()), serve(trickle(head()))
    session = open_session(port, total_timeout=0.3)
    with pytest.raises(requests.ReadTimeout, match=r"silent for 0\.1 s"):
        session.get(silent.url, timeout=0.1)
    with pytest.raises(requests.ReadTimeout, match=r"silent for 0\.1 s"):
        session.get(silent.url, timeout=(None, 0.1))
    with pytest.raises(requests.Timeout, match=r"not done within 0\.3 s"):
        session.get(slow.url, timeout=3600)


def test_the_wait_for_the_budget_is_not_counted(port: Port, serve: Any) -> None:
    """The clock of an attempt starts when its call may go out: a narrow budget makes no timeouts."""
    server = serve(reply())
    allowed: list[float] = []

    def take_call(_: Budget) -> int:
        allowed.append(time.monotonic())
        return 1

    port.take_call = take_call  # type: ignore[method-assign, assignment]
    open_session(port, total_timeout=20).get(server.url)
    assert port.objects["geckosched.http"].thread.limits.end >= allowed[0] + 20


BOMB = gzip.compress(b"0" * 10_000_000)
LARGE = {
    "endless": pour(head()),
    "endless chunks": pour(head(200, {"Transfer-Encoding": "chunked"}), b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
    "of a length": pour(head(200, {"Content-Length": "100000000000"})),
    "bomb": reply(200, BOMB, {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("answer", LARGE.values(), ids=LARGE)
def test_a_body_ends_at_its_limit(port: Port, serve: Any, answer: Answer) -> None:
    """Endless, or small until it is unpacked: it ends after `max_body` bytes, and is not asked again."""
    server = serve(answer)
    with pytest.raises(requests.RequestException, match=r"/x: more than 1,000,000 bytes of body$"):
        open_session(port, max_body=1_000_000).get(server.url + "/x")
    assert port.calls == ["none"]


def test_a_body_of_just_the_limit_is_read(port: Port, serve: Any) -> None:
    """The limit itself is allowed."""
    server = serve(reply(200, b"x" * 100_000))
    assert len(open_session(port, max_body=100_000).get(server.url).content) == 100_000


# -- Retries -------------------------------------------------------------------------------------------------

BREAKING = {
    "500": reply(500),
    "reset": reset(),
    "hangs up": raw(b""),
    "reset in the headers": reset(b"HTTP/1.1 200 OK\r\nX-"),
    "reset in the body": reset(head(200, {"Content-Length": "10"}) + b"abc"),
    "body cut short": raw(head(200, {"Content-Length": "10"}) + b"abc"),
    "chunk cut short": raw(head(200, {"Transfer-Encoding": "chunked"}) + b"5\r\nab"),
    "no next chunk": raw(head(200, {"Transfer-Encoding": "chunked"}) + b"2\r\nab\r\n"),
}


@pytest.mark.parametrize("answer", BREAKING.values(), ids=BREAKING)
def test_what_may_pass_is_tried_again(port: Port, serve: Any, answer: Answer) -> None:
    """5xx, resets and bodies that break off are tried again, each time as a call of the budget."""
    server = serve(answer, answer, reply(200, b"[1]"))
    assert open_session(port).get(server.url).json() == [1]
    assert len(port.calls) == len(server.requests) == 3
    assert len(port.pauses) == 2


def test_pauses_grow_and_vary(port: Port, serve: Any) -> None:
    """Half to all of 1, 2, 4 seconds of the scheduler's clock; the same run pauses the same, no other does."""
    server = serve(reply(500))
    open_session(port).get(server.url)
    for pause, most in zip(port.pauses, (1, 2, 4), strict=True):
        assert most / 2 <= pause <= most
    first = port.pauses.copy()
    open_session(port).get(server.url)
    open_session(port, run_id=8).get(server.url)
    assert port.pauses[3:6] == first != port.pauses[6:]


def test_the_last_5xx_is_the_answer(port: Port, serve: Any) -> None:
    """Retries end; then the collector has the response, and its body."""
    server = serve(reply(502, b"bad gateway"))
    answer = open_session(port, retries=2).get(server.url)
    assert (answer.status_code, answer.content, len(server.requests)) == (502, b"bad gateway", 3)
    assert port.calls == ["answer"] * 3
    with pytest.raises(requests.HTTPError, match="502 Server Error: Bad Gateway"):
        answer.raise_for_status()


def test_a_4xx_is_an_answer_at_once(port: Port, serve: Any) -> None:
    """Asking again would not help."""
    server = serve(reply(404))
    assert open_session(port).get(server.url).status_code == 404
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [reply(500), reset()], ids=["500", "reset"])
def test_a_post_is_sent_once(port: Port, serve: Any, answer: Answer) -> None:
    """What may have had its effect is not repeated."""
    server = serve(answer)
    with pytest.raises(requests.RequestException):
        open_session(port).post(server.url, json={}).raise_for_status()
    assert len(server.requests) == len(port.calls) == 1


def test_a_put_is_repeated_unless_its_body_is_spent(port: Port, serve: Any) -> None:
    """Bytes are sent again; a generator cannot be."""
    server = serve(reply(500), reply(), reply(500))
    session = open_session(port)
    assert session.put(server.url, data=b"abc").ok
    assert [request.body for request in server.requests] == [b"abc", b"abc"]
    assert session.put(server.url, data=iter([b"abc"])).status_code == 500
    assert len(server.requests) == 3


def test_who_hangs_up_without_a_word_is_said_so(port: Port, serve: Any) -> None:
    """The reason stands in brackets: it is Python's own text, and repeats nothing that was sent."""
    server = serve(raw(b""))
    with pytest.raises(requests.ConnectionError, match=r"\('Remote end closed connection without response'\)$"):
        open_session(port).get(server.url)


def test_nobody_listening_is_tried_again_and_then_said(port: Port) -> None:
    """A refused connection is a ConnectionError after the retries."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(requests.ConnectionError, match=r"/x: no connection, or it broke \(Connection refused\)$"):
        open_session(port).get(url + "/x")
    assert port.calls == ["none"] * 4


def test_a_short_retry_after_is_waited_for(port: Port, serve: Any) -> None:
    """A 503 that says when: the pause is at least that."""
    server = serve(reply(503, headers={"Retry-After": "20"}), reply())
    assert open_session(port).get(server.url).ok
    assert port.pauses == [20]


def test_a_long_retry_after_ends_the_run_as_rate_limited(port: Port, serve: Any) -> None:
    """More than a minute is not for a run to wait: all who share the budget hear of it. After a POST too."""
    server = serve(reply(503, headers={"Retry-After": "61"}))
    for method in ("GET", "POST"):
        with pytest.raises(RateLimited) as caught:
            open_session(port).request(method, server.url)
        assert caught.value.retry_after == 61
    assert port.calls == ["429 61", "429 61"]
    assert port.pauses == []


# -- 429 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 1),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "soon"}, 1),
        ({"Retry-After": "-5"}, 1),
        ({"Retry-After": "nan"}, 1),
        ({"Retry-After": "1e3"}, 1),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": " 7.2 "}, 8),
        ({"Retry-After": "9" * 400}, 86_400),
        ({"Retry-After": "Mon, 23 Nov 2026 15:45:30 GMT"}, 30),
        ({"Retry-After": "Mon, 23 Nov 2026 15:44:30 GMT"}, 1),
        ({"Retry-After": "Monday, 23-Nov-26 15:45:30 GMT"}, 30),
        ({"Retry-After": "Mon Nov 23 15:45:30 2026"}, 30),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 -2359"}, 86_400),
        ({"Retry-After": "Mon, 99 Foo 2026 15:45:30 GMT"}, 1),
        ({"Retry-After": "Thu, 01 Jan 1970 00:01:30 GMT", "Date": "Thu, 01 Jan 1970 00:01:00 GMT"}, 30),
        ({"Retry-After": "Mon, 23 Nov 2026 15:45:30 GMT", "Date": "yesterday"}, 30),
    ],
)
def test_a_429_becomes_rate_limited(port: Port, serve: Any, headers: dict[str, str], seconds: int) -> None:
    """Retry-After is seconds or a date by the far side's clock; nothing, 0 and garbage are 1; a day at most."""
    server = serve(reply(429, headers=headers))
    with pytest.raises(RateLimited) as caught:
        open_session(port).get(server.url)
    assert caught.value.retry_after == seconds
    assert port.calls == [f"429 {seconds}"]
    assert len(server.requests) == 1


def test_a_429_needs_no_body(port: Port, serve: Any) -> None:
    """What the status says is not lost with a body that breaks off."""
    server = serve(reset(head(429, {"Content-Length": "10"}) + b"abc"))
    with pytest.raises(RateLimited):
        open_session(port).get(server.url)


# -- The end of a run ----------------------------------------------------------------------------------------


def test_nothing_is_sent_once_the_run_must_stop(port: Port, serve: Any) -> None:
    """RunStopped before the first attempt, and before a retry."""
    server = serve(reply(500))
    session = open_session(port)
    port.stop_at_pause = True
    for _ in range(2):
        with pytest.raises(RunStopped):
            session.get(server.url)
    assert len(server.requests) == len(port.calls) == 1


# -- Redirects -----------------------------------------------------------------------------------------------


def test_each_hop_of_a_redirect_is_a_call_within_the_limits(port: Port, serve: Any) -> None:
    """Redirects are followed, through the budget; the answer knows its history."""
    slow = serve(trickle(head()))
    server = serve(
        reply(302, headers={"Location": "/b"}),
        reply(500),
        reply(),
        reply(302, headers={"Location": slow.url}),
    )
    answer = open_session(port).get(server.url + "/a")
    assert (answer.url, len(answer.history)) == (server.url + "/b", 1)
    assert [request.target for request in server.requests] == ["/a", "/b", "/b"]
    assert port.calls == ["answer"] * 3
    with pytest.raises(requests.Timeout, match="not done within"):
        open_session(port, total_timeout=0.3).get(server.url)


def test_a_loop_of_redirects_ends(port: Port, serve: Any) -> None:
    """After `max_redirects`, in one line."""
    server = serve(reply(302, headers={"Location": f"/again?key={KEY}"}))
    with pytest.raises(requests.TooManyRedirects) as caught:
        open_session(port).get(server.url + "/a")
    assert str(caught.value) == f"GET {server.url}/a: more than 5 redirects"
    assert len(server.requests) == len(port.calls) == 6
    assert "s3cr3t" not in all_that_shows(caught.value)


@pytest.mark.parametrize("location", ["ftp://x/y?key=s3cr3tK3y", "http://[s3cr3tK3y", "\xff\xfe", "http://"])
def test_a_redirect_to_nowhere_is_one_line(port: Port, serve: Any, location: str) -> None:
    """What cannot be followed says so, and shows no query."""
    server = serve(reply(302, headers={"Location": location}))
    with pytest.raises(requests.RequestException) as caught:
        open_session(port).get(server.url)
    assert "\n" not in str(caught.value)
    assert "s3cr3t" not in all_that_shows(caught.value)


# -- Garbage -------------------------------------------------------------------------------------------------

GARBAGE = {
    "not HTTP": (
        raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        r"an answer that is not HTTP \('SSH-2.0-OpenSSH_9.2'\)",
    ),
    "a line without end": (raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000), "not HTTP"),
    "a chunk's length": (raw(head(200, {"Transfer-Encoding": "chunked"}) + b"zz\r\nab\r\n"), "not HTTP"),
    "too many headers": (raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"), "not HTTP"),
    "two lengths": (raw(head(200, {"Content-Length": "3, 4"}) + b"abc"), "not HTTP"),
    "gzip": (reply(200, b"abc" * 9, {"Content-Encoding": "gzip"}), "not what its Content-Encoding says"),
}


@pytest.mark.parametrize(("answer", "words"), GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_one_clear_line_and_not_asked_again(port: Port, serve: Any, answer: Answer, words: str) -> None:
    """What is not HTTP, or not what it says, is a RequestException that says so."""
    server = serve(answer)
    with pytest.raises(requests.RequestException, match=words) as caught:
        open_session(port).get(server.url + "/x")
    assert str(caught.value).startswith(f"GET {server.url}/x: ")
    assert "\n" not in str(caught.value)
    assert port.calls == ["none"]


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"", "application/json", "200 with an empty body, which is not JSON"),
        (
            b"<html>\n <b>Down</b>",
            "text/html; charset=x",
            r"with text/html that begins with '<html> <b>Down</b>'",
        ),
        (b'{"a": 1', "application/json", r"""begins with '{"a": 1', which is not JSON: Expecting .* \(char 7\)$"""),
        (b"x" * 200, "text/plain", rf"begins with '{'x' * 60}', which"),
        (b"\x00\xff" * 20, "application/json", "not JSON"),
        (b"[" * 200_000, "application/json", "not JSON: RecursionError"),
        (b"1" * 10_000, "application/json", "not JSON: ValueError"),
    ],
)
def test_what_is_no_json_is_shown_in_one_line(port: Port, serve: Any, body: bytes, kind: str, words: str) -> None:
    """A ValueError, as in requests, that says where, what came, and its first 60 characters."""
    server = serve(reply(200, body, {"Content-Type": kind}))
    answer = open_session(port).get(server.url + "/x", params={"key": KEY})
    with pytest.raises(requests.JSONDecodeError, match=words) as caught:
        answer.json()
    assert isinstance(caught.value, json.JSONDecodeError)
    assert str(caught.value).startswith(f"GET {server.url}/x: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_error_of_a_json_hook_is_the_caller_s(port: Port, serve: Any) -> None:
    """What a hook raises is not taken for bad JSON."""
    server = serve(reply(200, b"[1]"))

    def hook(_: str) -> int:
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        open_session(port).get(server.url).json(parse_int=hook)


# -- Secrets -------------------------------------------------------------------------------------------------


def echo_first(connection: Connection) -> None:
    """Answer with the request where the status should be."""
    connection.send(connection.request.target.encode() + b"\r\n\r\n")


def echo(connection: Connection) -> None:
    """Answer with the request, as some error pages do."""
    request = connection.request
    connection.send(head(200) + f"no: {request.target} {request.headers}".encode())


SPOKEN: dict[str, Answer] = {
    **{name: answer for name, (answer, _) in GARBAGE.items()},
    **BREAKING,
    "404": reply(404),
    "not JSON": reply(200, b"<html>"),
    "echo": echo,
    "echo of a header": lambda connection: connection.send(head() + connection.request.headers["x-api-key"].encode()),
    "echo in the status line": echo_first,
    "silence": hang(),
    "trickle": trickle(head()),
    "large": pour(head()),
    "malformed header": raw(b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\n{]"),
    "redirect": reply(302, headers={"Location": f"/again?key={KEY}"}),
}


@pytest.mark.parametrize("answer", SPOKEN.values(), ids=SPOKEN)
def test_errors_show_no_query_no_password_and_no_header(
    port: Port, serve: Any, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in their text, nor in what they are chained to, nor in a traceback, nor in a warning of urllib3."""
    server = serve(answer)
    caplog.set_level(logging.INFO)
    session = open_session(port, read_timeout=0.2, total_timeout=0.3, retries=1, max_body=1_000_000)
    session.headers["X-Api-Key"] = TOKEN
    url = server.url.replace("http://", f"http://user:{PASSWORD}@") + "/path"

    def use() -> None:
        answered = session.get(url, params={"key": KEY})
        answered.raise_for_status()
        answered.json()

    with pytest.raises(requests.RequestException) as caught:
        use()
    assert PASSWORD not in server.requests[0].target
    assert "s3cr3tK3y" in server.requests[0].target
    assert f"{server.url}/path" in str(caught.value)
    for secret in SECRETS:
        assert secret not in all_that_shows(caught.value)
        assert secret not in caplog.text


@pytest.mark.parametrize(
    "send",
    [
        lambda session: session.get("host/path?key=s3cr3tK3y"),
        lambda session: session.get("user:pa55w0rd@host/path?key=s3cr3tK3y"),
        lambda session: session.get("ftp://user:pa55w0rd@host/path?key=s3cr3tK3y"),
        lambda session: session.get("http://user:pa55w0rd/x@host:p/path?key=s3cr3tK3y"),
        lambda session: session.get("http://user:pa55w0rd@[host/?key=s3cr3tK3y"),
        lambda session: session.get("http://?key=s3cr3tK3y"),
        lambda session: session.get("http://.host/?key=s3cr3tK3y"),
        lambda session: session.get("http://host:99999/?key=s3cr3tK3y"),
        lambda session: session.get("http://host", headers={"X": "t0k3nT0k3n\n"}),
        lambda session: session.get("http://127.0.0.1:1", headers={"X": "t0k3nT0k3n\u20ac"}),
        lambda session: session.post("http://host", json=float("nan"), headers={"X": "t0k3nT0k3n"}),
    ],
)
def test_what_cannot_be_sent_shows_no_secret(port: Port, send: Callable[[Session], Any]) -> None:
    """A URL or header that is not valid is said without being shown."""
    with pytest.raises(requests.RequestException) as caught:
        send(open_session(port, retries=0))
    assert "\n" not in str(caught.value)
    text = all_that_shows(caught.value).replace("lambda session", "")
    for line in text.splitlines():
        assert line.strip().startswith(": session.") or not any(secret in line for secret in SECRETS)


def test_an_error_in_the_caller_s_hands_stays_chained(port: Port, serve: Any) -> None:
    """Who calls while handling an error of his own still finds it, and it is not taken for ours."""
    server = serve(reset())
    try:
        raise TimeoutError("the caller's")
    except TimeoutError:
        with pytest.raises(requests.ConnectionError, match="reset") as caught:
            open_session(port, retries=0).get(server.url)
    assert "the caller's" in all_that_shows(caught.value)


# -- Connections ---------------------------------------------------------------------------------------------


def test_connections_outlive_the_session_and_cookies_do_not(port: Port, serve: Any) -> None:
    """Runs share connections, closed or not, and nothing else; a 204 and a HEAD keep theirs too."""
    server = serve(reply(200, headers={"Set-Cookie": "a=1"}), reply(204, b""), reply(), reply(500, b""), reply())
    for method in ("GET", "GET", "HEAD", "GET"):
        with open_session(port) as session:
            session.request(method, server.url)
    assert len(server.requests) == 5
    assert server.connections == 1
    assert not any("cookie" in request.headers for request in server.requests)
    assert len(port.objects) == 1


def test_an_attempt_that_failed_leaves_no_connection_behind(port: Port, serve: Any) -> None:
    """What was cut off in the middle of an answer would serve its rest to the next request."""
    server = serve(pour(head(200, {"Content-Length": "9000000"})), hang(head(429)), reply(200, b"[1]"))
    session = open_session(port, max_body=1_000_000)
    with pytest.raises(requests.RequestException):
        session.get(server.url)
    with pytest.raises(RateLimited):
        session.get(server.url)
    assert session.get(server.url).json() == [1]
    assert server.connections == 3


def test_a_kept_connection_has_the_limits_of_its_present_attempt(port: Port, serve: Any) -> None:
    """Neither limits nor time of the attempt before are left on it."""
    server = serve(reply(), trickle(head()), reply())
    open_session(port, total_timeout=60).get(server.url)
    with pytest.raises(requests.Timeout, match=r"within 0\.3 s"):
        open_session(port, total_timeout=0.3).get(server.url)


def test_ten_workers_share_the_connections(port: Port, serve: Any) -> None:
    """Ten threads at once, each with its own session and limits, get each its own answers."""

    def number(connection: Connection) -> bool:
        body = connection.request.target[1:].encode()
        connection.send(head(200, {"Content-Length": str(len(body))}) + body)
        return True

    server = serve(number)
    wrong: list[Any] = []
    barrier = threading.Barrier(10)

    def work(worker: int) -> None:
        barrier.wait(10)
        session = open_session(port, total_timeout=5 + worker)
        for turn in range(20):
            if (got := session.get(f"{server.url}/{worker * 1000 + turn}").json()) != worker * 1000 + turn:
                wrong.append(got)

    open_session(port)  # the run here is no scheduler: it makes the shared object without a lock
    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert wrong == []
    assert len(server.requests) == 200
    assert server.connections <= 10


def test_digest_auth_is_two_calls(port: Port, serve: Any) -> None:
    """An auth that asks again does so through the budget and the limits."""
    challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
    server = serve(reply(401, headers={"WWW-Authenticate": challenge}), reply(200, b"[1]"))
    answer = open_session(port).get(server.url, auth=HTTPDigestAuth("user", PASSWORD))
    assert answer.json() == [1]
    assert port.calls == ["answer", "answer"]


# -- With a scheduler ----------------------------------------------------------------------------------------


@contextmanager
def scheduling(
    folder: Path, use: Callable[[Session], Any], clock: Clock | None = None
) -> Iterator[CollectionScheduler]:
    """Run a scheduler with one job, `web`, whose runs give a Session to `use`."""

    @collector("web", every="1d", budget=Budget("api", rate="1000/m", burst=100))
    def web(run: RunContext) -> Batch:
        with Session(run) as session:
            return Batch("answers", [{"answer": use(session).json()}])

    config = SchedulerConfig(database=folder / "test.db", catchup="none", timeout="1d")
    with CollectionScheduler(config, clock=clock) as scheduler:
        scheduler.register_collector(web)
        yield scheduler


def execute(scheduler: CollectionScheduler) -> Run:
    run = scheduler.execute_collector_now("web")
    assert run is not None
    return run


def fast() -> Clock:
    """A clock on which the pauses between attempts take milliseconds."""
    return SpeedClock(NOW, speed=100)


def test_calls_are_counted_in_the_run_s_row(serve: Any, tmp_path: Path) -> None:
    """Every attempt is a call, retries and redirects among them; the next run uses the same connection."""
    server = serve(reply(500), reply(302, headers={"Location": "/b"}), reply(500), reply(200, b"[1]"))
    with scheduling(tmp_path, lambda session: session.get(server.url), fast()) as scheduler:
        assert (execute(scheduler).outcome, execute(scheduler).calls) == (Outcome.SUCCEEDED, 1)
        first = scheduler.get_runs("web")[-1]
    assert (first.calls, first.rows) == (4, 1)
    assert server.connections == 1


def test_a_429_ends_the_run_as_rate_limited_and_closes_the_budget(serve: Any, tmp_path: Path) -> None:
    """Without an error, for as long as the far side asked, and for all who share the budget."""
    server = serve(reply(429, headers={"Retry-After": "1000"}))
    with scheduling(tmp_path, lambda session: session.get(server.url), fast()) as scheduler:
        run = execute(scheduler)
        job = scheduler.get_collector_status("web")
    assert (run.outcome, run.calls, run.error) == (Outcome.RATE_LIMITED, 1, None)
    assert (job.consecutive_errors, len(server.requests)) == (0, 1)
    with closing(sqlite3.connect(tmp_path / "test.db")) as connection:
        (closed_until,) = connection.execute(
            "SELECT closed_until FROM geckosched_budgets WHERE name = 'api'"
        ).fetchone()
    assert closed_until >= to_text(from_datetime(run.started_at) + 1000 * SECOND)


def test_a_stop_during_a_pause_ends_the_run(serve: Any, tmp_path: Path) -> None:
    """The scheduler does not wait for a Retry-After, and no other attempt is sent."""
    asked = threading.Event()

    def answer(connection: Connection) -> bool | None:
        asked.set()
        return reply(503, headers={"Retry-After": "60"})(connection)

    server = serve(answer)
    with scheduling(tmp_path, lambda session: session.get(server.url)) as scheduler:
        scheduler.execute_collector_now("web", wait=False)
        assert asked.wait(20)
        scheduler.stop(timeout=20)
        (run,) = scheduler.get_runs("web")
    assert (run.outcome, run.calls, len(server.requests)) == (Outcome.INTERRUPTED, 1, 1)


def test_a_failed_run_s_row_holds_no_secret(serve: Any, tmp_path: Path) -> None:
    """Neither error nor traceback of a call say more than scheme://host/path."""
    server = serve(reply(404, b"no"), reset())
    url = server.url.replace("http://", f"http://user:{PASSWORD}@") + "/prices"

    def use(session: Session) -> Any:
        answer = session.get(url, params={"key": KEY}, headers={"X-Api-Key": TOKEN})
        answer.raise_for_status()
        return answer

    with scheduling(tmp_path, use, fast()) as scheduler:
        runs = [execute(scheduler), execute(scheduler)]
    assert [(run.outcome, run.error_type) for run in runs] == [
        (Outcome.FAILED, "HTTPError"),
        (Outcome.FAILED, "ConnectionError"),
    ]
    shown = " ".join(str(run.as_dict()) for run in runs)
    assert f"{server.url}/prices" in shown
    assert not any(secret in shown for secret in SECRETS)


def test_the_package_does_not_load_requests() -> None:
    """`import geckosched` is cheap; only who imports geckosched.http pays for requests."""
    check = "import sys, geckosched; sys.exit('requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_no_part_of_a_secret_is_quoted_from_an_answer(port: Port, serve: Any) -> None:
    """What is quoted is cut, and what is cut in a secret would not be found any more, so it is hidden before."""
    body = b"x" * 52 + b" hunter2-0042-and-more"
    server = serve(reply(200, body))
    answer = Session(open_run(port, secrets=("hunter2-0042-and-more",))).get(server.url)
    with pytest.raises(requests.JSONDecodeError) as caught:
        answer.json()
    assert "hunt" not in str(caught.value)
    assert "xxx ***'" in str(caught.value)
