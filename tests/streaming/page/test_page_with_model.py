"""The page in Chromium, a file as its microphone, against the server with the small model. Needs `chromium`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Playwright, expect

from omni import Omni
from omni.streaming.server.hub import Hub
from tests.streaming.conftest import MEDIA
from tests.streaming.page.test_page_in_browser import ALLOWED, FLAGS, output_level, phase, say, until
from tests.streaming.running import running

pytestmark = pytest.mark.slow


def test_it_is_asked_aloud_about_a_picture_answers_and_is_interrupted(
    playwright: Playwright, omni: Omni, microphone: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    omni.warm_up()
    said = f"--use-file-for-fake-audio-capture={microphone(2.0, 60)}"
    with running(Hub(omni, "small", is_bundled=True)) as place:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=[*FLAGS, ALLOWED, said])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"http://localhost:{place.port}/")
        expect(page.locator("#talk")).to_be_enabled()
        page.set_input_files("#file", MEDIA / "scene.png")
        page.click("[data-panel=timing]")
        page.click("#talk")
        phase(page, "speaking", 30)
        until(page, lambda: output_level(page) > -40)
        phase(page, "listening", 30)
        assert page.locator(".line.you .said").last.inner_text() == "Where is the green heart?"
        assert page.locator(".omni .said").first.inner_text() == "It is at the top right."

        say(page, "What do you see?")
        phase(page, "speaking", 30)
        page.wait_for_timeout(700)
        page.keyboard.press("Escape")
        cut = page.locator(".omni del.cut").last
        expect(cut).not_to_be_empty(timeout=10_000)
        assert "line-through" in cut.evaluate("node => getComputedStyle(node).textDecorationLine")
        page.screenshot(path=tmp_path_factory.mktemp("page") / "interrupted.png")
        browser.close()
    assert not faults
