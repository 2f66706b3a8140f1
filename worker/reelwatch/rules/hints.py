"""What to do about a receiver that did not take an event. Pure."""

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

LOCATION_LIMIT = 200  # characters
TOLERATED_SECONDS = 300  # between the clocks of sender and receiver, as Standard Webhooks has it

OF_STATUS: Mapping[int, str] = {
    404: "is the path right? Events come by POST",
    405: "is the path right? Events come by POST",
    410: "a 410 ends the delivery of an event at once: it is not sent again",
    411: "does something before the receiver want another form of request?",
    413: "does something before the receiver limit the size of requests?",
    415: "it has to take application/json",
    429: "events are tried again later, and a Retry-After is honoured",
}


def allow(host: str, present: str = "") -> str:
    """How to permit a host that is not public, beside those that WEBHOOK_ALLOW names at present."""
    named = [entry for each in present.split(",") if (entry := each.strip())]
    value = ",".join([*named, host])
    return (
        f"WEBHOOK_ALLOW={value} permits it (hosts and networks, comma-separated): set it "
        "here to try, and for the workers and whoever hands in ids"
    )


def after_status(status: int, headers: Mapping[str, str], secret_place: str, now: datetime) -> str:
    """The hint for an answer that is not 2xx; `headers` must look names up in any case."""
    if 300 <= status < 400:
        to = f" ({location[:LOCATION_LIMIT]})" if (location := headers.get("Location")) else ""
        return f"redirects are not followed: give the address that it leads to{to}"
    if status in (400, 401, 403):
        return _unverified(secret_place) + _of_clocks(headers.get("Date"), now)
    if status >= 500:
        return "the receiver's own log says why; events are tried again on their schedule"
    return OF_STATUS.get(status, "only 2xx means that an event has arrived")


def _unverified(place: str) -> str:
    return (
        f"has the receiver the secret that stands in {place} here, and does it verify the raw "
        "bytes of the body, before parsing them?"
    )


def _of_clocks(date: str | None, now: datetime) -> str:
    try:
        apart = (parsedate_to_datetime(date or "") - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return ""
    if abs(apart) <= TOLERATED_SECONDS:
        return ""
    ahead = "ahead of" if apart > 0 else "behind"
    return f" Its clock is {abs(apart) / 60:.0f} minutes {ahead} this one: signatures go stale"
