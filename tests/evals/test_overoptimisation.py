"""Curves of Gao 2022 against numpy's least squares on all points at once, and planted curves."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as distributions

from evals.best_of import best_of_kl
from evals.overoptimisation import (
    Course,
    basis,
    best_of_n,
    changes,
    curve,
    fit,
    gain,
    over_training,
    peak,
)

KL = np.array([0.0, 0.5, 2.0, 4.5, 9.0, 16.0])


def planted(alpha: float, beta: float, form: Any, noise: float, prompts: int = 40) -> np.ndarray:
    """Gains (K, P) about a known curve; what a prompt adds to it grows with d."""
    rng, d = np.random.default_rng(2), np.sqrt(KL)
    shift = rng.normal(size=prompts)
    steps = rng.normal(size=(len(d), prompts)) * (d > 0)[:, None]
    mean = d * (alpha - beta * (d if form == "bon" else np.log(np.maximum(d, 1e-300))))
    return np.where(d > 0, mean, 0.0)[:, None] + noise * (d[:, None] * shift + steps)


@pytest.mark.parametrize("form", ["bon", "rl"])
def test_the_fit_is_numpys_on_all_points(form: Any) -> None:
    gains, d = planted(1.5, 0.4, form, 0.3), np.sqrt(KL)
    found = fit(d, gains, form)
    second = [-x * x if form == "bon" else -x * math.log(x) if x else 0.0 for x in d]
    everything = np.stack([np.repeat(d, 40), np.repeat(second, 40)], axis=1)
    expected = np.linalg.lstsq(everything, gains.ravel(), rcond=None)[0]
    assert [found["alpha"]["value"], found["beta"]["value"]] == pytest.approx(list(expected))
    # interval: t over 40 prompts' own fits
    own = np.array([np.linalg.lstsq(everything[::40], column, rcond=None)[0] for column in gains.T])
    low, high = distributions.t.interval(0.95, 39, own[:, 1].mean(), distributions.sem(own[:, 1]))
    assert (found["beta"]["low"], found["beta"]["high"]) == pytest.approx((low, high))
    assert found["alpha"]["n"] == 40
    wider = fit(d, gains, form, 0.99)["beta"]
    assert wider["high"] - wider["low"] > high - low


@pytest.mark.parametrize("form", ["bon", "rl"])
def test_a_planted_curve_and_its_peak_are_found(form: Any) -> None:
    found = fit(np.sqrt(KL), planted(1.5, 0.6, form, 1e-9), form)
    assert found["alpha"]["value"] == pytest.approx(1.5, abs=1e-6)
    assert found["beta"]["value"] == pytest.approx(0.6, abs=1e-6)
    top = optimize.minimize_scalar(
        lambda d: -curve(np.array([d]), 1.5, 0.6, form)[0], bounds=(1e-6, 30), method="bounded"
    )
    assert found["peak"] == pytest.approx(top.x, rel=1e-4)
    assert peak(1.5, 0.6, form) == pytest.approx(top.x, rel=1e-4)


def test_a_curve_that_is_not_shown_to_bend_has_no_peak() -> None:
    assert fit(np.sqrt(KL), planted(1.0, 0.0, "bon", 0.5), "bon")["peak"] is None
    assert fit(np.sqrt(KL), planted(1.0, -0.5, "rl", 1e-6), "rl")["peak"] is None


def test_one_distance_tells_nothing_of_a_curve() -> None:
    found = fit(np.array([0.0, 2.0]), np.array([[0.0, 0.0], [1.0, 3.0]]), "bon")
    assert found == {"form": "bon", "alpha": None, "beta": None, "peak": None}
    assert fit(np.array([0.0]), np.zeros((1, 3)), "rl")["beta"] is None


def test_the_columns_by_hand() -> None:
    d = np.array([0.0, 1.0, math.e])
    assert basis(d, "bon") == pytest.approx(np.array([[0, 0], [1, -1], [math.e, -(math.e**2)]]))
    assert basis(d, "rl") == pytest.approx(np.array([[0, 0], [1, 0], [math.e, -math.e]]))


def test_gains_are_paired_and_counted_in_the_unit() -> None:
    # 1, 3, then 2, 8: changes 1 and 5, mean 3, error 2.
    course = Course(np.array([0.0, 4.0]), np.array([[1.0, 3.0], [2.0, 8.0]]), 1.0)
    found = gain(course, 1)
    assert found.value == 3.0
    t = float(distributions.t.ppf(0.975, 1))
    assert (found.low, found.high) == pytest.approx((3 - 2 * t, 3 + 2 * t))
    assert gain(Course(course.kl, course.rewards, 2.0), 1).value == 1.5
    assert course.distances.tolist() == [0.0, 2.0]
    assert Course(np.array([-0.01, 1.0]), course.rewards, 1.0).distances.tolist() == [0.0, 1.0]


def test_changes_are_told_since_the_start_and_since_gold_was_best() -> None:
    proxy = Course(KL[:3], np.array([[0.0, 2.0], [1.0, 3.0], [4.0, 6.0]]), 1.0)
    gold = Course(KL[:3], np.array([[0.0, 2.0], [3.0, 4.0], [1.0, 1.0]]), 1.0)
    found = changes({"proxy": proxy, "gold": gold})
    assert found["best"] == 1
    assert found["since_start"]["proxy"]["value"] == 4.0
    assert found["since_best"]["proxy"]["value"] == 3.0
    assert found["since_start"]["gold"]["value"] == 0.0
    assert found["since_best"]["gold"]["value"] == -2.5
    assert changes({"proxy": proxy})["best"] == 2
    assert changes({}) == {}


def test_training_is_read_from_its_evaluations() -> None:
    rows = [
        {"update": 0, "kl": 0.0, "scores": [0.0, 2.0, 4.0], "gold": [1.0, 1.0, 4.0]},
        {"update": 5, "kl": 1.0, "scores": [1.0, 4.0, 4.0], "gold": [2.0, 1.0, 6.0]},
        {"update": 10, "kl": 4.0, "scores": [3.0, 4.0, 8.0], "gold": [0.0, 1.0, 1.0]},
    ]
    found = over_training(rows)
    assert [p["update"] for p in found["points"]] == [0, 5, 10]
    assert [p["distance"] for p in found["points"]] == [0.0, 1.0, 2.0]
    assert found["units"] == pytest.approx({"proxy": np.std([0, 2, 4]), "gold": np.std([1, 1, 4])})
    assert found["points"][1]["proxy"]["value"] == pytest.approx(1 / np.std([0, 2, 4]))
    assert found["points"][2]["gold"]["value"] == pytest.approx(-4 / 3 / np.std([1, 1, 4]))
    assert found["form"] == found["fits"]["gold"]["form"] == "rl"
    assert (found["prompts"], found["changes"]["best"]) == (3, 1)
    alone = over_training([{**row, "gold": []} for row in rows])
    assert set(alone["fits"]) == {"proxy"}


def test_prompts_without_a_score_at_some_step_are_left_out() -> None:
    rows = [
        {"update": 0, "kl": 0.0, "scores": [0.0, None, 2.0], "gold": [1.0, 5.0, 4.0]},
        {"update": 5, "kl": 4.0, "scores": [1.0, 9.0, 5.0], "gold": [0.0, 5.0, 2.0]},
    ]
    found = over_training(rows)
    for row in rows:
        row |= {"scores": [row["scores"][0], row["scores"][2]]}
        row |= {"gold": [row["gold"][0], row["gold"][2]]}
    assert found == over_training(rows)
    assert found["prompts"] == 2


def test_best_of_n_is_a_course_over_n() -> None:
    proxy = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 8.0, 2.0, 6.0]])
    found = best_of_n({"proxy": proxy, "gold": -proxy})
    assert [p["n"] for p in found["points"]] == [1, 2, 4]
    assert [p["kl"] for p in found["points"]] == [best_of_kl(n) for n in (1, 2, 4)]
    # the best of 4 are 4 and 8, the means 2.5 and 4; the unit is the spread of all responses
    unit = np.std([1, 2, 3, 4, 0, 8, 2, 6])
    assert found["units"] == pytest.approx({"proxy": unit, "gold": unit})
    assert found["points"][2]["proxy"]["value"] == pytest.approx((1.5 + 4) / 2 / unit)
    assert found["points"][2]["gold"]["value"] == pytest.approx(-(1.5 + 4) / 2 / unit)
    assert (found["samples"], found["form"]) == (4, "bon")


def test_a_reward_without_spread_is_left_out() -> None:
    proxy = np.array([[1.0, 2.0], [0.0, 8.0]])
    found = best_of_n({"proxy": proxy, "gold": np.ones((2, 2))})
    assert set(found["units"]) == set(found["fits"]) == {"proxy"}
    assert "gold" not in found["points"][0]
