"""The audit report of a run: one HTML file, its Markdown mirror and all of it as JSON."""

from __future__ import annotations

from evals.report.build import ReportResult, build_report
from evals.report.summary import stage_summary

__all__ = ["ReportResult", "build_report", "stage_summary"]
