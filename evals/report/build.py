"""The report of a run: collect what the stages stored, judge the gate, write three files.

`index.html` is for reading and signing, `report.md` for reviews and diffs, `report.json` for
programs; they hold the same numbers. Nothing is measured here, and no clock is read: the same run
and requirements give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from align.artifacts import write_json_atomic, write_text_atomic
from align.config import GateRule, ReportConfig
from evals.gate import Outcome, Verdict, judge
from evals.report import texts
from evals.report.audit import audit_section
from evals.report.collect import Run, collect, skipped
from evals.report.fairness import change_table, gap_table
from evals.report.forest import forest_blocks
from evals.report.groups import difference_table, group_tables, unknown_sentence
from evals.report.layout import (
    Block,
    Bullets,
    Cell,
    Row,
    Section,
    Table,
    Text,
    Tone,
)
from evals.report.numbers import p_value
from evals.report.optimisation import optimisation_blocks
from evals.report.provenance import dates, identity_blocks, missing_table
from evals.report.render import Page, render_html, render_markdown
from evals.report.reward import reward_blocks
from evals.report.robustness import robustness_table
from evals.report.samples import sample_blocks
from evals.report.summary import findings
from evals.report.tables import bias_table, capability_table
from evals.report.training import budget_sentence, curves, ppo_blocks, stage_blocks

FORMAT = 1
"""Version of report.json's layout."""


class ReportResult(NamedTuple):
    """What the report says, and where it is."""

    verdict: Outcome
    path: Path
    """`report/index.html`."""
    reasons: tuple[str, ...]
    """Why the verdict is what it is, one sentence a rule that decided it."""


def build_report(run_folder: Path, report: ReportConfig) -> ReportResult:
    """Write `report/{index.html, report.md, report.json}` into a run's folder.

    Args:
        run_folder: Folder with config.yaml and the stages; parts that are missing are stated.
        report: Title and requirements. They may differ from those the run was made with; the
            report then says so.

    Raises:
        UserError: There is no run in the folder, or one of its files is broken.
    """
    run = collect(run_folder)
    verdict = judge(report.gate, run.ledger, run.ppo_log, run.confidence)
    page = Page(
        title=report.title or run.name,
        run=run.name,
        made=dates(run.manifests),
        purpose=texts.PURPOSE,
        outcome=verdict.outcome,
        verdict=_verdict_line(verdict),
        sections=_sections(run, verdict, report),
    )
    folder = run_folder / "report"
    write_json_atomic(folder / "report.json", _as_json(run, verdict, page))
    write_text_atomic(folder / "report.md", render_markdown(page))
    write_text_atomic(folder / "index.html", render_html(page))
    return ReportResult(verdict.outcome, folder / "index.html", verdict.reasons)


def _as_json(run: Run, verdict: Verdict, page: Page) -> dict[str, Any]:
    """Everything, with every digit."""
    return {
        "format": FORMAT,
        "title": page.title,
        "run": run.name,
        "verdict": verdict.as_json(),
        "findings": list(_findings(run)),
        "config": run.config,
        "config_hash": run.config_hash,
        "confidence": run.confidence,
        "manifests": run.manifests,
        "skipped": [{"where": where, "why": why} for where, why in skipped(run)],
        "curves": {stage: curves(stage, log) for stage, log in run.logs.items() if log},
        "ledger": run.ledger,
        "audit": run.audit,
    }


def _sections(run: Run, verdict: Verdict, report: ReportConfig) -> tuple[Section, ...]:
    """All sections; one without data is there too and says so."""
    ledger = run.ledger
    return (
        Section("verdict", "Verdict and findings", _verdict_blocks(run, verdict, report)),
        Section("identity", "Identity", identity_blocks(run)),
        Section(
            "capability", "Capability", [capability_table(ledger), texts.definition_table(run)]
        ),
        Section("robustness", "Robustness", [robustness_table(ledger)]),
        Section("bias", "Bias", _bias_blocks(ledger)),
        Section("groups", "Rates by group", _group_blocks(ledger)),
        Section(
            "reward",
            "Reward model",
            reward_blocks(ledger),
            "No reward model was audited: the ledger holds no section on one.",
        ),
        Section(
            "optimisation",
            "Over-optimisation",
            optimisation_blocks(ledger),
            "Neither was PPO evaluated while it trained (`ppo.eval_updates`), nor best-of-n drawn "
            "(`evals.best_of`).",
        ),
        audit_section(run.audit),
        Section("training", "Training", _training_blocks(run), "No stage has logged its training."),
        Section(
            "samples",
            "Samples",
            sample_blocks(ledger),
            "No samples were stored: the stages answered no held-out prompts.",
        ),
        Section("method", "Method, assumptions, limits", _method_blocks(run)),
        Section("missing", "Missing and skipped", [missing_table(run, skipped(run))]),
        Section("support", "Cross-reference", [texts.cross_reference()]),
    )


def _verdict_line(verdict: Verdict) -> str:
    """How many requirements hold."""
    if not verdict.rules:
        return "No requirement was declared, so nothing was judged."
    held = sum(rule.outcome == "pass" for rule in verdict.rules)
    return f"{held} of {len(verdict.rules)} declared requirements are shown to hold."


def _verdict_blocks(run: Run, verdict: Verdict, report: ReportConfig) -> list[Block]:
    """The rules one by one, then what a reader should know first."""
    blocks: list[Block] = []
    if _rules(run.config) != [_plain(rule.model_dump()) for rule in report.gate]:
        text = "These requirements differ from those in the configuration the run was made with."
        blocks.append(Text(text, "warn"))
    blocks.append(_rule_table(verdict))
    return [*blocks, Bullets(_findings(run) or ("Nothing was measured.",), "Findings")]


def _findings(run: Run) -> tuple[str, ...]:
    kl = budget_sentence(run.ppo_log, _budget(run)) if run.ppo_log else ""
    warned = tuple(f"PPO warned at {reason}." for reason in run.ppo_warnings.values())
    return (*findings(run.ledger, kl, run.confidence), *warned)


def _rules(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The requirements of the run's own configuration."""
    return [_plain(rule) for rule in (config.get("report") or {}).get("gate") or ()]


def _plain(rule: Mapping[str, Any]) -> dict[str, Any]:
    """A rule without the fields that have their default, for comparison."""
    fields = GateRule.model_fields
    return {k: v for k, v in rule.items() if k not in fields or v != fields[k].default}


def _rule_table(verdict: Verdict) -> Table:
    """One line a requirement."""
    tones: dict[str, Tone] = {"pass": "good", "fail": "bad"}
    rows = []
    for rule in verdict.rules:
        holm = p_value(rule.p_holm)
        p = f"{p_value(rule.p)}, Holm {holm}" if holm else ""
        tone = tones.get(rule.outcome, "warn")
        outcome = Cell(flags=(rule.outcome,), tone=tone)
        reason = Cell(rule.reason, (p,) if p else ())
        rows.append(Row((Cell(rule.requirement), outcome, reason)))
    header = ("Requirement", "Outcome", "Reason")
    notes = (
        "A limit is held against the end of the interval that speaks against the model. p: "
        "one-sided, of the requirement being broken, by the test behind the interval.",
    )
    empty = "No requirement was declared: the verdict is insufficient evidence by definition."
    return Table("Requirements", header, tuple(rows), empty, notes if rows else ())


def _bias_blocks(ledger: Mapping[str, Any]) -> list[Block]:
    """Forest plots, then the table they are drawn from."""
    stages = list(ledger.get("stages") or ())
    return [*forest_blocks(ledger.get("bias") or (), stages, "bias"), bias_table(ledger)]


def _group_blocks(ledger: Mapping[str, Any]) -> list[Block]:
    """Unknown membership first, then the tables."""
    unknown = unknown_sentence(ledger)
    blocks: list[Block] = [Text(unknown)] if unknown else []
    found = (gap_table(ledger), change_table(ledger), difference_table(ledger))
    return [*blocks, *group_tables(ledger), *(table for table in found if table)]


def _training_blocks(run: Run) -> list[Block]:
    """PPO first, then the supervised stages."""
    others = {k: log for k, log in run.logs.items() if log and k not in ("4-ppo", "5-evals")}
    return [*ppo_blocks(run.ppo_log, _budget(run), run.ppo_rewards), *stage_blocks(others)]


def _budget(run: Run) -> float | None:
    """Most KL to the reference the run allowed itself, in nats a response."""
    return (run.config.get("ppo") or {}).get("kl_budget")


def _method_blocks(run: Run) -> list[Block]:
    """How the numbers came about, and what they cannot say."""
    return [
        texts.method(run),
        Bullets(texts.ASSUMPTIONS, "Assumptions"),
        texts.overlap_table(run),
        Bullets(texts.LIMITS, "Limits"),
    ]
