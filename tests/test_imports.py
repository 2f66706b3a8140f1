"""Who may import whom: the folders are the layers; and that importing does nothing.

A folder imports only what its row names. `docs/decisions/` says why.
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
GROUND = {"", "errors"}  # the package's root and its errors, which everybody may import

MAY_IMPORT = {
    "rules": set(),
    "config": {"rules"},
    "storage": {"rules", "config"},
    "net": {"rules", "config"},
    "jobs": {"rules", "config", "storage", "net"},
    "app": {"rules", "config", "storage", "net", "jobs"},
    "sandbox": {"rules", "config"},
    "web": {"rules", "config", "storage", "net", "jobs", "app"},
    "cli": {"rules", "config", "storage", "net", "jobs", "app", "sandbox", "web"},
}

USE_CASES = {
    f"jobs.{name}"
    for name in [
        "tracking",
        "updating",
        "polling",
        "delivery",
        "feed",
        "redelivery",
        "history",
        "intake",
        "learning",
        "pausing",
        "pruning",
    ]
}

# Clocks, chance, files, threads and the network: nothing that only thinks has any use for them.
NOT_FOR_RULES = {
    "asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "pathlib", "queue", "random",
    "secrets", "socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time",
}  # fmt: skip


PURE_LIBRARIES = {"idna"}  # what a name of a host is written like


def dotted(path: Path) -> str:
    """`jobs.polling` for `jobs/polling.py`, `jobs` for `jobs/__init__.py`, "" for the root."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = sorted(FILES)
# What a folder's modules may import of the package; the root only points at where things are.
LAYERED = [module for module in MODULES if module.split(".")[0] in MAY_IMPORT]


def imported(module: str) -> Iterator[str]:
    """Every name that a module imports, wherever it does: `reelwatch.storage.db.connect`."""
    for node in ast.walk(ast.parse(FILES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: no relative imports, they hide the folder"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(module: str) -> set[str]:
    """The modules of this package that a module imports."""
    found = set()
    for name in imported(module):
        first, _, rest = name.partition(".")
        if first == "reelwatch":
            while rest not in FILES:
                rest = rest.rpartition(".")[0]
            found.add(rest)
    return found


def test_what_is_in_no_folder_is_known() -> None:
    """A new module finds its folder: the root holds what users name, and the errors."""
    in_none = set(MODULES) - set(LAYERED)
    assert in_none == GROUND | {"celery"}


@pytest.mark.parametrize("module", LAYERED)
def test_a_module_imports_only_what_lies_below_it(module: str) -> None:
    folder = module.split(".", maxsplit=1)[0]
    others = {name for name in own(module) if name.split(".")[0] != folder}
    assert {
        name for name in others if name.split(".")[0] not in MAY_IMPORT[folder] | GROUND
    } == set()


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("jobs.")])
def test_use_cases_do_not_know_each_other(module: str) -> None:
    """But for what they share, which stands beside them."""
    assert own(module) & USE_CASES - {module} == set()


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("rules.")])
def test_rules_import_neither_clocks_nor_files_nor_the_network(module: str) -> None:
    """Of the standard library they import only what has no effects."""
    foreign = {name.split(".")[0] for name in imported(module)} - {"reelwatch", *PURE_LIBRARIES}
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

import reelwatch.config.settings

happened = []
def note(what):
    def noted(*_, **__):
        happened.append(what)
    return noted

sqlalchemy.create_engine = note("an engine was made")
reelwatch.config.settings.load = note("settings were read")

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


def test_importing_opens_reads_and_starts_nothing(tmp_path: Path) -> None:
    """No engine, no connection, no settings read, no file written, no thread."""
    modules = [f"reelwatch.{module}".rstrip(".") for module in MODULES]
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


def loaded(code: str) -> set[str]:
    """The modules of a new process that has run this, without what counts coverage."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
        env=quiet, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_producers_load_little_beside_sqlalchemy() -> None:
    """Its ORM alone is three quarters of it."""
    found = loaded("from reelwatch import track") - loaded("import sqlalchemy.orm")
    foreign = {"alembic", "celery", "click", "kombu", "psycopg", "pycurl", "pydantic", "redis",
               "requests", "rich", "structlog"}  # fmt: skip
    assert {name.partition(".")[0] for name in found} & foreign == set()
    assert "sqlalchemy.dialects.sqlite" not in found
    assert len(found) <= 115


def test_the_package_offers_what_producers_need() -> None:
    import reelwatch  # noqa: PLC0415 - the subject

    assert set(reelwatch.__all__) == {
        "cancel", "eta", "pause_account", "recheck", "resume_account", "track", "track_many",
        "update",
    }  # fmt: skip
    assert all(callable(getattr(reelwatch, name)) for name in reelwatch.__all__)
