"""What clients send or name: fetched only from where it may be, and decoded only where it can do no harm."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import httpx
import numpy as np
import pytest

from omni import Budget, Omni
from omni.encoders.pictures import FORMATS
from omni.encoders.sampling import Sampling
from omni.errors import OmniError
from omni.streaming.fields import Kind
from omni.streaming.notices import Notices, current
from omni.streaming.problems import Problem, problem_of
from omni.streaming.server import remote
from omni.streaming.server.hub import Hub
from omni.streaming.server.media import checked, fetch
from omni.streaming.server.remote import is_public
from omni.streaming.settings import Limits, Settings
from tests.encoders.samples import sound_file, speech_like
from tests.streaming.files import boastful_clip, clip, picture, sound, vast_picture

DATA = Path(__file__).parents[2] / "data"
BUDGET = Budget(max_pixels=10_000, max_frames=50, max_seconds=20)


# what an MP3 tagger puts before bare AAC too
ID3 = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
# half a second of silence as a phone's voice recorder has it: 25 frames of 12.2 kbit/s
AMR = b"#!AMR\n" + (b"\x3c" + bytes.fromhex("48f51f9633c8c1e5f8000000000000000000000000000000000000000000")[:31]) * 25


def hub_of(settings: Settings, budget: Budget = BUDGET) -> Hub:
    return Hub(cast(Omni, SimpleNamespace(budget=budget)), "small", settings)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    hub = hub_of(Settings(limits=Limits(media_bytes=1 << 20)))
    yield hub
    hub.close()


async def decode(hub: Hub, data: bytes, kind: Kind, param: str = "messages[0]") -> bytes:
    """As an endpoint and the model's reader do, on a thread as there; the same bytes."""
    try:
        await asyncio.to_thread(_decode, hub, checked(hub, data, kind, param), kind)
    except OmniError as e:
        raise problem_of(e) from None
    return data


def _decode(hub: Hub, data: bytes, kind: Kind) -> None:
    budget, told = hub.omni.budget, list[str]()
    if kind == "image":
        hub.sandbox.picture(data, budget, told.append)
    has_audio = kind == "audio"
    if kind == "video":
        with hub.sandbox.clip(data, Sampling(), budget, told.append) as film:
            assert len(list(film.frames)) == len(film.times)
            has_audio = film.has_audio
    if has_audio:
        hub.sandbox.sound(data, 16000, budget, told.append)


def refused(work: Awaitable[bytes]) -> Problem:
    async def wait() -> bytes:
        return await work

    with pytest.raises(Problem) as caught:
        asyncio.run(wait())
    problem = caught.value
    assert problem.param == "messages[0]"
    for inside in ("0x", "Errno", "Error", "/", "av.", "PIL", "ffmpeg"):  # of the library or the machine
        assert inside not in problem.message.replace("file:///PATH", "").replace("https://", "")
    return problem


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        *(("image", picture(kind)) for kind in ("PNG", "JPEG", "WEBP", "MPO", "GIF", "BMP", "TIFF", "AVIF")),
        *(("audio", sound(*kind)) for kind in (("adts", "aac"), ("aiff", "pcm_s16be"), ("caf", "pcm_s16le"))),
        *(("audio", sound(*kind)) for kind in (("w64", "pcm_s16le"), ("au", "pcm_s16be"), ("mp2", "mp2"))),
        *(("audio", sound_file(speech_like(0.5), 16000, *kind)) for kind in (("RF64",), ("WAV", "IMA_ADPCM"))),
        *(("audio", sound_file(speech_like(0.5), 16000, "WAV", kind)) for kind in ("MS_ADPCM", "ULAW", "GSM610")),
        ("audio", ID3 + sound("adts", "aac")),
        ("audio", AMR),
        ("audio", sound()),
        ("audio", sound("wav", "pcm_f32le")),
        ("audio", sound("mp3", "libmp3lame")),
        ("audio", sound("ogg", "libopus")),
        ("audio", sound("flac", "flac")),
        ("audio", sound("ipod", "aac")),
        ("audio", sound("webm", "libopus")),
        ("audio", clip(tone=True)),
        ("video", clip()),
        ("video", clip(tone=True)),
        ("video", clip("mov", "mjpeg")),
        ("video", clip("webm", "libvpx")),
        ("video", clip("matroska", "mpeg4")),
    ],
)
def test_accepted(hub: Hub, kind: Kind, data: bytes) -> None:
    assert asyncio.run(decode(hub, data, kind)) == data


def two_tracks() -> bytes:
    """A phone's clip: AAC, and a spatial track of a codec that nobody knows, and a cover of a kind that is not accepted."""
    out = io.BytesIO()
    with av.open(out, "w", format="mov") as file:
        video = file.add_stream("mpeg4", rate=5, width=48, height=48, pix_fmt="yuv420p")
        tracks = [file.add_stream(codec, rate=16000, layout="mono") for codec in ("pcm_s16be", "pcm_s16le")]
        file.mux(video.encode(av.VideoFrame.from_ndarray(np.full((48, 48, 3), 90, np.uint8), format="rgb24")))
        file.mux(video.encode(None))
        for track in tracks:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            frame.sample_rate = 16000
            file.mux(track.encode(frame))
            file.mux(track.encode(None))
    return out.getvalue().replace(b"twos", b"apac")


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_only_the_track_that_is_used_is_judged(hub: Hub, kind: Kind) -> None:
    data = two_tracks()
    assert data.count(b"apac") == 1
    assert asyncio.run(decode(hub, data, kind)) == data


def wiped(data: bytes, first: int, num_bytes: int) -> bytes:
    return data[:first] + bytes(num_bytes) + data[first + num_bytes :]


LONG = sound("mp3", "libmp3lame", seconds=3)


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("audio", wiped(LONG, len(LONG) // 2, 800), "could not be decoded and is silent"),
        ("audio", LONG[: len(LONG) // 2], "damaged or cut short: it states 3"),
        ("audio", sound()[:-3000], "3000 bytes are missing"),
        ("video", clip(tone=True)[:-1], "1 bytes are missing"),
        ("video", clip(tone=True), ""),
        ("image", picture("PNG", frames=2), "animation"),
        ("image", picture("WEBP", frames=40), "animation"),
        ("image", picture("GIF", frames=3), "animation"),
    ],
)
def test_what_was_lost_is_told(hub: Hub, kind: Kind, data: bytes, said: str) -> None:
    async def told() -> list[str]:
        current.set(notices := Notices())
        assert await decode(hub, data, kind) == data
        return notices.warnings

    async def retold() -> list[str]:
        current.set(notices := Notices())
        hub.sandbox.retell(sentences)
        return notices.warnings

    sentences = asyncio.run(told())
    assert asyncio.run(retold()) == sentences
    assert [said in sentence for sentence in sentences] == ([True] if said else [])


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("image", b"", "empty"),
        ("image", b"hello", "PNG, JPEG or WEBP"),
        ("image", b"%!PS-Adobe-3.0 EPSF-3.0\n", "PNG, JPEG or WEBP"),
        ("image", b"II*\0" + bytes(100), "damaged"),
        ("image", picture("AVIF")[:200], "damaged"),
        ("image", b"\0\0\0\x18ftypheic" + bytes(100), "HEIC" if "HEIF" not in FORMATS else "damaged"),
        ("image", picture()[:60], "damaged"),
        ("image", b"\x89PNG\r\n\x1a\n" + bytes(100), "damaged"),
        ("image", sound(), "PNG, JPEG or WEBP"),
        ("audio", picture(), "WAV, MP3"),
        ("audio", clip("avi"), "WAV, MP3"),
        ("audio", sound()[:40], "damaged"),
        ("audio", sound_file(1000 * speech_like(1), 16000, "WAV", "FLOAT"), "floats up to"),
        ("audio", sound("wav", "g722"), "not accepted"),
        ("audio", b"ID3" + bytes(500), "damaged"),
        ("audio", clip(), "no sound"),
        ("audio", sound("wav", seconds=0.0) or b"RIFF\x24\0\0\0WAVEfmt ", "damaged"),
        ("video", sound("ipod", "aac"), "no moving pictures"),
        ("video", clip("avi"), "MP4, MOV"),
        ("video", clip("mpegts", "mpeg2video"), "MP4, MOV"),
        ("video", clip("mov", "jpeg2000"), "not accepted"),
        ("video", clip("matroska", "ffv1"), "not accepted"),
        ("video", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "MP4, MOV"),
        ("video", b"ffconcat version 1.0\nfile /etc/passwd\n", "MP4, MOV"),
        ("audio", b"\0\0\0\x14ftypisom" + bytes(12) + sound("mp3", "libmp3lame"), "damaged"),  # two formats at once
    ],
)
def test_damaged_or_of_another_kind(hub: Hub, kind: Kind, data: bytes, said: str) -> None:
    problem = refused(decode(hub, data, kind))
    assert (problem.status, problem.code) == (400, "invalid_media")
    assert said in problem.message


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("image", bytes((1 << 20) + 1), "bytes"),
        ("image", picture(width=101, height=100), "pixels"),
        ("image", vast_picture(), "pixels"),
        ("audio", sound(seconds=20.1, rate=8000), "20 s"),
        ("audio", sound("ogg", "libopus", seconds=30, level=0), "20 s"),
        ("audio", sound("flac", "flac", seconds=300, level=0), "20 s"),
        ("video", boastful_clip(), "frames"),
        ("video", clip(frames=51, fps=25), "frames"),
        ("video", clip("webm", "libvpx", frames=51, fps=25), "frames"),  # which does not say how many it has
        ("video", clip(frames=45, fps=2), "20 s"),
        ("video", clip(size=112), "pixels"),
    ],
)
def test_larger_than_its_budget(hub: Hub, kind: Kind, data: bytes, said: str) -> None:
    problem = refused(decode(hub, data, kind))
    assert (problem.status, problem.code) == (413, "media_too_large")
    assert said in problem.message


def test_more_memory_than_allowed() -> None:
    hub = hub_of(Settings(limits=Limits(decode_bytes=250 << 20)), Budget())
    try:
        problem = refused(decode(hub, picture(width=8000, height=8000), "image"))
        assert (problem.status, "memory" in problem.message) == (413, True)
        assert asyncio.run(decode(hub, picture(), "image"))  # the next one is served
    finally:
        hub.close()


async def all_at_once(hub: Hub, count: int) -> list[bytes | BaseException]:
    work = [decode(hub, picture(), "image") for _ in range(count)]
    return await asyncio.gather(*work, return_exceptions=True)


def processes(hub: Hub) -> list[subprocess.Popen[bytes]]:
    return [worker._process for worker in hub.sandbox._workers if worker._process]


@pytest.mark.parametrize(
    ("by", "status", "said"),
    [
        (signal.SIGSEGV, 400, "breaks its decoder"),
        (signal.SIGABRT, 400, "breaks its decoder"),
        (signal.SIGXCPU, 413, "takes more than"),
        (signal.SIGKILL, 413, "takes more than"),
    ],
)
def test_a_decoder_that_breaks(hub: Hub, by: signal.Signals, status: int, said: str) -> None:
    """Its process dies in the middle; the medium is refused, and others beside and after it are not."""
    asyncio.run(all_at_once(hub, 8))
    dying = processes(hub)
    for process in dying:
        process.send_signal(by)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        process.poll = lambda: None  # type: ignore[method-assign]  # it dies only after it was looked at
    got = asyncio.run(all_at_once(hub, 8))
    broken = [one for one in got if isinstance(one, Problem)]
    assert len(broken) == len(dying) > 0
    assert {(one.status, said in one.message) for one in broken} == {(status, True)}
    assert got.count(picture()) == 8 - len(broken)


def test_a_decoder_that_does_not_end() -> None:
    hub = hub_of(Settings(limits=Limits(decode_seconds=4)))
    try:
        asyncio.run(all_at_once(hub, 8))
        for process in processes(hub):
            process.send_signal(signal.SIGSTOP)
        problem = refused(decode(hub, picture(), "image"))
        assert (problem.status, "takes more than 4 s" in problem.message) == (413, True)
    finally:
        hub.close()


def test_too_many_at_once() -> None:
    """Who waits longer than a medium may take is told so."""
    hub = hub_of(Settings(limits=Limits(decode_seconds=0.05)))
    held = [hub.sandbox._free.get() for _ in hub.sandbox._workers]
    try:
        problem = refused(decode(hub, picture(), "image"))
        assert (problem.status, problem.code) == (503, "overloaded")
    finally:
        for worker in held:
            hub.sandbox._free.put(worker)
        hub.close()


def test_the_loop_goes_on_meanwhile(hub: Hub) -> None:
    """Nothing of checking a large file holds the event loop."""

    async def go() -> float:
        longest, doing = 0.0, asyncio.create_task(decode(hub, sound(seconds=19, rate=24000), "audio"))
        while not doing.done():
            began = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - began)
        await doing
        return longest

    asyncio.run(decode(hub, sound(), "audio"))
    assert min(asyncio.run(go()) for _ in range(3)) < 0.05


def test_decoding_processes_know_no_secrets_and_open_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_KEY", "a-secret")
    fresh = hub_of(Settings())
    try:
        asyncio.run(decode(fresh, picture(), "image"))
        process = processes(fresh)[0]
        proc = Path("/proc") / str(process.pid)
        assert b"a-secret" not in (proc / "environ").read_bytes()
        limits = {line[:26].strip(): line[26:].split()[0] for line in (proc / "limits").read_text().splitlines()}
        assert (limits["Max open files"], limits["Max file size"], limits["Max core file size"]) == ("3", "0", "0")
        assert limits["Max address space"] == str(Limits().decode_bytes)
        assert "torch" not in (proc / "maps").read_text()
    finally:
        fresh.close()


def test_closing_twice() -> None:
    hub = hub_of(Settings())
    asyncio.run(decode(hub, picture(), "image"))
    hub.close()
    hub.close()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "", "application/octet-stream", "image/png;name=a.png"])
def test_data_url(hub: Hub, kind: str) -> None:
    assert asyncio.run(fetch(hub, data_url(picture(), kind), "image", "messages[0]")) == picture()


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("data:image/png,abc", 400),
        ("data:image/png;base64", 400),
        ("data:image/png;base64,", 400),
        ("data:image/png;base64,!!!!", 400),
        ("data:image/png;base64,QUJD\nQUJD", 400),
        ("data:image/png;base64,QUI", 400),
        ("data:image/png;base64," + "A" * (3 << 20), 413),
        ("", 400),
        ("cat.png", 400),
        ("/etc/passwd", 400),
        ("ftp://127.0.0.1/cat.png", 400),
        ("gopher://127.0.0.1:25/x", 400),
        ("concat:/etc/passwd|/etc/hosts", 400),
        ("http://127.0.0.1/cat.png", 400),
        ("https://127.0.0.1/cat.png", 400),
        ("file:///etc/passwd", 400),
    ],
)
def test_sources_that_are_none(hub: Hub, source: str, status: int) -> None:
    assert refused(fetch(hub, source, "image", "messages[0]")).status == status


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A media folder with a picture, a folder inside, and ways out of it."""
    (tmp_path / "secret.png").write_bytes(picture(colour=1))
    folder = tmp_path / "media"
    (folder / "inner").mkdir(parents=True)
    (folder / "cat 1.png").write_bytes(picture())
    (folder / "inside.png").symlink_to(folder / "cat 1.png")
    (folder / "outside.png").symlink_to(tmp_path / "secret.png")
    (folder / "away").symlink_to(tmp_path)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "large.png").write_bytes(bytes(2000))
    (tmp_path / "media-too").mkdir()
    (tmp_path / "media-too" / "cat.png").write_bytes(picture())
    os.mkfifo(folder / "pipe.png")
    return folder


@pytest.mark.parametrize(
    "name", ["cat%201.png", "inner/../cat%201.png", "./cat%201.png", "inside.png", "/cat%201.png", "%2e/cat%201.png"]
)
@pytest.mark.parametrize("host", ["", "localhost"])
def test_file_below_the_folder(folder: Path, host: str, name: str) -> None:
    hub = hub_of(Settings(media_folder=folder))
    try:
        assert asyncio.run(fetch(hub, f"file://{host}{folder}/{name}", "image", "messages[0]")) == picture()
    finally:
        hub.close()


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("file://{folder}/../secret.png", 400),
        ("file://{folder}/%2e%2e/secret.png", 400),
        ("file://{folder}/..%2fsecret.png", 400),
        ("file://{folder}/outside.png", 400),
        ("file://{folder}/away/secret.png", 400),
        ("file://{folder}/away/media/away/secret.png", 400),
        ("file://{folder}-too/cat.png", 400),
        ("file://{folder}/loop.png", 400),
        ("file://{folder}/pipe.png", 400),
        ("file://{folder}/inner", 400),
        ("file://{folder}", 400),
        ("file://{folder}/none.png", 400),
        ("file://{folder}/cat%201.png%00.png", 400),
        ("file://{folder}/%ff.png", 400),
        ("file://{folder}/" + "x" * 5000, 400),
        ("file://otherhost{folder}/cat%201.png", 400),
        ("file:{folder}/cat%201.png", 400),
        ("file:/{folder}/cat%201.png", 400),
        ("file:///etc/passwd", 400),
        ("file:///dev/zero", 400),
        ("file:///proc/self/environ", 400),
        ("file://{folder}/large.png", 413),
    ],
)
def test_file_that_may_not_be_read(folder: Path, source: str, status: int) -> None:
    hub = hub_of(Settings(media_folder=folder, limits=Limits(media_bytes=1000)))
    problem = refused(fetch(hub, source.replace("{folder}", str(folder)), "image", "messages[0]"))
    assert problem.status == status
    outside = refused(fetch(hub, "file:///no/such/file", "image", "messages[0]"))
    if "secret" in source or "/etc" in source:  # whether a file is there shows only inside
        assert problem.message == outside.message


Answerer = Callable[[httpx.Request], httpx.Response]


def web(answer: Answerer, **limits: Any) -> Hub:
    """A hub whose network is a function, and where every name has a public address."""
    hub = hub_of(Settings(media_domains=("media.example", "other.example"), limits=Limits(**limits)))

    async def resolve(host: str) -> list[str]:
        return ["93.184.216.34"]

    hub.remote.resolve, hub.remote.transport = resolve, httpx.MockTransport(answer)
    return hub


def test_https() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, stream=Body(picture()))

    hub = web(answer)
    try:
        assert asyncio.run(fetch(hub, "https://media.example/a/cat.png?x=1#y", "image", "messages[0]")) == picture()
        assert asyncio.run(fetch(hub, "HTTPS://MEDIA.example:443/cat.png", "image", "messages[0]")) == picture()
    finally:
        hub.close()
    first = asked[0]
    assert str(first.url) == "https://93.184.216.34/a/cat.png?x=1"  # the address that was checked, not the name
    assert (first.headers["host"], first.extensions["sni_hostname"]) == ("media.example", "media.example")
    assert (first.method, first.headers["accept-encoding"], "authorization" in first.headers) == ("GET", "identity", False)


@pytest.mark.parametrize(
    "source",
    [
        "http://media.example/cat.png",
        "https://media.example:8443/cat.png",
        "https://media.example:80/cat.png",
        "https://user@media.example/cat.png",
        "https://user:password@media.example/cat.png",
        "https://evil.example/cat.png",
        "https://sub.media.example/cat.png",
        "https://media.example.evil.example/cat.png",
        "https://media.example./cat.png",
        "https://evil.example#@media.example/cat.png",
        "https://evil.example\\@media.example/cat.png",
        "https://media.example\\@evil.example/cat.png",
        "https://media.example%2eevil.example/cat.png",
        "https://media.example\t/cat.png",
        "https://media.example\r\nHost: evil.example/cat.png",
        "https://mediа.example/cat.png",  # a Cyrillic a
        "https://127.0.0.1/cat.png",
        "https://[::1]/cat.png",
        "https://[::ffff:127.0.0.1]/cat.png",
        "https://2130706433/cat.png",
        "https://0177.0.0.1/cat.png",
        "https://0x7f000001/cat.png",
        "https://127.1/cat.png",
        "https://169.254.169.254/latest/meta-data/",
        "https://localhost/cat.png",
        "https:///cat.png",
        "https://",
        "https:media.example/cat.png",
        "https://media.example/" + "x" * 10_000,
    ],
)
def test_urls_that_are_not_fetched(source: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"{request.url} was fetched")

    assert refused(fetch(web(answer), source, "image", "messages[0]")).status == 400


PRIVATE = [
    "127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:93.184.216.34", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
    "2001:0:7f00:1::", "fec0::1", "2001:db8::1", "", "localhost", "2130706433",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"{request.url} was fetched")

    assert not is_public(address)
    for addresses in ([address], ["93.184.216.34", address]):  # one bad address among good ones is enough
        hub = web(answer)

        async def resolve(host: str, found: list[str] = addresses) -> list[str]:
            return found

        hub.remote.resolve = resolve
        assert refused(fetch(hub, "https://media.example/cat.png", "image", "messages[0]")).status == 400


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


def test_a_name_that_changes_its_address_between_look_ups() -> None:
    """DNS rebinding: it is looked up once, and the connection goes to what was checked."""
    lookups: list[str] = []
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(200, stream=Body(picture()))

    async def resolve(host: str) -> list[str]:
        lookups.append(host)
        return ["93.184.216.34"] if len(lookups) == 1 else ["127.0.0.1"]

    hub = web(answer)
    hub.remote.resolve = resolve
    try:
        asyncio.run(fetch(hub, "https://media.example/cat.png", "image", "messages[0]"))
    finally:
        hub.close()
    assert (lookups, asked) == (["media.example"], ["93.184.216.34"])


@pytest.mark.parametrize(
    ("location", "reached"),
    [
        ("https://other.example/cat.png", True),
        ("/moved.png", True),
        ("moved.png", True),
        ("//other.example/cat.png", True),
        ("http://media.example/cat.png", False),
        ("https://evil.example/cat.png", False),
        ("https://inside.example/cat.png", False),
        ("https://127.0.0.1/cat.png", False),
        ("//169.254.169.254/latest/meta-data/", False),
        ("file:///etc/passwd", False),
        ("data:image/png;base64,AAAA", False),
        ("https://media.example:22/cat.png", False),
        ("https://user@media.example/cat.png", False),
        ("https://[", False),
    ],
)
def test_redirects_are_checked_again(location: str, reached: bool) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/start.png":
            return httpx.Response(302, headers={"location": location})
        return httpx.Response(200, stream=Body(picture()))

    hub = web(answer)
    try:
        if reached:
            assert asyncio.run(fetch(hub, "https://media.example/start.png", "image", "messages[0]")) == picture()
        else:
            assert refused(fetch(hub, "https://media.example/start.png", "image", "messages[0]")).status == 400
    finally:
        hub.close()


def test_redirect_to_an_allowed_name_at_a_private_address() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["host"] == "media.example"
        return httpx.Response(302, headers={"location": "https://other.example/cat.png"})

    hub = web(answer)

    async def resolve(host: str) -> list[str]:
        return ["93.184.216.34"] if host == "media.example" else ["10.0.0.1"]

    hub.remote.resolve = resolve
    assert "not public" in refused(fetch(hub, "https://media.example/a", "image", "messages[0]")).message


def test_endless_redirects() -> None:
    asked = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return httpx.Response(302, headers={"location": f"/{asked}"})

    assert "more than 3 times" in refused(fetch(web(answer), "https://media.example/a", "image", "messages[0]")).message
    assert asked == 4


class Body(httpx.AsyncByteStream):
    """In two pieces, as it would come from a network."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.data[:100]
        yield self.data[100:]


class Endless(httpx.AsyncByteStream):
    def __init__(self, pause: float = 0.0) -> None:
        self.given, self.pause = 0, pause

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.given += 1000
            yield bytes(1000)
            await asyncio.sleep(self.pause)


def test_endless_body() -> None:
    body = Endless()
    problem = refused(
        fetch(
            web(lambda r: httpx.Response(200, stream=body), media_bytes=5000),
            "https://media.example/a",
            "image",
            "messages[0]",
        )
    )
    assert (problem.status, body.given) == (413, 6000)


def test_slow_body() -> None:
    hub = web(lambda r: httpx.Response(200, stream=Endless(0.02)), decode_seconds=0.1)
    assert "within 0.1 s" in refused(fetch(hub, "https://media.example/a", "image", "messages[0]")).message


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 401, 404, 500])
def test_answers_without_a_file(status: int) -> None:
    hub = web(lambda r: httpx.Response(status, stream=Body(b"the password is 1234")))
    problem = refused(fetch(hub, "https://media.example/a", "image", "messages[0]"))
    assert (problem.status, "1234" in problem.message) == (400, False)


def test_packed_answers_are_not_unpacked() -> None:
    hub = web(lambda r: httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Endless()))
    assert refused(fetch(hub, "https://media.example/a", "image", "messages[0]")).status == 400


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("to 10.0.0.1"), httpx.ReadTimeout("x"), httpx.RemoteProtocolError("x"), OSError("x")]
)
def test_network_that_fails(error: Exception) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    assert refused(fetch(web(answer), "https://media.example/a", "image", "messages[0]")).status == 400


@pytest.mark.parametrize(("host", "reached"), [("media.example", True), ("other.example", False)])
def test_https_as_it_is(host: str, reached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to an address, under the name of the URL: told in the handshake, and the certificate's."""
    monkeypatch.setattr(remote, "is_public", lambda address: True)
    hub = hub_of(Settings(media_domains=("media.example", "other.example")))
    hub.remote._tls = ssl.create_default_context(cafile=DATA / "localhost.cert.pem")
    named: list[str | None] = []
    heads: list[bytes] = []

    async def resolve(host: str) -> list[str]:
        return ["127.0.0.1"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        data = picture()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(data) + data)
        await writer.drain()
        writer.close()

    async def go() -> bytes:
        own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own.load_cert_chain(DATA / "localhost.cert.pem", DATA / "localhost.key.pem")
        own.sni_callback = lambda wrapped, name, context: named.append(name)
        async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=own) as server:
            hub.remote.resolve, hub.remote.port = resolve, server.sockets[0].getsockname()[1]
            return await fetch(hub, f"https://{host}/cat.png", "image", "messages[0]")

    try:
        if reached:
            assert asyncio.run(go()) == picture()
            assert heads[0].lower().count(b"host:") == heads[0].count(b"\r\nhost: media.example\r\n") == 1
        else:
            assert "could not be fetched" in refused(go()).message
            assert heads == []
    finally:
        hub.close()
    assert named == [host]


def test_names_that_lead_nowhere() -> None:
    async def resolve(host: str) -> list[str]:
        raise OSError("no such host")

    hub = web(lambda r: httpx.Response(200))
    hub.remote.resolve = resolve
    assert refused(fetch(hub, "https://media.example/a", "image", "messages[0]")).status == 400


def test_no_allowed_hosts_no_fetching(hub: Hub) -> None:
    assert "fetches no URLs" in refused(fetch(hub, "https://media.example/a", "image", "messages[0]")).message


def test_what_is_fetched_is_verified() -> None:
    hub = web(lambda r: httpx.Response(200, stream=Body(b"<html>")))
    try:
        assert "no picture" in refused(fetch(hub, "https://media.example/a", "image", "messages[0]")).message
    finally:
        hub.close()
