"""How long a command takes to start: beside importing the libraries it can't do without.

Processor seconds of fresh processes, in turn, the least of each: what else the machine does is then
in none of them. The databases have one job.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks import trackers
from benchmarks.result import Row
from reelwatch.storage import migrating

GOAL = "start of a command"
AT_MOST = 2.0  # times importing SQLAlchemy and psycopg
JOB = "sora-2:1"
IMPORTS = (sys.executable, "-c", "import sqlalchemy, sqlalchemy.orm, psycopg")
REELWATCH = (sys.executable, "-m", "reelwatch.cli.main")
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "track": (*REELWATCH, "track", JOB),
    "show": (*REELWATCH, "show", JOB),
    "list": (*REELWATCH, "list"),
    "deliveries": (*REELWATCH, "deliveries"),
    "cancel": (*REELWATCH, "cancel", JOB),
}


def rows(quick: bool) -> list[Row]:
    """A row for each command on each kind of database."""
    with tempfile.TemporaryDirectory() as folder:
        databases = {
            "SQLite": f"sqlite:///{Path(folder) / 'start.db'}",
            "PostgreSQL": trackers.postgres().create_database(),
        }
        for url in databases.values():
            migrating.migrate(url)
        least = _least(1 if quick else 10, databases)
    base = least.pop("imports")
    note = f"{base * 1000:.0f} ms for `import sqlalchemy, sqlalchemy.orm, psycopg`"
    return [
        Row(GOAL, f"{name}, of importing SQLAlchemy and psycopg", seconds / base, "", AT_MOST,
            "lower", note)
        for name, seconds in least.items()
    ]  # fmt: skip


def _least(rounds: int, databases: Mapping[str, str]) -> dict[str, float]:
    """Processor seconds of each, the least of so many rounds."""
    least: dict[str, float] = {}
    for _ in range(rounds):
        taken = {"imports": _seconds(IMPORTS, "")}
        for kind, url in databases.items():
            for name, command in COMMANDS.items():
                taken[f"`{name}` on {kind}"] = _seconds(command, url)
        least = {name: min(least.get(name, taken[name]), taken[name]) for name in taken}
    return least


def _seconds(command: tuple[str, ...], url: str) -> float:
    """Of the command and whatever it started; the database's are not counted."""
    before = os.times()
    subprocess.run(
        command, env={**os.environ, "DATABASE_URL": url}, check=True, capture_output=True
    )
    after = os.times()
    return (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )
