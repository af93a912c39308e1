"""The realtime API's socket: runs the protocol between a client, a microphone's turns and the model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from starlette.websockets import WebSocket, WebSocketDisconnect

from omni import Omni
from omni.errors import OmniError
from omni.events import AudioChunk, Done, Heard, Segment, TextDelta
from omni.session import Session
from omni.streaming.audio.turn_detection import SpeechEvent, TurnDetector
from omni.streaming.audio.wire import FORMATS
from omni.streaming.bounded_json import LONG
from omni.streaming.fields import check_hears
from omni.streaming.notices import Notices, current, warn
from omni.streaming.problems import Problem, problem_of, told
from omni.streaming.realtime.client_events import decoded, pictures
from omni.streaming.realtime.context import context_of
from omni.streaming.realtime.effects import (
    Answer,
    Close,
    Cut,
    Deaf,
    Detect,
    Effect,
    Hear,
    Listen,
    Read,
    Release,
    Send,
    Stop,
    Transcribe,
)
from omni.streaming.realtime.items import num_bytes, seconds
from omni.streaming.realtime.outgoing import Outgoing
from omni.streaming.realtime.pieces import Pieces
from omni.streaming.realtime.protocol import Protocol
from omni.streaming.realtime.session_config import Bounds
from omni.streaming.realtime.state import Setup
from omni.streaming.server.client_secrets import secret_of
from omni.streaming.server.guard import SUBPROTOCOL
from omni.streaming.server.hub import Hub
from omni.streaming.server.media import fetch

Json: TypeAlias = dict[str, Any]

SHORT_SOUND_MS = 60
"""What turns may be looked for in without a thread: two hops of the detector."""
UNREAD = 1 << 20
"""Characters that may wait for a client before no more is read of what it sends."""
MOST_WAITING = 16
"""Turns that wait to be written down."""
REMEMBERED = 4
"""Spoken answers whose words can still be cut where their listener broke them off."""
TIMER = 60.0


async def realtime(websocket: WebSocket) -> None:
    """`/v1/realtime`: one session of the protocol, as long as the socket is open.

    Query: `model`, which must be the server's; `intent=transcription` for a session that only writes down what it hears.
    """
    hub: Hub = websocket.app.state.hub
    query, secret = websocket.query_params, secret_of(websocket)
    if "model" in query:
        hub.check_model(query["model"])
    start = secret.session if secret else {}
    written = "transcription" in (query.get("intent"), start.get("type"))
    if written:
        check_hears(hub.omni.capabilities, "intent")
    limits = hub.settings.limits
    setup = Setup(
        names=hub.names,
        bounds=Bounds.of(hub.omni, limits),
        expires_at=int(time.time() + limits.session_seconds),
        kind="transcription" if written else "realtime",
    )
    current.set(Notices(strict=hub.settings.strict))
    await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in websocket.scope.get("subprotocols", ()) else None)
    await Connection(websocket, hub, setup).run(start)


@dataclass
class _Made:
    """An answer that is being made. released: it may be told."""

    task: asyncio.Task[None]
    released: asyncio.Event


@dataclass(frozen=True)
class _Said:
    """A spoken answer whose words can be looked up. speed: at which it is heard."""

    session: Session
    speed: float


@dataclass
class _Detecting:
    """How turns are listened for; the listener is made when the first sound comes, in a thread, as it takes a while."""

    detect: Detect
    detector: TurnDetector | None = None

    def hear(self, hear: Hear, speaking: bool) -> list[SpeechEvent]:
        if self.detect.detection is None:
            return []
        if self.detector is None:
            self.detector = TurnDetector(self.detect.detection, self.detect.rate, self.detect.start_ms)
        return self.detector.push(FORMATS[hear.format].decode(hear.data), speaking)


@dataclass
class _Ear:
    """What the user is saying, read by the model while it is being said; the answer then finds it in the cache."""

    omni: Omni
    session: Session | None = None
    queue: asyncio.Queue[Listen | Read | Deaf] = field(default_factory=asyncio.Queue)

    def put(self, effect: Listen | Read | Deaf) -> None:
        """To be followed; what came before another beginning is void, and not kept."""
        while not isinstance(effect, Read) and not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(effect)

    async def run(self) -> None:
        while True:
            effects = [await self.queue.get()]
            while not self.queue.empty():
                effects.append(self.queue.get_nowait())
            last = max((i for i, effect in enumerate(effects) if not isinstance(effect, Read)), default=0)
            try:
                await asyncio.to_thread(self._follow, effects[last:])
            except OmniError:
                self.session = None  # whatever it is, the answer will meet it, and tell

    def _follow(self, effects: list[Listen | Read | Deaf]) -> None:
        match effects[0]:
            case Listen() as listen:
                self.session = self.omni.session(voice=listen.voice)
                self.session.tools = listen.tools
                self.session.begin(context_of(listen.items, listen.instructions).messages)
            case Deaf():
                self.session = None
        reads = [effect for effect in effects if isinstance(effect, Read) and effect.data]
        if self.session and reads:
            form = FORMATS[reads[0].format]
            self.session.append_audio(form.decode(b"".join(read.data for read in reads)), form.rate)


class Connection:
    """One socket that was accepted.

    Tasks: one reads what the client sends, one sends, one watches the clock, one has what is being said read, one has it
    written down; and one for each answer and each cut.
    """

    def __init__(self, websocket: WebSocket, hub: Hub, setup: Setup) -> None:
        self._websocket, self._hub, self._limits = websocket, hub, hub.settings.limits
        self._omni = hub.omni_for(websocket)
        self._clock = asyncio.get_running_loop().time
        self._protocol = Protocol(setup, self._clock())
        self._outgoing = Outgoing(websocket.send_text, websocket.close, self._limits.slow_seconds)
        self._ear = _Ear(self._omni)
        self._to_hear: list[Hear] = []
        self._to_write: asyncio.Queue[Transcribe] = asyncio.Queue(MOST_WAITING)
        self._made: dict[str, _Made] = {}
        self._said: dict[str, _Said] = {}
        self._cutting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, start: Json) -> None:
        """Until either side ends it. start: of the session, in part."""
        self._do(self._protocol.open(start))
        ends = [self._begin(self._receive()), self._begin(self._outgoing.run()), self._fault]
        for work in (self._watch(), self._ear.run(), self._write_down()):
            self._begin(work)
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._fault.done():
                self._fault.result()
        except WebSocketDisconnect:
            pass
        finally:
            self._fault.cancel()  # what breaks from now on is of no interest
            left = [*self._tasks]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            self._let_go()

    def _let_go(self) -> None:
        """Of all sound: what points to itself in circles would keep it until Python looks for circles."""
        self._protocol.let_go()
        self._said.clear()
        self._to_hear.clear()
        self._ear = _Ear(self._omni)
        while not self._to_write.empty():
            self._to_write.get_nowait()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._fault.done():
            self._fault.set_exception(error)

    # ---- what the client sends

    async def _receive(self) -> None:
        while True:
            await self._outgoing.room(UNREAD)
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            try:
                event = await self._event(message.get("text"))
                try:
                    media = await self._pictures(event)
                except Problem as problem:
                    self._do(self._protocol.refuse(problem, event))
                    continue
                self._do(self._protocol.receive(event, self._clock(), media))
                await self._hear()
            except Problem as problem:
                self._do(self._protocol.refuse(problem))

    async def _event(self, text: str | None) -> object:
        if text is None:
            raise Problem(
                "a frame is text with one JSON object; sound goes as base64 in input_audio_buffer.append",
                code="invalid_event",
            )
        if len(text) > self._limits.socket_bytes:
            raise Problem(
                f"a frame has {len(text)} characters, and {self._limits.socket_bytes} are allowed", code="invalid_event"
            )
        try:
            return await asyncio.to_thread(decoded, text) if len(text) > LONG else decoded(text)
        except ValueError as e:
            raise Problem(f"the frame is no JSON: {e}", code="invalid_event") from None

    async def _pictures(self, event: object) -> dict[str, bytes]:
        if not self._hub.omni.capabilities.sees:
            return {}  # none is fetched in vain: the protocol refuses them
        asked = pictures(event) if isinstance(event, dict) else []
        if len(asked) > self._limits.media_parts:
            raise Problem(
                f"{len(asked)} pictures in one event, and {self._limits.media_parts} are allowed", code="invalid_value"
            )
        found: dict[str, bytes] = {}
        for param, url in asked:
            found[url] = await fetch(self._hub, url, "image", param)
            try:  # what cannot be seen is told now, and not when it is answered
                await self._omni.look({"type": "image", "image": found[url]})
            except OmniError as e:
                raise problem_of(e) from None
        return found

    async def _hear(self) -> None:
        """Listen for turns in the sound that has come, a second at a time."""
        waiting, self._to_hear = self._to_hear, []
        for whole in waiting:
            step = num_bytes(whole.format, 1000)
            for at in range(0, len(whole.data), step):
                hear = Hear(whole.format, whole.data[at : at + step])
                speaking, detecting = self._protocol.is_heard(self._clock()), self._detecting
                if detecting.detector and len(hear.data) <= num_bytes(hear.format, SHORT_SOUND_MS):
                    events = detecting.hear(hear, speaking)
                else:
                    events = await asyncio.to_thread(detecting.hear, hear, speaking)
                for event in events:
                    self._do(self._protocol.speech(event, self._clock()))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(TIMER, max(0.0, self._protocol.deadline - self._clock())))
            self._do(self._protocol.tick(self._clock()))

    # ---- what the protocol wants

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(event):
                    self._outgoing.put(event)
                case Close(code, reason):
                    self._outgoing.end(code, reason)
                case Detect():
                    self._detecting = _Detecting(effect)
                case Hear():
                    self._to_hear.append(effect)
                case Listen() | Read() | Deaf():
                    self._ear.put(effect)
                case Answer():
                    self._begin_answer(effect)
                case Release(response_id):
                    self._made[response_id].released.set()
                case Stop(response_id):
                    self._made[response_id].task.cancel()
                case Cut():
                    self._begin(self._cut(effect))
                case Transcribe() if self._to_write.full():
                    problem = Problem(
                        f"{MOST_WAITING} transcripts are waiting, which is the most; wait",
                        429,
                        code="too_many_transcripts",
                    )
                    self._do(self._protocol.transcribed(effect, problem))
                case Transcribe():
                    self._to_write.put_nowait(effect)

    async def _cut(self, cut: Cut) -> None:
        async with self._cutting:
            text, said = None, self._said.get(cut.response_id)
            with suppress(OmniError):  # it was cut before, or could not be made
                if said:
                    text = await asyncio.to_thread(said.session.interrupt, cut.ms * said.speed)
            self._do(self._protocol.heard(cut, text))

    async def _write_down(self) -> None:
        while True:
            asked = await self._to_write.get()
            try:
                async with aclosing(self._heard(asked)) as events:
                    async for event in events:
                        if not isinstance(event, Segment):
                            self._do(self._protocol.transcribed(asked, event))
            except Exception as e:  # ends this transcript, not the conversation
                self._do(self._protocol.transcribed(asked, told(e)))

    async def _heard(self, asked: Transcribe) -> AsyncGenerator[Heard]:
        form = FORMATS[asked.part.format]
        samples = await asyncio.to_thread(form.decode, bytes(asked.part.sound))
        events = self._omni.astream_transcript((samples, form.rate), max_tokens=self._limits.tokens)
        async with aclosing(self._hub.metrics.watched("realtime_transcription", events)) as seen:
            async for event in seen:
                yield event

    # ---- answers

    def _begin_answer(self, answer: Answer) -> None:
        released = asyncio.Event()
        if not answer.held:
            released.set()
        task = self._begin(self._answer(answer, released))
        self._made[answer.response_id] = _Made(task, released)
        task.add_done_callback(lambda _: self._made.pop(answer.response_id))

    async def _answer(self, answer: Answer, released: asyncio.Event) -> None:
        """Have an answer made, and tell it: words at once, sound shortly before it is to be heard."""
        pieces: asyncio.Queue[bytes | Done | Problem] = asyncio.Queue()
        making = self._begin(self._make(answer, released, pieces))
        try:
            await released.wait()
            while True:
                piece = await pieces.get()
                if isinstance(piece, bytes):
                    await self._when_due(answer, seconds(answer.format, len(piece)))
                self._do(self._protocol.answered(answer.response_id, piece, self._clock()))
                if not isinstance(piece, bytes):
                    return
        finally:
            making.cancel()

    async def _when_due(self, answer: Answer, length: float) -> None:
        """Wait until so much more sound is no further ahead of its playing than it may be, and all before it is sent."""
        ahead = answer.playing.until - self._clock()
        if ahead > 0:
            await asyncio.sleep(ahead - max(0.0, self._limits.ahead_seconds - length))
        await self._outgoing.room()

    async def _make(self, answer: Answer, released: asyncio.Event, pieces: asyncio.Queue[bytes | Done | Problem]) -> None:
        try:
            async with self._cutting:  # what was not heard is not remembered
                context = await asyncio.to_thread(context_of, answer.items, answer.instructions)
            session = self._omni.session(voice=answer.voice)
            session.tools, session.must_call = answer.tools, answer.must_call
            await asyncio.to_thread(session.begin, context.messages)
            limits = {} if answer.max_tokens is None else {"max_tokens": answer.max_tokens}
            sound: Pieces | None = None
            first = True
            async with aclosing(self._hub.metrics.watched("realtime", session.arespond(**limits))) as events:
                async for event in events:
                    if first and answer.remembers:
                        context.forget(session.forgotten)
                    first = False
                    await released.wait()
                    match event:
                        case TextDelta():
                            self._do(self._protocol.answered(answer.response_id, event, self._clock()))
                        case AudioChunk():
                            if sound is None:
                                sound = Pieces(event.sample_rate, answer.format, answer.speed)
                                self._keep(answer, session)
                            for piece in sound.push(event.samples):
                                pieces.put_nowait(piece)
                        case Done():
                            warn(event.warnings)
                            for piece in sound.finish() if sound else ():
                                pieces.put_nowait(piece)
                            pieces.put_nowait(event)
        except Exception as e:  # ends this answer, not the conversation
            pieces.put_nowait(told(e))

    def _keep(self, answer: Answer, session: Session) -> None:
        self._said[answer.response_id] = _Said(session, answer.speed)
        while len(self._said) > REMEMBERED:
            del self._said[next(iter(self._said))]
