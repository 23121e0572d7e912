"""From the configuration's list to reward functions: what fits, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from align.config import FunctionConfig, RewardTermConfig
from align.errors import UserError
from align.ppo.terms import Moments
from reward.combine import FUNCTIONS, build_function, build_terms, check_rewards


def entry(function: str, **more: Any) -> RewardTermConfig:
    return RewardTermConfig.model_validate({"function": function, **more})


def build(function: str, **options: Any) -> Any:
    return build_function(FunctionConfig(function=function, options=options), "ppo.rewards.2", None)


def model(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Stands for the reward model."""
    return [float(len(prompt)) for prompt in prompts]


def test_terms_take_weight_clip_scale_and_name() -> None:
    terms = build_terms(
        [
            entry("reward_model"),
            entry("length_penalty", options={"target": 4}, weight=0.5, clip=2, normalise="running"),
            entry("refusal", name="no", weight=-1, normalise={"mean": 0.25, "std": 2}),
        ],
        model,
    )
    assert [(t.weight, t.clip, t.normalise, t.name) for t in terms] == [
        (1.0, None, "none", ""),
        (0.5, 2.0, "running", ""),
        (-1.0, None, Moments(0.25, 2.0), "no"),
    ]
    assert terms[0].function is model
    assert terms[1].function(prompts=["p"], completions=["one two"]) == [-0.5]


def test_a_function_may_be_about_another() -> None:
    options = {"of": {"function": "reward_model"}, "words": {"a": "bcd"}}
    (term,) = build_terms([entry("counterfactual_penalty", options=options)], model)
    assert term.function(prompts=["a", "x"], completions=["", ""]) == [-2.0, None]
    inner = {"function": "token_count", "options": {"word": "a"}}
    reward = build("counterfactual_penalty", of=inner, words={"a": "b"}, swap="pair")
    assert reward(prompts=["a"], completions=["a a b"]) == [-1.0]  # "a a b" has 2, "b b a" 1


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`my_rewards.py` in the working directory."""
    (tmp_path / "my_rewards.py").write_text(
        "LIMIT = 3\n"
        "def short(prompts, completions, limit=LIMIT, **columns):\n"
        "    return [float(len(c) <= limit) for c in completions]\n"
        "class Judge:\n"
        "    @staticmethod\n"
        "    def one(completions, **_):\n"
        "        return [1.0] * len(completions)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)


@pytest.mark.usefixtures("own_module")
def test_a_function_of_the_user_s_is_imported_when_it_is_named() -> None:
    assert "my_rewards" not in sys.modules
    build("refusal")
    assert "my_rewards" not in sys.modules
    reward = build("my_rewards:short", limit=4)
    assert reward(prompts=[], completions=["abcd", "abcde"], label=[1, 2]) == [1.0, 0.0]
    assert (reward.__name__, reward.signature) == ("short", "short|module:my_rewards|limit:4")
    assert build("my_rewards:short")(prompts=[], completions=["abcd"]) == [0.0]
    assert build("my_rewards:Judge.one")(prompts=[], completions=["x"]) == [1.0]
    assert sys.path.count(str(Path.cwd())) == 1


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("function", "options", "complaint"),
    [
        ("lenght_penalty", {}, r"\.function: no reward function is called 'lenght_penalty'; "
         r"allowed: length_penalty \(nearest\), or package.module:name"),
        ("reward_modle", {}, r"\.function: .*allowed: reward_model \(nearest\)"),
        ("length_penalty", {"targets": 3}, r"\.options\.targets: unknown option 'targets'; "
         r"allowed: target \(nearest\)"),
        ("length_penalty", {"target": "3"}, r'\.options\.target: "3" \(text\); allowed: int'),
        ("length_penalty", {"target": 3, "unit": "lines"}, r"\.options\.unit: .*'words'"),
        ("length_penalty", {}, r"\.options: option 'target' is missing"),
        ("length_penalty", {"target": 0}, r"\.options \(length_penalty.target\): 0; allowed: at"),
        ("refusal", {"x": 1}, r"\.options\.x: unknown option 'x'; allowed: no options"),
        ("reward_model", {"x": 1}, r"\.options: reward_model has no options"),
        ("counterfactual_penalty", {"of": "refusal", "words": {"a": "b"}},
         r"\.options\.of: 'refusal'; allowed: a mapping with `function` and `options`"),
        ("counterfactual_penalty", {"of": {"function": "refusl"}, "words": {"a": "b"}},
         r"\.options\.of\.function: no reward function is called 'refusl'"),
        ("counterfactual_penalty", {"words": {"a": "b"}}, r"\.options: option 'of' is missing"),
        ("nowhere:short", {}, r"\.function: cannot import 'nowhere:short' \(ModuleNotFound"),
        ("my_rewards:shirt", {}, r"\.function: cannot import .*no attribute 'shirt'"),
        ("my_rewards:LIMIT", {}, r"\.function: 'my_rewards:LIMIT' is no function"),
        ("my_rewards:short", {"limits": 3}, r"\.options\.limits: .*allowed: limit \(nearest\)"),
        ("my_rewards:short", {"prompts": 3}, r"\.options\.prompts: unknown option"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(
    function: str, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=r"^ppo\.rewards\.2" + complaint) as caught:
        build(function, **options)
    assert "\n" not in str(caught.value)


def test_all_is_checked_without_a_reward_model() -> None:
    check_rewards([entry("reward_model"), entry("refusal")])
    options = {"of": {"function": "reward_model"}, "column": "other"}
    check_rewards([entry("counterfactual_penalty", options=options)])
    with pytest.raises(UserError, match=r"^ppo\.rewards\.1\.function"):
        check_rewards([entry("reward_model"), entry("nothing")])


def test_every_function_is_in_the_docs(project: Path) -> None:
    page = (project / "docs" / "rewards.md").read_text("utf-8")
    assert [name for name in FUNCTIONS if f"| `{name}" not in page] == []


@pytest.mark.parametrize(
    "bad",
    [
        {"function": "os.system()"},
        {"function": "a:b:c"},
        {"function": "refusal", "clip": 0},
        {"function": "refusal", "normalise": "std"},
        {"function": "refusal", "normalise": {"mean": 0, "std": 0}},
        {"function": "refusal", "weights": 1},
        {"function": "refusal", "name": "a b"},
    ],
)
def test_an_entry_that_is_wrong_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RewardTermConfig.model_validate(bad)
