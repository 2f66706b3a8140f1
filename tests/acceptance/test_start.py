"""What a command loads: whoever types `reelwatch list` does not wait for what only workers need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reelwatch.storage import migrating
from tests.processes import UNCOUNTED

# The HTTP engine, Alembic, Celery, and the planner with what is decided by it.
ONLY_WORKERS = {
    "alembic", "mako", "celery", "kombu", "requests", "urllib3", "pycurl", "http.client",
    "rich.progress",
    "reelwatch.net.http", "reelwatch.net.outbound", "reelwatch.net.upstream",
    "reelwatch.rules.timing.planner", "reelwatch.rules.lifecycle", "reelwatch.jobs.polling",
    "reelwatch.jobs.delivery", "reelwatch.celery", "reelwatch.app.celery",
}  # fmt: skip

LOADED = """
import json, sys
from reelwatch.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
TRACK = """
import json, sys
from reelwatch import track
track("sora-2:1")
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = f"sqlite:///{tmp_path_factory.mktemp('start')}/start.db"
    migrating.migrate(made)
    return made


def loaded_by(script: str, url: str, cwd: Path, *arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        # Counting coverage loads modules of its own, SQLite among them.
        env={**os.environ, **UNCOUNTED, "DATABASE_URL": url},
        cwd=cwd, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return set(json.loads(done.stderr.splitlines()[-1]))


COMMANDS = (
    ("track", "sora-2:1", "--json"),
    ("show", "sora-2:1"),
    ("list",),
    ("deliveries",),
    ("recheck", "sora-2:1"),
    ("cancel", "sora-2:1"),
    ("redeliver", "--dead", "--yes"),
    ("prune", "--older-than", "90d", "--yes"),
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_a_command_loads_nothing_that_only_workers_need(
    arguments: tuple[str, ...], url: str, tmp_path: Path
) -> None:
    if arguments[0] != "track":
        loaded_by(LOADED, url, tmp_path, *COMMANDS[0])
    found = loaded_by(LOADED, url, tmp_path, *arguments)
    assert "sqlalchemy.orm" in found
    assert found & (ONLY_WORKERS | {"psycopg"}) == set()  # the database is SQLite


def test_a_producer_that_tracks_loads_nothing_that_only_workers_need(
    url: str, tmp_path: Path
) -> None:
    found = loaded_by(TRACK, url, tmp_path)
    assert found & (ONLY_WORKERS | {"structlog", "rich", "click", "psycopg"}) == set()


WORKER = """
import json, sys
import reelwatch.celery, reelwatch.app.tasks, reelwatch.net.http
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


SERVING = """
import json, sys
from reelwatch.cli.web import listening
from reelwatch.config import settings
listening(settings.current(), "127.0.0.1", 0)
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def test_the_web_does_without_models_of_an_old_pydantic(url: str, tmp_path: Path) -> None:
    serving = loaded_by(SERVING, url, tmp_path)
    assert "fastapi" in serving
    assert {each for each in serving if each.startswith("pydantic.v1.")} == set()


def test_web_and_workers_do_without_what_structlog_and_requests_take_along(
    url: str, tmp_path: Path
) -> None:
    web = loaded_by(LOADED, url, tmp_path, "web", "--help")
    worker = loaded_by(WORKER, url, tmp_path)
    assert "structlog" in web & worker
    assert web & {"rich", "greenlet", "sqlite3"} == set()
    assert worker & {"rich", "requests", "charset_normalizer"} == set()
