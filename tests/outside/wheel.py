"""The built wheel, alone in an empty environment: as who installs Reelwatch gets it.

    python3 -m tests.outside.wheel [PYTHON…]

For each Python that is here, at once: a new environment with the wheel and what it asks for, in a
folder outside the checkout that holds a producer's own modules. There every module is imported,
and the demo, `up`, a worker and beat run, against a Redis and a PostgreSQL from elsewhere.
"""

import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tests.outside import environments, servers, service
from tests.processes import ROOT, Process, be_usual, plain_environment

# Modules that a producer has in the folder where processes are started: Celery puts it on the path.
PRODUCERS_OWN = ("worker", "tasks", "settings", "models", "db", "events")
UNEXPECTED = "raise RuntimeError(f'{__name__}: a module of the producer was imported')\n"

# All modules but those that the arguments name.
IMPORT_ALL = """
import importlib, pkgutil, reelwatch, sys
for module in pkgutil.walk_packages(reelwatch.__path__, "reelwatch."):
    if not module.name.startswith(tuple(sys.argv[1:])):
        importlib.import_module(module.name)
"""
MIGRATIONS, WEB = "reelwatch.migrations", "reelwatch.web"


@dataclass(frozen=True)
class Installed:
    """An environment that has only the wheel, and the folder in which it is used."""

    environment: Path
    folder: Path

    def start(self, command: Sequence[str], settings: Mapping[str, str]) -> Process:
        """Start a command of that environment."""
        program = self.environment / "bin" / command[0]
        path = {"PATH": f"{program.parent}:/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}
        env = plain_environment(path, settings)
        return Process([program, *command[1:]], env, self.folder)


def build(python: Path, folder: Path) -> Path:
    """The wheel, made from the source distribution; it has what one made directly has."""
    builder = environments.make(folder / "builder", python, "hatchling")
    sources = environments.clean_copy(folder / "sources")
    environments.run([builder, "-m", "hatchling", "build", "-d", folder / "direct"], cwd=sources)
    [source_distribution] = (folder / "direct").glob("*.tar.gz")
    [direct] = (folder / "direct").glob("*.whl")
    environments.pip(builder, "wheel", "--no-deps", "-w", folder / "built", source_distribution)
    [built] = (folder / "built").glob("*.whl")
    if contents(built) != contents(direct):
        raise AssertionError(f"{contents(built) ^ contents(direct)} is in one wheel alone")
    if {name.partition("/")[0] for name in contents(built)} - {"reelwatch"} != {info(built)}:
        raise AssertionError("the wheel installs more than the package `reelwatch`")
    return built


def contents(wheel: Path) -> set[str]:
    """The names of the files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def info(wheel: Path) -> str:
    """The name of the folder for what is known about the distribution."""
    return "-".join(wheel.name.split("-")[:2]) + ".dist-info"


def install(python: Path, wheel: Path, folder: Path) -> Installed:
    """An empty environment with the wheel, in the versions of constraints.txt."""
    made = environments.make(folder / "environment", python)
    add(made, str(wheel))
    used_in = folder / "shop"
    used_in.mkdir()
    for name in PRODUCERS_OWN:
        (used_in / f"{name}.py").write_text(UNEXPECTED)
    return Installed(made.parents[1], used_in)


def add(python: Path, wanted: str) -> None:
    """Install it there, in the versions of constraints.txt."""
    environments.pip(python, "install", "--constraint", ROOT / "constraints.txt", wanted)
    environments.pip(python, "check")


def try_all(installed: Installed, wheel: Path, settings: Mapping[str, str]) -> None:
    """Everything that a user starts: what needs no extra without it, then all with it."""
    alone = service.Trial(installed, {})
    alone.run("python", "-I", "-c", IMPORT_ALL, MIGRATIONS, WEB)
    bare = replace(installed, folder=installed.folder / "bare")
    bare.folder.mkdir()
    service.try_up(bare)
    add(installed.environment / "bin" / "python", f"{wheel}[web]")
    alone.run("python", "-I", "-c", IMPORT_ALL, MIGRATIONS)
    with ThreadPoolExecutor(1) as meanwhile:
        demo = meanwhile.submit(alone.run, "reelwatch", "demo")
        service.try_service(installed, settings)
        service.try_up(installed)
        if "25 of 25 ended as scripted" not in demo.result():
            raise AssertionError(demo.result())


def main(given: Sequence[str]) -> int:
    """Try the wheel with each Python; the exit code is 1 if any finds fault."""
    be_usual()
    chosen = [Path(each).absolute() for each in given] or list(environments.pythons().values())
    if not chosen:
        raise SystemExit("there is no Python from 3.11 to 3.13 with its venv module here")
    folder = environments.open_folder("wheel")
    wheel = build(chosen[0], folder.path)
    names = [f"shop_{number}" for number in range(len(chosen))]
    with servers.redis() as redis, servers.postgres(names) as postgres:

        def attempt(number: int) -> bool:
            began, home = time.monotonic(), folder.path / names[number]
            home.mkdir()
            database = {
                "DATABASE_URL": f"{postgres}/{names[number]}",
                "BROKER_URL": f"{redis}/{number}",
            }
            try:
                try_all(install(chosen[number], wheel, home), wheel, database)
            except (Exception, SystemExit) as error:
                print(f"✗ {chosen[number]}: {error}", flush=True)
                return False
            print(f"✓ {chosen[number]} ({time.monotonic() - began:.0f} s)", flush=True)
            return True

        with ThreadPoolExecutor(len(chosen)) as pool:
            results = list(pool.map(attempt, range(len(chosen))))
    folder.remove()
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
