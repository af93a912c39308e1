"""What endpoints share, and what keys do not."""

from __future__ import annotations

import httpx
import pytest

from omni.streaming.settings import Settings
from tests.streaming.doubles import MODEL, Scripted, hub_of, serving

KEYS = ("a-key-of-one-0123456789", "a-key-of-another-0123456789")


def salts_of(settings: Settings, *asked: tuple[str | None, str | None]) -> list[str]:
    """The salts under which requests of these keys and salts were answered; the empty one is everybody's."""
    found = list[str]()
    model = Scripted()
    with serving(hub_of(model, settings)) as url:
        for key, salt in asked:
            num = len(model.salts)
            headers = {"authorization": f"Bearer {key}"} if key else {}
            body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "cache_salt": salt}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            found.append(model.salts[-1] if len(model.salts) > num else "")
    return found


def test_each_key_has_a_cache_of_its_own() -> None:
    one, again, other, salted = salts_of(
        Settings(keys=KEYS), (KEYS[0], None), (KEYS[0], None), (KEYS[1], None), (KEYS[0], "a team")
    )
    assert one == again != ""
    assert len({one, other, salted}) == 3
    assert not any(key in salt for key in KEYS for salt in (one, other, salted))


@pytest.mark.parametrize("settings", [Settings(), Settings(keys=KEYS, share_cache=True)])
def test_a_cache_may_be_shared(settings: Settings) -> None:
    keys = settings.keys or (None, None)
    assert salts_of(settings, (keys[0], None), (keys[1], None)) == ["", ""]
    one, other = salts_of(settings, (keys[0], "a"), (keys[1], "a"))
    assert one == other != ""
