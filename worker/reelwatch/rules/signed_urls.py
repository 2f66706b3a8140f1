"""Until when a signed URL works, as far as it says so itself. Pure."""

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

_STAMP = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)T(\d\d):?(\d\d):?(\d\d)Z?")
_EARLIEST, _LATEST = 946_684_800, 4_102_444_800  # what is no time of this century is no end
# Seconds since 1970 under one of these names; the pairs are a beginning and so many seconds.
ENDS = ("expires", "exp", "expiry", "expire", "x-expires", "e")
SPANS = (("x-amz-date", "x-amz-expires"), ("x-goog-date", "x-goog-expires"))
STAMPS = ("se",)  # Azure


def ends_at(url: str) -> datetime | None:
    """When the URL stops working; None where it does not say."""
    try:
        query = parse_qs(urlsplit(url).query)
    except ValueError:
        return None
    said = {name.casefold(): values[-1] for name, values in query.items()}
    for begin, span in SPANS:
        began, seconds = _stamp(said.get(begin, "")), _number(said.get(span, ""))
        if began is not None and seconds is not None:
            return began + timedelta(seconds=min(seconds, _LATEST))
    for name in STAMPS:
        if (end := _stamp(said.get(name, ""))) is not None:
            return end
    for name in ENDS:
        number = _number(said.get(name, ""))
        if number is not None and _EARLIEST < number < _LATEST:
            return datetime.fromtimestamp(number, UTC)
    return None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None


def _stamp(text: str) -> datetime | None:
    found = _STAMP.fullmatch(text)
    if found is None:
        return None
    try:
        return datetime(*map(int, found.groups()), tzinfo=UTC)  # type: ignore[misc, arg-type]
    except ValueError:
        return None
