"""The same work as a durable workflow of DBOS: one for each job, which sleeps between its polls.

    python -m benchmarks.peer_dbos FILE

Takes the ids from the file, one a line, whenever there is one, and removes it.
"""

import sys
import time
from pathlib import Path

from dbos import DBOS, DBOSConfig

from benchmarks import peers

FILE_SECONDS = 0.05


@DBOS.step()
def poll(video_id: str) -> bool:
    """Ask and store; has the job ended?"""
    return peers.save(video_id, peers.ask(video_id))


@DBOS.step(retries_allowed=True, max_attempts=10)
def notify(video_id: str) -> None:
    """Tell the receiver."""
    peers.tell(video_id)


@DBOS.workflow()
def watch(video_id: str) -> None:
    """One job, from its id to its webhook."""
    while not poll(video_id):
        DBOS.sleep(float(peers.setting("INTERVAL")))
    notify(video_id)


def run(ids: Path) -> None:
    """Start a workflow for each id; until this process is ended."""
    config: DBOSConfig = {
        "name": "benchmark",
        "system_database_url": peers.setting("SYSTEM_DATABASE_URL"),
        "log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.launch()
    print("ready", flush=True)
    while True:
        if ids.exists():
            for video_id in ids.read_text().split():
                DBOS.start_workflow(watch, video_id)
            ids.unlink()
        time.sleep(FILE_SECONDS)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
