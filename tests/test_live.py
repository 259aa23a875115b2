"""What stands on a terminal and changes there: `status --watch` and the live view of `run`, on real terminals."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text

from geckosched import Batch, CollectionScheduler, RunContext, SchedulerConfig, collector
from geckosched.live import BACKLOG, Footer, Line, LiveView, Page
from geckosched.logs import Voice
from tests.shell import invoke, wait_until
from tests.terminals import Terminal, opened, started

# -- What to write -----------------------------------------------------------------------------------------------------

WIDE, HIGH = 20, 8
words = st.text(st.sampled_from("ab é漢"), max_size=WIDE // 2)
lines_of_words = st.lists(words, max_size=HIGH // 2)


def cells(*lines: str) -> list[Line]:
    """Return lines, each character in a colour of its own kind."""
    return [tuple((each, "\x1b[31m" if each == "a" else "") for each in line) for line in lines]


def emulator() -> tuple[pyte.HistoryScreen, pyte.Stream]:
    screen = pyte.HistoryScreen(WIDE, HIGH, history=1000)
    screen.set_mode(pyte.modes.LNM)  # a line feed begins a line, as on a terminal of Unix
    return screen, pyte.Stream(screen)


def displayed(screen: pyte.HistoryScreen) -> list[str]:
    """Return what a screen shows, without the empty lines at the end."""
    shown = [line.rstrip() for line in screen.display]
    while shown and not shown[-1]:
        shown.pop()
    return shown


def stripped(lines: Sequence[str]) -> list[str]:
    kept = [line.rstrip() for line in lines]
    while kept and not kept[-1]:
        kept.pop()
    return kept


@settings(max_examples=60, deadline=None)
@given(st.lists(lines_of_words, min_size=1, max_size=5))
def test_a_page_shows_the_lines_it_was_told_last(pages: list[list[str]]) -> None:
    """Whatever stood there before; in their colours; and nothing is written where nothing changed."""
    screen, stream = emulator()
    page = Page()
    for lines in pages:
        stream.feed(page.show(cells(*lines), (WIDE, HIGH)))
        assert displayed(screen) == stripped(lines)
        for row, line in enumerate(lines):
            colours = {char.data: char.fg for char in screen.buffer[row].values() if char.data in "ab"}
            assert colours.get("a", "red") == "red", line
            assert colours.get("b", "default") == "default", line
        assert page.show(cells(*lines), (WIDE, HIGH)) == ""


said = st.lists(st.text(st.sampled_from("xyz"), min_size=1, max_size=2 * WIDE), max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(said, lines_of_words), min_size=1, max_size=6))
def test_a_footer_stays_below_the_log_and_leaves_it_whole(steps: list[tuple[list[str], list[str]]]) -> None:
    """Each line that was logged is there once, in its order, above the footer; at the end the footer is gone."""
    screen, stream = emulator()
    footer, log = Footer(), list[str]()
    for texts, lines in steps:
        table = cells(*lines)
        logged = "".join(f"{each}\n" for each in texts)
        stream.feed(footer.log(logged, table, WIDE) if texts else footer.show(table, WIDE))
        log += [text[at:at + WIDE] for text in texts for at in range(0, len(text), WIDE)]
        assert screen.cursor.x == 0
        assert [line.rstrip() for line in screen.display[screen.cursor.y - len(lines):screen.cursor.y]] == [
            line.rstrip() for line in lines
        ]
    stream.feed(footer.clear(WIDE))
    above = ["".join(row[x].data for x in range(WIDE)).rstrip() for row in screen.history.top]
    assert stripped([*above, *screen.display]) == log


def test_of_a_line_only_what_changes_is_written() -> None:
    """A counter that counts costs a few bytes, and erases nothing."""
    page, footer = Page(), Footer()
    page.show(cells("x" * 40 + " in 48s " + "y" * 30), (80, 24))
    footer.show(cells("x" * 40 + " in 48s " + "y" * 30), 80)
    assert page.show(cells("x" * 40 + " in 47s " + "y" * 30), (80, 24)) == "\x1b[1;46H7"
    change = footer.show(cells("x" * 40 + " in 47s " + "y" * 30), 80)
    assert len(change) < 20
    assert not re.search(r"\x1b\[\d*[JK]", change)


def test_a_footer_that_a_narrower_terminal_has_torn_is_left() -> None:
    """Nobody knows where its lines are then, so that nothing of the log above is erased."""
    footer = Footer()
    footer.show(cells("a" * 79), 80)
    assert footer.log("said\n", cells("b"), 60) == "said\nb\n"


# -- status --watch ----------------------------------------------------------------------------------------------------


@pytest.fixture
def many_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with 200 jobs that nobody leads; one of them has failed. It is ./geckosched.db."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GECKOSCHED_LOAD_PLUGINS", "none-installed")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    path = tmp_path / "geckosched.db"
    scheduler = CollectionScheduler(SchedulerConfig(database=path, catchup="none", max_consecutive_errors=1))

    @collector("job", every="1d")
    def job(run: RunContext) -> Any:
        if run.job_id == "job-150":
            raise ValueError("no such city")
        yield Batch("rows", [{"n": 1}])

    for number in range(200):
        scheduler.register_collector(job, job_id=f"job-{number:03}")
    with scheduler:
        for name in ("job-150", "job-151"):
            scheduler.execute_collector_now(name)
    return path


CLOCK = re.compile(r"\d\d:\d\d:\d\d UTC, every 2 s; q quits")


def clock_of(terminal: Terminal) -> str:
    """Return the last line of the watch, which tells when it looked last."""
    return next((line for line in terminal.lines if CLOCK.fullmatch(line)), "")


def wait_for_a_refresh(terminal: Terminal) -> None:
    before = clock_of(terminal)
    wait_until(lambda: clock_of(terminal) not in ("", before))


@pytest.mark.usefixtures("many_jobs")
def test_watch_is_calm_with_200_jobs() -> None:
    """It fits, trouble first, and counts what doesn't fit. A refresh at which nothing happened costs a line at most,
    clears nothing, and nothing scrolls; a job that changes is seen."""
    with opened(80, 24) as terminal, started(terminal, "status", "--watch"):
        terminal.wait_for("q quits")
        shown = terminal.lines
        assert len(shown) == 24
        first = next(line for line in shown if "job-" in line)
        assert first.startswith("x job-150")
        assert re.search(r"\.\.\. and 1\d\d more: ", "\n".join(shown))
        assert not terminal.has_cursor
        wait_for_a_refresh(terminal)
        begin = len(terminal.raw)
        wait_for_a_refresh(terminal)
        written = terminal.raw[begin:]
        assert len(written) < 80
        assert not re.search(rb"\x1b\[\d*J|\n", written)
        assert terminal.all_lines == terminal.lines
        CollectionScheduler(SchedulerConfig(database="geckosched.db")).disable_collector("job-000")
        wait_until(lambda: terminal.shows("1 disabled"))


@pytest.mark.usefixtures("many_jobs")
@pytest.mark.parametrize(
    ("how", "code"), [("q", 0), ("\x03", 130), (signal.SIGTERM, 0), (signal.SIGHUP, 130)], ids=repr
)
def test_watch_leaves_the_terminal_as_it_was(how: str | signal.Signals, code: int) -> None:
    """By q, Ctrl-C or a signal: the screen of before, a cursor, and a keyboard that echoes."""
    with opened() as terminal, started(terminal, "status", "--watch") as process:
        terminal.wait_for("q quits")
        assert termios.tcgetattr(terminal.number) != terminal.settings
        if isinstance(how, str):
            terminal.type(how)
        else:
            process.send_signal(how)
        assert process.wait(20) == code
        wait_until(lambda: terminal.has_cursor)
        assert termios.tcgetattr(terminal.number) == terminal.settings
        assert terminal.raw.endswith(b"\x1b[?1049l")
        assert terminal.raw.count(b"\x1b[?1049h") == 1


def test_watch_follows_the_size_of_the_terminal_and_a_store_that_goes_and_comes(many_jobs: Path) -> None:
    """A new size is filled at once. What was read last stays, with the time and the reason, until the store is back."""
    with opened() as terminal, started(terminal, "status", "--watch"):
        terminal.wait_for("q quits")
        terminal.resize(60, 16)  # the emulator keeps the last lines, so the first are written anew
        wait_until(lambda: terminal.shows("x job-150") and CLOCK.fullmatch(terminal.lines[15]))
        away = many_jobs.rename(many_jobs.with_suffix(".away"))
        terminal.wait_for("geckosched.db is gone")
        assert terminal.shows("x job-150")
        many_jobs.write_text("no database", encoding="utf-8")
        terminal.wait_for("file is not a database")
        away.rename(many_jobs)
        wait_until(lambda: not terminal.shows("! as of"))
        assert terminal.shows("x job-150")


@pytest.mark.usefixtures("many_jobs")
def test_watch_of_one_job_shows_it_and_its_runs() -> None:
    """All of the job, and below it its last runs, as far as there is room."""
    with opened(100, 40) as terminal, started(terminal, "status", "job-150", "--watch"):
        terminal.wait_for("q quits")
        assert terminal.shows("no such city")
        assert any(re.match(r" *1  job-150", line) for line in terminal.lines)


@pytest.mark.usefixtures("many_jobs")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--watch"], "--watch needs a terminal on stdout"),
        (["--watch", "--json"], "--watch is for people, so it doesn't go with --json"),
        (["--watch", "--check"], "--watch is for people, so it doesn't go with --check"),
    ],
)
def test_watch_is_refused_where_it_makes_no_sense(arguments: list[str], said: str) -> None:
    """Piped it would be one screen after the other in a file."""
    result = invoke("status", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"geckosched: {said}")


@pytest.mark.usefixtures("many_jobs")
def test_a_terminal_that_cannot_move_its_cursor_gets_no_watch() -> None:
    """TERM=dumb, as inside of editors."""
    with opened() as terminal, started(terminal, "status", "--watch", environment={"TERM": "dumb"}) as process:
        assert process.wait(20) == 2
        terminal.wait_for("needs a terminal")
        assert b"\x1b" not in terminal.raw


# -- The live view of `run` --------------------------------------------------------------------------------------------

PLUGIN = '''
import sys
from geckosched import Batch, collector, hookimpl

@collector("tick", every="1s")
def tick(run):
    print("printed by tick", run.id)
    print("said by tick", run.id, file=sys.stderr)
    yield Batch("ticks", [{"n": run.id}], pk="n")

@collector("broken", every="1d", max_consecutive_errors=1)
def broken(run):
    raise ValueError("no such city")

@hookimpl
def register_collectors(register, settings):
    register(tick)
    register(broken)
'''


@pytest.fixture
def ticking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration whose job runs each second, prints, and is well, and another that fails."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GECKOSCHED_LOAD_PLUGINS", "none-installed")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    Path("ticking.py").write_text(PLUGIN, encoding="utf-8")
    Path("geckosched.toml").write_text('[plugins]\nload = ["./ticking.py"]\n', encoding="utf-8")
    return tmp_path


RULE = re.compile(r"--- leading for .*; 2 jobs: 1 unhealthy, 1 healthy.* -+")
LOGGED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d .*|printed by tick \d+|said by tick \d+")


def table_of(terminal: Terminal) -> list[str]:
    """Return the lines of the live view, from its rule on; none if it isn't there."""
    shown = terminal.lines
    begin = next((index for index, line in enumerate(shown) if RULE.fullmatch(line)), len(shown))
    return shown[begin:]


def has_table(terminal: Terminal) -> bool:
    return len(table_of(terminal)) > 3


def ticks_of(terminal: Terminal) -> int:
    return sum("tick: succeeded" in line for line in terminal.all_lines)


@pytest.mark.usefixtures("ticking")
def test_the_table_stands_below_the_log_and_is_gone_at_the_end() -> None:
    """Trouble first; log lines and what plugins print are above it, whole; the end leaves the log alone."""
    with opened(160, 20) as terminal, started(terminal, "run") as process:
        wait_until(lambda: has_table(terminal) and ticks_of(terminal) >= 3)
        table = table_of(terminal)
        assert [line[:8] for line in table if line[:2] in ("x ", "+ ")] == ["x broken", "+ tick  "]
        terminal.type("\x03")
        assert process.wait(20) == 130
        wait_until(lambda: "stopped" in terminal.lines[-1] or "stopped" in terminal.lines[-2])
        lines = [line for line in terminal.all_lines if line not in ("", "^C")]
        assert [line for line in lines if not LOGGED.fullmatch(line)] == []
        printed = [int(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("printed by tick")]
        assert printed == [int(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("said by tick")]
        assert len(printed) == len(set(printed)) == ticks_of(terminal)


@pytest.mark.usefixtures("ticking")
def test_a_crash_leaves_a_terminal_that_can_be_used() -> None:
    """The live view never hides the cursor and changes no setting, so that a kill -9 leaves nothing to mend."""
    with opened() as terminal, started(terminal, "run") as process:
        wait_until(lambda: has_table(terminal))
        process.kill()
        process.wait(20)
        assert b"\x1b[?" not in terminal.raw
        assert termios.tcgetattr(terminal.number) == terminal.settings


@pytest.mark.usefixtures("ticking")
def test_where_no_table_is_wanted_there_are_only_lines() -> None:
    """By option, for programs, on terminals that can't, and under a service manager."""
    wanted: list[tuple[list[str], dict[str, str]]] = [
        (["--plain"], {}), (["--log-format", "json"], {}), ([], {"TERM": "dumb"}), ([], {"NOTIFY_SOCKET": "/nowhere"})
    ]  # fmt: skip
    with ExitStack() as stack:
        terminals = [stack.enter_context(opened(160)) for _ in wanted]
        for number, (arguments, environment) in enumerate(wanted):
            words = ("run", "--for", "1s", "--database", f"{number}.db", *arguments)
            stack.enter_context(started(terminals[number], *words, environment=environment))
        for terminal in terminals:
            terminal.wait_for("stopped")
            assert b"\x1b" not in terminal.raw


SHELL = ("bash", "--norc", "--noprofile", "-i")


@pytest.mark.usefixtures("ticking")
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell that controls jobs")
def test_job_control_works_as_without_a_table() -> None:
    """Ctrl-Z takes the table away and stops; in the background there are only log lines; fg brings it back."""
    with opened(100, 20) as terminal, started(terminal, program=SHELL, environment={"PS1": "$ "}):
        terminal.type(f"{sys.executable} -m geckosched run\n")
        wait_until(lambda: has_table(terminal))
        terminal.type("\x1a")
        terminal.wait_for("Stopped")
        assert table_of(terminal) == []
        terminal.type("bg\n")
        seen = ticks_of(terminal)
        wait_until(lambda: ticks_of(terminal) > seen + 1)
        assert table_of(terminal) == []
        terminal.type("fg\n")
        wait_until(lambda: has_table(terminal))
        terminal.type("\x03")
        wait_until(lambda: terminal.lines[-1].startswith("$"))
        terminal.type("echo code $?\n")
        terminal.wait_for("code 130")


@contextmanager
def voice_on(terminal: Terminal) -> Iterator[tuple[Voice, TextIO]]:
    """The voice of a command, which speaks on a terminal, as the handler of all loggers."""
    with os.fdopen(os.dup(terminal.number), "w", encoding="utf-8") as stream:
        voice = Voice(stream)
        with voice.speaking():
            yield voice, stream


def table_on(voice: Voice, stream: TextIO) -> AbstractContextManager[None]:
    """A live view with one line."""
    return LiveView(lambda *_: [Text("the table")], voice, stream).showing()


def test_what_a_plugin_prints_cannot_tear_the_table() -> None:
    """It may be coloured; it clears nothing and moves no cursor."""
    with opened(100, 30) as terminal, voice_on(terminal) as (voice, stream):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            with LiveView(lambda *_: [Text("the table")], voice, stream).showing():
                terminal.wait_for("the table")
                logging.getLogger("geckosched").warning("said before")
                sys.stdout.write("\x1b[2J\x1b[Hcleared \x1b[31mred\x1b[5A up\x1b]0;title\x07\x1b7\x1bc\x08 end\n")
                terminal.wait_for("end")
                wait_until(lambda: [line for line in terminal.lines if line][-1] == "the table")
                shown = [line for line in terminal.lines if line]
        assert [line.partition(": ")[2] or line for line in shown] == ["said before", "cleared red up end", "the table"]
        assert b"\x1b[31m" in terminal.raw


def test_an_error_in_the_view_is_said_once_and_ends_only_the_view() -> None:
    """The log goes on as if there had never been a table."""
    looks: list[float] = []

    def look(width: int, height: int) -> list[Text]:
        looks.append(time.monotonic())
        if len(looks) > 1:
            raise KeyError("a bug of the view")
        return [Text("the table")]

    with opened(100, 30) as terminal, voice_on(terminal) as (voice, stream):
        with LiveView(look, voice, stream).showing():
            terminal.wait_for("the table")
            terminal.wait_for("KeyError: 'a bug of the view'")
            logging.getLogger("geckosched").warning("said afterwards")
            terminal.wait_for("warning: said afterwards")
        wait_until(lambda: not terminal.shows("the table"))
        assert sum("the live view has ended by an error" in line for line in terminal.all_lines) == 1
        assert len(looks) == 2


def test_nobody_waits_for_a_terminal_that_takes_nothing() -> None:
    """Ctrl-S stops no scheduler; what is too much is dropped, oldest first, and counted."""
    logger = logging.getLogger("geckosched")
    with opened(emulate=False, read=False) as terminal, voice_on(terminal) as (voice, stream):
        with table_on(voice, stream):
            for number in range(BACKLOG + 5000):
                logger.warning("line %d of many, which is as long as such lines are", number)
            terminal.begin_to_read()
            wait_until(lambda: b"line %d of many" % (BACKLOG + 4999) in terminal.raw)
        dropped = re.findall(rb"\.\.\. (\d+) lines are not shown", terminal.raw)
        shown = re.findall(rb"line (\d+) of many", terminal.raw)
        assert len(dropped) == 1
        assert len(shown) + int(dropped[0]) == BACKLOG + 5000
        assert shown == sorted(shown, key=int)


def test_a_slow_look_delays_no_line() -> None:
    """A store that answers slowly keeps the table waiting, not the log."""
    with opened() as terminal, voice_on(terminal) as (voice, stream):
        asked, answered = threading.Event(), threading.Event()

        def look(width: int, height: int) -> list[Text]:
            asked.set()
            answered.wait(30)
            return [Text("the table")]

        with LiveView(look, voice, stream).showing():
            assert asked.wait(10)
            logging.getLogger("geckosched").warning("said meanwhile")
            terminal.wait_for("said meanwhile")
            assert not terminal.shows("the table")
            answered.set()
            terminal.wait_for("the table")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12 on
def test_a_forked_child_speaks_for_itself() -> None:
    """It has no thread that writes, so it writes at once."""
    with opened() as terminal, voice_on(terminal) as (voice, stream), table_on(voice, stream):
        terminal.wait_for("the table")
        child = os.fork()
        if child == 0:
            logging.getLogger("geckosched").warning("said by a child")
            os._exit(0)
        os.waitpid(child, 0)
        terminal.wait_for("said by a child")
