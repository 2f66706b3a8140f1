"""Empty environments, and the Pythons to make them with."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.processes import ROOT, Folder

SUPPORTED = ((3, 11), (3, 12), (3, 13))
CAN_MAKE_ONE = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
SOURCES = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "worker", "migrations")


def pythons() -> dict[tuple[int, int], Path]:
    """One Python of each supported version that is here and can make environments."""
    found: dict[tuple[int, int], Path] = {}
    for program in _candidates():
        version = _version(program)
        if version in SUPPORTED:
            found.setdefault(version, program)
    return dict(sorted(found.items()))


def _candidates() -> Iterator[Path]:
    yield Path(sys.executable).resolve()
    for major, minor in SUPPORTED:
        if found := shutil.which(f"python{major}.{minor}"):
            yield Path(found)
    kept = Path(os.environ.get("PYENV_ROOT") or Path("~/.pyenv").expanduser())
    yield from sorted(kept.glob("versions/3.*/bin/python"))
    yield Path("/usr/bin/python3")


def _version(program: Path) -> tuple[int, int] | None:
    try:
        asked = subprocess.run(
            [program, "-I", "-c", CAN_MAKE_ONE], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    major, minor = map(int, asked.stdout.split())
    return major, minor


def run(
    command: Sequence[str | Path], cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> str:
    """What a command that must succeed wrote; SystemExit with all of that if it fails."""
    done = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        shown = " ".join(map(str, command))
        raise SystemExit(f"`{shown}` failed ({done.returncode}):\n{done.stdout}")
    return done.stdout


def make(folder: Path, python: Path, *installed: str | Path) -> Path:
    """An environment in that folder with what pip is told to install; returns its Python."""
    run([python, "-I", "-m", "venv", "--clear", folder])
    made = folder / "bin" / "python"
    if installed:
        pip(made, "install", *installed)
    return made


def pip(python: Path, *arguments: str | Path) -> str:
    """Run pip in an environment, away from the checkout."""
    command = [python, "-I", "-m", "pip", "--disable-pip-version-check", *arguments]
    return run(command, cwd=python.parent)


def clean_copy(target: Path) -> Path:
    """A copy of what makes the package, without what tests and editors leave in a checkout."""
    target.mkdir()
    leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=leftovers)
        else:
            shutil.copy2(source, target / name)
    return target


def open_folder(purpose: str) -> Folder:
    """A temporary folder that other users may enter: servers don't run as root."""
    folder = Folder(purpose, parent="/tmp")
    folder.path.chmod(0o755)
    return folder
