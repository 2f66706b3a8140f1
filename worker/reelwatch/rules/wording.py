"""Times, spans and foreign texts as people read them on a line. Pure."""

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from reelwatch.rules.channels import CELERY, WEBHOOK, named, task_and_queue


def plain(text: object) -> str:
    """Foreign text on one line: a blank for every character that is not printed as itself."""
    return "".join(" " if unicodedata.category(c).startswith(("C", "Z")) else c for c in str(text))


def span(seconds: float) -> str:
    """A span of time in at most six characters: `42s`, `3m05s`, `5h12m`, `3d04h`.

    By its two largest units, so that what is longer never looks shorter in a list.
    """
    whole = max(0, int(seconds))
    minutes, hours = whole // 60, whole // 3_600
    if not minutes:
        return f"{whole}s"
    if not hours:
        return f"{minutes}m{whole % 60:02}s"
    if hours < 24:
        return f"{hours}h{minutes % 60:02}m"
    return f"{hours // 24}d{hours % 24:02}h"


def clock(at: datetime, beside: datetime) -> str:
    """A time (UTC) to the second, with its day where that is another than `beside` it."""
    form = "%H:%M:%S" if at.date() == beside.date() else "%Y-%m-%d %H:%M:%S"
    return at.strftime(form)


_PAGE = re.compile(r"\s*<(!doctype|!--|\?xml|html|head|body|title)", re.I)
_TITLE = re.compile(r"<title[^>]*>\s*(.*?)\s*</title", re.I | re.S)


def page_in_short(text: str, status: int | None) -> str:
    """What an answer said; of an HTML page its status and title alone."""
    if not _PAGE.match(text):
        return text
    found = _TITLE.search(text)
    page = "a page" if status is None else f"a page with status {status}"
    return page + (f", titled {found[1]!r}" if found else "")


def host(url: str | None) -> str:
    """The host of a URL: what may be shown of one that holds a secret."""
    if not url:
        return ""
    try:
        found = urlsplit(url)
        port = f":{found.port}" if found.port else ""
        return plain(f"{found.hostname}{port}") if found.hostname else plain(url)
    except ValueError:
        return "an address that can't be read"


def short_name(url: str) -> str:
    """A callback URL's host, and a mark that tells it from others there: `hooks.example.com/…3fa1`.

    It holds no part of the URL that may be a secret.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return host(url)
    if not parts.hostname or (parts.path in ("", "/") and not parts.query):
        return host(url)
    return f"{host(url)}/…{sha256(url.encode()).hexdigest()[:4]}"


def receiver(channel: str, target: str) -> str:
    """Whom a delivery's target means."""
    if channel == CELERY:
        task, queue = task_and_queue(target)
        return f"Celery task {task} in queue {queue}"
    return target if channel == WEBHOOK else f"{channel} {named(target)}"


def destinations(job: Mapping[str, Any]) -> str:
    """Who is told of the job as it stands now: `update` may have changed what was said at first."""
    ways = []
    if job["webhook_url"]:
        ways.append(f"by webhook at {job['webhook_url']}")
    if job["callback_task"]:
        queue = f" in queue {job['callback_queue']}" if job["callback_queue"] else ""
        ways.append(f"by Celery task {job['callback_task']}{queue}")
    ways += [f"by {channel} {target}" for channel, target in (job["channels"] or {}).items()]
    return " and ".join(ways) if ways else "nobody: it has no webhook and no callback"
