"""Every error that omni raises for something the world can get wrong.

    OmniError
    ├── InputError               the request is at fault; other requests go on
    │   ├── MessageError         the messages do not have a shape we read
    │   ├── MediaError           a picture, clip or sound cannot be read
    │   │   └── MediaLimitError  it can, but is larger than the budget allows
    │   ├── VoiceError           no such voice, or codes that no voice can speak
    │   ├── OptionError          an option is out of its range
    │   └── ContextError         prompt and answer do not fit the model's context
    ├── CheckpointError          a checkpoint is missing, incomplete or of another shape
    ├── EvaluationError          an evaluation set cannot be read, or what judges it is missing
    ├── DeviceError              the device asked for is absent or too small
    │   └── CapacityError        no room left now; the same request may fit later
    ├── AddressError             the address of a server cannot be bound
    └── EngineError              a step broke; only the requests in it end

    MediaWarning                 part of a picture, clip or sound was lost, or taken otherwise than it stands in the file

A message says what was wrong and what to do. What only omni itself can get wrong is asserted instead. This module imports
nothing, so every room may import it.
"""


class OmniError(Exception):
    """Root of the tree."""


class InputError(OmniError):
    """The request is at fault."""


class MessageError(InputError):
    """The messages do not have a shape we read."""


class MediaError(InputError):
    """A picture, clip or sound cannot be read."""


class MediaLimitError(MediaError):
    """A picture, clip or sound is larger than the budget allows."""


class VoiceError(InputError):
    """No such voice, or codes that no voice can speak."""


class OptionError(InputError):
    """An option is out of its range."""


class ContextError(InputError):
    """Prompt and answer do not fit the model's context."""


class CheckpointError(OmniError):
    """A checkpoint is missing, incomplete or of another shape."""


class EvaluationError(OmniError):
    """An evaluation set cannot be read, or what judges it is missing."""


class DeviceError(OmniError):
    """The device asked for is absent or too small."""


class CapacityError(DeviceError):
    """No room is left now; the same request may fit later."""


class AddressError(OmniError):
    """The address of a server is taken, or is not this machine's."""


class EngineError(OmniError):
    """A step of the engine broke, by a fault of omni's own."""


class MediaWarning(UserWarning):
    """Part of a picture, clip or sound was lost, or was taken otherwise than it stands in the file."""
