"""What is written down of an action: who did it, by which filter, what it changed. Pure.

It is read by people and kept for long: of a URL, which may hold a token, its short name is kept.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from reelwatch.rules.cleaning import clean_text
from reelwatch.rules.events import timestamp
from reelwatch.rules.wording import short_name

WHO_LIMIT = 100  # characters: the column's size
VALUE_LIMIT = 2000  # characters of a value as JSON; of a longer object only the names are kept
BY_PYTHON = "python"  # a call that does not say who
BY_TASK = "task"  # a message to `reelwatch.cancel` or `reelwatch.recheck`


class ActionName(StrEnum):
    """What can be done; to track is none: the job itself says it."""

    CANCEL = "cancel"
    RECHECK = "recheck"
    UPDATE = "update"
    REDELIVER = "redeliver"
    PAUSE = "pause"
    RESUME = "resume"
    PRUNE = "prune"


def named(who: str) -> str:
    """Who did it, as it is stored."""
    return clean_text(" ".join(who.split()))[:WHO_LIMIT] or BY_PYTHON


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What has another value now, by name: `{"from": …, "to": …}`."""
    return {
        name: {"from": kept(before[name]), "to": kept(value)}
        for name, value in after.items()
        if before[name] != value
    }


def asked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A filter: its fields that ask for something."""
    return {name: kept(value) for name, value in fields.items() if value not in (None, False, {})}


def kept(value: Any) -> Any:
    """A value as it is stored: JSON, without what may be secret, and not too long."""
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, str) and "://" in value:
        return short_name(value)
    if isinstance(value, Mapping):
        short = len(json.dumps(value, default=str)) <= VALUE_LIMIT
        return dict(value) if short else {"names": sorted(map(str, value))[:50]}
    return list(value) if isinstance(value, list | tuple) else value
