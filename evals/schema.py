"""The fields of a task definition, named as in lm-evaluation-harness, and the metrics there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from align.config.base import Positive, Section

Output = Literal["multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until"]

METRICS: Mapping[str, Mapping[str, tuple[str, bool]]] = {
    "multiple_choice": {
        "acc": ("mean", True),
        "acc_norm": ("mean", True),
        "acc_bytes": ("mean", True),
        "mc2": ("mean", True),
        "f1": ("f1", True),
        "macro_f1": ("f1", True),
        "brier_score": ("brier_score", False),
        "ece": ("ece", False),
    },
    "loglikelihood": {"acc": ("mean", True), "perplexity": ("perplexity", False)},
    "loglikelihood_rolling": {
        "word_perplexity": ("weighted_perplexity", False),
        "byte_perplexity": ("weighted_perplexity", False),
        "bits_per_byte": ("bits_per_byte", False),
        "token_perplexity": ("weighted_perplexity", False),
    },
    "generate_until": {
        "exact_match": ("mean", True),
        "squad_em": ("mean", True),
        "squad_f1": ("mean", True),
        "bleu": ("bleu", True),
        "chrf": ("chrf", True),
        "ter": ("ter", False),
        "rougeL": ("mean", True),
        "refusal": ("mean", False),
        "refusal_safe": ("mean", False),
        "refusal_unsafe": ("mean", True),
    },
}
"""Output type -> metric -> its aggregation and whether higher is better."""


class MetricEntry(Section):
    """One number of a task."""

    metric: str
    """Its name."""
    aggregation: str | None = None
    """How items become one number; only the metric's own way is allowed."""
    higher_is_better: bool | None = None
    """Direction; only the metric's own is allowed."""
    ignore_case: bool = False
    """Compare in lower case (exact_match)."""
    ignore_punctuation: bool = False
    """Leave out ASCII punctuation (exact_match)."""
    ignore_numbers: bool = False
    """Leave out ASCII digits (exact_match)."""
    regexes_to_ignore: tuple[str, ...] = ()
    """What these match is left out, in this order (exact_match)."""


class FilterStep(Section):
    """One step from a response to an answer."""

    function: Literal["regex", "take_first"]
    """regex: the match of a pattern; take_first: the only response there is."""
    regex_pattern: str | None = None
    """Pattern of regex; of several groups the first that matched counts."""
    group_select: int = 0
    """Which match: 0 the first, -1 the last."""
    fallback: str = "[invalid]"
    """Answer where nothing matches."""


class FilterEntry(Section):
    """A way to read an answer out of a response; every metric is computed for each."""

    name: str
    """Stands after the metric's name: exact_match,strict-match."""
    filter: tuple[FilterStep, ...]
    """Steps, in order."""


class GenerationConfig(Section):
    """How responses are made."""

    until: tuple[str, ...] | None = None
    """Texts that end a response and are cut off; default: the delimiter of examples."""
    max_gen_toks: Positive = 256
    """Longest response in tokens, lm-evaluation-harness's default."""
    do_sample: bool = False
    """Draw tokens; false: always the most likely one."""
    temperature: float = Field(default=0.0, ge=0)
    """Divides the logits; above 0 if and only if tokens are drawn."""


class ShotsConfig(Section):
    """Which examples stand before a question."""

    sampler: Literal["default", "first_n"] = "default"
    """default: drawn by seed for each item; first_n: the first ones for all items."""


class Metadata(Section):
    """About the definition itself."""

    version: float = 1.0
    """Of the prompt and scoring; lm-evaluation-harness's where the task is its own."""


class Definition(Section):
    """What a task asks and counts."""

    task: str
    """Name."""
    output_type: Output
    """How the model is used."""
    doc_to_target: str | int
    """The answer: a column, a template, or an index into the choices. A list of
    them where several are right."""
    metric_list: tuple[MetricEntry, ...]
    """Numbers, most important first."""
    doc_to_text: str = ""
    """The question: a column or a template."""
    doc_to_choice: str | tuple[str, ...] | None = None
    """The answers to choose from: fixed texts, or a column or template that gives a list."""
    doc_to_count: str | None = None
    """Text whose words and bytes count for a perplexity; default: the scored one. Not a field of
    lm-evaluation-harness, whose wikitext counts by a function."""
    description: str = ""
    """Stands before the examples (template)."""
    target_delimiter: str = " "
    """Between question and answer in plain text."""
    fewshot_delimiter: str = "\n\n"
    """Between examples in plain text."""
    num_fewshot: int = Field(default=0, ge=0, le=1000)
    """Examples before a question, where the run does not say."""
    fewshot_config: ShotsConfig = ShotsConfig()
    """How they are chosen."""
    generation_kwargs: GenerationConfig | None = None
    """Decoding; default: greedy to the delimiter of examples."""
    filter_list: tuple[FilterEntry, ...] = ()
    """How answers are read out of responses; default: the response is the answer."""
    dataset_path: str | None = None
    """Where the official rows are (hub id). Shown to readers; a run names its rows itself."""
    dataset_name: str | None = None
    """Configuration of that set."""
    test_split: str | None = None
    """Split that is scored."""
    validation_split: str | None = None
    """Split that is scored where there is no public test split."""
    training_split: str | None = None
    """Split that examples come from."""
    fewshot_split: str | None = None
    """Split that examples come from, where it is another."""
    metadata: Metadata = Metadata()
    """Version."""

    @property
    def generation(self) -> GenerationConfig:
        """Decoding with its defaults."""
        return self.generation_kwargs or GenerationConfig()

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end a response."""
        until = self.generation.until
        return (self.fewshot_delimiter,) if until is None else until
