"""The benchmark measures what it says; how fast anything is is not tested."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from polyp_utils.bench import agreement, ceiling, cost, equivalence, loops, training
from polyp_utils.bench.layers import PASSES
from polyp_utils.bench.plain import JpegFolder, PlainLoop
from polyp_utils.bench.report import (
    NOT_HELD,
    dice_table,
    find_benchmark,
    frame_speed_table,
    layer_table,
    live_findings,
    operation_table,
    speed_table,
)
from polyp_utils.bench.run import COLUMNS, COMPARED, benchmark
from polyp_utils.bench.runtimes import CARD, FORWARDS
from polyp_utils.common.config import RunConfig
from polyp_utils.common.device import Compute, get_compute
from polyp_utils.common.exceptions import RunError
from polyp_utils.data.labels import get_scheme
from polyp_utils.data.parts import load_parts
from polyp_utils.data.splits import load_split
from polyp_utils.model.unet import UNet
from polyp_utils.plots import speed
from polyp_utils.train.learner import Learner, epoch_order

CPU = get_compute("cpu", "fp32")
NOTEBOOK = Path(__file__).parents[1] / "notebooks/08_speed.ipynb"
POINTS = ((4, 32, 8), (4, 64, 8), (8, 32, 8), (8, 64, 4))
_PARTS = ("predict", "mask")  # of a whole frame


@pytest.fixture(scope="module")
def measured(tmp_path_factory, session_cache, workers_here):
    """A minimal measurement: its speeds mean nothing."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ceiling, "_MATRIX", 64)
        patch.setattr(ceiling, "_COPY_BYTES", 2**20)
        patch.setattr(ceiling, "one_convolution", lambda compute: np.ones(5))
        patch.setattr("polyp_utils.bench.run.COMPARED", (CARD, "ours, PyTorch fp32"))
        patch.setattr("polyp_utils.bench.run.data_start", lambda *_: [("cold start", 1.0, "s")])
        benchmark("phantom", folder, [4], 32, 8, "cpu", 2, 0.001, POINTS[:1], ())
    return folder


def test_layers_hold_the_arithmetic_that_torch_counts():
    layers = ceiling.convolutions(16, 64, 2)
    passes = [3 if layer.has_gradient else 2 for layer in layers]
    total = sum(n * layer.flops for n, layer in zip(passes, layers, strict=True))
    assert total == ceiling.training_flops(16, 64, 2)
    assert [layer.has_gradient for layer in layers] == [False] + [True] * (len(layers) - 1)
    assert sum(layer.transposed for layer in layers) == 4
    found = []

    def note(name, module, inputs, output):
        transposed = isinstance(module, torch.nn.ConvTranspose2d)
        found.append((name, inputs[0].shape, module.weight.shape, transposed, output.numel()))

    model = UNet(width=16)
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            module.register_forward_hook(partial(note, name))
    model(torch.zeros(2, 3, 64, 64))
    assert [(*layer[:4], layer.outputs) for layer in layers] == found


def test_each_pass_of_a_layer_is_what_autograd_computes():
    first, second, *_ = ceiling.convolutions(4, 32, 1)
    up = next(layer for layer in ceiling.convolutions(4, 32, 1) if layer.transposed)
    assert set(first.passes(CPU)) == {"forward", "weight gradient"}
    exact = Compute(torch.device("cpu"), torch.float64)  # so that rounding decides nothing
    for layer, ways in ((second, {"channels last", "contiguous", "products"}), (up, None)):
        calls = layer.passes(exact)
        assert set(calls["weight gradient"]) == (ways or {"channels last"})
        (forward,), (input_gradient,) = (calls[p].values() for p in PASSES[:2])
        x, w = (t.clone().requires_grad_() for t in forward.args)
        y = torch.nn.functional.conv2d(x, w, padding=w.shape[-1] // 2)
        torch.testing.assert_close(forward(), y)
        assert y.numel() == layer.outputs
        y.backward(input_gradient.args[0])
        torch.testing.assert_close(input_gradient(), x.grad)
        for weight_gradient in calls["weight gradient"].values():
            torch.testing.assert_close(weight_gradient(), w.grad)


def test_the_plain_loop_learns_from_files(dataset, tmp_path):
    pairs = loops.jpegs(dataset, dataset.ids[:64], tmp_path)
    assert len(pairs) == 64
    image, mask = JpegFolder(pairs, 32)[0]
    assert image.shape == (3, 32, 32)
    assert mask.dtype == torch.uint8
    assert (image - dataset[0][0] / 255).abs().mean() < 0.05  # resized differently, and JPEG
    plain = PlainLoop(pairs[:16], 4, 32, 8, torch.device("cpu"), lr=0.02)
    steps = plain.steps()
    losses = [next(steps) for _ in range(12)]
    assert np.mean(losses[-2:]) < np.mean(losses[:2]) - 0.05
    assert np.isfinite(plain.validate())


def test_our_loop_goes_on_into_the_next_epoch(dataset):
    config = training.settings(4, 32, 8)
    data = load_parts(dataset, load_split("phantom-240").limited(64), CPU.device)["train"]
    learner = Learner(config, get_scheme("trimap"), CPU)
    before = learner.model.output.weight.detach().clone()
    steps = loops.our_steps(learner, data)
    losses = [next(steps) for _ in range(9)]  # into the second epoch
    assert all(loss.shape == (3,) for loss in losses)
    assert (learner.model.output.weight - before).abs().max() > 0


@pytest.mark.parametrize("loop", training.TRAINING)
def test_steps_are_in_training_mode_after_a_turn_has_validated(loop, tmp_path):
    seen = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: seen.append(module.training) if isinstance(module, UNet) else None
    )
    try:
        one = loops.Training(loop, "phantom", training.settings(4, 32, 8), CPU, tmp_path)
        assert one.turn(0.001).keys() == {"training", "validation"}
        assert seen == [True, False, False]  # a step; two batches of validation
        one.profile()
    finally:
        hook.remove()
    assert seen[3:] == [True]


def test_the_runtimes_that_are_compared_exist():
    names = {name.format(precision) for name in COMPARED for precision in ("fp32", "bf16")}
    assert names <= FORWARDS.keys()


def test_both_loops_learn_the_same_from_the_same_start(tmp_path):
    """Weights and frames are equal; in fp32 only the way frames are resized differs."""
    short = {"epochs": 2, "lr": 0.01, "device": "cpu", "width": 4, "image_size": 32, "limit": 24}
    config = RunConfig.from_recipe("card", dataset="phantom", **short)
    table = equivalence.compare_loops(config, tmp_path / "e.csv", seeds=(0, 1), steps=4)
    assert pd.read_csv(tmp_path / "e.csv").shape == table.shape
    losses = table[table["what"] == "loss"].pivot(index=["seed", "at"], columns="loop")["value"]
    assert len(losses) == 8
    assert (losses["ours, fp32"] - losses["plain"]).abs().max() < 0.005
    assert losses.loc[0].ne(losses.loc[1]).all(axis=None)
    found = agreement.differences(table)
    assert found[["what", "at", "seeds"]].values.tolist() == [
        ["loss", 4, 2],
        ["polyp_dice", 1, 2],
        ["polyp_dice", 2, 2],
    ]
    first = found.iloc[0]
    both = table[(table["what"] == "loss") & (table["at"] == 4)].pivot(index="seed", columns="loop")
    delta = (both["value"]["ours"] - both["value"]["plain"]).to_numpy()
    assert first["difference"] == pytest.approx(delta.mean())
    half = 6.313752 * abs(delta[0] - delta[1]) / 2  # Student's t, 0.95, one degree of freedom
    assert first["high"] - first["difference"] == pytest.approx(half, rel=1e-5)
    assert first["rounding"] < 0.02
    assert agreement.equivalence_findings(found)[1].endswith("seeds): within ±0.02.")


def test_the_order_of_the_plain_loop_is_ours_in_each_epoch():
    order = equivalence._OurOrder(3, 10)
    for epoch in range(2):
        assert list(order) == epoch_order(3, epoch, 10).tolist()
    assert list(equivalence._OurOrder(4, 10)) != epoch_order(3, 0, 10).tolist()


def test_one_seed_is_too_few_for_an_interval(tmp_path):
    with pytest.raises(ValueError, match="an interval needs at least two"):
        equivalence.compare_loops(training.settings(4, 32, 8), tmp_path / "e.csv", seeds=(0,))


def test_a_benchmark_is_written_and_can_be_read(measured):
    bench = pd.read_csv(measured / "bench.csv")
    assert list(bench.columns) == COLUMNS
    groups = {"machine", "layer", "training", "profile", "data", "inference", "frame", "cost"}
    assert set(bench["group"]) == groups
    assert (bench["low"] <= bench["value"]).all()
    assert (bench["value"] <= bench["high"]).all()
    what = set(bench.loc[bench["group"] == "training", "what"])
    measures = {"training", "validation", "first batch", "peak memory"}
    assert {f"{loop}, {m}" for loop in ("plain", "ours") for m in measures} < what
    assert "cpu" in json.loads((measured / "machine.json").read_text())["device"]
    (row,) = speed_table(bench).itertuples()
    assert row.Index == 4
    assert row.ratio == pytest.approx(row.ours / row.plain)
    assert row.tflops == pytest.approx(row.share * row.ceiling)
    kinds = operation_table(bench)
    assert list(kinds.columns) == [4]
    assert (
        kinds.loc[["convolution, forward", "convolution, gradients", "batch norm"]]
        .gt(0)
        .all(axis=None)
    )
    table = layer_table(bench, 4)
    assert len(table) == 24
    assert table[list(PASSES)].iloc[1:].gt(0).all(axis=None)
    assert np.isnan(table["input gradient"].iloc[0])  # it is not needed


def test_a_whole_frame_has_a_row_per_runtime(measured):
    table = frame_speed_table(pd.read_csv(measured / "bench.csv")).reset_index()
    places = table[["width", "image_size", "runtime"]].values.tolist()
    assert places == [[4, 32, name] for name in (CARD, "ours, PyTorch fp32")]
    assert (table["frames_per_second"] * (table["predict"] + table["mask"])).tolist() == (
        pytest.approx([1000, 1000])
    )


def test_the_fastest_runtime_of_each_run_that_costs_little_is_named():
    speeds = {"a": 20, "b": 30, f"c{NOT_HELD}": 99, "d": 40, "e": 50}
    rows = [("frame", f"{r}: {p}", 4, 32, 500 / f) for r, f in speeds.items() for p in _PARTS]
    bench = pd.DataFrame(rows, columns=["group", "what", "width", "image_size", "value"])
    columns = ["run", "width", "image_size", "runtime", "dice", "delta", "low", "high"]
    deltas = {"a": (0, 0, 0), "b": (-0.005, -0.008, 0.001), "c": (0, 0, 0)}
    deltas |= {"d": (-0.005, -0.012, 0.001), "e": (-0.02, -0.03, -0.01)}
    dice = [("one", 4, 32, name, 0.5, *delta) for name, delta in deltas.items()]
    table = dice_table(bench, pd.DataFrame(dice, columns=columns))
    assert table["frames_per_second"].fillna(0).tolist() == pytest.approx([20, 30, 0, 40, 50])
    (said,) = live_findings(table)
    assert "b is the fastest with 30.0 whole frames per second (enough for live" in said
    assert "Dice -0.0050 [-0.0080, +0.0010]" in said
    (said,) = live_findings(table[table["runtime"] == "a"])
    assert "20.0 whole frames per second (too few for live video at 25)" in said


def test_figures_of_a_benchmark(measured):
    bench = pd.read_csv(measured / "bench.csv")
    rates = speed.training_rates(bench)
    assert [axes.get_title() for axes in rates.axes] == ["training", "validation"]
    kinds = operation_table(bench)
    drawn = speed.operation_shares(kinds).axes[0].patches
    assert sum(bar.get_width() for bar in drawn) == pytest.approx(100)
    layers = speed.layer_times(layer_table(bench, 4))
    assert len(layers.axes[0].get_yticklabels()) == 24
    points = _law_points((0.1, 2e-12, 3e-10), (300, 1e-5, 1e-6))
    law = speed.cost_law(points, cost.fit_cost(points))
    for axes in law.axes:
        xy = [line.get_xydata()[0] for line in axes.lines if len(line.get_xydata()) == 1]
        assert np.allclose([x for x, _ in xy], [y for _, y in xy], rtol=1e-3)


def _law_points(step, memory):
    rows = []
    for point in [*POINTS, (16, 64, 4), (16, 32, 8)]:
        place = dict(zip(("width", "image_size", "batch"), point, strict=True))
        space = [1, cost.parameters(point[0]), cost.activations(*point)]
        rows.append({"what": "step", **place, "value": np.dot(step, cost.work(*point))})
        rows.append({"what": "memory", **place, "value": np.dot(memory, space)})
    return pd.DataFrame(rows)


def test_the_law_is_recovered_from_points_that_follow_it():
    step, memory = (0.02, 2e-12, 3e-9), (300, 1e-5, 1e-6)
    model = cost.fit_cost(_law_points(step, memory))
    assert model.step == pytest.approx(step, rel=1e-6)
    assert model.memory == pytest.approx(memory, rel=1e-6)
    assert max(model.error) < 1e-9
    seconds = model.step_seconds(16, 64, 4)
    assert model.hours(16, 64, 4, frames=10, epochs=20) == pytest.approx(60 * seconds / 3600)


def test_two_points_are_too_few_for_the_law():
    with pytest.raises(ValueError, match="2 points of step: three are needed"):
        cost.fit_cost(_law_points((1, 1, 1), (1, 1, 1)).head(4))


def test_a_data_set_that_is_too_small_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(loops, "FRAMES", 1000)
    with pytest.raises(ValueError, match=r"phantom has \d+ frames; the loops take 1016: try"):
        benchmark("phantom", tmp_path / "none", [4], 32)
    assert not (tmp_path / "none").exists()


def test_the_parameters_are_those_of_the_card():
    assert cost.parameters(64) == 31_056_163


def test_a_measurement_is_found_by_folder_or_not_at_all(measured):
    assert find_benchmark(str(measured)) == measured
    with pytest.raises(RunError, match="python -m polyp_utils bench"):
        find_benchmark("no/such/folder")


def test_the_notebook_reads_what_was_measured(measured, tmp_path):
    papermill = pytest.importorskip("papermill")
    folder = shutil.copytree(measured, tmp_path / "measured")
    points = _law_points((0.1, 2e-12, 3e-10), (300, 1e-5, 1e-6)).assign(group="cost")
    bench = pd.read_csv(folder / "bench.csv")
    pd.concat([bench[bench["group"] != "cost"], points]).to_csv(folder / "bench.csv")
    loops = ("plain", "ours", "ours, fp32")
    places = [("loss", 1), ("polyp_dice", 1), ("polyp_dice", 2)]
    scores = [(s, loop, *place, 0.5 + s / 9) for s in (0, 1) for loop in loops for place in places]
    pd.DataFrame(scores, columns=equivalence.COLUMNS).to_csv(folder / "equivalence.csv")
    (folder / "runtimes.csv").write_text(
        "run,width,image_size,runtime,dice,delta,low,high\na,4,32,b,0.5,-0.00123,-0.01,0.01\n"
    )
    out = tmp_path / "8.ipynb"
    papermill.execute_notebook(NOTEBOOK, out, {"folder": str(folder)}, progress_bar=False)
    said = out.read_text()
    assert "difference +0.0000 [+0.0000, +0.0000] (90 %, 2 seeds): within ±0.02." in said
    assert "The largest difference of a mean Dice is 0.00123." in said
    assert "times the plain loop" in said
    assert "The law misses the measured steps by at most 0 %" in said
    assert said.count("image/png") == 4


def test_the_notebook_does_without_what_was_not_measured(measured, tmp_path, monkeypatch):
    """Runs its cells here; the test above shows that papermill runs it."""
    nbformat, display = (pytest.importorskip(name) for name in ("nbformat", "IPython.display"))
    bench = pd.read_csv(measured / "bench.csv")
    missing = ["cost", "layer", "inference", "frame"]
    bench[~bench["group"].isin(missing)].to_csv(tmp_path / "bench.csv", index=False)
    (tmp_path / "machine.json").write_text((measured / "machine.json").read_text())
    shown, names = [], {}
    monkeypatch.setattr(display, "display", lambda *things: shown.extend(things))
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
        if "parameters" in cell.metadata.get("tags", []):
            names["folder"] = str(tmp_path)
    said = [thing.data for thing in shown if isinstance(thing, display.Markdown)]
    assert [text for text in said if text.startswith("Too few points were measured for a law")]
    assert len([text for text in said if text.startswith("Not measured (")]) == 2
    assert said.count("Not measured.") == 3  # layers, inference, frames
    assert any("– % of what its convolutions alone reach (–)" in text for text in said)
    assert not {"law", "by_layer"} & names.keys()
