"""Intervals against scipy's bootstrap, normal theory and what must hold for any sample."""

import numpy as np
import pytest
from scipy import stats

from polyp_utils.stats import Interval, mean_interval, spearman_interval

NAN = float("nan")


def skewed(n=40):
    return np.random.default_rng(1).lognormal(size=n)


def pairs(n=40, noise=0.7):
    """Related pairs, with ties."""
    x, error = np.random.default_rng(2).standard_normal((2, n))
    return x.round(1), (x + noise * error).round(1)


def scipy_interval(values, method):
    options = {"n_resamples": 20_000, "rng": np.random.default_rng(7), "method": method}
    return stats.bootstrap((values,), np.mean, **options).confidence_interval


def test_mean_interval_is_scipys_bca_and_not_the_percentile_interval():
    found = mean_interval(skewed())
    assert found.mean == pytest.approx(skewed().mean())
    close = pytest.approx((found.low, found.high), abs=0.03 * (found.high - found.low))
    assert tuple(scipy_interval(skewed(), "BCa")) == close
    assert tuple(scipy_interval(skewed(), "percentile")) != close


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_mean_interval_of_a_large_normal_sample_is_that_of_normal_theory(confidence):
    values = np.random.default_rng(3).normal(5, 2, 500)
    found = mean_interval(values, confidence)
    expected = stats.norm.interval(confidence, values.mean(), stats.sem(values))
    tolerance = 0.05 * (expected[1] - expected[0])
    assert (found.low, found.high) == pytest.approx(expected, abs=tolerance)


def test_mean_interval_moves_and_scales_with_the_values():
    plain, moved = mean_interval(skewed()), mean_interval(3 * skewed() - 2)
    assert moved[:3] == pytest.approx([3 * bound - 2 for bound in plain[:3]])


def test_the_order_of_the_values_does_not_matter():
    assert mean_interval(skewed()) == mean_interval(skewed()[::-1])


def test_nan_leaves_the_mean_and_is_not_counted():
    values = [NAN, 0.2, 0.9, NAN, 0.4]
    assert mean_interval(values) == mean_interval(v for v in (0.2, 0.9, 0.4))
    assert mean_interval(values).n == 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (NAN, NAN, NAN, 0)),
        ([NAN], (NAN, NAN, NAN, 0)),
        ([0.3, NAN], (0.3, NAN, NAN, 1)),
        ([0.25] * 3, (0.25, 0.25, 0.25, 3)),
        ([1, 0], (0.5, 0, 1, 2)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_mean_interval_of_few_or_equal_values(values, expected):
    assert mean_interval(values) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    "interval", [mean_interval, lambda x, **k: spearman_interval(x, x**2, **k)]
)
def test_an_interval_follows_from_its_seed(interval):
    values = np.random.default_rng(0).standard_normal(20)
    assert interval(values) == interval(values, seed=0) != interval(values, seed=1)


def test_an_interval_as_text():
    assert str(Interval(0.91234, 0.9, 0.95555, 100)) == "0.912 [0.900, 0.956]"


def test_spearman_interval_against_scipy():
    x, y = pairs()
    found = spearman_interval(x, y)
    assert found.mean == pytest.approx(stats.spearmanr(x, y).statistic)
    assert 0 < found.low < found.mean < found.high < 1
    expected = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=999,
        method="percentile",
        rng=np.random.default_rng(7),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.06)


def test_spearman_interval_narrows_with_less_confidence_and_flips_with_the_sign():
    x, y = pairs()
    wide, narrow = spearman_interval(x, y), spearman_interval(x, y, confidence=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    flipped = spearman_interval(x, -y)
    assert flipped[:3] == pytest.approx((-wide.mean, -wide.high, -wide.low))


@pytest.mark.parametrize(("sign", "rho"), [(1, 1), (-1, -1)])
def test_monotone_data_have_correlation_one_without_doubt(sign, rho):
    x = np.arange(10.0)
    found = spearman_interval(x, sign * np.exp(x))
    assert found == pytest.approx((rho, rho, rho, 10))


def test_pairs_with_nan_are_left_out():
    x, y = pairs()
    with_nan = spearman_interval([*x, NAN, 1.0], [*y, 1.0, NAN])
    assert with_nan == spearman_interval(x, y)
    assert with_nan.n == len(x)


@pytest.mark.parametrize(
    ("x", "y", "n"),
    [
        ([1, 1, 1, 1], [1, 2, 3, 4], 4),
        ([1, 2, 3, 4], [0, 0, 0, 0], 4),
        ([1, 2, 3], [1, 2, NAN], 2),
        ([], [], 0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_spearman_of_a_constant_or_of_too_few_pairs_is_nan(x, y, n):
    assert spearman_interval(x, y) == pytest.approx((NAN, NAN, NAN, n), nan_ok=True)


def test_one_odd_pair_gives_no_bounds():
    rho = spearman_interval([0] * 99 + [1], range(100))
    assert rho.mean > 0
    assert np.isnan([rho.low, rho.high]).all()
