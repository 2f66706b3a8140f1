"""A real limit of processes and threads, as Heroku's dynos, containers and shells have them."""

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.processes import ROOT

# What root can read, the limited user can too: Python itself may lie in a folder of root's.
READING = "-all,+dac_override,+dac_read_search"


def limited(threads: int, command: Sequence[str | Path]) -> list[str | Path]:
    """The command, as a new user whose processes and threads are limited, main threads included."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can be another user, whose processes nobody else has a part in")
    user = str(200_000 + secrets.randbelow(1_000_000))
    identity = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    rights = [f"--inh-caps={READING}", f"--ambient-caps={READING}"]
    program = shutil.which(command[0], path=f"{ROOT / '.venv/bin'}:{os.environ['PATH']}")
    assert program
    # Without this `access()` leaves these rights out, and a folder of root's alone is not there.
    rights.append("--securebits=+no_setuid_fixup")
    return ["setpriv", *identity, *rights, "prlimit", f"--nproc={threads}", program, *command[1:]]
