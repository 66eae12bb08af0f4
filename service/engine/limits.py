"""What this process may use: cores and memory, of the machine and of the container (cgroups v2 and v1) around it."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS, MEMBERSHIP, MEMINFO = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/meminfo")


def cores(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Cores that this process may keep busy; a part of one counts as one."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([there, *(max(1, math.ceil(quota)) for group in _groups(root, membership) for quota in _quota(group))])


def usual_lanes(cores: int) -> int:
    """Threads that keep so many cores busy: each waits for the interpreter now and then (docs/adr/0012-lanes.md)."""
    return cores + 1 if cores > 1 else 1


def free_memory(root: Path = CGROUPS, membership: Path = MEMBERSHIP, meminfo: Path = MEMINFO) -> int | None:
    """Bytes that can be taken before the machine or the container has none left; None where nothing says so."""
    found = [left for group in _groups(root, membership) for left in _left(group)]
    with contextlib.suppress(OSError, ValueError):
        found.append(_table(meminfo, "MemAvailable:") * 1024)  # in kB
    return max(0, min(found)) if found else None


def _groups(root: Path, membership: Path) -> Iterator[Path]:
    """Folders of the groups that this process is in and of those around them: each bounds what is within."""
    yield root  # where a container sees its own group as the root
    yield from (root / "cpu", root / "memory")
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        parts = Path(path).parts[1:]
        if ".." in parts:  # a group outside of what is seen here
            continue
        for controller in controllers.split(","):
            yield from (root.joinpath(controller, *parts[:count]) for count in range(1, len(parts) + 1))


def _quota(group: Path) -> Iterator[float]:
    """Cores; nothing where there is no bound."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)  # "max" is no number
    with contextlib.suppress(OSError, ValueError):
        quota = (group / "cpu.cfs_quota_us").read_text()
        if int(quota) > 0:
            yield int(quota) / int((group / "cpu.cfs_period_us").read_text())


def _left(group: Path) -> Iterator[int]:
    """Bytes; files that were read and not used since make room when it is needed."""
    for limit, used, idle in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):
            most, now = int((group / limit).read_text()), int((group / used).read_text())
            yield most - now + _table(group / "memory.stat", idle)


def _table(file: Path, name: str) -> int:
    """A number of a file with a name and a number on each line; raises OSError or ValueError."""
    for line in file.read_text().splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    raise ValueError(name)
