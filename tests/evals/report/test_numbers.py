"""Formatting, with expected strings written by hand."""

import math

import pytest

from evals.report.numbers import (
    Scale,
    count,
    cut,
    decimals,
    duration,
    is_proportion,
    number,
    p_value,
    size,
)

M, DASH = "\N{MINUS SIGN}", "\N{EM DASH}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.8125, "0.812"),
        (0.0126, "0.0126"),
        (3.14159, "3.14"),
        (28.44, "28.4"),
        (130.48, "130"),
        (12345.6, "12,346"),
        (-0.5, f"{M}0.500"),
        (0, "0.00"),
        (0.0000123, "1.23e-5".replace("-", M)),
        (None, DASH),
        (math.nan, DASH),
        (math.inf, DASH),
    ],
)
def test_three_significant_digits(value, expected):
    assert number(value) == expected


def test_a_rounded_zero_has_no_sign():
    assert number(-0.0001, 2) == "0.00"
    assert number(0.0001, 2, sign="+") == "0.00"
    assert number(0.25, 2, sign="+") == "+0.25"


@pytest.mark.parametrize(
    ("values", "places"),
    [([0.8, 0.77, 0.85], 3), ([28.4, 31.0], 1), ([0.0287, -0.004], 4), ([500], 0), ([], 2)],
)
def test_largest_value_sets_the_decimals(values, places):
    assert decimals(values) == places


def test_scale_is_shared_by_value_and_interval():
    scale = Scale([0.0123, -0.00412, 0.0287])
    assert scale.value(0.0123) == "0.0123"
    assert scale.interval(-0.00412, 0.0287) == f"[{M}0.0041, 0.0287]"
    assert scale.interval(None, 0.1) == ""
    assert scale.interval(math.nan, 0.1) == ""


def test_percent_scale():
    scale = Scale([], percent=True)
    assert scale.value(0.8125) == "81.2%"
    assert scale.difference(0.031) == "+3.1 pp"
    assert scale.difference(-0.031) == f"{M}3.1 pp"
    assert scale.interval(0.5, 0.75) == "[50.0, 75.0]"
    assert scale.value(None) == DASH


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("acc", [0.5], True),
        ("acc_norm", [0.5], True),
        ("f1_macro", [0.5], True),
        ("selection_rate", [0.5], True),
        ("exact_match", [1.0], True),
        ("f1", [62.0], False),
        ("bleu", [0.5], False),
        ("word_perplexity", [0.5], False),
        ("accidents", [0.5], False),
    ],
)
def test_what_is_shown_in_percent(metric, values, expected):
    assert is_proportion(metric, values) is expected


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.0009, "p < .001"),
        (0.001, "p = .001"),
        (0.0321, "p = .032"),
        (0.9991, "p = .999"),
        (0.9999, "p = 1"),
        (None, ""),
        (math.nan, ""),
    ],
)
def test_p_values(p, expected):
    assert p_value(p) == expected


def test_counts_sizes_and_times():
    assert [count(1234), count(0), count(None)] == ["1,234", "0", DASH]
    assert [size(950), size(61_000), size(1_234_567), size(9e9)] == [
        "950 B",
        "61 kB",
        "1.23 MB",
        "9 GB",
    ]
    assert [duration(8.44), duration(83.25), duration(7384)] == [
        "8.4 s",
        "1 min 23 s",
        "2 h 3 min",
    ]


def test_cut_says_what_is_missing():
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdef", 4) == "abcd [... 2 more characters in report.json]"
