"""Who may import whom: entry points, use cases, edges, rules; and that importing does nothing.

A new module is assigned to a group here, or the first test fails. `docs/decisions/` says why.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "worker" / "reelwatch"
HERE = "__init__"  # the package's own root: `from reelwatch import track`

GROUPS = {
    # Wiring only: the app, thin tasks, commands, and the stand-ins for upstream and receiver.
    "entry points": {
        HERE,
        "celery",
        "loader",
        "tasks",
        "waiting",
        "embedded",
        "processes",
        "demo",
        "cli",
        "cli_checks",
        "cli_doctor",
        "cli_errors",
        "cli_events",
        "cli_jobs",
        "cli_change",
        "cli_many",
        "cli_listen",
        "cli_test_event",
        "cli_options",
        "cli_progress",
        "cli_render",
        "cli_service",
        "cli_simulate",
        "cli_watch",
        "sandbox",
        "sandbox_server",
        "listener",
    },
    # Plain functions that own their transactions.
    "use cases": {
        "tracking",
        "updating",
        "polling",
        "delivery",
        "redelivery",
        "history",
        "intake",
        "learning",
        "pausing",
        "pruning",
    },
    # One foreign thing each: environment, log, terminal, database, threads, HTTP, queues.
    "edges": {
        "settings",
        "trust",
        "libpq",
        "accounts",
        "servers",
        "secrecy",
        "log",
        "board",
        "db",
        "models",
        "naming",
        "postgresql",
        "adoption",
        "alembic_filter",
        "ledger",
        "jobrows",
        "filters",
        "pages",
        "surveys",
        "orders",
        "mixups",
        "heartbeat",
        "forecasts",
        "prospects",
        "findings",
        "destinations",
        "claiming",
        "fanout",
        "stopping",
        "upstream",
        "outbound",
        "callback_url",
        "planning",
        "migrating",
        "http",
        "exchange",
        "transfer",
        "inflating",
        "calls",
        "beat",
        "broker_check",
        "installations",
        "database_check",
        "messages",
        "tls",
        "redis_queue",
    },
    # Pure: what follows from what.
    "rules": {
        "urls",
        "durations",
        "webhook_secrets",
        "video_ids",
        "id_files",
        "hints",
        "redaction",
        "spelling",
        "breaker",
        "errors",
        "lines",
        "words",
        "cleaning",
        "finding",
        "places",
        "reasons",
        "answers",
        "troubles",
        "recognition",
        "curves",
        "simulation",
        "schedule",
        "standing",
        "lifecycle",
        "status",
        "pace",
        "remaining",
        "ranking",
        "events",
        "narrative",
        "outlook",
        "rests",
        "wording",
        "sandbox_answers",
        "sandbox_odd",
        "sandbox_scripts",
    },
}
RANK = {module: rank for rank, group in enumerate(GROUPS.values()) for module in group}

# Clocks, chance, files, threads and the network: nothing that only thinks has any use for them.
NOT_FOR_RULES = {
    "asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "pathlib", "queue", "random",
    "secrets", "socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time",
}  # fmt: skip

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def imported(module: str) -> Iterator[str]:
    """Every name that a module imports, wherever it does: `reelwatch.db`, `sqlalchemy.orm`."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "reelwatch":
            yield from (f"reelwatch.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: no relative imports, they hide the group"
            yield str(node.module)


def own(module: str) -> set[str]:
    """The modules of this package that a module imports."""
    names = (name.split(".") for name in imported(module))
    found = {[*parts, HERE][1] for parts in names if parts[0] == "reelwatch"}
    return {name if name in MODULES else HERE for name in found}


def test_every_module_has_its_group() -> None:
    assigned = [module for group in GROUPS.values() for module in group]
    assert sorted(assigned) == MODULES
    assert not [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    """From entry points to use cases to edges to rules, or within the group."""
    assert {name for name in own(module) if RANK[name] < RANK[module]} == set()


@pytest.mark.parametrize("module", sorted(GROUPS["use cases"]))
def test_use_cases_do_not_know_each_other(module: str) -> None:
    assert own(module) & GROUPS["use cases"] == set()


@pytest.mark.parametrize("module", sorted(GROUPS["rules"]))
def test_rules_only_think(module: str) -> None:
    """They import rules, and of the standard library only what has no effects."""
    foreign = {name.split(".")[0] for name in imported(module)} - {"reelwatch"}
    assert own(module) <= GROUPS["rules"]
    assert foreign <= set(sys.stdlib_module_names) - NOT_FOR_RULES


def test_imports_make_no_circle() -> None:
    """Not even one that Python would put up with."""
    left = {module: own(module) - {module} for module in MODULES}
    while free := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    assert left == {}


# Runs in a fresh process with settings that nobody could read without an error.
IMPORT_ALL = """
import importlib, json, sys, threading

import sqlalchemy

import reelwatch.settings

happened = []
def note(what):
    def noted(*_, **__):
        happened.append(what)
    return noted

sqlalchemy.create_engine = note("an engine was made")
reelwatch.settings.load = note("settings were read")

def audit(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "sqlite3.connect", "subprocess.Popen"):
        happened.append(event)
    elif event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        happened.append(f"{args[0]} was opened to be written")

sys.addaudithook(audit)
for module in sys.argv[1:]:
    importlib.import_module(module)
if threading.active_count() > 1:
    happened.append("a thread was started")
print(json.dumps(happened))
"""


def test_importing_does_nothing(tmp_path: Path) -> None:
    """No engine, no connection, no settings read, no file written, no thread."""
    modules = ["reelwatch", *(f"reelwatch.{module}" for module in MODULES if module != HERE)]
    unreadable = {"DATABASE_URL": "nonsense", "LOG_LEVEL": "nonsense", "BROKER_URL": "nonsense"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *modules],
        env={**os.environ, **unreadable, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert list(tmp_path.iterdir()) == []


def test_the_package_offers_what_producers_need() -> None:
    import reelwatch  # noqa: PLC0415 - the subject

    assert set(reelwatch.__all__) == {
        "cancel", "eta", "pause_account", "recheck", "resume_account", "track", "track_many",
        "update",
    }  # fmt: skip
    assert all(callable(getattr(reelwatch, name)) for name in reelwatch.__all__)
