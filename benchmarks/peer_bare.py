"""The least that polling can cost with requests: threads that ask, parse, and do nothing else.

    python -m benchmarks.peer_bare

`PEER_IDS` is a prefix, asked about are `PEER_IDS`0, 1, … up to `PEER_JOBS`. `PEER_TRUST_ENV` `no`
spares requests the look for proxies and passwords at each call.
"""

import itertools
import threading

import requests

from benchmarks import peers


def run() -> None:
    """Ask until this process is ended."""
    threads = [threading.Thread(target=ask_on) for _ in range(int(peers.setting("THREADS")))]
    for thread in threads:
        thread.start()


def ask_on() -> None:
    """One thread with one keep-alive session."""
    session = requests.Session()
    session.trust_env = peers.setting("TRUST_ENV") == "yes"
    session.headers["Authorization"] = f"Bearer {peers.setting('KEY')}"
    for number in itertools.cycle(range(int(peers.setting("JOBS")))):
        session.get(
            f"{peers.setting('BASE_URL')}/v1/video/query",
            params={"id": f"{peers.setting('IDS')}{number}"},
            timeout=peers.TIMEOUT,
        ).json()


if __name__ == "__main__":
    run()
