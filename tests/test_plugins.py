"""P1: nothing a plugin does at import or registration stops the host or another plugin, and what is wrong is said.

The plugins are real: modules and `.dist-info` folders on the path, found by their entry points.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from geckosched import (
    Batch,
    CollectionScheduler,
    ConfigError,
    Outcome,
    PluginError,
    RunContext,
    SchedulerConfig,
    collector,
    hookimpl,
)
from tests.conftest import NewScheduler

Install = Callable[..., None]

GOOD = """
from geckosched import Batch, collector, hookimpl

@collector("{name}", every="1h")
def collect(run):
    yield Batch("{name}_rows", [{{"n": 1, "setting": run.settings.get("color")}}])

@hookimpl
def register_collectors(register, settings):
    register(collect)
"""

BROKEN = {
    "hookless": ("def register_collectors(register): ...", "it has no hooks: is @hookimpl missing"),
    "deep": (
        "import json\ndef boom():\n    json.loads('nope')\nboom()",
        "line 1 column 1 (char 0) (geckosched_test_deep.py:3)",
    ),
    "fails": ("\n\nraise RuntimeError('no network')", "RuntimeError: no network (geckosched_test_fails.py:3)"),
    "syntax": ("def broken(:", "SyntaxError"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "missing": ("import not_there_at_all", "ModuleNotFoundError"),
    "misspelt": (
        "from geckosched import hookimpl\n@hookimpl\ndef register_colectors(register): ...",
        "unknown hook 'register_colectors'",
    ),
    "arguments": (
        "from geckosched import hookimpl\n@hookimpl\ndef register_collectors(register, options): ...",
        "PluginValidationError",
    ),
    "raises": (
        "from geckosched import hookimpl\n@hookimpl\ndef register_collectors(register): raise KeyError('x')",
        "KeyError: 'x' (geckosched_test_raises.py:3)",
    ),
    "thief": (GOOD.format(name="good"), 'collector name "good" is taken by plugin good'),
    "nameless": (
        "from geckosched import hookimpl, Collector\nclass C(Collector):\n    def collect(self, run): ...\n"
        "@hookimpl\ndef register_collectors(register): register(C)",
        "name of collector",
    ),
    "ours": (
        "from dataclasses import dataclass\nfrom geckosched import collector, hookimpl\n@dataclass\nclass O:\n"
        "    every: str = ''\n@collector('ours', options=O)\ndef c(run): ...\n"
        "@hookimpl\ndef register_collectors(register): register(c)",
        "which is a setting of every job",
    ),
}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a plugin as pip would leave it: a module and a .dist-info folder with an entry point."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    modules: list[str] = []

    def add(name: str, source: str, target: str = "", distribution: str | None = None) -> None:
        module = f"geckosched_test_{(distribution or name).replace('-', '_')}"
        modules.append(module)
        (site / f"{module}.py").write_text(source)
        info = site / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[geckosched]\n{name} = {module}{target}\n")

    yield add
    for module in modules:
        sys.modules.pop(module, None)


def test_a_plugin_is_found_by_its_entry_point_and_runs(install: Install, new_scheduler: NewScheduler) -> None:
    """A module and a .dist-info on the path are enough; the settings table reaches the run."""
    install("good", GOOD.format(name="good"))
    scheduler = new_scheduler()
    scheduler.load_plugins(only=["good"], settings={"good": {"color": "green"}})
    run = scheduler.execute_collector_now("good")
    assert run is not None
    assert (run.outcome, run.rows) == (Outcome.SUCCEEDED, 1)
    assert scheduler._store.read("SELECT setting FROM good_rows")[0][0] == "green"
    status = scheduler.registry.plugins["good"]
    assert (status.ok, status.version, status.collectors) == (True, "1.2", ("good",))
    assert status.distribution == "geckosched-test-good"


def test_broken_plugins_stop_neither_the_host_nor_the_good_one(
    install: Install, new_scheduler: NewScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """P1: ten broken plugins beside a good one; the good one runs and the others are named with the reason."""
    install("good", GOOD.format(name="good"))
    for name, (source, _) in BROKEN.items():
        install(name, source)
    scheduler = new_scheduler()
    with caplog.at_level(logging.WARNING, "geckosched"):
        scheduler.load_plugins(only=["good", *BROKEN])
    with scheduler:
        run = scheduler.execute_collector_now("good")
        status = scheduler.get_status()
    assert run is not None
    assert run.outcome is Outcome.SUCCEEDED
    assert [job.job_id for job in status.jobs] == ["good"]
    for name, (_, reason) in BROKEN.items():
        plugin = scheduler.registry.plugins[name]
        assert not plugin.ok
        assert plugin.error is not None
        assert reason in plugin.error
        assert "\n" not in plugin.error
        assert f"plugin {name} is broken" in caplog.text
    stored = CollectionScheduler(SchedulerConfig(database=scheduler.config.database)).get_status().plugins
    assert {plugin.name: plugin.ok for plugin in stored} == {"good": True, **dict.fromkeys(BROKEN, False)}


def test_disabled_plugins_are_not_imported(install: Install, new_scheduler: NewScheduler) -> None:
    """`disable` acts before anything is imported."""
    install("exits", BROKEN["exits"][0])
    scheduler = new_scheduler()
    scheduler.load_plugins(disable=["exits"])
    assert "exits" not in scheduler.registry.plugins
    assert "geckosched_test_exits" not in sys.modules


def test_two_plugins_of_one_name_are_both_shown(install: Install, new_scheduler: NewScheduler) -> None:
    """pluggy drops the second of two equal names in silence (trap 6); here it is broken, and says why."""
    install("twin", GOOD.format(name="twin"), distribution="twin-a")
    install("twin", GOOD.format(name="twin2"), distribution="twin-b")
    scheduler = new_scheduler()
    scheduler.load_plugins(only=["twin"])
    assert [plugin.ok for plugin in scheduler.registry.plugins.values()] == [True, False]
    assert "another plugin has this name" in (scheduler.registry.plugins["twin (geckosched-test-twin-b)"].error or "")


def test_an_entry_point_may_name_a_class_called_with_its_settings(
    install: Install, new_scheduler: NewScheduler
) -> None:
    """A class is called once per scheduler with its `[plugins.NAME]` settings; hooks are its methods."""
    source = """
from geckosched import collector, hookimpl
class Plugin:
    def __init__(self, settings):
        self.cities = settings["cities"]
    @hookimpl
    def register_collectors(self, register):
        for city in self.cities:
            @collector(f"weather-{city}")
            def weather(run): ...
            register(weather)
"""
    install("weather", source, target=":Plugin")
    scheduler = new_scheduler()
    scheduler.load_plugins(only=["weather"], settings={"weather": {"cities": ["oslo", "rome"]}})
    assert scheduler.registry.plugins["weather"].collectors == ("weather-oslo", "weather-rome")
    broken = new_scheduler()
    broken.load_plugins(only=["weather"])
    assert "KeyError: 'cities'" in (broken.registry.plugins["weather"].error or "")


@dataclass
class Options:
    cities: list[str]
    unit: str = "C"


@collector("forecast", every="10m", options=Options)
def forecast(run: RunContext) -> Any:
    """Rows for the cities in the options."""
    for city in run.options.cities:
        with run.target(city):
            yield Batch("forecast", [{"city": city, "unit": run.options.unit}], pk="city")


class Plugin:
    """A plugin object with some collectors."""

    def __init__(self, *collectors: Any) -> None:
        self.collectors = collectors

    @hookimpl
    def register_collectors(self, register: Callable[[Any], None]) -> None:
        for made in self.collectors:
            register(made)


def test_what_needs_options_is_listed_as_not_scheduled(new_scheduler: NewScheduler) -> None:
    """A collector that lacks options is not scheduled, and it is said what it needs."""
    scheduler = new_scheduler()
    assert scheduler.add_plugin(Plugin(forecast), "forecast") == "forecast"
    assert scheduler.registry.not_scheduled == {"forecast": "needs `cities`"}
    job_id = scheduler.register_collector("forecast", options={"cities": ["Oslo"]})
    run = scheduler.execute_collector_now(job_id)
    assert run is not None
    assert run.rows == 1


def test_tables_of_the_configuration_make_jobs(new_scheduler: NewScheduler) -> None:
    """`[collectors.X]`: the key is the job id, `use` names the collector, ours apart from the options."""
    scheduler = new_scheduler()
    scheduler.registry.add(Plugin(forecast), "forecast", {})
    scheduler.load_plugins(
        only=[],
        collectors={
            "north": {"use": "forecast", "every": "5m", "cities": ["Oslo"], "unit": "F"},
            "south": {"use": "forecast", "enabled": False, "cities": ["Rome"]},
        },
    )
    jobs = {job.job_id: job for job in scheduler.get_status().jobs}
    assert {name: (job.collector, job.every, job.enabled) for name, job in jobs.items()} == {
        "north": ("forecast", "5m", True),
        "south": ("forecast", "10m", False),
    }


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"citis": ["Oslo"]}, 'did you mean "cities"'),
        ({}, "needs `cities`"),
        ({"cities": [], "unit": "C", "x": 1}, "unknown option"),
    ],
)
def test_options_are_checked_at_registration(new_scheduler: NewScheduler, options: dict[str, Any], text: str) -> None:
    """Unknown key with the nearest known one, missing key."""
    with pytest.raises(ConfigError, match=text):
        new_scheduler().register_collector(forecast, options=options)


def test_post_init_errors_name_the_job(new_scheduler: NewScheduler) -> None:
    """What `__post_init__` raises is a ConfigError that says which job."""

    @dataclass
    class Strict:
        n: int = 0

        def __post_init__(self) -> None:
            if self.n < 1:
                raise ValueError("n must be at least 1")

    @collector("strict", options=Strict)
    def strict(run: RunContext) -> None: ...

    with pytest.raises(ConfigError, match=r"job strict: ValueError: n must be at least 1"):
        new_scheduler().register_collector(strict)


def test_add_plugin_raises_what_is_wrong(new_scheduler: NewScheduler) -> None:
    """An embedder's broken plugin object is an error at once."""

    with pytest.raises(PluginError, match=r"plugin mine: .*found 3, allowed are Collector classes"):
        new_scheduler().add_plugin(Plugin(3), "mine")


def test_a_single_file_is_a_plugin_too(new_scheduler: NewScheduler, tmp_path: Path) -> None:
    """`[plugins] load`: one Python file, named by its file name; a broken or missing one is kept with the reason."""
    (tmp_path / "weather.py").write_text(GOOD.format(name="weather"))
    scheduler = new_scheduler()
    scheduler.load_plugins(only=[], load=[tmp_path / "weather.py", tmp_path / "gone.py"])
    assert scheduler.registry.plugins["weather"].ok
    error = scheduler.registry.plugins["gone"].error
    assert error == f"PluginError: {tmp_path / 'gone.py'}: no such file, named in [plugins] load"


def test_jobs_of_a_broken_plugin_are_kept_and_unhealthy(
    install: Install, new_scheduler: NewScheduler, tmp_path: Path
) -> None:
    """A broken plugin retires nothing: its jobs stay, unhealthy, until it is mended."""
    install("good", GOOD.format(name="good"))
    for source in (None, "raise RuntimeError('broken release')"):
        scheduler = new_scheduler()
        if source is not None:
            (tmp_path / "site" / "geckosched_test_good.py").write_text(source)
            sys.modules.pop("geckosched_test_good", None)
        scheduler.load_plugins(disable=["geckoterminal"])
        with scheduler:
            job = scheduler.get_collector_status("good")
        assert (job.health == "unhealthy") is (source is not None)
