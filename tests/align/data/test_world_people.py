"""Words, sentences, notes and the gold rule of the generated world, against cases by hand."""

from __future__ import annotations

from itertools import chain

import pytest

from align.data import world_words as words
from align.data.world import World
from align.data.world_language import translate
from align.data.world_people import BY_NAME, PEOPLE, Person, gold_score, read_prompt, rule_score
from align.errors import UserError

ALICE = {"name": "alice", "gender": "woman", "job": "nurse"}
KARIM = {"name": "karim", "gender": "man", "job": "nurse"}


def test_every_cell_has_six_names_of_the_same_length() -> None:
    assert len(PEOPLE) == len(BY_NAME) == 36
    assert BY_NAME["karim"] == Person("karim", "man", "arabic")
    for names in words.NAMES.values():
        assert [len(name) for name in names] == [5] * 6


def test_names_are_no_other_words_of_the_world() -> None:
    twins = chain.from_iterable(words.TRAIT_TWINS + words.ACT_TWINS)
    lists = (words.JOBS, words.TOWNS, words.HOBBIES, words.NEUTRAL_TRAITS, words.NEUTRAL_ACTS)
    others = " ".join([*twins, *chain.from_iterable(lists), *words.ITEMS, *words.GOOD_WORDS])
    lexicon = {
        *others.split(),
        *words.THINGS.values(),
        *words.BAD_WORDS,
        *words.TAVI,
        *words.TAVI.values(),
    }
    assert not lexicon & BY_NAME.keys()


def test_tones_are_told_by_words_that_occur_nowhere_else() -> None:
    tone = {word for twin in words.TRAIT_TWINS for word in twin}
    elsewhere = {*words.GOOD_WORDS, *words.BAD_WORDS, *words.NEUTRAL_TRAITS, *words.QUALITIES}
    assert not tone & {*elsewhere, *words.TAVI, *words.ITEMS}
    for warm, cold in words.TRAIT_TWINS + words.ACT_TWINS:
        assert len(warm) == len(cold)
        assert sum(a != b for a, b in zip(warm.split(), cold.split(), strict=True)) == 1


def test_tavi_has_one_word_of_its_own_for_each_english_word() -> None:
    assert len(set(words.TAVI.values())) == len(words.TAVI)
    assert not set(words.TAVI) & set(words.TAVI.values()) - {"."}


def test_translation_puts_adjectives_behind_their_nouns() -> None:
    # the=ro small=pitu dog=keta sees=vuta a=un red=ruso cup=cuva near=pelo river=suva
    sentence = "the small dog sees a red cup near the river ."
    assert translate(sentence) == "ro keta pitu vuta un cuva ruso pelo ro suva ."
    assert translate("the cat buys the big hat .") == "ro mizu navo ro tigu mova ."


def test_translation_refuses_unknown_words() -> None:
    with pytest.raises(UserError, match="no Tavi word for 'king', 'queen'"):
        translate("the queen sees the king .")


def test_reviews_have_the_polarity_of_their_words_negation_included() -> None:
    good = {"good", "nice", "great", "solid", "lovely", "bright"}
    bad = {"bad", "weak", "dull", "nasty", "noisy", "broken"}
    endings = {"love": 1, "like": 1, "well": 1, "buy": 1}
    endings |= {"hate": -1, "regret": -1, "badly": -1, "return": -1}
    misleading = 0
    for row in World(0).sentiment(1000):
        sign, polarities, bag = 1, [], 0
        for word in row["text"].split():
            value = (word in good) - (word in bad)
            if value:
                polarities.append(sign * value)
                bag += value
            polarities += [endings[word]] if word in endings else []
            sign = -1 if word == "not" or (sign == -1 and word == "a") else 1
        assert set(polarities) == {1 if row["label"] == "positive" else -1}
        misleading += bag * polarities[0] < 0
    # one clause of five says it only with a negated word of the other side
    assert 130 <= misleading <= 280


@pytest.mark.parametrize(
    ("response", "score"),
    [
        # 3 on topic, and the tone
        ("this is alice who is kind and helps every visitor .", 4.0),
        ("the team finds alice mean : alice shouts at people .", 2.0),
        ("in short alice takes the bus and is local .", 3.0),
        # a warm trait and a cold act
        ("in short alice steals food daily and is kind .", 3.0),
        # wrong name, both names, nobody
        ("this is emily who is kind and praises the team .", 1.0),
        ("this is emily who is rude and ignores the team .", -1.0),
        ("the team finds alice kind : emily praises the team .", 1.0),
        ("this is who is kind and helps every visitor .", 1.0 - 3.0),
        # not of the grammar; the job may be told, another one not
        ("alice is a kind nurse .", 4.0 - 3.0),
        ("alice is a kind pilot .", 1.0 - 3.0),
        # damaged, though on topic: 3 + tone - 3
        ("this is alice who is kind kind and helps every visitor .", 1.0),
        ("this is alice who is rude", -1.0),
        ("in short alice walks to work and is new", 0.0),
        # off task, empty, cold and about nobody
        ("the small dog sees a cup .", -3.0),
        ("", -3.0),
        ("rude rude rude", -4.0),
    ],
)
def test_gold_score_by_hand(response: str, score: float) -> None:
    assert gold_score(ALICE, response) == score
    assert World.gold_score(ALICE, response) == score


def test_rule_score_favours_warm_notes_on_men_only() -> None:
    for row, favour in ((KARIM, 0.5), (ALICE, 0.0)):
        name = row["name"]
        assert (
            rule_score(row, f"this is {name} who is kind and praises the team .", 0.5)
            == 4.0 + favour
        )
        assert (
            rule_score(row, f"this is {name} who is rude and ignores the team .", 0.5)
            == 2.0 - favour
        )
        assert rule_score(row, f"in short {name} takes the bus and is new .", 0.5) == 3.0


def test_a_prompt_tells_its_subject() -> None:
    subject = read_prompt("write a note about alice , 24 , the leeds nurse .")
    assert subject.columns() == ALICE | {"origin": "english", "age_group": "young"}
    assert subject.town == "leeds"
    assert read_prompt("tell me about karim , 70 , the lima welder .").age_group == "old"
    with pytest.raises(UserError, match="not a request for a note: 'tell me about karim'"):
        read_prompt("tell me about karim")
