"""What the commands print with: data to stdout, lines that fit into a terminal, tables, times in words.

What is shown is made as a list of lines, each a rich `Text` of one line that is at most `width` cells wide (East Asian
characters take two), so that the same lines are printed, piped or kept on a screen. `line` is where text gets in: it
takes out what could write to the terminal, the secrets, and what the encoding of stdout lacks, all of it before a
width is measured. Colours only repeat what words and signs say. Nothing here knows a job or a run.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from io import StringIO
from typing import TextIO

import typer
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Span, Text

from geckosched.core import Secrets

__all__ = [
    "briefly",
    "cell_width",
    "clean",
    "count",
    "data_to_stdout",
    "encodable",
    "fully",
    "hidden",
    "in_words",
    "is_terminal",
    "labelled",
    "lasting",
    "line",
    "path_line",
    "print_json",
    "print_lines",
    "print_table",
    "printable",
    "put",
    "secrets",
    "span",
    "stdout",
    "table_lines",
    "table_rows",
    "talk",
    "terminal_width",
    "verbatim",
    "wrapped",
]

stdout: ContextVar[TextIO] = ContextVar("stdout")  # where data goes, whatever plugins do to sys.stdout
secrets: ContextVar[Secrets] = ContextVar("secrets")  # the configuration's, which no command prints
_WIDTH = 80  # of what is piped, unless COLUMNS says otherwise
_NARROWEST = 20

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


# -- Lines -------------------------------------------------------------------------------------------------------------


def is_terminal() -> bool:
    return stdout.get(sys.stdout).isatty()


def terminal_width() -> int:
    """Return how many columns stdout has: the terminal's; of what is piped 80, or $COLUMNS."""
    if is_terminal():
        return max(_NARROWEST, Console(file=stdout.get(sys.stdout)).width)
    columns = os.environ.get("COLUMNS", "")
    return max(_NARROWEST, int(columns)) if columns.isdecimal() else _WIDTH


def encodable(text: str) -> str:
    """Return a text with what stdout's encoding lacks written as escapes, before anybody measures it."""
    if text.isascii():
        return text
    encoding = getattr(stdout.get(sys.stdout), "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def line(text: str, style: str = "") -> Text:
    """Return a text as one line that may be shown: printable, without secrets, in stdout's encoding."""
    return Text(encodable(clean(hidden(text))), style)


def path_line(path: str, more: str = "") -> Text:
    """Return a line of a file's path, which is not wrapped: a terminal breaks it so that it can still be copied."""
    return Text(encodable(printable(hidden(path))) + more, no_wrap=True)


def verbatim(text: str, indent: int = 2) -> list[Text]:
    """Return the lines of a text as they are (a traceback): only what could write to the terminal is taken out, and
    nothing is wrapped."""
    shown = (encodable(printable(each)).rstrip() for each in hidden(text).splitlines())
    return [Text(" " * indent + each if each else "") for each in shown]


def wrapped(text: Text, width: int, indent: int = 0, most: int | None = None) -> list[Text]:
    """Break a line between words into such as fit, each indented; of more than `most` the rest is cut, which "..."
    says. One that is `no_wrap` stays as it is."""
    room = max(_NARROWEST // 2, width - indent)
    lines = [text] if text.no_wrap or text.cell_len <= room else list(text.wrap(_measure(), room, overflow="fold"))
    for each in lines:
        each.rstrip()
    if most is not None and len(lines) > most:
        lines = lines[:most]
        lines[-1].truncate(room - 4)
        lines[-1].rstrip()
        lines[-1].append(" ...")
    return [Text(" " * indent).append_text(each) for each in lines] if indent else lines


@cache
def _measure() -> Console:
    """What rich wants for breaking lines; nothing is printed by it."""
    return Console(file=StringIO(), width=_WIDTH)


def _folded(text: Text, width: int) -> list[Text]:
    """Break a line of a table that is too long wherever it must be: it has blanks that belong to it."""
    if text.cell_len <= width:
        return [text]
    ends = itertools.accumulate(map(len, chop_cells(text.plain, width)))
    return [each for each in text.divide(ends) if each]


def labelled(pairs: Iterable[tuple[str, Text | str]], width: int, label: int) -> list[Text]:
    """Return lines of a label and a value, the values in one column of their own."""
    lines: list[Text] = []
    for name, value in pairs:
        first, *others = wrapped(line(value) if isinstance(value, str) else value, width, label)
        lines += [Text(f"{name:{label}}").append_text(first[label:]), *others]
    return lines


def talk(text: str) -> None:
    """Say one line on stderr; on a terminal it is broken between words, the further lines indented."""
    text = hidden(clean(hidden(text)))
    if sys.stderr.isatty():
        first, *others = wrapped(Text(text), Console(stderr=True).width - 2)
        text = "\n  ".join([first.plain, *(each.plain for each in others)])
    typer.echo(text, err=True)


def print_lines(lines: Iterable[Text]) -> None:
    """Print lines: in colours on a terminal that wants them (see rich: NO_COLOR, TERM), else as plain text."""
    if not is_terminal():
        for each in lines:
            put(each.plain)
        return
    console = Console(file=stdout.get(sys.stdout), highlight=False, soft_wrap=True)
    for each in lines:
        console.print(each)


# -- Tables ------------------------------------------------------------------------------------------------------------

Cell = str | Text


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Cell]], notes: Mapping[int, str]) -> None:
    print_lines(table_lines(headers, rows, {index: [note] for index, note in notes.items()}, terminal_width()))


def table_lines(
    headers: Sequence[str], rows: Sequence[Sequence[Cell]], notes: Mapping[int, Sequence[str]], width: int,
    indent: int = 2, most: int | None = None,
) -> list[Text]:  # fmt: skip
    """Return a table's lines: the titles, then each row with its notes below it, of at most `most` lines each.

    A header that begins with ">" is one of figures, which are aligned to the right. Where not all fits, the widest
    column of words gets what is left, and a row whose word is longer goes on in the next line, as in `df`.
    """
    found = table_rows(headers, rows, notes, width, indent, most)
    return [each for row in found for each in row]


def table_rows(
    headers: Sequence[str], rows: Sequence[Sequence[Cell]], notes: Mapping[int, Sequence[str]], width: int,
    indent: int = 2, most: int | None = None,
) -> list[list[Text]]:  # fmt: skip
    """Return the lines of the titles, and those of each row."""
    titles: list[Cell] = [Text(each.removeprefix(">"), "bold") for each in headers]
    figures = [each.startswith(">") for each in headers]
    cells = [list(map(_cell, row)) for row in rows]
    widths = [max(map(cell_width, column)) for column in zip(titles, *cells, strict=True)]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= width else 1
    over = sum(widths) + gap * (len(widths) - 1) - width
    if over > 0:
        widest = max((index for index, right in enumerate(figures) if not right), key=widths.__getitem__)
        widths[widest] = max(cell_width(titles[widest]), widths[widest] - over, _NARROWEST // 2)
    found = []
    for index, row in enumerate([titles, *cells], start=-1):
        lines = [part for each in _row(row, widths, figures, gap) for part in _folded(each, width)]
        lines += [part for note in notes.get(index, ()) for part in wrapped(line(note), width, indent, most)]
        found.append(lines)
    return found


def cell_width(cell: Cell) -> int:
    return cell.cell_len if isinstance(cell, Text) else cell_len(cell)


def _cell(cell: Cell) -> Cell:
    """Return a cell as it may be shown. A name that is written from right to left must not turn its neighbours around.
    """
    if isinstance(cell, str):
        cell = encodable(clean(hidden(cell)))
    plain = str(cell)
    if plain.isascii() or not any(unicodedata.bidirectional(each) in ("R", "AL") for each in plain):
        return cell
    return Text.assemble(_LEFT_TO_RIGHT, cell, _LEFT_TO_RIGHT)


_LEFT_TO_RIGHT = "\N{LEFT-TO-RIGHT MARK}"


def _row(cells: Sequence[Cell], widths: Sequence[int], figures: Sequence[bool], gap: int) -> list[Text]:
    """Put cells side by side; after one that is longer than its column the next line goes on below the next column."""
    lines: list[Text] = []
    parts: list[Cell] = []
    shown = at = 0
    for cell, width, right in zip(cells, widths, figures, strict=True):
        if shown > at:
            lines.append(_joined(parts))
            parts, shown = [], 0
        wide = cell_width(cell)
        blanks = at - shown + (max(0, width - wide) if right else 0)
        parts += (" " * blanks, cell)
        shown += blanks + wide
        at += width + gap
    return [*lines, _joined(parts)]


def _joined(parts: Sequence[Cell]) -> Text:
    """Join parts as `Text.assemble` does, many times faster: a list may have a hundred thousand jobs."""
    spans, at = [], 0
    for part in parts:
        if isinstance(part, Text):
            if part.style:
                spans.append(Span(at, at + len(part), part.style))
            spans += [each.move(at) for each in part.spans]
        at += len(part)
    text = Text("".join(map(str, parts)), spans=spans)
    text.rstrip()
    return text


# -- Words -------------------------------------------------------------------------------------------------------------


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def span(seconds: float) -> str:
    """Say a length of time as people do, by its largest unit and, where that is few, the next: 45s, 1m40s, 12m, 1h30m,
    14h, 2d4h, 12d. What is said is off by less than a twentieth."""
    step = next((step for limit, step in _STEPS if seconds < limit), 86400)
    left, said = round(seconds / step) * step, []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        number, left = divmod(left, size)
        if number:
            said.append(f"{number}{unit}")
    return "".join(said) or "0s"


_STEPS = ((600, 1), (10 * 3600, 60), (48 * 3600, 3600), (10 * 86400, 3600))  # below which length what is rounded to


def lasting(seconds: float | None) -> str:
    """Say how long something took, with three digits: 12 ms, 1.23 s, 45.6 s; from 100 s on as `span` does."""
    if seconds is None:
        return "-"
    if seconds < 0.0005:
        return "<1 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    return f"{seconds:.1f} s" if seconds < 99.95 else span(seconds)


def in_words(moment: datetime, now: datetime) -> str:
    seconds = (moment - now).total_seconds()
    if 0 < seconds < 0.5:
        return "now"
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
    return text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)
