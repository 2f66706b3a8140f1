"""Celery that waits for nothing long: `python impatient_worker.py -A reelwatch worker …`.

What nobody acknowledged is handed out again after two seconds, and standby begins after two.
"""

from celery.__main__ import main

from reelwatch.app import celery, redis_queue, tasks

celery.REDIS_OPTIONS["visibility_timeout"] = 2
celery.REDIS_OPTIONS["unacked_restore_interval"] = redis_queue.SWEEP_SECONDS = 0.5
redis_queue.AGAIN_SECONDS = 1
tasks.TICK_MISSED_SECONDS, tasks.STANDBY_CHECK_SECONDS = 2.0, 0.5
main()
