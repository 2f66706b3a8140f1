"""The tables that users query. The migrations own them; a test holds the two equal.

Times are aware UTC to the microsecond; JSON is JSONB on PostgreSQL. The constraints make nonsense
unstorable, whoever writes it.
"""

from reelwatch.storage.models.base import Base, BigId, Json, JsonOrNull, UtcDateTime, table_of
from reelwatch.storage.models.events import (
    Attempt,
    Delivery,
    Destination,
    Endpoint,
    RedeliveryOrder,
)
from reelwatch.storage.models.happenings import Action, ActionJob, Event, Feed
from reelwatch.storage.models.jobs import Account, DurationCurve, Job, PollError, Transition
from reelwatch.storage.models.service import (
    Counter,
    Heartbeat,
    Incident,
    Installation,
    RefusedMessage,
    WaitingMessage,
)

__all__ = [
    "Account",
    "Action",
    "ActionJob",
    "Attempt",
    "Base",
    "BigId",
    "Counter",
    "Delivery",
    "Destination",
    "DurationCurve",
    "Endpoint",
    "Event",
    "Feed",
    "Heartbeat",
    "Incident",
    "Installation",
    "Job",
    "Json",
    "JsonOrNull",
    "PollError",
    "RedeliveryOrder",
    "RefusedMessage",
    "Transition",
    "UtcDateTime",
    "WaitingMessage",
    "table_of",
]
