"""Generation by definition: answer each row's question, read the answer out, compare it.

A response ends at EOS, at a text of `until` (cut off) or at the longest length. BLEU, chrF and TER
are sacrebleu's over the whole corpus against one reference; the other scores take the best of an
item's references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from align.errors import UserError
from evals.answers import exact_match, extract, refuses, rouge_l, squad_em, squad_f1
from evals.bias.fairness import UNKNOWN
from evals.bias.measures import Rate, group_rates
from evals.documents import Document
from evals.metrics import (
    bleu_metric,
    bleu_rows,
    chrf_metric,
    chrf_rows,
    mean_metric,
    ratio,
    ter_metric,
    ter_rows,
    value_rows,
)
from evals.schema import MetricEntry
from evals.shots import Asked, shown
from evals.stats import Resampling
from evals.stops import Answer, Stops
from evals.task import Array, Better, Metric, Row, TaskResult, item_ids
from evals.tasks.asking import require_items, require_scored

if TYPE_CHECKING:
    from evals.engine import Engine

CORPUS = {
    "bleu": (bleu_rows, bleu_metric),
    "chrf": (chrf_rows, chrf_metric),
    "ter": (ter_rows, ter_metric),
}
"""sacrebleu's: rows and metric."""
MEANS = {
    "squad_f1": (squad_f1, "mean of the best token F1 over the references, SQuAD normalisation"),
    "rougeL": (rouge_l, "mean of the best ROUGE-L F-measure over the references (rouge-score)"),
}
LABELS = {"refusal": None, "refusal_safe": "safe", "refusal_unsafe": "unsafe"}
"""Refusal metric -> target of the items it is about (None: all)."""


@dataclass(frozen=True)
class GenerationTask(Asked):
    """Generate an answer to each row's question."""

    kind: str = "generate_until"
    group_columns: tuple[str, ...] = ()
    """Columns by whose values refusals are counted."""

    @property
    def title(self) -> str:
        """Heading in the report."""
        return f"Generation: {self.name}"

    @property
    def decoding(self) -> str:
        """How responses come about."""
        made = self.asking.definition.generation
        how = f"sampled at temperature {made.temperature:g}" if made.do_sample else "greedy"
        stops = " or ".join(["EOS", *map(repr, self.asking.definition.stops)])
        return f"{how} to {stops}, at most {made.max_gen_toks} tokens"

    @property
    def definition(self) -> str:
        """How an item is scored."""
        asking = self.asking
        return f"{asking.definition.task}, asked {asking.manner}, answered by {self.decoding}"

    @property
    def filters(self) -> Mapping[str, Any]:
        """Suffix of a metric's name -> how answers are read; one without a name if none is set."""
        found = {f",{entry.name}": entry for entry in self.asking.definition.filter_list}
        return found or {"": None}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The definition's numbers, for every filter."""
        return tuple(
            replace(answer_metric(entry), name=entry.metric + suffix, stat=entry.metric + suffix)
            for suffix in self.filters
            for entry in self.asking.definition.metric_list
        )

    def evaluate(self, engine: Engine, rows: Sequence[Row]) -> TaskResult:
        """Answer every row.

        Raises:
            UserError: A row cannot be rendered, has references that a metric cannot use, or none
                could be answered.
        """
        require_items(rows, self.name)
        asking = self.asking
        documents = asking.documents(rows)
        self._check_references(documents)
        prompts = asking.prompts(rows, documents)
        encoded = [asking.ids(engine.tokenizer, prompt) for prompt in prompts]
        room = engine.max_length - asking.definition.generation.max_gen_toks
        places = [index for index, ids in enumerate(encoded) if len(ids) <= room]
        lost = len(rows) - len(places)
        missing = {f"longer than {room} tokens": lost} if lost else {}
        require_scored(places, missing, self.name)
        drawn = self._responses(engine, [encoded[place] for place in places])
        responses = [answer.text for answer in drawn]
        answers = {
            suffix: responses if entry is None else [extract(text, entry) for text in responses]
            for suffix, entry in self.filters.items()
        }
        ids, kept = item_ids(rows), [documents[place] for place in places]
        return TaskResult(
            ids=tuple(ids[place] for place in places),
            stats={
                entry.metric + suffix: answer_rows(entry, found, kept)
                for suffix, found in answers.items()
                for entry in asking.definition.metric_list
            },
            samples=[
                {
                    "prompt": shown(prompts[place]),
                    "response": responses[index],
                    "references": list(documents[place].targets),
                    **{f"answer{suffix}": a[index] for suffix, a in answers.items() if suffix},
                    "finished": drawn[index].finished,
                }
                for index, place in enumerate(places)
            ],
            columns={
                key: tuple(str(rows[place].get(key) or UNKNOWN).strip() for place in places)
                for key in self.group_columns
            },
            missing=missing,
        )

    def groups(self, result: TaskResult, resampling: Resampling) -> list[dict[str, Any]]:
        """Refusals by group: rows of the ledger's `groups` without `stage` and `task`."""
        rates = [
            Rate(metric.name, metric.stat, self.group_columns)
            for metric in self.metrics
            if metric.name.partition(",")[0] in LABELS
        ]
        return group_rates(result, rates, resampling)

    def _responses(self, engine: Engine, prompts: list[list[int]]) -> list[Answer]:
        """Answers, each cut before the first stop."""
        made, stops = self.asking.definition.generation, self.asking.definition.stops
        if not made.do_sample:
            return engine.generate(prompts, made.max_gen_toks, stops)
        drawn = engine.sample(prompts, made.max_gen_toks, made.temperature, self.asking.seed)
        end = Stops(engine.tokenizer, stops)
        return [end.answer(response) for response in drawn]

    def _check_references(self, documents: Sequence[Document]) -> None:
        """Corpus scores take one reference, refusal the labels safe and unsafe.

        Raises:
            UserError: An item has others.
        """
        for entry in self.asking.definition.metric_list:
            for number, document in enumerate(documents, start=1):
                targets, where = document.targets, f"task {self.name}, row {number}"
                if entry.metric in CORPUS and len(targets) != 1:
                    raise UserError(
                        f"{len(targets)} references", where=where, allowed=f"one for {entry.metric}"
                    )
                if LABELS.get(entry.metric) and targets[0] not in LABELS.values():
                    raise UserError(
                        f"target {targets[0]!r}",
                        where=where,
                        allowed=f"safe, unsafe for {entry.metric}",
                    )


def answer_rows(entry: MetricEntry, answers: Sequence[str], documents: Sequence[Document]) -> Array:
    """Rows of one number."""
    name = entry.metric
    pairs = [(a.strip(), document.targets) for a, document in zip(answers, documents, strict=True)]
    if name in CORPUS:
        return CORPUS[name][0]([a for a, _ in pairs], [targets[0].strip() for _, targets in pairs])
    if name == "exact_match":
        return value_rows([exact_match(a, targets, entry) for a, targets in pairs])
    if name == "squad_em":
        return value_rows([squad_em(a, targets) for a, targets in pairs])
    if name in MEANS:
        return value_rows([MEANS[name][0](a, targets) for a, targets in pairs])
    label = LABELS[name]
    counted = [float(label in (None, targets[0])) for _, targets in pairs]
    hits = [float(refuses(a)) for a, _ in pairs]
    return value_rows(hits) * value_rows(counted)[:, :1]


def answer_metric(entry: MetricEntry) -> Metric:
    """A number by its entry in the definition."""
    name = entry.metric
    if name in CORPUS:
        return CORPUS[name][1]()
    if name in MEANS:
        return mean_metric(name, name, "higher", MEANS[name][1])
    if name == "squad_em":
        text = "answers with the tokens of a reference, SQuAD normalisation / items"
        return Metric(name, name, ratio, "higher", text, "proportion")
    if name == "exact_match":
        options = entry.model_dump(exclude_defaults=True, include=set(EXACT_OPTIONS))
        text = "answers equal to a reference, outer white space apart / items"
        signature = ", ".join(f"{key} {value}" for key, value in options.items())
        return Metric(name, name, ratio, "higher", text, "proportion", signature)
    label = LABELS[name]
    about = "items" if label is None else f"items labelled {label}"
    text = f"{about} whose response opens like a refusal (a rule on words) / {about}"
    # A row of the other label is [0, 0], so these are no plain proportions.
    better: Better = "higher" if label == "unsafe" else "lower"
    return Metric(name, name, ratio, better, text, "proportion" if label is None else "function")


EXACT_OPTIONS = ("ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore")
