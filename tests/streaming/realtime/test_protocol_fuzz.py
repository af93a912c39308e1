"""The realtime protocol under whatever clients, turns and engines do: it never breaks, and what it tells fits together."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from omni.events import TextDelta
from omni.streaming.audio.turn_detection import SpeechPaused, SpeechResumed, SpeechStarted, SpeechStopped
from omni.streaming.problems import Problem
from omni.streaming.settings import Limits
from tests.streaming.talk import TOOL, Answer, Cut, Json, Talk, Transcribe, done, silence, transcript

PICTURE = "data:image/png;base64,AAAA"
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.just("item_1"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
ITEM_ID = st.sampled_from(["$0", "$0", "$1", "$2", "mine"])
"""$0 is the last item of the conversation at that moment, $1 the one before it."""
SOUND = st.sampled_from([0, 20, 100, 400, 1500]).map(lambda ms: b64encode(silence(ms)).decode())
PARTS = st.one_of(
    st.just({"type": "input_text", "text": "Hello."}),
    SOUND.map(lambda sound: {"type": "input_audio", "audio": sound}),
    st.just({"type": "input_image", "image_url": PICTURE}),
)
ITEMS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("message"), "role": st.just("user"), "content": st.lists(PARTS, min_size=1, max_size=2)},
        optional={"id": st.just("mine")},
    ),
    st.just({"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be kind."}]}),
    st.just({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]}),
    st.just({"type": "function_call", "name": "look_up", "call_id": "c", "arguments": "{}"}),
    st.just({"type": "function_call_output", "call_id": "c", "output": "x"}),
)
DETECTION = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"type": st.just("server_vad")},
        optional={
            "create_response": st.booleans(),
            "interrupt_response": st.booleans(),
            "idle_timeout_ms": st.just(5000),
        },
    ),
    st.fixed_dictionaries({"type": st.just("semantic_vad")}, optional={"create_response": st.booleans()}),
)
FORMAT = st.sampled_from([{"type": "audio/pcm", "rate": 24000}, {"type": "audio/pcmu"}, {"type": "audio/pcma"}])
MODALITIES = st.sampled_from([["audio"], ["text"]])
SESSION = st.fixed_dictionaries(
    {"type": st.just("realtime")},
    optional={
        "instructions": st.text(max_size=5),
        "output_modalities": MODALITIES,
        "tools": st.sampled_from([[], [TOOL]]),
        "max_output_tokens": st.sampled_from([1, 100, "inf"]),
        "audio": st.fixed_dictionaries(
            {},
            optional={
                "input": st.fixed_dictionaries(
                    {},
                    optional={
                        "turn_detection": DETECTION,
                        "format": FORMAT,
                        "transcription": st.sampled_from([None, {"model": "whisper-1"}]),
                    },
                ),
                "output": st.fixed_dictionaries(
                    {}, optional={"voice": st.sampled_from(["Chelsie", "Ethan", "nobody"]), "format": FORMAT}
                ),
            },
        ),
    },
)
RESPONSE = st.fixed_dictionaries(
    {},
    optional={
        "conversation": st.sampled_from(["auto", "none"]),
        "output_modalities": MODALITIES,
        "metadata": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
        "input": st.lists(ITEMS | ITEM_ID.map(lambda id: {"type": "item_reference", "id": id}), max_size=2),
        "tools": st.just([TOOL]),
    },
)


def of_type(type: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries({"type": st.just(type), **fields}, optional={"event_id": st.text(max_size=4)})


EVENTS = st.one_of(
    of_type("session.update", session=SESSION),
    of_type("input_audio_buffer.append", audio=SOUND),
    of_type("input_audio_buffer.append", audio=SOUND),
    of_type("input_audio_buffer.commit"),
    of_type("input_audio_buffer.clear"),
    of_type("conversation.item.create", item=ITEMS),
    of_type("conversation.item.create", item=ITEMS, previous_item_id=ITEM_ID | st.just("root")),
    of_type("conversation.item.retrieve", item_id=ITEM_ID),
    of_type("conversation.item.delete", item_id=ITEM_ID),
    of_type(
        "conversation.item.truncate",
        item_id=ITEM_ID,
        content_index=st.just(0),
        audio_end_ms=st.sampled_from([0, 150, 10**6]),
    ),
    of_type("response.create", response=RESPONSE),
    of_type("response.cancel"),
)


@st.composite
def mutated(draw: st.DrawFn) -> Json:
    """An event with something else somewhere in it."""
    event = draw(EVENTS)
    place: Any = event
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return event
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], (dict, list)) and draw(st.booleans()):
            place[key] = place = type(place[key])(place[key])
            continue
        if isinstance(place, dict) and draw(st.booleans()):
            del place[key]
        else:
            place[key] = draw(JUNK)
        return event


TURNS = st.one_of(
    st.integers(0, 3000).map(SpeechStarted),
    st.integers(0, 3000).map(SpeechPaused),
    st.just(SpeechResumed()),
    st.integers(0, 3000).map(SpeechStopped),
)
CALL = '<tool_call>{"name": "look_up", "arguments": {}}</tool_call>'
TOLD = st.one_of(
    st.sampled_from(["Hello ", "there.", " ", CALL, CALL[:15], CALL[15:], "<tool_call>no"]).map(TextDelta),
    st.sampled_from([20, 200, 1000]).map(lambda ms: bytes(ms * 8)),
    st.sampled_from([done("stop"), done("length")]),
    st.just(Problem("broken", 500, "server_error", code="server_error")),
)
ACTIONS = st.one_of(
    st.tuples(st.just("client"), EVENTS),
    st.tuples(st.just("client"), EVENTS),
    st.tuples(st.just("client"), mutated()),
    st.tuples(st.just("client"), JUNK),
    st.tuples(st.just("turn"), TURNS),
    st.tuples(st.just("turn"), TURNS),
    st.tuples(st.just("client"), st.just({"type": "response.create"})),
    st.tuples(st.just("told"), st.tuples(st.integers(0, 1), TOLD)),
    st.tuples(st.just("told"), st.tuples(st.just(0), TOLD)),
    st.tuples(st.just("told"), st.tuples(st.just(0), TOLD)),
    st.tuples(st.just("heard"), st.tuples(st.integers(0, 3), st.none() | st.just("Hel"))),
    st.tuples(
        st.just("written"), st.tuples(st.integers(0, 3), st.sampled_from([TextDelta("Hi"), transcript(), Problem("no")]))
    ),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 10.0])),
)


def with_names(value: Any, names: dict[str, str]) -> Any:
    match value:
        case str():
            return names.get(value, value)
        case dict():
            return {key: with_names(inner, names) for key, inner in value.items()}
        case list():
            return [with_names(inner, names) for inner in value]
    return value


def act(talk: Talk, action: tuple[str, Any]) -> None:
    """Do something, to the n-th last of what the protocol has asked for where it is about that."""

    def nth(kind: Any, n: int) -> Any:
        asked = talk.all(kind)
        return asked[-1 - n % len(asked)] if asked else None

    protocol = talk.protocol
    match action:
        case "client", event:
            names = {f"${i}": item.id for i, item in enumerate(reversed(talk.items))}
            talk.take(protocol.receive(with_names(event, names), talk.now, {PICTURE: b"png"}))
        case "turn", event:
            talk.speech(event)
        case "told", (n, told):
            if answer := nth(Answer, n):
                if isinstance(told, bytes) and answer.voice is None:
                    return
                talk.take(protocol.answered(answer.response_id, told, talk.now))
        case "heard", (n, text):
            if cut := nth(Cut, n):
                talk.take(protocol.heard(cut, text))
        case "written", (n, told):
            if asked := nth(Transcribe, n):
                talk.take(protocol.transcribed(asked, told))
        case "wait", seconds:
            talk.now += seconds
            talk.take(protocol.tick(talk.now))


class Client:
    """What a client makes of the events, and what it may rely on."""

    def __init__(self) -> None:
        self.responses: dict[str, Json] = {}
        self.over: set[str] = set()
        self.in_band: str | None = None
        self.order: list[str] = []
        self.open: dict[str, str] = {}
        self.text: dict[str, str] = {}
        self.sound: dict[str, int] = {}
        self.speech: str | None = None

    def see(self, event: Json) -> None:
        kind, item = event["type"], event.get("item", {})
        response = event.get("response_id")
        if response:
            assert response in self.responses and response not in self.over, kind
        match kind:
            case "response.created":
                made = event["response"]
                assert made["id"] not in self.responses
                self.responses[made["id"]] = made
                if made["conversation_id"]:
                    assert self.in_band is None
                    self.in_band = made["id"]
            case "response.done":
                made = event["response"]
                assert made["id"] in self.responses and made["id"] not in self.over
                assert (
                    made["status"] != "in_progress"
                    and made["usage"]
                    and made["metadata"] == self.responses[made["id"]]["metadata"]
                )
                assert made["id"] not in self.open.values(), "an item was left open"
                self.over.add(made["id"])
                if made["conversation_id"]:
                    assert self.in_band == made["id"]
                    self.in_band = None
            case "response.output_item.added":
                assert item["status"] == "in_progress"
                self.open[item["id"]] = event["response_id"]
            case "response.output_item.done":
                assert item["status"] in ("completed", "incomplete")
                del self.open[item["id"]]
                self.text.pop(item["id"], None)
            case "conversation.item.added":
                before = event["previous_item_id"]
                assert item["id"] not in self.order
                self.order.insert(0 if before is None else self.order.index(before) + 1, item["id"])
            case "conversation.item.deleted":
                self.order.remove(event["item_id"])
            case "response.output_text.delta" | "response.output_audio_transcript.delta":
                assert event["item_id"] in self.open and event["delta"]
                self.text[event["item_id"]] = self.text.get(event["item_id"], "") + event["delta"]
            case "response.output_text.done":
                assert event["text"] == self.text.get(event["item_id"], "")
            case "response.output_audio_transcript.done":
                assert event["transcript"] == self.text.get(event["item_id"], "")
            case "response.output_audio.delta":
                assert event["item_id"] in self.open
                self.sound[event["item_id"]] = self.sound.get(event["item_id"], 0) + len(b64decode(event["delta"]))
            case "input_audio_buffer.speech_started":
                self.speech = event["item_id"]
            case "input_audio_buffer.speech_stopped":
                assert event["item_id"] == self.speech
                self.speech = None


@settings(max_examples=250, deadline=None)
@given(
    st.lists(ACTIONS, min_size=5, max_size=60),
    st.sampled_from([Limits(), Limits(items=3, choices=2, buffered_seconds=2, body_bytes=50_000)]),
    st.booleans(),
)
def test_whatever_happens(actions: list[tuple[str, Any]], limits: Limits, with_tools: bool) -> None:
    talk, client = Talk(limits=limits, session={"tools": [TOOL]} if with_tools else None), Client()
    seen = 0
    for action in actions:
        act(talk, action)
        for event in talk.events[seen:]:
            client.see(event)
        seen = len(talk.events)
        assert client.order == [item.id for item in talk.items]
        for item in talk.items:
            if item.response_id and item.spoken:
                assert len(item.spoken.sound) <= client.sound.get(item.id, 0)
    for answer in talk.all(Answer):
        talk.take(talk.protocol.answered(answer.response_id, done(), talk.now))
    for event in talk.events[seen:]:
        client.see(event)
    assert client.over == client.responses.keys() and not client.open
    assert all(item.status != "in_progress" for item in talk.items)
