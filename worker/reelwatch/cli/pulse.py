"""Asks the processes of this machine, or container, whether they are alive.

An orchestrator does this every few seconds: it loads none of the package's libraries.
"""

import socket

from reelwatch.rules.pulse import NAMES, WELL

TABLE = "/proc/net/unix"
PATIENCE_SECONDS = 5.0


def complaints(kind: str = "", patience: float = PATIENCE_SECONDS) -> list[str]:
    """What is wrong, a line each; empty where all processes of that kind, or of any, are alive.

    Seen are those of the same network namespace. None at all is wrong, too.
    """
    try:
        names = list(_names(f"{NAMES}{kind}"))
    except OSError:
        return ["only Linux can tell which processes are alive"]
    if not names:
        return [f"no {kind or 'process'} of Reelwatch runs here"]
    answers = ((name, ask(name, patience)) for name in names)
    return [f"{name.split('/')[1]}: {said}" for name, said in answers if said != WELL]


def _names(prefix: str) -> "list[str]":
    with open(TABLE, encoding="utf-8", errors="replace") as table:
        rows = (line.split()[-1] for line in table)
        return sorted({name[1:] for name in rows if name.startswith(f"@{prefix}")})


def ask(name: str, patience: float) -> str:
    """What the process at that socket says; one that says nothing is not well."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
        mine.bind("")  # the kernel makes up a name
        mine.settimeout(patience)
        try:
            mine.sendto(b"?", f"\0{name}")
            return mine.recv(1024).decode("utf-8", "replace")
        except OSError:
            return "does not answer"
