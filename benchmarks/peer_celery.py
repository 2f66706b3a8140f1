"""What a team writes first: beat makes a task of every open job every few seconds.

celery -A benchmarks.peer_celery worker
celery -A benchmarks.peer_celery beat
"""

import requests
from celery import Celery

from benchmarks import peers

app = Celery("naive", broker=peers.setting("BROKER_URL"))
app.conf.task_ignore_result = True
app.conf.beat_scheduler = "celery.beat:Scheduler"
app.conf.beat_schedule = {
    "tick": {"task": "naive.tick", "schedule": float(peers.setting("INTERVAL"))}
}


@app.task(name="naive.tick")
def tick() -> None:
    """One task for each job that has not ended, as far apart as the key's limit asks for.

    Celery's own `rate_limit` let one task a second through here, whatever it was set to.
    """
    apart = 1 / float(peers.setting("RATE"))
    for place, video_id in enumerate(peers.open_ids(peers.setting("DATABASE_URL"))):
        poll.apply_async((video_id,), countdown=place * apart)


@app.task(name="naive.poll")
def poll(video_id: str) -> None:
    """Ask, store, and have the receiver told of an end."""
    if peers.save(video_id, peers.ask(video_id)):
        notify.delay(video_id)


@app.task(
    name="naive.notify",
    autoretry_for=(requests.RequestException,),
    retry_backoff=True,
    max_retries=10,
)
def notify(video_id: str) -> None:
    """Tell the receiver, again and again until it takes it."""
    peers.tell(video_id)
