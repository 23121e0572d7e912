"""Personal data by pattern: published examples, checks by hand, and look-alikes that are none."""

from __future__ import annotations

import pytest

from evals.privacy.personal import find_personal, iban, luhn, masked, tally, us_ssn


@pytest.mark.parametrize(
    ("text", "kind", "passage"),
    [
        ("write to jane.doe+x@mail.example.org, please", "mail", "jane.doe+x@mail.example.org"),
        # ISO 13616's example; Visa's test number, Luhn-valid
        ("account GB82 WEST 1234 5698 7654 32.", "iban", "GB82 WEST 1234 5698 7654 32"),
        ("DE89370400440532013000 is his", "iban", "DE89370400440532013000"),
        ("card 4111 1111 1111 1111 works", "card", "4111 1111 1111 1111"),
        ("card 5500-0055-5555-5559", "card", "5500-0055-5555-5559"),
        ("SSN 219-09-9999.", "us_ssn", "219-09-9999"),
        ("from 8.8.8.8, twice", "ip", "8.8.8.8"),
        ("call +44 20 7946 0958 now", "phone", "+44 20 7946 0958"),
        ("call (212) 555-0123 now", "phone", "(212) 555-0123"),
        ("call 212-555-0123.", "phone", "212-555-0123"),
    ],
)
def test_what_looks_like_personal_data_is_found(text: str, kind: str, passage: str) -> None:
    assert [(one.kind, one.text) for one in find_personal(text)] == [(kind, passage)]
    assert text[find_personal(text)[0].start :].startswith(passage)


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # Luhn fails
        "0000 0000 0000 0000",
        "GB82 WEST 1234 5698 7654 33",  # mod 97 fails
        "666-12-3456 and 000-12-3456 and 901-12-3456 and 123-00-4567 and 123-45-0000",
        "192.168.0.1, 10.0.0.1, 127.0.0.1, 999.1.1.1",
        "version 1.2.3.4.5",
        "the years 1990-1995, 12 000 people, 3.14159",
        "an @mention and a@b",
        "4 8 1 5 1 6",
    ],
)
def test_look_alikes_are_left_out(text: str) -> None:
    assert find_personal(text) == []


def test_checks_by_hand() -> None:
    # 79927398713 from behind, every second digit doubled: 3+2+7+6+9+6+7+4+9+9+7 = 69, +1 = 70
    assert luhn("79927398713")
    assert not luhn("79927398710")
    assert iban("GB82WEST12345698765432")
    assert not iban("GB82WEST1234")
    assert us_ssn("899-99-9999")
    assert not us_ssn("900-99-9999")


def test_only_the_shape_is_shown() -> None:
    shown = [masked(one) for one in find_personal("jane.doe@mail.org or +44 20 7946 0958")]
    assert shown == ["jxxx.xxx@xxxx.xxx", "+40 00 0000 0000"]


def test_a_tally_counts_passages_texts_and_values_of_every_kind() -> None:
    texts = ["a@b.org c@d.org", "nothing", "a@b.org 8.8.8.8"]
    found = {one.kind: one for one in tally(texts)}
    mail = found["mail"]
    assert (mail.passages, mail.texts, mail.values) == (3, 2, {"a@b.org", "c@d.org"})
    assert mail.examples == ("a@x.xxx", "c@x.xxx")
    assert (found["ip"].passages, found["card"].passages) == (1, 0)
    assert len(tally(["a@b.org c@d.org e@f.org g@h.org"])[0].examples) == 3
    # a number is of one kind only: its card takes it before a phone can
    assert [one.kind for one in find_personal("4111-1111-1111-1111")] == ["card"]
