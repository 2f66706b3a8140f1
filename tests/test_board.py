"""Jobs on a screen: what each column says, what fits, and what a line per change tells."""

import io
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from reelwatch.cli.board import SYMBOLS, board, change_line, job_name, note
from reelwatch.rules.states import State
from reelwatch.rules.timing.plan import Eta
from reelwatch.rules.wording import plain, span

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
REAL_ID = "veo3.1-fast:1770350082-trii1OXZc3"
URL = "https://cdn.sandbox.example/3f1.mp4"


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def job(**facts: Any) -> dict[str, Any]:
    """A row; its next poll is expected when it is due, unless said otherwise."""
    row = {
        "video_id": REAL_ID,
        "account": "default",
        "model": "veo3.1-fast",
        "state": "running",
        "upstream_status": "video_generating",
        "polls": 7,
        "tracked_at": ago(75),
        "upstream_created_at": None,
        "upstream_finished_at": None,
        "next_poll_at": NOW + timedelta(seconds=3.2),
        "last_polled_at": ago(2),
        "finished_at": None,
        "error_code": None,
        "error_message": None,
        "video_url": None,
        "last_error": None,
        "errors_in_row": 0,
        "next_poll_reason": None,
    } | facts
    return {"next_poll_expected_at": row["next_poll_at"]} | row


def ended(state: str, seconds_ago: float = 9, **facts: Any) -> dict[str, Any]:
    return job(state=state, finished_at=ago(seconds_ago), next_poll_at=None, **facts)


COMPLETED = ended("completed", upstream_status="completed", video_url=URL)
FAILED = ended(
    "failed",
    upstream_status="failed",
    error_code="content_policy",
    error_message="[400] Request failed with status code 400 | Reason: PUBLIC_ERROR_SEXUAL",
)
EXPIRED = job(state="expired", error_code="deadline", error_message="the deadline passed")
FAILING = job(last_error="rate_limited", errors_in_row=3)


def foretold(p50: float | None, p90: float | None, *, slow: bool = False) -> dict[str, Any]:
    return job(eta=Eta(p50, p90, slow, 12, 130.9)._asdict())


FORETOLD = foretold(41.2, 95.0)
SLOW = foretold(125.4, 600.0, slow=True)
UNMEASURED = {**foretold(None, None), "last_polled_at": NOW, "tracked_at": ago(75)}
UNMEASURED["eta"] |= {"longest_seconds": 60.0}
EVERY_KIND = [
    UNMEASURED,
    job(),
    FORETOLD,
    SLOW,
    FAILING,
    COMPLETED,
    FAILED,
    EXPIRED,
    ended("cancelled"),
    job(state="pending", upstream_status=None, polls=0),
]


def shown(*rows: dict[str, Any], width: int, height: int | None = None) -> str:
    """What a pipe gets; with a height, what a terminal of that height gets, without its colours."""
    screen = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=height is not None
    )
    with screen.capture() as capture:
        screen.print(board(rows, NOW))
    return re.sub(r"\x1b\[[0-9;]*m", "", capture.get())


def line_of(row: dict[str, Any], width: int) -> str:
    return shown(row, width=width).splitlines()[1].rstrip()


class TestAWideTable:
    @pytest.mark.parametrize(
        ("row", "cells"),
        [
            (job(), ["▸ running", "video_generating", "1m15s", "7", "4s", "", ""]),
            (FORETOLD, ["▸ running", "video_generating", "1m15s", "7", "4s", "~41s", ""]),
            (SLOW, ["▸ running", "video_generating", "1m15s", "7", "4s", "~2m05s",
                    "slower than 95 %"]),
            (UNMEASURED, ["▸ running", "video_generating", "1m15s", "7", "4s", "?",
                          "longer than any o…"]),
            (FAILING, ["▸ running", "video_generating", "1m15s", "7", "4s", "", "3x rate_limited"]),
            (COMPLETED, ["✓ completed", "completed", "1m06s", "7", "", "", "cdn.sandbox.examp…"]),
            (FAILED, ["✗ failed", "failed", "1m06s", "7", "", "", "content_policy: […"]),
            (EXPIRED, ["? expired", "video_generating", "1m15s", "7", "4s", "",
                       "deadline: the dea…"]),
            (ended("cancelled"), ["■ cancelled", "video_generating", "1m06s", "7", "", "", ""]),
            (job(state="pending", upstream_status=None),
             ["○ pending", "", "1m15s", "7", "4s", "", ""]),
        ],
    )  # fmt: skip
    def test_says_all_of_a_job(self, row: dict[str, Any], cells: list[str]) -> None:
        edges = (0, 35, 47, 74, 81, 87, 94, 102, 120)
        line = line_of(row, 120)
        assert [line[begin:end].strip() for begin, end in pairwise(edges)] == [REAL_ID, *cells]

    def test_has_a_header(self) -> None:
        header = shown(job(), width=120).splitlines()[0].split()
        assert header == ["Video", "State", "Upstream", "Time", "Polls", "Next", "Left", "Note"]


class TestANarrowTable:
    @pytest.mark.parametrize(
        ("age", "text"), [(862, "14m"), (245, "4m05s"), (43_500, "12h"), (1_000_000, "11d")]
    )
    def test_shortens_a_time_to_its_first_unit_instead_of_cutting_it(
        self, age: float, text: str
    ) -> None:
        line = line_of(job(tracked_at=ago(age)), 80)
        assert f" {text} " in line
        assert "…" not in line.partition("running")[2]

    @pytest.mark.parametrize(
        ("row", "line"),
        [
            (job(), "veo3.1-fast…-trii1OXZc3 ▸ running   generating  1m15s     7 4s"),
            (FORETOLD, "veo3.1-fast…-trii1OXZc3 ▸ running   generating  1m15s     7 4s,"
                       " ~41s"),
            (SLOW, "veo3.1-fast…-trii1OXZc3 ▸ running   generating  1m15s     7 4s,"
                   " ~2m05s, slow"),
            (UNMEASURED, "veo3.1-fast…-trii1OXZc3 ▸ running   generating  1m15s     7 4s,"
                         " no estimate"),
            (FAILING, "veo3.1-fast…-trii1OXZc3 ▸ running   generating  1m15s     7 4s,"
                       " 3x rate_limited"),
            (COMPLETED, "veo3.1-fast…-trii1OXZc3 ✓ completed completed   1m06s     7"
                        " cdn.sandbox.example"),
            (FAILED, "veo3.1-fast…-trii1OXZc3 ✗ failed    failed      1m06s     7 content_policy"),
            (EXPIRED, "veo3.1-fast…-trii1OXZc3 ? expired   generating  1m15s     7 4s, deadline"),
        ],
    )  # fmt: skip
    def test_says_the_same_in_80_columns(self, row: dict[str, Any], line: str) -> None:
        assert line_of(row, 80) == line

    @pytest.mark.parametrize(("width", "gone"), [(64, {"Upstream"}), (50, {"Upstream", "Time"})])
    def test_leaves_columns_out_below_that(self, width: int, gone: set[str]) -> None:
        header = set(shown(job(), width=width).splitlines()[0].split())
        assert {"Video", "State", "Next,"} <= header
        assert not gone & header


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 81, 100, 117, 118, 120, 200])
def test_no_line_is_wider_than_the_screen_and_none_is_wrapped(width: int) -> None:
    lines = shown(*EVERY_KIND, width=width).splitlines()
    assert len(lines) == 1 + len(EVERY_KIND)
    assert max(cell_len(line) for line in lines) <= width


def test_every_state_has_a_symbol_and_a_colour_of_its_own() -> None:
    assert set(SYMBOLS) == set(State)
    for place in (0, 1):
        assert len({poll[place] for poll in SYMBOLS.values()}) == len(SYMBOLS)


def test_a_pipe_gets_no_control_codes() -> None:
    screen = Console(file=io.StringIO(), width=120)
    with screen.capture() as capture:
        screen.print(board(EVERY_KIND, NOW))
    assert "\x1b" not in capture.get()


@pytest.mark.parametrize("width", [80, 120])
def test_foreign_text_is_only_text(width: int) -> None:
    nasty = "\x1b[2J[red]x[/red]\n\u202eline two"
    rows = [
        job(upstream_status=nasty),
        ended("failed", error_code="no_result", error_message=nasty),
    ]
    text = shown(*rows, width=width)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]" in text
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"next_poll_at": NOW + timedelta(seconds=0.2)}, "1s"),
        ({"next_poll_at": NOW + timedelta(minutes=5)}, "5m00s"),
        ({"next_poll_at": ago(3)}, "now"),
        ({"next_poll_expected_at": NOW, "next_poll_reason": "polled now"}, "polled now"),
        (
            {"next_poll_at": ago(3), "next_poll_expected_at": NOW + timedelta(minutes=5)},
            "5m00s",
        ),
        ({"next_poll_at": ago(3), "next_poll_expected_at": None}, "?"),
        ({"state": "expired", "error_code": "deadline", "next_poll_at": None}, "deadline"),
    ],
)
def test_the_last_column_says_when_the_next_poll_is_or_why_there_is_none(
    facts: dict[str, Any], text: str
) -> None:
    assert line_of(job(**facts), 120).endswith(f" {text}")


@pytest.mark.parametrize("width", [80, 140])
def test_what_holds_a_job_up_stands_in_its_row(width: int) -> None:
    held = job(next_poll_expected_at=None, next_poll_reason="account default is paused by hand")
    line = line_of(held, width)
    assert "?" in line
    assert "account" in line


class TestALowTerminal:
    def test_shows_open_jobs_and_those_that_ended_last(self) -> None:
        rows = [
            ended("completed", 50, video_id="a:first", video_url=URL),
            job(video_id="b:open"),
            ended("completed", 5, video_id="c:last", video_url=URL),
            job(video_id="d:open"),
        ]
        lines = shown(*rows, width=80, height=8).splitlines()
        assert [line.split()[0] for line in lines[1:]] == ["b:open", "c:last", "d:open", "…"]
        assert lines[-1] == "… and 1 more"

    def test_shows_at_least_one_job(self) -> None:
        assert "… and 9 more" in shown(*EVERY_KIND, width=80, height=2)

    def test_a_pipe_has_no_height(self) -> None:
        assert "more" not in shown(*[job() for _ in range(200)], width=80)


class TestAChangeLine:
    @pytest.mark.parametrize(
        ("before", "after", "line"),
        [
            (None, job(), f"{REAL_ID}  running  video_generating"),
            (None, job(state="pending", upstream_status=None), f"{REAL_ID}  pending"),
            (
                job(state="pending", upstream_status="pending"),
                job(),
                f"{REAL_ID}  pending -> running  video_generating",
            ),
            (
                job(),
                job(upstream_status="video_upsampling"),
                f"{REAL_ID}  video_upsampling",
            ),
            (job(), COMPLETED, f"{REAL_ID}  running -> completed  cdn.sandbox.example"),
            (job(), FAILED, f"{REAL_ID}  running -> failed  content_policy"),
            (job(), EXPIRED, f"{REAL_ID}  running -> expired  deadline"),
            (job(), FAILING, f"{REAL_ID}  3x rate_limited"),
        ],
    )
    def test_tells_what_is_new(
        self, before: dict[str, Any] | None, after: dict[str, Any], line: str
    ) -> None:
        assert change_line(before, after) == line

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (job(), job()),
            (job(), job(polls=8, next_poll_at=NOW + timedelta(seconds=60))),
            (FAILING, job(last_error="rate_limited", errors_in_row=4)),
            (FAILING, job()),
        ],
    )
    def test_is_empty_when_nothing_moved(
        self, before: dict[str, Any], after: dict[str, Any]
    ) -> None:
        assert change_line(before, after) == ""

    def test_is_one_line_of_plain_text(self) -> None:
        assert "\n" not in change_line(None, job(upstream_status="a\nb\x1b[31m"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m00s"), (3_599, "59m59s"), (3_600, "1h00m"),
     (86_399, "23h59m"), (86_400, "1d00h"), (99 * 86_400 + 3_600, "99d01h")],
)  # fmt: skip
def test_a_span_takes_six_characters_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text
    assert len(text) <= 6


def test_another_account_stands_before_the_id() -> None:
    assert job_name(job(account="team-b")) == f"team-b/{REAL_ID}"


@pytest.mark.parametrize(
    ("url", "text"),
    [(URL, "cdn.sandbox.example"), ("https://[broken/x", "an address that can't be read")],
)
def test_a_url_is_told_by_its_host(url: str, text: str) -> None:
    assert note(ended("completed", video_url=url)) == text


def test_plain_keeps_letters_of_all_scripts() -> None:
    assert plain("当前\u2028饱和\u00a0é\x00") == "当前 饱和 é "
