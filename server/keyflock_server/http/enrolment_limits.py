"""Limits how many phones may enrol, in all and from one network, because enrolment is open to anybody.

The token buckets are in this process's memory, so each of several processes allows as much. A network's
bucket is dropped after 65,536 other networks have enrolled, which the limit on all of them keeps slow.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from keyflock_server.http.client_address import Network, address_block, client_address
from keyflock_server.protocol.calls import Request
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ApiError, ProblemCode

#: Maximum number of networks whose buckets are stored.
MAX_BLOCKS: Final = 65_536
_MINUTE_S: Final = 60.0
_HOUR_S: Final = 3_600.0


@dataclass(slots=True)
class TokenBucket:
    """Allows a number of events per period, at once or spread over it.

    Args:
        capacity: Tokens that a full bucket holds.
        period_s: The time in which an empty bucket fills.
        now_s: The time at which it is full, in seconds of any clock.
    """

    capacity: int
    period_s: float
    now_s: float
    tokens: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = float(self.capacity)

    def wait_s(self, now_s: float) -> float:
        """Return how long until there is a token; 0 when there is one. A clock set back fills nothing."""
        passed_s = max(0.0, now_s - self.now_s)
        self.tokens = min(float(self.capacity), self.tokens + passed_s * self.capacity / self.period_s)
        self.now_s = now_s
        return max(0.0, 1.0 - self.tokens) * self.period_s / self.capacity

    def take(self) -> None:
        """Take a token; there must be one."""
        self.tokens -= 1.0


class EnrolmentLimits:
    """Refuses enrolments beyond its limits.

    Args:
        max_per_minute: Maximum number of enrolments of all phones.
        max_per_block_per_hour: Maximum number of enrolments from one network: an IPv4 /24 or an IPv6 /48.
        trusted_proxies: The networks of the proxies whose headers name the client's address.
        max_blocks: Maximum number of networks whose buckets are stored.
    """

    def __init__(
        self,
        max_per_minute: int,
        max_per_block_per_hour: int,
        trusted_proxies: Collection[Network] = (),
        *,
        max_blocks: int = MAX_BLOCKS,
    ) -> None:
        self._all = TokenBucket(max_per_minute, _MINUTE_S, 0.0)
        self._max_per_block_per_hour = max_per_block_per_hour
        self._trusted_proxies = tuple(trusted_proxies)
        self._blocks: LRUCache[Network, TokenBucket] = LRUCache(max_blocks)

    def admit(self, head: Request, now_s: float) -> None:
        """Count one more enrolment, or refuse it. A request without a connection is not limited.

        Raises:
            ApiError: ``too_many_requests``; says when to come back, spread over a period of the limit.
        """
        address = client_address(head.peer, head.headers.items(), self._trusted_proxies)
        if address is None:
            return
        if wait_s := self._all.wait_s(now_s):
            raise _too_many("Too many phones enrol at once", wait_s, _MINUTE_S)
        block = address_block(address)
        bucket = self._blocks.get(block) or TokenBucket(self._max_per_block_per_hour, _HOUR_S, now_s)
        if wait_s := bucket.wait_s(now_s):
            raise _too_many("Too many phones of this network enrol at once", wait_s, _HOUR_S)
        self._blocks[block] = bucket
        self._all.take()
        bucket.take()


def _too_many(why: str, wait_s: float, period_s: float) -> ApiError:
    window = ReturnWindow(min_s=max(wait_s, 1.0), max_s=max(wait_s, 1.0) + period_s)
    return ApiError(ProblemCode.TOO_MANY_REQUESTS, f"{why}; enrol later.", window)
