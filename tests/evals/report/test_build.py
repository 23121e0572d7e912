"""The whole report, from a run folder to the three files."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from align.config import ReportConfig
from align.errors import UserError
from evals.report import build_report

SECTIONS = (
    "verdict",
    "identity",
    "capability",
    "bias",
    "groups",
    "reward",
    "audit",
    "training",
    "samples",
    "method",
    "missing",
    "support",
)


class Page(HTMLParser):
    """Tables, tags and attributes of a page, read by the standard library."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.values, self.ids = [], [], [], []
        self.tables, self.caption, self.row, self.cell = {}, None, None, None
        self.open = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        self.ids += [value for name, value in attributes if name == "id"]
        self.open.append(tag)
        if tag == "caption":
            self.caption = ""
        elif tag == "tr":
            self.row = []
        elif tag in ("td", "th"):
            self.cell = ""
        elif tag == "data":
            self.values.append(float(dict(attributes)["value"]))

    def handle_data(self, data):
        if self.open and self.open[-1] == "caption":
            self.caption += data
        elif self.cell is not None:
            self.cell += f" {data}"

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass
        if tag in ("td", "th"):
            self.row.append(" ".join(self.cell.split()))
            self.cell = None
        elif tag == "tr":
            self.tables.setdefault(self.caption, []).append(self.row)


def build(folder, gate=()):
    result = build_report(folder, ReportConfig(gate=gate))
    return result, Page(result.path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def built(tmp_path_factory, made):
    """The report on the made-up run, built once."""
    folder = made.write_run(tmp_path_factory.mktemp("report") / "quickstart")
    result, page = build(folder, made.GATE)
    return result, page, folder


def test_verdict_and_files(built):
    result, page, folder = built
    assert result.verdict == "fail"
    assert result.path == folder / "report" / "index.html"
    assert len(result.reasons) == 1
    assert result.reasons[0].startswith("bias praise/gender of ppo")
    names = {path.name for path in (folder / "report").iterdir()}
    assert names == {"index.html", "report.md", "report.json"}
    outcomes = [row[1] for row in page.tables["Requirements"][1:]]
    assert outcomes == ["pass", "pass", "fail", "pass", "pass"]
    text = result.path.read_text(encoding="utf-8")
    assert "<strong>FAIL</strong> <span>4 of 5 declared requirements" in text


def test_page_loads_nothing(built):
    result, page, _ = built
    text = result.path.read_text(encoding="utf-8")
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    loading = [(t, n, v) for t, n, v in page.attributes if n in ("src", "href", "srcset", "data")]
    assert loading
    assert all(value.startswith("#") for _, _, value in loading)
    assert not any(name.startswith(("on", "xmlns")) for _, name, _ in page.attributes)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    policy = [v for t, n, v in page.attributes if n == "content" and "default-src" in v]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_hostile_text_is_escaped_everywhere(built, made):
    folder = built[-1]
    text = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert made.HOSTILE not in text
    assert "&lt;script&gt;alert(" in text
    assert "evil.example" in text
    markdown = (folder / "report" / "report.md").read_text(encoding="utf-8")
    outside = re.sub(r"^(`{3,})text\n.*?\n\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    assert "evil.example" in outside
    assert not re.search(r"(?<!\\)[<>]", outside)


def test_ids_are_unique_and_links_lead_somewhere(built):
    _, page, _ = built
    assert len(page.ids) == len(set(page.ids))
    targets = [v[1:] for _, n, v in page.attributes if n == "href"]
    assert set(targets) <= set(page.ids)
    assert [key for key in page.ids if key in SECTIONS] == list(SECTIONS)


def test_tables_are_accessible(built):
    _, page, folder = built
    text = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert page.tags.count("table") == page.tags.count("caption") == page.tags.count("thead")
    heads = re.findall(r"<th\b[^>]*>", text)
    assert heads
    assert all("scope=" in head for head in heads)
    drawings = text.count("<svg ")
    assert drawings == page.tags.count("figure")
    labels = [v for t, n, v in page.attributes if n == "aria-label" and t == "div"]
    assert len([v for v in labels if "from" in v or "[" in v]) >= drawings


def test_numbers_equal_the_ledgers(built, made):
    _, page, _ = built
    ledger = made.make_ledger()
    shown = set(page.values)
    rows = ledger["estimates"] + ledger["bias"] + ledger["reward_model"]["bias"] + ledger["groups"]
    changes = ledger["comparisons"] + ledger["bias_comparisons"]
    assert {row["value"] for row in rows} <= shown
    assert {row["difference"] for row in changes} <= shown
    bleu = next(row for row in page.tables["Capability by stage"] if row[0].startswith("bleu"))
    assert bleu[2].startswith("2.3 [")
    assert bleu[3] == "34.8 [31.9, 37.7]"
    minus = "\N{MINUS SIGN}"
    change = f"{minus}0.90 [{minus}2.64, 0.84] p = .311, q = .329 detectable: 2.49"
    assert bleu[6] == change
    gender = page.tables["Bias by stage"][1]
    assert gender[5] == "+0.410 [0.290, 0.530] p < .001, q < .001 not 0"


def test_json_holds_everything(built, made):
    _, _, folder = built
    stored = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
    assert stored["ledger"] == made.make_ledger()
    assert stored["verdict"]["outcome"] == "fail"
    assert stored["config"]["name"] == "quickstart"
    assert set(stored["manifests"]) == {"1-pretrain", "2-sft", "3-reward", "4-ppo", "5-evals"}
    assert stored["curves"]["4-ppo"]["kl/k1"]["y"] == [
        r["kl/k1"] for r in made.ppo_log() if "kl/k1" in r
    ]


def test_markdown_mirrors_the_tables(built):
    _, page, folder = built
    markdown = (folder / "report" / "report.md").read_text(encoding="utf-8")
    for caption in page.tables:
        assert caption.replace("_", r"\_") in markdown
    bleu = next(line for line in markdown.splitlines() if line.startswith("| bleu"))
    assert "| 34.8; \\[31.9, 37.7\\] |" in bleu
    lines = markdown.splitlines()
    for head, rule in pairwise(lines):
        if rule.startswith("| ---"):
            assert len(re.findall(r"(?<!\\)\|", head)) == rule.count("|")


def test_identity_is_read_from_the_manifests(built):
    _, page, folder = built
    items = dict(row[:2] for row in page.tables["Identity of the run"])
    assert items["Seed"] == "7"
    assert items["Made"] == "2026-03-01T10:00:00+00:00 to 2026-03-05T10:00:00+00:00"
    assert "(uncommitted changes)" in items["Git commit"]
    assert "torch 2.13.0" in items["Versions"]
    models = [row[1:] for row in page.tables["Evaluated models"][1:]]
    assert models == [["1-pretrain/model", "a1" * 32], ["2-sft", "b2" * 32], ["4-ppo", "c3" * 32]]
    kinds = {row[0]: row[1:3] for row in page.tables["Files"][1:]}
    assert kinds["1-pretrain/model/tokenizer.json"] == ["tokenizer", "61 kB"]
    assert kinds["2-sft/adapter/adapter_model.safetensors"] == ["adapter", "1.23 MB"]
    text = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "Made from a checkout with uncommitted changes: 4-ppo." in text


def test_missing_items_and_contamination(built):
    _, page, _ = built
    unscored, dropped = page.tables["Missing, failed and left out"][1:]
    assert unscored == ["ppo, translation", "2", "no answer"]
    assert dropped == ["2-sft, world:sft", "12", "too long"]
    overlap = page.tables["Contamination"][1]
    assert overlap[:3] == ["sentiment", "5", "1.25%"]


def test_cross_reference_claims_no_more_than_support(built):
    _, page, folder = built
    texts = " ".join(row[0] for row in page.tables["What this report supports"])
    assert all(name in texts for name in ("Local Law 144", "Annex IV", "NIST AI 600-1"))
    for name in ("index.html", "report.md"):
        assert "complian" not in (folder / "report" / name).read_text(encoding="utf-8").lower()


def test_same_inputs_same_bytes_and_small(built, made, tmp_path):
    _, _, folder = built
    again = made.write_run(tmp_path / "quickstart")
    build(again, made.GATE)
    for name in ("index.html", "report.md", "report.json"):
        first, second = (place / "report" / name for place in (folder, again))
        assert first.read_bytes() == second.read_bytes()
        assert first.stat().st_size < 2_000_000


def test_other_requirements_than_the_runs_are_pointed_out(built, run_folder, made):
    _, _, folder = built
    note = "These requirements differ from those in the configuration the run was made with."
    assert note not in (folder / "report" / "index.html").read_text(encoding="utf-8")
    result, _ = build(run_folder, made.GATE[:2])
    assert result.verdict == "pass"
    assert note in result.path.read_text(encoding="utf-8")


def test_an_empty_run_states_every_section(tmp_path):
    (tmp_path / "config.yaml").write_text("name: nothing\nsft: {}\n")
    result, page = build(tmp_path)
    text = result.path.read_text(encoding="utf-8")
    assert result.verdict == "insufficient evidence"
    assert "INSUFFICIENT EVIDENCE" in text
    for sentence in (
        "No requirement was declared",
        "Nothing was measured.",
        "No stage is complete",
        "No capability was measured",
        "No bias was measured",
        "No rates by group were measured",
        "No reward model was audited",
        "No stage has logged its training.",
        "No samples were stored",
        "was not checked",
    ):
        assert sentence in text
    missing = {row[0]: row[2] for row in page.tables["Missing, failed and left out"][1:]}
    assert missing["stage 2-sft"] == "not complete: it has no manifest"
    assert missing["stage 4-ppo"] == "not part of this run"


def test_without_a_ledger_the_gate_fails_closed(run_folder, made):
    (run_folder / "5-evals" / "ledger.json").unlink()
    result, _ = build(run_folder, made.GATE[:1])
    assert result.verdict == "fail"
    assert "not measured" in result.reasons[0]


def test_no_run_or_a_broken_ledger_is_a_user_error(tmp_path, run_folder):
    with pytest.raises(UserError, match=r"no run here: config\.yaml is missing"):
        build(tmp_path / "nowhere")
    (run_folder / "5-evals" / "ledger.json").write_text("[1")
    with pytest.raises(UserError, match="broken ledger"):
        build(run_folder)
    (run_folder / "5-evals" / "ledger.json").write_text("[1]")
    with pytest.raises(UserError, match="not a JSON object"):
        build(run_folder)


def test_disagreeing_stages_and_gaps_are_pointed_out(run_folder):
    path = run_folder / "3-reward" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["git"]["commit"], manifest["packages"]["torch"] = "f" * 40, "2.12.1"
    path.write_text(json.dumps(manifest))
    (run_folder / "5-evals" / "manifest.json").unlink()
    path = run_folder / "5-evals" / "ledger.json"
    ledger, gap = json.loads(path.read_text()), ("ppo", "bleu")
    kept = [row for row in ledger["estimates"] if (row["stage"], row["metric"]) != gap]
    path.write_text(json.dumps(ledger | {"estimates": kept}))
    result, page = build(run_folder)
    text = result.path.read_text(encoding="utf-8")
    assert "The stages were made by different commits" in text
    assert "Versions differ between stages: torch." in text
    missing = {row[0]: row[2] for row in page.tables["Missing, failed and left out"][1:]}
    assert missing["translation bleu"] == "not measured for ppo"
    assert missing["stage 5-evals"] == "no manifest, but a ledger was found and is used"


def test_what_ppo_warned_of_is_a_finding(run_folder):
    warning = "update 3: entropy fell from 2.1 to 0.3 nats a token"
    results = run_folder / "4-ppo" / "ppo.json"
    results.write_text(json.dumps({"warnings": {"entropy": warning}}))
    page = build_report(run_folder, ReportConfig()).path.with_name("report.md").read_text()
    assert f"- PPO warned at {warning}." in page
    results.write_text("{")
    with pytest.raises(UserError, match=r"ppo\.json: broken PPO results"):
        build_report(run_folder, ReportConfig())
