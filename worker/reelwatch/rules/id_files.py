"""Ids out of a file: one a line, a column of a CSV file, or JSON with what it says of them. Pure.

Whatever is wrong is told with its line, and then nothing of the file counts.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from reelwatch.errors import ReelwatchError, Refused
from reelwatch.rules.redaction import HIDDEN, MASK
from reelwatch.rules.video_ids import check_video_id, looks_usual

# The names of a column or key that holds ids, the surest first: `id` may be of something else.
NAMES = ("video_id", "task_id", "id")
_OR_ID = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
# What an object may say besides; each as `track` takes it.
ORDERS = (
    "account", "webhook_url", "callback_task", "callback_queue", "metadata", "deadline", "events",
    "channels",
)  # fmt: skip
DELIMITERS = ",;\t"
CSV_ENDS = (".csv", ".tsv")


@dataclass(frozen=True, slots=True)
class Found:
    """The ids of a file, in order, and where in it they stood (None: one a line)."""

    ids: list[str]
    where: str | None = None
    orders: list[dict[str, Any]] = field(default_factory=list)  # of each id; empty: nothing is said

    def told(self, file: str) -> str:
        """What was read, for people."""
        count = f"{len(self.ids)} id{'s' * (len(self.ids) != 1)}"
        place = f", {self.where}" if self.where else ""
        repeated = len(self.ids) - len(set(self.ids))
        again = f", {repeated} of them repeated" if repeated else ""
        said = [name for name in ORDERS if any(name in order for order in self.orders)]
        besides = f", with its {', '.join(said)}" if said else ""
        return f"{count} from {file}{place}{again}{besides}"


class _Row(NamedTuple):
    line: int
    cells: list[str]


def read(data: bytes, name: str) -> Found:
    """The ids in a file of that name; each is checked. Raises `Refused`.

    An empty list, a header or a comment says that there are none. A file in which nothing stands
    does not: what should have written it may have failed, so that is a `ReelwatchError`.
    """
    text = _decoded(data, name)
    if not text.strip():
        raise ReelwatchError(
            f"nothing stands in {name}: did what writes it fail? (`[]` says that there are no ids)"
        )
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not lines:
        return Found([])
    first = lines[0][1]
    if first[0] in "{[":
        return _from_json(text, lines, name)
    if name.casefold().endswith(CSV_ENDS) or _named(_cells(first, _delimiter(first))):
        return _from_csv(text, name)
    return Found([_checked(line, f"line {number}", name) for number, line in lines])


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise Refused(f"line {number} of {name}: no UTF-8 text") from None


def _checked(text: object, place: str, name: str) -> str:
    try:
        return check_video_id(text)
    except Refused as error:
        raise Refused(f"{place} of {name}, {error.said}") from None


# --------------------------------------------------------------------- CSV


def _from_csv(text: str, name: str) -> Found:
    delimiter = _delimiter(next(_content(text), ""))
    rows = list(_rows(text, delimiter, name))
    if not rows:
        raise Refused(f"no row of {name} holds anything")
    header = rows[0].cells
    column = _named(header)
    if column:
        return _column(rows[1:], header.index(column), f"column {column.strip()}", name)
    at = _usual(rows)
    first = header[at] if at < len(header) else ""
    named = not looks_usual(first.strip()) and len(rows) > 1
    where = f"column {first.strip()}" if named and first.strip() else f"column {at + 1}"
    return _column(rows[named:], at, where, name)


def _content(text: str) -> Iterator[str]:
    """The lines that say something."""
    return (line for line in text.split("\n") if line.strip() and not line.startswith("#"))


def _delimiter(line: str) -> str:
    return max(DELIMITERS, key=line.count)


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _rows(text: str, delimiter: str, name: str) -> Iterator[_Row]:
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells) and not cells[0].startswith("#"):
                yield _Row(reader.line_num, cells)
    except csv.Error as error:
        raise Refused(f"line {reader.line_num} of {name}: {error}") from None


def _named(header: Sequence[str]) -> str | None:
    """The column that is named as one of ids."""
    by_name = {_plain(cell): cell for cell in reversed(header)}
    return next((by_name[each] for each in map(_plain, NAMES) if each in by_name), None)


def _plain(title: str) -> str:
    return "".join(character for character in title.casefold() if character.isalnum())


def _usual(rows: Sequence[_Row]) -> int:
    """The first column whose values look as ids do, whatever its title; of one column, that one."""
    width = max(len(row.cells) for row in rows)
    below = rows[1:] or rows
    for at in range(width):
        values = [row.cells[at].strip() for row in below if len(row.cells) > at]
        if values and all(looks_usual(value) for value in values if value) and any(values):
            return at
    return 0 if width == 1 else _unknown()


def _unknown() -> int:
    raise Refused(
        f"no column is named {_OR_ID}, and none holds ids such as "
        "veo3.1-fast:1770350082-trii1OXZc3: name one in the first line"
    )


def _column(rows: Iterable[_Row], at: int, where: str, name: str) -> Found:
    ids = []
    for row in rows:
        cell = row.cells[at].strip() if at < len(row.cells) else ""
        if not cell:
            raise Refused(f"line {row.line} of {name}: {where} is empty")
        ids.append(_checked(cell, f"line {row.line}", name))
    return Found(ids, where)


# -------------------------------------------------------------------- JSON


def _from_json(text: str, lines: Sequence[tuple[int, str]], name: str) -> Found:
    """A list of ids or of objects with one, or an object a line."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        values = [(f"line {number}", _parsed(line, number, name)) for number, line in lines]
    else:
        items = document if isinstance(document, list) else [document]
        values = [(f"item {number}", each) for number, each in enumerate(items, 1)]
    keys = {key for _, value in values if isinstance(value, dict) for key in value}
    key = next((each for each in NAMES if each in keys), None)
    if keys and key is None:
        raise Refused(f"no key in {name} is named {_OR_ID}")
    ids = [_checked(_of(value, key, place, name), place, name) for place, value in values]
    orders = [_order(value, place, name) for place, value in values]
    return Found(ids, f"key {key}" if key else None, orders if any(orders) else [])


def _order(value: object, place: str, name: str) -> dict[str, Any]:
    """What an object says of its id besides. A secret that was cut out of it can't be handed in."""
    if not isinstance(value, dict):
        return {}
    order = {each: value[each] for each in ORDERS if value.get(each)}
    for each, said in order.items():
        if MASK in json.dumps(said) or (each == "webhook_url" and HIDDEN in str(said)):
            raise Refused(f"{place} of {name}: {each}: a secret was cut out of it: {said!r}")
    return order


def _parsed(line: str, number: int, name: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise Refused(f"line {number} of {name}: no JSON, as the file's first line is") from None


def _of(value: object, key: str | None, place: str, name: str) -> object:
    if not isinstance(value, dict) or key is None:
        return value
    if value.get(key) is None:  # `id` may be of something else where others have a surer key
        other = next((each for each in NAMES if value.get(each) is not None), None)
        beside = (
            f", only {other}; another one has {key}, and all are read by one key" if other else ""
        )
        raise Refused(f"{place} of {name} has no {key}{beside}")
    return value[key]
