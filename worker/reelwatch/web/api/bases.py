"""What all bodies of the API have in common: those that are sent, and those that are answered."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer, WithJsonSchema

from reelwatch.rules.events import timestamp

# Pydantic's own form of a time drops a fraction of zero; events and `--json` always have one.
Moment = Annotated[
    datetime,
    PlainSerializer(timestamp, return_type=str, when_used="json-unless-none"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class Asked(BaseModel):
    """What is sent: no other fields, and no value of another kind."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Given(BaseModel):
    """What is answered. Its times are `Moment`s; each has to be named, or it has another form."""

    model_config = ConfigDict(extra="allow", defer_build=True)
