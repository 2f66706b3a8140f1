"""A producer at work: `tests/producer` as a project of its own, beside Reelwatch in one database
and one Redis.

It is copied into a folder of its own and run from there, as its owners would: its commands find its
modules and know nothing of this checkout.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from celery import Celery
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.processes import ROOT, UNCOUNTED, Folder, Process, eventually, process

PROJECT = ROOT / "tests" / "producer"
COMMAND_SECONDS = 90.0
# Its tables as PostgreSQL describes them, and the revision that they are at.
ITS_TABLES = (
    "SELECT table_name, column_name, data_type, is_nullable, column_default "
    "FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
)
ITS_REVISION = "SELECT version_num FROM public.alembic_version"


class Shop:
    """The producer's project, its database and its workers."""

    def __init__(
        self, folder: Path, database_url: str, broker_url: str, reelwatch: Mapping[str, str]
    ) -> None:
        """`reelwatch` is what the producer's environment has because of Reelwatch."""
        self.folder = folder
        self.workers: list[Process] = []
        self._broker_url = broker_url
        self._environment = {
            **UNCOUNTED,
            "SHOP_DATABASE_URL": database_url,
            "SHOP_BROKER_URL": broker_url,
            "SHOP_UNFILTERED": "1",  # nothing of it changes
            **reelwatch,
        }
        self._engine = create_engine(database_url, poolclass=NullPool)
        self.run("alembic", "upgrade", "head")
        self.schema_before = self.schema()

    def run(self, *command: str, codes: Sequence[int] = (0,)) -> str:
        """One of its commands, which ends with one of the `codes`; returns what it wrote."""
        with process(command, self._environment, self.folder) as running:
            code = running.wait(COMMAND_SECONDS)
            assert code in codes, f"{' '.join(command)} ended with {code}: {running.output}"
            return running.output

    def start_worker(self, concurrency: int = 6) -> Process:
        """One more worker, with Celery's defaults."""
        name = f"shop{len(self.workers)}@%h"
        command = ("celery", "-A", "worker", "worker", "--hostname", name, "-l", "info")
        started = process([*command, f"-c{concurrency}"], self._environment, self.folder)
        self.workers.append(started)
        return started

    def start_anew(self) -> None:
        """Replace its workers: what has befallen their broker may have left them half dead."""
        for each in self.workers:
            each.kill()
        self.keep_working()

    def keep_working(self) -> None:
        """Start a worker if none runs, as a supervisor does."""
        if not any(each.running for each in self.workers):
            self.start_worker().wait_for("ready.", COMMAND_SECONDS)

    def send(self, task: str, *args: object, countdown: float | None = None) -> None:
        """Have one of its tasks run."""
        with Celery("shop", broker=self._broker_url) as app:
            app.send_task(f"shop.{task}", args=args, countdown=countdown)

    def rows(self, query: str, **values: Any) -> list[Any]:
        """The rows of a query of its database."""
        with self._engine.connect() as connection:
            return list(connection.execute(text(query), values).all())

    def schema(self) -> tuple[list[Any], list[Any]]:
        """Its tables and its revision: what nobody but itself may change."""
        return self.rows(ITS_TABLES), self.rows(ITS_REVISION)

    def runs(self, task: str) -> dict[int, int]:
        """How often the task has run for each number."""
        query = "SELECT number, count(*) FROM public.runs WHERE task = :task GROUP BY number"
        return dict(map(tuple, self.rows(query, task=task)))

    def has_done(self, task: str, number: int, seconds: float) -> None:
        """Wait until the task has run for this number."""
        eventually(lambda: self.runs(task).get(number), seconds, f"{task} {number} of the shop's")

    def ordered(self) -> set[str]:
        """The videos of the orders that it has committed."""
        return {row[0] for row in self.rows("SELECT video_id FROM public.jobs")}

    def told(self) -> set[str]:
        """The ids of the events that have reached its callback."""
        return {row[0] for row in self.rows("SELECT event_id FROM public.told")}

    def pinged(self) -> list[str]:
        """The nodes that answer its `inspect ping`."""
        lines = self.run("celery", "-A", "worker", "inspect", "ping").splitlines()
        return sorted(line.split()[1].rstrip(":") for line in lines if line.startswith("->"))

    def nodes(self) -> list[str]:
        """The nodes of its workers that run, as far as it can know: without the host."""
        return sorted(f"shop{n}" for n, each in enumerate(self.workers) if each.running)

    def shut_down(self) -> None:
        """`control shutdown`, which ends every worker that hears it."""
        nobody_answers = os.EX_UNAVAILABLE  # they end instead
        self.run("celery", "-A", "worker", "control", "shutdown", codes=[nobody_answers])
        for each in self.workers:
            each.wait(COMMAND_SECONDS)

    def log(self) -> str:
        """All that its workers have written."""
        return "\n".join(each.output for each in self.workers)

    def close(self) -> None:
        for each in self.workers:
            each.close()


@contextlib.contextmanager
def shop(database_url: str, broker_url: str, reelwatch: Mapping[str, str]) -> Iterator[Shop]:
    """The project in a folder of its own, its tables made by its own migrations."""
    folder = Folder("shop")
    shutil.copytree(PROJECT, folder.path / "shop", ignore=shutil.ignore_patterns("__pycache__"))
    opened = Shop(folder.path / "shop", database_url, broker_url, reelwatch)
    try:
        yield opened
    finally:
        opened.close()
        folder.remove()
