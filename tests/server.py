"""A scriptable HTTP server on the loopback: what a Session may meet out there, one answer per request.

    with Server(reply(500), reply(200, b"[]")) as server:
        ...get(server.url + "/path")
        assert len(server.requests) == 2

Each request takes the next answer of the script; the last one stays. An answer is a function of the
`Connection`, and returns True if that can take another request. Nothing here sleeps: whatever waits is ended by
`close`, which joins every thread and raises what went wrong in one.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

Headers = dict[str, str]
PATIENCE = 10.0  # seconds until something that should have happened is given up

CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgUb/sXmOcucYN7aOl
rcngcRSThLsaPGEaWk7Y9omvd6ehRANCAAQE0+sNio2kQWQUN50vtok17ja5mYQA
24hNwj4hD8my37EMzb99lKFy/hcc2FsGQ3UoipUCVuDa0znzJyNPEG5j
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUQ2jzEFyN9pNkO1WI4/F+Z67x5U4wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzE3NTAxOVoYDzIxMjYxMDMw
MTc1MDE5WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQE0+sNio2kQWQUN50vtok17ja5mYQA24hNwj4hD8my37EMzb99lKFy
/hcc2FsGQ3UoipUCVuDa0znzJyNPEG5jo28wbTAdBgNVHQ4EFgQU/DLNKBH4zUXs
zCL92HqL9/vUojgwHwYDVR0jBBgwFoAU/DLNKBH4zUXszCL92HqL9/vUojgwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIhAIAg/m7LsyKa3zR0PxP2EWhwjsBDHPme+94mIiPeK6WJAiAl
6OFK8f+8zKSOp9l52q0Ut9vDRZEK2ZJ/lTmxWzTeMg==
-----END CERTIFICATE-----
"""  # for localhost, made for these tests, guards nothing, good until 2126


@dataclass
class Request:
    method: str
    target: str
    headers: Headers  # names in lower case
    body: bytes


class Connection:
    """What an answer has in hands: the socket and the request."""

    def __init__(self, sock: socket.socket, request: Request, closing: threading.Event) -> None:
        self.sock, self.request, self.closing = sock, request, closing

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def wait(self, seconds: float = PATIENCE) -> bool:
        """Wait, and say whether the server is still up."""
        return not self.closing.wait(seconds)

    def reset(self) -> None:
        """Hang up with a RST instead of a FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Answer = Callable[[Connection], bool | None]


def raw(data: bytes) -> Answer:
    """Send these bytes, and hang up."""
    return lambda connection: connection.send(data)


def head(status: int = 200, headers: Headers | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Phrase", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def reply(status: int = 200, body: bytes = b"[]", headers: Headers | None = None) -> Answer:
    """Answer as one should, and keep the connection."""

    def answer(connection: Connection) -> bool:
        sent = b"" if connection.request.method == "HEAD" else body
        connection.send(head(status, {"Content-Length": str(len(body)), **(headers or {})}) + sent)
        return True

    return answer


def hang(start: bytes = b"") -> Answer:
    """Send the start of an answer, then nothing until the server closes."""

    def answer(connection: Connection) -> None:
        connection.send(start)
        connection.wait()

    return answer


def reset(start: bytes = b"") -> Answer:
    """Send the start of an answer, then a RST."""

    def answer(connection: Connection) -> None:
        connection.send(start)
        connection.reset()

    return answer


def trickle(start: bytes = b"", drop: bytes = b"x", every: float = 0.02) -> Answer:
    """Send the start of an answer, then a drop now and then, for as long as anybody listens."""

    def answer(connection: Connection) -> None:
        connection.send(start)
        while connection.wait(every):
            connection.send(drop)

    return answer


def pour(start: bytes = b"", wave: bytes = b"x" * 65_536) -> Answer:
    """Send the start of an answer, then as much as anybody takes."""

    def answer(connection: Connection) -> None:
        connection.send(start)
        while not connection.closing.is_set():
            connection.send(wave)

    return answer


class Server:
    """Answer by a script; `requests` and `connections` say what came. `tls` is a file with CERTIFICATE."""

    def __init__(self, *script: Answer, tls: Path | None = None) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.connections = 0
        self._tls = _context(tls) if tls else None
        self._closing, self._lock = threading.Event(), threading.Lock()
        self._sockets: list[socket.socket] = []
        self._errors: list[Exception] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End every wait, hang up, join the threads, and raise what went wrong in one."""
        self._closing.set()
        _hang_up(self._listener)
        with self._lock:
            for sock in self._sockets:
                _hang_up(sock)
        while self._threads:
            self._threads.pop().join(PATIENCE)
        if self._errors:
            raise self._errors[0]

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name=f"server {self.port}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._sockets.append(sock)
                self.connections += 1
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._sockets.append(sock)
            with sock, sock.makefile("rb") as file:
                while (request := _read(file)) and self._answer(sock, request):
                    pass
        except OSError:
            pass  # the client hung up, or close() did
        except Exception as error:
            self._errors.append(error)
        finally:
            sock.close()

    def _answer(self, sock: socket.socket, request: Request) -> bool:
        with self._lock:
            self.requests.append(request)
            answer = self.script[min(len(self.requests), len(self.script)) - 1]
        return bool(answer(Connection(sock, request, self._closing)))


def _context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def _read(file: BinaryIO) -> Request | None:
    """Read one request; None where the client hung up instead."""
    line = file.readline().decode("latin-1").split()
    if not line:
        return None
    headers = {}
    while field := file.readline().decode("latin-1").strip():
        name, _, value = field.partition(":")
        headers[name.lower()] = value.strip()
    return Request(line[0], line[1], headers, _read_body(file, headers))


def _read_body(file: BinaryIO, headers: Headers) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return file.read(int(headers.get("content-length", 0)))
    body = b""
    while size := int(file.readline(), 16):
        body += file.read(size)
        file.readline()
    file.readline()
    return body
