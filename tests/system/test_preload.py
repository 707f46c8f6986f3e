"""`--preload`: imported once and shared by all workers, through a reload too; what cannot be shared is refused."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from launch import launched, wait_for
from pronghorn.errors import BadSetting

HANDLER = """
import os, pronghorn
import heavy
@pronghorn.message(pronghorn.lines)
def handler(line):
    return b"%d %d" % (heavy.PROCESS, os.getpid())
"""
MODULES = {
    "heavy": "import os, signal\nPROCESS = os.getpid()\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n",
    "threaded": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n",
    "broken": "raise ValueError('no licence')\n",
    "around": "import shop\n",
    "shop": "def handler(conn): ...\n",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to serve in, beside one of modules that are installed."""
    library, folder = tmp_path / "library", tmp_path / "folder"
    library.mkdir()
    folder.mkdir()
    for name, text in MODULES.items():
        (library / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(library))
    return folder


@pytest.mark.slow
def test_workers_share_what_the_supervisor_has_imported_through_a_reload(installed: Path) -> None:
    (installed / "mine.py").write_text(HANDLER)
    with launched(installed, "mine:handler", preload="heavy", workers=1) as server:
        first = server.ask(b"?\n").split()
        assert int(first[0]) == server.pid != int(first[1])
        server.send(signal.SIGHUP)  # whose handler the module has replaced
        wait_for(lambda: "Reloaded" in server.log, "the reload")
        second = server.ask(b"?\n").split()
        assert int(second[0]) == server.pid and second[1] != first[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("threaded", "'threaded' starts a thread"),
        ("broken", "ValueError: no licence"),
        ("no.such.module", "'no.such.module' cannot be imported"),
        ("around", "imports the handler, shop"),
    ],
)
def test_what_cannot_be_shared_is_refused(installed: Path, module: str, told: str) -> None:
    with launched(installed, "shop:handler", preload=module) as server:
        assert server.exit() == BadSetting.exit_code
        error = server.report["error"]
        assert told in f"{error['what']} {error['why']}"
