"""Times, spans and foreign texts as people read them on a line. Pure."""

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import Any


def plain(text: object) -> str:
    """Foreign text on one line: a blank for every character that is not printed as itself."""
    return "".join(" " if unicodedata.category(c).startswith(("C", "Z")) else c for c in str(text))


def span(seconds: float) -> str:
    """A span of time in at most six characters: `42s`, `3m05s`, `5h12m`, `3d04h`."""
    whole = max(0, int(seconds))
    minutes, hours = whole // 60, whole // 3_600
    if whole < 100:
        return f"{whole}s"
    if minutes < 100:
        return f"{minutes}m{whole % 60:02}s"
    if hours < 48:
        return f"{hours}h{minutes % 60:02}m"
    return f"{hours // 24}d{hours % 24:02}h"


def clock(at: datetime, beside: datetime) -> str:
    """A time (UTC) to the second, with its day where that is another than `beside` it."""
    form = "%H:%M:%S" if at.date() == beside.date() else "%Y-%m-%d %H:%M:%S"
    return at.strftime(form)


_TITLE = re.compile(r"<title[^>]*>\s*(.*?)\s*</title", re.I | re.S)


def page_in_short(text: str, status: int | None) -> str:
    """What an answer said; of an HTML page its status and title alone."""
    if not text.lstrip().startswith("<"):
        return text
    found = _TITLE.search(text)
    return f"a page with status {status}" + (f", titled {found[1]!r}" if found else "")


def task_and_queue(target: str) -> tuple[str, str]:
    """The parts of a Celery callback's target, `task@queue`: a queue's name may hold an `@` too."""
    task, _, queue = target.partition("@")
    return task, queue


def receiver(channel: str, target: str) -> str:
    """Whom a delivery's target means."""
    if channel == "webhook":
        return target
    task, queue = task_and_queue(target)
    return f"Celery task {task} in queue {queue}"


def destinations(job: Mapping[str, Any]) -> str:
    """Who is told of the job as it stands now: `update` may have changed what was said at first."""
    ways = []
    if job["webhook_url"]:
        ways.append(f"by webhook at {job['webhook_url']}")
    if job["callback_task"]:
        queue = f" in queue {job['callback_queue']}" if job["callback_queue"] else ""
        ways.append(f"by Celery task {job['callback_task']}{queue}")
    return " and ".join(ways) if ways else "nobody: it has no webhook and no callback"
