"""Makes the small model that ships with the package, from nothing: data, training, assembly, evaluation.

    python -m demos.small_model [--share 1.0] [--only STEP ...]

Every step is a program of its own, leaves what it made in runs/small_model/ (or where SMALL_MODEL_BUILD says) and may be
stopped and started again. `log.txt` there has a line for each step that ended.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from demos.small_model import BUILD
from demos.small_model.assemble import BUNDLED


@dataclass(frozen=True)
class Step:
    """Attributes:
    arguments: with {minutes}, {shards}, {share}, {build} and {out} to be filled in.
    minutes: of training; 0 for a step that ends by itself.
    shards: of data.
    wide: takes all cores.
    """

    name: str
    module: str
    arguments: str = ""
    minutes: float = 0.0
    shards: int = 0
    what: str = ""
    wide: bool = False


STEPS = (
    Step("corpus", "speech.corpus", "2 {shards}", shards=32, what="the sentences that the two voices learn from"),
    Step("codec", "speech.codec", what="codes for their sounds"),
    Step("vocoder", "training.vocoder", "--minutes {minutes}", 30, what="mel to wave"),
    Step("dit", "training.dit", "--minutes {minutes}", 40, what="codes to mel"),
    Step("voices", "speech.voices", "{shards}", shards=16, what="many voices that speak to the model"),
    Step("own", "speech.own_voice", "{share}", what="its own among them"),
    Step("ears", "training.towers", "ears {minutes}", 60, what="what was said", wide=True),
    Step("eyes", "training.towers", "eyes {minutes}", 33, what="what there is to see", wide=True),
    Step("thinker", "training.thinker", "{minutes}", 140, what="answers", wide=True),
    Step("talker", "training.talker", "--minutes {minutes}", 127, what="answers to codes"),
    Step("assemble", "assemble", "{out}", what="one checkpoint"),
    Step("set", "make_eval", "{build}/eval --share {share}", what="what the model is tested on"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the data, and of the minutes of each training")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="where the checkpoint goes")
    parser.add_argument("--only", nargs="*", choices=[s.name for s in STEPS], help="these steps, though they are done")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    for step in STEPS:
        done = BUILD / f"{step.name}.done"
        if (options.only is None and done.exists()) or (options.only is not None and step.name not in options.only):
            continue
        minutes = step.minutes * options.share
        shards = math.ceil(step.shards * options.share)
        values = {"minutes": minutes, "shards": shards, "share": options.share, "build": BUILD, "out": options.out}
        arguments = [part.format(**values) for part in step.arguments.split()]
        start = time.time()
        title = f"{step.name}: {step.what}" + (f", {minutes:g} min" if minutes else "")
        with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
            bar.add_task(title)
            with (BUILD / f"{step.name}.log").open("a") as log:
                launcher = [sys.executable]
                if step.wide and not torch.cuda.is_available():
                    launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(os.cpu_count())]
                command = [*launcher, "-m", f"demos.small_model.{step.module}", *arguments]
                code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        if code:
            print(f"{step.name} failed; its last words are in {BUILD / step.name}.log", file=sys.stderr)
            return code
        done.touch()
        with (BUILD / "log.txt").open("a") as log:
            log.write(f"{step.name} took {(time.time() - start) / 60:.1f} min\n")
    command = [
        sys.executable,
        "-c",
        "from omni.cli.main import main; main()",
        "eval",
        str(BUILD / "eval"),
        "--model",
        str(options.out),
    ]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
