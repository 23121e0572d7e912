"""The fixed words of a report: method, assumptions, limits, and the texts it supports.

Legal and standards references are pointers to where this report offers evidence. Whether an
obligation is met depends on much that no report of a training run can know.
"""

from __future__ import annotations

from evals.report.collect import Run
from evals.report.layout import Bullets, Cell, Row, Table, plain
from evals.report.numbers import count, cut

PURPOSE = (
    "This report states what each stage of one training run did to capability and to bias, "
    "measured on the same items, with what is needed to check and repeat it."
)
ASSUMPTIONS = (
    "Items are a fair sample of the use they stand for; intervals speak about other items of the "
    "same kind, not about other uses.",
    "Items (or the named clusters) are independent of each other.",
    "The intervals treat the trained models as fixed: variation between training seeds is not in "
    "them. One run shows what this model does, not what the recipe always does.",
    "Group membership is as recorded in the data, or carried by names and words in the prompts.",
)
LIMITS = (
    "A measure of bias that covers 0 is no proof of fairness: it rules out effects larger than its "
    "interval on these items, and says nothing about groups, languages or harms not measured.",
    "Differences in log-likelihood show preference, not what users would meet in sampled text.",
    "The reward model's score is what PPO maximises; it is a proxy. Gold scores, where given, come "
    "from the stated rule and share its blind spots.",
    "Generated test data makes effects exact and repeatable; it does not stand for a population.",
    "Security, privacy, misuse, environmental cost and user interaction are outside this report.",
)
CROSS_REFERENCE: tuple[tuple[str, str, str], ...] = (
    (
        "NYC Local Law 144 of 2021 (6 RCNY 5-301)",
        "Rates and impact ratios by category and intersection; number of unknown membership; "
        "categories under 2%",
        "Rates by group",
    ),
    (
        "NYC Local Law 144 of 2021 (6 RCNY 5-302, 5-303)",
        "Source and explanation of the data (test data, not historical use); date; summary",
        "Identity; Verdict",
    ),
    (
        "EU AI Act, Annex IV, points 1 and 2(a)",
        "Version, date, software and hardware; how the system was developed, from which models",
        "Identity; Training",
    ),
    (
        "EU AI Act, Annex IV, point 2(d)",
        "Provenance, scope and characteristics of the data",
        "Identity (data); Method (contamination)",
    ),
    (
        "EU AI Act, Annex IV, point 2(g)",
        "Validation and testing procedures, metrics of accuracy and of potentially discriminatory "
        "impacts; test report dated and signed",
        "Capability; Bias; Identity (signature)",
    ),
    (
        "EU AI Act, Annex IV, points 3 and 4",
        "Capabilities and limits, accuracy for specific groups; why the metrics are appropriate",
        "Capability; Rates by group; Method",
    ),
    (
        "NIST AI 600-1, MS-2.11-001",
        "Benchmarks that quantify systemic bias; their assumptions, limits, contamination",
        "Bias; Method",
    ),
    (
        "NIST AI 600-1, MS-2.11-002",
        "Performance across groups; counterfactual prompts; fairness metrics with tests",
        "Bias; Rates by group; Reward model",
    ),
    (
        "NIST AI 600-1, GV-1.2-001",
        "Origin and history of training and generated data",
        "Identity (data, inputs, files)",
    ),
)


def method(run: Run) -> Bullets:
    """How the numbers were made."""
    evals = run.config.get("evals") or {}
    resamples = evals.get("resamples")
    draws = f", have {count(resamples)} resamples" if resamples else ""
    return Bullets(
        (
            "Every stage answers the same items. Each item yields a row of sufficient statistics; "
            "a metric is a function of their sum, and its definition stands in the table of "
            "definitions.",
            f"Intervals cover {100 * run.confidence:g}%. The method of each stands beside it; "
            f"bootstraps are seeded{draws} and draw whole clusters.",
            "Stages are compared on paired items: exact McNemar for right or wrong answers, "
            "permutation or sign-flip tests otherwise. The effect and its interval come first; p "
            "is two-sided unless it belongs to a gate.",
            "Tables are exploratory; q is their p-values adjusted by Benjamini-Hochberg. The "
            "verdict is a conjunction of declared rules and passes only if each holds, so it needs "
            "no correction; for single rules there are Holm-adjusted p-values.",
            "No harm is a one-sided non-inferiority test against a margin that the gate states; it "
            "is never read from a large p-value.",
            "A missing item is counted as missing, never as a zero.",
        ),
        "Method",
    )


def overlap_table(run: Run) -> Table:
    """Evaluation items that share word n-grams with the training text."""
    rows = []
    for entry in run.ledger.get("overlap") or ():
        share = entry.get("share")
        text = "" if share is None else f"{100 * share:.2f}%"
        examples = [cut(str(example), 160) for example in entry.get("examples") or ()]
        cells = (
            Cell(str(entry.get("task"))),
            Cell(str(entry.get("rows")), value=entry.get("rows"), numeric=True),
            Cell(text, value=share, numeric=True),
            Cell(examples[0] if examples else "none"),
        )
        rows.append(Row(cells))
    header = ("Task", "Items that overlap", "Share of items", "First example")
    notes = (
        "An item overlaps if it shares a long run of words with the text the models were trained "
        "on here; what a downloaded base model was trained on cannot be checked.",
    )
    empty = "Overlap of the evaluation items with the training text was not checked."
    return Table("Contamination", header, tuple(rows), empty, notes if rows else ())


def definition_table(run: Run) -> Table:
    """What each task measures, and its signature."""
    rows = []
    for task in run.ledger.get("tasks") or ():
        metrics = tuple(f"{k}: {text}" for k, text in (task.get("metrics") or {}).items())
        missing = task.get("missing") or 0
        lost = f"{missing} missing" if missing else ""
        cells = (
            Cell(str(task.get("title") or task.get("name")), (str(task.get("kind") or ""),)),
            Cell(count(task.get("n")), (lost,) if lost else (), task.get("n"), numeric=True),
            Cell(str(task.get("definition") or ""), metrics),
            Cell(str(task.get("signature") or ""), code=True),
        )
        rows.append(Row(cells))
    header = ("Task", "Items", "Definition", "Signature")
    return Table("Definitions and signatures", header, tuple(rows), "No task was evaluated.")


def cross_reference() -> Table:
    """Where this report offers evidence for the texts an auditor works with."""
    rows = tuple(Row(plain(*entry)) for entry in CROSS_REFERENCE)
    header = ("Text", "What it asks about", "Supported by section")
    notes = (
        "Supports: the section holds evidence on the matter. It is no legal advice, and no "
        "statement that an obligation applies or is met; the auditor's independence, the use in "
        "practice and the notices to those concerned lie outside this report.",
    )
    return Table("What this report supports", header, rows, "", notes)
