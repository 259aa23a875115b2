"""What `geckosched run` logs: lines that a person reads, and JSON lines that a program can rely on."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Mapping
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geckosched import Batch, CollectionScheduler, RunContext, collector
from geckosched.core import Secrets
from geckosched.logs import JsonLines, LineStream, TextLines, wants_json
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.shell import Ended, finish, geckosched, invoke, runs_of_store, wait_until

SECRET = "hunter2/ä\"key"
NOISY = '''
import logging, sys, threading, warnings
from dataclasses import dataclass
from geckosched import Batch, collector, hookimpl

print("printed by an import", file=sys.stderr)
warnings.warn("odd\\nthing")
other = logging.getLogger("other")

@dataclass
class Options:
    key: str

@collector("noisy", every="1d", options=Options)
def noisy(run):
    key = run.options.key
    run.log.info("two\\nlines of w\\u00f6rds \\ud800", extra={"city": "Oslo", "share": float("nan"), "level": "mine"})
    run.log.warning("%d", "no number")
    other.warning("%d by the other", "no number")
    other.warning("the other says %s", key, extra={"keys": [key, {"of": object()}]})
    print("printed", key, file=sys.stderr)
    print("to stdout")
    warnings.warn("beware of " + key)
    thread = threading.Thread(target=lambda: 1 / 0, name="its thread")
    thread.start()
    thread.join()
    yield Batch("rows", [{"n": 1}])
    raise ValueError("no such\\ncity")

@hookimpl
def register_collectors(register, settings):
    register(noisy)
'''


@dataclasses.dataclass
class Noisy:
    """How a run of the collector that writes to stderr in every way ended: as text, as JSON, and above a level."""

    text: Ended
    json: Ended
    level: Ended
    folder: Path


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Noisy:
    """Run it, once for each, in processes of their own."""
    folder = tmp_path_factory.mktemp("noisy")
    (folder / "noisy.py").write_text(NOISY, encoding="utf-8")
    text = '[plugins]\nload = ["./noisy.py"]\n[collectors.noisy]\nkey = "env:KEY"\n'
    (folder / "geckosched.toml").write_text(text, encoding="utf-8")
    more = {"KEY": SECRET, "GECKOSCHED_LOAD_PLUGINS": "none-installed", "PYTHONPATH": str(Path(__file__).parents[1])}
    formats = {"text": [], "json": ["--log-format", "json"], "level": ["--log-level", "warning", "--log-format=json"]}
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "geckosched", "run", "--once", "--database", f"{name}.db", *arguments],
            cwd=folder, env={**os.environ, **more}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name, arguments in formats.items()
    }  # fmt: skip
    ended = {name: finish(process) for name, process in processes.items()}
    return Noisy(**ended, folder=folder)


def lines_of(ended: Ended) -> list[dict[str, Any]]:
    """Return the objects that stderr has, each on a line, and nothing else."""
    return [json.loads(line, parse_constant=pytest.fail) for line in ended.err.splitlines()]


def record(text: str = "said", **more: Any) -> logging.LogRecord:
    """Return a record of the moment that the tests expect."""
    made = logging.LogRecord("geckosched", logging.INFO, "", 0, text, (), None)
    made.created = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC).timestamp()
    vars(made).update(more)
    return made


# -- JSON lines --------------------------------------------------------------------------------------------------------


def test_nothing_but_json_lines_gets_to_stderr(noisy: Noisy) -> None:
    """Whatever plugins log, print or die of, and warnings, are records; stdout is left alone; no secret is shown."""
    found = lines_of(noisy.json)
    said = {(each["logger"], each["message"].split("\n")[0]) for each in found}
    assert (noisy.json.code, noisy.json.out) == (1, "to stdout\n")
    assert said >= {
        ("stderr", "printed by an import"),
        ("stderr", "printed ***"),
        ("other", "the other says ***"),
        ("geckosched.job.noisy", "two"),
        ("geckosched", "its thread died"),
        ("geckosched", "stopped"),
    }
    assert any(text.startswith("%d (which its arguments don't fit: TypeError") for _, text in said)
    assert ("other", "%d by the other (which its arguments don't fit: TypeError)") in said
    assert any(logger == "py.warnings" and "UserWarning: odd" in text for logger, text in said)
    for each in found:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", each["time"])
        assert each["level"] in ("info", "warning", "error")
    assert "hunter2" not in noisy.json.err


def test_a_run_s_records_say_which_run_and_how_it_ended(noisy: Noisy) -> None:
    """At its end job_id, run_id, outcome, seconds, rows and the error; a traceback is one field; what a plugin adds is
    there, too, and replaces nothing of ours."""
    found = lines_of(noisy.json)
    [end] = [each for each in found if "outcome" in each]
    of_plugin = next(each for each in found if each["message"].startswith("two"))
    died = next(each for each in found if each["message"] == "its thread died")
    other = next(each for each in found if "keys" in each)
    wanted = {"level": "warning", "job_id": "noisy", "run_id": 1, "outcome": "failed", "rows": 1,
              "error_type": "ValueError", "error": "no such city"}  # fmt: skip
    assert {name: end[name] for name in wanted} == wanted
    assert isinstance(end["seconds"], float)
    assert of_plugin["message"] == "two\nlines of wörds ?"
    wanted = {"level": "info", "job_id": "noisy", "run_id": 1, "city": "Oslo", "share": "nan"}
    assert {name: of_plugin[name] for name in wanted} == wanted
    assert died["exception"].startswith("Traceback (most recent call last):\n")
    assert died["exception"].endswith("\nZeroDivisionError: division by zero")
    assert other["keys"][0] == "***"


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--log-format", "json", "--nope"], "No such option: --nope"),
        (["--log-format=json", "--config", "gone.toml"], "gone.toml: no such file, named by --config"),
        (["--for", "banana", "--log-format", "json"], "--for: found 'banana'"),
        (["--log-format", "json", "--only", "dayly"], 'no job is called "dayly", did you mean "daily"?'),
    ],
)
def test_errors_at_the_start_are_json_lines_too(words: list[str], said: str) -> None:
    """Also those of the command line itself."""
    ended = geckosched("run", *words)
    assert ended.code == 2
    last = lines_of(ended)[-1]
    assert (last["level"], last["message"].startswith(said)) == ("error", True), last


@pytest.mark.usefixtures("site")
def test_an_unknown_format_is_a_usage_error_for_people() -> None:
    """It names what is allowed."""
    result = invoke("run", "--log-format", "xml")
    assert result.exit_code == 2
    assert re.match(r"geckosched: .*--log-format.*'xml' is not one of 'text', 'json'", result.stderr)
    assert not wants_json(["trigger", "--log-format", "json"])


class Unprintable:
    """What a plugin may hang on a record."""

    def items(self) -> Any:
        """Raise, as a plugin's own code may."""
        raise RuntimeError("no items")

    def __repr__(self) -> str:
        """Raise, as a plugin's own code may."""
        raise RuntimeError("no text")


Mapping.register(Unprintable)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary()
    | st.builds(Unprintable) | st.datetimes(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text() | st.integers(), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
names = st.sampled_from(["time", "level", "logger", "exception", "city", "ä b", "job_id", "stack"])


@settings(max_examples=50)
@given(st.text(st.characters()), st.dictionaries(names, values, max_size=3))
def test_any_record_is_one_line_of_valid_json(text: str, more: dict[str, Any]) -> None:
    """In ASCII, without NaN and lone surrogates, whatever a record has; a plugin's attributes replace nothing."""
    line = JsonLines(Secrets()).format(record(text, **more))
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line, parse_constant=pytest.fail)
    json.dumps(found, ensure_ascii=False).encode("utf-8")
    assert found["message"] == text.encode("utf-8", "replace").decode("utf-8")
    assert (found["time"], found["level"], found["logger"]) == ("2026-01-02T03:04:05.678901Z", "info", "geckosched")
    assert "exception" not in found


def test_an_endless_value_ends() -> None:
    """A list that holds itself is shown down to some depth."""
    endless: list[Any] = []
    endless.append(endless)
    assert json.loads(JsonLines(Secrets()).format(record(more=endless)))["more"][0][0][0]


def test_a_number_that_python_refuses_to_write_loses_no_record() -> None:
    """Python turns no integer of more than 4,300 digits into text."""
    record = logging.makeLogRecord({"name": "other", "msg": "counted", "big": 10**5000, "much": 10**30})
    said = json.loads(JsonLines(Secrets()).format(record))
    assert (said["message"], said["much"], type(said["big"])) == ("counted", 10**30, str)


def test_of_a_line_that_is_written_over_itself_only_the_last_is_kept_and_handed_on() -> None:
    """A bar of progress goes on for days without a line break."""
    told: list[str] = []
    lines = LineStream(StringIO(), told.append)
    tracemalloc.start()
    try:
        for number in range(100_000):
            lines.write(f"\r{number} rows")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    lines.write("\r")
    lines.write("\nnext\n")
    assert (told, kept < 100_000) == (["99999 rows", "next"], True)


def test_each_thread_has_its_own_line() -> None:
    """Two that print at once don't mix their words, and what was not ended by a line break is not lost."""
    told: list[str] = []
    lines = LineStream(StringIO(), told.append)
    halfway, done = threading.Event(), threading.Event()

    def other() -> None:
        print("other", end=" ", file=lines)
        halfway.set()
        done.wait(10)
        print("words", file=lines)

    thread = threading.Thread(target=other)
    thread.start()
    halfway.wait(10)
    print("mine", file=lines)
    print("\nunfinished", end="", file=lines)
    done.set()
    thread.join()
    lines.close()
    assert told == ["mine", "other words", "unfinished"]


# -- Lines for people --------------------------------------------------------------------------------------------------


def test_text_is_time_level_job_and_what_happened(noisy: Noisy) -> None:
    """Every record is a line of that form, other libraries' too; secrets are hidden in what others log."""
    lines = [line for line in noisy.text.err.splitlines() if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line)]
    said = [line[20:] for line in lines]
    news = [each for each in said if not each.startswith("warning: py.warnings: ")]
    assert news[0] == f"1 job, store {noisy.folder / 'text.db'}, times in UTC"
    assert any(re.fullmatch("noisy: two lines of w.+rds", each) for each in said)
    assert any(each.startswith("warning: noisy: %d (which its arguments don't fit: TypeError") for each in said)
    assert "warning: other: the other says ***" in said
    assert [each for each in said if each.startswith("warning: noisy: failed, 1 row, ")] != []
    assert said[-1] == "stopped"


def test_warnings_and_what_threads_die_of_are_records_too(noisy: Noisy) -> None:
    """Python would show them with the secrets in them; what a plugin prints itself is its own."""
    said = [line[20:] for line in noisy.text.err.splitlines()]
    assert "error: its thread died" in said
    assert any(each.startswith("warning: py.warnings: ") and "UserWarning: beware of ***" in each for each in said)
    assert [line for line in noisy.text.err.splitlines() if "hunter2" in line] == [f"printed {SECRET}"]


def test_what_is_long_is_shortened_and_says_where_it_is_whole(new_scheduler: NewScheduler, capsys: Any) -> None:
    """Many problems make a line that fits into two of a terminal; the run's row has each of them."""
    scheduler, heard = new_scheduler(), Heard()

    @collector("weather", every="1d")
    def weather(run: RunContext) -> Any:
        for number in range(9):
            run.problem(f"city {number}", "the service says that there is no such city")
        with run.target("good"):
            yield Batch("rows", [{"n": 1}])

    scheduler.register_collector(weather, enabled=False)
    with heard, scheduler:
        run = scheduler.execute_collector_now("weather")
        [line] = wait_until(lambda: heard.of_runs())
    assert run is not None
    assert len(line) <= 160
    assert line.endswith(f" ...; see geckosched runs {run.id})")
    assert (run.detail or "").count("the service says that there is no such city") == 9


def test_a_job_that_keeps_failing_gets_one_line_a_run(new_scheduler: NewScheduler) -> None:
    """Its breaker's opening is one line, the first time; failing probes, once an hour for days, add none."""
    clock = FakeClock()
    scheduler, heard = new_scheduler(clock=clock, max_consecutive_errors=3), Heard()

    @collector("broken", every="1m")
    def broken(_: RunContext) -> None:
        raise ValueError("no such city")

    job_id = scheduler.register_collector(broken)
    with heard, scheduler:
        for number in range(1, 8):
            wait_for_runs(scheduler, job_id, number)
            clock.advance(3600)
        wait_until(lambda: len(heard.of_runs()) >= 7)
    about_it = [text for text in heard.texts() if text.startswith("broken: ") and "unhealthy" not in text]
    [opened] = [text for text in about_it if text not in heard.of_runs()]
    assert opened.startswith("broken: breaker open, one probe at 2026-01-01 ")


def test_the_level_decides_what_is_logged(noisy: Noisy) -> None:
    """With `warning` a night without trouble leaves no line."""
    assert {each["level"] for each in lines_of(noisy.level)} == {"warning", "error"}


def test_a_line_has_no_control_characters_and_no_secret() -> None:
    """An API's answer can't write to the terminal, nor make a second line; a secret with blanks is hidden, too."""
    assert TextLines(Secrets(["two  blanks"])).format(record("two  blanks")).endswith(" ***")
    assert TextLines(Secrets()).format(record("a\x1b[2J\r\nb")) == "2026-01-02 03:04:05 a [2J b"


@pytest.mark.usefixtures("site")
def test_a_stderr_that_is_gone_stops_nothing() -> None:
    """The jobs run although nobody can hear of it."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        for words in ([], ["--log-format", "json"]):
            command = [sys.executable, "-m", "geckosched", "run", "--once", "--only", "daily", *words]
            assert subprocess.run(command, stderr=full, timeout=60, check=False).returncode == 0
    assert [run.outcome for run in runs_of_store("daily")] == ["succeeded"] * 2


class Heard(logging.Handler):
    """Keeps the records of geckosched at INFO and above, while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.records.append(record)

    def __enter__(self) -> Heard:
        logger = logging.getLogger("geckosched")
        logger.addHandler(self)
        self._level = logger.level
        logger.setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger("geckosched")
        logger.removeHandler(self)
        logger.setLevel(self._level)

    def texts(self) -> list[str]:
        """Return what was said."""
        return [each.getMessage() for each in self.records]

    def of_runs(self) -> list[str]:
        """Return the lines about ends of runs."""
        return [each.getMessage() for each in self.records if hasattr(each, "outcome")]


def wait_for_runs(scheduler: CollectionScheduler, job_id: str, number: int) -> None:
    """Wait until so many runs of a job have ended, as the store says."""
    wait_until(lambda: sum(run.outcome is not None for run in scheduler.get_runs(job_id)) == number)
