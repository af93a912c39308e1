"""How the server is set up, and a bound for every number that a client can move."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """What one client may ask for. Bytes, seconds and counts by their names.

    Attributes:
        body_bytes: of a request's body; socket_bytes: of one message on a socket (a base64 append of 15 MiB fits).
        media_bytes: of one picture, clip or sound, decoded from base64 or fetched; media_parts: in one request.
        choices: answers to one chat request; stops: stop strings; tokens: of one answer.
        speech_chars: of one text to be spoken.
        sessions, sessions_per_key: sockets at once; requests: HTTP requests that are being answered at once.
        session_seconds: of a socket; idle_seconds: without a message from the client.
        buffered_seconds: of sound that was appended and not committed; items: of a conversation; tools, tools_bytes.
        ahead_seconds: how far the sound that is sent may run ahead of its playing.
        slow_seconds: how long a client may leave what was sent to it unread.
        decode_seconds, decode_bytes: time and memory in which one medium must be decoded.
    """

    body_bytes: int = 64 << 20
    socket_bytes: int = 21 << 20
    media_bytes: int = 32 << 20
    media_parts: int = 32
    choices: int = 8
    stops: int = 4
    tokens: int = 32768
    speech_chars: int = 4096
    sessions: int = 64
    sessions_per_key: int = 32
    requests: int = 128
    session_seconds: float = 3600.0
    idle_seconds: float = 900.0
    buffered_seconds: float = 600.0
    items: int = 2000
    tools: int = 128
    tools_bytes: int = 256 << 10
    ahead_seconds: float = 2.0
    slow_seconds: float = 10.0
    decode_seconds: float = 20.0
    decode_bytes: int = 2 << 30


@dataclass(frozen=True)
class Settings:
    """Attributes:
    keys: any of them opens the server; without one it is open, and then only to this machine.
    hosts: names that the Host header may hold besides the address that is bound.
    origins: pages of other origins that may connect.
    media_domains: whose https URLs are fetched; none without a name.
    share_cache: what was read for one key may be found by others, who can tell by the time whether somebody asked the same.
    media_folder: files below it may be named by file:// URLs; none without it.
    aliases: other names that clients may call the model by.
    strict: fields that nobody here knows are refused, instead of passed over and told.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    media_domains: tuple[str, ...] = ()
    media_folder: Path | None = None
    aliases: tuple[str, ...] = ()
    strict: bool = False
    share_cache: bool = False
    limits: Limits = field(default_factory=Limits)
