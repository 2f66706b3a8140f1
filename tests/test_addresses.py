"""Where a job's events go, as a table."""

from typing import Any

import pytest

from reelwatch.rules.channels import Address, addresses, named, task_and_queue

NOBODY: dict[str, Any] = {
    "webhook_url": None,
    "callback_task": None,
    "callback_queue": None,
    "channels": None,
}
HOOK = "https://App.Example.com:8443/hooks?token=a"


@pytest.mark.parametrize(
    ("job", "found"),
    [
        pytest.param({}, [], id="nobody"),
        pytest.param(
            {"webhook_url": HOOK}, [Address("webhook", HOOK, "app.example.com:8443")], id="a URL"
        ),
        pytest.param(
            {"callback_task": "shop.done"},
            [Address("celery", "shop.done@celery", "celery")],
            id="a task in Celery's own queue",
        ),
        pytest.param(
            {"callback_task": "shop.done", "callback_queue": "q@1"},
            [Address("celery", "shop.done@q@1", "celery")],
            id="a task in a queue",
        ),
        pytest.param(
            {"channels": {"stream": "videos"}},
            [Address("stream", "stream:videos", "stream")],
            id="a channel",
        ),
        pytest.param(
            {"webhook_url": "https://h", "callback_task": "t", "channels": {"stream": "s"}},
            [
                Address("webhook", "https://h", "h"),
                Address("celery", "t@celery", "celery"),
                Address("stream", "stream:s", "stream"),
            ],
            id="all of them",
        ),
    ],
)
def test_events_go_to_all_that_the_job_names(job: dict[str, Any], found: list[Address]) -> None:
    assert list(addresses(NOBODY | job)) == found


def test_a_long_host_is_cut_to_its_columns_size() -> None:
    ((_, target, host),) = addresses(NOBODY | {"webhook_url": f"https://{'h' * 400}/"})
    assert (len(host), target) == (300, f"https://{'h' * 400}/")


def test_targets_are_taken_apart_again() -> None:
    assert named("stream:videos:eu") == "videos:eu"
    assert task_and_queue("shop.done@q@1") == ("shop.done", "q@1")
