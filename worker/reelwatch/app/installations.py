"""Installations that share a Redis database by mistake: they would take each other's ids.

The queue's name is the contract's, so whose tables an id gets into is a matter of luck there. Each
database has an identity, made with its tables; workers leave it in Redis, where those of another
installation, and `reelwatch doctor`, see it.
"""

from contextlib import closing
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from reelwatch.app import broker_check
from reelwatch.config import tls
from reelwatch.storage.models import Installation

KEY = broker_check.INSTALLATIONS  # a hash: identity -> when a worker signed last, and its name
SIGN_SECONDS = 60.0  # between a worker's signatures
LATELY = 180  # seconds for which one counts: workers that have ended take no ids
ADVICE = (
    "each installation needs a Redis database of its own, another number in BROKER_URL "
    "(redis://…/1), or they take each other's ids"
)

# KEYS: the hash; ARGV: seconds that count, identity, and the worker's name or nothing. Returns the
# names of others' workers. Times are Redis's own: the machines' clocks may differ.
SIGN = """
local now = tonumber(redis.call('TIME')[1])
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[2], now .. ' ' .. ARGV[3])
  redis.call('EXPIRE', KEYS[1], 86400)
end
local others = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local at, name = string.match(all[i + 1], '^(%d+) (.*)$')
  if all[i] ~= ARGV[2] and at and now - at < tonumber(ARGV[1]) then
    others[#others + 1] = name
  elseif all[i] ~= ARGV[2] and ARGV[3] ~= '' then
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return others
"""


def identity(session: Session) -> str | None:
    """This database's; None: somebody has deleted its row."""
    return session.execute(select(Installation.id).limit(1)).scalar_one_or_none()


def others(url: str, mine: str, worker: str = "") -> list[str]:
    """The names of workers of other installations that take ids from this broker; `worker` signs.

    Nothing is known of other brokers than Redis. Raises what connecting and its client raise.
    """
    if not url.startswith("redis"):
        return []
    with closing(broker_check.connected(tls.read(url))) as connection:
        channel: Any = connection.default_channel
        found = channel.client.eval(SIGN, 1, KEY, LATELY, mine, worker)
    return sorted(bytes(each).decode("utf-8", "replace") for each in found)
