"""The page in Chromium, a file as its microphone, against a scripted server. Needs `chromium` and, for axe-core, `npm`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import uvicorn
from openai.types.realtime import RealtimeClientEvent
from playwright.sync_api import Browser, Page, Playwright, expect
from pydantic import TypeAdapter

from tests.streaming.conftest import MEDIA
from tests.streaming.page.page_server import HEARD, Script, create

pytestmark = pytest.mark.slow

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--auto-select-desktop-capture-source=Entire",
    "--host-resolver-rules=MAP insecure.test 127.0.0.1",
)
ALLOWED = "--use-fake-ui-for-media-stream"


@pytest.fixture(scope="module")
def script() -> Script:
    return Script()


@pytest.fixture(scope="module")
def port(script: Script) -> Iterator[int]:
    server = uvicorn.Server(
        uvicorn.Config(create(script), port=0, log_level="warning", lifespan="off", ws="websockets-sansio")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


Open = Callable[..., Page]


@pytest.fixture
def visit(playwright: Playwright, script: Script, port: int, microphone: Callable[..., Path]) -> Iterator[Open]:
    """Opens the page in a fresh browser; at the end, nothing may have gone wrong in it."""
    browsers: list[Browser] = []
    faults: list[str] = []
    script.reset()

    def open_page(
        *pauses: float, flags: tuple[str, ...] = (ALLOWED,), host: str = "localhost", ready: bool = True, **context: Any
    ) -> Page:
        said = microphone(*(pauses or (60.0,)))
        arguments = [*FLAGS, *flags, f"--use-file-for-fake-audio-capture={said}"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        browsers.append(browser)
        page = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context}).new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(f"http://{host}:{port}/")
        if ready:
            expect(page.locator("#talk")).to_be_enabled()
        return page

    yield open_page
    for browser in browsers:
        browser.close()
    assert not [fault for fault in faults if not fault.startswith(("Failed to load resource", "WebSocket connection"))]
    for event in script.events:
        TypeAdapter(RealtimeClientEvent).validate_python(event)


def phase(page: Page, name: str, seconds: float = 15) -> None:
    expect(page.locator("body")).to_have_attribute("data-phase", name, timeout=seconds * 1000)


def until(page: Page, true: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        page.wait_for_timeout(20)


def choose(page: Page, name: str, value: str) -> None:
    """In the settings, whose panel is closed again, or beside the talk."""
    if name == "voice":
        page.click("#manner summary")
        page.locator("#s-voice").select_option(value)
        page.click("#manner summary")
        return
    page.click("[data-panel=settings]")
    field = page.locator(f"#panel-settings [name={name}]")
    if field.first.get_attribute("type") == "radio":
        page.check(f"#panel-settings [name={name}][value={value}]")
    else:
        field.select_option(value)
    page.click("#panel-close")


def say(page: Page, text: str) -> None:
    page.fill("#message", text)
    page.press("#message", "Enter")


def output_level(page: Page) -> float:
    """In dB, as the panel shows it; it must be open."""
    text = page.inner_text("#t-omni")
    return float(text.removesuffix(" dB")) if text.endswith("dB") else -100


def test_a_question_about_a_picture_is_asked_aloud_answered_and_interrupted_by_voice(visit: Open, script: Script) -> None:
    page = visit(1.5, 3.5, 60)
    assert page.evaluate("document.activeElement.id") == "talk"
    page.set_input_files("#file", MEDIA / "scene.png")
    expect(page.locator("#pending li")).to_have_count(1)
    page.click("[data-panel=timing]")
    page.click("#talk")
    phase(page, "listening")
    phase(page, "speaking")
    until(page, lambda: output_level(page) > -40)
    kinds = [event["type"] for event in script.events if event["type"] != "input_audio_buffer.append"]
    assert kinds[:2] == ["session.update", "conversation.item.create"]
    picture = script.of("conversation.item.create")[0]["item"]["content"]
    assert [part["type"] for part in picture] == ["input_image"]
    assert picture[0]["image_url"].startswith("data:image/png;base64,")

    phase(page, "interrupted")
    until(page, lambda: script.of("conversation.item.truncate"))
    [truncated] = script.of("conversation.item.truncate")
    assert 1500 < truncated["audio_end_ms"] < 4500
    assert not script.of("response.cancel")  # the server heard it first
    kept, cut = page.locator(".omni .said").first, page.locator(".omni del.cut").first
    expect(cut).not_to_be_empty()
    assert kept.inner_text().startswith("I was shown 1 of your pictures.")
    assert "line-through" in cut.evaluate("node => getComputedStyle(node).textDecorationLine")
    phase(page, "speaking")
    phase(page, "listening")
    assert [line.inner_text() for line in page.locator(".line.you .said").all()] == ["", HEARD, HEARD]
    expect(page.locator("#t-history tr")).to_have_count(2)
    assert page.locator("#announce p").last.inner_text().startswith("Omni: I was shown 1 of your pictures.")


@pytest.mark.parametrize("by", ["key", "button", "message"])
def test_interrupting_tells_the_server_how_much_was_played(visit: Open, script: Script, by: str) -> None:
    page = visit()
    page.click("#talk")
    phase(page, "listening")
    say(page, "a long story")
    phase(page, "speaking")
    page.wait_for_timeout(1500)
    {
        "key": lambda: page.keyboard.press("Escape"),
        "button": lambda: page.click("#talk"),
        "message": lambda: say(page, "stop"),
    }[by]()
    until(page, lambda: script.of("conversation.item.truncate"))
    [truncated] = script.of("conversation.item.truncate")
    assert 1000 < truncated["audio_end_ms"] < 4000
    assert len(script.of("response.cancel")) == 1
    until(page, lambda: script.of("conversation.item.retrieve"))
    # The server's word on what it remembers is what is shown.
    expect(page.locator(".omni del.cut")).not_to_be_empty()
    kept = page.locator(".omni .said").first.inner_text()
    assert abs(len(kept) / 14 * 1000 - truncated["audio_end_ms"]) < 800
    if by == "message":
        phase(page, "speaking")
        phase(page, "listening")
        assert len(script.of("response.create")) == 2
    else:
        phase(page, "listening")
        page.wait_for_timeout(300)
        assert output_level_now(page) == "silent"


def output_level_now(page: Page) -> str:
    page.click("[data-panel=timing]")
    page.wait_for_timeout(600)
    return page.inner_text("#t-omni")


def hold(page: Page, how: str) -> None:
    if how == "space":
        page.keyboard.down("Space")
    elif how == "pointer":
        page.hover("#talk")
        page.mouse.down()
    else:  # assistive technology has no other way
        page.locator("#talk").dispatch_event("click")


def let_go(page: Page, how: str) -> None:
    if how == "space":
        page.keyboard.up("Space")
    elif how == "pointer":
        page.mouse.up()
    else:
        page.locator("#talk").dispatch_event("click")


@pytest.mark.parametrize("how", ["space", "pointer", "click"])
def test_push_to_talk(visit: Open, script: Script, how: str) -> None:
    page = visit(0.2, *[0.5] * 8)
    choose(page, "turns", "manual")
    page.click("#talk")
    phase(page, "ready")
    page.wait_for_timeout(500)
    assert not script.of("input_audio_buffer.append")  # nothing is sent before the button is held
    page.locator("#talk").focus()
    hold(page, how)
    phase(page, "listening")
    page.wait_for_timeout(1200)
    let_go(page, how)
    phase(page, "speaking")
    assert script.of("session.update")[-1]["session"]["audio"]["input"]["turn_detection"] is None
    kinds = [event["type"] for event in script.events]
    assert kinds.count("input_audio_buffer.append") > 25
    assert kinds[-2:] == ["input_audio_buffer.commit", "response.create"]
    hold(page, how)
    let_go(page, how)
    expect(page.locator("#notice-text")).to_have_text("Hold it down while you speak.")
    assert len(script.of("input_audio_buffer.commit")) == 1
    assert len(script.of("conversation.item.truncate")) == 1  # but it interrupted


def test_typing_needs_no_microphone(visit: Open, script: Script) -> None:
    page = visit(flags=())
    say(page, "hello")
    phase(page, "speaking")
    assert script.of("conversation.item.create")[0]["item"]["content"] == [{"type": "input_text", "text": "hello"}]
    assert not script.of("input_audio_buffer.append")
    phase(page, "typing")
    expect(page.locator("#talk")).to_have_text("Use microphone")
    expect(page.locator("#mute")).to_be_disabled()


def test_answers_in_text_alone(visit: Open, script: Script) -> None:
    page = visit()
    choose(page, "answer", "text")
    say(page, "hello")
    expect(page.locator(".omni .said")).to_have_text("It is a red circle, and it stands in the middle.")
    assert script.of("session.update")[0]["session"]["output_modalities"] == ["text"]
    expect(page.locator(".omni .ahead")).to_be_empty()


def test_a_model_that_only_reads_and_writes(visit: Open, script: Script) -> None:
    script.can = set()
    page = visit(flags=())
    expect(page.locator("#lead")).to_have_text("This model does not hear, see or speak. It answers in writing.")
    for name in ("mute", "camera", "screen", "picture"):
        expect(page.locator(f"#{name}")).to_be_hidden()
    expect(page.locator("#talk")).to_have_text("Write")
    page.click("#talk")
    phase(page, "ready")
    expect(page.locator("#message")).to_be_focused()
    say(page, "hello")
    expect(page.locator(".omni .said")).to_have_text("It is a red circle, and it stands in the middle.")
    (update,) = script.of("session.update")
    assert update["session"]["output_modalities"] == ["text"]
    assert update["session"]["audio"]["input"].keys() == {"format"}
    page.click("[data-panel=settings]")
    expect(page.locator("#s-voice")).to_be_hidden()
    expect(page.locator("[name=turns]").first).to_be_hidden()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("refused", "The microphone was refused."),
        ("insecure", "only to pages on https or on localhost"),
        ("NotFoundError", "No microphone was found."),
        ("NotReadableError", "another program may be using it"),
        ("OverconstrainedError", "Choose another in the settings."),
    ],
)
def test_without_a_microphone_the_page_says_why_and_goes_on(visit: Open, fault: str, words: str) -> None:
    refused, insecure = fault == "refused", fault == "insecure"
    page = visit(
        flags=("--deny-permission-prompts",) if refused else (ALLOWED,), host="insecure.test" if insecure else "localhost"
    )
    if not refused and not insecure:
        page.evaluate(
            "name => navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', name); }", fault
        )
    page.click("#talk")
    expect(page.locator("#notice-text")).to_contain_text(words)
    phase(page, "typing")
    say(page, "hello")
    expect(page.locator(".line.omni")).to_have_count(1)


def test_the_connection_comes_back_and_the_server_is_told_what_was_said(visit: Open, script: Script) -> None:
    page = visit()
    page.click("#talk")
    phase(page, "listening")
    say(page, "hello")
    phase(page, "speaking")
    phase(page, "listening")
    script.open = False
    say(page, "restart")
    phase(page, "reconnecting")
    expect(page.locator("#notice-text")).to_contain_text("The server is restarting. Trying again in")
    script.events.clear()
    say(page, "more")  # waits for the connection
    assert not script.events
    script.open = True
    phase(page, "speaking")
    expect(page.locator(".line.note")).to_contain_text("Connected again.")
    until(page, lambda: len(script.of("conversation.item.create")) == 4)
    told = [(event["item"]["role"], event["item"]["content"][0]) for event in script.of("conversation.item.create")]
    assert told[0] == ("user", {"type": "input_text", "text": "hello"})
    assert told[1] == ("assistant", {"type": "output_text", "text": "It is a red circle, and it stands in the middle."})
    assert told[3] == ("user", {"type": "input_text", "text": "more"})
    until(page, lambda: script.of("input_audio_buffer.append"))  # the microphone goes on


def test_an_end_that_the_server_means_is_told_with_its_reason(visit: Open) -> None:
    page = visit()
    page.click("#talk")
    phase(page, "listening")
    say(page, "leave")
    phase(page, "off")
    expect(page.locator("#notice-text")).to_have_text("The server ended the connection: you were here long enough.")


def test_an_error_is_shown_and_the_conversation_goes_on(visit: Open) -> None:
    page = visit()
    say(page, "refuse")
    expect(page.locator("#notice-text")).to_have_text("there is no answer to that")
    phase(page, "typing")
    say(page, "hello")
    phase(page, "speaking")


def test_health_comes_first(visit: Open, script: Script) -> None:
    script.health = 503
    page = visit(ready=False)
    phase(page, "busy")
    expect(page.locator("#server-text")).to_contain_text("busy")
    expect(page.locator("#talk")).to_be_disabled()
    script.health = 200
    phase(page, "off")  # it asks again by itself
    expect(page.locator("#talk")).to_be_enabled()
    page.route("**/health", lambda route: route.abort())
    page.reload()
    phase(page, "down")


def test_a_key_is_asked_for_and_sent(visit: Open, script: Script) -> None:
    script.key = "right-key"
    page = visit(ready=False)
    expect(page.locator("#server-text")).to_have_text("This server asks for a key.")
    for key, words in (("not a key", "characters that a browser cannot send"), ("wrong", "does not accept this key")):
        page.fill("#key", key)
        page.press("#key", "Enter")
        expect(page.locator("#server-text")).to_contain_text(words)
    page.fill("#key", "right-key")
    page.press("#key", "Enter")
    expect(page.locator("#key-form")).to_be_hidden()
    page.click("#talk")
    phase(page, "listening")
    page.reload()  # the key lives as long as the tab
    expect(page.locator("#talk")).to_be_enabled()


def test_a_gap_is_counted_and_more_is_held_back_after_it(visit: Open) -> None:
    page = visit()
    page.click("[data-panel=timing]")
    say(page, "stall a while")
    phase(page, "speaking")
    expect(page.locator("#t-gaps")).to_have_text("1", timeout=15000)
    phase(page, "typing", 60)
    assert page.inner_text("#t-target") == "128 ms"
    # All of it was played in spite of the gap.
    assert page.inner_text(".omni .ahead") == ""


@pytest.mark.parametrize("source", ["camera", "screen"])
def test_camera_and_screen_are_shown_before_the_words(visit: Open, script: Script, source: str) -> None:
    page = visit()
    page.click(f"#{source}")
    expect(page.locator("#preview")).to_be_visible()
    expect(page.locator(f"#{source}")).to_have_attribute("aria-pressed", "true")
    until(page, lambda: page.evaluate("document.querySelector('#video').videoWidth") > 0)
    say(page, "what is this?")
    until(page, lambda: len(script.of("conversation.item.create")) == 2)
    frame, words = script.of("conversation.item.create")
    assert frame["item"]["content"][0]["image_url"].startswith("data:image/jpeg;base64,")
    assert words["item"]["content"][0]["text"] == "what is this?"
    page.evaluate("document.querySelector('#video').srcObject.getTracks()[0].dispatchEvent(new Event('ended'))")
    expect(page.locator("#preview")).to_be_hidden()


def test_frames_follow_each_other_while_a_turn_lasts(visit: Open, script: Script) -> None:
    page = visit()
    choose(page, "turns", "manual")
    choose(page, "frames", "1")
    page.click("#camera")
    until(page, lambda: page.evaluate("document.querySelector('#video').videoWidth") > 0)
    page.click("#talk")
    phase(page, "ready")
    page.keyboard.down("Space")
    until(page, lambda: len(script.of("conversation.item.create")) == 3)
    page.keyboard.up("Space")
    phase(page, "thinking")
    page.wait_for_timeout(1500)
    assert len(script.of("conversation.item.create")) == 3


def test_pictures_are_dropped_pasted_and_taken_back(visit: Open) -> None:
    page = visit()
    data = list((MEDIA / "scene.png").read_bytes())
    for kind, maker in (("drop", "DragEvent"), ("paste", "ClipboardEvent")):
        page.evaluate(
            """([kind, maker, data]) => {
              const held = new DataTransfer();
              held.items.add(new File([new Uint8Array(data)], kind + ".png", { type: "image/png" }));
              const given = { bubbles: true, dataTransfer: held, clipboardData: held };
              document.body.dispatchEvent(new globalThis[maker](kind, given));
            }""",
            [kind, maker, data],
        )
    expect(page.locator("#pending li span")).to_have_text(["drop.png", "paste.png"])
    page.get_by_role("button", name="Remove drop.png").click()
    expect(page.locator("#pending li span")).to_have_text(["paste.png"])
    page.set_input_files("#file", {"name": "no.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.locator("#notice-text")).to_contain_text("no.png is not a picture")


def test_a_voice_that_was_frozen_is_changed_by_a_new_session(visit: Open, script: Script) -> None:
    page = visit()
    say(page, "hello")
    phase(page, "speaking")
    phase(page, "typing")
    assert script.sessions == 1
    choose(page, "voice", "Ethan")
    phase(page, "typing")
    until(page, lambda: script.sessions == 2 and len(script.of("session.update")) == 2)
    assert script.of("session.update")[-1]["session"]["audio"]["output"]["voice"] == "Ethan"


def test_settings_are_kept_sent_and_forgotten(visit: Open, script: Script) -> None:
    page = visit()
    choose(page, "turns", "semantic_vad")
    choose(page, "eagerness", "high")
    page.reload()
    page.click("#talk")
    phase(page, "listening")
    detection = script.of("session.update")[0]["session"]["audio"]["input"]["turn_detection"]
    assert detection == {"type": "semantic_vad", "eagerness": "high", "create_response": True, "interrupt_response": True}
    page.click("#manner summary")
    page.fill("[name=instructions]", "Be brief.")
    expect(page.locator("#effect")).to_have_text("Takes effect with the next answer.")
    until(page, lambda: len(script.of("session.update")) == 2)
    assert script.of("session.update")[1]["session"]["instructions"] == "Be brief."
    expect(page.locator("#manner summary")).to_contain_text("Be brief.")
    page.click("[data-panel=settings]")
    page.click("#forget")
    expect(page.locator("[name=instructions]")).to_have_value("")


@pytest.mark.parametrize("width", [1280, 360])
def test_what_the_small_model_knows_is_a_click_away(visit: Open, script: Script, width: int) -> None:
    page = visit(flags=(), viewport={"width": width, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(page.locator("#talk")).to_have_text("Start")
    expect(page.locator("#sample-pictures img")).to_have_count(2)
    page.click("#sample-pictures button >> nth=0")
    phase(page, "speaking")
    expect(page.locator("#talk")).to_contain_text("Speaking")
    kinds = [part["type"] for event in script.of("conversation.item.create") for part in event["item"]["content"]]
    assert kinds == ["input_image", "input_text"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_other_models_get_questions_that_anybody_may_ask(visit: Open, script: Script) -> None:
    script.bundled, script.can = False, set()
    page = visit(flags=())
    expect(page.locator("#sample-pictures li")).to_have_count(0)
    questions = page.locator("#sample-questions button").all_inner_texts()
    assert questions and not [text for text in questions if "picture" in text]


def test_a_server_that_is_gone_is_tried_again_at_once_by_a_button(visit: Open, script: Script) -> None:
    page = visit()
    page.click("#talk")
    phase(page, "listening")
    expect(page.locator("#talk")).to_contain_text("Listening")
    script.open = False
    say(page, "restart")
    phase(page, "reconnecting")
    page.wait_for_timeout(4000)  # by now it waits for longer
    expect(page.locator("#notice-text")).to_contain_text("omni serve")
    script.open = True
    page.click("#notice-action")
    phase(page, "listening", 1)


def test_a_talk_that_was_ended_while_the_server_was_gone_is_not_taken_up_again(visit: Open, script: Script) -> None:
    page = visit()
    page.click("#talk")
    phase(page, "listening")
    script.open = False
    say(page, "restart")
    phase(page, "reconnecting")
    expect(page.locator("#notice-action")).to_have_text("Try now")
    page.click("#talk")
    phase(page, "off")
    expect(page.locator("#notice-action")).to_be_hidden()


def test_a_server_that_is_not_there_says_what_to_run(visit: Open) -> None:
    page = visit()
    page.route("**/health", lambda route: route.abort())
    page.route_web_socket("**/v1/realtime*", lambda socket: socket.close())
    page.click("#talk")
    expect(page.locator("#server-help")).to_contain_text("omni serve")
    expect(page.locator("#server-again")).to_contain_text("asks again in 2 s")
    page.unroute("**/health")
    page.click("#retry")
    expect(page.locator("#talk")).to_be_enabled(timeout=1500)


def test_a_wait_is_told_in_its_parts(visit: Open) -> None:
    page = visit(1.0, 60)
    page.click("[data-panel=timing]")
    page.click("#talk")
    phase(page, "speaking")
    expect(page.locator("#t-voice")).to_contain_text("ms")
    pause, reading, voice, text, sound = (
        int(page.inner_text(f"#t-{name}").removesuffix(" ms")) for name in ("pause", "reading", "voice", "text", "sound")
    )
    assert 200 < pause < 3000 and reading > 100  # the scripted server waits for half a second of silence
    assert abs(pause + reading - text) <= 2 and abs(text + voice - sound) <= 2


def test_the_conversation_is_saved(visit: Open, tmp_path: Path) -> None:
    page = visit(1.0, 60)
    page.click("#talk")
    phase(page, "speaking")
    phase(page, "listening")
    say(page, "a long story")
    phase(page, "speaking")
    page.wait_for_timeout(2000)
    page.keyboard.press("Escape")
    expect(page.locator(".omni del.cut")).not_to_be_empty()
    saved = {}
    for kind in ("sound", "markdown", "json"):
        page.click("#open-save")
        with page.expect_download() as download:
            page.click(f"#save-{kind}")
        saved[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[kind])
        page.keyboard.press("Escape")
    wave, rate = soundfile.read(saved["sound"], dtype="float32")
    assert (rate, wave.shape[1]) == (24000, 2)
    you, omni = np.abs(wave.T) > 0.02
    # First one speaks, then the other; the tone is whole, and what was not played is not there.
    assert np.flatnonzero(you).max() < np.flatnonzero(omni).min()
    heard = omni[: len(omni) // 240 * 240].reshape(-1, 240).any(1).sum() / 100  # seconds
    assert 5 < heard < 6.5  # 3.4 s of the first answer and some two of the second
    words = saved["markdown"].read_text()
    assert f"**You** {HEARD}\n\n**Omni** It is a red circle" in words
    assert "~~" in words
    whole = json.loads(saved["json"].read_text())
    assert [line["role"] for line in whole["lines"]] == ["user", "assistant", "user", "assistant"]
    assert whole["lines"][3]["cut"]
    assert whole["turns"][0]["first_sound_ms"] > 0


def test_starting_over_forgets(visit: Open, script: Script) -> None:
    page = visit()
    say(page, "hello")
    phase(page, "speaking")
    page.click("#open-save")
    page.click("#start-over")
    until(page, lambda: script.sessions == 2)
    phase(page, "typing")
    expect(page.locator("#captions li")).to_have_count(0)
    assert len(script.of("conversation.item.create")) == 1


def test_the_log_elides_sound_and_filters(visit: Open) -> None:
    page = visit()
    say(page, "hello")
    phase(page, "speaking")
    phase(page, "typing")
    page.click("[data-panel=events]")
    row = page.locator("#log li", has_text="response.output_audio.delta").first
    row.locator("summary").click()
    expect(row.locator("pre")).to_contain_text("bytes of sound")
    page.fill("#log-filter", "session")
    expect(page.locator("#log li:visible .type")).to_have_text(["session.created", "session.update", "session.updated"])
    page.uncheck("#log-server")
    expect(page.locator("#log li:visible .type")).to_have_text(["session.update"])


def test_keys(visit: Open) -> None:
    page = visit()
    page.click("#talk")
    phase(page, "listening")
    page.keyboard.press("m")
    phase(page, "muted")
    expect(page.locator("#mute")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("m")
    phase(page, "listening")
    page.keyboard.press("t")
    expect(page.locator("#panel-title")).to_have_text("Timing")
    page.keyboard.press("Escape")
    expect(page.locator("#panel")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("mute")  # letters in a field are letters
    expect(page.locator("#message")).to_have_value("mute")
    phase(page, "listening")


def test_the_resampler_is_right_and_pieces_give_what_the_whole_gives(visit: Open) -> None:
    page = visit()
    made = page.evaluate(
        """async () => {
          const { Resampler } = await import("./resample.js");
          const result = {};
          for (const rate of [48000, 44100, 24000, 16000, 8000])
            for (const pitch of [440, 3000, 13500]) {
              const wave = Float32Array.from({ length: rate }, (_, i) => Math.sin((2 * Math.PI * pitch * i) / rate));
              const whole = new Resampler(rate, 24000).push(wave);
              const parts = new Resampler(rate, 24000);
              const pieces = [];
              for (let at = 0, size = 1; at < wave.length; at += size, size = (size * 7) % 300 + 1)
                pieces.push(...parts.push(wave.subarray(at, at + size)));
              result[`${rate} ${pitch}`] = [whole, pieces];
            }
          return result;
        }"""
    )
    for name, (whole, pieces) in made.items():
        rate, pitch = map(int, name.split())
        assert len(pieces) == len(whole)
        np.testing.assert_allclose(pieces, whole, atol=1e-6)
        inner = np.array(whole[2000:-2000])
        if pitch < rate / 2 and pitch > 12000:  # above what fits
            assert np.abs(inner).max() < 0.01
        elif pitch < rate / 2:
            truth = np.sin(2 * np.pi * pitch * np.arange(2000, 2000 + len(inner)) / 24000)
            assert np.abs(inner - truth).max() < 0.01


def test_words_are_aligned_with_what_was_played(visit: Open) -> None:
    page = visit()
    result = page.evaluate(
        """async () => {
          const { Alignment } = await import("./aloud.js");
          const line = new Alignment();
          line.append("One two. Three four.");
          line.receive(2);
          line.end();
          const begun = [0, 0.01, 1.2, 2].map((seconds) => line.text.slice(0, line.begun(seconds)));
          const finished = [0, 0.2, 1.2, 2].map((seconds) => line.text.slice(0, line.finished(seconds)));
          return { begun, finished };
        }"""
    )
    assert result["begun"] == ["", "One", "One two. Three", "One two. Three four."]
    assert result["finished"] == ["", "", "One two. ", "One two. Three four."]


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("axe")
    command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "axe-core@4"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """OMNI_SCREENSHOTS names a folder to keep them in."""
    folder = Path(os.environ.get("OMNI_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(360, 740), (1280, 800)])
def test_everyone_can_use_it(
    visit: Open, script: Script, axe: Path, screenshots: Path, scheme: str, width: int, height: int
) -> None:
    context = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, "bypass_csp": True}
    script.health = 503
    page = visit(ready=False, **context)
    findings: list[str] = []

    def look(name: str) -> None:
        page.wait_for_timeout(200)
        page.screenshot(path=screenshots / f"{name}-{width}-{scheme}.png")
        if not page.evaluate("'axe' in globalThis"):
            page.evaluate(axe.read_text())
        for found in page.evaluate("axe.run()")["violations"]:
            if found["impact"] in ("serious", "critical"):
                findings.extend(f"{name}: {found['id']} {node['html'][:120]}" for node in found["nodes"])
        wide = page.evaluate("document.documentElement.scrollWidth")
        findings.extend([f"{name}: wider than the screen"] if wide > width else [])

    look("busy")
    script.health, script.key = 200, "key"
    page.reload()
    expect(page.locator("#key-form")).to_be_visible()
    look("key")
    script.key = ""
    page.reload()
    expect(page.locator("#talk")).to_be_enabled()
    look("welcome")
    page.click("#open-save")
    look("save")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    look("help")
    page.keyboard.press("Escape")
    page.set_input_files("#file", [MEDIA / "scene.png", MEDIA / "cat.jpg"])
    expect(page.locator("#pending li")).to_have_count(2)
    page.click("#talk")
    phase(page, "listening")
    look("listening")
    page.click("#mute")
    look("muted")
    page.click("#mute")
    page.click("#camera")
    say(page, "a long story")
    phase(page, "speaking")
    page.wait_for_timeout(2500)
    look("speaking")
    page.locator("#talk").focus()
    page.keyboard.press("Escape")
    look("interrupted")
    for panel in ("settings", "events", "timing"):
        page.click(f"[data-panel={panel}]")
        look(panel)
        page.click("#panel-close")
    script.open = False
    say(page, "restart")
    phase(page, "reconnecting")
    look("reconnecting")
    assert not findings


def test_less_motion_is_respected(visit: Open) -> None:
    page = visit(reduced_motion="reduce")
    say(page, "hello")
    phase(page, "thinking")
    assert page.evaluate("document.getAnimations().length") == 0
    phase(page, "speaking")
