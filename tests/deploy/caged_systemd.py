"""A real systemd for a test: process 1 of a PID namespace whose root is read-only, with the units of the test alone.

Law: nothing outside the cage can change. A system manager at its start empties /tmp, sets sysctls and mounts file
systems; so the root is mounted read-only, everything that is written to is a tmpfs of the cage, there are none of the
distribution's units and generators, and the network and the cgroups are its own. `caged` looks whether that holds
before systemd is started there, and the test fails if it does not.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pronghorn
from launch import wait_for

SYSTEMD = "/usr/lib/systemd/systemd"
PROGRAMS = ("bwrap", "nsenter", "unshare", "systemctl", "ip")
TARGETS = ("basic", "default", "multi-user", "network", "shutdown", "sockets", "sysinit")
WRITABLE = ("/tmp", "/run", "/var", "/opt", "/srv", "/etc")
STOCK = ("/usr/lib/systemd/system", "/usr/lib/systemd/system-generators")
FOLDERS = ("/opt/pronghorn", "/opt/pronghorn/bin", "/srv/pronghorn")
OF_ETC = ("ld.so.cache", "nsswitch.conf", "localtime", "ssl")
OUTPUT = "/run/output"
PREFIX = sys.base_prefix if sys.base_prefix == "/usr" else "/opt/python"
PYTHON = f"{PREFIX}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
"""In the cage, where this tree and its virtual environment may not be seen."""
KERNEL_WIDE = ("SYS_TIME", "SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "MKNOD", "SYSLOG", "SYS_PTRACE")
NAMESPACES = ("-m", "-p", "-n", "-i", "-u", "-C")

INNER = """set -e
for path in / /usr /root /proc/sys/kernel/hostname {outside}; do
    if [ -w $path ]; then echo "$path can be written to"; exit 70; fi
done
mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up
mkdir -p /var/log /var/lib /var/tmp
export container=other
exec {systemd} --system --unit=default.target --log-target=null --show-status=no
"""


def missing() -> str:
    """Why there can be no cage here; empty if there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "a systemd in namespaces needs Linux and root"
    if not os.path.exists(SYSTEMD):
        return "systemd is not installed"
    if absent := [each for each in PROGRAMS if not shutil.which(each)]:
        return f"not installed: {', '.join(absent)}"
    if not _cgroups():
        return "no cgroup2 is mounted that can be written to"
    trial = ["unshare", "--mount", "--pid", "--net", "--cgroup", "--fork", "mount", "-t", "cgroup2", "none", "/mnt"]
    return "" if subprocess.run(trial, capture_output=True, timeout=30).returncode == 0 else "no namespaces can be made"


def _cgroups() -> str:
    """The folder of this process's cgroup in a mounted cgroup2."""
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if own and after.startswith("cgroup2 "):
            folder = before.split()[4] + own[0].rstrip("/")
            if os.access(folder, os.W_OK) and os.path.exists(f"{folder}/cgroup.procs"):
                return folder
    return ""


class Caged:
    """A systemd that runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    @property
    def output(self) -> str:
        """What its services have written to standard output and standard error."""
        return self.run("cat", OUTPUT).stdout

    def run(self, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command as root in the cage, with `text` as its standard input."""
        entered = ["nsenter", "-t", str(self._pid), *NAMESPACES, *command]
        return subprocess.run(entered, capture_output=True, text=True, input=text, timeout=45)

    def done(self, *command: str, text: str = "") -> str:
        """The same for a command that has to succeed: its standard output."""
        ran = self.run(*command, text=text)
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr, self.output)
        return ran.stdout.strip()

    def property(self, unit: str, name: str) -> str:
        return self.done("systemctl", "show", "--value", "-p", name, unit)

    def write(self, path: str, text: str) -> None:
        self.done("sh", "-c", 'mkdir -p "$(dirname "$0")" && cat > "$0"', path, text=text)


@contextlib.contextmanager
def caged(folder: Path, units: Path) -> Iterator[Caged]:
    """A systemd whose units are those in the folder `units`; `folder` is for the files that the cage itself needs. The
    command /opt/pronghorn/bin/pronghorn is this Pronghorn; User=pronghorn is there."""
    cgroup = Path(_cgroups(), f"pronghorn-cage-{os.getpid()}")
    for name in TARGETS:
        (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\nDefaultDependencies=no\n")
    for service in units.glob("*.service"):  # there is no journal
        (units / f"{service.name}.d").mkdir()
        (units / f"{service.name}.d" / "output.conf").write_text(
            f"[Service]\nStandardOutput=append:{OUTPUT}\nStandardError=append:{OUTPUT}\n"
        )
    reader, writer = os.pipe()
    cgroup.mkdir()
    try:
        enter = (
            f"echo $$ > {cgroup}/cgroup.procs; exec unshare --cgroup bwrap {' '.join(_walls(folder, units, writer))}"
        )
        with open(folder / "output", "wb") as output:
            process = subprocess.Popen(
                ["sh", "-c", enter], stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[writer]
            )
        os.close(writer)
        try:
            with open(reader) as told:
                first = json.load(told)["child-pid"]
            inside = Caged(first)
            up = ("systemctl", "is-system-running")
            wait_for(lambda: process.poll() is not None or inside.run(*up).returncode == 0, "the start of systemd")
            assert process.poll() is None, (folder / "output").read_text()
            yield inside
        finally:
            with contextlib.suppress(ProcessLookupError, UnboundLocalError):
                os.kill(first, signal.SIGKILL)  # process 1 of its namespace: all of it ends
            process.wait()
    finally:
        wait_for(lambda: _removed(cgroup), "an empty cgroup")


def _removed(cgroup: Path) -> bool:
    try:
        for path, _, _ in os.walk(cgroup, topdown=False):
            os.rmdir(path)
    except OSError:
        return False
    return True


def _walls(folder: Path, units: Path, info: int) -> list[str]:
    """The arguments of bwrap(1)."""
    inner, command, passwd, group = (folder / each for each in ("inner", "pronghorn", "passwd", "group"))
    inner.write_text(INNER.format(outside=folder, systemd=SYSTEMD))
    found = f"LD_LIBRARY_PATH={PREFIX}/lib PYTHONPATH=/opt/src:/opt/site"
    command.write_text(f'#!/bin/sh\nexport {found}\nexec {PYTHON} -P -m pronghorn "$@"\n')
    command.chmod(0o755)
    passwd.write_text("root:x:0:0::/root:/bin/sh\npronghorn:x:990:990::/nonexistent:/usr/sbin/nologin\n")
    group.write_text("root:x:0:\npronghorn:x:990:\n")
    bound = {
        str(Path(pronghorn.__file__).parent.parent): "/opt/src",
        sysconfig.get_paths()["purelib"]: "/opt/site",
        str(command): "/opt/pronghorn/bin/pronghorn",
        str(inner): "/opt/inner",
        str(units): "/etc/systemd/system",
        str(passwd): "/etc/passwd",
        str(group): "/etc/group",
        **({sys.base_prefix: PREFIX} if PREFIX != "/usr" else {}),
        **{f"/etc/{each}": f"/etc/{each}" for each in OF_ETC if os.path.exists(f"/etc/{each}")},
    }
    return [
        *("--ro-bind", "/", "/"),
        *(word for each in (*WRITABLE, *STOCK) for word in ("--tmpfs", each)),
        *(word for each in FOLDERS for word in ("--perms", "0755", "--dir", each)),
        *(word for there, here in bound.items() for word in ("--ro-bind", there, here)),
        *("--dev", "/dev", "--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"),
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--as-pid-1"),
        *("--die-with-parent", "--new-session", "--info-fd", str(info)),
        *(word for each in KERNEL_WIDE for word in ("--cap-drop", f"CAP_{each}")),
        *("sh", "/opt/inner"),
    ]
