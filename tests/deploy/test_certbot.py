"""deploy/certbot: the hook as certbot runs it, with certificates of a test's authority, beside a server with TLS."""

from __future__ import annotations

import grp
import os
import shlex
import shutil
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from unit_files import DEPLOY

from launch import launched, wait_for
from tls_under_test import Authority

HOOK = DEPLOY / "certbot" / "pronghorn"
NAME = "gate.example.org"
GROUP = next((each.gr_name for each in grp.getgrall() if each.gr_gid), "")  # any but root's
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the hook changes owners, as root")


class Certbot:
    """A folder like that of certbot, and the hook with the paths of the test."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.live = folder / "live" / NAME
        self.archive = folder / "archive" / NAME
        self.installed = folder / "tls" / f"{NAME}.pem"
        for each in (self.live, self.archive, self.installed.parent):
            each.mkdir(parents=True)
        (folder / "pronghorn").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pronghorn "$@"\n')
        (folder / "pronghorn").chmod(0o755)
        text, self.hook = HOOK.read_text(), folder / "hook"
        for there, here in {
            "=/opt/pronghorn/bin/pronghorn": f"={folder}/pronghorn",
            "folder=/etc/pronghorn/tls": f"folder={self.installed.parent}",
            "root:pronghorn": f"root:{GROUP}",
        }.items():
            assert there in text
            text = text.replace(there, here)
        self.hook.write_text(text)
        self.hook.chmod(0o755)
        self._count = 0

    def renews(self, *, key_of_another: bool = False) -> None:
        """Puts another certificate into archive/, and turns the links in live/ to it, as certbot does."""
        self._count += 1
        certificate, key = self.authority.sign(f"number{self._count}", NAME)
        if key_of_another:
            key = self.authority.sign(f"other{self._count}", NAME)[1]
        for source, name in ((certificate, "fullchain"), (key, "privkey")):
            kept, link = self.archive / f"{name}{self._count}.pem", self.live / f"{name}.pem"
            shutil.copy(source, kept)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(kept, link.parent))

    def runs_hook(self, lineage: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "RENEWED_LINEAGE": str(lineage or self.live), "RENEWED_DOMAINS": NAME}
        return subprocess.run([self.hook], env=environment, capture_output=True, text=True, timeout=30)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_no_fault_in_the_hook() -> None:
    ran = subprocess.run(["shellcheck", HOOK], capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stdout


@needs_root
@pytest.mark.slow
def test_a_renewed_certificate_is_taken_and_a_broken_one_is_not(tmp_path: Path) -> None:
    certbot = Certbot(tmp_path)
    certbot.renews()
    assert certbot.runs_hook().returncode == 0
    assert not certbot.installed.exists(), "a certificate that no server uses"
    certbot.installed.touch()
    ran = certbot.runs_hook()
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    found = certbot.installed.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, certbot.installed.group()) == (0o640, 0, GROUP)

    context = ssl.create_default_context(cafile=certbot.authority.path)

    def connected() -> ssl.SSLSocket:
        plain = socket.create_connection(server.address, 15)
        return context.wrap_socket(plain, server_hostname=NAME)

    def serial() -> str:
        with connected() as fresh:
            return str((fresh.getpeercert() or {})["serialNumber"])

    with launched(tmp_path, "upper", tls_cert=str(certbot.installed), tls_watch=True, workers=2) as server:
        with connected() as old:
            before = serial()
            certbot.renews()
            assert certbot.runs_hook().returncode == 0
            wait_for(lambda: serial() != before, "the new certificate")
            old.sendall(b"still here\n")
            assert old.recv(100) == b"STILL HERE\n", "a connection that was open goes on"

            taken = certbot.installed.read_bytes()
            certbot.renews(key_of_another=True)
            ran = certbot.runs_hook()
            assert ran.returncode != 0
            assert "The key is not the one of this certificate" in ran.stderr
            assert certbot.installed.read_bytes() == taken
        assert [each.name for each in certbot.installed.parent.iterdir()] == [certbot.installed.name]
        assert "is not taken" not in server.log, "no half of a pair was ever seen"
        assert server.stop() == 0


@needs_root
def test_without_a_lineage_the_hook_says_so() -> None:
    ran = subprocess.run([HOOK], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=30)
    assert ran.returncode != 0
    assert "RENEWED_LINEAGE" in ran.stderr
