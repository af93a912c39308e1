"""Where the parts of a model run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omni import Omni
from omni.errors import DeviceError
from omni.loading import checkpoint, device
from tests.oracle.tiny import tiny

CPU = torch.device("cpu")
ASK = [{"role": "user", "content": [{"type": "audio", "audio": (np.sin(np.arange(24000) / 9).astype(np.float32), 16000)}]}]


def test_one_name_or_two() -> None:
    assert device.pick_devices("cpu") == device.pick_devices("cpu, cpu") == (CPU, CPU)
    for names in ("cpu,", "cpu,nowhere", "cpu,cpu,cpu", ""):
        with pytest.raises(DeviceError):
            device.pick_devices(names)


def test_each_part_goes_where_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two names of the CPU and two dtypes stand in for two devices, which this machine may lack."""
    voice = torch.device("cpu:0")
    kept = {CPU: torch.bfloat16, voice: torch.float32}
    monkeypatch.setattr("omni.loading.model.pick_devices", lambda names: (CPU, voice))
    monkeypatch.setattr("omni.loading.model.pick_dtype", lambda dtype, stored, where: kept[where])
    told = dict[str, object]()

    def load(net: torch.nn.Module, *args: object, device_of: object, **kwargs: object) -> None:
        assert callable(device_of)
        told.update((name, device_of(name)) for name, _ in net.named_parameters())
        checkpoint.load(net, *args, device_of=lambda name: CPU, **kwargs)  # type: ignore[arg-type]  # options spread

    monkeypatch.setattr("omni.loading.model.load", load)
    omni = Omni.load(tiny("7b-like"), progress=False)
    assert {name for name, where in told.items() if where == voice} == {n for n in told if not n.startswith("thinker.")}
    assert omni.model.talker
    assert {p.dtype for p in omni.model.thinker.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in omni.model.talker.parameters()} == {torch.float32}
    reply = omni.generate(ASK, voice="Ethan", max_tokens=4, seed=1, max_audio_seconds=0.2)
    assert reply.audio is not None and len(reply.audio) and np.isfinite(reply.audio).all()
    session = omni.session(voice="Ethan", max_tokens=4, seed=1, max_audio_seconds=0.2)
    list(session.say("One, two."))
    assert session.interrupt(0) == ""


@pytest.mark.gpu
def test_thinker_on_a_gpu_and_voice_on_the_cpu() -> None:
    options = {"voice": "Ethan", "max_tokens": 4, "seed": 1, "max_audio_seconds": 0.2}
    apart, together = (
        Omni.load(tiny("7b-like"), device=names, dtype="float32", progress=False).generate(ASK, **options)  # type: ignore[arg-type]  # options spread
        for names in ("cuda,cpu", "cpu")
    )
    assert apart.done.codes == together.done.codes
