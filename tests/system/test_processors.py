"""The processors that a server may use: its affinity, and the quotas of its cgroups as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launch import launched
from pronghorn.errors import BadSetting
from pronghorn.settings import settle
from pronghorn.system.processors import processors, quotas

THERE = os.cpu_count() or 1


def cgroups(folder: Path, lines: str, files: dict[str, str]) -> tuple[str, str]:
    """A /proc/self/cgroup with these lines, and a tree of cgroups with these files."""
    proc, root = folder / "cgroup", folder / "fs"
    proc.write_text(lines)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(proc), str(root)


def test_a_quota_of_the_cgroup_or_of_one_above_counts_and_the_least_of_them(tmp_path: Path) -> None:
    files = {
        "a/b/c/cpu.max": "150000 100000\n",
        "a/b/cpu.max": "max 100000\n",
        "a/cpu.max": "50000 100000\n",
        "other/cpu.max": "10000 100000\n",
    }
    assert list(quotas(*cgroups(tmp_path, "0::/a/b/c\n", files))) == [1.5, 0.5]


def test_inside_of_a_container_the_root_is_its_own_cgroup(tmp_path: Path) -> None:
    assert list(quotas(*cgroups(tmp_path, "0::/\n", {"cpu.max": "200000 100000\n"}))) == [2.0]


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_the_files_of_the_older_version_count_too(tmp_path: Path, folder: str) -> None:
    files = {f"{folder}/a/cpu.cfs_quota_us": "25000\n", f"{folder}/a/cpu.cfs_period_us": "50000\n"}
    files |= {f"{folder}/cpu.cfs_quota_us": "-1\n", f"{folder}/cpu.cfs_period_us": "100000\n"}
    assert list(quotas(*cgroups(tmp_path, f"4:memory:/x\n2:{folder}:/a\n0::/\n", files))) == [0.5]


@pytest.mark.parametrize("text", ["", "max", "max 100000", "0 0", "x y", "\0", "100000"])
def test_what_is_no_quota_is_none(tmp_path: Path, text: str) -> None:
    assert list(quotas(*cgroups(tmp_path, "0::/\nnonsense\n", {"cpu.max": text}))) == []
    assert list(quotas(str(tmp_path / "nothing"), str(tmp_path))) == []


def test_a_part_of_a_processor_is_rounded_up_and_none_is_one(tmp_path: Path) -> None:
    proc, root = cgroups(tmp_path, "0::/\n", {"cpu.max": "5000 100000\n"})
    found = processors(proc, root)
    assert (found.usable, found.why) == (1, f"its cgroup may use 0.05 of {len(os.sched_getaffinity(0))} processors")
    (tmp_path / "fs" / "cpu.max").write_text(f"{int((THERE - 0.5) * 100000)} 100000\n")
    assert processors(proc, root).usable == min(THERE, len(os.sched_getaffinity(0)))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or THERE < 2, reason="there is nothing to take away")
def test_the_affinity_counts() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        found = processors("", "")
        assert (found.usable, found.why) == (1, f"its affinity is 1 of {THERE} processors")
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("model", "wanted"), [("epoll", 3), ("thread", 3), ("gevent", 3), ("prefork", 8), ("fork", 1), ("iterative", 3)]
)
def test_how_many_workers_use_three_processors(model: str, wanted: int) -> None:
    for given in ("auto", " AUTO "):
        assert settle({"workers": given}).effective_workers(model, 3) == wanted
    assert settle({"workers": "auto"}).effective_workers("prefork", 16) == 33
    assert settle({"workers": "5"}).effective_workers(model, 3) == 5


@pytest.mark.parametrize("given", ["0", 0, "many", "-1", "1.5"])
def test_what_else_it_takes_is_said(given: object) -> None:
    with pytest.raises(BadSetting, match="It takes a whole number, at least 1, or auto"):
        settle({"workers": given})


@pytest.mark.slow
def test_the_server_says_how_many_it_took_and_why(tmp_path: Path) -> None:
    found = processors()
    with launched(tmp_path, workers="auto") as server:
        assert len(server.ready(found.usable)) == found.usable
        assert f"under epoll (--workers auto): {found.why}" in server.log
