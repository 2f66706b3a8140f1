"""Whatever is said makes one line: valid, bounded, and harmless to whoever reads it."""

import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reelwatch.config import log
from reelwatch.config.settings import Settings
from reelwatch.rules import lines
from tests.logs import Lines, logging_put_back

KEY = "1234567890123456"  # of digits alone: it may stand in numbers, too

texts = st.text() | st.text(alphabet=st.characters(categories=["Cs", "Cc", "Cf", "Zl", "Zp"]))
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary()
    | st.sampled_from(["x" * 30_000, "é" * 9_000, "\x00" * 5_000, KEY, int(KEY)])
    | st.datetimes() | st.decimals() | st.builds(object) | st.builds(ValueError, texts)
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(texts | st.integers() | st.tuples(st.integers()), inner)
        | st.tuples(inner, inner)
    ),
    max_leaves=30,
)
TAKEN = {"event", "exc_info", "stack_info", "positional_args", "self", "timestamp", "level"}
fields = st.dictionaries(texts.filter(lambda name: name not in TAKEN), values, max_size=60)


class Unspeakable:
    """A value of somebody else's that can't even be named."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.fixture(scope="module", params=["json", "console"])
def told(request: pytest.FixtureRequest) -> Iterator[tuple[str, Lines]]:
    """The format, and what is written in it."""
    stream = Lines()
    with logging_put_back(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setenv("QUICKROUTER_API_KEY", KEY)
        log.configure(Settings(log_format=request.param, log_level="debug"))
        yield request.param, stream


def emptied(stream: Lines) -> None:
    """Begin anew, without pytest's own handler: it would choke on some of this."""
    root = logging.getLogger()
    root.handlers[:] = [each for each in root.handlers if type(each) is logging.StreamHandler]
    stream.seek(0)
    stream.truncate()


def deep(levels: int) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = [value]
    return value


def circle() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["again"] = found
    return found


@settings(max_examples=50, deadline=None)
@given(event=texts, more=fields)
@example(event="", more={f"n{i}": "x" * 90 for i in range(60)})
@example(event="x" * 100_000, more={"x" * 100_000: "y" * 100_000})
@example(event="\x1b[2J\r\nforged", more={"a": "\x1b]0;owned\x07", "\x1b[1m": "\u202egnitirw"})
@example(event="", more={"number": float("nan"), "id": int(KEY), "half": "\ud800"})
def test_anything_makes_one_line(told: tuple[str, Lines], event: str, more: dict[str, Any]) -> None:
    """Of at most 4,096 bytes: nobody else's line gets into its middle, on a pipe."""
    check(*told, event, more)


@pytest.mark.parametrize(
    "more",
    [
        {"a": deep(3_000)},
        {"a": [Unspeakable()], "b": Unspeakable()},
        circle(),
        {"n": [10**5_000, -(10**5_000)]},
    ],
    ids=["deep", "unspeakable", "circle", "huge"],
)
def test_even_what_nobody_can_print(told: tuple[str, Lines], more: dict[str, Any]) -> None:
    check(*told, "", more)


def check(form: str, stream: Lines, event: str, more: dict[str, Any]) -> None:
    """Say it, as one of ours and as others do, and poll the two lines."""
    emptied(stream)
    structlog.get_logger("anything").info(event, **{str(k): v for k, v in more.items()})
    logging.getLogger("elsewhere").info("%s", event, extra={"more": more})
    ours, theirs, end = stream.getvalue().split("\n")
    assert end == ""
    for line in (ours, theirs):
        assert len(line.encode()) <= 4095 if form == "json" else len(line) <= 3 * 4095
        assert line.isprintable()
        assert KEY not in line
        if form == "json":
            parsed = json.loads(line, parse_constant=pytest.fail)
            assert isinstance(parsed, dict)
            assert {"event", "level", "logger", "timestamp"} <= parsed.keys()
            json.dumps(parsed, ensure_ascii=False).encode()  # no half characters


def raised(error: Exception) -> Exception:
    try:
        raise error  # noqa: TRY301
    except Exception as caught:
        return caught


def test_a_long_traceback_is_cut_in_its_middle(told: tuple[str, Lines]) -> None:
    form, stream = told
    emptied(stream)
    error = raised(ValueError("the reason"))
    for _ in range(20):
        error = _wrapped(error)
    structlog.get_logger("anything").error("crashed", exc_info=error)
    if form == "json":
        (line,) = stream.lines
        assert line["exception"].startswith("Traceback")
        assert "characters left out" in line["exception"]
        assert line["exception"].endswith("RuntimeError: outer")
    else:
        assert all(line.startswith("    ") for line in stream.getvalue().splitlines()[1:])


def _wrapped(error: Exception) -> Exception:
    try:
        raise RuntimeError("outer") from error  # noqa: TRY301
    except RuntimeError as caught:
        return caught


def test_a_forged_line_in_an_error_can_not_be_taken_for_one(told: tuple[str, Lines]) -> None:
    _, stream = told
    emptied(stream)
    error = raised(ValueError("odd\n2026-01-01 [info] all is well\n\x1b[2J"))
    structlog.get_logger("anything").error("crashed", exc_info=error)
    assert not re.search("^2026-01-01 ", stream.getvalue(), re.MULTILINE)
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a" * 10, "a" * 10), ("head" + "x" * 96, "head" + "x" * 6 + " …[70 characters left out]… ")],
)
def test_a_text_is_cut_to_the_room_there_is(text: str, shown: str) -> None:
    assert lines.cut(text, 30).startswith(shown)
