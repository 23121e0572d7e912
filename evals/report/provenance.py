"""Who made what from what: the identity of a run, read from the manifests of its stages.

Every hash is printed whole. Where stages disagree - two commits, two versions of a library, a
checkout with changes of its own - the disagreement is said, since the numbers then come from more
than one program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evals.report.layout import Block, Cell, Row, Signature, Table, Text
from evals.report.numbers import NONE, count, duration, size

if TYPE_CHECKING:
    from evals.report.collect import Run

Manifest = Mapping[str, Any]
FILES = 60
"""Most output files listed; the rest is in report.json."""
KINDS = (
    ("tokenizer", "tokenizer"),
    ("adapter", "adapter"),
    ("model", "model"),
    ("ledger", "results"),
    ("samples", "samples"),
)


def identity_blocks(run: Run) -> list[Block]:
    """Run, stages, models, data, inputs, outputs and the lines to sign on."""
    manifests = run.manifests
    return [
        *(Text(text, "warn") for text in warnings(manifests)),
        _run_table(run),
        _stage_table(manifests),
        _model_table(run.ledger),
        _data_table(manifests),
        _input_table(manifests),
        _file_table(manifests),
        Signature(("Prepared by", "Reviewed by")),
    ]


def warnings(manifests: Mapping[str, Manifest]) -> list[str]:
    """What an auditor must know about where the numbers come from."""
    found = []
    commits = {m.get("git", {}).get("commit") for m in manifests.values()}
    if len(commits - {None}) > 1:
        found.append("The stages were made by different commits; see the table of stages.")
    dirty = [stage for stage, m in manifests.items() if (m.get("git") or {}).get("dirty")]
    if dirty:
        names = ", ".join(dirty)
        found.append(f"Made from a checkout with uncommitted changes: {names}.")
    mixed = [name for name, versions in _versions(manifests).items() if len(versions) > 1]
    if mixed:
        found.append(f"Versions differ between stages: {', '.join(mixed)}.")
    return found


def dates(manifests: Mapping[str, Manifest]) -> str:
    """When the run was made: the first and the last date in the manifests."""
    known = sorted(str(m["finished"]) for m in manifests.values() if m.get("finished"))
    if not known:
        return "not recorded in the manifests"
    return known[0] if known[0] == known[-1] else f"{known[0]} to {known[-1]}"


def _versions(manifests: Mapping[str, Manifest]) -> dict[str, list[str]]:
    """Package -> the versions used, each once, in the order of the stages."""
    found: dict[str, list[str]] = {}
    for manifest in manifests.values():
        for name, version in (manifest.get("packages") or {}).items():
            seen = found.setdefault(name, [])
            if version is not None and version not in seen:
                seen.append(version)
    return {name: versions for name, versions in found.items() if versions}


def _each(manifests: Mapping[str, Manifest], key: str) -> str:
    """The values of a key over all stages, each once."""
    return ", ".join(dict.fromkeys(str(m.get(key)) for m in manifests.values())) or NONE


def _run_table(run: Run) -> Table:
    """The run in one look."""
    commits = [(m.get("git") or {}) for m in run.manifests.values()]
    named = dict.fromkeys(
        f"{git.get('commit') or 'unknown'}{' (uncommitted changes)' if git.get('dirty') else ''}"
        for git in commits
    )
    versions = "; ".join(f"{k} {' / '.join(v)}" for k, v in _versions(run.manifests).items())
    lines = (
        ("Run", run.name, False),
        ("Configuration hash (SHA-256 of config.yaml)", run.config_hash, True),
        ("Seed", str(run.config.get("seed", NONE)), False),
        ("Made", dates(run.manifests), False),
        ("Git commit", ", ".join(named) or NONE, True),
        ("Device", _each(run.manifests, "device"), False),
        ("Versions", versions or NONE, False),
    )
    rows = tuple(Row((Cell(name), Cell(text, code=code))) for name, text, code in lines)
    return Table("Identity of the run", ("Item", "Value"), rows, "")


def _stage_table(manifests: Mapping[str, Manifest]) -> Table:
    """One line a stage: seed, device, time, commit, hashes."""
    rows = []
    for stage, manifest in manifests.items():
        git = manifest.get("git") or {}
        commit = str(git.get("commit") or NONE)[:12] + (" + changes" if git.get("dirty") else "")
        cells = (
            Cell(stage, (str(manifest.get("command") or ""),)),
            Cell(str(manifest.get("finished") or "not recorded")),
            Cell(duration(manifest.get("seconds")), numeric=True),
            Cell(str(manifest.get("seed", NONE)), numeric=True),
            Cell(str(manifest.get("device", NONE))),
            Cell(commit, code=True),
            Cell(str(manifest.get("config_hash", NONE)), code=True),
            Cell(str(manifest.get("code", NONE)), code=True),
        )
        rows.append(Row(cells))
    first = ("Stage", "Finished", "Took", "Seed", "Device", "Commit")
    header = (*first, "Hash of its settings", "Hash of its code")
    empty = "No stage is complete: no manifest was found."
    return Table("Stages", header, tuple(rows), empty, folded=True)


def _model_table(ledger: Mapping[str, Any]) -> Table:
    """The models that were evaluated."""
    rows = tuple(
        Row(
            (
                Cell(stage),
                Cell(str(m.get("reference")), code=True),
                Cell(str(m.get("hash")), code=True),
            )
        )
        for stage, m in (ledger.get("models") or {}).items()
    )
    header = ("Stage", "Model", "SHA-256")
    return Table("Evaluated models", header, rows, "No model was evaluated.")


def _data_table(manifests: Mapping[str, Manifest]) -> Table:
    """Every source of rows, with what was dropped from it."""
    rows = []
    for stage, manifest in manifests.items():
        for record in manifest.get("data") or ():
            dropped = record.get("dropped") or {}
            lost = "; ".join(f"{count(n)} {reason}" for reason, n in dropped.items() if n)
            split = "/".join(str(record[k]) for k in ("revision", "split") if record.get(k))
            cells = (
                Cell(stage),
                Cell(str(record.get("source")), (split,) if split else ()),
                Cell(count(record.get("rows")), numeric=True),
                Cell(lost or "none"),
                Cell(str(record.get("licence") or "not stated")),
                Cell(str(record.get("sha256") or NONE), code=True),
            )
            rows.append(Row(cells))
    header = ("Stage", "Source", "Rows", "Left out", "Licence", "SHA-256")
    return Table("Data", header, tuple(rows), "No data is recorded in the manifests.", folded=True)


def _input_table(manifests: Mapping[str, Manifest]) -> Table:
    """What each stage started from."""
    rows = tuple(
        Row(
            (
                Cell(stage),
                Cell(role),
                Cell(str(entry.get("path")), code=True),
                Cell(str(entry.get("hash")), code=True),
            )
        )
        for stage, manifest in manifests.items()
        for role, entry in (manifest.get("inputs") or {}).items()
    )
    header = ("Stage", "Role", "Path", "SHA-256")
    return Table("Inputs of the stages", header, rows, "No inputs are recorded.", folded=True)


def _file_table(manifests: Mapping[str, Manifest]) -> Table:
    """The files the stages wrote."""
    files = [
        (stage, name, entry)
        for stage, manifest in manifests.items()
        for name, entry in (manifest.get("outputs") or {}).items()
    ]
    rows = tuple(
        Row(
            (
                Cell(f"{stage}/{name}"),
                Cell(_kind(name)),
                Cell(size(entry.get("bytes")), value=entry.get("bytes"), numeric=True),
                Cell(str(entry.get("hash")), code=True),
            )
        )
        for stage, name, entry in files[:FILES]
    )
    more = len(files) - FILES
    notes = (f"{more} more files are listed in report.json.",) if more > 0 else ()
    header = ("File", "Kind", "Size", "SHA-256")
    return Table("Files", header, rows, "No outputs are recorded.", notes, folded=True)


def _kind(name: str) -> str:
    """What a file is, by its name."""
    last = name.rsplit("/", 1)[-1]
    return next((kind for part, kind in KINDS if part in last), "other")


def missing_table(run: Run, skipped: Sequence[tuple[str, str]]) -> Table:
    """Stages that are not there, items that could not be scored, rows that were left out."""
    rows = [Row((Cell(where), Cell(""), Cell(why))) for where, why in skipped]
    for entry in run.ledger.get("missing") or ():
        where = f"{entry.get('stage')}, {entry.get('task')}"
        amount = Cell(count(entry.get("count")), value=entry.get("count"), numeric=True)
        rows.append(Row((Cell(where), amount, Cell(str(entry.get("reason"))))))
    for stage, manifest in run.manifests.items():
        for record in manifest.get("data") or ():
            for reason, n in (record.get("dropped") or {}).items():
                where = f"{stage}, {record.get('source')}"
                if n:
                    rows.append(Row((Cell(where), Cell(count(n), numeric=True), Cell(reason))))
    header = ("Where", "Items", "Why")
    empty = "Nothing is missing: every stage ran and every item was scored."
    notes = ("Missing items are counted here and are in no number of this report.",)
    return Table("Missing, failed and left out", header, tuple(rows), empty, notes)
