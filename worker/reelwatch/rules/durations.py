"""Spans of time as people write them. Pure."""

import re
from datetime import UTC, datetime, timedelta

DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.ASCII)
UNITS = {"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
FORMS_WITH_UNIT = "500ms, 45s, 10m, 2h, 7d"
DURATION_FORMS = f"{FORMS_WITH_UNIT}, or a number of seconds"
LONGEST_WEBHOOK = 120.0  # seconds; the lease of an event and the limit of a batch are longer
LONGEST_SECONDS = 3_650 * 86_400.0  # what is added to a time must leave one that can be stored
MOMENT_FORMS = "2026-02-06T03:58:49Z, 2026-02-06, or a span before now such as 90m, 2h, 7d"
LONGEST = f"{LONGEST_SECONDS / UNITS['d']:.0f}d"


def parse_duration(value: object) -> float:
    """Seconds from `500ms`, `45s`, `10m`, `2h`, `7d` or a number of seconds; else ValueError."""
    match = DURATION.fullmatch(str(value).strip().casefold())
    if match is None:
        raise ValueError(f"a duration: {DURATION_FORMS}")
    seconds = float(match[1]) * UNITS[match[2]]
    if seconds > LONGEST_SECONDS:
        raise ValueError(f"a duration of at most {LONGEST}")
    return seconds


def parse_moment(text: str, now: datetime) -> datetime:
    """A time in ISO 8601 (without a zone: UTC), or a span with its unit that ends `now`, as `2h`.

    Raises `ValueError` or `OverflowError`.
    """
    span = DURATION.fullmatch(text.casefold())
    if span and span[2]:  # without a unit it is a date, or a mistake
        return now - timedelta(seconds=parse_duration(text))
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)


def parse_retry_schedule(value: object) -> tuple[float, ...]:
    """Delays in seconds from a comma-separated list of durations."""
    parts = value if isinstance(value, tuple | list) else str(value).split(",")
    try:
        return tuple(parse_duration(part) for part in parts)
    except ValueError as error:
        raise ValueError(f"a comma-separated list of durations ({DURATION_FORMS})") from error


def parse_webhook_timeout(value: object) -> float:
    """A duration that a worker's batch outlasts, so that each attempt is written down."""
    seconds = parse_duration(value)
    if seconds > LONGEST_WEBHOOK:
        raise ValueError(f"a duration of at most {LONGEST_WEBHOOK:g}s")
    return seconds
