"""Over-optimisation: gains of proxy and gold against the distance from the start, with curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evals.overoptimisation import FORMULAS, curve
from evals.report.figures import GLYPHS, Line, Mark, curve_panel
from evals.report.layout import Block, Cell, Figure, Figures, Row, Table, Text
from evals.report.numbers import Scale, count, number
from evals.report.tables import Entry, level_cell

REWARDS = (("proxy", "proxy: what PPO adds up", 0), ("gold", "gold", 1))
"""Key, label, colour and mark."""
TITLES = {"best_of_n": "Best of n", "ppo": "PPO"}
CURVE_POINTS = 60


def optimisation_blocks(ledger: Mapping[str, Any]) -> list[Block]:
    """Sentences, drawings and tables of best-of-n and PPO; empty where neither was measured."""
    found = ledger.get("optimisation") or {}
    if not found:
        return []
    known = [key for key in TITLES if key in found]
    used = [r for r in REWARDS if any(r[0] in found[key]["units"] for key in known)]
    legend = tuple((GLYPHS[colour], label, colour) for _, label, colour in used)
    figures = tuple(_figure(key, found[key]) for key in known)
    title = "Gain over the start against the square root of the KL; lines: fitted curves"
    blocks: list[Block] = [Text(*sentence(key, found[key])) for key in known]
    blocks.append(Figures(title, figures, legend, wide=True))
    return [*blocks, _fit_table(found, known), *(_point_table(k, found[k]) for k in known)]


def sentence(key: str, entry: Entry) -> tuple[str, Any]:
    """What happened to proxy and gold, and the tone to say it in."""
    since, best = entry["changes"].get("since_start") or {}, entry["changes"].get("since_best")
    if "proxy" not in since:
        return f"{TITLES[key]}: the proxy gives all responses at the start the same score.", "warn"
    text = f"{TITLES[key]}: from start to end the proxy moved by {_gain(since['proxy'])}"
    if "gold" not in since or best is None:
        return f"{text}. No gold reward was watched, so nothing tells whether that is real.", "warn"
    step, name = _step(entry["points"][entry["changes"]["best"]])
    text += f" and gold by {_gain(since['gold'])}, in standard deviations at the start. "
    if best["gold"]["high"] < 0 < best["proxy"]["low"]:
        return (
            f"{text}Since its best at {name} {step} gold fell by {_gain(best['gold'])} while "
            f"the proxy rose by {_gain(best['proxy'])}: over-optimisation.",
            "bad",
        )
    return f"{text}Gold is best at {name} {step}; it has not clearly fallen since.", ""


def _gain(row: Entry) -> str:
    scale = _scale(row)
    return (
        f"{number(row['value'], scale.places, sign='+')} {scale.interval(row['low'], row['high'])}"
    )


def _step(point: Entry) -> tuple[str, str]:
    """Number and name of a step."""
    name = "n" if "n" in point else "update"
    return count(point[name]), name


def _figure(key: str, entry: Entry) -> Figure:
    """Mark with intervals and the fitted curves."""
    points = entry["points"]
    marks: list[Mark] = []
    lines: list[Line] = []
    said: list[str] = []
    x = [point["distance"] for point in points]
    smooth = np.linspace(0, max(x), CURVE_POINTS)
    for name, _, colour in REWARDS:
        if name not in entry["units"]:
            continue
        gains = [point[name] for point in points]
        marks += [
            Mark(d, row["value"], row["low"], row["high"], colour)
            for d, row in zip(x, gains, strict=True)
        ]
        own = entry["fits"][name]
        if own["alpha"] is not None:
            y = curve(smooth, own["alpha"]["value"], own["beta"]["value"], own["form"])
            lines.append(Line(smooth.tolist(), y.tolist(), colour))
        values = [row["value"] for row in gains]
        said.append(
            f"{name} from {number(values[0])} to {number(values[-1])}, "
            f"highest {number(max(values))}"
        )
    svg = curve_panel(f"optimisation-{key}", marks, lines, "square root of the KL (nats)", "zero")
    reach = f"distance from {number(x[0])} to {number(max(x))}; "
    return Figure(svg, f"{TITLES[key]}: gain, standard deviations", reach + "; ".join(said))


def _fit_table(found: Mapping[str, Entry], known: list[str]) -> Table:
    """Coefficients of the curves."""
    rows = []
    for key in known:
        for name, _, _ in REWARDS:
            own = found[key]["fits"].get(name)
            if own is None:
                continue
            top = "no peak shown" if own["peak"] is None else number(own["peak"])
            unit = Cell(number(found[key]["units"][name]), numeric=True)
            cells = [_coefficient(own[part]) for part in ("alpha", "beta")]
            head = Cell(f"{TITLES[key]}, {name}", (FORMULAS[own["form"]],))
            rows.append(Row((head, *cells, Cell(top, numeric=True), unit)))
    header = ("Curve", "alpha", "beta", "d of the peak", "Raw reward of one sd")
    notes = (
        "d: square root of the KL. Least squares over all points (Gao 2022, 2210.10760); intervals "
        "over prompts, which says nothing of other runs. A peak beyond the largest d measured is "
        "an extrapolation.",
    )
    return Table("Over-optimisation: fitted curves", header, tuple(rows), "", notes)


def _coefficient(row: Entry | None) -> Cell:
    return Cell("too few points", tone="muted") if row is None else level_cell(row, _scale(row))


def _point_table(key: str, entry: Entry) -> Table:
    """Every point of the drawing."""
    rows = []
    for point in entry["points"]:
        cells = [
            level_cell(point[name], _scale(point[name])) if name in point else Cell()
            for name, _, _ in REWARDS
        ]
        numbers = (Cell(number(point[k]), numeric=True) for k in ("kl", "distance"))
        rows.append(Row((Cell(_step(point)[0], numeric=True), *numbers, *cells)))
    name = _step(entry["points"][0])[1]
    header = (name.capitalize() if name != "n" else name, "KL", "d", "Proxy gain", "Gold gain")
    n = count(entry["prompts"])
    notes = (f"{n} prompts; gains are paired with the start, in standard deviations there.",)
    return Table(f"{TITLES[key]}: gains by step", header, tuple(rows), "", notes, folded=True)


def _scale(row: Entry) -> Scale:
    return Scale([row.get(key) for key in ("value", "low", "high")])
