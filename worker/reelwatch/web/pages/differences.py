"""What changed in an answer against the one before. Pure."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from reelwatch.rules.wording import plain

MOST = 40  # differences that are shown of one answer
LONGEST = 300  # characters of one value


@dataclass(frozen=True, slots=True)
class Difference:
    """One place in the document; `before` or `after` None: it was not there."""

    path: str
    before: str | None
    after: str | None


def differences(before: Any, after: Any) -> Sequence[Difference]:
    """Place by place, in the order of the newer document, what has gone last; at most `MOST`."""
    old, new = dict(_leaves(before, "")), dict(_leaves(after, ""))
    found = [
        Difference(path, old.get(path), value)
        for path, value in new.items()
        if old.get(path) != value
    ]
    found += [Difference(path, value, None) for path, value in old.items() if path not in new]
    return found[:MOST]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _leaves(each, f"{path}.{plain(key)}" if path else plain(key))
    elif isinstance(value, list) and value:
        for number, each in enumerate(value):
            yield from _leaves(each, f"{path}[{number}]")
    else:
        yield path or "(all)", _text(value)


def _text(value: Any) -> str:
    text = plain(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
