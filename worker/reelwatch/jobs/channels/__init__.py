"""The ways to tell a producer: one file each, behind one protocol.

A delivery's row names its channel and, as its target, what the channel is to reach. What all
channels share (leases, retries, the circuit breaker, the attempts' rows, the log) is done around
them: a channel hands one event over, once, and says how that went.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import Any, Protocol, cast

from reelwatch.config.settings import Settings
from reelwatch.net.transfer import Request
from reelwatch.rules.retry import Outcome

SendTask = Callable[[str, str, dict[str, Any], str], None]  # task, queue, event, event id


@dataclass(frozen=True, slots=True)
class Event:
    """What is told, and to whom: columns of `deliveries`, and the account of its job.

    `body` is the JSON text that was frozen when the transition was recorded.
    """

    id: str
    type: str
    account: str
    target: str
    body: str


@dataclass(frozen=True, slots=True)
class Means:
    """What a channel may use. `send_task` hands an event to a Celery task of a producer's."""

    settings: Settings
    send_task: SendTask


# What an attempt begins with: a request that the HTTP engine sends, many at once (2xx is success);
# a function that blocks, which gets a thread; or, where nothing can be sent, the outcome.
Begun = Request | Callable[[], Outcome] | Outcome


class Channel(Protocol):
    """One way to tell producers, made for one batch of deliveries. Used by several threads."""

    def __init__(self, means: Means) -> None: ...

    @staticmethod
    def check(named: str) -> str:
        """The name to be stored for what a producer named under `channels`; raises `Refused`."""

    def begin(self, event: Event, at: datetime) -> Begun:
        """How the event is handed over, `at` by the database's clock. Does not block or raise."""


def channel(name: str) -> type[Channel]:
    """The channel of that name, out of `rules.channels.NAMES`: `Way` in the module of its name.

    Only those that are used are imported: who hands in ids has no need of the HTTP engine.
    """
    return cast("type[Channel]", import_module(f"{__name__}.{name}").Way)
