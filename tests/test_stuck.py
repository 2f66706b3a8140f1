"""Which open jobs have no end or no news, wherever they are found."""

from reelwatch.storage import db
from reelwatch.storage.stuck import Stuck, stuck
from tests import seeding


def test_each_is_counted_once_by_what_its_polls_bring(database_url: str) -> None:
    over, ahead = seeding.at(hours=3), seeding.at(hours=-3)
    refused: seeding.Row = {
        "errors_in_row": 9, "last_error": "unauthorized", "errors_since": seeding.at(hours=5),
    }  # fmt: skip
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        seeding.add_account(session, "acme")
        older = seeding.at(hours=4)
        seeding.add_job(session, "expired", deadline_at=over, next_poll_at=seeding.at(hours=-1))
        seeding.add_job(session, "running", deadline_at=older, next_poll_at=older)  # not polled
        seeding.add_job(session, "pending", deadline_at=over, next_poll_at=over)
        seeding.add_job(session, "expired", deadline_at=over, **refused)
        seeding.add_job(session, "running", deadline_at=ahead, **refused)
        seeding.add_job(session, "running", account="acme", deadline_at=ahead, **refused)
        # Nothing is the matter with these, or nothing any more.
        seeding.add_job(session, "running", deadline_at=ahead)
        young = refused | {"errors_since": seeding.at(minutes=1)}
        seeding.add_job(session, "running", deadline_at=ahead, **young)
        seeding.add_job(session, "expired", deadline_at=over, abandoned_at=over, **refused)
        seeding.add_job(session, "failed", deadline_at=over, **refused)
        awaited: seeding.Row = {"resultless_count": 2, "resultless_since": over}
        seeding.add_job(session, "running", deadline_at=over, next_poll_at=over, **awaited)
        found = stuck(session, db.now(session))
    since = refused["errors_since"]
    assert found == [
        Stuck("acme", "unauthorized", 0, None, 1, since),
        Stuck("default", None, 3, older, 0, None),
        Stuck("default", "unauthorized", 1, over, 2, since),
    ]
