"""The fair baseline: one open job after another, at exactly the rate that the key allows.

python -m benchmarks.peer_roundrobin
"""

import time

from benchmarks import peers

EMPTY_SECONDS = 0.05


def run() -> None:
    """Poll until this process is ended."""
    apart = 1 / float(peers.setting("RATE"))
    due = time.monotonic()
    while True:
        ids = peers.open_ids(peers.setting("DATABASE_URL"))
        if not ids:
            time.sleep(EMPTY_SECONDS)
        for video_id in ids:
            due = max(due + apart, time.monotonic())  # what was missed is not caught up
            time.sleep(max(0.0, due - time.monotonic()))
            if peers.save(video_id, peers.ask(video_id)):
                peers.tell(video_id)


if __name__ == "__main__":
    run()
