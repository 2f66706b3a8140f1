"""A Celery worker whose wall clock is an hour ahead: `python stepped_worker.py --hostname=…`."""

import sys
from datetime import UTC, datetime, timedelta

import time_machine
from celery.__main__ import main

with time_machine.travel(datetime.now(UTC) + timedelta(hours=1), tick=True):
    sys.argv = [
        "celery",
        "-A",
        "worker",
        "worker",
        "--without-gossip",
        "--without-mingle",
        *sys.argv[1:],
    ]
    main()
