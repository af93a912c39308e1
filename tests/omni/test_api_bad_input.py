"""Every bad input is one typed error that says what was wrong and what to do; a conversation beside it goes on."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from omni import Done, Omni, Options
from omni.errors import (
    CheckpointError,
    ContextError,
    DeviceError,
    MediaError,
    MediaLimitError,
    MessageError,
    OmniError,
    VoiceError,
)
from omni.prompt.reader import Message
from tests.encoders.samples import video_file
from tests.oracle.tiny import tiny


@pytest.fixture(scope="module")
def omni() -> Omni:
    return Omni.load(tiny("7b-like"), progress=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    film = video_file(folder / "silent.mp4", "h264", count=20).read_bytes()
    (folder / "truncated.mp4").write_bytes(film[: len(film) * 2 // 3])
    (folder / "text.png").write_text("This is no picture.")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "header.wav").write_bytes(
        b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
        + b"data" + struct.pack("<I", 0)
    )  # fmt: skip
    Image.new("RGB", (2000, 10)).save(folder / "ribbon.png")
    huge = io.BytesIO()
    Image.new("1", (30000, 30000)).save(huge, "PNG")
    (folder / "bomb.png").write_bytes(huge.getvalue())
    return folder


def part(kind: str, value: object, **more: object) -> dict[str, Any]:
    return {"type": kind, kind: value, **more}


NOT_A_NUMBER = np.full(16000, np.nan, np.float32)
BAD_PARTS: dict[str, tuple[Callable[[Path], dict[str, Any]], type[OmniError], str]] = {
    "missing image": (lambda f: part("image", f / "nowhere.jpg"), MediaError, r"nowhere\.jpg"),
    "missing audio": (lambda f: part("audio", str(f / "nowhere.wav")), MediaError, r"nowhere\.wav"),
    "missing video": (lambda f: part("video", f / "nowhere.mp4"), MediaError, r"nowhere\.mp4"),
    "folder": (lambda f: part("image", f), MediaError, "folder|directory"),
    "truncated MP4": (lambda f: part("video", f / "truncated.mp4"), MediaError, r"truncated\.mp4"),
    "text named .png": (lambda f: part("image", f / "text.png"), MediaError, r"text\.png"),
    "0-byte WAV": (lambda f: part("audio", f / "empty.wav"), MediaError, r"empty\.wav"),
    "WAV without samples": (lambda f: part("audio", f / "header.wav"), MediaError, r"header\.wav"),
    "sound of a silent video": (
        lambda f: part("video", f / "silent.mp4", audio_in_video=True),
        MediaError,
        r"silent\.mp4.*(sound|audio)",
    ),
    "0x0 image": (lambda f: part("image", np.zeros((0, 0, 3), np.uint8)), MediaError, "0"),
    "200:1 image": (lambda f: part("image", f / "ribbon.png", min_pixels=3136) | {"image": _ribbon()}, MediaError, "200"),
    "bomb": (lambda f: part("image", f / "bomb.png"), MediaLimitError, r"bomb\.png|30000"),
    "NaN samples": (lambda f: part("audio", (NOT_A_NUMBER, 16000)), MediaError, "NaN|finite"),
    "10 ms of sound": (lambda f: part("audio", (np.zeros(160, np.float32), 16000)), MediaError, "short"),
    "301 s of sound": (lambda f: part("audio", (np.zeros(301 * 16000, np.float32), 16000)), MediaLimitError, "300"),
    "web address": (lambda f: part("image", "https://example.com/cat.jpg"), MediaError, "download"),
    "bad data URL": (lambda f: part("image", "data:image/png;base64,%%%"), MediaError, "base64"),
    "bad base64": (
        lambda f: {"type": "input_audio", "input_audio": {"data": "%%%", "format": "wav"}},
        MessageError,
        "base64",
    ),
    "number for a picture": (lambda f: part("image", 7), MediaError, "int"),
    "no medium": (lambda f: {"type": "image"}, MessageError, "image"),
    "unknown part": (lambda f: {"type": "smell"}, MessageError, "smell.*text, image, audio"),
    "text that is none": (lambda f: {"type": "text", "text": None}, MessageError, "text must be a string"),
    "fps in words": (lambda f: part("video", f / "silent.mp4", fps="2"), MessageError, r"content\[0\]\.fps is '2'"),
    "start nowhere": (lambda f: part("video", f / "silent.mp4", start=float("nan")), MessageError, r"start is nan"),
    "pixels in words": (lambda f: part("video", f / "silent.mp4", max_pixels="9"), MessageError, r"max_pixels"),
    "sound in words": (lambda f: part("video", f / "silent.mp4", audio_in_video="false"), MessageError, r"true or false"),
    "no frames": (lambda f: part("video", []), MediaError, "frame"),
}


def _ribbon() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.zeros((10, 2010, 3), np.uint8)


@pytest.fixture
def beside(omni: Omni) -> Iterator[None]:
    """A spoken answer that has begun before the bad request and ends after it."""
    stream = omni.stream([{"role": "user", "content": "Hi"}], voice="Ethan", max_tokens=6, max_audio_seconds=0.3, seed=1)
    next(stream)
    yield
    done = list(stream)[-1]
    assert isinstance(done, Done)
    assert done.usage.codec_tokens == 15
    assert omni.runtime.think.runner.cache.blocks.num_free == omni.runtime.think.runner.cache.blocks.max_blocks


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("name", BAD_PARTS)
def test_bad_part(omni: Omni, files: Path, name: str) -> None:
    make, error, says = BAD_PARTS[name]
    messages = [{"role": "user", "content": [make(files), {"type": "text", "text": "?"}]}]
    with pytest.raises(error) as caught:
        omni.generate(messages, max_tokens=1)
    assert type(caught.value) is error
    assert re.search(says, str(caught.value)), caught.value
    assert len(str(caught.value)) > 25, "it says what to do"


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize(
    "messages",
    ["hello", {}, None, 7, [{"content": "x"}], [{"role": "king", "content": "x"}], [{"role": "user"}], ["x"], [None]],
)
@pytest.mark.parametrize("voice", [None, "Ethan"])
def test_bad_messages(omni: Omni, messages: Any, voice: str | None) -> None:
    with pytest.raises(MessageError, match="messages"):
        omni.generate(messages, voice=voice, max_tokens=1)


def test_no_messages(omni: Omni) -> None:
    with pytest.raises(MessageError, match="no messages"):
        omni.generate([])


def test_faults_name_their_message_and_part(omni: Omni) -> None:
    messages: list[Message] = [
        {"role": "user", "content": "Hi"},
        {"role": "user", "content": ["Look:", part("image", "nowhere.png")]},
    ]
    with pytest.raises(MediaError, match=r"messages\[1\]\.content\[1\]: .*nowhere"):
        omni.generate(messages, voice="Ethan")


@pytest.mark.usefixtures("beside")
def test_unknown_voice_lists_the_known(omni: Omni) -> None:
    with pytest.raises(VoiceError, match=r"(?s)Nobody.*Chelsie.*Ethan"):
        omni.say("Hello.", voice="Nobody")


@pytest.mark.usefixtures("beside")
def test_prompt_past_the_context(omni: Omni) -> None:
    with pytest.raises(ContextError, match=r"\d+ tokens.*32768.*shorten"):
        omni.generate([{"role": "user", "content": "x" * 33000}])


def test_unknown_hub_id() -> None:
    with pytest.raises(CheckpointError, match=r"nobody/nothing.*(check|folder)"):
        Omni.load("nobody/nothing-at-all")


def test_a_gpu_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"no GPU.*cpu"):
        Omni.load(tiny("7b-like"), device="cuda")
    with pytest.raises(DeviceError, match="no device"):
        Omni.load(tiny("7b-like"), device="gpu")
    with pytest.raises(DeviceError, match="no dtype"):
        Omni.load(tiny("7b-like"), dtype="int3")


def _shard(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[-1]
    path.write_bytes(path.read_bytes()[:-1000])


def _shape(folder: Path) -> None:
    _rewrite(folder, {"thinker.lm_head.weight": torch.zeros(3, 3)})


def _missing(folder: Path) -> None:
    _rewrite(folder, {"talker.codec_head.weight": None})


def _unused(folder: Path) -> None:
    _rewrite(folder, {"thinker.brand_new.weight": torch.zeros(1)})


def _rewrite(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path) | {k: v for k, v in change.items() if v is not None}
        save_file({k: v for k, v in tensors.items() if change.get(k, v) is not None}, path)


def _config(folder: Path) -> None:
    tree = json.loads((folder / "config.json").read_text())
    del tree["thinker_config"]["text_config"]["hidden_size"]
    (folder / "config.json").write_text(json.dumps(tree))


def _bins(folder: Path) -> None:
    tree = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(tree | {"feature_size": 64}))


def _mean(folder: Path) -> None:
    tree = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(tree | {"image_mean": 7}))


def _no_end(folder: Path) -> None:
    tree = json.loads((folder / "config.json").read_text())
    del tree["thinker_config"]["eos_token_id"]
    (folder / "config.json").write_text(json.dumps(tree))


def _width_in_words(folder: Path) -> None:
    tree = json.loads((folder / "config.json").read_text())
    tree["thinker_config"]["text_config"]["hidden_size"] = "112"
    (folder / "config.json").write_text(json.dumps(tree))


def _voice_id(folder: Path) -> None:
    voices = torch.load(folder / "spk_dict.pt", weights_only=True)
    voices["Ethan"]["bos_token"] = 151870
    torch.save(voices, folder / "spk_dict.pt")


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_shard, "cut short|bytes, but its header says"),
        (_shape, r"thinker\.lm_head\.weight \[3, 3\]"),
        (_missing, r"1 missing \(talker\.codec_head\.weight\)"),
        (_unused, r"1 not used \(thinker\.brand_new\.weight\)"),
        (_config, "hidden_size"),
        (_bins, "64 mel bins"),
        (_mean, "preprocessor_config.json"),
        (_no_end, "eos_token_id"),
        (_width_in_words, "hidden_size"),
        (_voice_id, "'Ethan' has id 151870"),
        (_without("config.json"), r"config\.json"),
        (_without("tokenizer.json"), "tokenizer"),
        (_without("spk_dict.pt"), "spk_dict"),
        (_without("model.safetensors"), r"model\.safetensors"),
    ],
)
def test_damaged_checkpoint(damage: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny("7b-like"), folder)
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        Omni.load(folder, progress=False)
    assert re.search(says, str(caught.value)), caught.value


def test_media_of_every_form_give_the_same_prompt(omni: Omni, tmp_path: Path) -> None:
    image = Image.effect_noise((84, 56), 50).convert("RGB")
    path = tmp_path / "noise.png"
    image.save(path)
    url = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    forms: list[Any] = [path, str(path), path.read_bytes(), url, image, np.asarray(image)]
    parts = [part("image", form) for form in forms] + [{"type": "image_url", "image_url": {"url": url}}]
    prompts = [omni.runtime.request([{"role": "user", "content": [p]}], None, Options()).prompt for p in parts]
    for prompt in prompts:
        assert torch.equal(prompt.ids, prompts[0].ids)
        assert torch.equal(prompt.pictures[0].patches, prompts[0].pictures[0].patches)
