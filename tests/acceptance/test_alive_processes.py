"""`reelwatch alive` beside real workers and beats."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reelwatch.cli import pulse
from reelwatch.rules.pulse import WELL
from tests.fleet import BEAT, WORKER
from tests.servers import Process, RedisServer, eventually, process

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone can tell")


@contextmanager
def running(command: tuple[str, ...], url: str, broker: str, tmp_path: Path) -> Iterator[Process]:
    environment = {
        "DATABASE_URL": url, "BROKER_URL": broker, "QUICKROUTER_API_KEY": "sk-test",
        "QUICKROUTER_BASE_URL": "http://127.0.0.1:9", "LOG_FORMAT": "json",
    }  # fmt: skip
    with process(list(command), environment, tmp_path) as started:
        yield started


def answers(found: Process) -> Callable[[], bool]:
    """Is this very process, and not another that runs here, among those that are well?"""

    def well() -> bool:
        names = sockets_of(found.pid)
        return bool(names) and all(pulse.ask(name, 1.0) == WELL for name in names)

    return well


def sockets_of(pid: int) -> list[str]:
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return [row[-1][1:] for row in lines if row[-2] in inodes and "reelwatch-alive" in row[-1]]


@pytest.mark.parametrize("command", [WORKER, BEAT], ids=["worker", "beat"])
def test_a_process_that_is_stopped_is_not_alive(
    command: tuple[str, ...], sqlite_url: str, redis_url: str, tmp_path: Path
) -> None:
    with running(command, sqlite_url, redis_url, tmp_path) as started:
        eventually(answers(started), 60, lambda: started.output[-2000:])
        os.kill(started.pid, signal.SIGSTOP)
        try:
            eventually(lambda: not answers(started)(), 10)
        finally:
            os.kill(started.pid, signal.SIGCONT)
        eventually(answers(started), 30)


def test_a_worker_whose_broker_is_away_is_alive(
    redis_server: RedisServer, sqlite_url: str, redis_url: str, tmp_path: Path
) -> None:
    """It works on without ticks: to start it anew would help nobody."""
    with running(WORKER, sqlite_url, redis_url, tmp_path) as started:
        started.wait_for("ready", 60)
        redis_server.kill()
        eventually(lambda: "lost" in started.output.lower() or "refused" in started.output, 30)
        assert answers(started)()
