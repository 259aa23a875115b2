"""geckosched.toml: what it gives to the core, and that whatever is wrong with it is said in one line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from geckosched import config
from geckosched.config import Configuration, find_configuration, find_database, load_configuration, read_options
from geckosched.core import CollectionScheduler, ConfigError, SchedulerConfig

WHERE = "geckosched.toml: [collectors.weather]"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str) -> Configuration:
    Path("geckosched.toml").write_text(text, encoding="utf-8")
    return load_configuration(environ={})


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- Which file --------------------------------------------------------------------------------------------------------


def test_no_file_is_fine() -> None:
    """Without a file everything has its default."""
    assert load_configuration(environ={}) == Configuration()


def test_the_named_file_wins_over_the_environment_and_that_over_the_folder() -> None:
    """--config, else GECKOSCHED_CONFIG, else ./geckosched.toml."""
    for name in ("named.toml", "environment.toml", "geckosched.toml"):
        Path(name).write_text("", encoding="utf-8")
    environ = {"GECKOSCHED_CONFIG": "environment.toml"}
    assert find_configuration(Path("named.toml"), environ) == Path("named.toml")
    assert find_configuration(None, environ) == Path("environment.toml")
    assert find_configuration(None, {}) == Path("geckosched.toml")


def test_a_named_file_that_is_missing_is_an_error() -> None:
    """Whoever names a file wants that one; the message says who named it."""
    with pytest.raises(ConfigError, match=r"^no\.toml: no such file, named by --config$"):
        load_configuration(Path("no.toml"), environ={})
    with pytest.raises(ConfigError, match=r"^no\.toml: no such file, named by GECKOSCHED_CONFIG$"):
        load_configuration(environ={"GECKOSCHED_CONFIG": "no.toml"})


def test_an_unreadable_file_is_one_line() -> None:
    """A folder, or bytes that are no text, are refused like everything else."""
    with pytest.raises(ConfigError, match=r"^\.: Is a directory$"):
        load_configuration(Path(), environ={})
    Path("geckosched.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"^geckosched\.toml: not UTF-8 text"):
        load_configuration(environ={})


def test_load_plugins_of_the_environment_limits_loading() -> None:
    """GECKOSCHED_LOAD_PLUGINS=a,b works with and without a file; unset means all."""
    assert load_configuration(environ={"GECKOSCHED_LOAD_PLUGINS": "a, b,"}).only_plugins == ("a", "b")
    assert load("").only_plugins is None


# -- What it gives -----------------------------------------------------------------------------------------------------


def test_a_whole_file_becomes_values() -> None:
    """Every table reaches its place; ours and the collector's options stay together for the core."""
    result = load(
        """
        [scheduler]
        database = "data/app.db"
        max_workers = 4
        timeout = "1h30m"
        [plugins]
        disable = ["noisy"]
        load = ["./weather.py"]
        [plugins.geckoterminal]
        network = "solana"
        [budgets.geckoterminal]
        rate = "30/m"
        burst = 8
        [collectors.weather]
        every = "10m"
        at_night = true
        """
    )
    assert result.scheduler.max_workers == 4
    assert result.scheduler.budgets == {"geckoterminal": {"rate": "30/m", "burst": 8}}
    assert result.disable == ("noisy",)
    assert result.plugin_settings == {"geckoterminal": {"network": "solana"}}
    assert result.collectors == {"weather": {"every": "10m", "at_night": True}}


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """A daemon is started from anywhere; its files lie beside its configuration."""
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "geckosched.toml"
    file.write_text('[scheduler]\ndatabase = "app.db"\n[plugins]\nload = ["w.py", "/opt/x.py"]', encoding="utf-8")
    result = load_configuration(file, environ={})
    assert Path(result.scheduler.database) == tmp_path / "etc" / "app.db"
    assert result.load == (tmp_path / "etc" / "w.py", Path("/opt/x.py"))


def test_every_field_of_the_scheduler_can_be_configured() -> None:
    """The table and SchedulerConfig have the same keys; budgets have a table of their own, secrets stand anywhere."""
    fields = {each.name for each in dataclasses.fields(SchedulerConfig)}
    assert set(config._SchedulerTable.model_fields) == fields - {"budgets", "secrets"}


def test_the_database_is_found_in_a_file_that_is_otherwise_wrong() -> None:
    """`status` shows the store while the operator mends the file, also where that is no TOML."""
    Path("geckosched.toml").write_text('[scheduler]\ndatabase = "app.db"\nmax_workers = 0', encoding="utf-8")
    assert find_database(environ={}) == Path("app.db")
    for text in ("", "[scheduler]\ndatabase = 3", "scheduler = 3", "[scheduler"):
        Path("geckosched.toml").write_text(text, encoding="utf-8")
        assert find_database(environ={}) is None
    assert find_database(Path("no.toml"), environ={}) is None


@pytest.mark.parametrize("text", [
    '[scheduler]\ndatabase = "app.db"\n[collectors.a]\nevery = 5m\n',
    '[plugins]\nload = [\n[scheduler]\nmax_workers = 4\ndatabase = "app.db"  # ours',
    '[scheduler]\ntimezone = Europe/Berlin\ndatabase = "app.db"\n[collectors.a]',
])  # fmt: skip
def test_the_database_is_found_in_a_file_that_is_no_toml(text: str) -> None:
    """A slip somewhere in the file doesn't send `status` and `reload` to another store."""
    Path("geckosched.toml").write_text(text, encoding="utf-8")
    assert refusal(text).startswith("geckosched.toml: line ")
    assert find_database(environ={}) == Path("app.db")


# -- What it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[scheduler]\nmax_worker = 4", '[scheduler] max_worker: unknown key, did you mean "max_workers"?'),
        ("[plugins]\ndisabled = []", '[plugins] disabled: unknown key, did you mean "disable"?'),
        ("[budgets.x]\nrat = '1/m'", '[budgets.x] rat: unknown key, did you mean "rate"?'),
        ("[budgets.x]\nfoo = 1", "[budgets.x] foo: unknown key, allowed: rate, burst"),
        ("[colectors.x]", "[colectors]: unknown table, did you mean [collectors]?"),
        ("[web]", "[web]: unknown table, allowed: [scheduler], [plugins], [budgets], [collectors]"),
        ("timeout = '1h'", "timeout: outside of any table, it belongs into [scheduler]"),
        ("foo = 1", "foo: outside of any table, allowed: [scheduler], [plugins], [budgets], [collectors]"),
    ],
)
def test_unknown_keys_and_tables_are_refused_with_the_nearest(text: str, said: str) -> None:
    """File, table, key and the nearest known one; without a near one those that are allowed."""
    assert refusal(text) == f"geckosched.toml: {said}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[scheduler]\nmax_workers = 'ten'", '[scheduler] max_workers: found "ten", allowed is a whole number'),
        ("[scheduler]\nmax_workers = true", "[scheduler] max_workers: found true, allowed is a whole number"),
        ("[scheduler]\nmax_workers = 0", "[scheduler] max_workers: found 0, allowed is at least 1"),
        ("[scheduler]\ncatchup = 'all'", "[scheduler] catchup: found \"all\", allowed is 'latest' or 'none'"),
        ("[scheduler]\ndatabase = 3", "[scheduler] database: found 3, allowed is text in quotes"),
        ("scheduler = 3", "[scheduler]: found 3, allowed is a table"),
        ("[plugins]\ndisable = 'x'", '[plugins] disable: found "x", allowed is a list'),
        ("[plugins]\nload = ['a', 1]", "[plugins] load[1]: found 1, allowed is text in quotes"),
        ("[plugins.load]", "[plugins] load: found a table, allowed is a list"),
        ("[budgets]\nx = 3", "[budgets.x]: found 3, allowed is a table"),
        ("[collectors]\nx = '10m'", '[collectors.x]: found "10m", allowed is a table'),
        ("[collectors.x]\nenabled = 'no'", '[collectors.x] enabled: found "no", allowed is true or false'),
        (
            "[collectors.x]\nat = 07:30:00",
            '[collectors.x] at: found 07:30:00, a time of the day needs quotes, such as "02:30"',
        ),
        ("[collectors.x]\nat = '25:00'", "[collectors.x] at: found '25:00', allowed is \"HH:MM\", 00:00 to 23:59"),
        (
            "[collectors.x]\nat = '05:00'\nevery = '90m'",
            "[collectors.x] at: goes with an interval of whole days or weeks, found 1h30m",
        ),
        ("[scheduler]\ntimeout = 30", '[scheduler] timeout: found 30, a duration needs a unit, such as "30s"'),
        ("[scheduler]\ntimeout = '30'", '[scheduler] timeout: found "30", a duration needs a unit, such as "30s"'),
        ("[collectors.x]\nquiet = 1.5", '[collectors.x] quiet: found 1.5, a duration needs a unit, such as "30s"'),
        ("[collectors.x]\nevery = 60", '[collectors.x] every: found 60, a duration needs a unit, such as "30s"'),
        ("[collectors.x]\nevery = true", '[collectors.x] every: found true, a duration needs a unit, such as "30s"'),
    ],
)
def test_wrong_values_are_refused_with_what_was_found_and_what_is_allowed(text: str, said: str) -> None:
    """T5: nothing invalid gets past the file, a bare number for a duration least of all."""
    assert refusal(text) == f"geckosched.toml: {said}"


@pytest.mark.parametrize("value", ["0s", "-5m", "banana", "", "1h-30m"])
@pytest.mark.parametrize("key", ["every", "timeout", "quiet"])
def test_zero_negative_and_senseless_durations_are_refused(key: str, value: str) -> None:
    """T5, with the key and the value in the line."""
    said = refusal(f'[collectors.x]\n{key} = "{value}"')
    assert said.startswith(f"geckosched.toml: [collectors.x] {key}: ")
    assert f"'{value}'" in said


@pytest.mark.parametrize("text", ['[scheduler]\ntimezone = "Mars/Olympus"', '[budgets.x]\nrate = "often"'])
def test_what_the_core_refuses_has_its_place_too(text: str) -> None:
    """The core judges zones and rates; the file and the table are put in front."""
    table, key = text.split("\n")[0], text.split("\n")[1].split(" ")[0]
    assert refusal(text).startswith(f"geckosched.toml: {table} {key}")


@pytest.mark.parametrize(
    ("text", "line"), [("[scheduler]\n\nmax_workers = \n", 3), ("[scheduler]\n[plugins", 2), ('a = """\n\n', 3)]
)
def test_what_is_no_toml_is_said_with_its_line(text: str, line: int) -> None:
    """One line with file and line, also when the error is the end of the file."""
    assert refusal(text).startswith(f"geckosched.toml: line {line}: not valid TOML: ")


@pytest.mark.parametrize("text", [f"x = {'[' * 5000}{']' * 5000}", f"x = {'9' * 5000}"])
def test_what_python_can_not_hold_is_one_line(text: str) -> None:
    """Nested too deeply, or a number with too many digits: no traceback."""
    assert refusal(text).startswith("geckosched.toml: ")


def test_a_byte_order_mark_is_passed_over() -> None:
    """Editors of Windows put one in front."""
    Path("geckosched.toml").write_bytes(b"\xef\xbb\xbf[scheduler]\r\nmax_workers = 3\r\n")
    assert load_configuration(environ={}).scheduler.max_workers == 3


@pytest.mark.parametrize("database", ["", "/", ":memory:", "a\\u0000b", "~nobody-of-this-name/app.db"])
def test_a_database_that_can_be_no_file_is_refused_with_its_place(database: str) -> None:
    """Commands that then look for the store where a wrong file says it is find none named."""
    said = refusal(f'[scheduler]\ndatabase = "{database}"')
    assert said.startswith("geckosched.toml: [scheduler] database: found ")
    assert said.endswith("allowed is the path of a file")
    assert find_database(environ={}) is None


def test_a_name_with_a_line_break_is_shown_on_one_line() -> None:
    """TOML allows it in quotes."""
    for text in ('[scheduler]\n"a\\nb" = 1', '["a\\nb"]', '"a\\nb" = 1'):
        assert '"a\\nb"' in refusal(text)


# -- A collector's options ---------------------------------------------------------------------------------------------


@dataclass
class Options:
    cities: list[str]
    limit: int = 3
    share: float = 0.5
    dry: bool = False
    max_wait: timedelta = timedelta(hours=6)
    pauses: list[timedelta] = field(default_factory=list)
    csv: Path | None = None
    mode: Literal["new", "top"] = "new"
    weights: dict[str, int] = field(default_factory=dict)
    key: int | str = 0

    def __post_init__(self) -> None:
        if self.limit > 100:
            raise ValueError("limit: must be\nat most 100")


def read(**table: Any) -> Options:
    options = read_options(Options, {"cities": ["Oslo"], **table}, WHERE, folder=Path("/etc/gecko"))
    assert isinstance(options, Options)
    return options


def test_options_have_their_declared_types() -> None:
    """What the file says becomes the dataclass's own types; what it leaves out has its default."""
    assert read() == Options(cities=["Oslo"])
    read_in = read(limit=5, share=1, dry=True, max_wait="1h30m", pauses=["1m", "2m"], csv="w.csv", mode="top", key="a")
    assert read_in == Options(
        ["Oslo"], 5, 1.0, True, timedelta(minutes=90), [timedelta(minutes=1), timedelta(minutes=2)],
        Path("/etc/gecko/w.csv"), "top", {}, "a",
    )  # fmt: skip
    assert read(weights={"a": 1}).weights == {"a": 1}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"citys": ["Oslo"]}, 'citys: unknown key, did you mean "cities"?'),
        ({"evry": "10m"}, 'evry: unknown key, did you mean "every"?'),
        ({"limit": "5"}, 'limit: found "5", allowed is a whole number'),
        ({"limit": True}, "limit: found true, allowed is a whole number"),
        ({"share": "5"}, 'share: found "5", allowed is a number'),
        ({"dry": 1}, "dry: found 1, allowed is true or false"),
        ({"cities": "Oslo"}, 'cities: found "Oslo", allowed is a list'),
        ({"cities": ["Oslo", 7]}, "cities[1]: found 7, allowed is text in quotes"),
        ({"mode": "old"}, "mode: found \"old\", allowed is 'new' or 'top'"),
        ({"weights": {"a": "x"}}, 'weights.a: found "x", allowed is a whole number'),
        ({"key": 1.5}, "key: found 1.5, allowed is a whole number or text in quotes"),
        ({"max_wait": 6}, 'max_wait: found 6, a duration needs a unit, such as "30s"'),
        ({"pauses": ["1m", "2"]}, 'pauses[1]: found "2", a duration needs a unit, such as "30s"'),
    ],
)
def test_wrong_options_are_refused_in_one_line(table: dict[str, Any], said: str) -> None:
    """Place, key, what was found, what is allowed: the collector's keys read like ours."""
    with pytest.raises(ConfigError) as caught:
        read(**table)
    assert str(caught.value) == f"{WHERE} {said}"


def test_an_unknown_option_without_a_near_one_lists_both_kinds() -> None:
    """The table holds the collector's keys and ours, so either may have been meant."""
    with pytest.raises(ConfigError, match=r"zzzzz: unknown key, allowed: cities, .*, key, use, every, at, .*enabled$"):
        read(zzzzz=1)


def test_a_missing_option_is_named() -> None:
    """An option without a default has to be in the table."""
    with pytest.raises(ConfigError, match=r"^geckosched\.toml: \[collectors\.weather\] cities: missing"):
        read_options(Options, {}, WHERE)


def test_what_post_init_objects_to_is_one_line() -> None:
    """The collector's own check speaks through the same line."""
    with pytest.raises(ConfigError) as caught:
        read(limit=101)
    assert str(caught.value) == f"{WHERE} limit: must be at most 100"


def test_options_whose_types_cannot_be_read_are_the_plugins_fault_in_one_line() -> None:
    """A type that TOML has no way to say is a ConfigError, not a traceback."""

    @dataclass
    class Strange:
        socket: Configuration | object | type[int]
        other: pytest.MonkeyPatch

    with pytest.raises(ConfigError, match=r"\[collectors\.weather\]: the types of .*Strange can't be read: "):
        read_options(Strange, {"socket": 1, "other": 2}, WHERE)


# -- Loading plugins by it ---------------------------------------------------------------------------------------------

WEATHER = """
from dataclasses import dataclass
from pathlib import Path
from geckosched import collector, hookimpl

@dataclass
class Options:
    cities: list[str]
    csv: Path | None = None

@collector("weather", every="1h", options=Options)
def weather(run): ...

@collector("free", every="1h")
def free(run): ...

@hookimpl
def register_collectors(register, settings):
    register(weather)
    register(free)
"""


def load_into_a_scheduler(tmp_path: Path, text: str) -> CollectionScheduler:
    (tmp_path / "weather.py").write_text(WEATHER, encoding="utf-8")
    # Whatever else is installed here stays out of it.
    configuration = load('[plugins]\nload = ["weather.py"]\ndisable = ["geckoterminal"]\n' + text)
    scheduler = CollectionScheduler(configuration.scheduler)
    configuration.load_plugins(scheduler)
    return scheduler


def test_a_table_may_give_a_collectors_name_to_a_job_of_another(tmp_path: Path) -> None:
    """The table says what the job of that id is; the collector of that name gets no job by itself then."""
    scheduler = load_into_a_scheduler(tmp_path, "[collectors.free]\nuse = 'weather'\ncities = ['Oslo']")
    assert [(job.job_id, job.collector) for job in scheduler.get_status().jobs] == [("free", "weather")]


def test_a_configuration_schedules_collectors_of_a_plugin_file(tmp_path: Path) -> None:
    """A table makes a job, `use` a second one of a collector, and ours and the options part ways."""
    text = """
    [plugins.weather]
    unit = "C"
    [collectors.weather]
    every = "10m"
    cities = ["Oslo"]
    [collectors.south]
    use = "weather"
    cities = ["Rome"]
    enabled = false
    """
    scheduler = load_into_a_scheduler(tmp_path, text)
    jobs = {job.job_id: job for job in scheduler.get_status().jobs}
    assert scheduler.registry.collectors["weather"].settings == {"unit": "C"}
    assert {name: (job.collector, job.every, job.enabled) for name, job in jobs.items()} == {
        "free": ("free", "1h", True),
        "south": ("weather", "1h", False),
        "weather": ("weather", "10m", True),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[collectors.weather]\nevry = '1m'", '[collectors.weather] evry: unknown key, did you mean "every"?'),
        ("[collectors.weather]\nevery = '1m'", "[collectors.weather] cities: missing"),
        ("[collectors.weather]\ncities = 3", "[collectors.weather] cities: found 3, allowed is a list"),
        ("[collectors.free]\nevry = '1m'", '[collectors.free] evry: unknown key, did you mean "every"?'),
        ("[collectors.wether]\nevery = '1m'", '[collectors.wether] no installed collector is called "wether", did you'),
    ],
)
def test_what_only_the_plugins_can_tell_is_refused_with_the_files_name(tmp_path: Path, text: str, said: str) -> None:
    """Options and names of collectors are judged once plugins are loaded, in the same one line."""
    with pytest.raises(ConfigError) as caught:
        load_into_a_scheduler(tmp_path, text)
    assert str(caught.value).startswith(f"geckosched.toml: {said}")


def test_wrong_settings_of_a_plugin_hide_no_wrong_option_of_its_collectors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A plugin that registers first and then objects to its settings: both are said in one round, and nothing runs."""
    strict = WEATHER + "    if settings:\n        raise ConfigError('settings are wrong')\n"
    strict = strict.replace("import collector, hookimpl", "import ConfigError, collector, hookimpl")
    (tmp_path / "strict.py").write_text(strict.replace('"weather"', '"strict-weather"'), encoding="utf-8")
    text = '[plugins]\nload = ["strict.py"]\ndisable = ["geckoterminal"]\n[plugins.strict]\nkey = 1\n'
    configuration = load(f"{text}[collectors.strict-weather]\ncities = 3")
    scheduler = CollectionScheduler(configuration.scheduler)
    with pytest.raises(ConfigError) as caught:
        configuration.load_plugins(scheduler)
    assert str(caught.value) == "geckosched.toml: [collectors.strict-weather] cities: found 3, allowed is a list"
    assert "plugin strict: register_collectors: ConfigError: settings are wrong" in caplog.text
    assert not scheduler.get_status().jobs


def test_a_collector_without_declared_options_takes_any_key(tmp_path: Path) -> None:
    """Only a near miss of one of our keys is taken for a slip."""
    load_into_a_scheduler(tmp_path, "[collectors.free]\nuser = 'me'\nanything = 3")


def test_a_path_among_the_options_is_relative_to_the_file(tmp_path: Path) -> None:
    """Like every path of the file."""
    assert read_options(Options, {"cities": [], "csv": "w.csv"}, WHERE, folder=tmp_path).csv == tmp_path / "w.csv"


def test_settings_that_reach_no_plugin_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A plugin that is gone stops nothing, a slip in its name is said."""
    load_into_a_scheduler(tmp_path, "[plugins.wether]\nkey = 1")
    assert 'geckosched.toml: [plugins.wether] no installed plugin has this name, did you mean "weather"?' in caplog.text


def test_a_disabled_plugin_that_is_not_installed_is_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip in `disable` leaves running what should not; the near name is said, and one that is right is quiet."""
    monkeypatch.setattr(config, "installed_plugins", lambda: ["noisy"])
    configuration = dataclasses.replace(load('[plugins]\ndisable = ["nosy", "noisy"]'), only_plugins=())
    configuration.load_plugins(CollectionScheduler(configuration.scheduler))
    said = 'geckosched.toml: [plugins] disable: no installed plugin is called "nosy", did you mean "noisy"?'
    assert caplog.messages == [said]


def test_a_collector_of_a_disabled_plugin_is_refused_with_that_hint(tmp_path: Path) -> None:
    """Its table stayed in the file: the refusal says what was disabled."""
    with pytest.raises(ConfigError) as caught:
        load_into_a_scheduler(tmp_path, "[collectors.geckoterminal-trades]\nevery = '1m'")
    assert '[collectors.geckoterminal-trades] no installed collector is called "gecko' in str(caught.value)
    assert str(caught.value).endswith(" (disabled by [plugins] disable: geckoterminal)")
    with pytest.raises(ConfigError) as other:
        load_into_a_scheduler(tmp_path, "[collectors.free]\nevry = '1m'")
    assert "disable" not in str(other.value)


BUDGETED = """
from dataclasses import dataclass
from geckosched import Budget, collector, hookimpl

@dataclass
class Options:
    cities: list[str]

@collector("paid", every="1h", budget=Budget("service", rate="1/s"))
def paid(run): ...

@collector("needy", options=Options, budget=Budget("unscheduled", rate="1/s"))
def needy(run): ...

@hookimpl
def register_collectors(register, settings):
    register(paid)
    register(needy)
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("service", []),
        ("servise", ['[budgets.servise] no scheduled collector has this budget, did you mean "service"?']),
        ("unscheduled", ["[budgets.unscheduled] no scheduled collector has this budget"]),
    ],
)
def test_a_budget_that_no_collector_has_is_a_warning(
    name: str, said: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A slip in its name leaves the rate as it was; what a broken plugin would have had is not judged."""
    (tmp_path / "budgeted.py").write_text(BUDGETED, encoding="utf-8")
    text = f"[budgets.{name}]\nrate = '2/s'\n"
    load_into_a_scheduler(tmp_path, text)  # that plugin isn't loaded: nobody has any budget
    assert any(f"[budgets.{name}] no scheduled collector has this budget" in each for each in caplog.messages)
    for load_key, expected in (('["budgeted.py"]', said), ('["budgeted.py", "not_there.py"]', [])):
        caplog.clear()
        configuration = load(f'[plugins]\nload = {load_key}\ndisable = ["geckoterminal"]\n{text}')
        configuration.load_plugins(CollectionScheduler(configuration.scheduler))
        warnings = [each.removeprefix("geckosched.toml: ") for each in caplog.messages if "[budgets." in each]
        assert warnings == expected


def test_the_example_of_the_repository_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """geckosched.toml schedules the collectors of the GeckoTerminal plugin that it names, without a warning."""
    repository = Path(__file__).parents[1]
    monkeypatch.syspath_prepend(str(repository / "plugins" / "geckosched-geckoterminal" / "src"))
    plugin = tmp_path / "geckoterminal.py"  # in place of the entry point, which only an installed plugin has
    plugin.write_text("from geckosched_geckoterminal import register_collectors", encoding="utf-8")
    example = load_configuration(repository / "geckosched.toml", environ={})
    example = dataclasses.replace(example, only_plugins=(), load=(plugin,))
    scheduler = CollectionScheduler(example.scheduler)
    example.load_plugins(scheduler)
    assert scheduler.registry.plugins["geckoterminal"].error is None
    assert example.collectors.keys() <= {job.job_id for job in scheduler.get_status().jobs}
    assert example.plugin_settings.keys() == example.scheduler.budgets.keys() == {"geckoterminal"}
