"""The client secrets that a server knows."""

from __future__ import annotations

import pytest

from omni.streaming.problems import Problem
from omni.streaming.server.client_secrets import MOST, PREFIX, Secret, Secrets


def test_it_expires() -> None:
    now = 1000.0
    secrets, secret = Secrets(clock=lambda: now), Secret("key-1", {"type": "realtime"}, 1060)
    value = secrets.mint(secret)
    now = 1059.9
    assert secrets.find(value) == secret
    now = 1060.0
    assert secrets.find(value) is None


def test_they_are_few() -> None:
    now = 1000.0
    secrets, secret = Secrets(clock=lambda: now), Secret("key-1", {}, 1060)
    assert len({secrets.mint(secret) for _ in range(MOST)}) == MOST
    with pytest.raises(Problem, match="wait until some expire") as refused:
        secrets.mint(secret)
    assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
    now = 1061.0
    secrets.mint(Secret("key-1", {}, 2000))
    assert len(secrets._known) == 1


def test_none_is_kept_or_shown_as_it_is() -> None:
    secrets = Secrets()
    value = secrets.mint(Secret("key-1", {}, 60))
    assert value.removeprefix(PREFIX) not in repr(secrets) + repr(secrets._known)
