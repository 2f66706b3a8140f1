"""How the relay new-api polls, as a model: a pass every 15 s, one job after another, 1 s between.

    python -m benchmarks.peer_newapi

The two spans are divided by `PEER_SCALE`, as all others of a benchmark are.
"""

import time

from benchmarks import peers

PASS_SECONDS = 15.0
BETWEEN_SECONDS = 1.0


def run() -> None:
    """Poll until this process is ended."""
    scale = float(peers.setting("SCALE"))
    while True:
        time.sleep(PASS_SECONDS / scale)
        for video_id in peers.open_ids(peers.setting("DATABASE_URL")):
            if peers.save(video_id, peers.ask(video_id)):
                peers.tell(video_id)
            time.sleep(BETWEEN_SECONDS / scale)


if __name__ == "__main__":
    run()
