"""How pairs are timed and judged, and that every bench works on shapes of no size."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from omni.bench import baseline, compare, kernels, marks, plot, presets, report, stages
from omni.bench.models import DEPTHS, SHAPES, Shape, both, shallower
from omni.bench.report import Report, Row
from omni.bench.timing import Ceilings, Pairs, Timer
from omni.cli.app import app
from omni.errors import OptionError
from omni.evaluation.evaluate import Mark
from omni.evaluation.scores import check_place
from omni.families import config_in, read_config
from omni.families.qwen2_5_omni import LAYOUT, build
from omni.kernels.linear import gains_int8
from omni.loading.checkpoint import BUNDLED
from omni.talker.vocoder import PRESETS
from tests.oracle.tiny import tiny

CPU = torch.device("cpu")
DATA = Path(__file__).parents[2] / "data"
SMALL = ["--shape", str(BUNDLED), "--rounds", "1", "--budget", "0", "--threads", "1"]
TINY = ["--sound", "0.5", "--image", "56", "--frames", "24", "--long-frames", "48", "--context", "17", "--prompt", "9"]


def bench(*args: str) -> Result:
    return CliRunner().invoke(app, ["bench", *args])


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ceilings are measured on little, and threads are as before."""
    threads = torch.get_num_threads()
    found = Ceilings(2e10, 1e10, {torch.float32: 1e11, torch.bfloat16: 2e11, torch.float16: 1e11})
    for module in (stages, kernels):
        monkeypatch.setattr(module, "measure_ceilings", lambda timer, **how: found)
    yield
    torch.set_num_threads(threads)


# ---- pairs


class Clock:
    """Seconds that pass only while a program runs, each time the next that it was told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran = ""

    def __call__(self) -> float:
        return self.now

    def program(self, name: str, seconds: Iterator[float]) -> Any:
        def run() -> None:
            self.ran += name
            self.now += next(seconds)

        return run


def test_programs_take_turns() -> None:
    clock = Clock()
    # one run to warm up, then a round of A, B, B, A
    a, b = clock.program("a", iter([9, 1, 2, 3, 3])), clock.program("b", iter([9, 4, 8, 6, 6]))
    pairs = Timer(budget=1, least=2, most=2, clock=clock).pairs(a, b)
    assert clock.ran == "ab" + "abba" * 2
    assert pairs == Pairs(((1, 2), (3, 3)), ((4, 8), (6, 6)))
    assert pairs.ratios == [4, 2]
    assert pairs.ratio == 3
    assert pairs.noise == pytest.approx(0.5)  # the readings differ by 100 %, 0 %, 100 % and 0 %
    assert (pairs.a_median, pairs.b_median) == (2.5, 6)


def test_rounds_end_with_the_budget() -> None:
    for budget, rounds in ((0.0, 2), (7.0, 4), (1000.0, 5)):
        clock = Clock()
        a, b = (clock.program(name, iter(lambda: 0.5, None)) for name in "ab")
        pairs = Timer(budget=budget, least=2, most=5, clock=clock).pairs(a, b)
        assert len(pairs.a) == len(pairs.b) == rounds


def test_short_runs_are_repeated_within_a_reading() -> None:
    clock = Clock()
    pairs = Timer(budget=1, least=1, most=1, clock=clock).pairs(clock.program("a", iter(lambda: 0.005, None)))
    assert len(clock.ran) == 2 + 2 * 4
    assert pairs.a_median == pytest.approx(0.005)
    assert pairs.b == () and math.isnan(pairs.ratio) and math.isnan(pairs.b_median)


def test_bounds() -> None:
    ceilings = Ceilings(4.0, 8.0, {torch.float32: 2.0})
    assert ceilings.bound(16, 2, torch.float32) == 2
    assert ceilings.bound(8, 6, torch.float32) == 3


# ---- marks


def row(name: str, ratio: float | None, mark: Mark, **more: Any) -> Row:
    return Row(name, "somehow", 2.0, ratio=ratio, mark=mark, **more)


def test_marks() -> None:
    fast, linear = Mark(at_least=1.5), Mark(at_most=3.3)
    assert row("a", 1.5, fast).missed is None
    assert row("a", 0.1, Mark()).missed is None
    assert "at its bound it would be 4.0" in str(row("a", 1.4, fast, theirs=8.0, bound=2.0).missed)
    assert "1.40 times" in str(row("a", 1.4, fast).missed)
    assert "<= 3.3" in str(row("a", 3.4, linear).missed)
    # what could not be judged has not been reached
    assert "transformers" in str(row("a", None, fast).missed)
    assert row("a", 2, fast, error=0.1, allowed=0.2).missed is None
    assert "differs" in str(row("a", 2, fast, error=0.3, allowed=0.2).missed)
    assert "differs" in str(row("a", None, Mark(), error=math.nan, allowed=0.2).missed)


@pytest.mark.parametrize(("times", "code"), [(0.0, 0), (1e6, 1)])
def test_check_fails_where_a_mark_is_missed(monkeypatch: pytest.MonkeyPatch, times: float, code: int) -> None:
    monkeypatch.setitem(marks.MARKS, ("cpu", BUNDLED.name), {"wave": Mark(at_least=times)})
    assert bench("stages", *SMALL, *TINY, "--only", "wave").exit_code == 0
    done = bench("stages", *SMALL, *TINY, "--only", "wave", "--check")
    assert done.exit_code == code, done.output
    assert ("missed: wave" in done.output) == bool(code)


def test_check_fails_where_nothing_can_be_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "INSTALLED", False)
    monkeypatch.setitem(marks.MARKS, ("cpu", BUNDLED.name), {"wave": Mark(at_least=0)})
    done = bench("stages", *SMALL, *TINY, "--only", "wave", "--check")
    assert done.exit_code == 1
    assert "transformers is not installed" in done.output
    assert "times" not in done.output.splitlines()[2]  # the column is left out


# ---- stages


def test_stages(tmp_path: Path) -> None:
    out = tmp_path / "stages.json"
    done = bench("stages", *SMALL, *TINY, "--dtype", "float32", "--json", str(out))
    assert done.exit_code == 0, done.output
    tree = json.loads(out.read_text())
    assert tree["settings"]["context"] == 17
    assert tree["versions"]["torch"] == torch.__version__
    assert tree["device"]["threads"] == 1
    rows = {row["name"]: row for row in tree["rows"]}
    marked = set(marks.CPU_3B) | set(marks.GPU_3B)  # a mark of another name would never be missed
    if not gains_int8(torch.device("cpu")):
        marked -= {"flow matching, int8", "flow matching, long, int8"}
    assert marked <= set(rows)
    for name, found in rows.items():
        assert found["ours"] > 0 and found["theirs"] > 0
        assert found["low"] <= found["ratio"] <= found["high"]
        # the same weights give the same rows but for rounding
        if found["error"] is not None and "int" not in name:
            assert found["error"] < (3e-2 if "bfloat16" in name else 1e-5), name
        assert found["missed"] is None
    assert len([row for row in rows.values() if row["error"] is None]) == 2  # the growths


@pytest.mark.parametrize("variant", ["qwen2", "qwen3-wide"])
def test_stages_of_a_model_of_text(variant: str, tmp_path: Path) -> None:
    """It thinks; towers and voice are left out."""
    out = tmp_path / "stages.json"
    small = ["--shape", str(tiny(variant)), "--rounds", "1", "--budget", "0", "--threads", "1", "--dtype", "float32"]
    done = bench("stages", *small, *TINY, "--json", str(out))
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    assert {row["name"].removesuffix(" int8").removesuffix(" int4") for row in rows} == {"thinker decode", "thinker prefill"}
    assert all(row["missed"] is None and row["theirs"] > 0 for row in rows)
    assert [row for row in rows if row["name"] in ("thinker decode", "thinker prefill") and row["error"] > 1e-5] == []


@pytest.mark.parametrize("name", ["3b", "7b"])
def test_shapes_are_the_published_ones(name: str, tmp_path: Path) -> None:
    published = DATA / f"qwen2_5_omni_{name}.config.json"
    (tmp_path / "config.json").write_bytes((SHAPES / f"{name}.json").read_bytes())
    ours = read_config(tmp_path)
    (tmp_path / "config.json").write_bytes(published.read_bytes())
    assert ours == read_config(tmp_path)
    assert Shape.named(name).depth("thinker.decoder.") == ours.thinker.decoder.num_layers


def test_layers_share_weights_and_both_programs_too() -> None:
    shape = replace(Shape.named(str(BUNDLED)), folder=None)
    pair = both(shape, "thinker.decoder.", dtype=torch.float32, device=CPU, distinct=2)
    layers = "thinker.decoder.layers"
    first, second, third = (pair.ours.get_parameter(f"{layers}.{i}.self_attn.qkv_proj.weight") for i in range(3))
    assert first is third and first is not second
    q = pair.theirs.thinker.model.layers[3].self_attn.q_proj.weight
    assert q.data_ptr() == second.data_ptr()
    assert pair.ours.token2wav is not None and next(pair.ours.token2wav.parameters()).is_meta
    shallow = both(shape, "thinker.decoder.", dtype=torch.float32, device=CPU, depth=3)
    assert len(shallow.ours.thinker.decoder.layers) == len(shallow.theirs.thinker.model.layers) == 3


@pytest.mark.parametrize("part", DEPTHS)
def test_both_programs_have_as_many_layers(part: str) -> None:
    shape = Shape.named("3b")
    tree = shallower(shape.tree, part, 3)
    assert shape.depth(part) > replace(shape, tree=tree).depth(part) == 3
    for other in DEPTHS.keys() - {part}:  # whole, they take long to build
        tree = shallower(tree, other, 2)
    theirs = {name for name, _ in baseline.build(tree).named_parameters()}
    ours = {key for name, _ in build(config_in(tree)).named_parameters() for key in LAYOUT.keys(name)}
    assert {key for key in ours ^ theirs if not LAYOUT.may_lack(key) and not LAYOUT.leaves(key)} == set()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["stages", "--shape", "8b"], "3b, 7b"),
        (["stages", "--only", "thought"], "thinker"),
        (["curves", "--only", "thought"], "context"),
        (["curves", "--image", "wide"], "224,448"),
        (["kernels", "--only", "thought"], "rms_norm"),
        (["kernels", "--context", "16"], "longer"),
        (["stages", "--json", "/nowhere/a.json"], "cannot be written"),
        (["compare", "/nowhere/a.json", "/nowhere/b.json"], "no report"),
    ],
)
def test_wrong_options_are_told_before_the_work(args: list[str], told: str) -> None:
    done = bench(*args)
    assert done.exit_code == 2, done.output
    assert told in done.output


# ---- the other benches


def test_kernels(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    done = bench("kernels", "--rows", "48", "--context", "64", "--seconds", "0", "--json", str(out), "--check")
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    assert len({row["name"] for row in rows}) >= 12
    assert all(row["ours"] > 0 and row["bound"] > 0 for row in rows)


@pytest.mark.parametrize("worst", [0.2, 0.0])
def test_presets(monkeypatch: pytest.MonkeyPatch, worst: float) -> None:
    monkeypatch.setitem(presets.LIMITS, "fast", replace(presets.LIMITS["fast"], worst=worst))
    done = bench("presets", "--sentences", "2", "--rounds", "1", "--check")
    assert all(name in done.output for name in PRESETS)
    assert done.exit_code == (0 if worst else 1), done.output
    assert ("missed: fast" in done.output) == (not worst)


def test_curves(tmp_path: Path) -> None:
    out, png = tmp_path / "curves.json", tmp_path / "curves.png"
    sizes = [
        "--context",
        "16,48",
        "--sessions",
        "1,3",
        "--image",
        "56,84",
        "--speech",
        "1",
        "--points",
        "2,3",
        "--depth",
        "1",
    ]
    done = bench("curves", *SMALL, *sizes, "--json", str(out), "--png", str(png))
    assert done.exit_code == 0, done.output
    points = [(row["name"], row["x"], row["theirs"] is None) for row in json.loads(out.read_text())["rows"]]
    assert points == [
        ("context", 16, False), ("context", 48, False), ("sessions", 1, True), ("sessions", 3, True), ("image", 56, False),
        ("image", 84, False), ("speech", 1, False), ("evaluations", 4, True), ("evaluations", 8, True),
    ]  # fmt: skip
    with Image.open(png) as picture:
        assert picture.width == 2 * plot.WIDTH * plot.SCALE


def test_latency(tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    limits = ["--questions", "1", "--rounds", "1", "--max-tokens", "4", "--max-seconds", "0.5"]
    done = bench("latency", *limits, "--json", str(out), "--check")
    assert done.exit_code == 0, done.output
    assert "differed" not in done.output
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    first, enough, whole = (rows[name] for name in ("first sound (TTFP)", "200 ms of sound (TTFP@200)", "all of it"))
    assert 0 < rows["first text (TTFT)"]["ours"] < first["ours"] <= enough["ours"] <= whole["ours"]
    assert first["theirs"] == whole["theirs"]  # which does not stream
    busy = [row for name, row in rows.items() if name.startswith("busy")]
    assert len(busy) == 5
    for side in ("ours", "theirs"):
        assert 0 < sum(row[side] for row in busy) < 1.2 * whole[side]


# ---- reports


def a_report(*rows: Row) -> Report:
    return Report("stages", CPU, {"dtype": "float32", "weights": "random"}, rows)


def test_reports_can_be_read_again(tmp_path: Path) -> None:
    rows = [row("a", 2.0, Mark(at_least=3)), row("b", None, Mark(), x=4.0, noise=0.1)]
    report.write(a_report(*rows), tmp_path / "a.json")
    tree = report.read(tmp_path / "a.json")
    assert report.rows(tree) == rows
    assert tree["rows"][0]["missed"]
    (tmp_path / "b.json").write_text('{"rows": [{"name": 3}]}')
    with pytest.raises(OptionError, match="no report"):
        report.read(tmp_path / "b.json")


def test_columns_that_hold_nothing_are_left_out() -> None:
    console = Console(width=100, file=io.StringIO())
    report.show(a_report(row("a", None, Mark())), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "ours" in text and "theirs" not in text and "mark" not in text


def test_compare(tmp_path: Path) -> None:
    def some(**ours: float) -> list[Row]:
        return [Row(name, "how", value, noise=0.02, more_is_better=name == "rate") for name, value in ours.items()]

    files = [tmp_path / name for name in ("a.json", "b.json")]
    report.write(a_report(*some(same=10, better=10, worse=10, rate=10, gone=1)), files[0])
    report.write(a_report(*some(same=10.4, better=5, worse=12, rate=20, new=1)), files[1])
    trees = [report.read(file) for file in files]
    found = compare.compare(*trees)
    assert {c.before.name: c.verdict for c in found.changes} == {
        "same": "",
        "better": "faster",
        "worse": "slower",
        "rate": "faster",
    }
    assert (found.only_before, found.only_after, found.different) == (["gone how"], ["new how"], [])
    trees[1]["device"]["threads"] += 1
    assert len(compare.compare(*trees).different) == 1
    # a change within either one's noise is none
    noisy = [replace(r, noise=0.3) for r in some(worse=12)]
    assert compare.compare(trees[0], report.tree(a_report(*noisy))).slower == []
    names = [str(file) for file in files]
    assert bench("compare", *names).exit_code == 0
    done = bench("compare", *names, "--check")
    assert done.exit_code == 1
    assert "slower: worse" in done.output
    assert bench("compare", *names[::-1], "--check").exit_code == 1  # better and rate are worse that way
    assert bench("compare", names[0], names[0], "--check").exit_code == 0


def test_plot(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    panel = plot.Panel("A", "tokens", "ms", [1, 10, 100], [1.0, 2.0, 4.0], [2.0, None, 8.0])
    plot.draw([panel, replace(panel, x=[5], ours=[1.0], theirs=[None])], path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    for colour, there in ((plot.OURS, (True, True)), (plot.THEIRS, (True, False))):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        halves = np.split(pixels, 2, axis=1)
        assert tuple(bool((half == wanted).all(-1).any()) for half in halves) == there
    with pytest.raises(OptionError, match="cannot be written"):
        plot.draw([panel], tmp_path / "nowhere" / "a.png")


def test_ticks() -> None:
    assert plot.ticks(3, 70) == [5, 10, 20, 50]
    assert plot.ticks(0.5, 900) == [1, 10, 100]


def test_commit_and_device() -> None:
    told = report.describe(CPU)
    assert told["cores"] >= 1 and told["name"]
    assert report.hardware(CPU) == "cpu"
    assert report.commit() is None or len(str(report.commit()).rstrip("+")) == 12


def test_unwritable_place_is_found_before() -> None:
    with pytest.raises(OptionError):
        check_place(Path("/nowhere/a.json"))
