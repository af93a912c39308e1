"""What a client is told when something is wrong: OpenAI's error object and a status."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from omni.errors import CapacityError, ContextError, InputError, MediaLimitError, OmniError

log = logging.getLogger(__name__)


@dataclass
class Problem(Exception):
    """An HTTP error in OpenAI's shape; on a socket the same object goes into an `error` event.

    Attributes:
        status: of HTTP.
        kind: "invalid_request_error", "authentication_error", "rate_limit_error", "server_error".
        param: the field at fault, by its path in the request.
        code: for programs.
    """

    message: str
    status: int = 400
    kind: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def refused(param: str, sentence: str, code: str = "invalid_value", status: int = 400) -> Problem:
    """A field is at fault: its path comes before what is wrong with it."""
    return Problem(f"{param}: {sentence}", status, param=param, code=code)


def refused_medium(param: str, sentence: str) -> Problem:
    """A field holds no picture, clip or sound that can be read."""
    return refused(param, sentence, "invalid_media")


def too_large(param: str, sentence: str) -> Problem:
    """A field holds a medium that is larger than it may be."""
    return refused(param, sentence, "media_too_large", 413)


def server_fault(message: str = "the server failed; try again", code: str = "server_error") -> Problem:
    """The client is not at fault; of what went wrong inside, nothing is told."""
    return Problem(message, 500, "server_error", code=code)


def problem_of(error: OmniError) -> Problem:
    """What a client is told of an error of the runtime: its own faults in full, ours without what is inside.

    Where a Problem is the cause of it, that is told.
    """
    cause = error.__cause__
    while cause:
        if isinstance(cause, Problem):
            return cause
        cause = cause.__cause__
    match error:
        case MediaLimitError():
            return Problem(str(error), 413, code="media_too_large")
        case ContextError():
            return Problem(str(error), code="context_length_exceeded")
        case InputError():
            return Problem(str(error), code="invalid_value")
        case CapacityError():
            return Problem(str(error), 503, "server_error", code="overloaded")
        case _:
            return server_fault("the model could not finish the answer; try again")


def told(error: Exception) -> Problem:
    """What a client is told of a fault once the status is sent; a fault of the server's own is logged too."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, OmniError):
        return problem_of(error)
    log.error("an answer broke", exc_info=error)
    return server_fault()
