"""omni: a runtime for models that see, hear and speak.

from omni import Omni
omni = Omni.load("Qwen/Qwen2.5-Omni-3B")
reply = omni.generate([{"role": "user", "content": "Hello!"}], voice="Chelsie")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omni.api import Omni
    from omni.encoders.sources import Budget
    from omni.encoders.speech import Cutting
    from omni.engine.options import Options
    from omni.events import (
        AudioChunk,
        Capabilities,
        Done,
        Event,
        Reply,
        Segment,
        TextDelta,
        Timings,
        Transcript,
        Usage,
        Word,
    )
    from omni.kernels.sampling import Sampling
    from omni.script.narration import Script
    from omni.talker.voice import ChunkPolicy

__version__ = "0.1.0"

_HOME = {
    "Omni": "omni.api",
    "Budget": "omni.encoders.sources",
    "Options": "omni.engine.options",
    "Sampling": "omni.kernels.sampling",
    "ChunkPolicy": "omni.talker.voice",
    "Cutting": "omni.encoders.speech",
    "Script": "omni.script.narration",
    **dict.fromkeys(
        (
            "AudioChunk",
            "Capabilities",
            "Done",
            "Event",
            "Reply",
            "Segment",
            "TextDelta",
            "Timings",
            "Transcript",
            "Usage",
            "Word",
        ),
        "omni.events",
    ),
}
__all__ = [
    "AudioChunk",
    "Budget",
    "Capabilities",
    "ChunkPolicy",
    "Cutting",
    "Done",
    "Event",
    "Omni",
    "Options",
    "Reply",
    "Sampling",
    "Script",
    "Segment",
    "TextDelta",
    "Timings",
    "Transcript",
    "Usage",
    "Word",
]


def __getattr__(name: str) -> object:
    # importing torch takes seconds; `omni --help` and the errors need none of it
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'omni' has no attribute {name!r}")
