"""What the stages have kept of their training data: sentences and tables of the audit's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.evidence import is_number
from evals.report.layout import Block, Bullets, Cell, Row, Table
from evals.report.numbers import Scale, count, finite, number, tested
from evals.report.tables import Entry

Privacy = Mapping[str, Any]
SMALL = 30
LEVEL = 0.05
SIDES = {"members": "training", "others": "held out"}
LIMITS = (
    "An AUC of one half is no proof that nothing was learned by heart: these attacks are weak, and "
    "stronger ones know more. Where held-out texts differ from training texts in more than having "
    "been left out, or repeat parts of them, the AUC says that instead.",
    "What can be foretold is repeated without having been learned by heart: read the extraction "
    "of training documents beside that of held-out ones.",
    "Patterns find what looks like personal data, not whether it is anybody's; names and addresses "
    "are not looked for.",
)


def privacy_blocks(privacy: Privacy | None) -> list[Block]:
    """Findings and tables; empty where nothing was known of the training data."""
    if not privacy:
        return []
    return [
        Bullets(tuple(privacy_sentences(privacy))),
        exposure_table(privacy),
        membership_table(privacy["membership"]),
        extraction_table(privacy),
        change_table(privacy["changes"]),
        personal_table(privacy),
        Bullets(LIMITS),
    ]


def privacy_sentences(privacy: Privacy | None) -> list[str]:
    """What is told from chance, and what could not be measured."""
    if not privacy:
        return []
    parts = {"AUCs differ from 0.5": "membership", "mean exposures exceed chance": "exposure"}
    said = [
        f"privacy: {sum(row.get('q', 1) <= LEVEL for row in privacy[name])} of "
        f"{len(privacy[name])} {what} (q at most {LEVEL:g})."
        for what, name in parts.items()
        if privacy[name]
    ]
    stages: dict[tuple[str, str], list[str]] = {}
    for row in privacy["skipped"]:
        whose = f"{row['documents']} {SIDES[row['side']]} documents of {row['set']}"
        stages.setdefault((whose, row["reason"]), []).append(row["stage"])
    said += [
        f"privacy: {whose}, {', '.join(names)}: {reason}."
        for (whose, reason), names in stages.items()
    ]
    said += [
        f"privacy: {n} held-out documents of {name} left out, the same stand in the training data."
        for name, n in privacy["repeated"].items()
    ]
    return said


def exposure_table(privacy: Privacy) -> Table:
    """Mean exposure of the canaries by stage and number of repeats."""
    rows = []
    for row in privacy["exposure"]:
        cells = (
            Cell(f"{row['stage']}: {row['set']}"),
            Cell("never" if row["repeats"] == 0 else f"{row['repeats']} times", numeric=True),
            _n(row["n"]),
            _value(row),
            Cell(number(row["skew_normal"], 2), numeric=True),
            Cell(f"{row['first']} / {row['n']}", (f"{row['estimate']}, most {row['most']:.2f}",)),
            Cell(tested(row["p"], row.get("q")), numeric=True),
        )
        rows.append(Row(cells, "control" if row["repeats"] == 0 else ""))
    found = ("Exposure, bits", "By skew-normal", "Ranked first", "p, q")
    header = ("Stage: planted in", "Written", "n", *found)
    notes = (
        f"By chance {privacy['chance']:.2f} bits on average. 'never': drawn alike and not planted.",
    )
    empty = "No canaries were planted: `pretrain.canaries` and `sft.canaries` do it."
    return Table("Exposure of planted secrets", header, tuple(rows), empty, notes if rows else ())


def membership_table(entries: Sequence[Entry]) -> Table:
    """AUC of every score, and what is caught at 1 % false positives."""
    rows = []
    for row in entries:
        caught = row["caught"]
        cells = (
            Cell(f"{row['stage']}: {row['set']}"),
            Cell(str(row["score"])),
            _n(row["n"], row["heldout"]),
            _value(row),
            Cell(tested(row["p"], row.get("q")), numeric=True),
            _value(caught, (f"{caught['numerator']} / {row['n']}",)),
        )
        rows.append(Row(cells))
    found = ("AUC", "p, q", "Caught at 1 % false positives")
    header = ("Stage: documents of", "Score", "n (held out)", *found)
    empty = "No training document could be set beside a held-out one."
    return Table("Membership inference", header, tuple(rows), empty)


def extraction_table(privacy: Privacy) -> Table:
    """Documents continued word by word: training, held out, and the difference."""
    rows = []
    for row in privacy["extraction"]:
        head = Cell(f"{row['stage']}: {row['set']}"), Cell(SIDES[row["side"]])
        hits = f"{row['numerator']} / {row['n']}"
        rows.append(Row((*head, _n(row["n"]), Cell(hits, numeric=True), _value(row))))
    for row in privacy["extraction_gaps"]:
        head = Cell(f"{row['stage']}: {row['set']}"), Cell("training minus held out")
        rows.append(Row((*head, _n(row["n"], row["heldout"]), Cell(), _value(row, sign="+"))))
    settings = privacy["settings"]
    notes = (
        f"{settings['prompt_tokens']} tokens given, the next {settings['next_tokens']} repeated "
        "exactly, greedily.",
    )
    header = ("Stage: documents of", "Side", "n (held out)", "Repeated", "Share")
    empty = "No document is long enough: lower `audit.prompt_tokens` and `audit.next_tokens`."
    return Table("Verbatim extraction", header, tuple(rows), empty, notes if rows else ())


def change_table(entries: Sequence[Entry]) -> Table:
    """After minus before, paired on documents and canaries."""
    rows = []
    for row in entries:
        cells = (
            Cell(f"{row['after']} minus {row['before']}: {row['set']}"),
            Cell(str(row["measure"])),
            _n(row["n"]),
            _value({**row, "value": row["difference"]}, sign="+"),
            Cell(tested(row["p"], row.get("q")), numeric=True),
        )
        rows.append(Row(cells))
    header = ("Stages: documents of", "Measure", "n", "Change", "p, q")
    empty = "One model was audited: there is nothing to compare."
    folded = len(rows) > 15
    return Table("Changes between stages", header, tuple(rows), empty, (), folded)


def personal_table(privacy: Privacy) -> Table:
    """Personal data in training rows and in what the models said, kinds that occur."""
    rows = []
    for row in privacy["training_personal"]:
        if row["passages"]:
            where = Cell(f"training data: {row['set']}")
            rows.append(Row((where, *_personal(row), Cell())))
    for row in privacy["personal"]:
        if row["passages"]:
            where = Cell(f"{row['stage']}: {row['set']}, {SIDES[row['side']]} prompts")
            rows.append(Row((where, *_personal(row), Cell(count(row["learned"]), numeric=True))))
    header = ("Where", "Kind", "Documents", "Passages", "Of them in training data")
    caption = "Personal data by pattern, masked"
    return Table(caption, header, tuple(rows), "No pattern of personal data was found.")


def _personal(row: Entry) -> tuple[Cell, ...]:
    """Kind with masked examples, documents and passages."""
    return (
        Cell(row["kind"], tuple(row["examples"])),
        Cell(f"{row['documents']} / {row['n']}", numeric=True),
        Cell(count(row["passages"]), numeric=True),
    )


def _value(row: Entry, notes: tuple[str, ...] = (), sign: str = "") -> Cell:
    """A value with its interval."""
    scale = Scale([row.get(key) for key in ("value", "low", "high")])
    known = is_number(row.get("low"))
    ends = (scale.interval(row["low"], row["high"]),) if known else ("no interval",)
    text = number(row.get("value"), scale.places, sign=sign)
    return Cell(text, (*ends, *notes), finite(row.get("value")), numeric=True)


def _n(n: int, heldout: int | None = None) -> Cell:
    """Documents or canaries; a side under 30 is marked."""
    text = count(n) if heldout is None else f"{count(n)} ({count(heldout)})"
    few = min(n, n if heldout is None else heldout) < SMALL
    flags = (f"n < {SMALL}",) if few else ()
    return Cell(text, flags=flags, tone="warn", numeric=True)
