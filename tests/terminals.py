"""A terminal for tests: a real pseudo-terminal, and an emulator that keeps what a person would see on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyte

from tests.shell import wait_until


class Terminal:
    """A terminal of some size. `number` is the end that programs have; `raw` is all that was written to it."""

    def __init__(self, columns: int = 80, lines: int = 24, *, emulate: bool = True) -> None:
        self._ours, self.number = pty.openpty()
        self._screen = pyte.HistoryScreen(columns, lines, history=10_000, ratio=0.5)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="terminal", daemon=True)
        self.raw = b""
        self._emulate = emulate  # which is slow with thousands of lines
        self._set_size(columns, lines)
        self.settings = termios.tcgetattr(self.number)

    def begin_to_read(self) -> None:
        """Take what is written; before that a program's writes wait, as after Ctrl-S."""
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # nobody has the other end any more
            while found := os.read(self._ours, 65_536):
                with self._lock:
                    self.raw += found
                    if self._emulate:
                        self._stream.feed(found)

    def resize(self, columns: int, lines: int) -> None:
        with self._lock:
            self._screen.resize(lines, columns)
        self._set_size(columns, lines)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.number, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    @property
    def lines(self) -> list[str]:
        """What it shows, without the empty lines at the end."""
        with self._lock:
            return "\n".join(map(str.rstrip, self._screen.display)).rstrip("\n").split("\n")

    @property
    def all_lines(self) -> list[str]:
        """What it shows, and above that what has scrolled out of sight."""
        with self._lock:
            rows = list(self._screen.history.top)
            return [*("".join(row[x].data for x in range(self._screen.columns)).rstrip() for row in rows),
                    *"\n".join(map(str.rstrip, self._screen.display)).rstrip("\n").split("\n")]  # fmt: skip

    @property
    def has_cursor(self) -> bool:
        with self._lock:
            return not self._screen.cursor.hidden

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def wait_for(self, text: str) -> None:
        """Wait until it shows this."""
        try:
            wait_until(lambda: self.shows(text))
        except AssertionError:
            raise AssertionError("\n".join([f"never shown: {text}", *self.all_lines])) from None

    def close(self) -> None:
        os.close(self.number)
        if self._reader.is_alive():
            self._reader.join(5)
        os.close(self._ours)


@contextmanager
def opened(
    columns: int = 80, lines: int = 24, *, read: bool = True, emulate: bool = True
) -> Iterator[Terminal]:  # fmt: skip
    terminal = Terminal(columns, lines, emulate=emulate)
    if read:
        terminal.begin_to_read()
    try:
        yield terminal
    finally:
        terminal.close()


@contextmanager
def started(
    terminal: Terminal, *arguments: str, program: Sequence[str] = (sys.executable, "-m", "geckosched"),
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[Any]]:  # fmt: skip
    """`geckosched` (or another program) on a terminal that is its own, as if typed there."""
    # The first terminal that the first process of a session opens is the session's own.
    opening = ["sh", "-c", 'exec "$@" <>"$0" >&0 2>&0', os.ttyname(terminal.number)]
    process = subprocess.Popen(
        [*opening, *program, *arguments], stdin=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", **(environment or {})},
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
