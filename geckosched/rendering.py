"""What the commands print with: data to stdout, tables that are read in 80 columns and on a terminal, times in words.

Nothing here knows a job or a run.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TextIO

import typer

from geckosched.core import Secrets

__all__ = [
    "briefly",
    "clean",
    "count",
    "data_to_stdout",
    "fully",
    "hidden",
    "in_seconds",
    "in_words",
    "is_terminal",
    "print_json",
    "print_table",
    "printable",
    "put",
    "secrets",
    "span",
    "stdout",
]

stdout: ContextVar[TextIO] = ContextVar("stdout")  # where data goes, whatever plugins do to sys.stdout
secrets: ContextVar[Secrets] = ContextVar("secrets")  # the configuration's, which no command prints
_WIDTH = 80  # of what is piped, where it can be kept without cutting anything
_COLOURS = {
    "healthy": "green", "succeeded": "green",
    "degraded": "yellow", "partial": "yellow", "rate_limited": "yellow",
    "unhealthy": "red", "failed": "red", "timed_out": "red", "interrupted": "red",
}  # fmt: skip

# -- Data goes to stdout -----------------------------------------------------------------------------------------------


@contextmanager
def data_to_stdout() -> Iterator[None]:
    """Keep stdout for `put` while a command runs, whatever `_divert_stdout` or a plugin makes of `sys.stdout`."""
    before = sys.stdout
    token = stdout.set(before)
    try:
        yield
    finally:
        sys.stdout = before
        stdout.reset(token)


def put(text: str) -> None:
    """Print data. Who reads no more of it (`geckosched status | head -1`) has had enough, and that is no failure."""
    _echo(hidden(text))


def _echo(text: str) -> None:
    try:
        typer.echo(text, file=stdout.get(sys.stdout))
    except BrokenPipeError:
        stdout.set(os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def print_json(value: object) -> None:
    found = secrets.get(None)
    shown = value if found is None else found.hide_in(value)
    _echo(json.dumps(shown, indent=2, default=repr))  # repr: bytes in the rows of a dry run


def hidden(text: str) -> str:
    """Return a text as a command may print it: without the configuration's secrets. The last guard."""
    found = secrets.get(None)
    return text if found is None else found.hide(text)


# -- Tables ------------------------------------------------------------------------------------------------------------


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], notes: Mapping[int, str]) -> None:
    """Print rows, each with its note below it: with rich on a terminal, else as aligned text, notes whole on a line.

    A header that begins with ">" is one of numbers, which are aligned to the right.
    """
    rows = [[hidden(cell) for cell in row] for row in rows]
    notes = {index: hidden(note) for index, note in notes.items()}
    titles = [each.removeprefix(">") for each in headers]
    numbers = [each.startswith(">") for each in headers]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    if is_terminal():
        _print_rich_table(titles, numbers, widths, rows, notes)
        return
    gap = " " * _gap(widths, _WIDTH)
    for index, row in enumerate([titles, *rows], start=-1):
        cells = zip(row, widths, numbers, strict=True)
        text = gap.join(cell.rjust(width) if number else cell.ljust(width) for cell, width, number in cells)
        put(text.rstrip())
        if note := notes.get(index):
            put(f"  {note}")


def _print_rich_table(
    titles: Sequence[str], numbers: Sequence[bool], widths: Sequence[int], rows: Sequence[Sequence[str]],
    notes: Mapping[int, str],
) -> None:  # fmt: skip
    """Draw the rows with rich: outcomes and healths coloured (not under NO_COLOR), notes wrapped to the terminal.

    A cell of rich's tables can't span columns, so a note ends one table, and the next has the same widths. Where the
    columns don't fit, the terminal breaks the lines.
    """
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    stream = stdout.get(sys.stdout)
    console = Console(file=stream, highlight=False)
    gap = _gap(widths, console.width)
    whole = Console(file=stream, highlight=False, width=max(console.width, sum(widths) + gap * len(widths)))

    def new_table(*, header: bool) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), show_header=header, header_style="bold")
        for title, number, width in zip(titles, numbers, widths, strict=True):
            table.add_column(title, justify="right" if number else "left", width=width, overflow="fold")
        return table

    table = new_table(header=True)
    for index, row in enumerate(rows):
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
        if note := notes.get(index):
            whole.print(table)
            console.print(Padding(Text(note, overflow="fold"), (0, 0, 0, 2), expand=False))
            table = new_table(header=False)
    if table.row_count:
        whole.print(table)


def _gap(widths: Sequence[int], wide: int) -> int:
    """Return how many blanks stand between columns: two if that fits, else one."""
    return 2 if sum(widths) + 2 * (len(widths) - 1) <= wide else 1


def is_terminal() -> bool:
    return stdout.get(sys.stdout).isatty()


# -- Words -------------------------------------------------------------------------------------------------------------


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def in_seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


def span(seconds: float) -> str:
    """Say a length of time by its largest unit, as people do: 45s, 12m, 3h, 5d."""
    for limit, size, unit in ((90, 1, "s"), (90 * 60, 60, "m"), (36 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"


def in_words(moment: datetime, now: datetime) -> str:
    seconds = (moment - now).total_seconds()
    return f"in {span(seconds)}" if seconds > 0 else f"{span(abs(seconds))} ago"


def briefly(moment: datetime | None, now: datetime) -> str:
    """Show a time in a table: in words, and in UTC as a time of the day or, a day and more away, as a date."""
    if moment is None:
        return "-"
    is_near = abs((moment - now).total_seconds()) < 86400
    return f"{in_words(moment, now)} {moment.strftime('%H:%M' if is_near else '%m-%d')}"


def fully(moment: datetime | None, now: datetime) -> str:
    return "-" if moment is None else f"{in_words(moment, now)} ({moment:%Y-%m-%d %H:%M:%S} UTC)"


def clean(text: str) -> str:
    """Put foreign text into one line of printable characters: an API's answer must not write to the terminal."""
    return " ".join(printable(text).split())


def printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)
