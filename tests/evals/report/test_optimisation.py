"""What the report says of over-optimisation, from made-up courses whose answer is known."""

import numpy as np
import pytest

from evals.overoptimisation import best_of_n, over_training
from evals.report.optimisation import optimisation_blocks, sentence

RNG = np.random.default_rng(0)


def rows(gold: list[float] | None) -> list[dict[str, object]]:
    """Six evaluations of forty prompts; the proxy rises by 1 each, gold moves as told."""
    start, noise = RNG.normal(size=40), RNG.normal(scale=0.2, size=(6, 40))
    return [
        {
            "update": 5 * k,
            "kl": float(k * k),
            "scores": (start + k + noise[k]).tolist(),
            "gold": [] if gold is None else (start + gold[k] + noise[-1 - k]).tolist(),
        }
        for k in range(6)
    ]


FALLS, RISES = [0.0, 1.0, 2.0, 1.0, -1.0, -3.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_fall_of_gold_beside_a_rising_proxy_is_said() -> None:
    text, tone = sentence("ppo", over_training(rows(FALLS)))
    assert tone == "bad"
    assert "Since its best at update 10 gold fell by" in text
    assert text.endswith("over-optimisation.")
    assert sentence("ppo", over_training(rows(RISES)))[1] == ""
    text, tone = sentence("ppo", over_training(rows(None)))
    assert (tone, "No gold reward was watched" in text) == ("warn", True)


def test_a_proxy_without_spread_is_said() -> None:
    found = best_of_n({"proxy": np.ones((3, 4)), "gold": RNG.normal(size=(3, 4))})
    assert sentence("best_of_n", found)[1] == "warn"


def test_both_courses_are_drawn_and_tabled() -> None:
    ledger = {
        "optimisation": {
            "ppo": over_training(rows(FALLS)),
            "best_of_n": best_of_n({"proxy": RNG.normal(size=(9, 8))}),
        }
    }
    blocks = optimisation_blocks(ledger)
    assert [block.kind for block in blocks] == [
        "text",
        "text",
        "figures",
        "table",
        "table",
        "table",
    ]
    figures, fits, best, ppo = blocks[2:]
    assert [f.title.partition(":")[0] for f in figures.figures] == ["Best of n", "PPO"]
    assert "gold from 0.00 to " in figures.figures[1].description
    assert "gold" not in figures.figures[0].description
    assert figures.figures[1].svg.count("var(--s1)") > figures.figures[0].svg.count("var(--s1)")
    assert [row.cells[0].text for row in fits.rows] == [
        "Best of n, proxy", "PPO, proxy", "PPO, gold",
    ]  # fmt: skip
    assert [row.cells[0].text for row in best.rows] == ["1", "2", "4", "8"]
    assert [row.cells[0].text for row in ppo.rows] == ["0", "5", "10", "15", "20", "25"]
    expected = ledger["optimisation"]["ppo"]["points"][5]["gold"]["value"]
    assert ppo.rows[5].cells[4].value == pytest.approx(expected)
    assert optimisation_blocks({}) == []
