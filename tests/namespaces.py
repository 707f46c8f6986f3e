"""Hosts of a test: network namespaces with addresses of their own on one switch, which is a namespace too.

Law: nothing of the machine's own network is touched, and all is removed at the end, whatever happened: the names begin
with `pronghorn-` and the process id. A process is in a host when it is started with `host.inside` before its command;
sockets that this process makes `with host.here():` belong to the host for as long as they live. Unix sockets and files
are those of the machine. It takes root, ip(8), nsenter(1) and nft(8).
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from launch import ends_with_the_tests

PREFIX = "10.77.0."
SITES = itertools.count(1)
CLONE_NEWNET = 0x40000000
CUT = """
table inet cut {{
    chain arriving {{
        type filter hook input priority 0
        {arriving}
    }}
    chain leaving {{
        type filter hook output priority 0
        {leaving}
    }}
}}
"""


def why_not() -> str:
    """Why no hosts can be made here; empty if they can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "only root can make network namespaces"
    for tool in ("ip", "nsenter", "nft"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    rules = CUT.format(arriving="counter", leaving="counter")
    done = subprocess.run(["unshare", "-n", "nft", "-f", "-"], input=rules, capture_output=True, text=True)
    return f"no network namespace or no rule of nftables here: {done.stderr.strip()[:200]}" if done.returncode else ""


class Host:
    """One host; `address` is what others reach it by."""

    def __init__(self, name: str, number: int, site: int) -> None:
        self.name, self.address = name, f"{PREFIX}{number}"
        self.namespace = f"pronghorn-{os.getpid()}-{site}-{name}"
        self.inside: Sequence[str] = ("nsenter", f"--net=/run/netns/{self.namespace}")

    @contextmanager
    def here(self) -> Iterator[None]:
        """Sockets that this thread makes in the block are of this host."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(f"/run/netns/{self.namespace}")
            yield
        finally:
            _set(before)
            os.close(before)

    @contextmanager
    def running(self, *command: str, **options: object) -> Iterator[subprocess.Popen[bytes]]:
        """A process of this host, in a session of its own, which is killed with all its group at the end."""
        process = subprocess.Popen(  # type: ignore[call-overload]
            [*self.inside, *command], start_new_session=True, preexec_fn=ends_with_the_tests(), **options
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()

    def cut(self, *others: Host) -> None:
        """From now on no packet passes between this host and the others; with none given, between it and anybody."""
        self.mend()
        if others:
            places = ", ".join(each.address for each in others)
            arriving, leaving = (f"ip {way} {{ {places} }} drop" for way in ("saddr", "daddr"))
        else:
            arriving, leaving = 'iifname != "lo" drop', 'oifname != "lo" drop'
        self._nft(CUT.format(arriving=arriving, leaving=leaving))

    def mend(self) -> None:
        """Packets pass again."""
        self._nft("table inet cut\ndelete table inet cut\n")

    def _nft(self, rules: str) -> None:
        subprocess.run([*self.inside, "nft", "-f", "-"], input=rules, text=True, check=True)


@contextmanager
def hosts(*names: str) -> Iterator[dict[str, Host]]:
    """Hosts of these names, all of which reach each other."""
    site = next(SITES)
    switch = Host("switch", 254, site)
    made = {name: Host(name, number, site) for number, name in enumerate(names, 1)}
    _sweep()
    with ExitStack() as stack:
        for each in (switch, *made.values()):
            subprocess.run(["ip", "netns", "add", each.namespace], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "delete", each.namespace], check=False)
        _batch(switch, "link add bridge type bridge", "link set bridge up")
        for number, each in enumerate(made.values(), 1):
            _batch(
                switch,
                f"link add port{number} type veth peer name eth0 netns {each.namespace}",
                f"link set port{number} master bridge up",
            )
            _batch(each, "link set lo up", f"address add {each.address}/24 dev eth0", "link set eth0 up")
        yield made


def _sweep() -> None:
    """Remove what a test has left that was killed."""
    for path in glob.glob("/run/netns/pronghorn-*-*"):
        name = os.path.basename(path)
        if not os.path.exists(f"/proc/{name.split('-')[1]}"):
            subprocess.run(["ip", "netns", "delete", name], check=False)


def _batch(host: Host, *commands: str) -> None:
    lines = "".join(f"{each}\n" for each in commands)
    subprocess.run(["ip", "-netns", host.namespace, "-batch", "-"], input=lines, text=True, check=True)


def _enter(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _set(descriptor)
    finally:
        os.close(descriptor)


def _set(descriptor: int) -> None:
    """setns(2), which Python has since 3.12."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
