"""What a container allows, read from the files that the kernel writes."""

import os
from pathlib import Path

import pytest

from service.engine.limits import cores, free_memory, usual_lanes

MIB = 1 << 20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("files", "membership", "expected"),
    [
        ({}, "", 16),
        ({"cpu.max": "max 100000\n"}, "0::/", 16),
        ({"cpu.max": "200000 100000\n"}, "0::/", 2),
        ({"cpu.max": "150000 100000\n"}, "0::/", 2),
        ({"cpu.max": "1000 100000\n"}, "0::/", 1),
        ({"cpu.max": "3200000 100000\n"}, "0::/", 16),
        ({"cpu.max": "nonsense"}, "0::/", 16),
        ({"system.slice/a.service/cpu.max": "300000 100000\n"}, "0::/system.slice/a.service\n", 3),
        (
            {"pod/cpu.max": "200000 100000\n", "pod/box/cpu.max": "max 100000\n"},
            "0::/pod/box\n",
            2,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "1:cpu:/\n", 16),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "1:cpu:/\n", 4),
        (
            {"cpu/box/cpu.cfs_quota_us": "500000\n", "cpu/box/cpu.cfs_period_us": "100000\n"},
            "3:cpu,cpuacct:/box\n2:name=systemd:/box\n",
            5,
        ),
        ({"cpu.max": "max 100000\n"}, "0::/../elsewhere\n", 16),
    ],
    ids=[
        "none", "max", "two", "one-and-a-half", "a-hundredth", "more", "odd", "unit", "around", "v1-max", "v1",
        "v1-box", "outside",
    ],
)  # fmt: skip
def test_cores_are_those_of_the_quota(tmp_path: Path, files: dict[str, str], membership: str, expected: int) -> None:
    write(tmp_path, {**files, "membership": membership})
    assert cores(tmp_path, tmp_path / "membership") == expected


def test_cores_are_those_that_the_process_may_run_on_where_nothing_else_is_said(tmp_path: Path) -> None:
    assert cores(tmp_path, tmp_path / "membership") == 16


def test_free_memory_is_the_least_of_the_machine_and_the_groups(tmp_path: Path) -> None:
    write(tmp_path, {"meminfo": "MemTotal: 16384 kB\nMemAvailable:    8192 kB\n", "membership": "0::/pod/box\n"})
    where = (tmp_path, tmp_path / "membership", tmp_path / "meminfo")
    assert free_memory(*where) == 8 * MIB
    group = {
        "memory.max": f"{9 * MIB}\n",
        "memory.current": f"{7 * MIB}\n",
        "memory.stat": f"file 1\ninactive_file {MIB}\n",
    }
    write(tmp_path / "pod", group)
    assert free_memory(*where) == 3 * MIB, "what is only cached makes room"
    write(tmp_path / "pod/box", {**group, "memory.max": "max\n"})
    assert free_memory(*where) == 3 * MIB
    write(tmp_path, {"membership": "4:memory:/old\n"})
    old = {
        "memory.limit_in_bytes": f"{5 * MIB}",
        "memory.usage_in_bytes": f"{4 * MIB}",
        "memory.stat": "total_inactive_file 0",
    }
    write(tmp_path / "memory/old", old)
    assert free_memory(*where) == MIB


def test_where_nothing_is_said_of_memory_nothing_is_known(tmp_path: Path) -> None:
    assert free_memory(tmp_path, tmp_path / "none", tmp_path / "none") is None


def test_a_lane_more_than_cores_and_one_on_a_single_core() -> None:
    assert [usual_lanes(count) for count in (1, 2, 16)] == [1, 3, 17]
