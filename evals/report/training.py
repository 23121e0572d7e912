"""How the training went: curves of each stage, and the same in a table for those who cannot see.

All values come from the stages' `metrics.jsonl`. PPO's panels show whether it was healthy: score,
KL to the reference against its budget, entropy, length, and the two losses. Measurements on
held-out prompts stand as marks beside the lines of the training prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from evals.evidence import is_number
from evals.report.figures import GLYPHS, Line, line_panel
from evals.report.layout import Block, Cell, Figure, Figures, Row, Table, Text
from evals.report.numbers import count, number

Log = Sequence[Mapping[str, Any]]


class Panel(NamedTuple):
    """What one small drawing shows: keys of the log with their label; the second is held out."""

    title: str
    keys: tuple[tuple[str, str], ...]


PPO_PANELS = (
    Panel("Score", (("score/mean", "training"), ("eval/score", "held out"))),
    Panel("Gold score", (("eval/gold", "held out"),)),
    Panel(
        "KL to the reference (nats a response)", (("kl/k1", "training"), ("eval/kl", "held out"))
    ),
    Panel("Entropy (nats a token)", (("policy/entropy", "training"),)),
    Panel(
        "Response length (tokens)", (("response/length", "training"), ("eval/length", "held out"))
    ),
    Panel("Policy loss", (("policy/loss", "training"),)),
    Panel("Value loss", (("value/loss", "training"),)),
)
PPO_ROWS = (
    *(key for panel in PPO_PANELS for key, _ in panel.keys),
    "score/std",
    "score/unscored",
    "reward/mean",
    "kl/k3",
    "kl/beta",
    "policy/approx_kl",
    "policy/clip_fraction",
    "policy/ratio_max",
    "value/explained_variance",
    "response/eos_rate",
    "grad_norm/policy",
    "grad_norm/critic",
)
SUPERVISED_PANELS = (
    Panel("Loss", (("loss", "training"), ("eval_loss", "held out"))),
    Panel("Accuracy on pairs", (("accuracy", "training"), ("eval_accuracy", "held out"))),
)
SUPERVISED_ROWS = ("loss", "eval_loss", "accuracy", "eval_accuracy", "grad_norm")
LEGEND = (("\N{EM DASH}", "training", 1), (GLYPHS[2], "held out", 2))


OWN_SCORES = ("score/mean", "score/std", "score/unscored")
"""Keys of the whole score; any other below `score/` is a reward function's own."""


def part_panels(log: Log) -> tuple[Panel, ...]:
    """A panel for each reward function that was logged apart, in the order of the log."""
    keys = dict.fromkeys(key for row in log for key in row if key.startswith("score/"))
    return tuple(
        Panel(
            f"Reward function {key.removeprefix('score/')} (before weight and scale)",
            ((key, "training"), (f"eval/{key}", "held out")),
        )
        for key in keys
        if key not in OWN_SCORES
    )


def series(log: Log, key: str) -> tuple[list[float], list[float]]:
    """The finite values of `key`, each with the update it belongs to (the step, without updates).

    A held-out measurement is logged after an update and may not name it.
    """
    x, y, update = [], [], None
    for index, row in enumerate(log):
        update = row.get("update", update)
        if is_number(value := row.get(key)):
            x.append(float(row.get("step", index) if update is None else update))
            y.append(float(value))
    return x, y


def ppo_blocks(
    log: Log, budget: float | None, rewards: Sequence[Mapping[str, Any]] = ()
) -> list[Block]:
    """PPO's curves, whether its KL stayed within budget, its rewards, and the table."""
    if not log:
        return []
    parts = part_panels(log)
    figures = _figures((*PPO_PANELS, *parts), log, "ppo", "update", budget)
    blocks: list[Block] = [Text(budget_sentence(log, budget))]
    if figures:
        blocks.append(Figures("PPO by update", figures, LEGEND))
    if len(rewards) > 1:
        blocks.append(_rewards_table(rewards))
    return [*blocks, _table("PPO", log, (*PPO_ROWS, *_keys(parts)))]


def _rewards_table(rewards: Sequence[Mapping[str, Any]]) -> Table:
    """What the score is made of."""
    rows = []
    for term in rewards:
        scale, clip = term["normalise"], term["clip"]
        if isinstance(scale, Mapping):
            scale = f"mean {number(scale['mean'])}, std {number(scale['std'])}"
        cells = (term["name"], term["signature"], scale, "none" if clip is None else f"+-{clip:g}")
        weight = Cell(number(term["weight"]), value=term["weight"], numeric=True)
        rows.append(Row((Cell(cells[0]), weight, *map(Cell, cells[1:]))))
    header = ("Reward function", "Weight", "Signature", "Normalised", "Clipped")
    return Table("What PPO's score is made of", header, tuple(rows), "")


def _keys(panels: Sequence[Panel]) -> tuple[str, ...]:
    return tuple(key for panel in panels for key, _ in panel.keys)


def stage_blocks(logs: Mapping[str, Log]) -> list[Block]:
    """The curves of the supervised stages side by side, and a table of each."""
    figures = [
        replace(figure, title=f"{stage}: {figure.title}")
        for stage, log in logs.items()
        for figure in _figures(SUPERVISED_PANELS, log, stage, "step", None)
    ]
    blocks: list[Block] = []
    if figures:
        blocks.append(Figures("Supervised stages by step", tuple(figures), LEGEND))
    return [*blocks, *(_table(stage, log, SUPERVISED_ROWS) for stage, log in logs.items())]


def _figures(
    panels: Sequence[Panel], log: Log, name: str, xlabel: str, budget: float | None
) -> tuple[Figure, ...]:
    """Every panel that has data."""
    figures = []
    for index, panel in enumerate(panels):
        lines, said = [], []
        limit = budget if "kl/k1" in dict(panel.keys) else None
        for key, label in panel.keys:
            x, y = series(log, key)
            colour = next(colour for _, name, colour in LEGEND if name == label)
            if x:
                lines.append(Line(x, y, colour, dots=label != "training"))
                said.append(_describe(label, x, y, xlabel))
        if lines:
            rule = [f"budget {number(limit)} (dashed)"] if limit is not None else []
            svg = line_panel(f"{name}-{index}", lines, xlabel, limit)
            figures.append(Figure(svg, panel.title, "; ".join([*said, *rule])))
    return tuple(figures)


def _describe(label: str, x: Sequence[float], y: Sequence[float], unit: str) -> str:
    """A curve in words."""
    if len(y) == 1:
        return f"{label}: {number(y[0])} at {unit} {count(x[0])}"
    ends = f"from {number(y[0])} to {number(y[-1])} between {unit} {count(x[0])} and {count(x[-1])}"
    return f"{label}: {ends}, lowest {number(min(y))}, highest {number(max(y))}"


def budget_sentence(log: Log, budget: float | None) -> str:
    """Whether the KL stayed within its budget, in training and on held-out prompts."""
    parts = []
    for key, label in (("kl/k1", "training prompts"), ("eval/kl", "held-out prompts")):
        _, y = series(log, key)
        if y:
            parts.append(f"{number(y[-1])} on {label} (highest {number(max(y))})")
    if not parts:
        return "No KL to the reference was logged."
    text = f"Last KL to the reference, in nats a response: {', '.join(parts)}. "
    if budget is None:
        return text + "No KL budget was set."
    _, y = series(log, "kl/k1")
    over = sum(value > budget for value in y)
    if over:
        return text + f"The budget of {number(budget)} was exceeded in {over} of {len(y)} updates."
    return text + f"It stayed within the budget of {number(budget)}."


def _table(stage: str, log: Log, keys: Sequence[str]) -> Table:
    """First, last, lowest and highest logged value of each key."""
    rows = []
    for key in keys:
        _, y = series(log, key)
        if y:
            values = (y[0], y[-1], min(y), max(y))
            cells = (Cell(number(v), value=v, numeric=True) for v in values)
            rows.append(Row((Cell(key), Cell(count(len(y)), numeric=True), *cells)))
    header = ("Logged number", "Times logged", "First", "Last", "Lowest", "Highest")
    empty = f"{stage} logged none of the usual numbers."
    return Table(f"{stage}: numbers of the training log", header, tuple(rows), empty, folded=True)


def curves(stage: str, log: Log) -> dict[str, dict[str, list[float]]]:
    """The plotted series for `report.json`: key -> x and y."""
    ppo = (*PPO_ROWS, *_keys(part_panels(log)))
    keys = ppo if stage.endswith("ppo") else SUPERVISED_ROWS
    pairs = {key: series(log, key) for key in keys}
    return {key: {"x": x, "y": y} for key, (x, y) in pairs.items() if x}
