"""The gate: requirements declared before a run, judged from its stored results alone.

Nothing is computed again and nothing is forgiven: a metric that was not measured fails, and too
few items is *insufficient evidence* rather than a pass. Limits are held against the end of the
interval that speaks against the model, so a requirement passes only when it is shown to hold; with
two-sided intervals of coverage c each such test is one-sided at (1 - c) / 2, and its p-value
(`evals.limits`) agrees with the interval. Non-inferiority (`not_worse_than`) tests the paired
difference against the margin in the same way; it is never inferred from a large p-value. The
verdict is the conjunction of the rules, so a wrong pass needs every broken rule to pass at once and
needs no correction (intersection-union, Berger 1982, doi:10.1080/00401706.1982.10487790); for
reading rules one by one, Holm-adjusted p-values stand beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from align.config import GateRule
from evals.evidence import Evidence, Rows, differences, levels, not_measured
from evals.limits import p_not_above, p_not_below
from evals.multiplicity import holm

Outcome = Literal["pass", "fail", "insufficient evidence"]


@dataclass(frozen=True)
class RuleResult:
    """One rule and what was found."""

    requirement: str
    """The rule in words."""
    outcome: Outcome
    reason: str
    """One sentence with the numbers."""
    value: float | None = None
    """The judged number: an estimate, or a paired difference; the worst where several match."""
    low: float | None = None
    high: float | None = None
    n: int | None = None
    """Items behind it."""
    p: float | None = None
    """One-sided p of "the requirement is broken", by the stored test (`evals.limits`)."""
    p_holm: float | None = None
    """The same, adjusted over all rules of the gate (Holm 1979)."""


class Verdict(NamedTuple):
    """The conjunction of the rules."""

    outcome: Outcome
    rules: tuple[RuleResult, ...]
    reasons: tuple[str, ...]
    """Why the outcome is what it is: the reasons of the rules that decided it."""

    def as_json(self) -> dict[str, Any]:
        """Plain values for `report.json`."""
        rules = [asdict(rule) for rule in self.rules]
        return {"outcome": self.outcome, "reasons": list(self.reasons), "rules": rules}


class _Check(NamedTuple):
    """One comparison of a rule with one number."""

    holds: bool
    text: str
    evidence: Evidence
    distance: float
    """How far the estimate lies inside its limit, in the metric's unit."""
    p: float
    """One-sided, of the limit's null; NaN without an interval."""


def judge(
    rules: Iterable[GateRule],
    ledger: Mapping[str, Any],
    ppo_metrics: Rows,
    confidence: float = 0.95,
) -> Verdict:
    """Hold every rule against the stored results.

    Args:
        rules: The requirements. None at all is insufficient evidence, not a pass.
        ledger: `5-evals/ledger.json`; a missing table counts as empty, so its rules fail.
        ppo_metrics: Rows of `4-ppo/metrics.jsonl`.
        confidence: Coverage of the ledger's intervals; used for the p-values only.
    """
    judged = [_judge_rule(rule, ledger, ppo_metrics, confidence) for rule in rules]
    results = tuple(_with_holm(judged))
    outcome: Outcome = "pass"
    for candidate in ("insufficient evidence", "fail"):
        if any(result.outcome == candidate for result in results):
            outcome = candidate
    if not results:
        return Verdict("insufficient evidence", (), ("no requirement was declared",))
    decided = (f"{r.requirement}: {r.reason}" for r in results if r.outcome == outcome)
    return Verdict(outcome, results, tuple(decided))


def describe(rule: GateRule) -> str:
    """The rule in words."""
    stage = "" if rule.task in ("ppo", "reward_model") else f" of {rule.stage}"
    parts = []
    if rule.at_least is not None:
        parts.append(f"at least {rule.at_least:g}")
    if rule.at_most is not None:
        parts.append(f"at most {rule.at_most:g}")
    if rule.not_worse_than is not None:
        parts.append(f"not worse than {rule.not_worse_than} by more than {rule.margin:g}")
    return f"{rule.task} {rule.metric}{stage}: {' and '.join(parts) or 'no limit stated'}"


def _judge_rule(
    rule: GateRule, ledger: Mapping[str, Any], ppo_metrics: Rows, confidence: float
) -> RuleResult:
    """Collect the evidence, then decide: missing, too little, broken, or shown to hold."""
    requirement = describe(rule)
    checks: list[_Check] = []
    if rule.at_least is not None or rule.at_most is not None:
        found = levels(rule, ledger, ppo_metrics)
        if not found:
            return RuleResult(requirement, "fail", not_measured(rule, ledger, ppo_metrics))
        checks += [check for evidence in found for check in _limits(rule, evidence, confidence)]
    if rule.not_worse_than is not None:
        found = differences(rule, ledger)
        if not found:
            pair = f"{rule.not_worse_than} and {rule.stage}"
            return RuleResult(requirement, "fail", f"no paired comparison of {pair} is stored")
        checks += [_non_inferior(rule, evidence, confidence) for evidence in found]
    if not checks:
        return RuleResult(requirement, "fail", "the rule states no limit")
    return _decide(requirement, rule.minimum_n, checks)


def _decide(requirement: str, minimum_n: int, checks: Sequence[_Check]) -> RuleResult:
    """The result of a rule from all its comparisons; the worst one is reported."""
    known = [check.evidence.n for check in checks if check.evidence.n is not None]
    n = min(known) if len(known) == len(checks) else None
    p_values = [check.p for check in checks]
    worst = min(checks, key=lambda check: (check.holds, check.distance))
    outcome: Outcome = "pass" if all(check.holds for check in checks) else "fail"
    reason = worst.text
    if n is None or n < minimum_n:
        outcome = "insufficient evidence"
        have = "the number of items is not stored" if n is None else f"only {n} items"
        reason = f"{have}, {minimum_n} required ({worst.text})"
    p = max(p_values) if all(math.isfinite(p) for p in p_values) else None
    _, value, low, high, *_ = worst.evidence
    return RuleResult(requirement, outcome, reason, value, low, high, n, p)


def _limits(rule: GateRule, evidence: Evidence, confidence: float) -> list[_Check]:
    """Hold the interval against the absolute limits."""
    shown = f"{evidence.label} {_with_interval(evidence)}"
    checks = []
    if rule.at_least is not None:
        holds, inside = evidence.low >= rule.at_least, evidence.value - rule.at_least
        text = f"{shown}, {_state(holds, inside, 'at least', 'below')} {rule.at_least:g}"
        p = p_not_above(evidence, rule.at_least, confidence)
        checks.append(_Check(holds, text, evidence, inside, p))
    if rule.at_most is not None:
        holds, inside = evidence.high <= rule.at_most, rule.at_most - evidence.value
        text = f"{shown}, {_state(holds, inside, 'at most', 'above')} {rule.at_most:g}"
        p = p_not_below(evidence, rule.at_most, confidence)
        checks.append(_Check(holds, text, evidence, inside, p))
    return checks


def _state(holds: bool, distance: float, inside: str, outside: str) -> str:
    """In words: shown to hold, held by the estimate but not by its interval, or broken."""
    if holds:
        return inside
    return f"not shown to be {inside}" if distance >= 0 else outside


def _non_inferior(rule: GateRule, evidence: Evidence, confidence: float) -> _Check:
    """One-sided test of the paired difference against the margin.

    Where neither direction is better (a bias), both sides are tested: equivalence.
    """
    label, value, low, high, _, better, _ = evidence
    losses = {"higher": (-low, -value), "lower": (high, value)}
    end, point = losses.get(better, (max(-low, high), abs(value)))
    holds = end <= rule.margin
    state = _state(holds, rule.margin - point, "within", "beyond")
    shown = f"{label}: difference to {rule.not_worse_than} {_with_interval(evidence)}"
    text = f"{shown}, {state} the margin {rule.margin:g}"
    worse = p_not_above(evidence, -rule.margin, confidence)
    more = p_not_below(evidence, rule.margin, confidence)
    p = {"higher": worse, "lower": more}.get(better, max(worse, more))
    return _Check(holds, text, evidence, rule.margin - point, p)


def _with_holm(results: Sequence[RuleResult]) -> list[RuleResult]:
    """Add Holm's adjustment over the rules that have a p-value."""
    known = [index for index, result in enumerate(results) if result.p is not None]
    adjusted = dict(zip(known, holm([results[i].p or 0.0 for i in known]), strict=True))
    return [replace(result, p_holm=adjusted.get(i)) for i, result in enumerate(results)]


def _with_interval(evidence: Evidence) -> str:
    """The number with its interval and n, as far as it has them."""
    _, value, low, high, n, *_ = evidence
    interval = f" [{low:.4g}, {high:.4g}]" if low != high else ""
    return f"{value:.4g}{interval}" + (f" (n {n})" if n is not None else "")
