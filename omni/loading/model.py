"""A checkpoint's folder becomes a model with its weights, and what reads prompts for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from omni.encoders.config import MelConfig, PixelConfig
from omni.encoders.sources import Budget
from omni.errors import CheckpointError
from omni.families import Family, family_of, read_config
from omni.kernels.linear import gains, gains_int8
from omni.kernels.threads import let_openmp_sleep
from omni.loading.bounds import check_ids, num_layers
from omni.loading.checkpoint import Checkpoint, Layout, find, load
from omni.loading.device import is_fast_in, pick_devices, pick_dtype
from omni.loading.generation import GenerationDefaults, read_generation
from omni.loading.gptq_awq import read_published
from omni.loading.json import damage_told
from omni.loading.packing import Packing, check_weights
from omni.loading.preprocessor import read_mel, read_pixels
from omni.loading.progress import loading_bar
from omni.loading.transcription import Dictation, read_dictation
from omni.models.config import ModelConfig
from omni.models.model import OmniModel, is_voice
from omni.prompt.reader import PromptReader
from omni.prompt.template import Template
from omni.prompt.tokenizer import Tokenizer
from omni.script.wording import Wording
from omni.talker.vocoder import FAITHFUL, Preset, pick_preset
from omni.talker.voices import Voice, read_voices


@dataclass(frozen=True)
class Loaded:
    """Attributes:
    voices: by name; none for a model that does not speak.
    defaults: how answers are made where the caller says nothing.
    dictation: how it writes down what it hears.
    wording: what its voice can be given to say.
    """

    model: OmniModel
    reader: PromptReader
    voices: dict[str, Voice]
    defaults: GenerationDefaults
    dictation: Dictation
    wording: Wording


def load_model(
    model: str | Path | None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights: str = "auto",
    vocoder: str = "faithful",
    speech: bool = True,
    budget: Budget | None = None,
    progress: bool = True,
) -> Loaded:
    """Arguments and errors as of `Omni.load`."""
    check_weights(weights)
    preset = pick_preset(vocoder)
    folder = find(model)
    places = pick_devices(device)
    with damage_told(str(folder)):
        return _load(folder, places, dtype, weights, preset, speech, budget or Budget(), progress=progress)


def _load(
    folder: Path,
    places: tuple[torch.device, torch.device],
    dtype: str,
    weights: str,
    preset: Preset,
    speech: bool,
    budget: Budget,
    *,
    progress: bool,
) -> Loaded:
    let_openmp_sleep()
    family, config = family_of(folder), read_config(folder)
    if not speech:
        config = config.without_voice()
    checkpoint = open_checkpoint(folder, config, family.layout(config))
    kept = [pick_dtype(dtype, config.dtype, place) for place in places]
    voices = read_speakers(folder, config)
    net = family.build(config)
    reader = _reader(folder, family, net, budget)
    if net.token2wav:
        net.token2wav.solver = preset.solver
    _take_weights(
        net, folder, checkpoint, family, places, kept, weights, preset, exact=dtype == "float32", progress=progress
    )
    return Loaded(net, reader, voices, read_generation(folder), read_dictation(folder), Wording.read(folder))


def open_checkpoint(folder: Path, config: ModelConfig, layout: Layout) -> Checkpoint:
    """The headers of a checkpoint that can answer; CheckpointError for one without a head."""
    checkpoint = Checkpoint.open(folder)
    (head,) = layout.keys("thinker.lm_head.weight")
    stem = head.removesuffix("weight")
    if not config.thinker.tie_word_embeddings and not any(key.startswith(stem) for key in checkpoint.entries):
        raise CheckpointError(
            f"config.json says tie_word_embeddings false, and no file in {folder} holds {head}: either it is a model of "
            "embeddings, which gives no answers, or a file is missing; fetch it again, or take another"
        )
    if (num := num_layers(config)) > len(checkpoint.entries):
        raise CheckpointError(
            f"config.json says {num} layers, and the files in {folder} hold {len(checkpoint.entries)} tensors; fetch both "
            "again"
        )
    return checkpoint


def read_senses(folder: Path, config: ModelConfig) -> tuple[PixelConfig | None, MelConfig | None]:
    """How pictures and sound are cut for the towers, None for a sense that the model lacks; or CheckpointError."""
    thinker = config.thinker
    pixels = read_pixels(folder, thinker.vision) if thinker.vision else None
    if thinker.vision and thinker.vision.window_cells < 1:
        raise CheckpointError("config.json says vision windows that are smaller than a cell of patches; fetch it again")
    return pixels, read_mel(folder, thinker.audio) if thinker.audio else None


def read_words(folder: Path, family: Family, config: ModelConfig) -> tuple[Tokenizer, Template]:
    """What writes prompts; CheckpointError where an id has no row, or the template takes more than it may."""
    tokenizer, template = Tokenizer.read(folder), Template.read(folder, hermes=family.hermes)
    thinker, talker = config.thinker, config.talker
    check_ids("the tokenizer", tokenizer.last, thinker.vocab_size)
    check_ids("generation_config.json or config.json", {f"eos {id}": id for id in thinker.eos_ids}, thinker.vocab_size)
    if thinker.media:
        names = ("audio", "image", "video", "audio_start", "audio_end", "vision_start", "vision_end")
        check_ids("config.json", {name: getattr(thinker.media, name) for name in names}, thinker.vocab_size)
    if talker:
        words, codes = ("text_end_id", "text_pad_id"), ("codec_start_id", "codec_end_id", "codec_pad_id", "codec_mask_id")
        check_ids("config.json", {name: getattr(talker, name) for name in words}, thinker.vocab_size)
        check_ids("config.json", {name: getattr(talker, name) for name in codes}, talker.vocab_size)
    template.try_out()
    return tokenizer, template


def read_speakers(folder: Path, config: ModelConfig) -> dict[str, Voice]:
    """The voices of a model that speaks, each of which has a row; or CheckpointError."""
    voices = read_voices(folder) if config.talker else {}
    for voice in voices.values():
        if not 0 <= voice.bos_id < config.thinker.vocab_size:
            raise CheckpointError(
                f"voice {voice.name!r} has id {voice.bos_id}, which the model lacks; fetch the voices again"
            )
    return voices


def _reader(folder: Path, family: Family, net: OmniModel, budget: Budget) -> PromptReader:
    thinker = net.config.thinker
    return PromptReader(
        *read_words(folder, family, net.config),
        family.clock(net.config),
        thinker.media,
        *read_senses(folder, net.config),
        thinker.decoder.max_positions,
        family.speaking,
        budget,
        net.thinker.audio_tower,
        net.thinker.visual,
    )


def _take_weights(
    net: OmniModel,
    folder: Path,
    checkpoint: Checkpoint,
    family: Family,
    places: tuple[torch.device, torch.device],
    kept: list[torch.dtype],
    weights: str,
    preset: Preset,
    *,
    exact: bool,
    progress: bool,
) -> None:
    """places, kept: devices and dtypes of thinker and voice; exact: as for `Packing`."""
    mel_kept = preset.dtype if is_fast_in(preset.dtype, places[1]) else torch.float32
    layout = family.layout(net.config)

    def kept_in(name: str) -> torch.dtype:
        return family.dtype_of(name, kept[is_voice(name)], mel_kept)

    def kept_on(name: str) -> torch.device:
        return places[is_voice(name)]

    packing = Packing(
        net,
        checkpoint,
        layout,
        weights=weights,
        flow="int8" if weights != "auto" and preset is not FAITHFUL and gains_int8(places[1]) else "auto",
        exact=exact,
        published=read_published(folder),
        gains=lambda name, inputs: gains(kept_in(name), kept_on(name), inputs),
    )
    with loading_bar(folder.name, shown=progress) as bar:
        load(
            net, checkpoint, packing.layout, dtype_of=kept_in, device_of=kept_on, progress=bar, arrived=packing.arrived
        )  # fmt: skip
