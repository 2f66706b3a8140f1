"""A beat with nothing but Celery: it publishes as many tasks as Reelwatch's.

celery -A benchmarks.peer_beat beat
"""

from celery import Celery

from benchmarks import peers

app = Celery("bare", broker=peers.setting("BROKER_URL"))
app.conf.task_ignore_result = True
app.conf.beat_scheduler = "celery.beat:Scheduler"  # as Reelwatch's: without a file
app.conf.beat_schedule = {
    name: {
        "task": f"bare.{name}",
        "schedule": float(peers.setting(name.upper())),
        "options": {"expires": float(peers.setting("EXPIRES"))},
    }
    for name in ("tick", "learn")
}
