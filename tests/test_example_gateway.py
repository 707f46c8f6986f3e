"""The tests of examples/gateway/, as its user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GATEWAY = Path(__file__).parent.parent / "examples" / "gateway"


@pytest.mark.slow
def test_the_gateways_own_tests_pass(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'own'}"]
    told = subprocess.run([*command, str(GATEWAY)], cwd=GATEWAY, capture_output=True, text=True, timeout=140)
    assert told.returncode == 0, told.stdout + told.stderr
