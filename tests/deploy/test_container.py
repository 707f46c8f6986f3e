"""deploy/docker: the files are linted; what the Dockerfile does is done without docker, as process 1 of a namespace."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from unit_files import DEPLOY

from launch import wait_for
from pronghorn.settings.layers import Layers

ROOT, DOCKER = DEPLOY.parent, DEPLOY / "docker"
BIN = Path(sys.executable).parent
USER = "990"

HANDLER = """import os, time
import pronghorn
@pronghorn.message(pronghorn.lines)
def reply(line):
    if line == b"orphan" and not os.fork():
        if not os.fork():
            while not os.path.exists("seen"):  # its parent has gone by then, and process 1 has it
                time.sleep(0.01)
        os._exit(0)
    return b"%d as %d" % (os.getppid(), os.getuid())
"""


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile and what stands behind each, on one line."""
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in joined.splitlines() if line]


LINES = instructions((DOCKER / "Dockerfile").read_text())


def last(instruction: str) -> str:
    return [what for name, what in LINES if name == instruction][-1]


def composed() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text()))


@pytest.mark.skipif(not (BIN / "hadolint").exists(), reason="hadolint is not installed")
def test_hadolint_finds_no_fault_in_the_dockerfile() -> None:
    ran = subprocess.run([BIN / "hadolint", DOCKER / "Dockerfile"], capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stdout


def test_the_last_stage_has_no_tools_and_no_root() -> None:
    stages = [place for place, (name, _) in enumerate(LINES) if name == "FROM"]
    final = LINES[stages[-1] :]
    assert len(stages) == 2
    assert not [what for name, what in final if name == "RUN" and re.search(r"\b(pip|apt|gcc|wheel)\b", what)]
    assert [what for name, what in final if name == "COPY"] == ["--from=build /opt/pronghorn /opt/pronghorn"]
    assert last("USER") == f"{USER}:{USER}"
    assert f"--uid {USER} " in " ".join(what for name, what in final if name == "RUN")
    assert last("STOPSIGNAL") == "SIGTERM"
    for name in ("ENTRYPOINT", "CMD"):
        assert json.loads(last(name)), "a list: a shell in between would get the signals"


def test_the_compose_file_is_one() -> None:
    spec = pytest.importorskip("compose_spec")
    file = spec.PyCompose.from_yaml((DOCKER / "compose.yaml").read_text())
    for check in (file.validate, file.validate_networks, file.validate_volumes):
        check()
    assert file.service_names() == ["one", "two", "haproxy", "redis"]


def test_the_services_of_the_compose_file_fit_each_other() -> None:
    file, settings = composed(), Layers(file=str(DOCKER / "pronghorn.toml")).settle().settings
    for name in ("one", "two"):
        server = file["services"][name]
        assert int(server["stop_grace_period"].rstrip("s")) >= settings.drain_delay + settings.drain_timeout + 10
        assert f"/run/pronghorn:uid={USER},gid={USER},mode=0700" in server["tmpfs"]
        assert server["command"][1:] == ["--config", server["volumes"][0].split(":")[1]]
        assert (server["build"]["context"], server["build"]["dockerfile"]) == ("../..", "deploy/docker/Dockerfile")
        Layers({"bus": server["environment"]["PRONGHORN_BUS"]}).settle()
    for each in file["services"].values():
        assert each["read_only"]
        assert each["cap_drop"] == ["ALL"]
    assert [str(each) for each in settings.proxy_from] == [file["networks"]["inside"]["ipam"]["config"][0]["subnet"]]
    cfg = (DOCKER / "haproxy.cfg").read_text()
    assert file["services"]["haproxy"]["ulimits"]["nofile"] > 2 * int(re.findall(r"maxconn (\d+)", cfg)[0]) + 100
    seen = 2 * 1.0  # inter 1s fall 2
    assert "inter 1s fall 2" in cfg
    assert settings.drain_delay > seen
    assert int(re.findall(r"hard-stop-after (\d+)s", cfg)[0]) < int(
        file["services"]["haproxy"]["stop_grace_period"].rstrip("s")
    )


@pytest.mark.skipif(not shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin"), reason="no haproxy")
def test_haproxy_takes_its_configuration() -> None:
    haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    ran = subprocess.run([str(haproxy), "-c", "-f", DOCKER / "haproxy.cfg"], capture_output=True, text=True, timeout=30)
    warnings = [line for line in ran.stderr.splitlines() if "WARNING" in line and "could not resolve" not in line]
    assert (ran.returncode, warnings) == (0, []), ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_docker_builds_the_image() -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, timeout=30).returncode:
        pytest.skip("no daemon of docker answers")
    command = ["docker", "build", "-q", "-f", DOCKER / "Dockerfile", ROOT]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=590)
    assert ran.returncode == 0, ran.stderr


# What the Dockerfile does, without docker


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that any user may enter."""
    path = Path(tempfile.mkdtemp(prefix="pronghorn-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def installed(folder: Path) -> Path:
    """The first stage: the wheel is made of nothing but what is copied, and installed in an environment of its own;
    what it depends on is taken from that of the tests. Returns the environment's folder of programs."""
    (folder / "src").mkdir()
    for name, what in LINES:
        if name == "COPY" and not what.startswith("--from"):
            *sources, target = what.split()
            for each in sources:
                there, here = ROOT / each, folder / "src" / target / ("" if target == f"./{each}" else each)
                shutil.copytree(there, here) if there.is_dir() else shutil.copy(there, here)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    (wheel,) = [what for name, what in LINES if name == "RUN" and what.startswith("pip wheel ")]
    words = shlex.split(wheel.replace("/wheels", str(folder / "wheels")).removeprefix("pip "))
    offline = ["--no-index", "--no-build-isolation"]
    subprocess.run([*pip, *words, *offline], cwd=folder / "src", check=True, timeout=60)
    environment = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=60)
    into = [environment / "bin" / "python", Path(str(find_spec("pip").origin)).parent]  # as `pip --python` does
    words = ["--quiet", "--disable-pip-version-check", "install", "--no-deps", "--no-index"]
    subprocess.run([*into, *words, *(folder / "wheels").iterdir()], check=True, timeout=60)
    packages = next((environment / "lib").glob("python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return environment / "bin"


def container(folder: Path, programs: Path, info: int) -> list[str]:
    """The arguments that start the image as docker would with --read-only, --cap-drop=ALL and a network of its own for
    the admin port; the handler is in /srv."""
    above = [*reversed(Path(sys.base_prefix).parents)][1:]  # of a Python in /root, which nobody else may enter
    hidden = above and not os.stat(above[0]).st_mode & 0o005
    python = [word for each in above[1:] for word in ("--perms", "0755", "--dir", str(each))]
    python = ["--perms", "0755", "--tmpfs", str(above[0]), *python, "--ro-bind", *[sys.base_prefix] * 2]
    command = [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD")), "mine.py:reply", "--drain-delay", "200ms"]
    command = [
        "127.0.0.1:0" if each == ":8000" else f"unix:{folder}/run/admin" if each == ":9901" else each
        for each in command
    ]
    return [
        *("bwrap", "--ro-bind", "/", "/", "--tmpfs", "/run", *(python if hidden else [])),
        *("--bind", str(folder / "run"), str(folder / "run"), "--dev", "/dev", "--proc", "/proc"),
        *("--unshare-pid", "--unshare-ipc", "--as-pid-1", "--die-with-parent", "--info-fd", str(info)),
        *("--setenv", "PATH", f"{programs}:/usr/bin:/bin", "--setenv", "XDG_RUNTIME_DIR", str(folder / "run")),
        *("--chdir", str(folder / "srv"), "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
        *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", *command),
    ]


@pytest.mark.slow
def test_what_the_image_runs_is_a_good_first_process(folder: Path) -> None:
    absent = [each for each in ("bwrap", "setpriv", "nsenter") if not shutil.which(each)]
    if os.geteuid() != 0 or absent:
        pytest.skip(f"no root, or not installed: {', '.join(absent)}")
    if subprocess.run(["bwrap", "--ro-bind", "/", "/", "--unshare-pid", "true"], capture_output=True).returncode:
        pytest.skip("bwrap can make no namespaces here")
    pytest.importorskip("hatchling")
    programs = installed(folder)
    (folder / "srv").mkdir()
    (folder / "srv" / "mine.py").write_text(HANDLER)
    (folder / "run").mkdir(mode=0o700)
    os.chown(folder / "run", int(USER), int(USER))
    reader, writer = os.pipe()
    with open(folder / "log", "wb") as log:
        command = container(folder, programs, writer)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, stdout=log, pass_fds=[writer])
    os.close(writer)
    try:
        with open(reader) as told:
            first = json.load(told)["child-pid"]
        used = Used(process, first, folder)
        used.serves()
        used.is_healthy()
        used.reaps_orphans()
        os.kill(first, signal.SIGTERM)
        assert process.wait(30) == 0, used.log
        assert "Draining (SIGTERM)" in used.log
    finally:
        process.kill()
        process.wait()


class Used:
    """The container as its user and docker see it."""

    def __init__(self, process: subprocess.Popen[bytes], first: int, folder: Path) -> None:
        self._process, self._first, self._folder = process, first, folder
        wait_for(lambda: " Serving " in self.log or process.poll() is not None, "the start")
        (self._port,) = re.findall(r"Listening at: tcp://127.0.0.1:(\d+)", self.log) or [self.log]

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def asked(self, line: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", int(self._port)), 15) as client:
            client.sendall(line + b"\n")
            return client.recv(100)

    def serves(self) -> None:
        assert self.asked(b"x") == f"1 as {USER}\n".encode(), "a child of process 1, and not root"

    def is_healthy(self) -> None:
        """By the words of HEALTHCHECK, run as docker does: in the container, as its user."""
        check = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
        environment = {"PATH": f"{self._folder}/venv/bin:/usr/bin:/bin", "XDG_RUNTIME_DIR": f"{self._folder}/run"}
        entered = ["nsenter", "-t", str(self._first), "-m", "-p", f"--setuid={USER}", f"--setgid={USER}", *check]
        ran = subprocess.run(entered, env=environment, capture_output=True, text=True, timeout=30, cwd="/")
        assert (ran.returncode, ran.stdout.startswith("healthy")) == (0, True), (ran.stdout, ran.stderr)

    def reaps_orphans(self) -> None:
        """What a handler left behind ends, and no zombie stays."""
        server = psutil.Process(self._first)
        before = {each.pid for each in server.children(recursive=True)}
        self.asked(b"orphan")
        orphans = wait_for(lambda: {each.pid for each in server.children()} - before, "an orphan of process 1")
        (self._folder / "srv" / "seen").touch()
        wait_for(lambda: not any(psutil.pid_exists(each) for each in orphans), "its end")
