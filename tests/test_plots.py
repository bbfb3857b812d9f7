"""Figures hold the numbers that they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from polyp_utils import plots
from polyp_utils.analyse.dice_drivers import DiceModel
from polyp_utils.analyse.failure_types import BANDS, OBJECTS
from polyp_utils.analyse.gallery import Frame
from polyp_utils.data.labels import POLYP
from polyp_utils.score.intervals import RESAMPLES, Interval, mean_interval

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def closed_figures():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def drawn(figure):
    """The figure's axes, once it has been drawn."""
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    return figure.axes


def image_frame(title="a", prediction=True, probability=False):
    truth = np.zeros((20, 30), bool)
    truth[5:10, 5:15] = True
    shown = np.roll(truth, 3) if prediction else None
    p_polyp = RNG.uniform(size=(20, 30)) if probability else None
    return Frame(title, RNG.integers(255, size=(20, 30, 3), dtype=np.uint8), truth, shown, p_polyp)


def with_images(axes):
    return [one for one in axes if one.images]


def texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


# --- outlines and sheets -------------------------------------------------------------------------


def test_no_outline_of_an_empty_mask():
    axes = plt.figure().subplots()
    plots.outline(axes, np.zeros((4, 6), bool), "red")
    assert not axes.has_data()


@pytest.mark.parametrize(
    ("rows", "columns", "box"),
    [
        (slice(1, 3), slice(2, 4), (1.5, 0.5, 3.5, 2.5)),
        (slice(None), slice(None), (-0.5, -0.5, 5.5, 3.5)),  # the whole frame: along its edge
        (slice(0, 2), slice(4, 6), (3.5, -0.5, 5.5, 1.5)),
    ],
)
def test_an_outline_is_closed_and_runs_between_pixels(rows, columns, box):
    mask = np.zeros((4, 6), bool)
    mask[rows, columns] = True
    axes = plt.figure().subplots()
    plots.outline(axes, mask, "red")
    (path,) = axes.collections[0].get_paths()
    (polygon,) = path.to_polygons(closed_only=True)
    assert (polygon[0] == polygon[-1]).all()
    assert (*polygon.min(axis=0), *polygon.max(axis=0)) == box


@pytest.mark.parametrize(("count", "columns", "grid"), [(1, 6, 6), (5, 3, 6), (4, 2, 4)])
def test_a_sheet_shows_every_frame_with_its_title(count, columns, grid):
    frames = [image_frame(f"frame {i}")._replace(dataset="a set") for i in range(count)]
    figure = plots.sheet(frames, "worst first", columns)
    assert figure.get_label() == "a set"  # tells `publish` whether it may be shown
    axes = drawn(figure)
    assert len(axes) == grid
    assert [one.get_title() for one in with_images(axes)] == [f.title for f in frames]
    for one, frame in zip(axes, frames, strict=False):
        assert (one.images[0].get_array() == frame.image).all()
        assert len(one.collections) == 2  # truth and prediction
        assert (one.get_xlim(), one.get_ylim()) == ((-0.5, 29.5), (19.5, -0.5))
    assert figure.get_suptitle() == "worst first"
    assert texts(figure) == ["truth", "prediction"]


def test_a_sheet_without_predictions_lists_none_in_its_legend():
    figure = plots.sheet([image_frame(prediction=False)], "t")
    assert len(drawn(figure)[0].collections) == 1
    assert texts(figure) == ["truth"]


def test_two_systems_on_a_sheet_have_their_names_in_the_legend():
    second = np.ones((20, 30), bool)
    frames = [image_frame()._replace(second=second), image_frame()]
    figure = plots.sheet(frames, "t", names=("one", "other"))
    first, last = drawn(figure)[:2]
    assert [len(first.collections), len(last.collections)] == [3, 2]
    assert texts(figure) == ["truth", "one", "other"]


def test_a_probability_map_takes_a_second_panel():
    frames = [image_frame(f"frame {i}", probability=True) for i in range(2)]
    panels = with_images(drawn(plots.sheet(frames, "t", columns=4)))
    titles = [one.get_title() for one in panels]
    assert titles == ["frame 0", "P(polyp)", "frame 1", "P(polyp)"]
    assert (panels[3].images[0].get_array() == frames[1].probability).all()
    assert panels[3].images[0].get_clim() == (0, 1)


# --- the data ------------------------------------------------------------------------------------


def test_frame_sizes():
    frames = pd.DataFrame(
        {
            "width": [600, 600, 700, 720],
            "height": [500, 500, 500, 576],
            "area_share": [0.1, 0.2, 0.3, 0.05],
            "part": ["train", "train", "val", "test"],
        }
    )
    left, right = drawn(plots.frame_sizes(frames))
    points = left.collections[0].get_offsets()
    assert np.asarray(points).tolist() == frames[["width", "height"]].to_numpy().tolist()
    assert (left.get_xlabel(), left.get_ylabel()) == ("width (px)", "height (px)")
    assert left.get_title() == "3 different sizes among 4 frames"
    assert right.get_title() == "Median polyp area 15.0 %"
    assert len(right.lines) == 3
    steps = {tuple(x[np.isfinite(x)]) for x in (line.get_xdata() for line in right.lines)}
    assert steps == {(10, 20), (30,), (5,)}


def test_grey_levels_has_a_bar_per_level():
    counts = np.zeros(256, int)
    counts[[0, 3, 250, 255]] = 600, 30, 20, 350
    (axes,) = drawn(plots.grey_levels(counts, 12))
    assert [bar.get_height() for bar in axes.patches] == counts.tolist()
    assert axes.get_title() == "5.00 % of mask pixels are neither 0 nor 255 (12 masks)"
    assert axes.get_yscale() == "log"


def test_position_map_is_in_per_cent():
    share = np.array([[0, 0.25], [0.5, 1]])
    axes, colours = drawn(plots.position_map(share, 40))
    assert (axes.images[0].get_array() == 100 * share).all()
    assert axes.get_title() == "Where polyps are (40 frames)"
    assert colours.get_ylabel() == "frames with a polyp here (%)"


def test_class_shares_has_a_bar_per_scheme_and_class():
    shares = pd.DataFrame(
        {
            "scheme": ["binary", "binary", "trimap", "trimap", "trimap"],
            "class": ["background", "polyp", "background", "polyp", "boundary"],
            "share": [0.8, 0.2, 0.8, 0.17, 0.03],
        }
    )
    (axes,) = drawn(plots.class_shares(shares))
    bars = {
        round(bar.get_y() + bar.get_height() / 2): bar.get_width()
        for bar in axes.patches
        if isinstance(bar, Rectangle) and bar.get_width() > 0
    }
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == (shares["scheme"] + ": " + shares["class"]).tolist()
    assert [bars[row] for row in range(5)] == pytest.approx((100 * shares["share"]).tolist())
    assert "3 %" in {text.get_text() for text in axes.texts}


def test_network_batch_shows_images_above_their_targets():
    images, targets = RNG.uniform(size=(3, 16, 24, 3)), RNG.integers(3, size=(3, 16, 24))
    figure = plots.network_batch(images, targets, ("background", "polyp", "boundary"))
    axes = drawn(figure)
    shown = [one.images[0].get_array() for one in axes]
    assert len(shown) == 6
    assert all((a == b).all() for a, b in zip(shown, [*images, *targets], strict=True))
    assert texts(figure) == ["background", "polyp", "boundary"]
    drawn_colours = axes[3].images[0].to_rgba(np.array([[0, 1, 2]]))[0].tolist()
    handles = figure.legends[0].legend_handles
    assert [plt.matplotlib.colors.to_rgba(h.get_color()) for h in handles] == [
        pytest.approx(colour) for colour in map(tuple, drawn_colours)
    ]
    assert "24×16 px" in figure.get_suptitle()


# --- training and scores -------------------------------------------------------------------------


def history():
    parts = {f"{part}_{name}" for part in ("train", "val") for name in ("loss", "ce", "dice_loss")}
    values = {name: RNG.uniform(size=4) for name in sorted(parts)}
    return pd.DataFrame(
        {
            "epoch": [1, 2, 3, 4],
            **values,
            "val_polyp_dice": [np.nan, 0.6, 0.8, 0.7],
            "val_dice_background": [0.9, 0.91, 0.92, 0.93],
            "val_dice_boundary": [0.1, 0.2, 0.3, 0.4],
            "lr": [1e-3, 1e-3, 5e-4, 5e-4],
        }
    )


def test_curves_mark_the_kept_epoch():
    table = history()
    losses, scores, rates = drawn(plots.training_curves(table, 3))
    by_label = {line.get_label(): line for line in (*losses.lines, *scores.lines)}
    assert by_label["val dice loss"].get_ydata() == pytest.approx(table["val_dice_loss"])
    assert by_label["train ce"].get_ydata() == pytest.approx(table["train_ce"])
    labels = [text.get_text() for text in scores.get_legend().get_texts()]
    assert labels == ["class background", "class boundary", POLYP]
    (star,) = [line for line in scores.lines if line.get_marker() == "*"]
    assert (*star.get_xdata(), *star.get_ydata()) == (3, 0.8)
    assert scores.get_title() == "Validation: epoch 3 is kept, polyp Dice 0.800"
    assert rates.lines[0].get_ydata().tolist() == table["lr"].tolist()
    assert [one.get_xlabel() for one in (losses, scores, rates)] == ["epoch"] * 3


def test_the_loss_terms_are_drawn_as_they_were_measured():
    missed = pd.DataFrame({"share": [0.01, 0.3], "cross-entropy": [0.05, 1.4], "Dice loss": 0.98})
    pulls = {
        text: pd.DataFrame({"chance": [0.1, 0.9], "cross-entropy": [0.9, 0.1], "Dice loss": pull})
        for text, pull in (("small", [5, 1]), ("large", [0.5, 0.1]))
    }
    cost, pull = drawn(plots.loss_terms(missed, pulls))
    lines = {line.get_label(): line.get_ydata().tolist() for line in cost.lines}
    assert lines == {"cross-entropy": [0.05, 1.4], "Dice loss": [0.98, 0.98]}
    assert cost.lines[0].get_xdata().tolist() == [1, 30]
    lines = {line.get_label(): line.get_ydata().tolist() for line in pull.lines}
    assert lines == {
        "cross-entropy, any polyp": [0.9, 0.1],
        "Dice loss, small": [5, 1],
        "Dice loss, large": [0.5, 0.1],
    }
    assert cost.get_title().startswith("2 polyps overlooked")


def test_the_bootstrap_histogram_shows_the_resamples_and_the_interval_of_the_score():
    values, groups = pd.Series(RNG.uniform(size=30)), pd.Series(range(30))
    (axes,) = drawn(plots.bootstrap_histogram(values, groups))
    *bars, band = axes.patches
    assert sum(bar.get_height() for bar in bars) == RESAMPLES
    expected = mean_interval(values)
    assert band.get_x() == pytest.approx(expected.low)
    assert band.get_x() + band.get_width() == pytest.approx(expected.high)
    assert axes.lines[0].get_xdata() == pytest.approx([expected.mean] * 2)
    assert axes.get_title() == f"Resamples of 30 frames: mean Dice {expected}"


def test_scores_by_threshold_have_a_line_each_and_mark_one_half():
    table = pd.DataFrame({"threshold": [0.2, 0.5], "dice": [0.7, 0.8], "precision": [0.6, 0.9]})
    axes = plots.scores_by_threshold(table.assign(recall=[0.95, 0.75])).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert [list(lines[name]) for name in ("dice", "precision", "recall")] == [
        [0.7, 0.8],
        [0.6, 0.9],
        [0.95, 0.75],
    ]
    assert axes.lines[3].get_xdata() == [0.5, 0.5]


def test_score_distributions_show_every_image_and_the_mean_with_its_interval():
    values = {POLYP: [0.2, 0.9, 0.8, np.nan], "background": [0.99, 0.95, 1.0, 0.97]}
    groups = dict(zip("abcd", (0, 1, 0, 2), strict=True))
    tables = [pd.DataFrame({"id": [*groups], "class": c, "dice": d}) for c, d in values.items()]
    per_image = pd.concat(tables, ignore_index=True)
    (axes,) = drawn(plots.score_distributions(per_image, groups))
    dots, bars = axes.collections[:2], axes.collections[2:]
    means = [line for line in axes.lines if line.get_marker() == "|"]
    for row, (name, scores) in enumerate(values.items()):
        expected = mean_interval(scores, groups=groups.values())
        finite = [score for score in scores if score == score]
        shown = np.ma.compressed(np.ma.masked_invalid(dots[row].get_offsets()[:, 0]))
        assert sorted(shown) == sorted(finite)
        ((start, end),) = bars[row].get_segments()
        assert (start[0], end[0], start[1]) == pytest.approx((expected.low, expected.high, row))
        assert means[row].get_xdata()[0] == pytest.approx(np.mean(finite))
        assert axes.texts[row].get_text() == f"{expected}, n = {len(finite)}"
        assert axes.get_yticklabels()[row].get_text() == name


def test_confusion_is_in_per_cent_of_the_true_class():
    matrix = np.array([[900_000, 100_000, 0], [50_000, 150_000, 0], [0, 0, 0]])
    axes, colours = drawn(plots.confusion(matrix, ("background", "polyp", "unused")))
    shown = np.ma.filled(axes.collections[0].get_array().astype(float), np.nan).reshape(3, 3)
    np.testing.assert_allclose(shown, [[90, 10, 0], [25, 75, 0], [np.nan] * 3])
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["background\n1.00 Mpx", "polyp\n0.20 Mpx", "unused\n0.00 Mpx"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert colours.get_ylabel() == "% of the true class's pixels"


# --- errors --------------------------------------------------------------------------------------


def test_risk_coverage_has_a_line_per_score_and_one_for_the_best():
    table = pd.DataFrame({"coverage": [0.5, 1], "dice": [0.8, 0.6], "best": [0.9, 0.6]})
    axes = plots.risk_coverage({"one": table, "other": table}).axes[0]
    labels = [line.get_label() for line in axes.lines]
    assert labels == ["one", "other", "if ranked by true Dice", "all frames"]
    assert axes.lines[2].get_ydata().tolist() == [0.9, 0.6]


def test_polyps_are_counted_by_kind_and_outcome():
    table = pd.DataFrame(
        {
            "kind": ["neoplastic", "neoplastic", "other", "other"],
            "predicted": ["neoplastic", "missed", "neoplastic", "other"],
        }
    )
    axes = plots.kind_confusion(table, ["neoplastic", "other"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["1", "0", "1", "1", "1", "0"]
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert columns == ["neoplastic", "other", "missed"]
    assert axes.get_title() == "4 true polyps, by kind"


def test_augmentations_show_each_image_with_its_mask():
    images, masks = np.zeros((7, 8, 8, 3)), np.ones((7, 8, 8), bool)
    figure = plots.augmentations(images, masks, "seven")
    assert len(with_images(figure.axes)) == 7
    assert len(figure.axes) == 12


def test_rim_widths_show_the_study():
    study = pd.DataFrame(
        {
            "rim_px": [1, 3],
            "share": [0.01, 0.034],
            "rim_dice_1": [0.2, 0.6],
            "polyp_dice_1": [0.97, 0.97],
        }
    )
    axes = plots.rim_widths(study).axes[0]
    assert axes.lines[0].get_ydata().tolist() == [0.2, 0.6]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1\n1.0 %", "3\n3.4 %"]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {
        "rim, shifted by 1 px",
        "polyp, shifted by 1 px",
    }


@pytest.mark.parametrize("features", [{"area": "size"}, {"area": "size", "light": "brightness"}])
def test_dice_against_has_a_panel_per_feature(features):
    area = np.arange(20.0)
    table = pd.DataFrame({"dice": area / 20, "area": area[::-1], "light": RNG.uniform(size=20)})
    table.loc[4, "area"] = np.nan
    figure = plots.dice_against(table, features)
    axes = drawn(figure)
    assert [one.get_xlabel() for one in axes] == list(features.values())
    points = np.asarray(axes[0].collections[0].get_offsets())
    expected = table.dropna(subset="area").sort_values("area")[["area", "dice"]].to_numpy()
    assert points.tolist() == expected.tolist()
    medians = axes[0].lines[0].get_ydata()
    assert (np.diff(medians) <= 0).all()  # Dice falls with the area here
    assert axes[0].get_ylabel() == "polyp Dice, original size"
    assert "20 images" in figure.get_suptitle()


CEILING = Interval(0.94, 0.92, 0.96, 17)


@pytest.mark.parametrize("ceiling", [None, CEILING])
def test_the_ceiling_is_a_line_in_every_panel_or_none(ceiling):
    table = pd.DataFrame({"dice": np.arange(20) / 20, "a": np.arange(20.0), "b": np.arange(20.0)})
    one = pd.DataFrame({"stratum": ["x"], "mean": [0.5], "low": [0.4], "high": [0.6], "n": [12]})
    for figure in (
        plots.dice_against(table, {"a": "a", "b": "b"}, ceiling),
        plots.strata(dict.fromkeys("abcde", one), ceiling),
    ):
        for axes in drawn(figure):
            levels = [line.get_ydata() for line in axes.lines if line.get_linestyle() == "--"]
            assert [list(y) for y in levels] == ([[0.94, 0.94]] if ceiling else [])
        said = [text for text in texts(figure) if "annotations" in text] if figure.legends else []
        expected = "two annotations of one frame agree at 0.940 [0.920, 0.960] (17 frames)"
        assert (expected in said) == (ceiling is not None)


def test_effects_are_drawn_with_their_intervals():
    table = pd.DataFrame(
        {
            "property": ["an overlay", "sharpness of the frame"],
            "effect": [-0.2, 0.01],
            "low": [-0.3, -0.05],
            "high": [-0.1, 0.07],
        }
    )
    axes = drawn(plots.effects(DiceModel(table, 0.4, 100, 2)))[0]
    segments = [line.get_segments()[0][:, 0].tolist() for line in axes.collections]
    assert segments == [[-0.3, -0.1], [-0.05, 0.07]]
    assert [line.get_xdata().tolist() for line in axes.lines[:2]] == [[-0.2], [0.01]]
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert ticks == ["an overlay", "sharpness of the frame, per SD"]
    assert "100 frames, adjusted R² 0.40" in axes.get_title()


def test_error_types_are_drawn_as_shares_and_counts():
    rows = [
        {"frames": frames, "band": band, "share": share, "low": 0, "high": 1, "n": 4, "wrong": 0.1}
        for frames, shares in (("all", (0.4, 0.3, 0.2, 0.1)), ("rest", (np.nan,) * 4))
        for band, share in zip(BANDS.values(), shares, strict=True)
    ]
    counts = pd.DataFrame([dict(zip(OBJECTS, (3, 1, 0, 0, 2, 5), strict=True))] * 2)
    left, right = drawn(plots.error_types(pd.DataFrame(rows), counts))
    upper = [bar for bar in left.patches if bar.get_y() > 0]
    assert [bar.get_width() for bar in upper] == pytest.approx([40, 30, 20, 10])
    assert [bar.get_x() for bar in upper] == pytest.approx([0, 40, 70, 90])
    assert [bar.get_width() for bar in right.patches] == [6, 2, 0, 0, 4, 10]
    assert right.get_title() == "Outcomes of 8 polyps in 2 frames"


def test_strata_show_means_with_their_intervals():
    small = pd.DataFrame(
        {
            "stratum": ["small", "large", "one"],
            "mean": [0.6, 0.9, 0.7],
            "low": [0.4, 0.85, np.nan],
            "high": [0.7, 0.92, np.nan],
            "n": [10, 12, 1],
        }
    )
    axes = drawn(plots.strata({"by size": small, "by overlay": small[:2]}))
    assert [one.get_title() for one in axes] == ["by size", "by overlay"]
    points, _, (bars,) = axes[0].containers[0]
    assert points.get_ydata().tolist() == [0.6, 0.9]
    hollow = axes[0].lines[-1]  # one frame: no interval
    assert (hollow.get_ydata().tolist(), hollow.get_markerfacecolor()) == ([0.7], "white")
    ends = [sorted(segment[:, 1]) for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[0.4, 0.7], [0.85, 0.92]])
    labels = [label.get_text() for label in axes[0].get_xticklabels()]
    assert labels == ["small\nn=10", "large\nn=12", "one\nn=1"]
