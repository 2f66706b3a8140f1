"""`reelwatch simulate --history`: recorded jobs, played again under other settings."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from reelwatch.storage import db
from tests import seeding
from tests.commands import command_environment, done, run


@pytest.fixture
def recorded(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """Twelve jobs that took 60 to 71 s, a cancelled one, a lost one and a running one."""
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        for number in range(14):
            began = seeding.at(seconds=100 * number)
            end = began + timedelta(seconds=58 + number)
            state, code = {0: ("cancelled", None), 1: ("failed", "not_found")}.get(
                number, ("completed", None)
            )
            seeding.add_job(
                session, state, video_id=f"veo3:{number}", model="veo3", tracked_at=began,
                upstream_created_at=began, finished_at=end, upstream_finished_at=end,
                error_code=code, next_poll_at=None,
                video_url="https://v.example.com/" if state == "completed" else None,
            )  # fmt: skip
        seeding.add_job(session, video_id="veo3:x", model="veo3")
    with command_environment(database_url, tmp_path, monkeypatch) as patch:
        yield patch


@pytest.mark.usefixtures("recorded")
class TestSimulate:
    def test_tells_what_each_choice_would_have_cost(self) -> None:
        targets = ("--target-delay", "2s", "--target-delay", "20s")
        rows = json.loads(done("simulate", "--history", "--json", "--poll-min", "1s", *targets))
        assert [row["target_delay_seconds"] for row in rows] == [2, 20]
        polls = [row["requests"] for row in rows]
        delays = [row["mean_delay_seconds"] for row in rows]
        assert polls == sorted(polls, reverse=True)
        assert delays == sorted(delays)
        assert all(row["p99_delay_seconds"] >= row["mean_delay_seconds"] for row in rows)
        assert all(row["requests_per_job"] == pytest.approx(row["requests"] / 12, abs=0.01)
                   for row in rows)  # fmt: skip

    @pytest.mark.usefixtures("uncounted")
    def test_marks_what_is_set_now(self, recorded: pytest.MonkeyPatch) -> None:
        recorded.setenv("REELWATCH_TARGET_DELAY", "4s")
        text = done("simulate", "--history")
        assert text.startswith("12 finished jobs of the account 'default', played again\n")
        (now,) = [line for line in text.splitlines() if "as set now" in line]
        assert now.split()[:5] == ["5", "s", "4", "s", "5/s"]

    @pytest.mark.usefixtures("uncounted")
    def test_a_low_rate_makes_late(self) -> None:
        rows = json.loads(
            done("simulate", "--history", "--json", "--target-delay", "3s",
                 "--rate", "5", "--rate", "0.02")
        )  # fmt: skip
        assert [row["requests_per_second"] for row in rows] == [5, 0.02]
        assert rows[1]["mean_delay_seconds"] > rows[0]["mean_delay_seconds"]

    @pytest.mark.parametrize(
        ("args", "code", "message"),
        [
            ((), 2, "say --history"),
            (("--history", "--account", "other"), 1, "no account 'other' is configured"),
            (("--history", "--rate", "0"), 2, "0"),
        ],
    )
    def test_wrong_usage_is_told(self, args: tuple[str, ...], code: int, message: str) -> None:
        result = run("simulate", *args)
        assert result.exit_code == code
        assert message in result.output


def test_without_history_there_is_nothing_to_play(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with command_environment(sqlite_url, tmp_path, monkeypatch):
        result = run("simulate", "--history")
    assert result.exit_code == 1
    assert "no finished jobs of the account 'default' to learn from yet" in result.output
