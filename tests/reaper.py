"""Ends the processes and removes the folders that a test run left behind, however that run ended.

It runs as a process of its own (`python tests/reaper.py`) and is told through a pipe what it is in
charge of. The pipe closes when the test run is gone: also after kill -9, when no teardown can run.
Each line is JSON: ["process", pid, signal], ["ended", pid], ["folder", path] or ["removed", path].
It needs the standard library only, so that it starts in a few milliseconds.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

PATIENCE_SECONDS = 5.0


def read_charges(lines: Iterable[str]) -> tuple[dict[int, int], set[str]]:
    """What is left when the lines end: the last signal of each process, and the folders."""
    processes: dict[int, int] = {}
    folders: set[str] = set()
    for line in lines:
        match json.loads(line):
            case ["process", int(pid), int(last_signal)]:
                processes[pid] = last_signal
            case ["ended", int(pid)]:
                processes.pop(pid, None)
            case ["folder", str(path)]:
                folders.add(path)
            case ["removed", str(path)]:
                folders.discard(path)
    return processes, folders


def end(processes: dict[int, int]) -> None:
    """Each gets the signal it ends cleanly by; after a while its whole process group is killed."""
    for pid, last_signal in processes.items():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, last_signal)
    asked = [pid for pid, last_signal in processes.items() if last_signal != signal.SIGKILL]
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while any(map(is_running, asked)) and time.monotonic() < give_up_at:
        time.sleep(0.02)
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Whether there is such a process; one that has ended and is only not waited for is not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):  # no /proc: not Linux
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return True


def main() -> None:
    processes, folders = read_charges(sys.stdin)
    end(processes)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
