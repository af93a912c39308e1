"""GET /v1/models."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI

from omni.streaming.settings import Settings
from tests.streaming.doubles import MODEL, Scripted, hub_of, openai_of, serving


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    with serving(hub_of(Scripted())) as address, openai_of(address) as client:
        yield client


def test_the_one_model_is_listed(client: OpenAI) -> None:
    (model,) = client.models.list()
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "omni")
    assert model.created > 1_700_000_000
    assert client.models.retrieve(MODEL) == model


@pytest.mark.parametrize("name", ["gpt-4o-audio-preview", "a/b", "x" * 5000, "\N{SNOWMAN}"])
def test_others_are_not(client: OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError, match="this server has 'omni-small'") as caught:
        client.models.retrieve(name)
    assert caught.value.code == "model_not_found"
    assert len(caught.value.message) < 1000


def test_other_names_are_listed_and_answer() -> None:
    hub = hub_of(Scripted(), Settings(aliases=("gpt-realtime", "tts-1", MODEL)))
    with serving(hub) as address, openai_of(address) as client:
        assert [model.id for model in client.models.list()] == [MODEL, "gpt-realtime", "tts-1"]
        assert client.models.retrieve("tts-1").id == "tts-1"
        reply = client.chat.completions.create(model="gpt-realtime", messages=[{"role": "user", "content": "Hi"}])
        assert reply.model == MODEL


def test_a_name_with_a_slash_is_found() -> None:
    hub = hub_of(Scripted())
    hub.name = "Qwen/Qwen2.5-Omni-3B"
    with serving(hub) as address, openai_of(address) as client:
        assert client.models.retrieve(hub.name).id == hub.name
