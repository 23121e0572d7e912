"""Word lists and small models of optional packages; a package that is missing is told."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from align.errors import UserError
from reward import lexical
from reward.lexical import language, profanity_penalty, vader_sentiment

PROMPTS = ["a", "b", "c"]


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed")


def test_profanity_counts_words_and_phrases_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("darn\n\n  holy cow \nc++\n", encoding="utf-8")
    reward = profanity_penalty(str(file))
    texts = ["Darn, darn! Holy cow.", "darned holy cows", "c++ it"]
    assert reward(PROMPTS, texts) == [-3.0, 0.0, -1.0]
    assert str(reward(["p"], ["fine"])[0]) == "0.0"  # not -0.0
    assert reward.signature.startswith("profanity_penalty|file:")  # type: ignore[attr-defined]


def test_a_word_file_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^profanity_penalty.file: cannot read .*none.txt"):
        profanity_penalty(str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"empty\.txt: no word in it"):
        profanity_penalty(str(tmp_path / "empty.txt"))


@pytest.mark.parametrize(
    ("make", "module", "package"),
    [
        (vader_sentiment, "vaderSentiment.vaderSentiment", "vaderSentiment"),
        (profanity_penalty, "better_profanity", "better-profanity"),
        (lambda: language("en"), "py3langid.langid", "py3langid"),
    ],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, make: object, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module.split(".")[0], None)
    monkeypatch.delitem(sys.modules, module, raising=False) if "." in module else None
    with pytest.raises(UserError, match=rf"needs {package}; pip install {package}"):
        make()  # type: ignore[operator]


class Identifier:
    """Stands for py3langid's."""

    labels = ("de", "en")

    def rank(self, text: str) -> list[tuple[str, float]]:
        return [("en", 0.75), ("de", 0.25)] if "the" in text else [("de", 0.9), ("en", 0.1)]


def test_language_is_the_probability_of_the_wanted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical, "_package", lambda *_: None)
    monkeypatch.setattr(lexical, "_identifier", lambda _: Identifier())
    monkeypatch.setattr(lexical, "version", lambda _: "1")
    # a text without letters earns nothing
    assert language("en")(PROMPTS, ["the cat", "die Katze", "123 !"]) == [0.75, 0.1, 0.0]
    with pytest.raises(UserError, match=r"^language.code: 'eng'; allowed: en \(nearest\)"):
        language("eng")


@needs("py3langid")
def test_py3langid_tells_english_from_german() -> None:
    english, german, nothing = language("en")(
        PROMPTS, ["The house on the hill is old.", "Das Haus auf dem Berg ist alt.", "..."]
    )
    assert english > 0.5 > german  # type: ignore[operator]
    assert nothing == 0.0


@needs("vaderSentiment")
def test_vader_s_compound_score() -> None:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    texts = ["I love it!", "It is awful.", ""]
    expected = [SentimentIntensityAnalyzer().polarity_scores(t)["compound"] for t in texts]
    assert vader_sentiment()(PROMPTS, texts) == expected
    assert expected[0] > 0.5 > -0.3 > expected[1]


@needs("better_profanity")
def test_the_packaged_list_is_the_default() -> None:
    assert profanity_penalty()(PROMPTS, ["damn it to hell", "a fine day", "shell"]) == [-2, 0, 0]
