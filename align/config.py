"""What a run is: one frozen model a section of the YAML, every field with its unit and reason.

The models only describe and check; `align.settings` reads files and reports mistakes, and the
stages receive their own section. Arithmetic never sees a configuration.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

WorldSet = Literal[
    "text",
    "heldout_text",
    "instructions",
    "preferences",
    "heldout_preferences",
    "prompts",
    "heldout_prompts",
    "sentiment",
    "translation",
    "counterfactual",
]
Positive = Annotated[int, Field(gt=0, le=10**12)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """Base of all sections: frozen, strict, field docstrings become the schema's descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class WorldConfig(Section):
    """The generated world: data with a known answer, and a bias of known size if wanted."""

    text_bias: Share = 0.0
    """Tilt of jobs by gender in the pretraining text: 0 none, 1 fully segregated."""
    label_bias: Share = 0.0
    """Chance that an annotator reverses a preference for praise when the person is a woman."""


class SourceConfig(Section):
    """Where rows come from: exactly one of `world`, `path` and `hub`."""

    world: WorldSet | None = None
    """A set of the generated world."""
    path: str | None = None
    """File or `datasets` folder, relative to `data.root` (JSON Lines, JSON, CSV, Parquet, text;
    `.gz` too)."""
    hub: str | None = None
    """Dataset id on the hub; the only kind of source that uses the network."""
    subset: str | None = None
    """Configuration name of a hub dataset."""
    split: str = "train"
    """Split of a hub dataset or a `datasets` folder."""
    revision: str | None = None
    """Commit of a hub dataset; pin it to make a run repeatable."""
    streaming: bool = False
    """Read a hub dataset row by row instead of downloading it (needs `limit`)."""
    columns: dict[str, str] = {}
    """Our field name -> the column's name in the file, where they differ."""
    limit: Positive | None = None
    """At most so many rows, the first of a seeded shuffle. The world needs it."""
    max_characters: Positive | None = None
    """Rows with more characters are left out and counted (characters over all fields)."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [key for key in ("world", "path", "hub") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"name exactly one of world, path, hub (given: {given or 'none'})")
        if self.world and self.limit is None:
            raise ValueError("a world set needs `limit`, the number of rows to generate")
        if self.streaming and (self.hub is None or self.limit is None):
            raise ValueError("streaming needs `hub` and `limit`")
        return self


class DataConfig(Section):
    """Settings shared by every source of the run."""

    root: str | None = None
    """Folder that relative paths start from; default: the folder of the YAML."""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of rows held out where a stage names no `eval_data`."""


class LoraConfig(Section):
    """Low-rank adapter (Hu 2021, 2106.09685) through peft."""

    r: Annotated[int, Field(gt=0, le=1024)] = 16
    """Rank."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """Scale: the update is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input while SFT or reward training; never on in PPO."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get an adapter."""


class ArchitectureConfig(Section):
    """Size of a Llama-style decoder trained from scratch."""

    hidden_size: Positive = 128
    """Width H."""
    layers: Positive = 4
    """Number of blocks."""
    heads: Positive = 4
    """Attention heads; must divide `hidden_size`."""
    intermediate_size: Positive = 384
    """Width of the feed-forward layer."""
    vocab_size: Annotated[int, Field(ge=300, le=1_000_000)] = 1024
    """Size of the byte-level BPE vocabulary trained on the same text."""
    context: Positive = 128
    """Longest sequence in tokens."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on attention weights while pretraining."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide hidden_size ({self.hidden_size})")
        return self


class ModelConfig(Section):
    """A model to load; leave the section out to pretrain one."""

    base: str
    """Hub id, local folder, .gguf file or a folder of a finished stage."""
    adapters: tuple[str, ...] = ()
    """LoRA folders merged in this order."""
    revision: str | None = None
    """Commit of a hub model."""
    trust_remote_code: bool = False
    """Allow code from the model's repository to run."""


class TrainConfig(Section):
    """What every supervised stage has in common."""

    data: SourceConfig
    """Training rows."""
    eval_data: SourceConfig | None = None
    """Held-out rows; default: a seeded share (`data.holdout`) of `data`."""
    epochs: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Passes over the data."""
    learning_rate: Rate = 2e-4
    """Peak learning rate (AdamW)."""
    batch_size: Positive = 16
    """Sequences an optimizer step and process; split over `gradient_accumulation`."""
    gradient_accumulation: Positive = 1
    """Micro-batches an optimizer step; must divide `batch_size`."""
    max_length: Positive = 128
    """Longest sequence in tokens; longer ones are cut (text) or left out and counted (dialogue)."""
    warmup: Share = 0.05
    """Share of the steps with a rising learning rate; then cosine to zero."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    checkpoint_steps: Positive = 100
    """Steps between two resumable checkpoints."""
    trainer: dict[str, Any] = {}
    """Further arguments of the trainer's own dataclass, checked against it."""

    @model_validator(mode="after")
    def _accumulation_divides(self) -> Self:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"gradient_accumulation ({self.gradient_accumulation}) must divide "
                f"batch_size ({self.batch_size})"
            )
        return self


class PretrainConfig(TrainConfig):
    """Next-token training from scratch on packed blocks."""

    architecture: ArchitectureConfig = ArchitectureConfig()
    """Size of the model."""
    patience: Positive | None = 3
    """Stop after so many evaluations without a lower held-out loss; the best weights are kept."""


class SFTConfig(TrainConfig):
    """Supervised fine-tuning on dialogues, loss on the assistant's tokens (TRL SFTTrainer)."""

    lora: LoraConfig | None = LoraConfig()
    """Adapter; null trains all weights."""
    packing: bool = False
    """Pack several dialogues into one block (bfd); for speed on GPUs."""


class RewardConfig(TrainConfig):
    """Reward model from preference pairs, Bradley-Terry loss (TRL RewardTrainer)."""

    lora: LoraConfig | None = LoraConfig()
    """Adapter; null trains all weights."""
    center: Annotated[float, Field(ge=0)] = 0.01
    """Weight of (s_chosen + s_rejected)^2, which keeps the scores' mean near 0 (2312.09244)."""


class PPOStageConfig(Section):
    """PPO against the reward model, on one shared base."""

    data: SourceConfig
    """Prompts to sample from."""
    eval_data: SourceConfig | None = None
    """Held-out prompts; default: a seeded share of `data`."""
    episodes: Positive = 1024
    """Responses sampled in all."""
    batch_size: Positive = 64
    """Responses an update (rollout); must be a multiple of mini_batches * micro_batch_size."""
    mini_batches: Positive = 2
    """Optimizer steps an epoch over one rollout."""
    micro_batch_size: Positive = 32
    """Sequences a forward and backward pass."""
    ppo_epochs: Positive = 4
    """Epochs over one rollout."""
    learning_rate: Rate = 3e-5
    """Peak learning rate, annealed linearly to zero."""
    critic_learning_rate: Rate | None = None
    """Learning rate of the critic; default: the policy's."""
    lora: LoraConfig = LoraConfig()
    """Adapter of the policy; the critic's has the same shape."""
    max_prompt_length: Positive = 64
    """Longest prompt P in tokens; longer prompts are left out and counted."""
    response_length: Positive = 32
    """Most tokens T of a response."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Sampling temperature, also of every log-probability."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.05
    """Weight beta of the KL penalty a token."""
    kl_budget: Annotated[float, Field(gt=0)] | None = None
    """Most KL to the reference (nats a response) that the report calls within budget."""
    truncation: Literal["penalty", "replace", "bootstrap", "none"] = "penalty"
    """What a response cut off without EOS gets (see docs/ppo.md)."""
    truncation_penalty: float = 1.0
    """Subtracted (penalty) from the score of a cut response, or in its place with a minus sign."""
    checkpoint_updates: Positive = 5
    """Updates between two resumable checkpoints."""
    trainer: dict[str, Any] = {}
    """Further arguments of `align.ppo.PPOConfig`, checked against it."""

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        unit = self.mini_batches * self.micro_batch_size
        if self.batch_size % unit:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of "
                f"mini_batches * micro_batch_size ({unit})"
            )
        return self


class TaskConfig(Section):
    """One evaluation task. Fields that a kind does not use must stay unset."""

    kind: Literal[
        "classification", "translation", "perplexity", "counterfactual", "crows_pairs"
    ]
    """How samples are scored."""
    data: SourceConfig
    """The items."""
    prompt: str | None = None
    """Question with {column} placeholders (classification, translation)."""
    target: str | None = None
    """Column with the label (its index or text) or the reference translation."""
    choices: tuple[str, ...] | None = None
    """The answers to choose from (classification)."""
    chat: bool = True
    """Ask through the chat template; false: as plain text."""
    max_new_tokens: Positive = 48
    """Longest generated answer (translation)."""
    groups: tuple[str, ...] = ()
    """Columns that hold group membership (classification)."""


class EvalsConfig(Section):
    """The evaluation of every stage on identical items."""

    tasks: dict[str, TaskConfig]
    """Name -> task."""
    prompts: Annotated[int, Field(ge=0)] = 128
    """Held-out PPO prompts answered by every stage and scored by the reward model (0: none)."""
    reward_bias: tuple[str, ...] = ()
    """Names of counterfactual tasks on which the reward model is audited too."""
    batch_tokens: Positive = 8192
    """Tokens a forward pass, padding included."""
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 2000
    """Bootstrap resamples."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Coverage of every interval."""


class GateRule(Section):
    """One requirement on a number of the report."""

    task: str
    """Task name, or `reward_model`, `ppo`."""
    metric: str
    """Metric of that task."""
    stage: str = "ppo"
    """Stage whose number is judged."""
    at_least: float | None = None
    """The interval's lower end must not lie below this."""
    at_most: float | None = None
    """The interval's upper end must not lie above this."""
    not_worse_than: str | None = None
    """Stage to compare with; the paired difference must not be worse by more than `margin`."""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """Largest loss called no harm, in the metric's unit."""
    minimum_n: Positive = 30
    """Fewer items: insufficient evidence."""


class ReportConfig(Section):
    """What the report judges."""

    title: str = ""
    """Heading; default: the run's name."""
    gate: tuple[GateRule, ...] = ()
    """Requirements; the verdict line is their conjunction."""


class RunConfig(Section):
    """One run: one YAML, one folder under `runs/`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Name of the run's folder."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of everything random."""
    output: str = "runs"
    """Folder that holds the run's folder."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes the first of cuda, mps, cpu that is there."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the weights; auto: float32 on CPU, bfloat16 on a GPU that has it."""
    threads: Positive | None = None
    """CPU threads; default: all cores."""
    world: WorldConfig | None = None
    """Knobs of the generated world; only with a `world` source."""
    data: DataConfig = DataConfig()
    """Settings shared by all sources."""
    model: ModelConfig | None = None
    """Model to start from; instead of `pretrain`."""
    pretrain: PretrainConfig | None = None
    """Stage 1."""
    sft: SFTConfig | None = None
    """Stage 2."""
    reward: RewardConfig | None = None
    """Stage 3."""
    ppo: PPOStageConfig | None = None
    """Stage 4; needs `reward`."""
    evals: EvalsConfig | None = None
    """Stage 5."""
    report: ReportConfig = ReportConfig()
    """The report."""

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        if (self.model is None) == (self.pretrain is None):
            raise ValueError("give exactly one of `model` (load) and `pretrain` (from scratch)")
        if self.ppo is not None and self.reward is None:
            raise ValueError("`ppo` needs a `reward` section")
        if self.world is not None and not _uses_world(self.model_dump()):
            raise ValueError("`world` is never read: no source names a world set")
        return self


def _uses_world(node: Any) -> bool:
    """Whether any source in the dumped configuration names a set of the world."""
    if isinstance(node, dict):
        named = isinstance(node.get("world"), str)
        return named or any(_uses_world(value) for value in node.values())
    return False
