"""Puts the trained parts together as a checkpoint in the published layout.

python -m demos.small_model.assemble [FOLDER]
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from demos.small_model import BUILD
from demos.small_model.nets import sizes, words
from demos.small_model.training.thinker import LOUDNESS
from demos.small_model.world import spoken
from omni.families.qwen2_5_omni import LAYOUT
from omni.talker.voices import Voice, write_voices

BUNDLED = Path(__file__).parents[2] / "omni" / "bundled"
CARD = Path(__file__).parent / "card.md"
SPEAKING = {
    "talker.": "talker",
    "token2wav.code2wav_dit_model.": "dit",
    "token2wav.code2wav_bigvgan_model.": "vocoder",
}
"""The other parts: what their published names begin with, and the files of their weights."""
LIMIT = 32_000_000
"""Bytes of the whole folder."""


def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under their published names, from those of omni's modules."""
    config = sizes.omni_config()
    decoders = {"thinker": config.thinker.decoder, "talker": config.talker_decoder}
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        keys = LAYOUT.keys(name)
        decoder = decoders.get(name.partition(".")[0])
        if decoder and ".self_attn.qkv_proj." in name and ".decoder." in name:
            heads = (decoder.num_heads, decoder.num_kv_heads, decoder.num_kv_heads)
            parts = tensor.split([n * decoder.head_dim for n in heads])
        else:
            parts = tensor.chunk(len(keys))
        out |= {key: part for key, part in zip(keys, parts, strict=True) if not _left_out(key)}
    return out


def _left_out(key: str) -> bool:
    """A bias of the audio tower's keys changes no attention, so the architecture has none."""
    return key.endswith(".bias") and LAYOUT.may_lack(key)


def tensors() -> dict[str, Tensor]:
    learnt = torch.load(BUILD / "thinker.pt", map_location="cpu", weights_only=False)["average"]
    learnt = {key: value for key, value in learnt.items() if key.startswith("thinker.")}
    learnt["thinker.lm_head.weight"] = learnt["thinker.lm_head.weight"] / LOUDNESS
    out = published(learnt)
    for prefix, file in SPEAKING.items():
        out |= {prefix + key: value for key, value in load_file(BUILD / f"{file}.safetensors").items()}
    # what the published model has and never reads
    out["thinker.audio_tower.audio_bos_eos_token.weight"] = torch.zeros(2, sizes.HIDDEN)
    return {key: value.to(torch.float16).contiguous() for key, value in sorted(out.items())}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    sizes.write(folder)
    _write(folder / "generation_config.json", {"_from_model_config": True})
    # one sentence at a time, the longest of which take less; its instruction is one of training.lessons.REPEAT
    _write(folder / "transcription.json", {"instruction": "Repeat what I said.", "longest": 3.0, "silence": 0.1})
    pictures = {
        "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711),
        "merge_size": 2,
        "patch_size": 14,
        "temporal_patch_size": 2,
    }
    still = pictures | {
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": sizes.MIN_PIXELS,
        "max_pixels": sizes.MAX_PIXELS,
    }
    sound = {
        "chunk_length": 300,
        "dither": 0.0,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": 80,
        "hop_length": 160,
        "n_fft": 400,
        "n_samples": 4800000,
        "nb_max_frames": 30000,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": 16000,
    }
    _write(folder / "preprocessor_config.json", still | sound | {"processor_class": "Qwen2_5OmniProcessor"})
    size = {"shortest_edge": sizes.FRAME_MIN_PIXELS, "longest_edge": sizes.FRAME_MAX_PIXELS}
    moving = pictures | {"video_processor_type": "Qwen2VLVideoProcessor", "size": size}
    _write(folder / "video_preprocessor_config.json", moving | {"processor_class": "Qwen2_5OmniProcessor"})
    words.tokenizer().save(str(folder / "tokenizer.json"))
    words.write_tokenizer_config(folder, 8192)
    spoken.write(folder)
    voices = torch.load(BUILD / "voices.pt", weights_only=False)
    write_voices(folder, {name: Voice(name, words.special(name), v["cond"], v["ref_mel"]) for name, v in voices.items()})
    # transformers reads voices from a pickle only
    pickled = {
        name: {"bos_token": words.special(name), "cond": v["cond"][None], "ref_mel": v["ref_mel"][None]}
        for name, v in voices.items()
    }
    torch.save(pickled, folder / "spk_dict.pt")
    if CARD.exists():
        shutil.copy(CARD, folder / "README.md")
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for its owner only
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {total / 1e6:.1f} MB")
    if total > LIMIT:
        raise SystemExit(f"that is more than {LIMIT / 1e6:.0f} MB")


def _write(path: Path, tree: object) -> None:
    path.write_text(json.dumps(tree, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else BUNDLED)
