"""Intervals, against published quantiles and closed forms."""

import math

import pytest

from lightning_dpo.reports.intervals import interval, student


def test_the_interval_is_students():
    """Three values 0.60, 0.65, 0.70: the 97.5 % quantile of t with two degrees of freedom is 4.3027."""
    mean, half = interval([0.60, 0.65, 0.70])
    assert mean == pytest.approx(0.65)
    assert half == pytest.approx(4.3027 * 0.05 / math.sqrt(3), rel=1e-4)
    assert interval([2.0])[0] == 2.0
    assert all(map(math.isnan, (interval([2.0])[1], *interval([]))))


def test_quantiles_with_one_and_two_degrees_of_freedom():
    """With one, t has the distribution of Cauchy, with the quantile tan(π(p - 1/2)). With two, p(t) is algebraic."""
    assert student(1) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-12)
    assert student(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-12)


@pytest.mark.parametrize(("freedom", "quantile"), [(3, 3.182446), (4, 2.776445), (9, 2.262157), (120, 1.979930)])
def test_quantiles_are_those_of_published_tables(freedom, quantile):
    assert student(freedom) == pytest.approx(quantile, abs=1e-6)
