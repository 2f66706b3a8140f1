"""How much processor time whole families of processes have used, as Linux counts it in /proc."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")


class Used(NamedTuple):
    """One process: its own time and that of its children that have ended, in seconds."""

    pid: int
    parent: int
    name: str
    seconds: float


def used(*roots: int) -> list[Used]:
    """These processes and all that descend from them."""
    everyone = list(_everyone())
    family, found = set(roots), 0
    while len(family) > found:
        found = len(family)
        family |= {each.pid for each in everyone if each.parent in family}
    return [each for each in everyone if each.pid in family]


def seconds(*roots: int) -> float:
    """What these processes and all that descend from them have used so far."""
    return sum(each.seconds for each in used(*roots))


def machine() -> float:
    """What all processes of this machine, the system itself included, have used since it began."""
    user, nice, system, _idle, _waiting, *rest = Path("/proc/stat").read_text().split()[1:9]
    return sum(map(int, (user, nice, system, *rest))) / TICKS


def _everyone() -> Iterable[Used]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield from _read(int(entry.name))


def _read(pid: int) -> Iterator[Used]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:  # it has ended meanwhile
        return
    head, _, rest = text.rpartition(")")  # a name may hold anything
    fields = rest.split()
    yield Used(pid, int(fields[1]), head.partition("(")[2], sum(map(int, fields[11:15])) / TICKS)
