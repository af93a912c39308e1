"""What all endpoints of one server share."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from omni.streaming.problems import Problem
from omni.streaming.server.client_secrets import Secrets
from omni.streaming.server.metrics import Metrics
from omni.streaming.server.pulse import Pulse
from omni.streaming.server.remote import Remote
from omni.streaming.server.sandbox import Sandbox
from omni.streaming.settings import Settings

if TYPE_CHECKING:
    from omni import Omni


NOBODY = "-"
"""The name under which sockets are counted where no key is asked for."""


@dataclass
class Counts:
    """What is open now; only the guard counts.

    Attributes:
        requests: HTTP requests that are being answered.
        sessions: sockets, by the key that opened them.
    """

    requests: int = 0
    sessions: Counter[str] = field(default_factory=Counter)


@dataclass
class Hub:
    """Attributes:
    name: of the model, as clients see it.
    created: when the server began, in seconds since 1970.
    is_bundled: the model is the small one that ships with the package, whose world is small.
    draining: the server is about to end: what runs may end, nothing new begins.
    """

    omni: Omni
    name: str
    settings: Settings = field(default_factory=Settings)
    created: int = field(default_factory=lambda: int(time.time()))
    metrics: Metrics = field(default_factory=Metrics)
    secrets: Secrets = field(default_factory=Secrets)
    counts: Counts = field(default_factory=Counts)
    is_bundled: bool = False
    draining: bool = False
    sandbox: Sandbox = field(init=False)
    remote: Remote = field(init=False)
    pulse: Pulse = field(init=False)

    def __post_init__(self) -> None:
        self.sandbox = Sandbox(self.settings.limits)
        self.omni.decoder = self.sandbox
        self.remote = Remote(self.settings)
        self.pulse = Pulse(self.omni)

    def omni_for(self, connection: HTTPConnection, salt: str = "") -> Omni:
        """The model for whoever showed a key: other keys, and other salts of one, find nothing that it left in the cache."""
        key = connection.scope.get("state", {}).get("key", NOBODY)
        name = "" if self.settings.share_cache or key == NOBODY else key
        return self.omni.apart(f"{name} {salt}") if name or salt else self.omni

    @property
    def names(self) -> tuple[str, ...]:
        """What the model may be called; its own name first."""
        return tuple(dict.fromkeys((self.name, *self.settings.aliases)))

    def check_model(self, name: str) -> None:
        """Problem where a request names another model."""
        if name not in self.names:
            raise Problem(
                f"there is no model {name[:100]!r} here; this server has {self.name!r}",
                404,
                param="model",
                code="model_not_found",
            )

    def close(self) -> None:
        """End what the hub started: the processes that decode, and its threads."""
        if self.omni.decoder is self.sandbox:
            self.omni.decoder = None
        self.sandbox.close()
        self.pulse.close()
