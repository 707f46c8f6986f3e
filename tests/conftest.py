"""What all tests may use."""

from __future__ import annotations

import compileall
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "everywhere", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("everywhere")
"""The same examples in each run, however slow the machine: a run tells of a change, and of nothing else. New ones are
tried by `--hypothesis-profile=default`."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background: what is started here had it too
    signal.signal(signal.SIGINT, signal.default_int_handler)


ROOT = Path(__file__).parent.parent

# Of a handler that a test writes anew within a second, and as long as before, Python would take what it had compiled.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    """Compile the server's code once: each server that a test starts would do so for itself, which is half of what a
    start costs."""
    if not hasattr(config, "workerinput"):  # of pytest-xdist: its controller has done so
        for folder, depth in ((ROOT / "src", 9), (ROOT / "tests", 0)):
            compileall.compile_dir(folder, maxlevels=depth, quiet=2)


@pytest.fixture
def many_descriptors() -> Iterator[int]:
    """The soft limit of descriptors, raised to the hard one for this test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def standard_error() -> Iterator[None]:
    """Descriptor 2 is as before afterwards."""
    before = os.dup(2)
    yield
    os.dup2(before, 2)
    os.close(before)


@pytest.fixture(scope="session", autouse=True)
def own_runtime_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the servers of these tests have their control sockets: nobody else's are seen, and none is left behind."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        yield folder
