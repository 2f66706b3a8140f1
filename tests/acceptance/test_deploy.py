"""Started and ended by those who start and end programs: honcho, Heroku, systemd."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reelwatch.sandbox.scripts import scripted_id
from tests.fleet import START_SECONDS, Fleet, fleet
from tests.processes import ROOT, Process, eventually
from tests.servers import PostgresServer

JOBS = 40
BIN = Path(sys.executable).parent
UNIT = re.compile(r"`/etc/systemd/system/([^`]+\.service)`(?:(?!```).)*```ini\n(.*?)```", re.DOTALL)


@contextlib.contextmanager
def honcho(deployed: Fleet, folder: Path) -> Iterator[Process]:
    """`honcho start` in a folder that has the Procfile; nothing of it is left behind."""
    shutil.copy(ROOT / "Procfile", folder)
    environment = {
        **os.environ, **deployed.environment, "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    started = Process([BIN / "honcho", "start"], environment, folder, last_signal=signal.SIGTERM)
    try:
        yield started
    finally:
        groups = re.findall(r"started \(pid=(\d+)\)", started.output)
        started.close()
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(group), signal.SIGKILL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_honcho_runs_the_procfile_until_it_is_told_to_end(
    postgres_server: PostgresServer,
    redis_url: str,
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    """From an empty database; `release` keeps nobody from going on, and nothing is lost."""
    url = postgres_server.create_database()
    with (
        fleet(url, redis_url, 20.0, REELWATCH_POLL_MAX="1s") as deployed,
        honcho(deployed, tmp_path) as started,
    ):
        started.wait_for(" ready", START_SECONDS)
        short = [scripted_id("grok", "ok", 1.0, f"s{i}") for i in range(3)]
        long = [scripted_id("grok", "ok", 600.0, f"l{i}") for i in range(JOBS)]
        deployed.send("reelwatch.track", *short, webhook_url=f"{deployed.listener.url}/hook")
        deployed.send("reelwatch.track", *long)
        eventually(lambda: len(deployed.listener.seen) == 3, 120, lambda: started.output)
        assert "stopped (rc=" not in started.output, "one has ended, and honcho ends all then"
        started.stop_signal(number)
        assert started.wait(60) == code
        output = started.output
        (written,) = deployed.rows("SELECT sum(polls), count(lease_token) FROM jobs")
        assert tuple(written) == (deployed.sandbox.stats()["requests"], 0)
    assert re.search(r"worker\.1 stopped \(rc=0\)", output), output
    assert re.search(r"beat\.1 stopped \(rc=0\)", output), output
    assert "Traceback" not in output
    assert "WorkerLostError" not in output


def test_the_release_phase_of_heroku_ends(sqlite_url: str, tmp_path: Path) -> None:
    (line,) = re.findall(r"^release: (.*)", (ROOT / "Procfile").read_text(), re.MULTILINE)
    environment = {
        **os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "DATABASE_URL": sqlite_url,
        "DYNO": "release.1234",
    }  # fmt: skip
    command = ["bash", "-c", line]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, timeout=60)
    environment["DATABASE_URL"] = "sqlite:////nowhere/at/all.db"
    failed = subprocess.run(command, env=environment, cwd=tmp_path, check=False, timeout=60)
    assert failed.returncode == 1, "a release whose tables can't be made is none"


def units() -> dict[str, str]:
    """The unit files of docs/deploy.md by their names."""
    return dict(UNIT.findall((ROOT / "docs/deploy.md").read_text()))


def test_the_units_say_what_the_procfile_says() -> None:
    procfile = (ROOT / "Procfile").read_text()
    assert set(units()) == {
        "reelwatch-migrate.service", "reelwatch-worker@.service", "reelwatch-beat.service",
    }  # fmt: skip
    for unit in units().values():
        (command,) = re.findall(r"^ExecStart=/opt/reelwatch/bin/(.*)$", unit, re.MULTILINE)
        assert command in procfile


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for name, text in units().items():
        (tmp_path / name).write_text(text.replace("/opt/reelwatch/bin", str(BIN)))
    for name in units():
        instance = name.replace("@.", "@1.")
        said = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", tmp_path / instance],
            capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
        assert str(tmp_path) not in said.stderr, said.stderr
