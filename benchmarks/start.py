"""How long a command takes to start: beside importing the libraries it can't do without.

Processor seconds of fresh processes, in turn, the least of each: what else the machine does is then
in none of them. The database is an SQLite file with one job.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.result import Row
from reelwatch import migrating

GOAL = "start of a command"
AT_MOST = 2.0  # times importing SQLAlchemy and psycopg
JOB = "sora-2:1"
IMPORTS = (sys.executable, "-c", "import sqlalchemy, sqlalchemy.orm, psycopg")
REELWATCH = (sys.executable, "-m", "reelwatch.cli")
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "track": (*REELWATCH, "track", JOB),
    "show": (*REELWATCH, "show", JOB),
    "list": (*REELWATCH, "list"),
    "deliveries": (*REELWATCH, "deliveries"),
    "cancel": (*REELWATCH, "cancel", JOB),
}


def rows(quick: bool) -> list[Row]:
    """A row for each command."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'start.db'}"
        migrating.migrate(url)
        least = _least(1 if quick else 10, url)
    base = least.pop("imports")
    note = f"{base * 1000:.0f} ms for `import sqlalchemy, sqlalchemy.orm, psycopg`"
    return [
        Row(GOAL, f"`{name}`, of importing SQLAlchemy and psycopg", seconds / base, "", AT_MOST,
            "lower", note)
        for name, seconds in least.items()
    ]  # fmt: skip


def _least(rounds: int, url: str) -> dict[str, float]:
    """Processor seconds of each, the least of so many rounds."""
    least: dict[str, float] = {}
    for _ in range(rounds):
        for name, command in {"imports": IMPORTS, **COMMANDS}.items():
            taken = _seconds(command, url)
            least[name] = min(taken, least.get(name, taken))
    return least


def _seconds(command: tuple[str, ...], url: str) -> float:
    before = os.times()
    subprocess.run(
        command, env={**os.environ, "DATABASE_URL": url}, check=True, capture_output=True
    )
    after = os.times()
    return (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )
