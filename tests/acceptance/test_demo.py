"""The demo: it works as a new user would try it, and it does not say so when it does not."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from reelwatch.app import tasks
from reelwatch.cli import demo, demo_report, scenes
from reelwatch.cli.demo_report import Stage, command_prefix
from reelwatch.cli.scenes import SCENES, Reading, Scene, by_id, judge
from reelwatch.sandbox.listener import Listener, Received
from reelwatch.sandbox.registry import SCRIPTS
from tests.servers import ROOT, eventually, process

OTHER_SECRET = "whsec_" + "c29tZWJvZHkgZWxzZSdzIHNlY3JldCE="
QUICK = (Scene("grok", "ok", 0.5), Scene("veo3.1", "policy", 0.5, every_change=True))
# Workers that do nothing but say by which process id they can be found.
SLEEPER = "import os, sys, time; open(sys.argv[1], 'w').write(f'{os.getpid()} '); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo makes its own folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def run(scenes: Sequence[Scene] = QUICK, **options: Any) -> tuple[int, str]:
    """The exit code of a run inside this process, and what a pipe got to read."""
    screen = Console(file=io.StringIO(), width=80)
    with screen.capture() as capture:
        code = demo.run(screen, scenes=scenes, **options)
    return code, capture.get()


@pytest.fixture
def working(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Has a thread here do the polls and attempts; the command that is started in its place.

    The real worker takes seconds to start and to stop; one test has it.
    """
    follow = demo._follow

    def follow_meanwhile(stage: Stage, *options: Any) -> str | None:
        over = threading.Event()

        def work() -> None:
            while not over.wait(0.1):
                tasks.standby.poll()

        worker = threading.Thread(target=work)
        worker.start()
        try:
            return follow(stage, *options)
        finally:
            over.set()
            worker.join()

    monkeypatch.setattr(demo, "_follow", follow_meanwhile)
    return python(SLEEPER, folder / "sleeper")


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


# --------------------------------------------------- as a new user tries it


# What a user's shell may hold. Any of these would change the demo, or break it.
USERS_OWN = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    "BROKER_URL": "redis://127.0.0.1:1/0",
    "QUICKROUTER_API_KEY": "sk-of-the-user-and-nobody-elses",
    "REELWATCH_POLL_MIN": "10m",
    "REELWATCH_POLL_MAX": "1h",
    "REELWATCH_ACCOUNTS_FILE": "/nowhere/accounts.toml",
    "WEBHOOK_URL": "https://hooks.example.com/video",
    "LOG_LEVEL": "error",
    "http_proxy": "http://127.0.0.1:1",
}


@pytest.mark.timeout(170)
def test_the_whole_demo_works_as_a_new_user_would_try_it(folder: Path) -> None:
    """`reelwatch demo | cat`; one test, as it takes its time."""
    ran = subprocess.run(
        [sys.executable, "-m", "reelwatch.cli.main", "demo"],
        env=os.environ | USERS_OWN | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    check_summary(ran.stdout)
    (log,) = folder.glob("reelwatch-demo-*/worker.log")
    assert '"event": "poll"' in log.read_text()
    check_lines(ran.stdout)
    check_suggestions(ran.stdout)
    assert parts_of(sample()) == parts_of(ran.stdout)


def sample() -> str:
    """What the README shows of it."""
    text = (ROOT / "README.md").read_text("utf-8")
    return text.partition("$ make demo\n")[2].partition("```")[0]


def parts_of(text: str) -> set[str]:
    """What it tells besides events: how such lines begin, and the heading of the table."""
    return set(re.findall(r"^(?:[A-Za-z_]+|  Video .*\S)", text, re.MULTILINE))


def check_summary(text: str) -> None:
    assert "25 of 25 ended as scripted" in text
    assert (text.count("✓"), text.count("✗")) == (25, 0)
    owed, again = found(r"(\d+) owed events arrived, (\d+) of them repeated", text)
    assert found(r"(\d+) of \d+ owed events arrived", text) == [owed]
    assert again >= 2  # the two that the receiver refused at first
    assert found(r"(\d+) received, (\d+) verified by the receiver", text) == [owed + again] * 2
    most, allowed = found(r"at most (\d+) in one second; (\d+) were allowed", text)
    assert most <= allowed * 1.25  # on a busy machine they arrive closer together than they leave
    assert found(r"Time +(\d+)", text)[0] < 90


def check_lines(text: str) -> None:
    """A plain line per change, and nothing that only a terminal understands."""
    assert "\x1b" not in text
    lines = re.findall(r"^ *[0-9.]+s  (\S+)  (.+)$", text, re.MULTILINE)
    assert {video_id for video_id, _ in lines} == set(by_id(SCENES))
    assert (
        len([what for _, what in lines if re.search("-> (completed|failed|expired)", what)]) == 25
    )


def check_suggestions(text: str) -> None:
    """The commands to try next do something when they are pasted."""
    commands = text.partition("Try next:\n")[2].splitlines()
    assert len(commands) == 3
    shells = [
        subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    for pasted in shells:
        shown, _ = pasted.communicate(timeout=60)
        assert pasted.returncode == 0, shown
        assert re.search(r"(veo3\.1|grok|sora-2):", shown)


def found(pattern: str, text: str) -> list[int]:
    match = re.search(pattern, text)
    assert match is not None, pattern
    return [int(group) for group in match.groups()]


def test_a_terminal_sees_the_table_move_and_the_verdict_is_the_scripts(
    monkeypatch: pytest.MonkeyPatch, working: list[str]
) -> None:
    """The same run is good by its scripts, and bad by others."""
    reported: list[tuple[Stage, Reading]] = []
    report = demo_report.report

    def remember(console: Console, stage: Stage, reading: Reading, error: str | None) -> int:
        reported.append((stage, reading))
        return report(console, stage, reading, error)

    monkeypatch.setattr(demo, "report", remember)
    screen = Console(file=io.StringIO(), width=80, height=30, force_terminal=True)
    with screen.capture() as capture:
        assert demo.run(screen, scenes=QUICK, up=working) == 0
    assert "webhooks verified" in capture.get()
    assert "2 of 2 ended as scripted" in capture.get()
    monkeypatch.setattr(scenes, "expected", lambda _video_id: SCRIPTS["policy"])
    screen = Console(file=io.StringIO(), width=80)
    with screen.capture() as capture:
        assert report(screen, *reported[0], None) == 1
    assert "✗ grok:ok.0.5s-a: completed, scripted: failed content_policy" in capture.get()
    assert "1 of 2 ended as scripted" in capture.get()


def test_the_scenes_are_what_the_demo_promises() -> None:
    assert len(SCENES) == len(by_id(SCENES)) == 25
    assert {scene.model for scene in SCENES} >= {"veo3.1-fast", "veo3.1", "sora-2", "grok"}
    assert {scene.script for scene in SCENES} >= {
        "ok", "policy", "leftovers", "busy", "flaky", "html", "forgotten", "forever",
    }  # fmt: skip
    assert {SCRIPTS[scene.script].outcome for scene in SCENES} == {"completed", "failed", "expired"}
    assert sum(scene.refused_once for scene in SCENES) == 2


# ------------------------------------------------------- when it goes wrong


class TestItFailsWhen:
    def test_events_come_unverified(
        self, monkeypatch: pytest.MonkeyPatch, working: list[str]
    ) -> None:
        class Stranger(Listener):
            def __init__(self, _secrets: Sequence[str], **options: Any) -> None:
                super().__init__([OTHER_SECRET], **options)

        monkeypatch.setattr(demo, "Listener", Stranger)
        monkeypatch.setitem(demo.PACE, "REELWATCH_RETRY_SCHEDULE", "200ms")
        code, text = run([Scene("grok", "ok", 0)], up=working)
        assert code == 1
        assert "1 of 1 ended as scripted" in text
        assert "0 of 1 owed events arrived" in text
        assert re.search(r"✗ grok:ok.0s-a: video.completed \(\d\) never came verified", text)
        assert "✗ not verified: " in text

    def test_the_worker_crashes(self) -> None:
        code, text = run(up=python("import sys; sys.exit('no disk, no work')"))
        assert code == 1
        assert "✗ The worker ended by itself, with exit code 1." in text
        assert "  no disk, no work\n" in text

    def test_it_takes_too_long(self, folder: Path) -> None:
        began = time.monotonic()
        code, text = run(up=python(SLEEPER, folder / "here"), patience=1)
        assert code == 1
        assert "✗ Not everything was done after 1 s." in text
        assert time.monotonic() - began < 30

    def test_the_worker_does_not_want_to_stop(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(demo, "STOP_SECONDS", 0.2)
        code, _ = run(up=python(STUBBORN, folder / "here"), patience=1)
        assert code == 1


def test_many_problems_are_told_in_few_lines() -> None:
    code, text = run([Scene("grok", "ok", 0.5)] * 20, up=python("raise SystemExit(3)"))
    assert code == 1
    assert re.findall(r"^… and (\d+) more$", text, re.MULTILINE) == ["15"]


def test_ctrl_c_ends_the_worker_and_leaves_nothing_behind(folder: Path) -> None:
    """As do being told to end and a terminal that is closed."""
    code = (
        "import sys; from rich.console import Console; from reelwatch.cli import demo;"
        "sys.exit(demo.run(Console(), up=sys.argv[1:]))"
    )
    with ExitStack() as stack:
        demos = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            command = python(code, *python(SLEEPER, folder / number.name))
            demos[number] = stack.enter_context(process(command, {"TMPDIR": str(folder)}))
        for number, started in demos.items():
            pid = int(eventually(partial(written, folder / number.name), 30))
            started.stop_signal(number)
            assert started.wait(30) == 1
            assert "Interrupted." in started.output
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
    assert list(folder.glob("reelwatch-demo-*")) == []


def written(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def test_the_users_settings_reach_nothing_and_come_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in USERS_OWN.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    tell = "import json, os, sys; open(sys.argv[1], 'w').write(json.dumps(dict(os.environ)))"
    run(up=python(tell, folder / "told"))
    told = json.loads((folder / "told").read_text())
    assert not {name for name in USERS_OWN if told.get(name) == USERS_OWN[name]}
    assert told["DATABASE_URL"].startswith(f"sqlite:///{folder}/reelwatch-demo-")
    assert told["WEBHOOK_ALLOW"] == "127.0.0.1"
    assert dict(os.environ) == before


# ------------------------------------------------------------------ verdict

VIDEO = "grok:ok.1s-a"


def received(sequence: int, kind: str, verified: bool = True) -> Received:
    body = {"type": kind, "data": {"video_id": VIDEO, "sequence": sequence}}
    error = None if verified else "no matching signature"
    return Received("evt_1", kind, verified, body, datetime.now(UTC), error, {})


def reading(state: str = "completed", error_code: str | None = None) -> Reading:
    job = {"id": 1, "video_id": VIDEO, "state": state, "error_code": error_code, "polls": 3}
    steps = [("pending", "pending"), ("pending", "running"), ("running", state)]
    changes: list[dict[str, Any]] = [
        {"job_id": 1, "sequence": n, "from_state": before, "to_state": after}
        for n, (before, after) in enumerate(steps, 1)
    ]
    return Reading([job], [*changes, changes[0] | {"job_id": 2}], pending=0, rate=20.0)


END = received(3, "video.completed")
STEPS = [received(1, "video.status_changed"), received(2, "video.status_changed")]


class TestAVerdict:
    @pytest.mark.parametrize(
        ("every_change", "events"), [(False, [END]), (False, [END, END]), (True, [*STEPS, END])]
    )
    def test_is_good_when_all_that_is_owed_arrived(
        self, every_change: bool, events: list[Received]
    ) -> None:
        scene = Scene("grok", "ok", 1, every_change=every_change)
        (verdict,) = judge(reading(), {VIDEO: scene}, events)
        assert verdict.problems == []
        assert (verdict.polls, verdict.changes) == (3, 3)

    @pytest.mark.parametrize(
        ("every_change", "events", "problems"),
        [
            (False, [], ["video.completed (3) never came verified"]),
            (False, [received(3, "video.completed", verified=False)],
             ["video.completed (3) never came verified"]),
            (False, [received(3, "video.failed")],
             ["video.completed (3) never came verified", "video.failed (3) came unowed"]),
            (False, [*STEPS[:1], END], ["video.status_changed (1) came unowed"]),
            (True, [STEPS[0], END], ["video.status_changed (2) never came verified"]),
        ],
    )  # fmt: skip
    def test_names_what_is_missing_and_what_is_too_much(
        self, every_change: bool, events: list[Received], problems: list[str]
    ) -> None:
        scene = Scene("grok", "ok", 1, every_change=every_change)
        (verdict,) = judge(reading(), {VIDEO: scene}, events)
        assert verdict.problems == problems

    @pytest.mark.parametrize(
        ("state", "error_code", "ended"),
        [
            ("failed", "no_result", "failed no_result"),
            ("expired", "deadline", "expired deadline"),
            ("running", None, "running"),
        ],
    )
    def test_names_another_end_than_the_scripted(
        self, state: str, error_code: str | None, ended: str
    ) -> None:
        (verdict,) = judge(reading(state, error_code), by_id([Scene("grok", "ok", 1)]), [])
        assert verdict.problems[0] == f"{ended}, scripted: completed"

    def test_names_a_video_that_is_not_in_the_database(self) -> None:
        nothing = Reading([], [], pending=0, rate=20.0)
        (verdict,) = judge(nothing, by_id([Scene("grok", "ok", 1)]), [])
        assert verdict.problems == ["lost, scripted: completed"]


class TestTheWayItWasCalled:
    def test_is_quoted_by_its_path(self) -> None:
        assert command_prefix(".venv/bin/reelwatch") == ".venv/bin/reelwatch"
        assert command_prefix("/opt/my tools/reelwatch") == "'/opt/my tools/reelwatch'"

    def test_is_quoted_by_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = tmp_path / "reelwatch"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert command_prefix(str(program)) == "reelwatch"
        assert command_prefix("/elsewhere/reelwatch") == "/elsewhere/reelwatch"

    def test_is_quoted_as_a_module(self) -> None:
        assert (
            command_prefix("/x/reelwatch/cli/main.py") == f"{sys.executable} -m reelwatch.cli.main"
        )
