"""Every package that ours imports is a declared dependency: a test tool can't stand in for one."""

import ast
import functools
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.outside import lowest
from tests.processes import ROOT, UNCOUNTED, plain_environment

PACKAGE = ROOT / "worker" / "reelwatch"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [Requirement(text) for text in PROJECT["dependencies"]]
FOR_THE_WEB = [Requirement(text) for text in PROJECT["optional-dependencies"]["web"]]
WEB = PACKAGE / "web"  # runs only where that extra is installed

# Imported by our libraries only when a URL, an option or a pool asks for them.
LAZY = (
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.backends.base",
    "celery.beat",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.solo",
    "celery.concurrency.thread",
    "celery.fixups.django",
    "celery.worker.consumer",
    "celery.worker.pidbox",
    "kombu.transport.memory",
    "kombu.transport.pyamqp",
    "kombu.transport.redis",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
)


providers = functools.cache(metadata.packages_distributions)


def sources() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "migrations").rglob("*.py")])


def imported(path: Path) -> Iterator[str]:
    """The top-level names that a file imports when it runs, wherever in it."""
    for node in _running(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).partition(".")[0]


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, but for those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            nodes: Iterable[ast.AST] = node.orelse
        else:
            nodes = [node]
        for each in nodes:
            yield each
            yield from _running(each)


def installed_with(requirements: Iterable[Requirement]) -> set[str]:
    """The distributions that pip installs for these, extras of extras included."""
    seen: set[tuple[str, str]] = set()
    waiting = [(each.name, extra) for each in requirements for extra in ("", *each.extras)]
    while waiting:
        name, extra = waiting.pop()
        name = canonicalize_name(name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed.name, wanted) for wanted in ("", *needed.extras)]
    return {name for name, _ in seen}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_file_imports_is_declared(path: Path) -> None:
    """By name: not merely brought along by another dependency, which may stop doing so."""
    foreign = set(imported(path)) - sys.stdlib_module_names - {"reelwatch"}
    extra = FOR_THE_WEB if path.is_relative_to(WEB) else []
    declared = {canonicalize_name(each.name) for each in [*DECLARED, *extra]}
    undeclared = {
        name
        for name in foreign
        if not declared & {canonicalize_name(each) for each in providers().get(name, [])}
    }
    assert undeclared == set()


# What the declared dependencies did not bring is not there, as on a machine that has only them.
IMPORT_ALONE = """
import importlib, importlib.util, sys

hidden = set(sys.argv[1].split())

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for name in sys.argv[2:]:
    if name.endswith(".py"):
        spec = importlib.util.spec_from_file_location("one", name)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    else:
        importlib.import_module(name)
"""


def test_everything_can_be_imported_where_only_the_dependencies_are(tmp_path: Path) -> None:
    brought = installed_with(DECLARED) | {"reelwatch"}
    hidden = [
        name
        for name, distributions in providers().items()
        if not brought & {canonicalize_name(each) for each in distributions}
    ]
    assert {"pytest", "_pytest"} <= set(hidden)
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if not path.is_relative_to(WEB)
    ]
    migrations = map(str, (ROOT / "migrations" / "versions").glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALONE, " ".join(hidden), *LAZY, *modules, *migrations],
        env=plain_environment(UNCOUNTED),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_dependency_is_needed() -> None:
    """What is declared is imported, or listed here with what needs it."""
    # The first by kombu, for what it speaks with a Redis; the others by parts of the web to come.
    needed_by_others = {"redis", "jinja2", "prometheus-client"}
    used = {
        canonicalize_name(each)
        for path in sources()
        for name in imported(path)
        for each in providers().get(name, [])
    }
    declared = {canonicalize_name(each.name) for each in [*DECLARED, *FOR_THE_WEB]}
    assert declared - used - needed_by_others == set()


def test_every_dependency_has_a_lowest_version_that_ci_runs_with() -> None:
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, pinned_lowest())}
    for each in [*DECLARED, *FOR_THE_WEB]:
        [bound] = [one for one in each.specifier if one.operator == ">="]
        assert str(pins[canonicalize_name(each.name)].specifier) == f"=={bound.version}"


def pinned_lowest() -> Iterator[str]:
    lines = (line.partition("#")[0].strip() for line in lowest.constraints())
    return (line for line in lines if line)
