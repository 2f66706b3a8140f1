"""Many exchanges in one thread: as they come, at their times, and none holds up another."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from structlog.testing import capture_logs

from reelwatch.jobs.fanout import Batch, Wire, fan_out
from reelwatch.jobs.stopping import Stopping
from reelwatch.net import http
from reelwatch.net.calls import Call, Calls
from reelwatch.net.http import Client, Outcome, Request, Response, TransferError
from tests.peers import Line, Peer, answer, answering, perform
from tests.servers import eventually

LONG = 60.0  # seconds; nothing here waits for them


@pytest.fixture
def client() -> Iterator[Client]:
    with contextlib.closing(Client()) as client:
        yield client


def body_of(outcome: Outcome | Exception | None) -> str:
    return outcome.body.decode() if isinstance(outcome, Response) else str(outcome)


def echo(line: Line) -> None:
    """Answers with the path that is asked for."""
    while True:
        line.send(answer(line.request().split(b" ")[1]))


# ------------------------------------------------------------------ as they come


def test_all_are_made_at_once_and_each_has_its_own_answer(client: Client) -> None:
    together = threading.Barrier(8, timeout=30)

    def script(line: Line) -> None:
        path = line.request().split(b" ")[1]
        together.wait()
        line.send(answer(path))

    with Peer(script) as peer:
        requests = [Request(f"http://127.0.0.1:{peer.port}/{number}") for number in range(8)]
        came = {request.url: body_of(outcome) for request, outcome in perform(client, requests)}
    assert came == {request.url: f"/{number}" for number, request in enumerate(requests)}


def test_a_slow_one_holds_up_no_other(client: Client) -> None:
    release = threading.Event()

    def script(line: Line) -> None:
        path = line.request().split(b" ")[1]
        if path == b"/0":
            release.wait(30)
        line.send(answer(path))

    with Peer(script) as peer:
        requests = [Request(f"http://127.0.0.1:{peer.port}/{number}") for number in range(5)]
        bodies = []
        for _, outcome in perform(client, requests):
            bodies.append(body_of(outcome))
            if len(bodies) == 4:
                release.set()
    assert bodies[-1] == "/0"
    assert sorted(bodies) == [f"/{number}" for number in range(5)]


def test_one_that_cannot_be_sent_is_an_error_among_the_others(client: Client) -> None:
    with Peer(echo) as peer:
        good, bad = Request(f"http://127.0.0.1:{peer.port}/good"), Request("ftp://127.0.0.1/")
        came = [(asked is good, outcome) for asked, outcome in perform(client, [bad, good, bad])]
    assert [body_of(outcome) for is_good, outcome in came if is_good] == ["/good"]
    assert [isinstance(outcome, TransferError) for _, outcome in came].count(True) == 2


def test_what_is_left_under_way_is_cut_and_the_rest_goes_on(client: Client) -> None:
    cut = threading.Event()

    def hangs(line: Line) -> None:
        line.request()
        line.hang()
        cut.set()

    with Peer(hangs) as slow, Peer(echo) as peer:
        with client.line() as line:
            line.send("slow", Request(slow.url))
            eventually(lambda: line.results(0.05) or slow.requests)
        assert cut.wait(30)
        assert client.ask(Request(f"http://127.0.0.1:{peer.port}/next")).body == b"/next"


def test_what_a_connection_says_unasked_is_nobodys_answer(client: Client) -> None:
    """Nor is it used again: a new one is made, and the request sent once."""

    def script(line: Line) -> None:
        line.request()
        line.send(answer(b"asked"))
        time.sleep(0.05)
        line.send(answer(b"unasked"))
        line.request()

    with Peer(script) as peer:
        for _ in range(4):
            assert client.ask(Request(peer.url)).body == b"asked"
            time.sleep(0.1)
    assert len(peer.requests) == len(peer.lines) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_connections_of_its_own(client: Client) -> None:
    with Peer(echo) as peer:
        url = f"http://127.0.0.1:{peer.port}"
        assert client.ask(Request(f"{url}/parent")).body == b"/parent"
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):  # it must not go on with its parent's tests
                os._exit(0 if client.ask(Request(f"{url}/child")).body == b"/child" else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.ask(Request(f"{url}/again")).body == b"/again"
        assert len(peer.lines) == 2


def test_what_a_resolver_of_ours_has_said_holds_for_that_exchange_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name may point elsewhere the next time, or be libcurl's to look up again."""
    monkeypatch.setattr(Client, "resolver", None)
    script = answering(answer(b"here", "Connection: close"))
    with Peer(script, host="127.0.0.2") as peer, contextlib.closing(Client()) as client:
        named = Request(f"http://localhost:{peer.port}/", deadline_seconds=10)
        numbered = Request(f"http://127.0.0.2:{peer.port}/")

        def asked(request: Request, *addresses: str) -> str:
            with client.line() as line:
                line.resolver = (lambda _host, _port: addresses) if addresses else None
                line.send(None, request)
                ((_, outcome),) = eventually(lambda: line.results(1.0))
            return body_of(outcome)

        assert asked(named, "127.0.0.2") == "here"
        assert "no connection" in asked(named)
        assert asked(named, "127.0.0.3", "127.0.0.2") == "here"
        assert "no connection" in asked(named, "127.0.0.3")
        assert asked(named, "127.0.0.2") == "here"
        assert asked(numbered) == "here"  # by the same handle
        assert "no connection" in asked(named)


def test_it_is_there_for_the_whole_exchange() -> None:
    """Also when a kept connection has ended and the request is sent once more."""

    def script(line: Line) -> None:
        line.request()
        line.send(answer(b"here"))

    with (
        Peer(script) as peer,
        contextlib.closing(Client(resolver=lambda _host, _port: ["127.0.0.1"])) as client,
    ):
        for _ in range(3):
            url = f"http://pinned.invalid:{peer.port}/"
            assert client.ask(Request(url, deadline_seconds=10)).body == b"here"


HANGING = """
    import time
    from reelwatch.net.http import Client, Request
    from tests.peers import perform

    client, began = Client(), time.monotonic()
    slow = [Request(f"http://hang.{n}.example.com/", deadline_seconds=1.5) for n in range(3)]
    here = Request("http://here.example.com:1/")
    for request, outcome in perform(client, [*slow, here]):
        print(request is here, type(outcome).__name__, time.monotonic() - began < 20, outcome)
    for request, outcome in perform(client, [here]):
        print(request is here, type(outcome).__name__, time.monotonic() - began < 20, outcome)
"""


def test_a_look_up_that_hangs_holds_up_neither_others_nor_the_end(names: Path) -> None:
    """What asks a name server that never answers can't be given up; it is left behind."""
    said = subprocess.run(
        [sys.executable, "-c", dedent(HANGING)],
        capture_output=True,
        check=True,
        text=True,
        timeout=40,  # the look-up itself takes longer
        env={**os.environ, "LD_PRELOAD": str(names)},
    ).stdout.splitlines()
    assert said[0].startswith("True ConnectFailed True no connection to here.example.com port 1: ")
    assert said[1:4] == ["False DeadlinePassed True no complete answer within 1.5 s"] * 3
    assert said[4] == said[0]


# ------------------------------------------------------------------ at their times


class Told:
    """What has come of calls."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome | Exception | None] = {}

    def __call__(self, key: str, outcome: Outcome | Exception | None) -> None:
        self.outcomes[key] = outcome


@contextlib.contextmanager
def calling(client: Client, told: Told, stopping: Stopping, *, alone: bool) -> Iterator[Calls]:
    calls = Calls(client, stopping.is_set, told)
    if alone:
        calls.start()
    try:
        yield calls
    finally:
        calls.end()


def wait_for(calls: Calls, told: Told, count: int) -> None:
    def all_told() -> bool:
        if not calls.has_thread:
            calls.move(0.05)
        return len(told.outcomes) == count

    eventually(all_told)


@pytest.mark.parametrize("alone", [True, False], ids=["a thread", "no thread"])
def test_calls_are_made_in_their_slots_or_not_at_all(client: Client, alone: bool) -> None:
    moments: dict[str, float] = {}

    def script(line: Line) -> None:
        while True:
            path = line.request().split(b" ")[1].decode()
            moments[path] = time.monotonic()
            line.send(answer())

    told, now = Told(), time.monotonic()
    opens = {"/now": 0.0, "/soon": now + 0.3, "/later": now + 0.6}
    with Peer(script) as peer, calling(client, told, Stopping(), alone=alone) as calls:
        for path in ("/later", "/now", "/soon"):
            request = Request(f"http://127.0.0.1:{peer.port}{path}")
            calls.add(path, Call(request, opens[path], now + LONG))
        late = Request(f"http://127.0.0.1:{peer.port}/late")
        calls.add("/late", Call(late, now - 2, now - 1))
        calls.wake()
        wait_for(calls, told, 4)
    assert told.outcomes.pop("/late") is None
    assert all(isinstance(outcome, Response) for outcome in told.outcomes.values())
    assert list(moments) == ["/now", "/soon", "/later"]
    assert all(moments[path] >= opens[path] for path in moments)


@pytest.mark.parametrize("alone", [True, False], ids=["a thread", "no thread"])
def test_a_process_that_is_to_end_sends_nothing_more_that_waits_for_its_slot(
    client: Client, alone: bool
) -> None:
    """What has no slot was to be sent at once, and is."""
    stopping, told = Stopping(), Told()
    with Peer(echo) as peer, calling(client, told, stopping, alone=alone) as calls:
        url = f"http://127.0.0.1:{peer.port}"
        calls.add("slot", Call(Request(f"{url}/slot"), time.monotonic() + LONG))
        calls.add("now", Call(Request(f"{url}/now")))
        calls.wake()
        stopping.set()
        wait_for(calls, told, 2)
    assert told.outcomes["slot"] is None
    assert body_of(told.outcomes["now"]) == "/now"
    assert peer.requests[0].startswith(b"GET /now ")


# ------------------------------------------------------------------ of a batch


class Work:
    """Numbers to ask about; every third is none for HTTP."""

    def __init__(self, port: int, count: int) -> None:
        self.left = list(range(count))
        self.done: list[str] = []
        self.most = self._claimed = 0
        self._url = f"http://127.0.0.1:{port}"

    def claim(self, limit: int) -> Batch[int]:
        items, self.left = self.left[:limit], self.left[limit:]
        self._claimed += len(items)
        self.most = max(self.most, self._claimed - len(self.done))
        return Batch(items, 0.0 if items else LONG)

    def call(self, item: int) -> Any:
        if item % 3 == 1:
            return None
        if item % 10 == 2:
            return f"known: {item}"
        return Call(Request(f"{self._url}/{item}"))

    def expected(self, item: int) -> str:
        if item % 3 == 1:
            return f"by hand: {item}"
        return f"known: {item}" if item % 10 == 2 else f"/{item}"


def test_a_batch_is_done_by_http_and_by_hand_and_counted(client: Client) -> None:
    with Peer(echo) as peer:
        work = Work(peer.port, 60)
        done = fan_out(
            work.claim, lambda item: f"by hand: {item}", work.done.extend, threads=2,
            batch_seconds=LONG, wire=Wire(client, work.call, lambda _, came: body_of(came), 7),
        )  # fmt: skip
    assert done == 60
    assert sorted(work.done) == sorted(work.expected(item) for item in range(60))
    assert work.most == 7
    assert not [thread for thread in threading.enumerate() if thread.name == "calls"]


def test_results_are_recorded_while_others_are_under_way(client: Client) -> None:
    recorded = threading.Event()

    def script(line: Line) -> None:
        if line.request().startswith(b"GET /0 "):
            assert recorded.wait(30)
        line.send(answer(b"", "Connection: close"))

    groups: list[list[int]] = []

    def record(group: list[int]) -> None:
        groups.append(group)
        recorded.set()

    with Peer(script) as peer:
        work = Work(peer.port, 0)
        work.left = [0, 3, 6]
        fan_out(
            work.claim, lambda item: item, record, threads=1, batch_seconds=LONG,
            wire=Wire(client, work.call, lambda item, _: item, 3),
        )  # fmt: skip
    assert groups[-1] == [0]


def test_what_cannot_be_recorded_ends_the_batch_and_what_is_under_way(client: Client) -> None:
    gone = threading.Event()

    def script(line: Line) -> None:
        if line.request().startswith(b"GET /0 "):
            line.hang()
            gone.set()
        line.send(answer())

    def record(_: list[int]) -> None:
        raise ConnectionError("the database has gone")

    with Peer(script) as peer:
        work = Work(peer.port, 0)
        work.left = [0, 3]
        with pytest.raises(ConnectionError, match="gone"):
            fan_out(
                work.claim, lambda item: item, record, threads=1, batch_seconds=LONG,
                wire=Wire(client, work.call, lambda item, _: item, 2),
            )  # fmt: skip
        assert gone.wait(30)


@pytest.mark.parametrize("place", ["Line.send", "Exchange.begin", "Exchange.outcome"])
def test_an_error_that_nobody_has_foreseen_costs_its_own_item_alone(
    client: Client, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """It is logged, and the batch ends: an item without an outcome would be waited for for ever."""
    owner, name = place.split(".")
    real, calls = getattr(getattr(http, owner), name), 0

    def fails_once(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise MemoryError("once")
        return real(*args)

    monkeypatch.setattr(getattr(http, owner), name, fails_once)
    with Peer(echo) as peer, capture_logs() as logs:
        work = Work(peer.port, 0)
        work.left = [0, 3, 6, 9]
        batch = threading.Thread(
            target=fan_out, daemon=True,
            args=(work.claim, str, work.done.extend),
            kwargs={
                "threads": 1, "batch_seconds": 1.0,
                "wire": Wire(client, work.call, lambda _, came: body_of(came), 2),
            },
        )  # fmt: skip
        batch.start()
        batch.join(30)
        assert not batch.is_alive()
    assert len(work.done) == 3
    assert not work.left
    assert [line["event"] for line in logs] == ["item_crashed"]
    assert isinstance(logs[0]["exc_info"], MemoryError)
