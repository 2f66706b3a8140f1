"""Words and signs of the pages: times, spans, states, addresses. Pure."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any

from markupsafe import Markup

from reelwatch.errors import Refused
from reelwatch.rules.channels import task_and_queue
from reelwatch.rules.durations import parse_duration
from reelwatch.rules.endpoints import How, answer_in_short, doubt
from reelwatch.rules.wording import host as host  # noqa: PLC0414 - templates use it from here
from reelwatch.rules.wording import plain, short_name, span
from reelwatch.storage.destinations import shown

# Marks of Unicode that change the direction of what stands around them, and are not seen.
TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
NOTHING = "–"  # noqa: RUF001 - as books print it
SIGNS: Mapping[str, str] = {  # colour alone would not do: not everybody sees it
    "pending": "○",
    "running": "▸",
    "completed": "✓",
    "failed": "✗",
    "expired": "?",
    "cancelled": "■",
    "delivered": "✓",
    "dead": "✗",
    "well": "✓",
    "bad": "✗",
    "odd": "!",
}


def exact(at: datetime) -> str:
    """A time as it is shown on hover, its zone named."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def since(text: str, now: datetime) -> datetime | None:
    """When a span that a form names began, None for none. Raises `Refused` for what is no span."""
    if not text:
        return None
    try:
        return now - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        raise Refused(f"since: {text!r}; accepted: a span as 90m, 6h, 7d") from None


def relative(at: datetime, now: datetime) -> str:
    """`42s ago`, `in 3m05s`, or `now`."""
    seconds = (at - now).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"in {span(ceil(seconds))}" if seconds > 0 else f"{span(-seconds)} ago"


def when(at: datetime | None, now: datetime) -> Markup:
    """A time as people read it: relative, with the exact one on hover. Kept fresh by a script."""
    if at is None:
        return Markup('<span class="none">{}</span>').format(NOTHING)
    form = '<time datetime="{}" title="{}">{}</time>'
    return Markup(form).format(_stamp(at), exact(at), relative(at, now))  # noqa: S704 - it escapes


def counting(seconds: float, now: datetime, *, down: bool = False) -> Markup:
    """A span that goes on from now, or back to nothing. Kept fresh by a script."""
    at = now + timedelta(seconds=seconds if down else -seconds)
    form = '<time datetime="{}" title="{}" data-count="{}">{}</time>'
    way = "down" if down else "up"
    return Markup(form).format(_stamp(at), exact(at), way, span(seconds))  # noqa: S704 - it escapes


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def soon(at: datetime, now: datetime) -> Markup:
    """A time to come; one that has passed means: now."""
    form = '<time datetime="{}" title="{}" data-count="soon">{}</time>'
    at = max(at, now)
    return Markup(form).format(_stamp(at), exact(at), relative(at, now))  # noqa: S704 - it escapes


def expected(at: datetime | None, reason: str | None, now: datetime) -> Markup:
    """When something is to come (None: nobody can know), and what is in its way, if anything."""
    when = Markup("not known") if at is None else soon(at, now)
    return Markup("{} ({})").format(when, reason) if reason else when


def took(seconds: float | None) -> str:
    """A span that is over: with a tenth where it was short."""
    if seconds is None:
        return NOTHING
    return f"{seconds:.1f}s" if seconds < 10 else span(seconds)


URL = re.compile(r"https?://[^\s'\"`]*[^\s'\"`.,;:!?)]", re.IGNORECASE)


REST = re.compile(r"[^\s'\"`]*[^\s'\"`.,;:!?)]")
WHOLE_URL = re.compile(r"https?://\S+", re.IGNORECASE)


def endpoint(target: str, channel: str = "webhook") -> str:
    """Whom a delivery goes to, without what may be a secret."""
    if channel == "webhook":
        return short_name(target)
    task, queue = task_and_queue(target)
    return plain(f"{task} in {queue}" if queue else task)


def named(target: str) -> str:
    """An endpoint as it may be shown, whatever it is."""
    return endpoint(target, "webhook" if "://" in target else "celery")


KINDS: Mapping[How, str] = {
    How.RESTING: "bad",
    How.FAILING: "bad",
    How.REFUSING: "odd",
    How.WELL: "well",
}


def question(state: How, http_status: int | None) -> str:
    """What to look at where an endpoint is not well, as a sentence."""
    return capitalized(doubt(state, http_status))


def capitalized(text: str) -> str:
    """A text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def covered(text: str, urls: Iterable[str] = ()) -> str:
    """A text in which each callback URL has become what `endpoint` shows of it.

    `urls` are those that the text may name in part: without their query, as logs do.
    """
    names = {form: endpoint(url) for url in urls for form in (shown(url), url)}
    for form in sorted((each for each in names if "://" in each), key=len, reverse=True):
        # What follows is part of another URL, whose query may be a secret as well.
        known = re.compile(f"({re.escape(form)})({REST.pattern})?")
        text = known.sub(lambda found: endpoint(found[0]) if found[2] else names[found[1]], text)
    return URL.sub(lambda found: endpoint(found[0]), text)


def covered_within(value: Any, urls: Collection[str] = ()) -> Any:
    """JSON in which each URL in a text has become what `endpoint` shows of it."""
    if isinstance(value, dict):
        return {key: covered_within(each, urls) for key, each in value.items()}
    if isinstance(value, list):
        return [covered_within(each, urls) for each in value]
    if not isinstance(value, str):
        return value
    whole = WHOLE_URL.fullmatch(value.strip())  # it may hold quotes
    return endpoint(whole[0]) if whole else covered(value, urls)


def answered(target: str, http_status: int | None, error: str | None) -> str:
    """What an endpoint answered to an attempt that failed, in words."""
    return answer_in_short(http_status, plain(covered(error or "", [target])))


def document(value: Any) -> str:
    """JSON for reading: what would turn the text around it is written as an escape."""
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False, default=str)
    return TURNING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def number(count: int, most: int | None = None) -> str:
    """`3`, or `1,000+` where counting stopped at `most`."""
    return f"{count:,}{'+' if most is not None and count >= most else ''}"


def many(count: int, word: str, most: int | None = None) -> str:
    """`1 job`, `3 jobs`, `1,000+ jobs` where counting stopped at `most`."""
    return f"{number(count, most)} {word}{'' if count == 1 else 's'}"


def rate(per_second: float) -> str:
    """`5/s`, `0.25/s`."""
    return f"{per_second:.3g}/s"


def tail(video_id: str) -> tuple[str, str]:
    """An id in two parts, so that the middle can give way where room is short."""
    text = plain(video_id)
    return (text, "") if len(text) <= 12 else (text[:-10], text[-10:])


def marked(name: str) -> tuple[str, str]:
    """An endpoint's name in two parts: what may give way, and its mark among others."""
    host, slash, mark = name.rpartition("/…")
    return (host, slash + mark) if slash else (name, "")
