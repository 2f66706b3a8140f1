"""What the API takes and gives, as its document describes it.

Rows have the names of their columns, see `docs/history.md`; a release may add some.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, field_validator

from reelwatch.rules.cleaning import DEPTH_LIMIT, unstorable
from reelwatch.rules.durations import DURATION_FORMS
from reelwatch.web.api.bases import Asked, Given, Moment

IDS_MOST = 10_000
STORABLE = (
    f"texts without NUL characters and halves of surrogate pairs, at most {DEPTH_LIMIT} levels deep"
)
FLOAT_BITS = 1_000  # a float holds any integer of so many

State = Literal["pending", "running", "completed", "failed", "expired", "cancelled"]
Asking = Literal["open", "pending", "running", "completed", "failed", "expired", "cancelled"]
DeliveryState = Literal["pending", "delivered", "dead"]
VideoId = Annotated[str, Field(examples=["veo3.1-fast:1770350082-trii1OXZc3"])]
SPAN = "A span from now: `45m`, `2h`, or seconds."


class Order(Asked):
    """Whom to tell, of what, until when."""

    webhook_url: str | None = Field(None, description="Tell this URL by signed webhook.")
    callback_task: str | None = Field(None, description="Call this Celery task.")
    callback_queue: str | None = Field(None, description="… in this queue.")
    channels: dict[str, str] | None = Field(
        None, description='Other ways to be told, by their targets: `{"stream": "videos"}`.'
    )
    metadata: dict[str, Any] | None = Field(None, description="Comes back with every event.")
    deadline: str | float | None = Field(None, description=SPAN)
    events: list[str] | None = Field(
        None, description="What to tell; without it completed, failed and expired."
    )

    @field_validator("deadline", mode="before")
    @classmethod
    def _spanning(cls, given: object) -> object:
        """Told of once, and not of each of the two kinds that it may have."""
        number = isinstance(given, int | float) and not isinstance(given, bool)
        too_large = isinstance(given, int) and given.bit_length() > FLOAT_BITS
        if too_large or not (number or isinstance(given, str | None)):
            raise ValueError(DURATION_FORMS)
        return given

    @field_validator("metadata")
    @classmethod
    def _storable(cls, given: dict[str, Any] | None) -> dict[str, Any] | None:
        """Elsewhere it is left out, lest a paid video be lost; a request can be made again."""
        if found := unstorable(given):
            raise ValueError(f"{STORABLE} ({found})")
        return given


class NewJobs(Order):
    """One video to be tracked, or many with the same order."""

    video_id: VideoId | None = Field(None, description="One id, or …")
    video_ids: list[VideoId] | None = Field(
        None, description="… many.", min_length=1, max_length=IDS_MOST
    )
    account: str = Field("default", description="The upstream account.")


class Job(Given):
    """One tracked video."""

    id: int
    account: str
    video_id: str
    model: str | None
    state: State
    upstream_status: str | None
    upstream_id: str | None = None
    video_url: str | None
    error_code: str | None
    error_message: str | None
    error_request_id: str | None = None
    metadata: dict[str, Any]
    sequence: int
    polls: int
    progress: float | None = None
    progress_at: Moment | None = None
    tracked_at: Moment
    upstream_created_at: Moment | None
    upstream_finished_at: Moment | None = None
    finished_at: Moment | None
    next_poll_at: Moment | None
    last_polled_at: Moment | None
    deadline_at: Moment
    deadline_seconds: float | None = None
    expired_at: Moment | None = None
    abandoned_at: Moment | None = None
    webhook_url: str | None
    callback_task: str | None
    callback_queue: str | None
    channels: dict[str, Any] | None = None
    events: list[str]
    errors_in_row: int | None = None
    last_error: str | None = None
    duration_seconds: float | None = Field(
        None, description="How long upstream took; null until it has ended the job."
    )
    eta: dict[str, Any] | None = Field(
        None,
        description="In how many seconds half, and nine of ten, of such jobs have ended; null: "
        "that makes it older than the longest of those that were measured.",
    )
    next_poll_expected_at: Moment | None = None
    next_poll_reason: str | None = None
    next_poll_held_by_account: bool | None = Field(
        None, description="True: its account rests, or is short of its rate."
    )


class TrackedJob(Job):
    """A job that was handed in."""

    created: bool = Field(description="False: it was tracked before, and is unchanged.")
    differs: list[str] = Field(description="What this call says otherwise than the job has it.")


class ChangedJob(Job):
    """A job that somebody wanted to change."""

    changed: bool = Field(description="False: it had ended, and is as it was.")


class Transition(Given):
    """One change of a job's state or of upstream's status."""

    id: int
    job_id: int
    sequence: int
    from_state: State
    to_state: State
    from_status: str | None
    to_status: str | None
    at: Moment
    upstream_at: Moment | None
    answer: Any = Field(None, description="The JSON body behind it.")


class PollError(Given):
    """What kept polls from telling a job's status; equal ones that follow each other are one."""

    id: int
    job_id: int
    kind: str
    http_status: int | None
    message: str
    request_id: str | None
    first_at: Moment
    last_at: Moment
    count: int


class Attempt(Given):
    """One try to hand an event over."""

    id: int
    delivery_id: str
    at: Moment
    http_status: int | None
    error: str | None
    duration_ms: int
    response_excerpt: str | None
    request_headers: str | None = Field(
        None,
        description="How a webhook was signed, a line for each header; to the role operate alone, "
        "as whoever has it can send the event again while the signature is young.",
    )


class Delivery(Given):
    """One event that is owed to one endpoint, or was told."""

    id: str = Field(description="The event's id, the `webhook-id` of every attempt.")
    job_id: int | None = Field(description="null: an event for the operator.")
    transition_id: int | None
    sequence: int
    event_type: str
    channel: str
    target: str
    body: str = Field(description="As it is sent.")
    state: DeliveryState
    attempts: int
    created_at: Moment
    next_attempt_at: Moment | None
    delivered_at: Moment | None
    video_id: str | None = None
    account: str | None = None
    last_attempt: Attempt | None = None
    attempts_log: list[Attempt] | None = None
    next_attempt_expected_at: Moment | None = None
    next_attempt_reason: str | None = None


class JobAction(Given):
    """What somebody did about a job (`details` is what was changed of it), or its account."""

    id: int
    at: Moment
    who: str = Field(description="A token's name, `cli:USER`, `task` for a message, or `python`.")
    action: str = Field(examples=["cancel"])
    chosen_by: dict[str, Any] | None = Field(description="The filter, if many were chosen by one.")
    count: int = Field(description="How many were changed, this one included.")
    details: dict[str, Any] | None


class Story(Given):
    """All that is known of one job."""

    job: Job
    transitions: list[Transition]
    poll_errors: list[PollError]
    deliveries: list[Delivery]
    actions: list[JobAction]


class Tracked(Given):
    """The jobs of a call, in the order of its ids."""

    jobs: list[TrackedJob]


TRACKED_JOBS = TypeAdapter(list[TrackedJob])


class Jobs(Given):
    """A page of jobs. It may hold fewer than asked for, and not be the last."""

    jobs: list[Job]
    next: str | None = Field(description="The `cursor` of the next page; null: this is the last.")


class Deliveries(Given):
    """A page of events."""

    deliveries: list[Delivery]
    next: str | None = Field(description="The `cursor` of the next page; null: this is the last.")


class Account(Given):
    """One key at one upstream."""

    name: str
    requests_per_second: float = Field(description="The rate now in force.")
    configured_rate: float | None = Field(
        description="The rate without 429s, as workers are configured; null: none has polled yet."
    )
    paused: bool = Field(description="True: its jobs are not polled until it is resumed.")
    paused_until: Moment | None = Field(description="null: somebody has to resume it, if paused.")
    pause_reason: str | None
    paused_since: Moment | None = Field(
        description="When its pause began; one by hand: when somebody paused it, also where it "
        "rested already. null: it polls, or nobody knows."
    )
    slowed_since: Moment | None = Field(
        description="When the first of the 429s came for which the rate is lower than configured."
    )
    slowed_at: Moment | None = Field(description="When that rate was last lowered or raised.")
    open_jobs: int


class Accounts(Given):
    """All accounts."""

    accounts: list[Account]


class Pause(Asked):
    """Why an account is paused."""

    reason: str = Field("", max_length=500, description="Shown wherever people ask why.")


class Endpoint(Given):
    """One callback URL, or one Celery task in one queue."""

    name: str
    host: str
    state: Literal["well", "refusing", "failing", "resting"] = Field(
        description="`well`: it took the last event. `refusing`: it answers and has taken nothing "
        "since `failing_since`; what it refused waits or is dead."
    )
    failures: int = Field(description="In a row, over all its events.")
    failing_since: Moment | None = Field(
        description="It has taken nothing since an attempt that began then. null: it is well."
    )
    open_until: Moment | None = Field(description="It rests until then.")
    last_http_status: int | None = Field(
        description="Of the last attempt, if it is not well. null: it did not answer."
    )
    last_error: str | None = Field(description="Why that attempt failed.")
    pending: int = Field(description="Events that are owed to it; at most 1000 are counted.")
    dead: int = Field(description="Events that it never took; at most 1000 are counted.")


class Endpoints(Given):
    """Those that are not well, that something is owed to, or that were told something lately."""

    endpoints: list[Endpoint]


class Redeliver(Asked):
    """How to send one event again."""

    release: bool = Field(
        False, description="Its endpoint is repaired: call it at once, however it has failed."
    )


class Redeliveries(Asked):
    """Which events to send again."""

    state: DeliveryState | None = Field(
        None, description="Without it: what is dead, and with `release` what is pending, too."
    )
    endpoint: str | None = Field(None, description="A callback URL, host, task or task@queue.")
    account: str | None = None
    since: str | None = Field(None, description="Made since then.")
    until: str | None = Field(None, description="Made before then.")
    release: bool = Field(False, description="Their endpoints are repaired: call them at once.")


class Redelivery(Given):
    """How far an order to send many events again has come."""

    id: int
    state: Literal["running", "done"]
    total: int = Field(description="So many were found.")
    done: int = Field(description="So many of them are owed again.")
    left_out: int = Field(description="So many had changed meanwhile.")
    created_at: Moment
    finished_at: Moment | None
    worked_at: Moment | None = Field(description="When somebody last went on with it.")
    place_at: Moment | None = Field(description="The last event that is done was made then.")
