"""Foreign JSON, texts, numbers and times, made safe to read, to compare and to store. Pure.

Nothing here raises for what a peer sends, but `parse`, which says what it refuses.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

Json = Any  # a JSON value as json.loads gives it

TEXT_LIMIT = 2_000  # characters of one error text
BODY_LIMIT = 65_536  # characters of the JSON that `transitions.answer` keeps
DEPTH_LIMIT = 40
VALUE_LIMIT = 100_000  # values of one body; 4 MiB of empty lists would take 200 MiB and seconds
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
QUOTES = "`'\"\u2018\u2019\u201c\u201d \t\r\n"
FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
RETRY_AFTER_LIMIT = 3_600.0  # seconds; an upstream that says ten years is not believed


class ContradictoryBodyError(Exception):
    """One object says two different things under one key."""


def parse(body: bytes, *, once: frozenset[str] = frozenset()) -> Json:
    """The JSON value of a body in any of JSON's encodings; raises ValueError where it is none.

    Two different values of a key in `once` in one object raise ContradictoryBodyError.
    """
    text = body.decode(json.detect_encoding(body), "replace")
    if len(text) > VALUE_LIMIT and sum(map(text.count, "[{,")) > VALUE_LIMIT:
        raise ValueError("too many values")
    try:
        value = _decoder(once).decode(text)
        return value if len(text) <= BODY_LIMIT else _shortened(value)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def clean_text(text: str) -> str:
    """The text without what databases refuse: NUL characters and lone surrogates."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def unstorable(value: Json, path: str = "", depth: int = 0) -> str | None:
    """What of a JSON value no database stores as it is, where `clean` changes it; None: nothing.

    The first such place is told, as `x[0].y: character 2 is U+0000`.
    """
    at = f"{path}: " if path else ""
    if isinstance(value, str):
        found = _UNSTORABLE.search(value)
        return found and f"{at}character {found.start() + 1} is U+{ord(found[0]):04X}"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{at}{value} is no number in JSON"
    if not isinstance(value, dict | list):
        return None
    if depth >= DEPTH_LIMIT:
        return f"it is nested deeper than {DEPTH_LIMIT} levels"
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        place = f"{path}[{key}]" if isinstance(value, list) else f"{path}.{key}".removeprefix(".")
        in_key = isinstance(key, str) and unstorable(key, f"{at}the key {key!a}")
        if told := in_key or unstorable(item, place, depth + 1):
            return told
    return None


def clean(value: Json, depth: int = 0) -> Json:
    """A JSON value that SQLite and PostgreSQL both store, no deeper than `DEPTH_LIMIT`."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth >= DEPTH_LIMIT and isinstance(value, dict | list):
        return "…"
    if isinstance(value, dict):
        return {clean_text(str(key)): clean(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [clean(item, depth + 1) for item in value]
    return value


def bounded(value: Json, limit: int = BODY_LIMIT) -> Json:
    """The cleaned value, or an excerpt of it where it has more than `limit` characters as JSON."""
    cleaned = clean(value)
    text = json.dumps(cleaned, ensure_ascii=False)
    if len(text) <= limit:
        return cleaned
    return {"truncated": True, "characters": len(text), "excerpt": text[:4_000]}


def dict_or_empty(value: Json) -> dict[str, Json]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text_or_none(value: Json, limit: int) -> str | None:
    """The value if it is a text that says something, cleaned, trimmed and cut to `limit`."""
    if not isinstance(value, str):
        return None
    return clean_text(value[:limit]).strip() or None


def unquoted(text: str) -> str:
    """The text without blanks, quotes and backticks around it."""
    return text.strip().strip(QUOTES).strip()


def flag(value: Json) -> bool | None:
    """A yes or no, also where upstream sent it as a number or a text; None if it is neither."""
    if isinstance(value, str):
        return FLAGS.get(value.strip().casefold())
    return bool(value) if isinstance(value, int | float) else None


def excerpt(text: str) -> str:
    """The text's beginning on one line."""
    return clean_text(" ".join(text[:TEXT_LIMIT].split()))


def number(value: object) -> float | None:
    """The value as a finite number, also where upstream sent it as a text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def progress(value: Json) -> float | None:
    """A progress as 0 to 1: what lies between is one already, all else is per cent.

    `1` is one per cent and `1.0` all of it: who writes fractions ends with that.
    """
    text = value.strip() if isinstance(value, str) else value
    percent = isinstance(text, str) and text.endswith("%")
    found = number(text.removesuffix("%") if isinstance(text, str) else text)
    if found is None or not 0 <= found <= 100:
        return None
    whole = percent or found > 1 or (found == 1 and str(text) == "1")
    return found / 100 if whole else found


def moment(value: object) -> datetime | None:
    """A time that upstream gave in seconds or milliseconds (both occur, even for one job)."""
    found = number(value)
    if found is None:
        return None
    seconds = found / 1000 if found >= 1e11 else found  # 1e11 s lies in the year 5138
    if not 946_684_800 <= seconds < 4_102_444_800:  # 2000 to 2100: anything else is no time
        return None
    return datetime.fromtimestamp(seconds, UTC)


def asked_to_wait(
    headers: Mapping[str, str], now: datetime, most: float = RETRY_AFTER_LIMIT
) -> float | None:
    """Seconds that an answer's Retry-After asks for, as `retry_after` has it.

    A date in it is measured by the answer's own `Date`, which comes from the same clock; by `now`
    where it has none.
    """
    return retry_after(headers.get("Retry-After"), _date(headers.get("Date")) or now, most)


def retry_after(value: str | None, now: datetime, most: float = RETRY_AFTER_LIMIT) -> float | None:
    """Seconds that a Retry-After header asks for, at most `most`; None where it makes no sense."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        until = _date(value)
        seconds = math.nan if until is None else until.timestamp() - now.timestamp()
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return min(seconds, most)


def _shortened(value: Json) -> Json:
    """The value with its huge texts cut, and marked: what works on them takes many times as much.

    Without the mark, a status with an end far away could become one that means something.
    """
    if isinstance(value, str):
        return value if len(value) <= BODY_LIMIT else f"{value[:BODY_LIMIT]}…"
    if isinstance(value, dict):
        return {_shortened(key): _shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return value


@cache
def _decoder(once: frozenset[str]) -> json.JSONDecoder:
    def agreeing(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        document = dict(pairs)
        if len(document) < len(pairs):  # a key occurs twice; of its values the last one was taken
            for key, value in pairs:
                if key in once and value != document[key]:
                    raise ContradictoryBodyError(f"the answer holds two different values of {key}")
        return document

    return json.JSONDecoder(object_pairs_hook=agreeing) if once else json.JSONDecoder()


def _date(text: str | None) -> datetime | None:
    """A header's date; None where it is none, or one beyond all calendars."""
    try:
        at = parsedate_to_datetime(text or "")
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
