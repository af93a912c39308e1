"""The page without a browser: its files fit together, are small, and hold nothing that its security policy forbids."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "streaming" / "page"
FILES = sorted(path for path in PAGE.rglob("*") if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
ELSEWHERE = {
    "icon.svg": "http://www.w3.org/2000/svg",  # the name of a format; nothing is fetched
    "microphone.js": "http://localhost:",  # said to a person
}


class Markup(HTMLParser):
    """Every tag of the page with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.inline = ""
        self.feed((PAGE / "index.html").read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style"):
            self.inline += data.strip()

    def values(self, *names: str) -> list[str]:
        return [value for _, attributes in self.tags for name, value in attributes.items() if name in names]


MARKUP = Markup()
IDS = MARKUP.values("id")


def test_every_file_is_used_and_every_file_that_is_used_exists() -> None:
    used = {"index.html", *(name for name in MARKUP.values("href", "src") if not name.startswith("#"))}
    for script in SCRIPTS:
        used |= {
            name.removeprefix("./")
            for name in re.findall(r'(?:(?:from|URL\() ?|file: )"([^"]+\.(?:js|png))"', script.read_text())
        }
    assert used == {path.relative_to(PAGE).as_posix() for path in FILES}


def test_light() -> None:
    assert sum(path.stat().st_size for path in FILES) < 150_000


def test_without_scripts_the_page_says_what_to_do() -> None:
    text = (PAGE / "index.html").read_text()
    told = re.search(r"<noscript>(.*?)</noscript>", text, re.S)
    assert told and "omni chat" in told[1]


def test_no_script_style_or_handler_in_the_markup() -> None:
    assert not MARKUP.inline
    assert not [name for _, attributes in MARKUP.tags for name in attributes if name == "style" or name.startswith("on")]
    assert "style" not in {tag for tag, _ in MARKUP.tags}


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix != ".png"], ids=lambda path: path.name)
def test_nothing_comes_from_elsewhere(path: Path) -> None:
    text = path.read_text().replace(ELSEWHERE.get(path.name, "\0"), "")
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_text_from_outside_never_becomes_markup_or_code(path: Path) -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc", path.read_text()
    )


def test_ids_are_unique_and_those_that_are_named_exist() -> None:
    assert len(IDS) == len(set(IDS))
    named = set(MARKUP.values("for", "aria-controls", "aria-labelledby", "popovertarget"))
    named |= {name[1:] for name in MARKUP.values("href") if name.startswith("#")}
    for script in SCRIPTS:
        text = script.read_text()
        named |= set(re.findall(r'"#([\w-]+)"', text)) | set(re.findall(r'\$\("([\w-]+)"\)', text))
        named |= {f"i-{name}" for name in re.findall(r'icon: "([\w-]+)"', text)}
    assert named <= set(IDS)
    assert len(named) > 60


def test_every_setting_has_a_field_and_every_field_a_setting() -> None:
    text = (PAGE / "settings.js").read_text()
    defaults = re.search(r"const DEFAULTS = \{(.*?)\};", text, re.DOTALL)
    assert defaults
    settings = set(re.findall(r"^  (\w+):", defaults[1], re.MULTILINE))
    assert settings == set(MARKUP.values("name")) - {"viewport", "color-scheme", "description"}


def test_every_button_says_its_kind() -> None:
    """A button without a type sends the form around it."""
    kinds = [attributes.get("type") for tag, attributes in MARKUP.tags if tag == "button"]
    assert kinds.count(None) == 1  # the one that closes the list of keys, which is a form for that
    assert len(kinds) > 15


@pytest.mark.parametrize("name", ["capture", "playback"])
def test_worklets_are_registered_by_the_names_that_are_asked_for(name: str) -> None:
    assert f'registerProcessor("{name}"' in (PAGE / f"{name}-worklet.js").read_text()
    assert sum(f'"{name}"' in script.read_text() for script in SCRIPTS) == 2


def test_every_phase_has_words() -> None:
    """The style names phases that the script can show."""
    words = set(re.findall(r"^  (\w+): \"", (PAGE / "main.js").read_text(), re.MULTILINE))
    styled = set(re.findall(r'data-phase="(\w+)"', (PAGE / "style.css").read_text()))
    assert styled <= words
    assert len(styled) > 10
