"""What stands on a terminal and changes there: `status --watch`, and the table below the log of `geckosched run`.

Calm is the point: nothing is cleared that stays, and of a line that changes only the characters that do are written, in
one write for a whole refresh. `rewritten`, `Page` and `Footer` decide what to write, and are told the lines; `watch`
and `LiveView` have the terminal. (rich.live clears and repaints all its lines at every refresh, and hides the cursor,
which a process that is killed leaves so.)

`watch` has the alternate screen, on the main thread, and gives the terminal back as it was. `LiveView` never hides the
cursor and changes no setting of the terminal, so that it has nothing to restore after a crash. It has two threads: one
looks at the store, one writes. Everything that is written while it shows, log lines and what plugins print, goes
through the latter, above the table: nobody waits for the terminal or for a look, and an error in it ends the view and
nothing else. While the process is in the background it only logs.

In this order: what to write · `status --watch` · the live view of `run` · terminals and signals · what is shown.
"""

from __future__ import annotations

import collections
import contextvars
import io
import logging
import os
import re
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, cast

from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style
from rich.text import Text

from geckosched import screens
from geckosched.core import CollectionScheduler, GeckoschedError, Inbox, Run, SchedulerState
from geckosched.logs import LineStream, Voice
from geckosched.rendering import count, line, span, wrapped
from geckosched.views import Status

__all__ = ["LiveView", "RunView", "StatusView", "can_be_painted", "watch"]

log = logging.getLogger("geckosched")

Look = Callable[[int, int], Sequence[Text]]  # what to show in so many columns and lines at most
WATCH_EVERY = 2.0  # seconds; so often the leader says that it is alive
LIVE_EVERY = 1.0  # seconds, at least
SHARE = 20  # a look takes at most one part in so many of the time
BREATH = 0.05  # seconds between two writes; what is logged meanwhile is written at once
BACKLOG = 10_000  # lines that wait for a terminal that takes none (Ctrl-S)
_SLICE = 0.25  # seconds until a new size of the terminal is seen
_LEAST_HEIGHT = 8  # lines of a terminal that has room for a table below the log
_COLOURS = {"standard": ColorSystem.STANDARD, "256": ColorSystem.EIGHT_BIT, "truecolor": ColorSystem.TRUECOLOR}
_END_LINE, _END_SCREEN, _CLEAR = "\x1b[K", "\x1b[J", "\x1b[2J"  # erase from the cursor to the line's end, the screen's
_ENTER = "\x1b[?1049h\x1b[?25l"  # the alternate screen, without a cursor
_LEAVE = f"{_CLEAR}\x1b[H\x1b[?25h\x1b[?1049l"  # cleared, since tmux gives a screen that was resized some of it back


def can_be_painted(stream: TextIO) -> bool:
    """Whether a stream is a terminal on which the cursor can be moved."""
    return stream.isatty() and not Console(file=stream).is_dumb_terminal


# -- What to write -----------------------------------------------------------------------------------------------------

Cell = tuple[str, str]  # a character, and what switches its colours on
Line = tuple[Cell, ...]


class Palette:
    """Makes cells of rich's lines, in the colours that a terminal has and its user wants (NO_COLOR)."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._colours = _COLOURS.get(self._console.color_system or "")
        self._switches: dict[Style | None, str] = {None: ""}

    def lines(self, texts: Sequence[Text], width: int, height: int) -> list[Line]:
        return [self._cells(each)[:width] for each in texts[:height]]

    def _cells(self, line: Text) -> Line:
        return tuple((each, self._switch(style)) for text, style, _ in line.render(self._console) for each in text)

    def _switch(self, style: Style | None) -> str:
        if style is not None and style not in self._switches:
            shown = style.without_color if self._console.no_color else style
            self._switches[style] = shown.render("|", color_system=self._colours).partition("|")[0]
        return self._switches[style]


def painted(cells: Sequence[Cell]) -> str:
    """Return what writes these cells where the cursor is."""
    parts, before = [], ""
    for text, switch in cells:
        if switch != before:
            parts.append(f"\x1b[0m{switch}" if before else switch)
            before = switch
        parts.append(text)
    return "".join(parts) + ("\x1b[0m" if before else "")


def rewritten(old: Line, new: Line) -> tuple[int, str]:
    """Return from which column on a line must be written anew, and what to write there ("" if nothing changed)."""
    if old == new:
        return 0, ""
    if not all(text.isascii() for text, _ in old + new):  # terminals differ about how wide some characters are
        return 0, f"{_END_LINE}{painted(new)}"
    begin = _alike(old, new)
    end = _alike(old[begin:][::-1], new[begin:][::-1]) if len(old) == len(new) else 0
    return begin, painted(new[begin:len(new) - end]) + (_END_LINE if len(new) < len(old) else "")


def _alike(one: Line, other: Line) -> int:
    """Return how many cells at the beginning are the same."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def tame(text: str) -> str:
    """Return what a plugin prints without what would move the cursor or erase: only its colours stay."""
    return _UNTAMED.sub("", text) + ("\x1b[0m" if "\x1b[" in text else "")


_UNTAMED = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-ln-~]"  # CSI sequences, but for colours (m)
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # titles, links, device strings
    r"|\x1b(?!\[[0-?]*m)[0-OQ-WYZ\\`-~]?"  # any other, or a broken one
    r"|[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f-\x9f]"
)


class Page:
    """A whole screen."""

    def __init__(self) -> None:
        self._size: tuple[int, int] | None = None
        self._shown: list[Line] = []

    def show(self, lines: Sequence[Line], size: tuple[int, int]) -> str:
        """Return what changes the screen to these lines."""
        first = self._size != size
        shown = [] if first else self._shown
        self._size, self._shown = size, list(lines)
        text = _CLEAR if first else ""
        for row in range(max(len(shown), len(lines))):
            column, change = rewritten(*(each[row] if row < len(each) else () for each in (shown, lines)))
            text += f"\x1b[{row + 1};{column + 1}H{change}" if change else ""
        return text


class Footer:
    """Lines below what is logged. The cursor stays on the empty line under them, so that what a user types (^C) or a
    crash leaves there is in nobody's way."""

    def __init__(self) -> None:
        self._shown: list[Line] = []
        self._width = 0

    def show(self, lines: Sequence[Line], width: int) -> str:
        """Return what changes the lines to these."""
        if len(lines) != len(self._shown) or self._is_torn(width):
            return self.log("", lines, width)
        text = ""
        for row, (old, new) in enumerate(zip(self._shown, lines, strict=True)):
            column, change = rewritten(old, new)
            up, right = len(lines) - row, f"\x1b[{column}C" if column else ""
            text += f"\x1b[{up}A\r{right}{change}\x1b[{up}B\r" if change else ""
        self._shown, self._width = list(lines), width
        return text

    def log(self, said: str, lines: Sequence[Line], width: int) -> str:
        """Return what writes whole lines above the footer, which is `lines` from now on."""
        text = f"{self.clear(width)}{said}" + "".join(f"{painted(each)}\n" for each in lines)
        self._shown, self._width = list(lines), width
        return text

    def clear(self, width: int) -> str:
        """Return what takes the lines away."""
        shown, self._shown = [] if self._is_torn(width) else self._shown, []
        return f"\x1b[{len(shown)}A\r{_END_SCREEN}" if shown else ""

    def _is_torn(self, width: int) -> bool:
        """Whether the terminal is too narrow now for what it shows. Some break such lines and some cut them, so nobody
        knows where they are: they are left, and the next ones come below."""
        return width < self._width and any(len(each) >= width for each in self._shown)


# -- status --watch ----------------------------------------------------------------------------------------------------


def watch(look: Look, stream: TextIO, seconds: float = WATCH_EVERY) -> None:
    """Show what `look` returns on the whole terminal, again and again, until q or a KeyboardInterrupt, and leave the
    terminal as it was. For the main thread. SIGHUP ends it as Ctrl-C does."""
    palette, terminal, due = Palette(stream), WholeTerminal(stream), 0.0
    with terminal.taken():
        while not terminal.is_told_to_quit():
            size = _size_of(stream)
            if time.monotonic() >= due or size != terminal.size:
                began = time.monotonic()
                terminal.show(palette.lines(look(*size), *size), size)
                due = began + max(seconds, SHARE * (time.monotonic() - began))
            terminal.wait(min(_SLICE, max(0.0, due - time.monotonic())))


class WholeTerminal:
    """The alternate screen of a terminal, and its keyboard without echo; given back for as long as the process is
    stopped (Ctrl-Z)."""

    def __init__(self, stream: TextIO) -> None:
        self.size: tuple[int, int] | None = None  # of what is shown
        self._stream = stream
        self._keyboard = Keyboard()
        self._page = Page()

    @contextmanager
    def taken(self) -> Iterator[None]:
        with ExitStack() as undo:
            undo.callback(self._leave)
            undo.enter_context(_handling(signal.SIGTSTP, self._on_stop))
            undo.enter_context(_handling(signal.SIGHUP, _interrupt))
            self._enter()
            yield

    def show(self, lines: Sequence[Line], size: tuple[int, int]) -> None:
        self.size = size
        _write(self._stream, self._page.show(lines, size))

    def wait(self, seconds: float) -> None:
        self._keyboard.wait(seconds)

    def is_told_to_quit(self) -> bool:
        return "q" in self._keyboard.typed().lower()

    def _enter(self) -> None:
        self._page, self.size = Page(), None
        self._keyboard.enter()
        _write(self._stream, _ENTER)

    def _leave(self) -> None:
        with suppress(OSError):  # the terminal is gone
            _write(self._stream, _LEAVE)
        self._keyboard.leave()

    def _on_stop(self, *_: object) -> None:
        self._leave()
        _stop_until_continued(self._on_stop)
        self._enter()


class Keyboard:
    """What is typed, without echo and at once; nothing where stdin is no terminal."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._before: list[Any] = []
        with suppress(OSError, ValueError, AttributeError):
            self._number = sys.stdin.fileno() if sys.stdin.isatty() else None

    def enter(self) -> None:
        if self._number is not None and is_in_foreground(self._number):
            self._before = termios.tcgetattr(self._number)
            tty.setcbreak(self._number, termios.TCSANOW)

    def leave(self) -> None:
        """Give the keyboard back; what was typed and not read goes to nobody."""
        if self._number is not None and self._before:
            with suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._number, termios.TCSAFLUSH, self._before)
            self._before = []

    def wait(self, seconds: float) -> None:
        """Wait until something is typed."""
        if self._before and self._number is not None:
            select.select([self._number], [], [], seconds)
        else:
            Inbox().wait(seconds)

    def typed(self) -> str:
        """Return what was typed since; "q" if nobody can type any more."""
        if not self._before or self._number is None or not select.select([self._number], [], [], 0)[0]:
            return ""
        return os.read(self._number, 1024).decode("ascii", "replace") or "q"


# -- The live view of `run` --------------------------------------------------------------------------------------------


class LiveView:
    """A table below the log. `look` is called on a thread of the view, once a second at most."""

    def __init__(self, look: Look, voice: Voice, stream: TextIO) -> None:
        self._look = look
        self._voice = voice
        self._stream = stream
        self._palette = Palette(stream)
        self._lines: list[Line] = []  # of the table, as it should be
        self._said: collections.deque[str] = collections.deque()  # what is to be written above it
        self._unsaid = 0
        self._hand_over = threading.RLock()  # of the two above; never held while something is written
        self._news = threading.Event()
        self._terminal = threading.RLock()  # who holds it writes
        self._footer = Footer()
        self._process = os.getpid()
        self._over = self._away = False

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Show the table meanwhile; for the main thread. Afterwards it is gone, and the log stands there alone."""
        with ExitStack() as undo:
            undo.callback(lambda: _write(self._stream, self._take()))
            undo.enter_context(self._hearing())
            threads = [self._start(each) for each in (self._keep_looking, self._keep_writing)]
            undo.callback(self._end, threads)
            undo.enter_context(_handling(signal.SIGTSTP, self._on_stop))
            yield

    @contextmanager
    def _hearing(self) -> Iterator[None]:
        """Take what the voice says and what is printed, instead of the terminal."""
        before, voice_stream = (sys.stdout, sys.stderr), self._voice.stream
        instead = [LineStream(each, lambda line: self._tell(f"{tame(line)}\n")) if each.isatty() else each
                   for each in before]  # fmt: skip
        self._voice.setStream(cast(TextIO, Teller(self._tell, voice_stream)))
        sys.stdout, sys.stderr = cast(list[TextIO], instead)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            for stream in instead:
                if isinstance(stream, LineStream):
                    stream.close()
            self._voice.setStream(voice_stream)

    def _start(self, loop: Callable[[], None]) -> threading.Thread:
        context = contextvars.copy_context()  # has the secrets
        name = f"geckosched-live-{loop.__name__.rpartition('_')[2]}"
        thread = threading.Thread(target=context.run, args=(self._guarded, loop), name=name, daemon=True)
        thread.start()
        return thread

    def _guarded(self, loop: Callable[[], None]) -> None:
        """Run a loop. An error in it is the view's end, and is said once; from then on all is written at once."""
        try:
            loop()
        except Exception:
            if not self._over:
                self._over = True
                self._clear()
                log.exception("the live view has ended by an error; nothing else has")

    def _tell(self, text: str) -> None:
        """Say whole lines above the table. Nobody waits for the terminal here: of what it doesn't take, the oldest is
        dropped."""
        if self._over or os.getpid() != self._process:  # a forked child has no thread for it
            _write(self._stream, text)
            return
        with self._hand_over:
            self._said.append(text)
            if len(self._said) > BACKLOG:
                self._said.popleft()
                self._unsaid += 1
        self._news.set()

    def _keep_looking(self) -> None:
        while not self._over:
            began = time.monotonic()
            width, height = _size_of(self._stream)
            room = height // 2 if height >= _LEAST_HEIGHT else 0
            self._lines = self._palette.lines(self._look(width, room), width, room) if room else []
            self._news.set()
            due = began + max(LIVE_EVERY, SHARE * (time.monotonic() - began))
            while not self._over and (left := due - time.monotonic()) > 0:
                Inbox().wait(min(left, _SLICE))

    def _keep_writing(self) -> None:
        while not self._over:
            self._news.wait()
            self._news.clear()
            with self._terminal:
                if not self._over and not self._away:
                    self._write_news()
            Inbox().wait(BREATH)

    def _write_news(self) -> None:
        """Write what was said, and what changed of the table."""
        width, _ = _size_of(self._stream)
        lines = self._lines if is_in_foreground(self._stream.fileno()) else []
        said = self._take()
        _write(self._stream, self._footer.log(said, lines, width) if said else self._footer.show(lines, width))

    def _take(self) -> str:
        """Return what waits to be said."""
        with self._hand_over:
            said, unsaid = list(self._said), self._unsaid
            self._said.clear()
            self._unsaid = 0
        if unsaid:
            said.insert(0, f"... {unsaid} lines are not shown, the terminal took none\n")
        return "".join(said)

    def _clear(self, patience: float = 1.0) -> None:
        """Take the table away and say what is left to say, unless the terminal takes nothing."""
        if not self._terminal.acquire(timeout=patience):
            return
        with suppress(OSError):
            _write(self._stream, self._footer.clear(_size_of(self._stream)[0]) + self._take())
        self._terminal.release()

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        self._over = True
        self._news.set()
        for thread in threads:
            thread.join(0.5)  # it may wait for the store, or for a terminal that takes nothing
        self._clear()

    def _on_stop(self, *_: object) -> None:
        """Ctrl-Z: take the table away while the process is stopped."""
        self._away = True
        self._clear(0.2)
        _stop_until_continued(self._on_stop)
        self._away = False
        self._news.set()


class Teller(io.TextIOBase):
    """The stream that a voice has meanwhile: hands on each text whole."""

    def __init__(self, tell: Callable[[str], None], stream: TextIO) -> None:
        self._tell = tell
        self._stream = stream

    def write(self, text: str) -> int:
        self._tell(text)
        return len(text)

    def fileno(self) -> int:
        return self._stream.fileno()


# -- Terminals and signals ---------------------------------------------------------------------------------------------


def is_in_foreground(number: int) -> bool:
    """Whether this process may write to its terminal without disturbing somebody else who has it."""
    try:
        return os.tcgetpgrp(number) == os.getpgrp()
    except OSError:  # no terminal that controls jobs
        return True


def _size_of(stream: TextIO) -> tuple[int, int]:
    """Return columns and lines; of a terminal that doesn't know it, the usual ones."""
    size = os.get_terminal_size(stream.fileno())
    return (size.columns or 80, size.lines or 24)


def _write(stream: TextIO, text: str) -> None:
    """Write all of a text, past the stream's buffer: a signal's handler may write while its thread does."""
    left = text.encode(stream.encoding or "utf-8", "backslashreplace")
    while left:
        left = left[os.write(stream.fileno(), left):]


@contextmanager
def _handling(number: int, handler: Callable[..., None]) -> Iterator[None]:
    """Handle a signal meanwhile, unless it is ignored (nohup); on the main thread."""
    if signal.getsignal(number) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before or signal.SIG_DFL)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _stop_until_continued(handler: Callable[..., None]) -> None:
    """Be stopped as Ctrl-Z does it, and return when the process goes on. For the handler of SIGTSTP, which Linux gives
    to the main thread."""
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, handler)


# -- What is shown -----------------------------------------------------------------------------------------------------


class StatusView:
    """What `status --watch` shows of a store, or of one of its jobs. What can't be read any more is said, above what
    was read last. `obstacle` tells why the store can't be written, of a status at a moment."""

    def __init__(
        self, scheduler: CollectionScheduler, job: str | None, obstacle: Callable[[Status, datetime], str]
    ) -> None:
        self._scheduler = scheduler
        self._job = job
        self._obstacle_of, self._obstacle = obstacle, ""
        self._found: Status | None = None
        self._runs: list[Run] = []
        self._read_at = datetime.now(UTC)
        self._trouble = ""

    def look(self, width: int, height: int) -> list[Text]:
        now = datetime.now(UTC)
        self._read(now, height)
        foot = line(f"{now:%H:%M:%S} UTC, every {WATCH_EVERY:.0f} s; q quits", "dim")
        foot.truncate(width)
        lines = self._lines(now, width, height - 1)[:height - 1]
        return [*lines, *[Text("")] * (height - 1 - len(lines)), foot]

    def _read(self, now: datetime, height: int) -> None:
        try:
            found = self._scheduler.get_status(self._job)
            self._runs = self._scheduler.get_runs(self._job, height) if self._job is not None and found.jobs else []
        except GeckoschedError as error:
            self._trouble = str(error)
            return
        place = Path(found.scheduler.database)
        if self._found is not None and self._found.jobs and not place.exists():
            self._trouble = f"{place} is gone"
        else:
            self._found, self._read_at, self._trouble = found, now, ""
            self._obstacle = self._obstacle_of(found, now) if screens.is_led(found) else ""

    def _lines(self, now: datetime, width: int, height: int) -> list[Text]:
        lines: list[Text] = []
        if self._trouble:
            lines = wrapped(line(f"! as of {self._read_at:%H:%M:%S}; now: {self._trouble}", "bold red"), width)
            now = self._read_at
        found = self._found
        if found is None:
            return lines
        if self._job is None:
            return [*lines, *screens.status_lines(found, now, width, height - len(lines), obstacle=self._obstacle)]
        if not found.jobs:
            return [*lines, line(f"{self._job} is not in {found.scheduler.database} now")]
        lines += screens.job_lines(found.jobs[0], found, now, width, obstacle=self._obstacle)
        return [*lines, Text(""), *screens.runs_lines(self._runs, now, width)]


class RunView:
    """What stands below the log of `run`: how this process does, and the jobs, trouble first. A scheduler of its own
    reads the store, so that nothing waits for a lock of the one that runs."""

    def __init__(self, scheduler: CollectionScheduler) -> None:
        self._scheduler = scheduler
        self._reader = CollectionScheduler(scheduler.config)

    def look(self, width: int, height: int) -> list[Text]:
        try:
            found = self._reader.get_status()
        except GeckoschedError as error:
            return [self._rule(f"the store can't be read: {error}", width)]
        if not found.jobs:
            return []
        now, led = datetime.now(UTC), screens.is_led(found)
        running = [job.job_id for job in found.jobs if job.running_for is not None] if led else []
        said = f"{self._who(found, now)}; {count(len(found.jobs), 'job')}: {screens.summary(found.jobs)}"
        said += f"; {len(running)} running: {', '.join(running[:screens.FEW])}" if running else ""
        return [self._rule(said, width), *screens.jobs_lines(found.jobs, now, width, height - 1, led=led)]

    def _who(self, found: Status, now: datetime) -> str:
        state, info = self._scheduler.state, found.scheduler
        if state is SchedulerState.STANDBY:
            return f"standing by behind process {info.pid} on {info.host}"
        if state is SchedulerState.RUNNING and info.started_at is not None:
            return f"leading for {span((now - info.started_at).total_seconds())}"
        return str(state)

    @staticmethod
    def _rule(text: str, width: int) -> Text:
        """Return a line that divides the log from what is below."""
        said = line(f"--- {text}", "bold").append(" ")
        said.truncate(width)
        return said.append("-" * (width - said.cell_len))
