"""The `omni bench` commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from omni.cli.shared import HELP, Commands, Device, Dtype, Eager, Model, Threads, Weights, errors_told, loaded, notes
from omni.errors import OptionError

if TYPE_CHECKING:
    from omni.bench.case import Setting
    from omni.bench.report import Report
    from omni.bench.timing import Timer
    from omni.streaming.bench.run import Task

app = typer.Typer(no_args_is_help=True, cls=Commands, context_settings=HELP, help="Measure speed.")

PEERS = "transformers", "llama.cpp"

Check = Annotated[bool, typer.Option("--check", help="Fail where a mark is missed.")]
Out = Annotated[Path | None, typer.Option("--json", help="Write all figures into this file.")]
Shape = Annotated[str, typer.Option(help="3b or 7b with random weights, or a checkpoint's folder.")]
Only = Annotated[str, typer.Option(help="Names with commas; all when left out.")]
Rounds = Annotated[int, typer.Option(min=1, help="At least, of ours, theirs, theirs, ours.")]
Budget = Annotated[float, typer.Option(min=0, help="Seconds after which a row gets no further round.")]
OneDevice = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
OneDtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
Depth = Annotated[int, typer.Option(min=1, help="Layers of towers, where weights are random.")]


@app.command("stages")
def bench_stages(
    shape: Shape = "3b",
    only: Only = "",
    context: Annotated[int, typer.Option(min=1, help="Tokens in the cache before a step.")] = 512,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prefill.")] = 256,
    sound: Annotated[float, typer.Option(min=0.1, help="Seconds that are heard.")] = 10.0,
    image: Annotated[int, typer.Option(min=28, help="Side of a picture in pixels.")] = 448,
    frames: Annotated[int, typer.Option(min=2, help="Of log-mel in a window.")] = 96,
    long_frames: Annotated[int, typer.Option(min=2, help="Of log-mel in a long window.")] = 1000,
    depth: Depth = 8,
    distinct: Annotated[int, typer.Option(min=1, help="Layers of the thinker with weights of their own.")] = 6,
    rounds: Rounds = 3,
    budget: Budget = 12.0,
    peer: Annotated[
        str, typer.Option(help="transformers, or llama.cpp: a step and a prompt in three kinds of weights.")
    ] = PEERS[0],
    peer_python: Annotated[
        str | None, typer.Option(help="The Python that has llama-cpp-python.  [default: this one]")
    ] = None,
    check: Check = False,
    out: Out = None,
    threads: Threads = None,
    device: OneDevice = "auto",
    dtype: OneDtype = "auto",
) -> None:
    """Time every stage against transformers' on the same weights, and against what this machine can do."""
    from omni.bench import stages
    from omni.bench.case import Sizes

    with errors_told():
        sizes = Sizes(context, prompt, sound, image, frames, long_frames, depth, distinct)
        setting, timer = _prepared(shape, sizes, rounds, budget, out, threads, device, dtype)
        if peer not in PEERS:
            raise OptionError(f"{peer!r} is no peer; give {' or '.join(PEERS)}")
        python = peer_python or sys.executable if peer == PEERS[1] else None
        _report(stages.measure(setting, timer, _names(only), notes, peer=python), check, out)


@app.command("latency")
def bench_latency(
    model: Model = None,
    questions: Annotated[int, typer.Option(min=1, help="Of the packaged set, aloud about pictures.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="For each question.")] = 2,
    max_tokens: Annotated[int, typer.Option(min=2, help="Of text in an answer.")] = 40,
    max_seconds: Annotated[float, typer.Option(min=0.5, help="Of speech in an answer.")] = 4.0,
    check: Check = False,
    out: Out = None,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = "auto",
    eager: Eager = False,
) -> None:
    """Ask aloud about pictures, and tell when text and sound come: ours streamed, and transformers' `generate`."""
    from omni.bench import latency
    from omni.loading.checkpoint import find

    with errors_told():
        _ready(threads, out)
        omni = loaded(model, device, dtype, weights, speech=True, eager=eager)
        asked = latency.questions(questions)
        limits = latency.Limits.of(max_tokens, max_seconds, latency.frames_per_second(omni))
        _report(latency.measure(omni, find(model), asked, limits, rounds=rounds, notes=notes), check, out)


@app.command("curves")
def bench_curves(
    shape: Shape = "3b",
    only: Only = "",
    context: Annotated[str, typer.Option(help="Tokens in the cache.")] = "128,512,2048,8192",
    sessions: Annotated[str, typer.Option(help="That take a step together.")] = "1,2,4,8,16",
    image: Annotated[str, typer.Option(help="Side of a picture in pixels.")] = "112,224,448,672",
    speech: Annotated[str, typer.Option(help="Seconds made in one window.")] = "1,2,4,8",
    points: Annotated[str, typer.Option(help="Of the vocoder's time grid.")] = "2,4,6,10",
    depth: Depth = 4,
    rounds: Rounds = 1,
    budget: Budget = 4.0,
    check: Check = False,
    out: Out = None,
    png: Annotated[Path | None, typer.Option("--png", help="Draw the curves into this file.")] = None,
    threads: Threads = None,
    device: OneDevice = "auto",
    dtype: OneDtype = "auto",
) -> None:
    """Time a few stages at growing sizes, and draw what comes out."""
    from omni.bench import curves
    from omni.bench.case import Sizes

    with errors_told():
        at = curves.Points(
            _counts(context, "128,512", "--context"),
            _counts(sessions, "1,2,4", "--sessions"),
            _counts(image, "224,448", "--image"),
            _counts(speech, "1,2,4", "--speech"),
            _counts(points, "2,10", "--points"),
        )
        _ready(threads, png)
        setting, timer = _prepared(shape, Sizes(depth=depth), rounds, budget, out, threads, device, dtype)
        report = curves.measure(setting, timer, at, _names(only), notes)
        if png:
            curves.draw(report.rows, png)
        _report(report, check, out)


@app.command("kernels")
def bench_kernels(
    only: Only = "",
    rows: Annotated[int, typer.Option(min=16, help="Rows of most inputs.")] = 256,
    context: Annotated[int, typer.Option(min=16, help="Rows in the cache, for paged attention.")] = 1024,
    seconds: Annotated[float, typer.Option(min=0, help="For each.")] = 0.3,
    check: Check = False,
    out: Out = None,
    threads: Threads = None,
    device: OneDevice = "auto",
    dtype: OneDtype = "float32",
) -> None:
    """Time each kernel against the larger of two bounds: its bytes by copying, its products by a large product."""
    from omni.bench import kernels
    from omni.bench.timing import Timer
    from omni.loading.device import pick_device, pick_dtype

    with errors_told():
        _ready(threads, out)
        place = pick_device(device)
        kept = pick_dtype(dtype, "bfloat16", place)
        report = kernels.measure(kept, Timer(place), rows=rows, context=context, only=_names(only), seconds=seconds)
        _report(report, check, out)


@app.command("presets")
def bench_presets(
    model: Model = None,
    sentences: Annotated[int, typer.Option(min=1, help="Of the packaged set, said by every voice in turn.")] = 24,
    rounds: Annotated[int, typer.Option(min=1, help="Of which the fastest is told.")] = 3,
    check: Annotated[bool, typer.Option("--check", help="Fail where a preset errs by more than it may.")] = False,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = "auto",
) -> None:
    """Make sound of the same codes and noise with every preset of the vocoder: what it costs, and how far it is off."""
    from omni.bench.presets import measure, show
    from omni.evaluation.evaluate import read_set
    from omni.talker.vocoder import PRESETS

    with errors_told():
        _ready(threads)
        models = {name: loaded(model, device, dtype, weights, vocoder=name, speech=True) for name in PRESETS}
        given = read_set(None, ["speaks", "says"])
        costs = measure(models, given, sentences=sentences, rounds=rounds)
        show(costs, Console(highlight=False))
    _tell([fault for cost in costs for fault in cost.missed(weights)] if check else [])


@app.command("compare")
def bench_compare(
    before: Annotated[Path, typer.Argument(help="A file that --json wrote.")],
    after: Annotated[Path, typer.Argument(help="Another, of the same command.")],
    check: Annotated[bool, typer.Option("--check", help="Fail where a row is slower by more than the noise.")] = False,
) -> None:
    """Tell what became faster and what slower between two runs."""
    from omni.bench import compare, report

    with errors_told():
        found = compare.compare(report.read(before), report.read(after))
        compare.show(found, Console(highlight=False))
    _tell(found.slower if check else [], "slower")


@app.command("load")
def bench_load(
    model: Model = None,
    sessions: Annotated[str, typer.Option(help="How many conversations at once.")] = "1,2,4,8",
    questions: Annotated[int, typer.Option(min=1, help="That each of them asks.")] = 8,
    seed: Annotated[int, typer.Option(help="Of when they ask, and what.")] = 0,
    check: Annotated[bool, typer.Option("--check", help="Fail where a mark is missed.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write all figures into this file.")] = None,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = "auto",
) -> None:
    """Let listeners ask at random times, and tell how long they waited for sound and whether it ever stopped."""
    from omni.bench.load import measure, missed, show, write

    counts = _counts(sessions, "1,2,4,8")
    with errors_told():
        _ready(threads, out)
        omni = loaded(model, device, dtype, weights, speech=True)
        figures = measure(omni, counts, questions=questions, seed=seed, notes=notes)
        show(figures, Console(highlight=False))
        if out:
            write(figures, omni, out)
    _tell(missed(figures) if check else [])


@app.command("turns")
def bench_turns(
    model: Model = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of which the median is told.")] = 9,
    check: Annotated[bool, typer.Option("--check", help="Fail where a mark is missed.")] = False,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = "auto",
) -> None:
    """Tell how long the first sound takes after short and long turns, after few and many, and what reading ahead costs."""
    from omni.bench.turns import measure, show

    with errors_told():
        _ready(threads)
        waits = measure(loaded(model, device, dtype, weights, speech=True), repeats=repeats)
        show(waits, Console(highlight=False))
    _tell(waits.missed if check else [])


@app.command("server")
def bench_server(
    model: Model = None,
    url: Annotated[
        str | None, typer.Option(help="Of a server that runs, ws://host:port, instead of one with --model.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="OMNI_API_KEY", help="Where that server wants one.")] = None,
    sessions: Annotated[str, typer.Option(help="How many listeners at once.")] = "1,4",
    seconds: Annotated[float, typer.Option(min=1, help="For which they ask.")] = 60.0,
    trials: Annotated[int, typer.Option(min=1, help="Answers that are broken off.")] = 30,
    seed: Annotated[int, typer.Option(help="Of when they ask, and what.")] = 0,
    check: Annotated[bool, typer.Option("--check", help="Fail where a mark is missed.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write all figures into this file.")] = None,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = "auto",
) -> None:
    """Talk with a server aloud: how soon it answers, whether it keeps up, and how soon it stops when it is interrupted."""
    import asyncio

    from omni.streaming.bench.caller import Place
    from omni.streaming.bench.run import measure, show, write

    options = ["--device", device, "--dtype", dtype, "--weights", weights]
    options += ["--model", model] if model else []
    options += ["--threads", str(threads)] if threads else []
    counts = _counts(sessions, "1,4")
    with errors_told():
        _ready(None, out)  # the server's own process has the threads
        task = _task(counts, seconds, trials, seed)
        place = Place(url.replace("http", "ws", 1) if url.startswith("http") else url, api_key) if url else None
        report = asyncio.run(measure(task, place, options, notes))
        show(report, Console(highlight=False))
        if out:
            write(report, task, place, out)
    _tell(report.missed if check else [])


def _task(sessions: list[int], seconds: float, trials: int, seed: int) -> Task:
    """What is asked aloud about pictures in the packaged set, and the picture that takes longest to describe."""
    from omni.encoders.waves import read_audio
    from omni.evaluation.evaluate import read_set
    from omni.streaming.bench.barge_in import Request
    from omni.streaming.bench.recordings import RATE, Conversation
    from omni.streaming.bench.run import Task

    conversations, longest, request = [], 0, Request("")
    for case in read_set(None, ["converses"]).cases:
        parts = [part for turn in case.turns for part in turn.content]
        pictures = [Path(part["image"]).read_bytes() for part in parts if part["type"] == "image"]
        if len(pictures) != 1 or any(part["type"] == "video" for part in parts):
            continue
        questions = tuple(read_audio(part["audio"], rate=RATE) for part in parts if part["type"] == "audio")
        conversations.append(Conversation(pictures[0], questions))
        if len(case.turns[0].answer) > longest:
            longest, request = len(case.turns[0].answer), Request(case.turns[0].asked, pictures[0])
    return Task(conversations, request, sessions, seconds, trials, seed)


def _ready(threads: int | None, *files: Path | None) -> None:
    """Takes so many threads; OptionError where a file could not be written after the work."""
    import torch

    from omni.evaluation.scores import check_place

    if threads:
        torch.set_num_threads(threads)
    for path in files:
        if path:
            check_place(path)


def _prepared(
    shape: str, sizes: Any, rounds: int, budget: float, out: Path | None, threads: int | None, device: str, dtype: str
) -> tuple[Setting, Timer]:
    """What a bench of stages runs on, with all that can be wrong found out before the work."""
    from omni.bench.case import Setting
    from omni.bench.models import Shape
    from omni.bench.timing import Timer
    from omni.loading.device import pick_device, pick_dtype

    _ready(threads, out)
    place = pick_device(device)
    setting = Setting(Shape.named(shape), place, pick_dtype(dtype, "bfloat16", place), sizes)
    return setting, Timer(place, budget, least=rounds, most=max(9, rounds))


def _report(report: Report, check: bool, out: Path | None) -> None:
    """Shows and writes what was found; fails where a mark is missed that is asked for."""
    from omni.bench.report import show, write

    show(report, Console(highlight=False))
    if out:
        write(report, out)
    _tell(report.missed if check else [])


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _counts(text: str, example: str, option: str = "--sessions") -> list[int]:
    counts = [int(n) for n in text.split(",") if n.strip().isdecimal()]
    if not counts or min(counts) < 1:
        raise typer.BadParameter(f"give numbers such as {example}", param_hint=option)
    return counts


def _tell(faults: list[str], what: str = "missed") -> None:
    """What is wrong; fails where anything is."""
    for fault in faults:
        notes.print(f"[bold red]{what}:[/]", escape(fault), soft_wrap=True)
    if faults:
        raise typer.Exit(1)
