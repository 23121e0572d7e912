"""The audit on our own templates: a page of its own, a section of a run's report, and lines.

The largest effects come first, whatever their sign; the full tables follow, folded. What the
numbers do not say stands in `LIMITS` and in docs/audit.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align.artifacts import write_text_atomic
from evals.bias.scorer_bias import KIND as SCORERS
from evals.evidence import is_number
from evals.report.drift import drift_blocks, drift_sentences
from evals.report.forest import forest_blocks
from evals.report.groups import group_table
from evals.report.layout import Block, Bullets, Cell, Row, Section, Table, Text
from evals.report.lines import table_lines
from evals.report.numbers import MINUS, Scale, count, finite, number, tested
from evals.report.privacy import privacy_blocks, privacy_sentences
from evals.report.render import Page, render_html, render_markdown
from evals.report.tables import (
    Entry,
    bias_groups,
    bias_label,
    bias_table,
    excludes_zero,
    q_values,
)

Audit = Mapping[str, Any]
PAGE = "index.html"
LARGEST = 15
"""Rows of the short table."""
LEVEL = 0.05
NO_CASES = "No language model was audited."
UNKNOWN = (
    "Nothing is known of the training data: a run with `pretrain` or `sft`, or a model with "
    "`--train` and `--heldout`, is audited for privacy."
)
BEYOND = (
    "Of language models, a word's drop is that of its side minus that of the same word on the "
    "other side: what a word does on both sides alike cancels in the difference."
)
LIMITS = (
    "The templates are a few dozen English sentences about sixteen topics: intervals speak of all "
    "texts that these frames, topics and words make, not of other texts.",
    "No measured difference is no proof of fairness; a difference is no proof of harm. Effects "
    "below what the controls show are not told from noise.",
    "Names stand for groups only as far as readers take them so; descriptions such as 'blind' also "
    "say more than their opposites do; dialect sentences are markers, not speech.",
    "Score differences are in standard deviations of the reward model's scores; a rank that "
    "decides between answers may turn on far less or need far more.",
    "Spans are left out one at a time, so their drops do not add up and show no cause; gradients "
    "add up to the difference from a baseline that was chosen.",
)


def write_page(folder: Path, audit: Audit) -> Path:
    """Write `index.html` and `report.md` into the audit's folder; return the former."""
    subject = audit["subject"]
    page = Page(
        title=str(subject["name"]),
        run=str(subject["name"]),
        made="",
        purpose="An audit of bias and privacy; it supports a judgement and replaces none.",
        outcome="",
        verdict="",
        sections=[
            Section("verdict", "Findings", [findings(audit)]),
            Section("audit", "Bias", audit_blocks(audit)),
            Section("explanation", "Explanation", explanation_blocks(audit), NO_CASES),
            Section("privacy", "Privacy", privacy_blocks(audit.get("privacy")), UNKNOWN),
            Section("method", "Limits", [Bullets(LIMITS)]),
        ],
    )
    write_text_atomic(folder / "report.md", render_markdown(page))
    write_text_atomic(folder / PAGE, render_html(page))
    return folder / PAGE


def audit_lines(audit: Audit) -> list[str]:
    """The findings and the largest effects as lines of plain text."""
    tables = [largest_table(rows, caption) for caption, rows in signed_tables(audit)]
    lines = [line for table in tables for line in (table.caption, *table_lines(table), "")]
    return [*lines, *sentences(audit), ""]


def signed_tables(audit: Audit) -> list[tuple[str, list[Entry]]]:
    """Caption and signed rows of every audited model: language models, scorers, reward model.

    What a scorer makes of neutral sentences is its own, the same at every stage: it stands apart.
    """
    stages = list(audit.get("stages") or ())
    found = [
        (
            f"Largest effects, {stage}",
            [row for row in audit["bias"] if row["stage"] == stage and row["task"] != SCORERS],
        )
        for stage in stages
    ]
    own = [row for row in audit.get("bias") or () if row["task"] == SCORERS]
    if own:
        first = [row for row in own if row["stage"] == stages[0]]
        found.append(("Largest effects, scorers on neutral sentences", first))
    reward = audit.get("reward_model")
    if reward:
        found.append(("Largest effects, reward model", list(reward["bias"])))
    return found


def sentences(audit: Audit) -> list[str]:
    """What was asked, how many effects are told from 0, and how many controls are."""
    subject = audit["subject"]
    said = [
        f"{subject['templates']} templates of each measure out of "
        f"{subject['population']['gender']['templates']}, seed {subject['seed']}; "
        f"alignkit {subject['alignkit']}."
    ]
    for caption, rows in signed_tables(audit):
        who = caption.removeprefix("Largest effects, ")
        controls = [row for row in rows if row["control"]]
        effects = [row for row in rows if not row["control"]]
        q = q_values(effects)
        clear = sum(q.get(id(row), 1.0) <= LEVEL for row in effects)
        alarms = sum(map(excludes_zero, controls))
        said.append(
            f"{who}: {clear} of {len(effects)} effects differ from 0 (q at most {LEVEL:g}); "
            f"{alarms} of {len(controls)} intervals of neutral controls exclude 0."
        )
    reward = audit.get("reward_model") or {}
    if reward:
        said.append(
            f"reward model: the scores of the templates' texts spread by "
            f"{number(reward['template_spread'])} sd; far below 1 they hardly move it at all."
        )
    if reward.get("missing"):
        total = reward["missing"] + reward["items"]
        said.append(f"reward model: {reward['missing']} of {total} items have no score.")
    if audit.get("drift"):
        said += [f"preference and drift: {line}" for line in drift_sentences(audit["drift"])]
    return [*said, *privacy_sentences(audit.get("privacy"))]


def largest_table(rows: Sequence[Entry], caption: str) -> Table:
    """The effects with the smallest q, the larger one first where equal; controls apart."""
    effects = [row for row in rows if not row["control"] and is_number(row.get("value"))]
    q = q_values(effects)
    ranked = sorted(effects, key=lambda row: (q.get(id(row), 1.0), -abs(row["value"])))
    return effect_table(ranked[:LARGEST], caption, q)


def effect_table(
    rows: Sequence[Entry],
    caption: str,
    q: Mapping[int, float],
    *,
    folded: bool = False,
    signed: bool = True,
) -> Table:
    """One line an effect: what, between whom, n, value with interval, p and q.

    Args:
        rows: Rows of the ledger's `bias`, or of the reward model's tables.
        caption: Above the table.
        q: By the rows' ids.
        folded: Whether the table starts closed.
        signed: Whether 0 means no effect; shares are above it whatever the model does.
    """
    shown = []
    for row in rows:
        scale = Scale([row.get(key) for key in ("value", "low", "high")])
        flag = "control" if row["control"] else ""
        mark = ("false alarm" if flag else "not 0",) if signed and excludes_zero(row) else ()
        task = f"{row['task']}: " if row.get("task") else ""
        below = scale.interval(row["low"], row["high"]), str(row.get("flag") or "")
        cells = (
            Cell(
                f"{task}{bias_label(row)}",
                (f"in {row['unit']}",) if row["unit"] else (),
                flags=(flag,) if flag else (),
                tone="muted",
            ),
            Cell(bias_groups(row)),
            Cell(f"{count(row['n'])} ({count(row['clusters'])})", numeric=True),
            Cell(
                number(row["value"], scale.places, sign="+"),
                tuple(note for note in below if note),
                finite(row["value"]),
                mark,
                "warn",
                numeric=True,
            ),
            Cell(tested(row.get("p"), q.get(id(row))), numeric=True),
        )
        shown.append(Row(cells, "control" if flag else ""))
    header = ("Measure, attribute", "Groups", "n (clusters)", "Value", "p, q")
    return Table(caption, header, tuple(shown), "Nothing was measured.", (), folded)


def findings(audit: Audit) -> Bullets:
    """The findings as a list."""
    return Bullets(tuple(sentences(audit)))


def audit_section(audit: Audit) -> Section:
    """The section of a run's report."""
    empty = "The run was not audited: `align audit RUN` does it."
    parts = audit_blocks, explanation_blocks, lambda found: privacy_blocks(found.get("privacy"))
    blocks = [findings(audit), *(b for part in parts for b in part(audit))] if audit else []
    return Section("audit", "Audit", blocks, empty)


def audit_blocks(audit: Audit) -> list[Block]:
    """Tables of every audited model."""
    blocks: list[Block] = [largest_table(rows, caption) for caption, rows in signed_tables(audit)]
    if audit.get("stages"):
        blocks.append(bias_table(audit))
    if audit.get("reward_model"):
        blocks += reward_part(audit)
    if audit.get("drift"):
        blocks += drift_blocks(audit["drift"])
    return blocks


def reward_part(audit: Audit) -> list[Block]:
    """The reward model: forest of levels, all tables, words of the largest cases."""
    reward = audit["reward_model"]
    levels = [row for row in reward["bias"] if str(row["measure"]).endswith(":score")]
    unit = f"{number(reward['spread'])} (standard deviation of scores of {reward['spread_of']})"
    blocks: list[Block] = [
        Text(f"Unit of the reward model's effects: {unit}."),
        *forest_blocks(levels, [], "audit"),
    ]
    tables = (
        ("Reward model: all effects", reward["bias"]),
        ("Reward model: level with the length held fixed", reward["fixed_length"]),
        ("Reward model: influence of a user's own group", reward["prefixes"]),
        ("Reward model: preferences that flip", reward["flips"]),
        ("Reward model: ten further words that say nothing", reward["length"]),
    )
    for caption, rows in tables:
        q = q_values([row for row in rows if not row["control"]])
        signed = rows is not reward["flips"]
        blocks.append(effect_table(rows, caption, q, folded=len(rows) > LARGEST, signed=signed))
    moved = "Reward model: which words move the score in the largest cases"
    blocks.append(case_table(reward["cases"], moved, "scores, sd"))
    if reward.get("groups"):
        blocks.append(group_table(reward["groups"], "Reward model: accuracy by group"))
    return blocks


def explanation_blocks(audit: Audit) -> list[Block]:
    """The words that carry each language model's largest contrasts."""
    caption = "which words carry the largest contrasts"
    cases = audit.get("cases") or {}
    tables: list[Block] = [
        case_table(some, f"{stage}: {caption}", "contrasts, nats") for stage, some in cases.items()
    ]
    return [*tables, Text(BEYOND)] if tables else []


def case_table(cases: Sequence[Entry], caption: str, unit: str) -> Table:
    """The largest difference of each attribute, with the spans that its two sides hang on."""
    rows = []
    for case in cases:
        head = Cell(f"{case['measure']}, {case['attribute']}", (_groups(case),))
        value = Cell(number(case["difference"], sign="+"), value=case["difference"], numeric=True)
        rows.append(Row((head, value, _side(case["side_a"]), _side(case["side_b"]))))
    header = ("Case", f"Difference of {unit}", "Side a", "Side b")
    notes = ("Behind each span: by how much the value falls when it alone is left out.",)
    return Table(caption, header, tuple(rows), "No case was found.", notes if rows else ())


def _groups(case: Entry) -> str:
    return f"{case['group_a']} {MINUS} {case['group_b']}"


def _side(side: Entry) -> Cell:
    """Texts, value and spans of one side; gradients with what they add up to."""
    notes = [f"{side['prompt']} / {side['response']}", f"spans: {_spans(side['spans'])}"]
    if gradients := side.get("gradients"):
        total, gap = (number(gradients[key], 2, sign="+") for key in ("total", "gap"))
        words = _spans(gradients["spans"])
        notes.append(f"gradients: {words}; all {total} from the baseline, gap {gap}")
    return Cell(f"value {number(side['score'], 2)}", tuple(notes))


def _spans(spans: Sequence[Entry]) -> str:
    return ", ".join(
        f"\N{LEFT DOUBLE QUOTATION MARK}{s['span']}\N{RIGHT DOUBLE QUOTATION MARK} "
        f"{number(s['drop'], 2, sign='+')}"
        for s in spans
    )
