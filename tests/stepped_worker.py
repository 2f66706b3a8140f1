"""Celery with a clock that is an hour ahead: `python stepped_worker.py -A reelwatch worker …`."""

from datetime import UTC, datetime, timedelta

import time_machine
from celery.__main__ import main

with time_machine.travel(datetime.now(UTC) + timedelta(hours=1), tick=True):
    main()
