"""How Celery's processes are named, sized, limited and ended: by real signals, of real workers."""

import ast
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency import asynpool
from redis import Redis
from sqlalchemy import text

from reelwatch.app import embedded, processes
from reelwatch.sandbox.listener import Listener
from reelwatch.sandbox.scripts import scripted_id
from reelwatch.sandbox.upstream import Sandbox
from reelwatch.storage import db
from tests.environment import SECRET
from tests.fleet import BEAT, START_SECONDS, WORKER, Fleet, fleet
from tests.processes import Process, eventually, process
from tests.thread_limits import limited

RATE = 50.0  # polls a second; ten seconds of them are what a batch would go on for
JOBS = 150
ASKED = 60  # looks after which the worker is in the middle of a batch


def slow_ids(count: int) -> list[str]:
    """Ids of jobs that go on for longer than any test."""
    return [scripted_id("grok", "ok", 600.0, f"n{i}") for i in range(count)]


def asked(deployed: Fleet) -> int:
    return int(deployed.sandbox.stats()["requests"])


@pytest.fixture
def busy(postgresql_url: str, redis_url: str) -> Iterator[Fleet]:
    """A worker in the middle of a batch that would last for seconds, and its beat."""
    with fleet(postgresql_url, redis_url, RATE, REELWATCH_POLL_MAX="1s") as deployed:
        deployed.start_all(workers=1, beats=1)
        deployed.send("reelwatch.track", *slow_ids(JOBS))
        eventually(lambda: asked(deployed) >= ASKED, START_SECONDS)
        yield deployed


def children(parent: Process) -> list[int]:
    """The processes of its pool."""
    found = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text()
    return [int(pid) for pid in found.split()]


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# --------------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("to_group", "signals"),
    [
        (False, [signal.SIGTERM]),
        (True, [signal.SIGTERM]),
        (True, [signal.SIGINT, signal.SIGTERM]),
        (True, [signal.SIGTERM, signal.SIGTERM, signal.SIGQUIT]),
        (True, [signal.SIGHUP, signal.SIGTERM]),
    ],
    ids=["docker", "heroku", "ctrl-c-in-foreman", "impatient", "closed-terminal"],
)
def test_a_worker_that_is_asked_to_end_begins_nothing_and_loses_nothing(
    busy: Fleet, to_group: bool, signals: Sequence[signal.Signals]
) -> None:
    """Whoever sends the signal, and to whom: what upstream was asked is written down, all of it."""
    worker, beat = busy.processes
    before = asked(busy)
    for each in signals:
        os.killpg(worker.pid, each) if to_group else worker.stop_signal(each)
    assert worker.wait(60) == 0
    sent_since = asked(busy) - before
    assert beat.terminate(60) == 0
    (written,) = busy.rows("SELECT sum(polls), count(lease_token) FROM jobs")
    assert written == (asked(busy), 0), "answers were lost, or jobs wait for a lease to run out"
    assert sent_since < RATE, "it went on for longer than its slots reach ahead"
    assert "Traceback" not in worker.output
    assert "WorkerLostError" not in worker.output


def test_children_do_not_outlive_a_parent_that_was_killed(busy: Fleet) -> None:
    worker = busy.processes[0]
    orphans = children(worker)
    assert len(orphans) >= processes.LEAST_PROCESSES
    os.kill(worker.pid, signal.SIGKILL)
    eventually(lambda: not any(map(alive, orphans)), 30)


def test_hangup_alone_ends_them_but_not_under_nohup(postgresql_url: str, redis_url: str) -> None:
    with fleet(postgresql_url, redis_url, RATE) as deployed:
        deployed.start_all(workers=1, beats=1)
        beside = str(Path(sys.executable).parent / "celery")
        spared = [deployed.start(("nohup", beside, *command[1:])) for command in (WORKER, BEAT)]
        spared[0].wait_for(" ready", START_SECONDS)
        deployed.send("reelwatch.track", *slow_ids(1))
        eventually(lambda: asked(deployed), 60, deployed.log)  # beat has its handlers too
        for each in deployed.processes[:2]:
            each.stop_signal(signal.SIGHUP)
            assert each.wait(60) == 0
        spared[1].wait_for("beat_starting", START_SECONDS)
        before = asked(deployed)
        eventually(lambda: asked(deployed) > before, 60, deployed.log)
        assert all(ignores(each.pid, signal.SIGHUP) for each in spared)
        assert "Restarting" not in deployed.log()
        assert deployed.terminate_all() == [0, 0]


def ignores(pid: int, number: signal.Signals) -> bool:
    (mask,) = re.findall(r"SigIgn:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_pool_that_dies_just_before_its_broker_is_made_anew(
    postgresql_url: str, redis_url: str
) -> None:
    """What is killed is told in JSON; what is not wound up yet when the worker connects again,
    which is what a system under load does, ends nothing."""
    with fleet(postgresql_url, redis_url, RATE) as deployed:
        worker = deployed.start(WORKER)
        worker.wait_for(" ready", START_SECONDS)
        for number in range(2):
            eventually(lambda: len(children(worker)) > 2, 60)
            for each in children(worker):
                os.kill(each, signal.SIGKILL)
            time.sleep(0.05)  # so that some are noticed, and not all of them
            with Redis.from_url(redis_url) as broker:
                broker.execute_command("CLIENT", "KILL", "TYPE", "normal")
            deployed.send("reelwatch.track", f"sora-2:{number}")
            taken_in = partial(
                deployed.rows, f"SELECT 1 FROM jobs WHERE video_id = 'sora-2:{number}'"
            )
            eventually(taken_in, 60, deployed.log)
        assert worker.terminate(60) == 0
        said = [json.loads(line) for line in worker.output.splitlines()]
    assert any("SIGKILL" in line["event"] for line in said)


def test_what_has_ended_and_is_not_wound_up_yet_is_not_watched() -> None:
    """As the pool registers its processes with a new event loop."""
    pool: Any = asynpool.AsynPool.__new__(asynpool.AsynPool)
    processes._watch_the_living()
    watched: list[int] = []
    hub = SimpleNamespace(add_reader=lambda fd, *_: watched.append(fd))
    pool._track_child_process(SimpleNamespace(_sentinel_poll=None), hub)
    pool._track_child_process(SimpleNamespace(_sentinel_poll=7), hub)
    assert watched == [7]


# ------------------------------------------------------- where nobody reads the log


def test_workers_and_beat_work_and_end_while_nobody_reads_their_log(
    postgresql_url: str, redis_url: str
) -> None:
    """From their start, with a closed pipe for standard output and error."""
    with fleet(postgresql_url, redis_url, RATE) as deployed:
        for command in (WORKER, BEAT):
            beside = str(Path(sys.executable).parent / "celery")
            unread = [sys.executable, "-c", UNREAD, beside, *command[1:]]
            deployed.processes.append(process(unread, deployed.environment | BUFFERED))
        deployed.send("reelwatch.track", *slow_ids(3), "bad\nid")
        eventually(lambda: asked(deployed) > 10, 90)
        assert all(each.running for each in deployed.processes)
        assert deployed.terminate_all() == [0, 0]


BUFFERED = {"PYTHONUNBUFFERED": ""}  # as anybody else starts them

UNREAD = """
import os, sys
reading, writing = os.pipe()
os.close(reading)
os.dup2(writing, 1)
os.dup2(writing, 2)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("streams", ["2>&-", "<&- >&- 2>&-", ">/dev/full 2>&1"])
def test_up_works_and_ends_without_its_streams(
    alone: dict[str, str], tmp_path: Path, sandbox: Sandbox, streams: str
) -> None:
    beside = str(Path(sys.executable).parent / "reelwatch")
    command = ["sh", "-c", f'exec "$0" up {streams}', beside]
    with process(command, alone | BUFFERED | {"REELWATCH_POLL_MAX": "1s"}, tmp_path) as up:
        database = tmp_path / "up.db"
        eventually(lambda: database.exists() or not up.running, START_SECONDS)
        eventually(lambda: tracked(alone) or not up.running, 60)
        eventually(lambda: sandbox.stats()["requests"] > 2 or not up.running, 60)
        assert up.terminate(60) == 0
        assert "Traceback" not in up.output


def tracked(environment: dict[str, str]) -> bool:
    """Once the tables are there."""
    with process(["reelwatch", "track", *slow_ids(3)], environment) as track:
        return track.wait() == 0


def test_a_second_ctrl_c_ends_a_worker_at_once(busy: Fleet) -> None:
    """While upstream answers nothing, which would hold up the first one."""
    worker = busy.processes[0]
    pool = children(worker)
    busy.sandbox.set_fault("hang")
    before = asked(busy)
    eventually(lambda: asked(busy) > before, 30)
    os.killpg(worker.pid, signal.SIGINT)
    worker.wait_for("Warm shutdown")
    time.sleep(2 * processes.ONE_PRESS_SECONDS)  # less is one press, passed on
    os.killpg(worker.pid, signal.SIGINT)
    assert worker.wait(10) == 1
    eventually(lambda: not any(map(alive, pool)), 30)


PARENT = """
    import os, signal, sys
    from reelwatch.jobs.stopping import Stopping
    stopping = Stopping()
    stopping.share()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        stopping.inherit()
        assert not stopping.is_set()
        os.write(writing, b"waits")
        os._exit(7 if stopping.wait(60) and stopping.is_set() else 1)
    os.read(reading, 5)
    assert not stopping.is_set()
"""


def test_what_a_parent_says_wakes_its_children() -> None:
    code = dedent(PARENT) + "stopping.set()\nsys.exit(os.waitstatus_to_exitcode(os.wait()[1]))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 7


def test_the_death_of_a_parent_wakes_its_children() -> None:
    """The grandparent adopts the child, and sees how it ended."""
    adopt = "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"  # PR_SET_CHILD_SUBREAPER
    inner = dedent(PARENT).replace("\n", "\n    ") + "os._exit(0)\n"
    code = adopt + "import os\nif os.fork() == 0:\n    " + inner
    code += "ends = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)]\n"
    code += "assert ends == [0, 7], ends"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


# ----------------------------------------------------------------------- names


def test_every_worker_of_a_host_has_a_name_of_its_own(postgresql_url: str, redis_url: str) -> None:
    """Unless a person has given it one."""
    with fleet(postgresql_url, redis_url, RATE) as deployed:
        command, environment = [*WORKER, "--concurrency=1"], deployed.environment
        with (
            process(command, environment) as first,
            process(command, environment) as second,
            process([*command, "-n", "mine@%h"], environment) as named,
        ):
            said = [each.wait_for(" ready", START_SECONDS) for each in (first, second, named)]
            names = [line.split(" ready")[0].rpartition('"')[2] for line in said]
            for name, code in ((names[0], 0), (names[1], 0), ("nobody@here", 69)):
                ask = ["celery", "-A", "reelwatch", "inspect", "ping", "-t", "10", "-d", name]
                with process(ask, environment) as asking:  # as docker-compose.yml does
                    assert asking.wait(60) == code, asking.output
    assert len(set(names)) == 3
    assert all(name.startswith("reelwatch") for name in names[:2])
    assert names[2].startswith("mine@")


def test_names_are_numbered_and_given_back() -> None:
    name = f"test-{os.getpid()}-{time.monotonic_ns()}"
    host = socket.gethostname()
    assert processes.own_name(name) == f"{name}@{host}"
    assert processes.own_name(name) == f"{name}-2@{host}"
    for holder in [processes._held.pop() for _ in range(2)]:
        holder.close()
    assert processes.own_name(name) == f"{name}@{host}"
    processes._held.pop().close()


# ----------------------------------------------------------------- concurrency


def test_children_share_their_parents_memory() -> None:
    """What is there before they are forked is not the collector's any more, which would copy it."""
    code = "import gc; from reelwatch.app.celery import app; from celery import signals\n"
    code += "signals.worker_init.send(sender=type('Node', (), {'concurrency': 5, 'app': app}))\n"
    code += "signals.worker_before_create_process.send(sender=None)\n"
    code += (
        "from reelwatch.jobs import fanout; print(gc.get_freeze_count() > 10_000, fanout.places)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True,
        env={**os.environ, "BROKER_URL": "redis://h/0", "DATABASE_URL": "sqlite:////no/x.db"},
    )  # fmt: skip
    assert said.stdout.endswith("True 5\n")


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 6), ("150000 100000", 1), ("300000 100000", 3), ("50000 100000", 1),
     ("9900000 100000", 6), ("nonsense", 6), ("", 6)],
)  # fmt: skip
def test_a_containers_quota_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, expected: int
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota + "\n")
    monkeypatch.setattr(processes, "QUOTAS", (str(tmp_path / "none"), str(file)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert processes.cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 6), ("200000", 2)])
def test_an_older_kernels_quota_counts_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, expected: int
) -> None:
    file, period = tmp_path / "quota", tmp_path / "period"
    file.write_text(quota + "\n")
    period.write_text("100000\n")
    monkeypatch.setattr(processes, "QUOTAS", (str(file),))
    monkeypatch.setattr(processes, "PERIOD", str(period))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert processes.cores() == expected


@pytest.mark.parametrize(("cores", "expected"), [(1, 3), (2, 4), (4, 6), (6, 8), (64, 8)])
def test_there_are_some_more_processes_than_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, expected: int
) -> None:
    monkeypatch.setattr(processes, "cores", lambda: cores)
    assert processes.concurrency() == expected


def test_the_affinity_of_a_real_process_counts() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from reelwatch.app import processes; print(processes.cores())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert said.stdout == "1\n"


# --------------------------------------------------------- where threads are few

FEW = """
    import os, threading
    from reelwatch.jobs.fanout import Batch, fan_out
    left = list(range(40))

    def claim(limit):
        taken = [left.pop() for _ in range(min(limit, len(left)))]
        return Batch(taken, 0.0)

    done, names = [], set()

    def do(item):
        names.add(threading.current_thread().name)
        return item

    assert fan_out(claim, do, done.extend, threads=8, batch_seconds=60) == 40
    assert sorted(done) == list(range(40))
    print(len(names), "MainThread" in names)
"""


@pytest.mark.parametrize(("threads", "most", "own"), [(1, 1, True), (3, 2, False)])
def test_a_batch_goes_on_with_the_threads_there_are(threads: int, most: int, own: bool) -> None:
    """With none at all: in its own. And says why, once."""
    command = limited(threads, [sys.executable, "-c", dedent(FEW)])
    said = subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout
    warning, result = said.splitlines()
    count, in_own = result.split()
    assert int(count) <= most
    assert in_own == str(own)
    assert "threads_missing" in warning
    assert "can't start new thread" in warning


@pytest.mark.parametrize("spare", [0, 2])
def test_a_worker_whose_threads_are_few_polls_and_delivers(
    postgresql_url: str, redis_url: str, spare: int
) -> None:
    """`spare` threads are left for both processes of its pool together."""
    with fleet(postgresql_url, redis_url, RATE) as deployed:
        few = limited(3 + spare, [*WORKER, "--concurrency=2"])
        deployed.processes.append(process(few, deployed.environment))
        deployed.start(BEAT)
        deployed.processes[0].wait_for(" ready", START_SECONDS)
        ids = [scripted_id("grok", "ok", 0.5, f"n{i}") for i in range(30)]
        deployed.send("reelwatch.track", *ids, webhook_url=f"{deployed.listener.url}/hook")
        eventually(lambda: deployed.listener.counts()["verified"] == 30, 90, deployed.log)
        log = deployed.processes[0].output
        assert deployed.processes[0].terminate(60) == 0
    assert "item_crashed" not in log
    assert "Traceback" not in log


BY_NAME = """
    import threading
    from reelwatch.net.calls import Call
    from reelwatch.jobs.fanout import Batch, Wire, fan_out
    from reelwatch.net.http import Client, Request, ConnectFailed

    left = ["here.example.com", "none.example.com"]
    batch = lambda limit: Batch([left.pop() for _ in left[:limit]], 0.0)
    call = lambda name: Call(Request(f"http://{name}:1/", deadline_seconds=20))
    told = []
    wire = Wire(Client(), call, lambda name, outcome: (name, str(outcome)), 4)
    assert fan_out(batch, str, told.extend, threads=4, batch_seconds=60, wire=wire) == 2
    print(sorted(told))
"""


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_names_are_looked_up_with_the_threads_there_are(names: Path, threads: int) -> None:
    """libcurl alone would wait for one of its own until the deadline."""
    command = limited(threads, [sys.executable, "-c", dedent(BY_NAME)])
    said = subprocess.run(
        command, capture_output=True, check=True, text=True, timeout=60,
        env={**os.environ, "LD_PRELOAD": str(names)},
    ).stdout  # fmt: skip
    here, none = ast.literal_eval(said.splitlines()[-1])
    assert "here.example.com port 1: Connection refused" in here[1]
    assert "none.example.com was not found" in none[1]


@pytest.fixture
def alone(tmp_path: Path, sandbox: Sandbox) -> dict[str, str]:
    """What `up` is told."""
    return {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'up.db'}",
        "QUICKROUTER_BASE_URL": sandbox.url,
        "QUICKROUTER_API_KEY": "sk-alone-0123456789",
        "WEBHOOK_ALLOW": "127.0.0.1",
        "WEBHOOK_SECRET": SECRET,
        "REELWATCH_POLL_MIN": "1s",
    }


def test_up_works_with_the_least_threads(alone: dict[str, str], tmp_path: Path) -> None:
    """Ctrl-C ends it as it should be: with 0."""
    few = limited(1 + embedded.LEAST_THREADS, ["reelwatch", "up"])
    with Listener([SECRET]) as listener, process(few, alone, tmp_path) as up:
        up.wait_for(" ready", START_SECONDS)
        video = scripted_id("grok", "ok", 0.5, "a")
        with process(["reelwatch", "track", video, "--webhook-url", listener.url], alone) as track:
            assert track.wait() == 0, track.output
        eventually(lambda: listener.counts()["verified"] == 1, 60, lambda: up.output)
        up.stop_signal(signal.SIGINT)
        assert up.wait(60) == 0
        assert "Traceback" not in up.output
        assert "item_crashed" not in up.output


CHECKED = """
from threading import Thread
from reelwatch.app import embedded

for _ in range(300):
    embedded._check_threads()
    threads = [Thread(target=int) for _ in range(embedded.LEAST_THREADS)]
    before = embedded._system_threads()
    for thread in threads:
        thread.start()
    embedded._await_end(threads, before)
"""


def test_the_threads_that_were_tried_are_free_again() -> None:
    command = limited(1 + embedded.LEAST_THREADS, [sys.executable, "-c", CHECKED])
    subprocess.run(command, check=True, timeout=60)


def test_up_says_in_one_line_that_its_threads_are_too_few(
    alone: dict[str, str], tmp_path: Path
) -> None:
    with process(limited(embedded.LEAST_THREADS, ["reelwatch", "up"]), alone, tmp_path) as up:
        assert up.wait(60) == 1
        least = f"can't start new thread: {embedded.LEAST_THREADS} are needed"
        assert least in up.output.splitlines()[-1]
        assert "Traceback" not in up.output


@pytest.mark.parametrize("signals", [[signal.SIGTERM] * 2, [signal.SIGINT], [signal.SIGHUP]])
def test_up_that_is_asked_to_end_begins_nothing_and_loses_nothing(
    alone: dict[str, str], tmp_path: Path, sandbox: Sandbox, signals: Sequence[signal.Signals]
) -> None:
    alone |= {"REELWATCH_REQUESTS_PER_SECOND": f"{RATE}", "REELWATCH_POLL_MAX": "1s"}
    ids = "\n".join(slow_ids(JOBS))
    (tmp_path / "ids").write_text(ids)
    with process(["reelwatch", "up"], alone, tmp_path) as up:
        up.wait_for(" ready", START_SECONDS)
        with process(["reelwatch", "track", "--file", tmp_path / "ids"], alone) as track:
            assert track.wait() == 0, track.output
        eventually(lambda: sandbox.stats()["requests"] >= ASKED, 60, lambda: up.output)
        before = sandbox.stats()["requests"]
        for each in signals:
            up.stop_signal(each)
        assert up.wait(60) == 0
        assert "Traceback" not in up.output
    assert sandbox.stats()["requests"] - before < RATE
    with db.reading(alone["DATABASE_URL"]) as session:
        written = session.execute(text("SELECT sum(polls), count(lease_token) FROM jobs")).one()
    assert tuple(written) == (sandbox.stats()["requests"], 0)
