"""Settings in the environment: every key of the file has a variable, which wins over it, and none is passed over."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from geckosched import JobStatus
from geckosched.config import (
    Configuration,
    _CollectorTable,
    _SchedulerTable,
    find_database,
    load_configuration,
    read_options,
)
from geckosched.core import CollectionScheduler, ConfigError, parse_duration
from geckosched.outside import Secret, Text, typed
from tests.shell import invoke

PLUGIN = """
from dataclasses import dataclass, field
from datetime import timedelta
from geckosched import Budget, collector, hookimpl

@dataclass
class Options:
    cities: list[str]
    max_wait: timedelta = timedelta(hours=6)
    deep: bool = False
    limit: int | None = None
    weights: dict[str, int] = field(default_factory=dict)
    mode: str = "new"
    minTemp: int = 0

@collector("weather-hourly", every="1h", options=Options, budget=Budget("Weather.Org", rate="10/m"))
def weather(run): ...

@collector("free", every="1h")
def free(run): ...

@collector("free.a__b", every="1h")
def nested(run): ...

@hookimpl
def register_collectors(register, settings):
    for each in (weather, free, nested):
        register(each)
"""


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weather.py").write_text(PLUGIN, encoding="utf-8")


def configure(file: str = "", /, **environ: str) -> Configuration:
    """Read a file and these variables, named without `GECKOSCHED_`."""
    if file:
        Path("geckosched.toml").write_text(file, encoding="utf-8")
    return load_configuration(environ={f"GECKOSCHED_{name}": value for name, value in environ.items()})


def refusal(file: str = "", /, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        schedule(file, **environ)
    return str(caught.value).splitlines()


def schedule(file: str = "", /, **environ: str) -> CollectionScheduler:
    """Have a scheduler load the plugin above, and no other, as the file and the variables say."""
    others = ("geckoterminal",)  # may be installed here
    configuration = dataclasses.replace(configure(file, **environ), load=(Path("weather.py"),), disable=others)
    scheduler = CollectionScheduler(configuration.scheduler)
    configuration.load_plugins(scheduler)
    return scheduler


def job(scheduler: CollectionScheduler, job_id: str) -> JobStatus:
    return next(each for each in scheduler.get_status().jobs if each.job_id == job_id)


def options(scheduler: CollectionScheduler, job_id: str) -> Any:
    return scheduler._registrations[job_id].options


# -- Our tables --------------------------------------------------------------------------------------------------------

EXAMPLES = {
    "database": "app.db", "timezone": "Europe/Oslo", "max_workers": "4", "executor": "threads",
    "max_consecutive_errors": "2", "error_recovery_delay": "5s", "max_recovery_delay": "1m", "timeout": "2m",
    "catchup": "none", "shutdown_timeout": "0s", "health_check_interval": "9s", "retention_days": "3",
    "retention_runs": "7", "every": "5m", "at": "02:30", "priority": "-3", "quiet": "6h", "enabled": "false",
    "use": "free",
}  # fmt: skip


@pytest.mark.parametrize("key", [key for key in _SchedulerTable.model_fields if key != "executor"])
def test_every_key_of_the_scheduler_has_a_variable(key: str) -> None:
    """Also without a file; it is read by the key's type."""
    read = getattr(configure(**{f"SCHEDULER__{key.upper()}": EXAMPLES[key]}).scheduler, key)
    assert str(read) == EXAMPLES[key]
    assert read != getattr(Configuration().scheduler, key)
    if EXAMPLES[key].isdigit():
        assert type(read) is int


@pytest.mark.parametrize("key", _CollectorTable.model_fields)
def test_every_key_of_a_job_has_a_variable(key: str) -> None:
    """It is a value of the key's own type when the core gets it."""
    more = {"COLLECTORS__X__EVERY": "1d"} if key == "at" else {}
    table = configure(**{f"COLLECTORS__X__{key.upper()}": EXAMPLES[key]}, **more).collectors["x"]
    assert type(table[key]) is {"priority": int, "max_consecutive_errors": int, "enabled": bool}.get(key, str)
    assert str(table[key]).lower() == EXAMPLES[key]


def test_the_environment_wins_over_the_file_and_leaves_the_rest() -> None:
    """Key by key, not table by table."""
    file = '[scheduler]\nmax_workers = 3\ntimeout = "9m"\n[budgets.x]\nrate = "5/m"\nburst = 2'
    found = configure(file, SCHEDULER__MAX_WORKERS="8", BUDGETS__X__RATE="7/m").scheduler
    assert (found.max_workers, found.timeout, found.budgets) == (8, "9m", {"x": {"rate": "7/m", "burst": 2}})


def test_paths_are_relative_to_the_file_or_else_to_the_working_directory(tmp_path: Path) -> None:
    """As if the value stood in the file."""
    assert configure(SCHEDULER__DATABASE="a.db").scheduler.database == Path("a.db")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "x.toml").touch()
    environ = {"GECKOSCHED_CONFIG": "etc/x.toml", "GECKOSCHED_SCHEDULER__DATABASE": "a.db"}
    assert load_configuration(environ=environ).scheduler.database == Path("etc/a.db")
    assert find_database(environ=environ) == Path("etc/a.db")
    assert find_database(environ={"GECKOSCHED_SCHEDULER__DATABASE": "a.db", "GECKOSCHED_X": "1"}) == Path("a.db")


def test_plugins_are_disabled_loaded_and_set_by_variables() -> None:
    """A list is JSON; a plugin's settings are text, but for a JSON list or table."""
    found = configure(
        '[plugins.my-plugin]\nnetwork = "eth"\nspeed = 3', PLUGINS__DISABLE='["a", "b"]', PLUGINS__LOAD='["./x.py"]',
        PLUGINS__MY_PLUGIN__NETWORK="solana", PLUGINS__MY_PLUGIN__DEXES='["x", "y"]', PLUGINS__MY_PLUGIN__DEEP__KEY="5",
    )  # fmt: skip
    assert (found.disable, found.load) == (("a", "b"), (Path("x.py"),))
    settings = {"network": "solana", "speed": 3, "dexes": ["x", "y"], "deep": {"key": "5"}}
    assert found.plugin_settings == {"my-plugin": settings}
    assert type(found.plugin_settings["my-plugin"]["network"]) is str


def test_a_plugin_that_has_no_table_is_found_by_the_name_it_is_installed_under(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-`, `.` and `_` are alike."""
    monkeypatch.setattr("geckosched.config.installed_plugins", lambda: ["coin-data.org"])
    assert configure(PLUGINS__COIN_DATA_ORG__KEY="v").plugin_settings == {"coin-data.org": {"key": "v"}}
    assert configure(PLUGINS__OTHER__KEY="v").plugin_settings == {"other": {"key": "v"}}


# -- What only the plugins know ----------------------------------------------------------------------------------------


def test_a_job_without_a_table_is_found_by_what_the_plugin_calls_it() -> None:
    """Its options are read by their declared types, and no file is needed."""
    scheduler = schedule(
        COLLECTORS__WEATHER_HOURLY__EVERY="5m", COLLECTORS__WEATHER_HOURLY__CITIES='["Oslo", "Rome"]',
        COLLECTORS__WEATHER_HOURLY__MAX_WAIT="90m", COLLECTORS__WEATHER_HOURLY__DEEP="yes",
        COLLECTORS__WEATHER_HOURLY__LIMIT="12", COLLECTORS__WEATHER_HOURLY__MODE="7",
        COLLECTORS__WEATHER_HOURLY__WEIGHTS__OSLO="3",
    )  # fmt: skip
    assert job(scheduler, "weather-hourly").every == "5m"
    found = options(scheduler, "weather-hourly")
    assert (found.cities, found.max_wait, found.deep) == (["Oslo", "Rome"], timedelta(minutes=90), True)
    assert (found.limit, found.mode, found.weights) == (12, "7", {"oslo": 3})


def test_names_may_hold_what_parts_names() -> None:
    """A job called free.a__b is found, since it is known; so is a key of its own table."""
    scheduler = schedule(COLLECTORS__FREE_A__B__EVERY="7m", COLLECTORS__FREE__EVERY="8m")
    assert (job(scheduler, "free.a__b").every, job(scheduler, "free").every) == ("7m", "8m")


def test_a_new_job_is_made_by_use() -> None:
    """What is known nowhere is called as the variable has it, in lower case; `use` says which options there are."""
    scheduler = schedule(
        COLLECTORS__SOUTH__USE="weather-hourly", COLLECTORS__SOUTH__CITIES='["Rome"]', COLLECTORS__SOUTH__MINTEMP="3"
    )
    assert (options(scheduler, "south").cities, options(scheduler, "south").minTemp) == (["Rome"], 3)


def test_a_budget_is_found_by_what_the_collectors_call_it() -> None:
    """Its table need not be in the file."""
    scheduler = schedule(BUDGETS__WEATHER_ORG__RATE="99/m", BUDGETS__WEATHER_ORG__BURST="7")
    assert scheduler.config.budgets == {"Weather.Org": {"rate": "99/m", "burst": 7}}


def test_a_collector_that_declares_no_options_gets_plain_text() -> None:
    """Neither a number nor a class of ours."""
    found = options(schedule(COLLECTORS__FREE__KEY="5", COLLECTORS__FREE__KEYS='["a"]'), "free")
    assert found == {"key": "5", "keys": ["a"]}
    assert type(found["key"]) is str


def test_a_table_of_the_file_is_changed_by_the_plugins_own_name_of_a_key() -> None:
    """Key by key; the file's key is found whatever its case."""
    file = '[collectors.weather-hourly]\ncities = ["Oslo"]\nmode = "old"\nevery = "3h"'
    found = schedule(file, COLLECTORS__WEATHER_HOURLY__MODE="top")
    assert (options(found, "weather-hourly").mode, options(found, "weather-hourly").cities) == ("top", ["Oslo"])
    assert job(found, "weather-hourly").every == "3h"


def test_the_table_of_a_job_is_found_without_its_plugin() -> None:
    """For the operator's switches, which must not need it."""
    configuration = configure(COLLECTORS__WEATHER_HOURLY__ENABLED="off")
    assert configuration.table_of("weather-hourly") == {"enabled": False}
    assert configuration.where("weather-hourly", "enabled") == "GECKOSCHED_COLLECTORS__WEATHER_HOURLY__ENABLED"
    assert configuration.table_of("other") == {}
    assert configure("[collectors.other]\nenabled = true").where("other", "enabled") == "geckosched.toml"


# -- What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SCHEDULER__MAX_WORKER", 'unknown key, did you mean "max_workers"?'),
        ("COLLECTORS__FREE__EVRY", 'unknown key, did you mean "every"?'),
        ("COLLECTORS__WEATHER_HOURLY__CITYS", 'unknown key, did you mean "cities"?'),
        ("BUDGETS__X__RAT", 'unknown key, did you mean "rate"?'),
        ("PLUGINS__DISABEL", 'unknown key, did you mean "disable"?'),
        ("SHEDULER__MAX_WORKERS", "unknown, did you mean GECKOSCHED_SCHEDULER__MAX_WORKERS?"),
        ("SCHEDULER_MAX_WORKERS", "unknown, did you mean GECKOSCHED_SCHEDULER__MAX_WORKERS?"),
        ("DATABASE", "unknown, did you mean GECKOSCHED_SCHEDULER__DATABASE?"),
        ("LOAD_PLUGIN", "unknown, did you mean GECKOSCHED_LOAD_PLUGINS?"),
        ("CONFIGURATION", "unknown, did you mean GECKOSCHED_CONFIG?"),
        ("SCHEDULER__", "a table, allowed are its keys: GECKOSCHED_SCHEDULER__KEY"),
        ("SCHEDULER", "a table, allowed are its keys: GECKOSCHED_SCHEDULER__KEY"),
        ("COLLECTORS__FREE", "a table, allowed are its keys: GECKOSCHED_COLLECTORS__FREE__KEY"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_known_one(name: str, said: str) -> None:
    """The variable is named, so that it is found where it was set."""
    assert refusal(**{name: "1"}) == [f"GECKOSCHED_{name}: {said}"]


def test_a_name_that_is_near_nothing_is_told_what_is_allowed() -> None:
    """No variable that begins with our name is passed over."""
    (line,) = refusal(ZZZ="1")
    assert line.startswith("GECKOSCHED_ZZZ: unknown, allowed: GECKOSCHED_CONFIG, GECKOSCHED_LOAD_PLUGINS, GECKOSCHED_")


@pytest.mark.parametrize(
    "name",
    [
        "PORT", "PORT_8080_TCP", "PORT_8080_TCP_ADDR", "PORT_8080_TCP_PORT", "PORT_8080_TCP_PROTO", "SERVICE_HOST",
        "SERVICE_PORT", "SERVICE_PORT_HTTP", "NAME", "ENV_LANG",
    ],
)  # fmt: skip
def test_what_containers_define_by_themselves_is_passed_over(name: str) -> None:
    """Kubernetes and Docker do so beside every service, also if it is called geckosched."""
    assert configure(**{name: "tcp://10.0.0.1:8080"}) == Configuration()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"SCHEDULER__MAX_WORKERS": "ten"}, 'found "ten", allowed is a whole number'),
        ({"SCHEDULER__MAX_WORKERS": "0"}, "found 0, allowed is at least 1"),
        ({"SCHEDULER__TIMEOUT": "30"}, 'found "30", a duration needs a unit, such as "30s"'),
        ({"SCHEDULER__TIMEZONE": "Mars"}, "found 'Mars', allowed are IANA names such as \"Europe/Berlin\""),
        ({"PLUGINS__DISABLE": "a,b"}, 'found "a,b", allowed is a list as JSON'),
        ({"COLLECTORS__FREE__ENABLED": "maybe"}, 'found "maybe", allowed is true or false'),
        ({"COLLECTORS__WEATHER_HOURLY__CITIES": "Oslo"}, 'found "Oslo", allowed is a list as JSON'),
        ({"BUDGETS__X__BURST": "many"}, 'found "many", allowed is a whole number'),
    ],
)
def test_a_wrong_value_is_an_error_of_its_variable(environ: dict[str, str], said: str) -> None:
    """What was found and what is allowed, as in the file."""
    (name,) = environ
    assert refusal(**environ) == [f"GECKOSCHED_{name}: {said}"]


def test_a_wrong_value_deep_in_a_table_is_one_of_its_variable() -> None:
    """Also where the file has the rest of the table."""
    file = '[collectors.weather-hourly]\ncities = []\n[collectors.weather-hourly.weights]\nRome = 1'
    assert refusal(file, COLLECTORS__WEATHER_HOURLY__WEIGHTS__ROME="x") == [
        'GECKOSCHED_COLLECTORS__WEATHER_HOURLY__WEIGHTS__ROME: found "x", allowed is a whole number'
    ]


def test_a_name_that_may_mean_two_jobs_is_an_error_that_names_both() -> None:
    """In the file, or one there and one of a plugin."""
    file = '[collectors.a-b]\nuse = "free"\n[collectors.a_b]\nuse = "free"'
    said = 'may mean "a-b" or "a_b" of [collectors], so give it in the file instead'
    assert refusal(file, COLLECTORS__A_B__EVERY="1m") == [f"GECKOSCHED_COLLECTORS__A_B__EVERY: {said}"]
    (line,) = refusal('[collectors.weather_hourly]\nuse = "free"', COLLECTORS__WEATHER_HOURLY__EVERY="1m")
    assert 'may mean "weather_hourly" or "weather-hourly" of [collectors]' in line


def test_two_variables_that_say_the_same_are_an_error() -> None:
    """Names compare without case."""
    environ = {"GECKOSCHED_SCHEDULER__MAX_WORKERS": "1", "geckosched_scheduler__max_workers": "2"}
    with pytest.raises(ConfigError, match=r"GECKOSCHED_SCHEDULER__MAX_WORKERS means the same, leave one of them out$"):
        load_configuration(environ=environ)
    assert load_configuration(environ={"geckosched_scheduler__max_workers": "2"}).scheduler.max_workers == 2


def test_a_key_below_what_is_no_table_is_an_error() -> None:
    """Neither of the two is passed over."""
    (line,) = refusal(COLLECTORS__FREE__KEY="1", COLLECTORS__FREE__KEY__BELOW="2")
    assert line == "GECKOSCHED_COLLECTORS__FREE__KEY__BELOW: [collectors.free] key is no table, so it has no key below"


def test_a_key_below_one_of_ours_is_an_error_of_the_variable() -> None:
    """The file has nothing there that could be mended."""
    assert refusal(SCHEDULER__MAX_WORKERS__X="4") == [
        "GECKOSCHED_SCHEDULER__MAX_WORKERS__X: [scheduler] max_workers: found a table, allowed is a whole number"
    ]


def test_all_that_is_wrong_is_said_at_once_and_once() -> None:
    """File, environment and what only the plugins know; the file's lines name the file."""
    file = "[scheduler]\nmax_workers = 0\n[collectors.x]\nevery = 5"
    assert refusal(file, SCHEDULER__TIMEOUT="5", FOO="1", COLLECTORS__X__QUIET="6") == [
        f"GECKOSCHED_FOO: {refusal(FOO='1')[0].partition(': ')[2]}",
        "geckosched.toml: [scheduler] max_workers: found 0, allowed is at least 1",
        'GECKOSCHED_SCHEDULER__TIMEOUT: found "5", a duration needs a unit, such as "30s"',
        'geckosched.toml: [collectors.x] every: found 5, a duration needs a unit, such as "30s"',
        'GECKOSCHED_COLLECTORS__X__QUIET: found "6", a duration needs a unit, such as "30s"',
    ]
    file = "[collectors.free]\nevry = 1\n[collectors.weather-hourly]\nmode = 3"
    assert [line[:72] for line in refusal(file, COLLECTORS__NOWHERE__EVERY="1m")] == [
        "geckosched.toml: [collectors.weather-hourly] cities: missing; the collec",
        "geckosched.toml: [collectors.weather-hourly] mode: found 3, allowed is t",
        "GECKOSCHED_COLLECTORS__NOWHERE__EVERY: [collectors.nowhere] no installed",
        'geckosched.toml: [collectors.free] evry: unknown key, did you mean "ever',
    ]


def test_what_is_wrong_with_a_table_that_the_file_lacks_names_the_variable_that_made_it() -> None:
    """The file would be searched in vain."""
    assert refusal("[scheduler]", COLLECTORS__WEATHER_HOURLY__EVERY="1m") == [
        "GECKOSCHED_COLLECTORS__WEATHER_HOURLY__EVERY: [collectors.weather-hourly] cities: missing; "
        "the collector needs it"
    ]


# -- The command line --------------------------------------------------------------------------------------------------


def test_check_judges_the_environment_and_the_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it in one round, each with where it is, and exit code 2."""
    Path("geckosched.toml").write_text('[plugins.x]\nkey = "env:NONE"\n[collectors.y]\nevery = 5', encoding="utf-8")
    monkeypatch.setenv("GECKOSCHED_LOAD_PLUGINS", "none")
    monkeypatch.setenv("GECKOSCHED_SCHEDULER__MAX_WORKER", "3")
    monkeypatch.setenv("GECKOSCHED_DATABASE", "x.db")
    result = invoke("check")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "geckosched: GECKOSCHED_DATABASE: unknown, did you mean GECKOSCHED_SCHEDULER__DATABASE?",
        "geckosched: geckosched.toml: [plugins.x] key: env:NONE: no variable has this name",
        'geckosched: GECKOSCHED_SCHEDULER__MAX_WORKER: unknown key, did you mean "max_workers"?',
        'geckosched: geckosched.toml: [collectors.y] every: found 5, a duration needs a unit, such as "30s"',
        'geckosched: warning: [collectors.y] no installed collector is called "y" (none is allowed)',
    ]


def test_a_job_that_the_environment_switches_off_is_switched_on_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """`enable` says where, since the file would be searched in vain."""
    Path("geckosched.toml").write_text('[plugins]\nload = ["weather.py"]', encoding="utf-8")
    monkeypatch.setenv("GECKOSCHED_LOAD_PLUGINS", "none")
    monkeypatch.setenv("GECKOSCHED_COLLECTORS__FREE__ENABLED", "false")
    result = invoke("enable", "free")
    assert (result.exit_code, result.stderr) == (
        1, "geckosched: GECKOSCHED_COLLECTORS__FREE__ENABLED says that free is enabled = false, so change it there\n"
    )  # fmt: skip


# -- Types -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hint", "read"),
    [
        ("5", int, 5), ("-5", int, -5), ("5.5", int, "5.5"), ("5", float, 5.0), ("1e3", float, 1000.0),
        ("True", bool, True), ("off", bool, False), ("2", bool, "2"), ("5", str, "5"), ("5", int | None, 5),
        ("5", int | str, "5"), ("x", int | None, "x"), ("5m", timedelta | int, "5m"), ("5", timedelta | int, 5),
        ("[1, 2]", list[int], [1, 2]), ("[1, 2]", list[int] | None, [1, 2]), ("[1, 2]", tuple[int, ...], [1, 2]),
        ('{"a": 1}', dict[str, int], {"a": 1}), ("[1", list[int], "[1"), ("2", Literal[1, 2], 2),
        ("b", Literal["a", "b"], "b"), ("[1]", str, "[1]"), ("5", Path, "5"), ("5", Any, "5"),
    ],
)  # fmt: skip
def test_a_text_from_outside_is_read_by_its_declared_type(text: str, hint: Any, read: Any) -> None:
    """What doesn't fit stays text, so that the type's own check refuses it in words."""
    for kind in (Text, Secret):
        found = typed(kind(text), hint)
        assert found == read
        assert isinstance(found, str) or type(found) is type(read)
    assert typed(text, hint) == text  # the file's own text is text


def test_texts_inside_of_lists_and_tables_are_read_too() -> None:
    """A list in the file may hold a secret that is a number."""
    assert typed([Secret("1234567"), 2], list[int]) == [1234567, 2]
    assert typed({"a": Secret("1234567"), "b": 2}, dict[str, int] | None) == {"a": 1234567, "b": 2}


def test_a_duration_of_the_environment_is_one() -> None:
    """The core's own reader reads it, with the units of the file."""
    read = read_options(_Waits, {"wait": Text("1h30m")}, "[collectors.x]")
    assert read.wait == timedelta(microseconds=parse_duration("90m"))


@dataclasses.dataclass
class _Waits:
    wait: timedelta
