"""Log lines: any values make one line of bounded length, and spoil no terminal. Pure.

A line is at most 4,096 bytes: what is written to a pipe in one piece of that size never gets the
line of another process into its middle, and no collector splits it (Docker does at 16 KiB).
"""

import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from json import dumps
from math import isfinite
from typing import Any

LIMIT = 4095  # bytes, without the line end
DEPTH = 6  # of values within values
NODES = 200  # values of one line, all together
NAME_LIMIT = 60
WHOLE_NUMBERS = 2**63  # others' JSON readers take no larger ones
FIRST = ("timestamp", "level", "logger", "event", "worker", "pid", "batch", "task", "error")

# Somebody else's outage: where in our code it was noticed explains nothing.
OUTAGES = frozenset(
    {"OperationalError", "InterfaceError", "ConnectionError", "TimeoutError", "gaierror",
     "RedisError", "AMQPError", "ReadOnlySqlTransaction", "NotMigrated"}
)  # fmt: skip

CHANGING = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+(\.\d+)?")
SITE = re.compile(r'(File ")[^"]*/(?:site-packages|lib/python3\.\d+)/')
MARKERS = re.compile(r"\n *[~^]+(?=\n)")
DETAIL = re.compile(r"^DETAIL: .*\n(?:(?!\[SQL|[A-Z]+: |\n).*\n)*", re.MULTILINE)


# ------------------------------------------------------------------ rendering


def as_json(line: Mapping[str, Any]) -> str:
    """One line of valid JSON, in ASCII."""
    try:
        text = dumps(line, default=str, allow_nan=False)
        if "\\ud" not in text:  # half a character, or a rare one
            return text
    except Exception:  # noqa: S110 - whatever a foreign value's __str__ raises
        pass
    return dumps(plain(line), allow_nan=False)


def plain(line: Mapping[str, Any]) -> dict[str, Any]:
    """The same with values that JSON has, and no more of them than a line can hold."""
    left = iter(range(NODES))
    return {_name(name): _plain(value, DEPTH, left) for name, value in islice(line.items(), NODES)}


def _plain(value: Any, depth: int, left: Iterator[int]) -> Any:
    if next(left, None) is None or not depth:
        return "…"
    if isinstance(value, Mapping):
        some = islice(value.items(), NODES)
        return {_name(name): _plain(each, depth - 1, left) for name, each in some}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each, depth - 1, left) for each in islice(value, NODES)]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < WHOLE_NUMBERS else f"{value:#x}"
    if isinstance(value, float) and isfinite(value):
        return float(value)
    return _text(value)


def _name(value: object) -> str:
    return cut(_text(value), NAME_LIMIT)


def _text(value: object) -> str:
    """What is shown of any value; halves of characters are no text and become a mark."""
    if isinstance(value, bytes | bytearray):
        text = bytes(value).decode("utf-8", "backslashreplace")
    else:
        try:
            text = str(value)
        except Exception as error:
            text = f"({type(value).__name__}, which raises {type(error).__name__})"
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def printable(line: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a terminal: what would move its cursor, or break the line, is spelled out.

    Only a traceback keeps its line ends; it is indented, so that none of it looks like a line.
    """
    shown = {_spelled(name): _printable(value) for name, value in plain(line).items()}
    for name in ("exception", "stack"):
        if isinstance(line.get(name), str):
            shown[name] = "\n".join(f"    {_spelled(each)}" for each in line[name].splitlines())
    return shown


class _Shown:
    """A text that stands for itself where others would be quoted."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return _spelled(value)
    if isinstance(value, dict | list):
        return _Shown(dumps(value))  # in ASCII, and not quoted again: so secrets are looked for
    return value


def _spelled(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return ascii(character)[1:-1]


# ------------------------------------------------------------------- lengths


def shortened(line: Mapping[str, Any], clean: Callable[[str], str]) -> dict[str, Any]:
    """The same with texts alone, no longer than a line can hold, the longest cut in their middle.

    `clean` takes out what must not be shown: before anything is cut, or a part of it could stay.
    """
    texts = {name: clean(_one_text(value)) for name, value in plain(line).items()}
    order = [*(name for name in FIRST if name in texts), *texts]
    kept = {name: texts[name] for name in list(dict.fromkeys(order))[:40]}
    share = LIMIT
    while len(dumps(kept)) > LIMIT:
        share = share * 3 // 4
        kept = {name: _cut_to(text, share) for name, text in kept.items()}
    return kept


def _one_text(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)


def _cut_to(text: str, share: int) -> str:
    """At most so many characters as JSON writes them."""
    written = len(dumps(text))
    return text if written <= share else cut(text, len(text) * share // written)


def cut(text: str, most: int) -> str:
    """At most about so many characters: the beginning and, twice as long, the end."""
    if len(text) <= most:
        return text
    head, tail = most // 3, most - most // 3
    return f"{text[:head]} …[{len(text) - most} characters left out]… {text[len(text) - tail :]}"


# ------------------------------------------------------------------ exceptions


def is_outage(error: BaseException | None) -> bool:
    """Is a server away, or is it a mistake in somebody's program?"""
    kinds = (type(error), type(getattr(error, "orig", None)))  # the driver's, within SQLAlchemy's
    return any(each.__name__ in OUTAGES for kind in kinds for each in kind.__mro__)


def reason(error: BaseException) -> str:
    """What is wrong, in a line: not the statement, its parameters, and the library's homepage."""
    cause = getattr(error, "orig", None) or error  # the driver's own, where SQLAlchemy wraps it
    first = next(iter(_text(cause).strip().splitlines()), "")
    return f"{type(cause).__name__}: {first}" if first else type(cause).__name__


def traceback_text(error: BaseException) -> str:
    """A traceback without what takes the most room: folders of libraries, lines of markers.

    And without the rows that PostgreSQL quotes, which may hold callback URLs.
    """
    text = _text("".join(traceback.format_exception(error)))
    return MARKERS.sub("", SITE.sub(r"\1", DETAIL.sub("", text))).strip()


def unchanging(text: str) -> str:
    """What is left of a text that is told again and again: no numbers, no ids."""
    return CHANGING.sub("#", text)


def same(fields: Mapping[str, Any], names: Sequence[str] = ("timestamp", "again")) -> str:
    """A key that lines have in common which say the same."""
    kept = {name: value for name, value in fields.items() if name not in names}
    if isinstance(kept.get("error"), str):
        kept["error"] = unchanging(kept["error"])
    return as_json(kept)
