"""GET /metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from omni import TextDelta
from omni.streaming.settings import Settings
from tests.streaming.doubles import MODEL, done, hub_of
from tests.streaming.running import Place, Still, running

KEY = "a-key-of-the-server-0123456789"


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with running(hub_of(Still(TextDelta("Yes."), done()), Settings(keys=(KEY,)))) as place:
        yield place


def told(place: Place) -> dict[str, Any]:
    answer = place.get("/metrics", headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {f"{s.name}{s.labels or ''}": s.value for family in families for s in family.samples}


def test_metrics_over_http(place: Place) -> None:
    assert place.get("/metrics").status_code == 401
    before = told(place)
    fields = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    assert place.post("/v1/chat/completions", json=fields, headers={"authorization": f"Bearer {KEY}"}).status_code == 200
    after = told(place)
    assert after["omni:ttft_s_count"] == before.get("omni:ttft_s_count", 0) + 1
    assert after["omni:refusals_total{'reason': 'key'}"] >= 1
    assert place.post("/v1/chat/completions", json={}, headers={"authorization": f"Bearer {KEY}"}).status_code == 400
    assert told(place)["omni:refusals_total{'reason': 'missing_required_parameter'}"] == 1
    assert after["process_resident_memory_bytes"] > 1 << 20
