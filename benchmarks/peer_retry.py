"""The chain: one task for each job, which retries itself until the job has ended.

celery -A benchmarks.peer_retry worker

`PEER_BACKOFF` is `fixed` or `exponential`.
"""

from typing import Any

import requests
from celery import Celery

from benchmarks import peers

LONGEST = 6  # intervals between two polls of most, where they grow

app = Celery("chain", broker=peers.setting("BROKER_URL"))
app.conf.task_ignore_result = True


@app.task(name="chain.watch", bind=True, max_retries=None)
def watch(self: Any, video_id: str) -> None:
    """Ask and store; come again unless the job has ended."""
    if not peers.save(video_id, peers.ask(video_id)):
        raise self.retry(countdown=countdown(self.request.retries))
    notify.delay(video_id)


def countdown(retries: int) -> float:
    """Seconds until the next poll: always the same, or doubling from half of that."""
    interval = float(peers.setting("INTERVAL"))
    if peers.setting("BACKOFF") == "fixed":
        return interval
    return min(interval / 2 * 2.0 ** min(retries, 10), interval * LONGEST)


@app.task(
    name="chain.notify",
    autoretry_for=(requests.RequestException,),
    retry_backoff=True,
    max_retries=10,
)
def notify(video_id: str) -> None:
    """Tell the receiver, again and again until it takes it."""
    peers.tell(video_id)
