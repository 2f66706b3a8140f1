"""The code in the documents does what they say: it is taken from them and run."""

import json
import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from celery import Celery
from fastapi.testclient import TestClient
from sqlalchemy import String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from standardwebhooks import Webhook

from reelwatch.app.embedded import new_secret
from reelwatch.jobs import tracking
from reelwatch.jobs.channels.webhook import signed_headers
from reelwatch.rules.events import body
from reelwatch.rules.states import EventType
from reelwatch.rules.timing.plan import Eta
from reelwatch.storage import db
from reelwatch.storage.models import Job
from tests import seeding
from tests.kinds import know, steady
from tests.servers import Process, ServerMissing, eventually, free_port, process

ROOT = Path(__file__).parent.parent
BODY = '{"type":"video.completed","data":{"video_id":"veo:1","video_url":"https://x.test/v.mp4"}}'


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a document whose first line is "```" and exactly this."""
    text = (ROOT / document).read_text("utf-8")
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


# --------------------------------------------------------------- receivers

Post = Callable[[dict[str, str], str], int]


def signed(secret: str, event_id: str = "evt_1") -> dict[str, str]:
    return signed_headers([Webhook(secret)], event_id, datetime.now(UTC), BODY)


def fastapi_receiver(code: str) -> Post:
    space: dict[str, Any] = {}
    exec(compile(code, "docs/receivers.md", "exec"), space)
    client = TestClient(space["app"])
    return lambda headers, body: (
        client.post("/reelwatch", content=body, headers=headers).status_code
    )


def flask_receiver(code: str) -> Post:
    space: dict[str, Any] = {"__name__": "receiver"}
    exec(compile(code, "docs/receivers.md", "exec"), space)
    client = space["app"].test_client()
    return lambda headers, body: int(
        client.post("/reelwatch", data=body, headers=headers).status_code
    )


@pytest.mark.parametrize(
    ("language", "receiver"),
    [("python fastapi", fastapi_receiver), ("python flask", flask_receiver)],
)
def test_the_documented_python_receiver_verifies_what_is_sent(
    language: str, receiver: Callable[[str], Post], capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes what one of its secrets signed, once, and refuses everything else."""
    new, old = new_secret(), new_secret()
    os.environ["WEBHOOK_SECRET"] = f"{new} {old}"
    [code] = blocks("docs/receivers.md", language)
    check_receiver(receiver(code), new, old)
    assert capsys.readouterr().out.splitlines() == [
        "video.completed veo:1 https://x.test/v.mp4",
        "video.completed veo:1 https://x.test/v.mp4",
    ]


def test_the_documented_node_receiver_verifies_what_is_sent(tmp_path: Path) -> None:
    """The same for Node, as a process of its own."""
    if shutil.which("node") is None:
        raise ServerMissing("node is not installed")
    new, old = new_secret(), new_secret()
    [code] = blocks("docs/receivers.md", "js node")
    (tmp_path / "receiver.js").write_text(code)
    port = free_port()
    environment = {"WEBHOOK_SECRET": f"{new} {old}", "PORT": str(port)}
    with process(["node", "receiver.js"], environment, cwd=tmp_path) as receiver:
        url = f"http://127.0.0.1:{port}/"
        eventually(lambda: answers(url), 30, lambda: receiver.output)
        check_receiver(
            lambda headers, body: requests.post(url, body, headers=headers, timeout=10).status_code,
            new,
            old,
        )
        assert lines_of(receiver) == ["video.completed veo:1 https://x.test/v.mp4"] * 2


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 401
    except requests.ConnectionError:
        return False


def lines_of(receiver: Process) -> list[str]:
    return [line for line in receiver.output.splitlines() if line.startswith("video.")]


def check_receiver(post: Post, new: str, old: str) -> None:
    assert post(signed(new), BODY) == 200
    assert post(signed(new), BODY) == 200  # the same event again: taken, not acted on
    assert post(signed(old, "evt_2"), BODY) == 200
    assert post(signed(new_secret()), BODY) == 401
    assert post(signed(new), BODY.replace("veo:1", "veo:2")) == 401
    assert post(signed(new) | {"webhook-signature": "nonsense"}, BODY) == 401
    assert post({"Content-Type": "application/json"}, BODY) == 401


# --------------------------------------------------------------- producers


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    video_id: Mapped[str] = mapped_column(String(200))


def producer_blocks() -> list[str]:
    found = blocks("docs/producers.md", "python")
    assert len(found) == 7
    return found


def configure(database_url: str) -> None:
    os.environ["DATABASE_URL"] = database_url
    os.environ["WEBHOOK_SECRET"] = new_secret()


def test_the_example_of_tracking_alone_stores_a_job_with_what_it_says(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first example stores a job with what it says."""
    configure(database_url)
    exec(producer_blocks()[0], {})
    with db.reading(database_url) as session:
        job = session.execute(select(Job)).scalar_one()
    assert job.metadata_ == {"order": 42}
    assert job.webhook_url == "https://app.example.com/reelwatch"
    assert capsys.readouterr().out == "pending\n"


def test_tracking_in_ones_own_transaction(database_url: str) -> None:
    """The second stores the producer's row and the job together."""
    configure(database_url)
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    exec(producer_blocks()[1], {"engine": engine, "Order": Order, "video_id": "veo:2"})
    with Session(engine) as session:
        order, job = (
            session.execute(select(Order)).scalar_one(),
            session.execute(select(Job)).scalar_one(),
        )
        assert order.video_id == job.video_id == "veo:2"
    engine.dispose()


@pytest.mark.parametrize("slow", [False, True])
def test_asking_how_long_a_job_still_takes(
    database_url: str, slow: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last says nothing of a new kind of job, and what there is to say of a known one."""
    configure(database_url)
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        seeding.add_job(
            session, video_id="veo3.1-fast:1770350082-trii1OXZc3", model="veo3.1-fast",
            tracked_at=seeding.at(days=slow), last_polled_at=seeding.at(),
        )  # fmt: skip
    exec(producer_blocks()[-1], {})
    assert capsys.readouterr().out == ""
    with db.transaction(database_url) as session:
        know(session, steady(9_000.0), "veo3.1-fast")
    exec(producer_blocks()[-1], {})
    said = capsys.readouterr().out
    assert re.match(r"about (89\d\d|9000) s\nhardly more than 29[89]\d\d s\n", said)
    assert said.endswith("slower than 95 % of its kind\n") is slow


def test_changing_what_was_ordered(database_url: str) -> None:
    """The fifth gives a job that was there the deadline that the second call says."""
    configure(database_url)
    tracking.track("veo3.1-fast:1770350082-trii1OXZc3", deadline="45m")
    space: dict[str, Any] = {}
    exec(producer_blocks()[4], space)
    assert space["job"].deadline_seconds == 7_200


def test_the_example_of_stopping_many_finds_counts_and_stops_them(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sixth finds jobs by what was handed in with them, counts them and stops them."""
    configure(database_url)
    for number in range(3):
        order = {"order": 42 if number else 43}
        tracking.track(f"veo3.1-fast:{number}", metadata=order)
    exec(producer_blocks()[5], {"database_url": database_url})
    said = capsys.readouterr().out.splitlines()
    assert (said[0], said[1][:2], said[2]) == ("2 None", "2 ", "2")


def test_the_documented_bodies_have_the_keys_of_real_ones() -> None:
    """In the same order; what is foretold has the documented form."""
    now = datetime.now(UTC)
    row: dict[str, Any] = {
        "video_id": "a", "account": "default", "model": None, "state": "running",
        "upstream_status": None, "sequence": 1, "polls": 1, "tracked_at": now,
        "upstream_created_at": None, "upstream_finished_at": None, "finished_at": None,
        "expired_at": None, "metadata": {},
    }  # fmt: skip
    eta = Eta(41.2, 95.0, slower_than_95_percent=False, measured=120, longest_seconds=310.4)
    real = body(EventType.STATUS_CHANGED, now, row, None, None, eta)
    [sample] = blocks("README.md", "json")
    documented = json.loads(sample)
    assert [list(documented), list(documented["data"])] == [list(real), list(real["data"])]
    [told] = blocks("docs/receivers.md", "json")
    assert json.loads(f"{{{told}}}") == {"eta": real["data"]["eta"]}
    assert json.dumps(real["data"]["eta"]) in (ROOT / "README.md").read_text("utf-8")


def test_the_example_of_tracking_by_message_reaches_a_worker(redis_url: str) -> None:
    """The third leaves a message on the queue that workers read, with what its kwargs say."""
    space: dict[str, Any] = {}
    exec(producer_blocks()[2].replace("redis://localhost:6379/0", redis_url), space)
    app: Celery = space["app"]
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("reelwatch").get(timeout=10)
    assert message.headers["task"] == "reelwatch.track"
    args, kwargs, _ = message.payload
    assert args == ["veo3.1-fast:1770350082-trii1OXZc3"]
    assert kwargs["callback_queue"] == "shop"
    exec(producer_blocks()[3], space)
    assert "shop.video_done" in app.tasks
