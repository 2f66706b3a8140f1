"""Every known shape of answers, over real HTTP, through whole batches of polls, to the tables.

What is right for each stands with the bodies in `data/upstream/family/cases.json`.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import select, update

from reelwatch.config import settings
from reelwatch.jobs import polling, tracking
from reelwatch.storage import db
from reelwatch.storage.models import Account, Delivery, Job, PollError
from tests.servers import eventually

FAMILY: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "upstream" / "family" / "cases.json").read_text("utf-8")
)
# Beside those: what must not end a job, and how one that was mixed up goes on.
MORE: dict[str, dict[str, Any]] = {
    "gateway": {
        "asked": "veo3.1:gateway",
        "answers": [(404, {"detail": "Not Found"}), (404, {}), {"status": "done", "url": "https://v/1"}],
        "ends": {"state": "completed", "video_url": "https://v/1", "poll_error": "bad_shape"},
    },
    "mixed-up": {
        "asked": "veo3.1:mixed-up",
        "answers": [
            {"id": "veo3.1:gateway", "status": "failed", "error": "no GPU"},
            {"id": "gateway", "status": "completed", "video_url": "https://v/wrong"},
            {"id": "mixed-up", "status": "completed", "video_url": "https://v/2"},
        ],
        "ends": {"state": "completed", "video_url": "https://v/2", "poll_error": "bad_shape"},
    },
    "searched": {
        "asked": "veo3.1:searched",
        "answers": [{"id": "veo3.1:searched", "status": "done", "media": {"mp4_link": "https://v/3.mp4"}}],
        "ends": {"state": "completed", "video_url": "https://v/3.mp4", "poll_error": "bad_shape"},
    },
}  # fmt: skip
CASES = FAMILY | MORE
EVENTS = {"completed": "video.completed", "failed": "video.failed"}


class Upstream(BaseHTTPRequestHandler):
    """Answers the n-th poll an id with the n-th of its answers, then with the last."""

    answers: ClassVar[Mapping[str, Sequence[Any]]] = {
        c["asked"]: c["answers"] for c in CASES.values()
    }
    polls: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        (video_id,) = parse_qs(address.query)["id"]
        answers = self.answers[video_id]
        said = answers[min(self.polls[video_id], len(answers) - 1)]
        self.polls[video_id] += 1
        status, document = said if isinstance(said, tuple) else (200, said)
        body = json.dumps(document).encode()
        self.send_response(status if address.path == "/v1/video/query" else 410)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    Upstream.polls.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def poll_until_all_ended(made: settings.Settings) -> None:
    def all_ended() -> bool:
        with db.transaction(made.database_url) as session:
            # One of them says that the quota is used up: the others need not wait for that here.
            rested = {"paused_until": None, "pause_reason": None, "next_slot_at": None}
            session.execute(update(Account).values(rested))
            open_ones = select(Job.id).where(Job.finished_at.is_(None))
            if session.execute(open_ones).first() is None:
                return True
        polling.poll(made, "default", batch_seconds=0.5)
        return False

    assert eventually(all_ended, 60.0)


def test_each_known_shape_ends_as_is_right(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as url:
        for name, value in {
            "DATABASE_URL": database_url,
            "QUICKROUTER_API_KEY": "sk-test-0123456789",
            "QUICKROUTER_BASE_URL": f"{url}/v1",  # as many clients of these relays have it
            "REELWATCH_REQUESTS_PER_SECOND": "100",
            "REELWATCH_POLL_MIN": "50ms",
            "REELWATCH_POLL_MAX": "200ms",
            "REELWATCH_RESULT_GRACE": "1s",
        }.items():
            monkeypatch.setenv(name, value)
        made = settings.load()
        tracking.sync_accounts(made)
        asked = [case["asked"] for case in CASES.values()]
        with db.transaction(database_url) as session:
            tracking.track_many(asked, callback_task="shop.done", session=session)
        poll_until_all_ended(made)
    assert {name: found(database_url, name) for name in CASES} == {
        name: right(name) for name in CASES
    }


def right(name: str) -> dict[str, Any]:
    ends = CASES[name]["ends"]
    return {**ends, "event": EVENTS[ends["state"]]}


def found(url: str, name: str) -> dict[str, Any]:
    """What the tables say of a job, in as far as something is said of what is right."""
    ends = CASES[name]["ends"]
    with db.reading(url) as session:
        job = session.execute(select(Job).filter_by(video_id=CASES[name]["asked"])).scalar_one()
        events = session.execute(select(Delivery).filter_by(job_id=job.id)).scalars().all()
        kinds = session.execute(select(PollError.kind).filter_by(job_id=job.id)).scalars().all()
    told = [json.loads(event.body) for event in events]
    error = told[-1]["data"]["error"] or {}
    seen = {
        "state": job.state,
        "video_url": job.video_url,
        "error_code": job.error_code,
        "retryable": error.get("retryable"),
        "poll_error": ends.get("poll_error") if ends.get("poll_error") in kinds else kinds,
    }
    assert told[-1]["data"]["video_url"] == job.video_url
    assert error.get("code") == job.error_code
    return {key: seen[key] for key in ends} | {"event": ", ".join(each["type"] for each in told)}
