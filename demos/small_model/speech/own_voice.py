"""The model's own two voices join those that speak to it, so that it understands itself.

    python -m demos.small_model.speech.own_voice [SHARE]

Sentences of the corpus go from their codes through the decoder and the vocoder.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import soxr
import torch
from safetensors.torch import load_file
from torch import Tensor

from demos.small_model import BUILD
from demos.small_model.files import log, save
from demos.small_model.speech import voices
from demos.small_model.speech.codec import code_ids
from demos.small_model.speech.corpus import SAMPLE_RATE, VOICES, Utterance, load, shard_paths
from demos.small_model.training import dit, vocoder
from omni.talker.flow import Solver
from omni.talker.vocoder import FlowVocoder
from omni.talker.voice import WHOLE
from omni.talker.voices import Voice

COUNT = 300
"""Sentences of each voice, of which SHARE are made."""


@torch.no_grad()
def spoken(net: FlowVocoder, voice: Voice, utterance: Utterance) -> Tensor:
    """What the model makes of an utterance's codes: samples `[S]` at 24 kHz."""
    state = net.start(net.prepare(voice, Solver()), chunks=WHOLE)
    for code in code_ids(utterance["clusters"], utterance["unit"]).tolist():
        net.push(state, (code,))
    net.push(state, None)
    return net.make([state])[0]


def main(share: float = 1.0) -> None:
    torch.set_num_threads(1)
    start = time.time()
    net = FlowVocoder(dit.config(), vocoder.config())
    net.code2wav_dit_model.load_state_dict(load_file(dit.EXPORT))
    net.code2wav_bigvgan_model.load_state_dict(load_file(vocoder.EXPORT))
    made: list[voices.Utterance] = []
    for name, v in torch.load(dit.VOICES_FILE, weights_only=True).items():
        there = [path for path in shard_paths(name) if path.exists()]
        known = [u for path in there[-2:] for u in load(path)][: max(1, round(share * COUNT))]
        for u in known:
            wave = spoken(net, Voice(name, 0, v["cond"], v["ref_mel"]), u).numpy()
            wave = soxr.resample(wave, SAMPLE_RATE, voices.RATE)
            pcm = (wave * (0.1 / np.sqrt(np.mean(wave**2)))).clip(-1, 1) * 32767
            made.append(
                voices.Utterance(text=u["text"], kind="words", voice=name, wave=pcm.astype(np.int16), units=u["units"])
            )
    save(made, BUILD / "voices" / "own.pt")
    log(f"own voices {(time.time() - start) / 60:.1f} min: {len(made)} utterances of {', '.join(VOICES)}")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
