"""K1: a secret of the configuration appears in nothing that geckosched writes."""

from __future__ import annotations

import base64
import html
import json
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geckosched.config import load_configuration
from geckosched.core import CollectionScheduler, ConfigError, RunContext, SchedulerConfig, Secrets, collector
from geckosched.spellings import base64_cores
from tests.shell import finish, geckosched, make_site, start, wait_until

# -- What is found -----------------------------------------------------------------------------------------------------

WRITINGS: dict[str, Callable[[str], str]] = {
    "verbatim": str,
    "quoted": quote,
    "wholly quoted": lambda text: quote(text, safe=""),
    "in a query": quote_plus,
    "in a query, lower case": lambda text: urlencode({"key": text}).lower(),
    "quoted twice": lambda text: quote(quote(text, safe=""), safe=""),
    "JSON": json.dumps,
    "JSON with its letters": lambda text: json.dumps(text, ensure_ascii=False),
    "repr": repr,
    "ascii": ascii,
    "bytes": lambda text: repr(text.encode()),
    "JSON in repr": lambda text: repr(json.dumps({"key": text})),
    "JSON in JSON in JSON": lambda text: json.dumps(json.dumps(json.dumps(text))),
    "a URL in JSON": lambda text: json.dumps({"url": f"https://x.org/?key={quote(text, safe='')}"}),
    "HTML": html.escape,
    "on a terminal that knows ASCII only": lambda text: text.encode("ascii", "backslashreplace").decode(),
    "on one line": lambda text: " ".join(text.split()),
    "a host": str.lower,
}

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=6).filter(lambda text: len(text.strip()) >= 6)


@settings(deadline=None, max_examples=300)
@given(texts, st.sampled_from(sorted(WRITINGS)), st.text("abc =\"'&?", max_size=5))
def test_a_secret_is_found_however_it_is_written(secret: str, writing: str, around: str) -> None:
    """Percent-encoded, JSON-escaped, as Python and HTML write it, and one in the other: only `***` is left."""
    secret = secret.strip()
    hidden = Secrets([secret]).hide(f"{around}{WRITINGS[writing](secret)}{around}")
    assert "***" in hidden
    for write in WRITINGS.values():
        assert write(secret).strip("\"'") not in hidden.replace(around, "") or write(secret).strip("\"'") in "***"


@settings(deadline=None, max_examples=300)
@given(texts, st.text(max_size=7), st.text(max_size=7), st.sampled_from(["utf-8", "latin-1"]))
def test_a_secret_is_found_in_basic_auth(secret: str, before: str, behind: str, encoding: str) -> None:
    """Whoever the user is and whatever follows, the whole token goes."""
    secret = secret.strip()
    token = base64.b64encode(f"{before}:{secret}{behind}".encode(encoding, "replace")).decode()
    if secret.encode(encoding, "replace").decode(encoding) == secret:
        assert Secrets([secret]).hide(f"Authorization: Basic {token}").rstrip("=") == "Authorization: Basic ***"


def test_without_secrets_a_text_is_left_alone() -> None:
    """What costs nothing is not even copied."""
    text = "x" * 1000
    assert Secrets().hide(text) is text
    assert not Secrets()
    assert Secrets(["hunter2"])


def test_longer_secrets_go_first_and_added_ones_are_hidden_too() -> None:
    """Of two secrets of which one begins the other nothing is left over; what was hidden stays hidden."""
    secrets = Secrets(["hunter2"])
    secrets.add(["hunter2-and-more"])
    secrets.add(["swordfish"])
    assert secrets.hide("hunter2-and-more hunter2 swordfish") == "*** *** ***"


def test_each_line_of_a_secret_is_one() -> None:
    """A private key is also hidden where only one of its lines is quoted."""
    secrets = Secrets(["-----BEGIN KEY-----\nMIIEvQIBADAN\nab\n"])
    assert secrets.hide("bad line MIIEvQIBADAN of ab") == "bad line *** of ab"


@pytest.mark.parametrize(("value", "count"), [("", 0), ("short", 5), ("  abcd\n ", 4)])
def test_what_is_too_short_is_refused_without_showing_it(value: str, count: int) -> None:
    """Five characters would be found everywhere, blanks don't count."""
    with pytest.raises(ConfigError, match=f"^secrets: found one of {count} characters, allowed are 6 to 10,000$"):
        SchedulerConfig(secrets=("long enough", value))


def test_settings_do_not_show_their_secrets_and_schedulers_share_none() -> None:
    """Neither `repr` nor another scheduler of the process knows of them."""
    config = SchedulerConfig(secrets=("hunter2",))
    assert "hunter2" not in repr(config)
    assert CollectionScheduler(config).secrets.hide("hunter2") == "***"
    assert CollectionScheduler().secrets.hide("hunter2") == "hunter2"


# -- What a scheduler tells --------------------------------------------------------------------------------------------

CANARY = "pa$$w0rd/of the+gecko"


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """What a host's handler is given, by the loggers of geckosched."""
    kept: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record)

    handler = Handler()
    log = logging.getLogger("geckosched")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield kept
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def shows_none(record: logging.LogRecord) -> bool:
    """Whether whatever a handler may make of a record shows no canary."""
    return Secrets([CANARY]).hide(f"{vars(record)!r} {logging.Formatter().format(record)}").count("***") == (
        f"{vars(record)!r} {logging.Formatter().format(record)}".count("***")
    )


def test_the_records_of_a_run_show_none_whatever_handlers_the_host_has(
    tmp_path: Path, records: list[logging.LogRecord]
) -> None:
    """Message, arguments, traceback, `extra` and stack are without them before anybody's handler sees the record."""

    @collector("loud")
    def loud(run: RunContext) -> None:
        run.log.info("key %s", CANARY, extra={"key": CANARY, "keys": [{CANARY: 1}], "bytes": CANARY.encode()})
        run.log.getChild("deeper").warning(CANARY.upper(), stack_info=True)
        run.log.info("not a number: %d", CANARY)
        try:
            raise ValueError(CANARY)
        except ValueError as error:
            error.add_note(CANARY)
            run.log.exception("failed with %r", error)

    scheduler = CollectionScheduler(SchedulerConfig(database=tmp_path / "x.db", secrets=(CANARY,)))
    scheduler.register_collector(loud)
    scheduler.execute_collector_now("loud")
    ours = [record for record in records if record.name.startswith("geckosched.job.loud")]
    assert len(ours) == 4
    assert all(shows_none(record) for record in records)
    assert [record.getMessage() for record in ours][:2] == ["key ***", "***"]
    assert ours[0].funcName == "loud"  # it is still told where the call stands
    assert "ValueError: ***\n***" in (ours[3].exc_text or "")


def test_without_secrets_records_are_what_they_were(tmp_path: Path, records: list[logging.LogRecord]) -> None:
    """A host that reads arguments and exceptions from records still can."""

    @collector("plain")
    def plain(run: RunContext) -> None:
        run.log.error("key %s", "x", exc_info=ValueError("y"))

    scheduler = CollectionScheduler(SchedulerConfig(database=tmp_path / "x.db"))
    scheduler.register_collector(plain)
    scheduler.execute_collector_now("plain")
    (record,) = [record for record in records if record.name == "geckosched.job.plain"]
    assert record.args == ("x",)
    assert record.exc_info is not None


def test_levels_and_handlers_of_a_run_s_logger_are_the_host_s(tmp_path: Path) -> None:
    """`run.log` is the logger `geckosched.job.JOB_ID` in all but what its records show."""
    theirs = logging.getLogger("geckosched.job.levels")
    seen: list[object] = []

    @collector("levels")
    def levels(run: RunContext) -> None:
        theirs.setLevel(logging.ERROR)
        seen.append(run.log.isEnabledFor(logging.WARNING))
        run.log.setLevel(logging.DEBUG)
        seen.append((theirs.level, run.log.isEnabledFor(logging.DEBUG), run.log.handlers is theirs.handlers))

    scheduler = CollectionScheduler(SchedulerConfig(database=tmp_path / "x.db", secrets=(CANARY,)))
    scheduler.register_collector(levels)
    scheduler.execute_collector_now("levels")
    assert seen == [False, (logging.DEBUG, True, True)]


@dataclass
class Options:
    key: str = ""

    def __post_init__(self) -> None:
        if self.key:
            raise ValueError(f"key {self.key}")


@pytest.mark.parametrize(
    "settings", [{"options": {"key": CANARY}}, {"every": CANARY}, {"at": CANARY}, {"timeout": CANARY}]
)
def test_what_registering_objects_to_shows_none(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Neither the ConfigError nor what it came from, which a traceback would print, shows what was found."""
    scheduler = CollectionScheduler(SchedulerConfig(database=tmp_path / "x.db", secrets=(CANARY,)))
    with pytest.raises(ConfigError) as caught:
        scheduler.register_collector(collector("c", options=Options)(print), **settings)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert "***" in str(caught.value)


def test_what_is_cut_is_cut_after_hiding() -> None:
    """Half a secret at the end of a shortened text would be found by nobody."""
    secrets = Secrets([CANARY])
    for filler in range(960, 1010):
        told = secrets.one_line(ValueError("x" * filler + CANARY + "y" * 600))
        assert not any(part in told for part in (CANARY[:4], CANARY[-4:]))
    for filler in range(19_970, 20_010):
        told = secrets.lines([CANARY, "z" * filler])
        assert len(told) <= 20_000
        assert not any(part in told for part in (CANARY[:4], CANARY[-4:]))


# -- Secrets in the configuration --------------------------------------------------------------------------------------

SECRET = "hunter2-0042"

KEYED = """
from dataclasses import dataclass, field
from geckosched import collector, hookimpl

@dataclass
class Options:
    key: str = ""
    number: int = 0
    wait: int = 5
    keys: list[str] = field(default_factory=list)
    tables: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self):
        if self.key.startswith("bad"):
            raise ValueError(f"key: {self.key} is bad")

@collector("keyed", options=Options)
def keyed(run): ...

@collector("free")
def free(run): ...

@hookimpl
def register_collectors(register, settings):
    register(keyed)
    register(free)
"""


@pytest.fixture
def schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CollectionScheduler]:
    """Have a scheduler load the plugin above as a file and an environment say."""
    monkeypatch.chdir(tmp_path)
    Path("keyed.py").write_text(KEYED, encoding="utf-8")
    Path("etc").mkdir()

    def load(text: str, **environ: str) -> CollectionScheduler:
        head = '[plugins]\nload = ["../keyed.py"]\ndisable = ["geckoterminal"]\n'
        Path("etc/geckosched.toml").write_text(head + text, encoding="utf-8")
        configuration = load_configuration(Path("etc/geckosched.toml"), environ)
        assert not any(SECRET in text for text in (repr(configuration), str(configuration.sources)))
        scheduler = CollectionScheduler(configuration.scheduler)
        configuration.load_plugins(scheduler)
        return scheduler

    return load


Schedule = Callable[..., CollectionScheduler]


def refused(schedule: Schedule, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        schedule(text, **environ)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def test_secrets_are_read_wherever_they_stand_and_by_their_declared_type(schedule: Schedule) -> None:
    """In options, lists and tables within, in a plugin's settings and in the environment."""
    Path("etc/token").write_text(f"{SECRET}\r\n", encoding="utf-8")
    text = """
    [plugins.keyed]
    token = "file:token"
    deep.er = ["env:KEY", 3]
    [collectors.keyed]
    key = "env:KEY"
    number = "env:NUMBER"
    keys = ["plain", "env:KEY"]
    tables.a = [1, "env:NUMBER"]
    [collectors.free]
    anything = { key = "env:KEY" }
    """
    environ = {"KEY": f"{SECRET}\n", "NUMBER": "1234567", "GECKOSCHED_COLLECTORS__KEYED__WAIT": "env:NUMBER"}
    scheduler = schedule(text, **environ)
    options = {name: each.options for name, each in scheduler._registrations.items()}
    keyed = options["keyed"]
    assert (keyed.key, keyed.number, keyed.wait) == (f"{SECRET}\n", 1234567, 1234567)
    assert (keyed.keys, keyed.tables) == (["plain", f"{SECRET}\n"], {"a": [1, 1234567]})
    assert options["free"] == {"anything": {"key": f"{SECRET}\n"}}
    settings = scheduler.registry.collectors["keyed"].settings
    assert settings == {"token": SECRET, "deep": {"er": [f"{SECRET}\n", 3]}}
    assert {type(each) for each in (keyed.key, settings["token"], settings["deep"]["er"][0])} == {str}
    assert scheduler.secrets.hide(f"{SECRET} 1234567") == "*** ***"


def test_a_secret_that_is_a_list_is_one_and_so_are_its_texts(schedule: Schedule) -> None:
    """Its parts are used and shown alone; and a JSON text of the environment may name secrets."""
    environ = {"KEYS": f'["{SECRET}", "{SECRET}-b"]', "KEY": "swordfish"}
    environ["GECKOSCHED_COLLECTORS__FREE__KEYS"] = '["env:KEY"]'
    scheduler = schedule('[collectors.keyed]\nkeys = "env:KEYS"', **environ)
    assert scheduler._registrations["keyed"].options.keys == [SECRET, f"{SECRET}-b"]
    assert scheduler._registrations["free"].options == {"keys": ["swordfish"]}
    assert scheduler.secrets.hide(f"{SECRET}-b swordfish") == "*** ***"


def test_a_number_in_a_secret_is_one(schedule: Schedule) -> None:
    """In a JSON list, and where something is logged as a number."""
    scheduler = schedule('[collectors.free]\nkeys = "env:KEYS"', KEYS=f'["{SECRET}", {{"pin": 12345678}}]')
    assert scheduler.secrets.hide("pin 12345678") == "pin ***"
    assert scheduler.secrets.hide_in({"pin": 12345678, "n": 123, "ok": True}) == {"pin": "***", "n": 123, "ok": True}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('key = "env:NONE"', "[collectors.keyed] key: env:NONE: no variable has this name"),
        ('key = "env:"', "[collectors.keyed] key: env:: the name of a variable is missing"),
        ('key = "env:SHORT"', "[collectors.keyed] key: env:SHORT: a secret of 3 characters, allowed are 6 to 10,000"),
        ('key = "file:b"', "[collectors.keyed] key: file:b: a secret of 20,000 characters, allowed are 6 to 10,000"),
        ('key = "env:BYTES"', "[collectors.keyed] key: env:BYTES: not UTF-8 text"),
        ('key = "file:none"', "[collectors.keyed] key: file:none: No such file or directory"),
        ('key = "file:."', "[collectors.keyed] key: file:.: Is a directory"),
        ('key = "file:bytes"', "[collectors.keyed] key: file:bytes: not UTF-8 text"),
        ('keys = ["a", "env:NONE"]', "[collectors.keyed] keys[1]: env:NONE: no variable has this name"),
        ('tables.a = ["env:NONE"]', "[collectors.keyed] tables.a[0]: env:NONE: no variable has this name"),
        ('number = "env:NONE"', "[collectors.keyed] number: env:NONE: no variable has this name"),
        ('every = "env:NONE"', "[collectors.keyed] every: env:NONE: no variable has this name"),
    ],
)
def test_a_secret_that_cannot_be_read_is_one_line(schedule: Schedule, text: str, said: str) -> None:
    """File, table, key, and what is wrong; no part of it is shown."""
    Path("etc/bytes").write_bytes(b"\xff\xfe123456")
    Path("etc/b").write_text("x" * 20_000, encoding="utf-8")
    environ = {"SHORT": " abc ", "BYTES": "\udcff123456"}
    assert refused(schedule, f"[collectors.keyed]\n{text}", **environ) == f"etc/geckosched.toml: {said}"


def test_a_secret_of_a_plugin_s_settings_that_is_missing_names_its_table_or_its_variable(schedule: Schedule) -> None:
    """As in a job's table."""
    said = refused(schedule, '[plugins.keyed]\nt = "env:NONE"', GECKOSCHED_PLUGINS__KEYED__U="file:none")
    assert said.splitlines() == [
        "etc/geckosched.toml: [plugins.keyed] t: env:NONE: no variable has this name",
        "GECKOSCHED_PLUGINS__KEYED__U: file:none: No such file or directory",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[collectors.keyed]\nnumber = "env:KEY"', "[collectors.keyed] number: found ***, allowed is a whole number"),
        ('[collectors.keyed]\ntables = "env:KEY"', "[collectors.keyed] tables: found ***, allowed is a table"),
        ('[collectors.keyed]\ntables.a = [1, "env:KEY"]', "[collectors.keyed] tables.a[1]: found ***, allowed is a w"),
        ('[collectors.keyed]\ntables = ["env:KEY"]', "[collectors.keyed] tables: found ***, allowed is a table"),
        ('[collectors.keyed]\nkey = "env:BAD"', "[collectors.keyed] key: *** is bad"),
        ('[collectors.keyed]\nevery = "env:KEY"', "[collectors.keyed] every: found ***, allowed are durations"),
        ('[collectors.keyed]\nevery = "env:DIGITS"', "[collectors.keyed] every: found ***, a duration needs a unit"),
        ('[collectors.keyed]\nat = "env:KEY"', "[collectors.keyed] at: found '***', allowed is"),
        ('[collectors.keyed]\nuse = "env:KEY"', '[collectors.keyed] no installed collector is called "***"'),
        ('[scheduler]\nmax_workers = "env:KEY"', "[scheduler] max_workers: found ***, allowed is a whole number"),
        ('[scheduler]\nmax_workers = "env:NEGATIVE"', "[scheduler] max_workers: found ***, allowed is at least 1"),
        ('[scheduler]\ntimezone = "env:KEY"', "[scheduler] timezone: found '***', allowed are"),
        ('[scheduler]\ncatchup = "env:KEY"', "[scheduler] catchup: found ***, allowed is 'latest' or 'none'"),
        ('[budgets.x]\nrate = "env:KEY"', "[budgets.x] rate: found '***'"),
    ],
)
def test_what_is_wrong_with_a_secret_is_said_without_it(schedule: Schedule, text: str, said: str) -> None:
    """Neither the line nor what it came from shows it, whoever objects: we, pydantic, the core or the collector."""
    environ = {"KEY": SECRET, "BAD": f"bad {SECRET}", "DIGITS": "12345678", "NEGATIVE": "-0000123"}
    found = refused(schedule, text, **environ)
    assert said in found
    assert not any(each in found for each in ("12345678", "123"))


def test_a_long_secret_is_not_cut_into_view(schedule: Schedule) -> None:
    """A value found is shown shortened, and half a secret would not be hidden."""
    long = SECRET + "x" * 60
    assert "hunter2" not in refused(schedule, '[collectors.keyed]\nnumber = "env:KEY"', KEY=long)
    assert "hunter2" not in refused(schedule, '[collectors.keyed]\ntables = ["env:KEY"]', KEY=long)
    assert "hunter2" not in refused(schedule, '[scheduler]\nmax_workers = ["env:KEY"]', KEY=long)


# -- Everywhere at once ------------------------------------------------------------------------------------------------

BEGIN, END = "zq7Canary", "tail9Xz"  # what of a planted secret looks the same in most writings
PLANTED = f"{BEGIN}/\"pä ss'&100%+\\{END}"
FROM_FILE = f"{BEGIN}-of-a-file\n{END}-second line"

LEAKS = '''
import base64, json, threading, urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
import requests
from geckosched import Batch, SkipRun, collector, hookimpl
from geckosched.http import Session

@dataclass
class Options:
    key: str = ""
    port: int = 0
    keys: list[str] = field(default_factory=list)
    nested: dict[str, str] = field(default_factory=dict)

COLLECTORS, SETTINGS = [], {}

def leak(name, **more):
    def register(function):
        COLLECTORS.append(collector(name, every="1d", options=Options, max_consecutive_errors=1, **more)(function))
    return register

@leak("a-url")
def a_url(run):
    requests.get("http://127.0.0.1:1/", params={"key": run.options.key}, timeout=5)

@leak("an-option")
def an_option(run):
    raise ValueError(f"{run.options} {run.settings}")

@leak("a-chain")
def a_chain(run):
    key = run.options.key
    try:
        raise KeyError(key)
    except KeyError as cause:
        error = type(key, (Exception,), {})(json.dumps({"key": key}))
        error.add_note(urllib.parse.quote_plus(key))
        raise error from cause

@leak("cut")
def cut(run):
    raise ValueError("x" * 990 + run.options.key)

@leak("targets")
def targets(run):
    for number in range(30):
        with run.target("y" * number * 25 + run.options.keys[0]):
            raise ValueError(run.options.key)
    run.problem("by text " + run.options.nested["deep"], "said " + run.options.key)
    run.lost(run.options.key, 3, 0, 1)
    with run.target("well " + run.options.key):
        pass

@leak("a-skip")
def a_skip(run):
    raise SkipRun("no " + run.options.key, again_after=3600)

@leak("logs")
def logs(run):
    key = run.options.key
    run.log.info("key %s", key)
    run.log.warning("%r", {"auth": base64.b64encode(f"user:{key}".encode()).decode()}, extra={"key": key})
    try:
        raise ValueError(key)
    except ValueError:
        run.log.exception("with a traceback")

@leak("http")
def http(run):
    key = run.options.key
    with Session(run, retries=0) as session:
        session.headers["X-Key"] = urllib.parse.quote(key)
        session.auth = ("user", key)
        url = f"http://127.0.0.1:{run.options.port}"
        for path in ("/boom", "/page", "/away", "/" + urllib.parse.quote(key, safe="")):
            with run.target(path):
                answer = session.get(url + path, params={"key": key})
                answer.raise_for_status()
                answer.json()
        with run.target("a text"):
            raise ValueError(session.get(url + "/page", params={"key": key}).text)

@leak("rows", enabled=False)
def rows(run):
    run.state["key"] = run.options.key
    yield Batch("leaked", [{"key": run.options.key, "bytes": run.options.key.encode()}])

@leak("hangs")
def hangs(run):
    key = run.options.key
    Path("hangs").touch()
    threading.Event().wait()

@leak("off", calls_per_run=lambda options: int(options.key))
def off(run): ...

@hookimpl
def register_collectors(register, settings):
    SETTINGS.update(settings)
    for each in COLLECTORS:
        register(each)

@hookimpl
def run_finished(run):
    raise RuntimeError("of a hook: " + SETTINGS["token"] + str(run))

@hookimpl
def register_commands(app):
    @app.command()
    def shout():
        raise RuntimeError(SETTINGS["token"])
'''

BROKEN = '''
from geckosched import hookimpl

@hookimpl
def register_collectors(register, settings):
    raise ValueError(f"bad settings {settings}")
'''


class Echo(BaseHTTPRequestHandler):
    """Repeats what was asked, as error pages like to."""

    def do_GET(self) -> None:
        body = f"<p>{html.escape(self.path)} {self.headers}".encode()
        self.send_response({"/boom": 500, "/away": 302}.get(self.path.partition("?")[0], 200))
        self.send_header("Location", f"/boom?again={self.path}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def echo() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def leaks(data: bytes) -> list[str]:
    """Return what of the planted secrets is in some bytes: a piece of them, or what base64 makes of one."""
    wanted = [text.lower().encode() for text in (BEGIN, END)]
    wanted += [core.lower().encode() for core in base64_cores(PLANTED)]
    lower = data.lower()
    return [repr(data[max(0, lower.index(each) - 60) :][:160]) for each in wanted if each in lower]


def test_a_planted_secret_appears_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, echo: int) -> None:
    """K1 as an operator sees it: a real process leaks its secrets in every way we know of, and neither the bytes of the
    store nor anything that a command prints has a piece of them, in whatever writing."""
    site = make_site(tmp_path, monkeypatch)
    info = site / "geckosched_fake-1.2.dist-info"
    (info / "entry_points.txt").write_text("[geckosched]\nleak = leak\nbroken = broken\n", encoding="utf-8")
    (site / "leak.py").write_text(LEAKS, encoding="utf-8")
    (site / "broken.py").write_text(BROKEN, encoding="utf-8")
    monkeypatch.setenv("GECKOSCHED_LOAD_PLUGINS", "leak,broken")
    monkeypatch.setenv("CANARY", PLANTED)
    monkeypatch.setenv("GECKOSCHED_PLUGINS__BROKEN__TOKEN", "env:CANARY")
    Path("token").write_text(f"{FROM_FILE}\n", encoding="utf-8")
    jobs = ("a-url", "an-option", "a-chain", "cut", "targets", "a-skip", "logs", "http", "rows", "hangs", "off")
    config = '[scheduler]\nmax_workers = 12\nshutdown_timeout = "1s"\n[plugins.leak]\ntoken = "file:token"\n'
    options = f'key = "env:CANARY"\nport = {echo}\nkeys = ["env:CANARY"]\nnested = {{deep = "file:token"}}\n'
    config += "".join(f"[collectors.{job}]\n{options}" for job in jobs)
    Path("geckosched.toml").write_text(config, encoding="utf-8")

    def all_have_run() -> bool:
        ended = {run.job_id for run in CollectionScheduler().get_runs() if run.outcome}
        return Path("hangs").exists() and ended >= {*jobs} - {"rows", "hangs"}

    process = start("run", "--for", "40s")
    wait_until(lambda: process.poll() is not None or all_have_run())
    process.terminate()
    printed = [finish(process)]
    runs = CollectionScheduler().get_runs()
    outcomes = {run.job_id: str(run.outcome) for run in runs}
    failed = dict.fromkeys(("a-url", "an-option", "a-chain", "cut"), "failed")
    assert outcomes == {**failed, "targets": "partial", "http": "failed", "a-skip": "skipped", "logs": "succeeded",
                        "hangs": "interrupted", "off": "succeeded"}  # fmt: skip
    printed += [geckosched("runs", str(run.id)) for run in runs if run.traceback]
    printed += [
        geckosched(*command.split())
        for command in (
            "status", "status --json", "status http", "runs", "runs --json", "plugins", "plugins --json", "check",
            "check --json", "trigger rows --dry-run", "trigger rows --dry-run --json", "trigger an-option",
            "trigger an-option --json", "leak shout", "leak whisper", "disable http",
        )
    ]  # fmt: skip
    printed += [geckosched("status", PLANTED), geckosched("trigger", PLANTED, "--no-wait"), geckosched(PLANTED)]
    for each in printed:
        assert not leaks(each.out.encode() + each.err.encode())
    stored = b"".join(path.read_bytes() for path in Path().glob("geckosched.db*"))
    assert b"ConnectionError" in stored
    assert not leaks(stored)
    said = "".join(each.out + each.err for each in printed)
    assert "***" in said
    assert '"key": "***"' in said  # the dry run's state, as JSON
    assert "RuntimeError: of a hook: " in said
