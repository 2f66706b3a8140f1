"""Celery with limits of seconds: `python limited_worker.py BATCH SILENCE -A reelwatch worker …`.

BATCH is when a batch's process is killed, SILENCE how long the database may say nothing.
"""

import sys

from celery.__main__ import main

from reelwatch.app import tasks
from reelwatch.app.celery import app
from reelwatch.storage import postgresql

batch, postgresql.SILENCE_SECONDS = int(sys.argv.pop(1)), float(sys.argv.pop(1))
for task in app.tasks.values():
    if task.time_limit == tasks.BATCH_LIMIT:
        task.time_limit = batch
main()
