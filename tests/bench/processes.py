"""What a server and its children take: memory and CPU time (Linux)."""

import os
import re
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and everything that descends from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    found = [pid]
    for parent in found:
        found += [child for child, other in parents.items() if other == parent]
    return found


def pss_mib(pid: int) -> float:
    """Memory of the family; a page that several processes share counts for each of them in part."""
    total = 0
    for each in family(pid):
        rollup = _read(f"/proc/{each}/smaps_rollup")
        total += sum(map(int, re.findall(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)))
    return total / 1024


def cpu_seconds(pid: int) -> float:
    """User and system time of the family."""
    return sum(sum(map(int, _stat(each)[11:13])) for each in family(pid)) / _TICKS


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none of a process that has ended."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
