"""Intervals against SciPy's bootstrap, normal theory and properties that always hold."""

import numpy as np
import pytest
from scipy import stats

from polyp_utils.score.differences import compare_paired, compare_unpaired, holm
from polyp_utils.score.intervals import (
    BCA,
    NONE,
    PERCENTILE,
    RESAMPLES,
    Interval,
    bootstrap_means,
    left_tail,
    mean_interval,
    percentile_interval,
    ratio_interval,
    resamples,
    seeds_interval,
    spearman_interval,
)

NAN = float("nan")


def skewed(n=40):
    return np.random.default_rng(1).lognormal(size=n)


def pairs(n=40, noise=0.7):
    """Correlated pairs, with ties."""
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


def test_bootstrap_means_spread_as_the_standard_error_says():
    drawn = bootstrap_means([*skewed(), NAN])
    assert len(drawn) == RESAMPLES
    assert drawn.mean() == pytest.approx(skewed().mean(), rel=0.02)
    assert drawn.std() == pytest.approx(skewed().std() / np.sqrt(40), rel=0.05)
    twice = bootstrap_means(np.tile(skewed(), 2), [*range(40), *range(40)])
    assert twice == pytest.approx(drawn)  # copies in a group add nothing


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_mean_interval_of_a_large_normal_sample_agrees_with_normal_theory(confidence):
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


def test_nan_is_left_out_of_the_mean_and_not_counted():
    values = [NAN, 0.2, 0.9, NAN, 0.4]
    assert mean_interval(values) == mean_interval(v for v in (0.2, 0.9, 0.4))
    assert mean_interval(values).n == 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (NAN, NAN, NAN, 0, NONE)),
        ([NAN], (NAN, NAN, NAN, 0, NONE)),
        ([0.3, NAN], (0.3, NAN, NAN, 1, NONE)),
        ([0.25] * 3, (0.25, 0.25, 0.25, 3, PERCENTILE)),
        ([0.1 + 0.2, 0.3, 0.3], (0.3, 0.3, 0.3, 3, PERCENTILE)),
        ([1, 0], (0.5, 0, 1, 2, BCA)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_mean_interval_of_few_or_equal_values(values, expected):
    found = mean_interval(values)
    assert found[:4] == pytest.approx(expected[:4], nan_ok=True)
    assert found.method == expected[4]


@pytest.mark.parametrize(
    "interval", [mean_interval, lambda x, **k: spearman_interval(x, x**2, **k)]
)
def test_an_interval_is_determined_by_its_seed(interval):
    values = np.random.default_rng(0).standard_normal(20)
    assert interval(values) == interval(values, seed=0) != interval(values, seed=1)


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
def test_monotone_data_have_a_correlation_of_one_with_zero_width(sign, rho):
    x = np.arange(10.0)
    found = spearman_interval(x, sign * np.exp(x))
    assert found[:4] == pytest.approx((rho, rho, rho, 10))


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
    assert spearman_interval(x, y)[:4] == pytest.approx((NAN, NAN, NAN, n), nan_ok=True)


def test_a_single_odd_pair_gives_no_bounds():
    rho = spearman_interval([0] * 99 + [1], range(100))
    assert rho.mean > 0
    assert np.isnan([rho.low, rho.high]).all()


# Groups, comparisons, seeds


def test_groups_of_one_change_nothing():
    assert mean_interval(skewed(), groups=range(40)) == mean_interval(skewed())


def test_copies_in_groups_add_no_certainty():
    once, copied = mean_interval(skewed()), mean_interval(np.repeat(skewed(), 3))
    grouped = mean_interval(np.repeat(skewed(), 3), groups=np.repeat(range(40), 3))
    assert grouped[:3] == pytest.approx(once[:3])
    assert (grouped.n, copied.n) == (120, 120)
    assert copied.high - copied.low < 0.7 * (once.high - once.low)


def test_a_single_group_has_no_bounds():
    assert np.isnan(mean_interval([0.1, 0.5, 0.9], groups=["a"] * 3).low)


def test_groups_of_values_that_are_nan_do_not_count():
    found = mean_interval([0.1, NAN, 0.9, 0.4], groups=["a", "b", "c", "c"])
    assert found == mean_interval([0.1, 0.9, 0.4], groups=["a", "c", "c"])


def test_a_paired_test_detects_what_unpaired_intervals_hide():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.2, 0.95, 100)  # images differ far more than systems
    better = images + 0.01 + rng.normal(0, 0.01, 100)
    found = compare_paired(better, images)
    assert found.difference.low > 0
    assert found.p < 0.001
    one, other = mean_interval(better), mean_interval(images)
    assert one.low < other.high
    assert found.detectable == pytest.approx(2.8016 * stats.sem(better - images), rel=1e-3)


def test_the_permutation_test_agrees_with_scipys():
    rng = np.random.default_rng(1)
    one, other = rng.uniform(size=(2, 30))
    options = {"permutation_type": "samples", "n_resamples": 9999, "rng": rng}
    expected = stats.permutation_test(
        (one, other + 0.1), lambda x, y, axis: (x - y).mean(axis=axis), vectorized=True, **options
    )
    assert compare_paired(one, other + 0.1).p == pytest.approx(expected.pvalue, abs=0.02)


def test_false_positives_occur_at_the_nominal_rate():
    rng = np.random.default_rng(2)
    p = [compare_paired(*rng.standard_normal((2, 25))).p for _ in range(200)]
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.10


def test_groups_make_a_paired_test_conservative():
    rng = np.random.default_rng(3)
    difference = np.repeat(rng.normal(0.05, 0.1, 20), 10)
    apart, grouped = (
        compare_paired(difference, np.zeros(200), groups)
        for groups in (None, np.repeat(range(20), 10))
    )
    assert grouped.p > 5 * apart.p
    assert grouped.detectable > 2.5 * apart.detectable


def test_unequal_lengths_are_refused_and_nan_drops_the_pair():
    with pytest.raises(ValueError, match="2 and 3 scores"):
        compare_paired([1, 2], [1, 2, 3])
    assert compare_paired([0.1, NAN, 0.5], [0.2, 0.3, NAN]).difference.n == 1


def test_equal_systems_have_p_1():
    assert compare_paired(skewed(), skewed()).p == 1


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.04, 0.01, NAN, 0.03]), [0.06, 0.03, NAN, 0.06])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])
    assert holm([]).shape == (0,)


def test_seeds_widen_the_interval():
    rng = np.random.default_rng(4)
    images = rng.uniform(0.4, 0.9, 100)
    level = np.array([-0.08, 0.0, 0.08])[:, None]
    scores = images + level
    found, alone = seeds_interval(scores), mean_interval(images)
    assert found.mean == pytest.approx(images.mean())
    assert found.high - found.low > 2 * (alone.high - alone.low)
    alike = seeds_interval(np.stack([images] * 3))
    assert alike[1:3] == pytest.approx((alone.low, alone.high), abs=0.004)
    assert np.isnan(seeds_interval(scores[:1]).low)
    copied = seeds_interval(np.repeat(scores, 4, axis=1), np.repeat(range(100), 4))
    assert copied[:3] == pytest.approx(found[:3])  # copies resampled together add nothing
    assert copied.n == 400
    assert np.isnan(seeds_interval(scores, [0] * 100).low)


def test_the_left_tail_by_hand():
    found = left_tail([*np.linspace(0, 1, 101), NAN])
    assert found == pytest.approx({"below_half": 50 / 101, "p05": 0.05, "p10": 0.10})


def test_an_unpaired_difference_agrees_with_normal_theory():
    rng = np.random.default_rng(5)
    one, other = rng.normal(0.8, 0.1, 150), rng.normal(0.6, 0.2, 90)
    found = compare_unpaired(one, [*other, NAN])
    error = np.hypot(stats.sem(one), stats.sem(other))
    assert found.mean == pytest.approx(one.mean() - other.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.06)
    assert found.n == 240
    copied = compare_unpaired(np.repeat(one, 4), other, (np.repeat(range(150), 4), None))
    assert copied[:3] == pytest.approx(found[:3], abs=0.005)
    assert np.isnan(compare_unpaired([0.5], other).mean)


def test_resamples_draw_whole_groups_with_equal_probability():
    drawn = resamples("abcab", np.random.default_rng(0))
    assert drawn.shape == (RESAMPLES, 5)
    assert (drawn[:, 0] == drawn[:, 3]).all()
    assert (drawn[:, 1] == drawn[:, 4]).all()
    assert (drawn[:, :3].sum(axis=1) == 3).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(5), abs=0.05)  # five standard errors


def test_an_interval_as_text():
    found = Interval(0.25, -0.125, 0.5, 9)
    assert str(found) == "0.250 [-0.125, 0.500]"
    assert f"{found:+.1f}" == "+0.2 [-0.1, +0.5]"
    assert str(Interval(0.25, NAN, NAN, 1)) == "0.250"
    assert str(Interval(NAN, NAN, NAN, 0)) == "–"
    found = Interval.of({"dice": 0.25, "low": None, "high": None}, "dice")
    assert found[:4] == pytest.approx((0.25, NAN, NAN, 0), nan_ok=True)


# An interval holds its mean, or there is none


def awkward_values(rng):
    """Values of few or many items: skewed, tied, nearly constant, tiny, huge, with NaN."""
    n = int(rng.choice([0, 1, 2, 3, 5, 8, 30]))
    one = np.arange(n) == rng.integers(max(n, 1))
    kinds = (
        rng.uniform(size=n),
        rng.lognormal(sigma=4, size=n),
        rng.integers(2, size=n).astype(float),
        np.where(one, rng.choice([0, 0.999, 1 + 1e-15, 1e6]), 1.0),
        np.full(n, 0.1) + 0.2 * one - 0.2 * one,  # equal up to rounding
        1e-9 * rng.standard_normal(n),
        rng.standard_normal(n).round(),
    )
    values = kinds[rng.integers(len(kinds))].copy()
    values[rng.uniform(size=n) < rng.choice([0, 0.3, 1], p=[0.6, 0.3, 0.1])] = NAN
    return values


def awkward_groups(rng, n):
    """None, pairs, or one large group beside single items."""
    large = np.where(np.arange(n) < n // 2, n, np.arange(n))
    return [None, np.arange(n) // 2, large, np.zeros(n)][rng.choice(4, p=[0.4, 0.25, 0.25, 0.1])]


def holds(found):
    """The promise to every reader of an interval."""
    if found.method == NONE:
        return np.isnan([found.low, found.high]).all()
    return found.method in (BCA, PERCENTILE) and found.low <= found.mean <= found.high


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(60))
def test_an_interval_holds_its_mean_or_there_is_none(seed):
    rng = np.random.default_rng(seed)
    values = awkward_values(rng)
    n = len(values)
    groups = awkward_groups(rng, n)
    mean = mean_interval(values, groups=groups)
    weights = rng.integers(4, size=n) * rng.choice([1, 1e9], size=n)  # 0/0 is left out
    ratio = ratio_interval(values * weights, weights, groups=groups)
    for found in (mean, ratio):
        assert holds(found), found
    labels = np.arange(n) if groups is None else groups
    for found, there in ((mean, ~np.isnan(values)), (ratio, ~np.isnan(values) & (weights > 0))):
        assert (found.method == NONE) == (len(set(labels[there])) < 2)  # |z0| is never too large
    other = rng.permutation(values)
    both = compare_paired(values, other, groups)
    assert holds(both.difference), both
    assert np.isnan(both.p) if both.difference.method == NONE else 0 < both.p <= 1
    assert holds(compare_unpaired(values, awkward_values(rng), (groups, None)))
    seeds = np.stack([values, other, values])[: rng.integers(1, 4)]
    assert holds(seeds_interval(seeds, groups))
    assert holds(spearman_interval(values, other))


def test_a_statistic_outside_its_resamples_has_no_interval():
    drawn = np.random.default_rng(0).uniform(size=RESAMPLES)
    inside, outside = (percentile_interval(value, drawn, 9) for value in (0.9, 0.99))
    assert (inside.low, inside.high) == pytest.approx((0.025, 0.975), abs=0.01)
    assert (outside.mean, outside.n, outside.method) == (0.99, 9, NONE)
    assert np.isnan([outside.low, outside.high]).all()
    few = np.where(np.arange(RESAMPLES) < 0.03 * RESAMPLES, NAN, drawn)
    assert percentile_interval(0.5, few, 9).method == NONE  # undefined in 3 % of the resamples


def test_the_text_names_a_method_other_than_bca():
    texts = {method: Interval(0.25, 0.125, 0.5, 9, method).named for method in (BCA, PERCENTILE)}
    assert texts == {BCA: "0.250 [0.125, 0.500]", PERCENTILE: "0.250 [0.125, 0.500] (percentile)"}
    assert Interval(0.25, NAN, NAN, 9, NONE).named == "0.250 (no interval)"
    assert Interval(NAN, NAN, NAN, 0, NONE).named == "–"
    assert Interval.of({"mean": 0.25, "low": 0.125, "high": 0.5}).named == texts[BCA]
