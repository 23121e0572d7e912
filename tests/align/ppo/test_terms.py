"""The weighted sum of reward functions against sums written by hand."""

import math
from typing import Any

import pytest
import torch

from align.errors import UserError
from align.ppo.prompts import PromptBatch
from align.ppo.scale import ScoreScale
from align.ppo.scoring import ask, said, score_responses
from align.ppo.terms import Moments, RewardTerm, as_terms, combine, measure, name_of, signature_of

NAN = math.nan


def nothing(**_: Any) -> list[float | None]:
    return []


def terms_of(*weights: float, **shared: Any) -> list[RewardTerm]:
    return as_terms([RewardTerm(nothing, weight=w, **shared) for w in weights])


def total(terms: list[RewardTerm], *scores: list[float]) -> list[float | None]:
    parts = {t.name: torch.tensor(s) for t, s in zip(terms, scores, strict=True)}
    return said(combine(parts, terms, {t.name: t.scale() for t in terms}))


def test_where_all_speak_it_is_the_weighted_sum() -> None:
    # 2 * 1 - .5 * 4 + 3 * .25 = .75; 2 * -1 - .5 * 2 + 3 * 0 = -3.
    assert total(terms_of(2, -0.5, 3), [1.0, -1.0], [4.0, 2.0], [0.25, 0.0]) == [0.75, -3.0]


def test_who_speaks_stands_for_who_does_not() -> None:
    # Weights 2, -1, 1: of |w| = 4 the first and third have 3, so their sum 2 * 1 + 1 * 4 = 6 counts
    # 4/3 times; the second alone has 1 of 4: -1 * 5 * 4 = -20.
    found = total(terms_of(2, -1, 1), [1.0, NAN], [NAN, 5.0], [4.0, NAN])
    assert found == pytest.approx([8.0, -20.0])


def test_equal_scores_stay_equal_whoever_is_silent() -> None:
    # If every function would have said x, leaving some out must not change the score: w x is
    # scaled up to (sum w) x. A silent function counted as 0 would give less.
    terms = terms_of(0.5, 1.5, 3.0)
    for silent in ([NAN, 2.0, 2.0], [2.0, NAN, 2.0], [2.0, 2.0, NAN], [NAN, NAN, 2.0]):
        assert total(terms, *([x] for x in silent)) == pytest.approx([10.0])


def test_a_response_on_which_all_are_silent_has_no_score() -> None:
    assert total(terms_of(1, 1), [1.0, NAN], [1.0, NAN]) == [2.0, None]
    # a function that is only watched cannot stand for the others
    assert total(terms_of(1, 0), [NAN, 1.0], [7.0, 7.0]) == [None, 1.0]


def test_scores_are_normalised_then_clipped_then_weighted() -> None:
    # (9 - 5) / 2 = 2, clipped to 1.5, times 2; (5 - 5) / 2 = 0; (-1 - 5) / 2 = -3 -> -1.5 * 2.
    terms = terms_of(2, normalise=Moments(5.0, 2.0), clip=1.5)
    assert total(terms, [9.0, 5.0, -1.0]) == [3.0, 0.0, -3.0]


def test_each_scale_learns_from_its_own_scores_alone() -> None:
    terms = as_terms(
        [
            RewardTerm(nothing, normalise="running", name="a"),
            RewardTerm(nothing, normalise="reference", name="b"),
            RewardTerm(nothing, normalise=Moments(1.0, 4.0), name="c"),
        ]
    )
    scales = {term.name: term.scale() for term in terms}
    first = {"a": torch.tensor([1.0, NAN, 3.0]), "b": torch.tensor([0.0, 4.0, NAN])}
    first["c"] = torch.tensor([9.0, 9.0, 9.0])
    measure(first, scales)
    measure({name: torch.tensor([8.0]) for name in "abc"}, scales)
    # running: 1, 3, 8 -> mean 4, squares 9 + 1 + 16; reference: 0, 4 -> mean 2, squares 8.
    assert (scales["a"].n, scales["a"].mean, scales["a"].squares) == (3, 4.0, 26.0)
    assert (scales["b"].n, scales["b"].mean, scales["b"].squares) == (2, 2.0, 8.0)
    assert (scales["c"].mean, scales["c"].squares) == (1.0, 16.0)
    # reading them changes nothing
    before = {name: scale.state() for name, scale in scales.items()}
    combine({name: torch.tensor([0.5]) for name in "abc"}, terms, scales)
    assert {name: scale.state() for name, scale in scales.items()} == before


def test_a_scale_waits_for_a_score() -> None:
    scale = ScoreScale("reference")
    assert scale(torch.tensor([NAN, NAN])).isnan().all()
    assert scale.n == 0
    assert scale(torch.tensor([2.0, NAN, 6.0])).tolist()[::2] == [-1.0, 1.0]
    assert scale.normalised(torch.tensor([8.0])).tolist() == [2.0]


def test_terms_have_different_names_and_multiplied_weights() -> None:
    given = [RewardTerm(nothing, weight=2.0), nothing, RewardTerm(nothing, name="other")]
    terms = as_terms(given, [0.5, 3.0, -1.0])
    assert [(t.name, t.weight) for t in terms] == [
        ("nothing", 1.0),
        ("nothing_2", 3.0),
        ("other", -1.0),
    ]
    assert [t.plain for t in terms] == [True, False, False]
    assert as_terms(terms) == terms
    with pytest.raises(UserError, match="every reward function has weight 0"):
        as_terms([nothing], [0.0])


def test_what_a_run_records_of_a_term() -> None:
    def judge(**_: Any) -> list[float]:
        return []

    judge.signature = "judge|x:1"  # type: ignore[attr-defined]
    term = RewardTerm(judge, 2.0, 3.0, Moments(0.5, 2.0), "mine")
    assert signature_of(term) == {
        "name": "mine",
        "signature": "judge|x:1",
        "weight": 2.0,
        "clip": 3.0,
        "normalise": {"mean": 0.5, "std": 2.0},
    }
    (plain,) = as_terms([nothing])
    assert signature_of(plain)["signature"] == "nothing"
    assert signature_of(plain)["normalise"] == "none"
    assert name_of(math.sqrt) == "sqrt"


BATCH = PromptBatch(["a", "b"], [[3], [4]], {"gold": [10, "x"]})


def test_a_failing_function_names_itself_and_the_sample() -> None:
    def divide(completions: list[str], gold: list[Any], **_: Any) -> list[float]:
        return [1 / int(value) for value in gold]

    message = (
        r"^reward function divide failed on response 1 'yes' to the prompt 'b' "
        r"\(ValueError: invalid literal for int\(\) with base 10: 'x'\)$"
    )
    with pytest.raises(UserError, match=message) as caught:
        score_responses([divide], BATCH, ["xyz", "yes"])
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_function_that_fails_on_the_batch_alone_says_so() -> None:
    def lonely(completions: list[str], **_: Any) -> list[float]:
        if len(completions) > 1:
            raise RuntimeError("out of memory")
        return [0.0]

    expected = "lonely failed on all 2 responses together .RuntimeError: out of memory"
    with pytest.raises(UserError, match=expected):
        score_responses([lonely], BATCH, ["x", "y"])


def test_the_error_of_a_function_of_ours_is_left_as_it_is() -> None:
    def ours(**_: Any) -> list[float]:
        raise UserError("no column", where="reward function ours")

    with pytest.raises(UserError, match=r"^reward function ours: no column$"):
        score_responses([ours], BATCH, ["x", "y"])


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        (None, "gave NoneType scores for 2 responses"),
        (1.0, "gave float scores for 2 responses"),
        (["high", 1.0], "gave 'high' for response 0 'x'; allowed: finite numbers, or None"),
        ([1.0, [2.0]], r"gave \[2.0\] for response 1 'y'"),
    ],
)
def test_what_is_no_list_of_numbers_is_refused(returned: Any, complaint: str) -> None:
    (term,) = as_terms([lambda **_: returned])
    with pytest.raises(UserError, match=complaint):
        ask(term, BATCH, ["x", "y"])
