"""P1 with plugins as strangers ship them: wheels, installed by pip into a folder of their own, run by the command line.

Eight broken plugins and one whose hook hangs stand beside a good one. The good one runs; `geckosched plugins` names the
others with the reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.test_scheduler import until

HEAD = "from geckosched import Batch, collector, hookimpl\n"

GOOD = HEAD + '''
@collector("good", every="1s")
def good(run):
    run.state["n"] = run.state.get("n", 0) + 1
    yield Batch("good_rows", [{"n": run.state["n"]}], pk="n")

@hookimpl
def register_collectors(register):
    register(good)
'''

PLUGINS = {
    "good": GOOD,
    "b-import": "import a_module_that_is_not_there\n",
    "b-syntax": "def broken(:\n",
    "b-exits": "import sys\nprint('this goes to whoever asked for JSON')\nsys.exit(3)\n",
    "b-misspelt": HEAD + "@hookimpl\ndef run_finnished(run): ...\n",
    "b-argument": HEAD + "@hookimpl\ndef run_finished(run, colour): ...\n",
    "b-raises": HEAD + "@hookimpl\ndef register_collectors(register):\n    raise OSError('no space left')\n",
    "z-taken": GOOD,
    "x-exits-later": HEAD + "@hookimpl\ndef run_finished(run):\n    raise SystemExit(7)\n",
    "x-hangs": HEAD + "import threading\n@hookimpl\ndef run_started(run):\n    threading.Event().wait()\n",
}

REASONS = {
    "b-import": "ModuleNotFoundError: No module named 'a_module_that_is_not_there' (geckosched_p_b_import.py:1)",
    "b-syntax": "SyntaxError: ",
    "b-exits": "SystemExit: 3 (geckosched_p_b_exits.py:3)",
    "b-misspelt": "unknown hook 'run_finnished'",
    "b-argument": "'colour'",
    "b-raises": "register_collectors: OSError: no space left",
    "z-taken": 'collector name "good" is taken by plugin good',
}


def module_of(name: str) -> str:
    return f"geckosched_p_{name.replace('-', '_')}"


def wheel(folder: Path, name: str, source: str) -> Path:
    """Write a wheel of one module with an entry point, as a build backend would."""
    module = module_of(name)
    info = f"{module}-1.2.dist-info"
    files = {
        f"{module}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.2\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[geckosched]\n{name} = {module}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{module}-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in files.items():
            archive.writestr(each, text)
    return path


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with all ten plugins installed by pip."""
    (tmp_path / "wheels").mkdir()
    wheels = [str(wheel(tmp_path / "wheels", name, source)) for name, source in PLUGINS.items()]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--target", str(tmp_path / "site"), *wheels], check=True, timeout=120)
    paths = [str(Path(__file__).parents[1]), str(tmp_path / "site")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.delenv("GECKOSCHED_CONFIG", raising=False)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "geckosched.toml").write_text('[plugins]\ndisable = ["geckoterminal"]\n')
    return tmp_path / "here"


def geckosched(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "geckosched", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def test_nine_bad_plugins_beside_a_good_one(installed: Path) -> None:
    """The good plugin's job runs; `plugins` says of each other one what is wrong, from loading and from the leader."""
    ran = geckosched(installed, "run", "--for", "4s")
    assert ran.returncode == 0, ran.stderr
    runs = json.loads(geckosched(installed, "runs", "--json").stdout)
    assert {run["outcome"] for run in runs} == {"succeeded"}
    assert {run["job_id"] for run in runs} == {"good"}
    assert len(runs) >= 3

    answer = geckosched(installed, "plugins", "--json")
    assert answer.returncode == 0, answer.stderr
    plugins = {plugin["name"]: plugin for plugin in json.loads(answer.stdout)}
    assert plugins.keys() >= PLUGINS.keys()
    assert {name for name in PLUGINS if not plugins[name]["ok"]} == set(REASONS)
    for name, reason in REASONS.items():
        assert reason in plugins[name]["error"], plugins[name]
    assert plugins["good"]["error"] is None
    assert plugins["good"]["collectors"] == ["good"]
    assert plugins["x-exits-later"]["error"].startswith("run_finished: SystemExit: 7 (geckosched_p_x_exits_later.py:4)")
    assert f"{len(runs)} errors so far" in plugins["x-exits-later"]["error"]


def test_a_hanging_hook_is_named_and_delays_no_run(installed: Path) -> None:
    """A hook that doesn't return is said after 10 s, by the process that leads; runs go on, and SIGTERM ends it."""

    def trouble() -> str:
        plugins = json.loads(geckosched(installed, "plugins", "--json").stdout)
        return next((plugin["error"] or "" for plugin in plugins if plugin["name"] == "x-hangs"), "")

    process = subprocess.Popen([sys.executable, "-m", "geckosched", "run"], cwd=installed, stderr=subprocess.DEVNULL)
    try:
        until(lambda: trouble().startswith("run_started has not returned since 20"), "the hook's trouble")
        runs = json.loads(geckosched(installed, "runs", "--json").stdout)
        assert len(runs) > 5
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
