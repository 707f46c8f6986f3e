"""The trials of the line: certificates that are replaced under load, and packets that are lost.

Law: as in ledger_trials.py. Packets are lost in a network namespace of its own, into which this file starts itself
(`unshare -n python tests/line_trials.py FOLDER OPTIONS`, OPTIONS is JSON); nothing outside notices.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from guard_trials import Watched, in_time, undisturbed
from launch import PATIENCE, Launched
from ledger import Book, ledger_server, load, settled
from ledger_client import Attempt
from ledger_reloads import RELOADED
from ledger_trials import Result, until
from pronghorn.errors import PronghornError
from pronghorn.testing.tls import over_tls
from tls_under_test import Authority

THREADS = 4
HANDSHAKES = 5  # that have to begin between two rotations
OLD, NEW = ("TLSv1", "TLSv1_1"), ("TLSv1_2", "TLSv1_3")


def fingerprint(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()[:16]


def shown_by(path: str) -> str:
    """The fingerprint of the first certificate in a file."""
    text = Path(path).read_text()
    end = "-----END CERTIFICATE-----"
    return fingerprint(ssl.PEM_cert_to_DER_cert(text[: text.index(end) + len(end)]))


# R11: certificates.


class TlsClients:
    """Clients on a few threads, one after the other; `handshakes` are when each began, and whose certificate it saw."""

    def __init__(self, server: Launched, ca: str) -> None:
        self.address, self._ca = server.address, ca
        self.attempts: list[Attempt] = []
        self.handshakes: list[tuple[float, str]] = []
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(each,), daemon=True) for each in range(THREADS)]

    def __enter__(self) -> TlsClients:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self._threads:
            each.join(2 * PATIENCE)

    def _run(self, seed: int) -> None:
        dice = random.Random(seed)
        while not self._stop.is_set():
            attempt = Attempt(f"t{seed}.{next(self._numbers)}", "whole", dice.randint(1, 4), dice, 0)
            attempt.sock.close()
            attempt.began = time.monotonic()
            try:
                attempt.outcome = self._talk(attempt)
            except (OSError, PronghornError) as error:
                attempt.outcome = "reset-mid" if attempt.got else "reset-before-byte"
                attempt.note = repr(error).replace("\t", " ").replace("\n", " ")
            attempt.ended = time.monotonic()
            self.attempts.append(attempt)

    def _talk(self, attempt: Attempt) -> str:
        sock = socket.create_connection(self.address, timeout=PATIENCE)
        attempt.local = "{}:{}".format(*sock.getsockname()[:2])
        with over_tls(sock, self._ca) as connection:
            self.handshakes.append((attempt.began, fingerprint(connection.getpeercert(binary_form=True) or b"")))
            (question,) = attempt.steps
            assert isinstance(question, bytes)
            attempt.asked = question.count(b"\n")
            connection.sendall(question)
            while attempt.replies < len(attempt.expected):
                data = connection.recv(65536)
                if outcome := attempt.read(data) if data else attempt.at_end():
                    return outcome
            connection.shutdown(socket.SHUT_WR)
            return attempt.read(rest) or "corrupt" if (rest := connection.recv(1)) else attempt.at_end()


def rotations(folder: Path, times: int, model: str = "epoll", **settings: Any) -> Result:
    """New certificates by reload, under load: no handshake fails, and none after the report sees an old one."""
    authority = Authority(folder)
    certificate, key = authority.sign("server")
    with ledger_server(folder, model=model, workers=2, tls_cert=certificate, tls_key=key, **settings) as server:
        server.ready(2)
        return rotations_of(Result(f"R11 rotations, {model}"), server, folder, authority, times)


def rotations_of(result: Result, server: Launched, folder: Path, authority: Authority, times: int) -> Result:
    """The same for a server that runs, and reloads by HUP."""
    order, reports = [shown_by(f"{folder}/server.pem")], [0.0]
    with TlsClients(server, authority.path) as clients:
        for number in range(1, times + 1):
            log = len(server.log)
            order.append(shown_by(authority.sign("server")[0]))
            server.send(signal.SIGHUP)
            over = until(lambda log=log: RELOADED in server.log[log:], 10)  # type: ignore[misc]
            result.expect(over, f"rotation {number} was not reported within 10 s: {server.log[-300:]}")
            reports.append(time.monotonic())
            until(lambda: sum(began > reports[-1] for began, _ in clients.handshakes[-50:]) >= HANDSHAKES, 5)
    good_until = dict(zip(order, [*reports[1:], float("inf")], strict=True))
    old = [(began, seen) for began, seen in clients.handshakes if began > good_until.get(seen, 0.0)]
    result.figures |= {"rotations": str(times), "handshakes": f"{len(clients.handshakes):,}"}
    result.figures["certificates seen"] = str(len({seen for _, seen in clients.handshakes}))
    result.expect_none(old, "handshakes saw an old certificate after the report")
    undisturbed(result, settled(lambda: Book.of(clients.attempts, folder)))
    return result


def mute(folder: Path, count: int, model: str = "epoll", deadline: float = 2.0, **settings: Any) -> Result:
    """R6: clients who do not begin their handshake: each is cut at its deadline, and good ones do not notice."""
    result, authority, mute = Result(f"R6 mute TLS clients, {model}"), Authority(folder), Watched()
    certificate, key = authority.sign("server")
    settings = {"handshake_timeout": deadline, "tls_cert": certificate, "tls_key": key, **settings}
    with ledger_server(folder, model=model, workers=1, **settings) as server, ExitStack() as stack:
        server.ready(1)
        with TlsClients(server, authority.path) as clients:
            for _ in range(count):
                mute.add(stack.enter_context(server.connect()))
            left = mute.wait(deadline * 1.1 + 2)
        book = settled(lambda: Book.of(clients.attempts, folder))
    in_time(result, "mute peers", mute, left, deadline, 0.1)
    undisturbed(result, book)
    return result


def versions(folder: Path, model: str = "epoll", *, quick: bool = False, **settings: Any) -> Result:
    """No TLS before 1.2, no renegotiation, no compression, and nothing that scanners know to be vulnerable; `quick`
    leaves out the one that takes half a minute."""
    certificate, key = Authority(folder).sign("server")
    with ledger_server(folder, model=model, workers=1, tls_cert=certificate, tls_key=key, **settings) as server:
        result = versions_of(Result(f"R11 versions, {model}"), server)
        if not quick:
            testssl(result, server, folder / "testssl.json")
        return result


def versions_of(result: Result, server: Launched) -> Result:
    """The same for a server that runs."""
    sslscan(result, server)
    for name in (*OLD, *NEW):
        spoken = _speaks(server, name)
        result.figures[name.replace("_", ".")] = "spoken" if spoken else "refused"
        result.expect(spoken is (name in NEW), f"{name} is {'spoken' if spoken else 'refused'}")
    openssl = shutil.which("openssl")
    if openssl is None:
        result.figures["renegotiation"] = "not tried: openssl is not installed"
        return result
    host, port = server.address
    command = [openssl, "s_client", "-connect", f"{host}:{port}", "-tls1_2"]
    done = subprocess.run(command, input=b"R\n", capture_output=True, timeout=PATIENCE)
    refused = b"no renegotiation" in done.stderr or done.returncode != 0
    result.expect(b"RENEGOTIATING" in done.stdout + done.stderr, f"openssl did not try: {done.stderr[-300:]!r}")
    result.expect(refused, "renegotiation was let through")
    result.figures["renegotiation"] = "refused" if refused else "let through"
    return result


def sslscan(result: Result, server: Launched) -> None:
    """What sslscan finds."""
    scanner = shutil.which("sslscan")
    if scanner is None:
        result.figures["sslscan"] = "not tried: it is not installed"
        return
    host, port = server.address
    command = [scanner, "--timeout=20", "--no-colour", "--xml=-", f"{host}:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = ElementTree.fromstring(done.stdout).find("ssltest")
    result.expect(found is not None and found.find("protocol") is not None, f"sslscan found nothing: {done.stderr}")
    wrong = []
    for each in found if found is not None else ():
        kind, told = each.tag, each.attrib
        name = " ".join(filter(None, [kind, told.get("type"), told.get("version") or told.get("sslversion")]))
        if kind == "protocol" and (told["enabled"] == "1") is not (told["version"] in ("1.2", "1.3")):
            wrong.append(name)
        if kind in ("renegotiation", "compression") and told["supported"] == "1":
            wrong.append(name)
        if kind == "heartbleed" and told["vulnerable"] == "1":
            wrong.append(name)
        if kind == "cipher" and told["strength"] not in ("strong", "acceptable"):
            wrong.append(f"{name} {told['cipher']} ({told['strength']})")
    result.expect(not wrong, f"sslscan: {', '.join(wrong)}")
    result.figures["sslscan"] = f"{len(wrong)} faults"


def testssl(result: Result, server: Launched, file: Path) -> None:
    """What testssl.sh finds; it takes half a minute, most of which it waits."""
    scanner = shutil.which("testssl") or shutil.which("testssl.sh")
    if scanner is None:
        result.figures["testssl.sh"] = "not tried: it is not installed"
        return
    host, port = server.address
    command = [scanner, "--quiet", "--color", "0", "--warnings", "off", "--jsonfile", str(file), "-p", "-U"]
    done = subprocess.run([*command, f"{host}:{port}"], capture_output=True, text=True, timeout=300)
    if not file.exists():
        result.expect(False, f"testssl.sh found nothing: {done.stdout[-500:]}{done.stderr[-500:]}")
        return
    of_testssl(result, json.loads(file.read_text()))


def of_testssl(result: Result, findings: list[dict[str, str]]) -> None:
    """Judge what it found. It counts every CBC cipher of TLS 1.2 as LUCKY13, which OpenSSL has mended."""
    names = {each["id"] for each in findings}
    missing = {"TLS1", "TLS1_1", "TLS1_2", "TLS1_3", "secure_client_renego", "CRIME_TLS", "heartbleed"} - names
    result.expect(not missing, f"testssl.sh did not look for {', '.join(sorted(missing))}")
    harmless = ("OK", "INFO", "DEBUG")
    judged = [each for each in findings if each["id"] != "LUCKY13"]
    wrong = [f"{each['id']} {each['finding']}" for each in judged if each["severity"] not in harmless]
    result.expect(not wrong, f"testssl.sh: {', '.join(wrong)}")
    result.figures["testssl.sh"] = f"{len(wrong)} faults in {len(findings)} findings"


def _speaks(server: Launched, name: str) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        version = ssl.TLSVersion[name]
        context.minimum_version = version
        context.maximum_version = version
    try:
        with server.connect() as sock, context.wrap_socket(sock) as wrapped:
            return bool(wrapped.version())
    except OSError:
        return False


# R12: loss.

SENT_AGAIN = 26.0  # seconds: an end that is lost again and again is sent after 0.2, 0.6, 1.4, 3, 6.2, 12.6 and 25.4
CUT = ("eof-early", "timeout", "reset-before-byte", "reset-mid")
DROPS = """
table inet loss {{
    counter dropped {{ }}
    chain arriving {{
        type filter hook input priority 0
        numgen random mod 1000 < {permille} counter name dropped drop
    }}
}}
"""


def why_no_loss() -> str:
    """Why packets cannot be lost here; empty if they can."""
    for tool in ("unshare", "nft", "ip"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    rules = DROPS.format(permille=1)
    done = subprocess.run(["unshare", "-n", "nft", "-f", "-"], input=rules, capture_output=True, text=True)
    return f"no packets can be dropped here: {done.stderr.strip()[:200]}" if done.returncode else ""


def loss(
    folder: Path, seconds: float, permille: int, model: str = "epoll", deadline: float = 4.0, **settings: Any
) -> Result:
    """Packets are lost, so many of a thousand: nothing that arrives is wrong, and deadlines hold all the same."""
    result = Result(f"R12 loss of {permille / 10:g} %, {model}", why_no_loss())
    if not result.skipped:
        options: dict[str, Any] = {"seconds": seconds, "permille": permille, "deadline": deadline}
        options["settings"] = {"model": model, **settings}
        command = ["unshare", "-n", sys.executable, __file__, str(folder), json.dumps(options)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
        result.expect(done.returncode == 0, done.stderr[-1000:])
        if done.returncode == 0:
            told = json.loads(done.stdout)
            result.figures, result.faults = told["figures"], told["faults"]
    return result


def _loss_here(folder: Path, seconds: float, permille: int, deadline: float, settings: dict[str, Any]) -> Result:
    result = Result("R12")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if permille:
        subprocess.run(["nft", "-f", "-"], input=DROPS.format(permille=permille), check=True, text=True)
    own = {"workers": 1, "idle_timeout": deadline, "message_timeout": deadline, "write_timeout": deadline}
    with ledger_server(folder, **{**own, **settings}) as server:
        server.ready(1)
        with load(server, 100, processes=1) as clients, ExitStack() as stack:
            mute = Watched()
            for _ in range(20):
                mute.add(stack.enter_context(server.connect()))
            began = time.monotonic()
            left = mute.wait(deadline + (SENT_AGAIN if permille else 0.0) + 2)
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            mute.close()
            book = clients.stop()
    listed = subprocess.run(["nft", "list", "counters"], capture_output=True, text=True).stdout
    dropped = int(found[1]) if (found := re.search(r"packets (\d+)", listed)) else 0
    result.figures["packets lost"] = f"{dropped:,}"
    result.expect(dropped, "no packet was lost")
    in_time(result, "mute peers", mute, left, deadline, 0.1, SENT_AGAIN)
    unreached = [each for each in book.rows if each.outcome == "timeout-connect"]
    result.figures["not connected in time"] = str(len(unreached))  # their packets were lost, twice
    ended = [each for each in book.rows if each.outcome in CUT and each.ended - each.began >= deadline]
    unheard = ended if permille else []  # a packet of theirs, or of the server's, was lost some times in a row
    result.figures["not heard before the deadline"] = str(len(unheard))
    result.expect(len(unheard) <= 3 + len(book.rows) // 50, "more clients were cut than loss explains")
    book.rows = [each for each in book.rows if each not in unreached and each not in unheard]
    undisturbed(result, book)
    return result


def main() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    result = _loss_here(Path(sys.argv[1]), **json.loads(sys.argv[2]))
    print(json.dumps({"figures": result.figures, "faults": result.faults}))


if __name__ == "__main__":
    main()
