"""What a command says on stderr: lines for people, or one JSON object a line for programs (`run --log-format json`).

`Voice` is the one handler of the command line's process, on the root logger, so that core, plugins and the libraries
they use speak alike. A record becomes one line: `TextLines` writes time, level if it is more than news, job and what
happened; `JsonLines` writes all that the record says of a run as well. Secrets are hidden in each value before it is
JSON, since `***` put into the finished line could break an escape. Warnings and the tracebacks of threads become one
record each, since Python would show the secrets in them.

In JSON mode nothing but JSON gets to stderr: what Python or a plugin prints there becomes records of the logger
`stderr`, and what the command itself has to say, at its start and at its end, does too. Programs that a collector
starts write past all this, and so does a crash of Python.

python-json-logger was tried instead: of its 420 lines these would use the loop over a record's attributes, and replace
what matters here: arguments that don't fit, values that are no JSON (it writes NaN), secrets, and whose field wins.
"""

from __future__ import annotations

import io
import json
import logging
import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any, TextIO

from geckosched.core import SECOND, Secrets, to_text
from geckosched.rendering import clean, secrets, talk

__all__ = [
    "JsonLines",
    "LineStream",
    "LogFormat",
    "LogLevel",
    "TextLines",
    "Voice",
    "begin",
    "complain",
    "hide",
    "say",
    "voice",
    "wants_json",
]

log = logging.getLogger("geckosched")

_JOB = "geckosched.job."  # what a job's logger is called, before its id
_BITS = 10_000  # of an integer; one of more than 4,300 digits Python refuses to write
_DEPTH = 20  # of lists in lists that a plugin hangs on a record
_USUAL = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime"}  # of every record


class LogFormat(StrEnum):
    """How `geckosched run` logs."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """What `geckosched run` logs, and what is above it."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def wants_json(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON lines. Seen before it is parsed, so that what is wrong with it is JSON,
    too."""
    asked = [after for word, after in pairwise([*words, ""]) if word == "--log-format"]
    asked += [word.removeprefix("--log-format=") for word in words if word.startswith("--log-format=")]
    return words[:1] == ["run"] and LogFormat.JSON in asked


# -- Records as lines --------------------------------------------------------------------------------------------------


def _job_of(record: logging.LogRecord) -> str | None:
    """Return the job that a record is about: it says so itself, or its logger is the job's."""
    by_name = record.name.removeprefix(_JOB) if record.name.startswith(_JOB) else None
    return getattr(record, "job_id", None) or by_name


def _message_of(record: logging.LogRecord) -> str:
    """Return a record's text. A plugin may have given arguments that don't fit, or whose `__str__` raises."""
    try:
        return record.getMessage()
    except Exception as error:
        return f"{record.msg} (which its arguments don't fit: {type(error).__name__})"


class TextLines(logging.Formatter):
    """One line for a record: time, level if it is more than news, who speaks, what happened; a traceback below it."""

    def __init__(self, hidden: Secrets) -> None:
        super().__init__()
        self._secrets = hidden

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        who = "" if record.name == log.name else f"{record.name.removeprefix(_JOB)}: "
        said = clean(self._secrets.hide(_message_of(record)))  # hidden first: a secret may have blanks
        text = f"{moment:%Y-%m-%d %H:%M:%S} {level}{who}{said}"
        trace = _exception_of(self, record)
        return self._secrets.hide(f"{text}\n{trace}" if trace else text)


class JsonLines(logging.Formatter):
    """One JSON object for a record, in ASCII and without a line break.

    Always `time` (UTC, ISO 8601), `level`, `logger` and `message`; of a job `job_id`; of a run `run_id`, and at its end
    `outcome`, `seconds`, `rows` and with an error `error_type` and `error`; `exception` (a traceback) and `stack` where
    there is one. What a plugin gives a record as `extra` is there, too, where its name is none of these.
    """

    def __init__(self, hidden: Secrets) -> None:
        super().__init__()
        self._secrets = hidden

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": to_text(round(record.created * SECOND)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message_of(record),
            "job_id": _job_of(record),
        }
        ours = {"exception": _exception_of(self, record) or None, "stack": record.stack_info}
        more = {name: value for name, value in vars(record).items() if name not in _USUAL | said.keys() | ours.keys()}
        fields = {name: value for name, value in {**said, **more, **ours}.items() if value is not None}
        return json.dumps(self._secrets.hide_in(_plain(fields)))


def _exception_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info else record.exc_text or ""


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON can have it: no NaN, no lone surrogates, and of what JSON doesn't know its text."""
    if value is None or (isinstance(value, int) and value.bit_length() <= _BITS):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    with suppress(Exception):  # a plugin's own kind of mapping may raise
        if depth < _DEPTH and isinstance(value, Mapping):
            return {_text(key): _plain(each, depth + 1) for key, each in value.items()}
        if depth < _DEPTH and isinstance(value, list | tuple | set | frozenset):
            return [_plain(each, depth + 1) for each in value]
    return _text(value)


def _text(value: object) -> str:
    try:
        text = str(value)
    except Exception as error:
        text = f"({type(value).__name__}, whose text could not be made: {type(error).__name__})"
    return text.encode("utf-8", "replace").decode("utf-8")


# -- Who speaks --------------------------------------------------------------------------------------------------------


class Voice(logging.StreamHandler[TextIO]):
    """Writes what a command has to say, from whatever thread, line by line to the stderr that it began with. It is the
    last that hides secrets."""

    def __init__(self, stream: TextIO, *, as_json: bool = False) -> None:
        super().__init__(stream)
        self.as_json = as_json
        self.hide(Secrets())

    def hide(self, found: Secrets) -> None:
        self.secrets = found
        self.setFormatter(JsonLines(found) if self.as_json else TextLines(found))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Let it pass: stderr is full or gone, and there is nowhere else to say so."""

    def say(self, text: str, level: int = logging.INFO, name: str = log.name) -> None:
        """Say what is no log record: as it is or, in JSON mode, as one."""
        if self.as_json:
            self.handle(logging.LogRecord(name, level, "", 0, "%s", (text,), None))
        else:
            self.write(self.secrets.hide(text))

    def write(self, text: str) -> None:
        """Write whole lines. Raises OSError where stderr is gone."""
        self.acquire()  # the lock of a logging.Handler
        try:
            self.stream.write(f"{text}\n")
            self.stream.flush()
        finally:
            self.release()

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Be the handler of all loggers, of warnings and what threads die of, which Python would show with the secrets
        in them, and, in JSON mode, of whatever else is written to stderr."""
        root, level, on_thread = logging.getLogger(), log.level, threading.excepthook
        root.addHandler(self)
        log.setLevel(logging.WARNING)
        logging.captureWarnings(True)
        threading.excepthook = _log_end_of_thread
        try:
            with self._alone_on_stderr() if self.as_json else nullcontext():
                yield
        finally:
            threading.excepthook = on_thread
            logging.captureWarnings(False)
            root.removeHandler(self)
            log.setLevel(level)

    @contextmanager
    def _alone_on_stderr(self) -> Iterator[None]:
        before = sys.stderr
        lines = LineStream(before, lambda line: self.say(line, logging.WARNING, "stderr"))
        sys.stderr = lines
        try:
            yield
        finally:
            lines.close()
            sys.stderr = before


class LineStream(io.TextIOBase):
    """Stands in for a stream, and hands on what is printed there, a line at a time; of each thread its own."""

    def __init__(self, stream: TextIO, tell: Callable[[str], None]) -> None:
        self._stream = stream
        self._tell = tell
        self._unfinished: dict[int, str] = {}  # a thread's line that is not ended yet

    def write(self, text: str) -> int:
        me = threading.get_ident()
        *lines, rest = (self._unfinished.pop(me, "") + text).split("\n")
        if rest:
            self._unfinished[me] = rest[rest.rfind("\r", 0, -1) + 1:]  # a bar of progress may go on for days
        for line in lines:
            if line.strip():
                self._tell(line.rstrip().rpartition("\r")[2])  # of what was written over itself, the last
        return len(text)

    def close(self) -> None:
        """Hand on what was not ended by a line break."""
        while self._unfinished:
            self._tell(self._unfinished.popitem()[1])

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def buffer(self) -> Any:
        """The bytes of the stream itself: who writes there writes past this."""
        return self._stream.buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has it as a plain attribute
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    """Log what a thread of a plugin died of: one record instead of Python's many lines."""
    if ended.exc_value is not None and not issubclass(ended.exc_type, SystemExit):
        name = ended.thread.name if ended.thread else "a thread"
        log.error("%s died", name, exc_info=ended.exc_value)


# -- The voice of this command -----------------------------------------------------------------------------------------

_voice: ContextVar[Voice] = ContextVar("voice")


def begin(words: Sequence[str]) -> Voice:
    """Return the voice of a command line, which `say` and `complain` use from now on; not undone, so that also what is
    said at the very end, a traceback of ours maybe, is said in it and without secrets."""
    voice = Voice(sys.stderr, as_json=wants_json(words))
    _voice.set(voice)
    hide(voice.secrets)
    return voice


def hide(found: Secrets) -> None:
    """Let the command print and say none of these secrets from now on, on any thread."""
    secrets.set(found)
    voice().hide(found)


def voice() -> Voice:
    """Return the voice of this command."""
    found = _voice.get(None)
    return Voice(sys.stderr) if found is None else found


def say(text: str, level: int = logging.INFO) -> None:
    """Say something that is neither data nor a log record. Raises OSError where stderr is gone."""
    voice().say(text, level)


def complain(text: str) -> None:
    """Say in one line what was wrong."""
    if voice().as_json:
        voice().say(clean(voice().secrets.hide(text)), logging.ERROR)
    else:
        talk(f"geckosched: {text}")
