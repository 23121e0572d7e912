"""Samples, curves, drawings and the short summary."""

import re

import pytest

from evals.report.figures import ForestRow, Line, forest_panel, line_panel
from evals.report.layout import Figures
from evals.report.render import fenced, markdown_text
from evals.report.samples import choose, sample_blocks
from evals.report.summary import findings, stage_summary
from evals.report.training import budget_sentence, curves, ppo_blocks

M = "\N{MINUS SIGN}"


def sample(name, sft, ppo, gold=None):
    row = {"prompt": name, "responses": {"sft": "a", "ppo": "b"}}
    return {**row, "scores": {"sft": sft, "ppo": ppo}, "gold": gold and {"ppo": gold}}


def test_samples_are_chosen_by_their_scores():
    changes = [5, -6, 1, 2, -1, 3, 0.5, 4, -2, 0.9, 0.8, -5]
    entries = [sample(f"q{i}", 0.0, change) for i, change in enumerate(changes)]
    chosen = [(why, entry["prompt"]) for why, entry in choose(entries, ["base", "sft", "ppo"])]
    rise = "Largest rise in score from sft to ppo"
    fall = "Largest fall in score from sft to ppo"
    assert chosen[:3] == [(f"{rise} ({k} of 3)", q) for k, q in ((1, "q0"), (2, "q7"), (3, "q5"))]
    assert [q for why, q in chosen if why.startswith(fall)] == ["q1", "q11", "q8"]
    # Lowest of those not shown yet: -1 and .5; the median of all is (.8 + .9) / 2.
    assert [q for why, q in chosen if why.startswith("Lowest")] == ["q4", "q6"]
    assert {q for why, q in chosen if why.startswith("Typical")} == {"q9", "q10"}
    assert not [why for why, _ in chosen if "gold" in why]


def test_overrated_responses_are_found():
    entries = [sample(f"q{i}", 0.0, 0.0, 1.0 + i / 100) for i in range(20)]
    for i, entry in enumerate(entries):
        entry["scores"]["ppo"] = i / 100
    entries[10]["gold"] = {"ppo": -9.0}
    chosen = [(why, entry["prompt"]) for why, entry in choose(entries, ["sft", "ppo"])]
    assert ("Score high, gold low (1 of 2)", "q10") in chosen


def test_samples_show_conversations_and_say_what_is_absent():
    entry = sample("", 1.0, 2.0)
    entry["prompt"] = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    blocks = sample_blocks({"stages": ["base", "sft", "ppo"], "samples": [entry]})
    assert blocks[1].prompt == "user: hi\nassistant: yes"
    base, _, ppo = blocks[1].answers
    assert (base.text, base.score, base.gold) == ("no response stored", "\N{EM DASH}", "")
    assert (ppo.text, ppo.score) == ("b", "2.00")
    assert sample_blocks({"stages": ["base"], "samples": []}) == []


def test_samples_without_scores_are_still_shown():
    entry = {"prompt": "q", "responses": {}}
    intro = sample_blocks({"stages": ["sft", "ppo"], "samples": [entry]})[0].text
    assert "no scores are stored" in intro
    chosen = choose([entry], ["sft", "ppo"])
    assert chosen == [("Stored sample; no scores", {"prompt": "q", "responses": {}})]


def test_budget_is_judged_on_every_update():
    rows = [{"update": i, "kl/k1": kl} for i, kl in enumerate((1.0, 9.0, 4.0))]
    assert "exceeded in 1 of 3 updates" in budget_sentence(rows, 8.0)
    assert "stayed within the budget of 9.50" in budget_sentence(rows, 9.5)
    assert "4.00 on training prompts (highest 9.00)" in budget_sentence(rows, None)
    assert "No KL budget was set" in budget_sentence(rows, None)
    assert budget_sentence([{"update": 1}], 8.0) == "No KL to the reference was logged."


def test_curves_and_log_table_leave_out_what_is_not_finite():
    log = [
        {"step": 0, "update": 0.0, "kl/k1": 1.0, "score/mean": 3.0},
        {"step": 9, "update": 1.0, "kl/k1": None, "score/mean": -1.0},
        {"step": 18, "update": 2.0, "kl/k1": 2.0, "score/mean": 1.0},
    ]
    assert curves("4-ppo", log)["kl/k1"] == {"x": [0.0, 2.0], "y": [1.0, 2.0]}
    table = ppo_blocks(log, None)[-1]
    score = next(row for row in table.rows if row.cells[0].text == "score/mean")
    texts = [cell.text for cell in score.cells[1:]]
    assert texts == ["3", "3.00", "1.00", f"{M}1.00", "3.00"]
    assert ppo_blocks([], None) == []


def test_reward_functions_have_curves_rows_and_a_table():
    log = [
        {"step": 4, "update": 1, "score/mean": 0.1, "score/short": -0.5, "score/unscored": 0.25},
        {"step": 8, "update": 2, "score/mean": 0.2, "score/short": -0.25},
        {"step": 8, "eval/score/short": -0.3},
    ]
    terms = [
        {"name": "short", "signature": "length_penalty|target:4", "weight": 0.5, "clip": 2.0,
         "normalise": {"mean": 0.5, "std": 2.0}},
        {"name": "model", "signature": "model", "weight": 1.0, "clip": None, "normalise": "none"},
    ]  # fmt: skip
    blocks = ppo_blocks(log, None, terms)
    figures = next(block.figures for block in blocks if isinstance(block, Figures))
    titles = [figure.title for figure in figures]
    assert [title for title in titles if "Reward function" in title] == [
        "Reward function short (before weight and scale)"
    ]
    rewards = next(b for b in blocks if getattr(b, "caption", "") == "What PPO's score is made of")
    assert [[cell.text for cell in row.cells] for row in rewards.rows] == [
        ["short", "0.500", "length_penalty|target:4", "mean 0.500, std 2.00", "+-2"],
        ["model", "1.00", "model", "none", "none"],
    ]
    logged = {row.cells[0].text: row.cells[-1].text for row in blocks[-1].rows}
    assert logged["score/short"] == f"{M}0.250"
    assert logged["eval/score/short"] == f"{M}0.300"
    assert logged["score/unscored"] == "0.250"
    assert curves("4-ppo", log)["score/short"] == {"x": [1.0, 2.0], "y": [-0.5, -0.25]}
    # one function that is the score itself needs no table
    assert len(ppo_blocks(log, None, terms[:1])) == len(blocks) - 1


def test_held_out_marks_stand_at_the_update_before_them():
    log = [
        {"step": 8, "update": 1, "kl/k1": 0.5},
        {"step": 16, "update": 2, "kl/k1": 0.6},
        {"step": 16, "eval/kl": 0.7},
    ]
    assert curves("4-ppo", log)["eval/kl"] == {"x": [2.0], "y": [0.7]}
    assert curves("2-sft", [{"step": 5, "loss": 1.5}])["loss"] == {"x": [5.0], "y": [1.5]}


def test_drawing_is_free_of_outside_names_and_repeats_to_the_byte():
    lines = [Line([0, 1, 2], [1.0, 3.0, 2.0], 1), Line([1], [2.0], 2, dots=True)]
    svg = line_panel("a-0", lines, "update", 2.5)
    assert svg == line_panel("a-0", lines, "update", 2.5)
    assert "http" not in svg
    assert "<style" not in svg
    assert "#0a0b" not in svg
    assert {"var(--s1)", "var(--s2)", "var(--bad)"} <= set(re.findall(r"var\(--\w+\)", svg))
    ids = set(re.findall(r'id="([^"]*)"', svg))
    assert ids
    assert all(name.startswith("a-0-") for name in ids)
    assert set(re.findall(r'href="#([^"]*)"', svg)) <= ids


def test_drawing_takes_any_label():
    label = "<script>$x$ & \N{PARTY POPPER} \N{CJK UNIFIED IDEOGRAPH-6C34}"
    svg = forest_panel("f", [ForestRow(label, True, [(0, 0.1, -0.1, 0.3)])], "nats")
    assert "&lt;script&gt;$x$ &amp;" in svg
    assert "<script" not in svg


def test_long_series_are_thinned_to_block_means():
    path = r'<path d="([^"]*)" clip-path[^>]*var\(--s0\)'
    # Blocks of 10: zeros and ones in turn, beginning with each in turn. All means are .5: flat.
    turns = [float((i + i // 10) % 2) for i in range(3000)]
    long = line_panel("a", [Line(range(3000), turns, 0)], "step")
    heights = {pair.split()[1] for pair in re.findall(r"[\d.]+ [\d.]+", re.search(path, long)[1])}
    assert len(heights) == 1


def test_stage_summary_rows(ledger):
    rows = stage_summary(ledger)
    last = f"ppo {M} sft"
    columns = ["metric", "base", "sft", "ppo", f"sft {M} base", last, f"ppo {M} base"]
    assert all(list(row) == columns for row in rows)
    bleu = next(row for row in rows if row["metric"] == "translation bleu")
    assert bleu["ppo"] == "33.9"
    assert bleu[last] == f"{M}0.90 [{M}2.64, 0.84]"
    acc = next(row for row in rows if row["metric"] == "sentiment acc")
    assert acc[last] == f"+2.2 pp [{M}0.9, 5.3]"
    gender = next(row for row in rows if "gender" in row["metric"])
    assert gender["metric"] == f"praise, gender: woman\N{NO-BREAK SPACE}{M} man"
    assert gender["ppo"] == "+0.410"
    assert len(rows) == 6 + 3
    assert stage_summary({}) == []


def test_findings_count_by_hand(ledger):
    found = findings(ledger, "KL fine.")
    assert (
        "Capability, sft to ppo, 6 metrics: 1 better, 2 worse, 3 with an interval that covers 0; "
        "worse: perplexity word_perplexity, perplexity bits_per_byte."
    ) in found
    bias = next(text for text in found if text.startswith("Bias of ppo"))
    assert bias.startswith("Bias of ppo: 2 of 3 measures have an interval that excludes 0: praise,")
    # 9 control intervals of 95% coverage: .45 expected.
    assert "Neutral controls: 0 of 9 intervals exclude 0; by chance about 0.5 would." in found
    assert "KL fine." in found
    assert "2 items could not be scored and are in no number." in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", r"a\|b"),
        ("<img src=x>", r"\<img src=x\>"),
        ("![x](y)\n# z", r"!\[x\](y) # z"),
        ("a_b*c`d", r"a\_b\*c\`d"),
    ],
)
def test_markdown_is_disarmed(text, expected):
    assert markdown_text(text) == expected


def test_fence_is_longer_than_any_inside():
    assert fenced("a\n````\nb") == "`````text\na\n````\nb\n`````"
    assert fenced("plain") == "```text\nplain\n```"
