"""The lowest versions that pyproject.toml declares, in an environment of their own.

    python3 -m tests.outside.lowest [PYTEST'S ARGUMENTS]

There run the tests of whatever meets a library, among them real workers and beats and the demo.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.outside import environments
from tests.processes import ROOT, plain_environment

LOWEST = re.compile(r"([\w-]+)(\[\w+\])?>=([\d.]+)(,<[\d.]+)?")
# Test tools that want more of a library than we do: left out, or an older one taken.
LEFT_OUT = ("httpx2", "schemathesis")
OLDER = {"svix": "1.62.0"}
TESTS = ("dependencies", "imports", "settings", "log", "db", "tracking", "polling", "delivery",
         "history", "tasks", "limits", "cli", "cli_service", "commands_that_run", "demo",
         "redaction", "strangers_environment")  # fmt: skip


def lowest() -> dict[str, str]:
    """The lowest version of each dependency, those of the web included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["web"]]
    declared = [LOWEST.fullmatch(text) for text in texts]
    versions = {match[1]: match[3] for match in declared if match}
    if len(versions) < len(declared):
        raise SystemExit("a dependency in pyproject.toml has no lowest version")
    return versions


def constraints() -> Iterator[str]:
    """constraints.txt, but for the lowest versions of what is declared."""
    pins = lowest() | OLDER
    pins["psycopg-binary"] = pins["psycopg"]
    yield from (f"{name}=={version}" for name, version in pins.items())
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name = line.partition("==")[0].lower().replace("_", "-")
        if name not in pins and name != "pydantic-core":  # each pydantic has its own
            yield line


def tools() -> list[str]:
    """What the tests need, and can be had beside those versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted: list[str] = project["optional-dependencies"]["test"]
    return [text for text in wanted if not text.startswith(("reelwatch", *LEFT_OUT))]


def make(folder: Path) -> Path:
    """The environment; returns its Python."""
    python = next(iter(environments.pythons().values()))
    made = environments.make(folder / "environment", python)
    pins = folder / "constraints.txt"
    pins.write_text("\n".join(constraints()) + "\n")
    environments.pip(made, "install", "--constraint", pins, "--editable", f"{ROOT}[web]", *tools())
    print(", ".join(f"{name} {version}" for name, version in lowest().items()), flush=True)
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the tests; the exit code is pytest's."""
    folder = environments.open_folder("lowest")
    python = make(folder.path)
    tests = [path for name in TESTS for path in (ROOT / "tests").glob(f"**/test_{name}.py")]
    command: list[str | Path] = [python, "-m", "pytest", "-q", "-n", "4", *tests, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=plain_environment(), check=False)
    folder.remove()
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
