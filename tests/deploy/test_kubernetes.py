"""The manifests of deploy/kubernetes: rendered, checked, and the container's command run as a pod would run it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from behind import DEPLOY, Clients, changed

import brokers
from launch import PATIENCE, wait_for
from pronghorn.settings import Settings, settle

pytest.importorskip("h11")
yaml = pytest.importorskip("yaml")
kubernetes_validate = pytest.importorskip("kubernetes_validate")
if shutil.which("kubectl") is None:
    pytest.skip("kubectl is not installed", allow_module_level=True)
pytestmark = pytest.mark.slow

OVERLAYS = DEPLOY / "kubernetes" / "overlays"
VERSION = "1.35"
GRACE = 10.0  # seconds that a pod has beside its own times


@cache
def rendered(overlay: str) -> Manifests:
    return Manifests(overlay)


class Manifests:
    """What an overlay renders to."""

    def __init__(self, name: str) -> None:
        command = ["kubectl", "kustomize", str(OVERLAYS / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if "unknown field" in done.stderr:
            pytest.skip(f"this kubectl is too old for the overlays: {done.stderr.strip()}")
        assert done.returncode == 0 and not done.stderr, done.stderr
        self.all: list[dict[str, Any]] = list(yaml.safe_load_all(done.stdout))
        self.deployment = self.named("Deployment", "gateway")
        self.pod = self.deployment["spec"]["template"]["spec"]
        (self.container,) = self.pod["containers"]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self.all if each["kind"] == kind]

    def named(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = (each for each in self.of(kind) if each["metadata"]["name"] == name)
        return found

    def files(self, mount: dict[str, Any]) -> dict[str, str]:
        """The files of a mounted ConfigMap or Secret; none of another volume."""
        (volume,) = (each for each in self.pod["volumes"] if each["name"] == mount["name"])
        if "configMap" in volume:
            return dict(self.named("ConfigMap", volume["configMap"]["name"])["data"])
        if "secret" not in volume:
            return {}
        data = self.named("Secret", volume["secret"]["secretName"])["data"]
        return {each["path"]: base64.b64decode(data[each["key"]]).decode() for each in volume["secret"]["items"]}

    def variable(self, given: dict[str, Any]) -> str:
        """The value of a variable of the container."""
        if "value" in given:
            return str(given["value"])
        source = given["valueFrom"]["configMapKeyRef"]
        return str(self.named("ConfigMap", source["name"])["data"][source["key"]])

    def settings(self) -> Settings:
        files = {name: text for mount in self.container["volumeMounts"] for name, text in self.files(mount).items()}
        text = files["pronghorn.toml"]
        given = {name.replace("-", "_"): value for name, value in tomllib.loads(text).items() if name != "handler"}
        return settle(given)


@pytest.fixture(scope="module", params=["single", "redis", "production"])
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return rendered(request.param)


def test_kubernetes_takes_the_manifests(manifests: Manifests) -> None:
    for each in manifests.all:
        kubernetes_validate.validate(each, VERSION, strict=True)


def references(tree: Any) -> Iterator[tuple[str, str]]:
    """Kind and name of what a manifest refers to by name."""
    if isinstance(tree, list):
        for each in tree:
            yield from references(each)
    elif isinstance(tree, dict):
        for key, value in tree.items():
            match key, value:
                case "configMap" | "configMapKeyRef" | "configMapRef", {"name": name}:
                    yield "ConfigMap", name
                case "secretKeyRef" | "secretRef", {"name": name}:
                    yield "Secret", name
                case "secretName", name:
                    yield "Secret", name
                case "serviceAccountName", name:
                    yield "ServiceAccount", name
            yield from references(value)


def test_what_is_referred_to_is_there(manifests: Manifests) -> None:
    for kind, name in references(manifests.all):
        manifests.named(kind, name)
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in manifests.of("Deployment")]
    selectors = [each["spec"]["selector"] for each in manifests.of("Service")]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in manifests.of("PodDisruptionBudget")]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in manifests.of("NetworkPolicy")]
    for selector in selectors:
        assert sum(selector.items() <= each.items() for each in labels) == 1


def port_of(addresses: Any) -> int:
    (address,) = addresses
    return int(str(address).rpartition(":")[2])


def test_ports_are_those_of_the_settings(manifests: Manifests) -> None:
    settings, container = manifests.settings(), manifests.container
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"devices": port_of(settings.bind), "admin": port_of(settings.admin)}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "admin"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    notes = manifests.deployment["spec"]["template"]["metadata"]["annotations"]
    assert int(notes["prometheus.io/port"]) == ports["admin"]
    for service in manifests.of("Service"):
        if service["metadata"]["name"] == "gateway":
            assert {each["targetPort"] for each in service["spec"]["ports"]} == {"devices"}


def test_times_fit_each_other(manifests: Manifests) -> None:
    settings, ready = manifests.settings(), manifests.container["readinessProbe"]
    sleep = manifests.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    least = sleep + settings.drain_delay + settings.drain_timeout + GRACE
    assert manifests.pod["terminationGracePeriodSeconds"] >= least
    assert ready["periodSeconds"] * ready["failureThreshold"] + ready["timeoutSeconds"] < settings.drain_delay
    assert settings.drain_spread < settings.drain_timeout
    start = manifests.container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= settings.start_timeout
    assert manifests.deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_pods_may_do_no_more_than_they_have_to(manifests: Manifests) -> None:
    """As the profile "restricted" of Kubernetes has it, and nothing is written outside of volumes."""
    for deployment in manifests.of("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]
            assert re.fullmatch(r".+:(?!latest$)[\w.-]+", container["image"])
            assert {each["name"] for each in pod["volumes"]} == {each["name"] for each in container["volumeMounts"]}


HERE = {"PRONGHORN_BIND": "127.0.0.1:0", "PRONGHORN_ADMIN": "127.0.0.1:0", "PRONGHORN_DRAIN_DELAY": "60s"}


class Pod:
    """The container of an overlay: its command, arguments, environment and volumes, as its user, with a root that is
    read only and processes of its own, by bubblewrap. Ports are free ones, and a second signal ends the delay."""

    def __init__(self, folder: Path, manifests: Manifests, **changed: str) -> None:
        self.folder, self.container = folder, manifests.container
        places = ["/usr", "/bin", "/sbin", "/lib", "/lib64"]
        places += [f"/etc/{name}" for name in ("ld.so.cache", "passwd", "hosts", "nsswitch.conf", "localtime", "ssl")]
        user = manifests.pod["securityContext"]
        self.cage = ["bwrap", "--unshare-user", "--uid", str(user["runAsUser"]), "--gid", str(user["runAsGroup"])]
        self.cage += ["--unshare-pid", "--die-with-parent", "--cap-drop", "ALL", "--proc", "/proc", "--dev", "/dev"]
        self.cage += [word for place in places for word in ("--ro-bind-try", place, place)]
        for mount in self.container["volumeMounts"]:
            volume = folder / mount["name"]
            volume.mkdir()
            for name, text in manifests.files(mount).items():
                (volume / name).write_text(text)
            self.cage += ["--ro-bind" if mount.get("readOnly") else "--bind", str(volume), mount["mountPath"]]
        # after the volumes, one of which is /tmp: this tree may stand there
        for place in (sys.base_prefix, sys.prefix, str(DEPLOY.parent / "src")):
            self.cage += ["--ro-bind-try", place, place]
        environment = {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", **HERE}
        environment |= {each["name"]: manifests.variable(each) for each in self.container["env"]}
        self.cage += ["--remount-ro", "/", "--clearenv"]
        self.cage += [word for name, value in {**environment, **changed}.items() for word in ("--setenv", name, value)]

    def exec(self, command: list[str]) -> subprocess.Popen[str]:
        """A command beside the container's own, with the same view of files and as the same user."""
        return subprocess.Popen(
            [*self.cage, "--", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        reader, writer = os.pipe()
        words = [*self.cage, "--as-pid-1", "--info-fd", str(writer), "--"]
        words += [*self.container["command"], *self.container["args"]]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=log, pass_fds=[writer], start_new_session=True, cwd="/"
            )
        os.close(writer)
        try:
            with open(reader) as told:
                self.pid = json.loads(told.read() or '{"child-pid": 0}')["child-pid"]
            wait_for(lambda: "Serving " in self.log or self.process.poll() is not None, "the start")
            assert "Serving " in self.log, self.log
            yield
        finally:
            self.process.kill()  # with the first process of its processes, all of them end
            self.process.wait()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def port(self, before: str) -> int:
        return int(re.findall(rf"{before}.*?127\.0\.0\.1:(\d+)", self.log)[0])

    def ready(self, path: str = "readyz") -> bool:
        with socket.create_connection(("127.0.0.1", self.port("admin port")), timeout=PATIENCE) as sock:
            sock.sendall(f"GET /{path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n".encode())
            return b" 200 " in sock.recv(1024)


def upper(port: int) -> str:
    """The answer to one line of a new client."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        sock.sendall(b"hello\n")
        if not (answer := sock.recv(100)):
            raise ConnectionError("the client got no answer")
        return answer.decode().strip()


@pytest.fixture(scope="module")
def cages() -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    done = subprocess.run(["bwrap", "--unshare-user", "--ro-bind", "/", "/", "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine gives no user namespaces: {done.stderr.strip()}")


def test_the_server_takes_the_settings(tmp_path: Path, cages: None) -> None:
    """Of the overlay whose pods no other test runs."""
    checked = Pod(tmp_path, rendered("production")).exec(["pronghorn", "check"])
    told, _ = checked.communicate(timeout=60)
    assert checked.returncode == 0 and "/etc/gateway/handler.py:Device" in told, told


def test_a_pod_that_is_deleted_refuses_nobody_before_it_is_unready(tmp_path: Path, cages: None) -> None:
    pod = Pod(tmp_path, rendered("single"))
    with pod.running():
        wait_for(lambda: pod.ready() and pod.ready("livez"), "the probes")
        with Clients(pod.port("Listening at"), upper) as clients:
            os.kill(pod.pid, signal.SIGTERM)
            wait_for(lambda: not pod.ready(), "readiness to be off")
            assert set(clients.more(20)) == {"HELLO"}
            wait_for(lambda: pod.ready("livez"), "a sign of life")
        assert not clients.failures
        os.kill(pod.pid, signal.SIGTERM)  # ends the delay
        assert pod.process.wait(PATIENCE) == 0, pod.log
        with pytest.raises(ConnectionRefusedError):  # at once: a client that comes too late finds another pod
            upper(pod.port("Listening at"))


def test_any_pod_reaches_the_devices_of_all(tmp_path: Path, cages: None) -> None:
    """By the Redis of the overlay, as its own command starts it, and with the password of its Secret."""
    redis = pytest.importorskip("redis")
    manifests = rendered("redis")
    (keeper,) = manifests.named("Deployment", "redis")["spec"]["template"]["spec"]["containers"]
    brokers.program("redis-server")
    port = brokers.free_port()
    here = {"/etc/redis/password": f"{tmp_path}/one/bus/password", "redis-server -": f"redis-server - --port {port}"}
    broker = brokers.Broker([*keeper["command"], changed(*keeper["args"], here)], port)
    (url,) = (manifests.variable(each) for each in manifests.container["env"] if each["name"] == "PRONGHORN_BUS")
    url = changed(url, {"redis:6379": f"127.0.0.1:{port}"})
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (Pod(tmp_path / name, manifests, PRONGHORN_BUS=url) for name in ("one", "two"))
    with brokers.running(broker), one.running(), two.running():
        with pytest.raises(redis.AuthenticationError):
            brokers.asked(broker, "PING")
        with socket.create_connection(("127.0.0.1", one.port("Listening at")), timeout=PATIENCE) as device:
            device.sendall(b"iam 4711\n")
            assert device.recv(100) == b"welcome\n"
            command = ["pronghorn", "ctl", "publish", "device:4711", "reboot"]
            told = wait_for(lambda: "Reached 1 " in (told := two.exec(command).communicate()[0]) and told, "the reach")
            assert told == "Reached 1 connection.\n"
            assert device.recv(100) == b"reboot\n"
