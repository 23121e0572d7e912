"""Where the gate finds the numbers it judges: a look-up in the stored results, no arithmetic.

A rule names a task and a metric. Beside the metrics of the ledger's `estimates` it can name a bias
(`measure`, `measure/attribute` or `measure/attribute/group_a-group_b`; controls never count), a
group rate (`metric/attribute` or `metric/attribute/group`), a number of the reward model's audit
(task `reward_model`) or the last value of a key of PPO's log (task `ppo`). A name that fits several
rows stands for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeGuard

from align.config import GateRule

Rows = Sequence[Mapping[str, Any]]


class Evidence(NamedTuple):
    """A number a rule can be held against; low = high = value where it has no interval."""

    label: str
    value: float
    low: float
    high: float
    n: int | None
    better: str = "none"
    row: Mapping[str, Any] = MappingProxyType({})
    """What is stored of it."""


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def find(rows: Iterable[Mapping[str, Any]] | None, **keys: Any) -> list[Mapping[str, Any]]:
    """The rows whose fields equal `keys`."""
    return [row for row in rows or () if all(row.get(key) == keys[key] for key in keys)]


def levels(rule: GateRule, ledger: Mapping[str, Any], ppo_metrics: Rows) -> list[Evidence]:
    """Every stored number the rule names, for its absolute limits."""
    if rule.task == "ppo":
        return _logged(rule.metric, ppo_metrics)
    if rule.task == "reward_model":
        return _reward(rule.metric, ledger.get("reward_model") or {})
    keys = {"task": rule.task, "stage": rule.stage}
    groups = (row for row in find(ledger.get("groups"), **keys) if rule.metric in _group_names(row))
    return _usable(
        find(ledger.get("estimates"), metric=rule.metric, **keys)
        or list(groups)
        or _biases(rule.metric, find(ledger.get("bias"), **keys))
    )


def differences(rule: GateRule, ledger: Mapping[str, Any]) -> list[Evidence]:
    """Every paired difference between the two stages that the rule names."""
    keys = {"task": rule.task, "before": rule.not_worse_than, "after": rule.stage}
    estimates = find(ledger.get("estimates"), task=rule.task, metric=rule.metric)
    better = estimates[0].get("better", "none") if estimates else "none"
    rows = find(ledger.get("comparisons"), metric=rule.metric, **keys)
    rows = rows or _biases(rule.metric, find(ledger.get("bias_comparisons"), **keys))
    return _usable({"better": better, **row, "value": row.get("difference")} for row in rows)


def _logged(key: str, ppo_metrics: Rows) -> list[Evidence]:
    """The last value of a key in PPO's log; its n is the responses of that update."""
    rows = [row for row in ppo_metrics if key in row]
    if not rows or not is_number(rows[-1][key]):
        return []
    value = float(rows[-1][key])
    n = rows[-1].get("eval/n") if key.startswith("eval/") else _responses(rows)
    return [Evidence(f"last {key}", value, value, value, None if n is None else int(n))]


def _responses(rows: Rows) -> int | None:
    """Responses of the last logged update: the difference of the running count `episode`."""
    counts = [float(row["episode"]) for row in rows if is_number(row.get("episode"))]
    return int(counts[-1] - (counts[-2] if len(counts) > 1 else 0)) if counts else None


def _reward(metric: str, audit: Mapping[str, Any]) -> list[Evidence]:
    """Numbers of the reward model's section: estimates, the difference, or a bias."""
    accuracy_n = (audit.get("accuracy") or {}).get("n")
    if metric == "difference" and audit.get("difference"):
        row = audit["difference"]
        return _usable([{"n": accuracy_n, **row, "value": row["difference"], "metric": metric}])
    if isinstance(audit.get(metric), Mapping):
        return _usable([{**audit[metric], "metric": metric}])
    if is_number(audit.get(metric)):
        value = float(audit[metric])
        return [Evidence(metric, value, value, value, accuracy_n)]
    return _usable(_biases(metric, audit.get("bias") or ()))


def _biases(metric: str, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Bias rows named measure, measure/attribute or measure/attribute/a-b; never controls."""
    return [row for row in rows if metric in _bias_names(row) and not row.get("control")]


def _bias_names(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The names under which a rule finds a bias row, the most exact last."""
    name = f"{row.get('measure')}/{row.get('attribute')}"
    pair = f"{name}/{row.get('group_a')}-{row.get('group_b')}"
    return (str(row.get("measure")), name, pair)


def _group_names(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The names under which a rule finds a row of the group table."""
    name = f"{row.get('metric')}/{row.get('attribute')}"
    return (name, f"{name}/{row.get('group')}")


def _usable(rows: Iterable[Mapping[str, Any]]) -> list[Evidence]:
    """Rows as evidence; one without a finite value and interval makes all of them unusable."""
    found = []
    for row in rows:
        numbers = [row.get(key) for key in ("value", "low", "high")]
        if not all(is_number(number) for number in numbers):
            return []
        if "measure" in row:
            label = _bias_names(row)[-1]
        else:
            label = _group_names(row)[-1] if "group" in row else str(row.get("metric"))
        value, low, high = (float(number) for number in numbers if number is not None)
        n = row.get("n")
        better = str(row.get("better", "none"))
        n = None if n is None else int(n)
        found.append(Evidence(label, value, low, high, n, better, row))
    return found


def not_measured(rule: GateRule, ledger: Mapping[str, Any], ppo_metrics: Rows) -> str:
    """Why nothing was found, with the names that would have been."""
    if rule.task == "ppo":
        known = sorted({key for row in ppo_metrics for key in row})
    elif rule.task == "reward_model":
        known = sorted(ledger.get("reward_model") or {})
    else:
        keys = {"task": rule.task, "stage": rule.stage}
        known = [str(row.get("metric")) for row in find(ledger.get("estimates"), **keys)]
        known += [_bias_names(row)[1] for row in find(ledger.get("bias"), **keys)]
    names = ", ".join(dict.fromkeys(known)) or "nothing"
    return f"not measured, or without a finite interval (stored for it: {names})"
