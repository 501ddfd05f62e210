"""A site that gives back what it gets, for those tests that leave it as it was."""

from typing import NamedTuple

import pytest

from tests.conftest import StackFactory
from tests.stack import Stack

STATE = [{"id": "in", "property": "id", "value": "in"}]
"""What the callbacks of ``tests/apps/hostile.py`` want beside their input."""


class Site(NamedTuple):
    stack: Stack
    address: str

    @property
    def host(self) -> str:
        return self.address.removeprefix("http://")

    @property
    def log(self) -> str:
        """What the web process and the worker have said."""
        return "".join(proc.log for proc in (*self.stack.webs, *self.stack.workers))


@pytest.fixture(scope="module")
def site(make_shared_stack: StackFactory) -> Site:
    stack = make_shared_stack(
        "hostile",
        max_request_bytes="200000",
        max_call_rate="1000",
        max_session_calls="50",
        poll_hold_s="1.5",
        lease_s="2",
    )
    # A connection that its browser has closed is counted among the files for so long.
    stack.keep_alive_s = 5
    (address,) = stack.up()
    return Site(stack, address)
