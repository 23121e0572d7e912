"""The stages of a run, in order: what each reads, which code makes it, and how it is called.

This table is the pipeline's plan. Heavy libraries are imported inside the functions, so that an
up-to-date run answers without loading them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.artifacts import StageJob, StageResult
from align.config import RewardConfig, RunConfig, SourceConfig
from align.data.sources import DataContext
from align.references import ModelReference, resolve_reference

if TYPE_CHECKING:
    from reward.model import RewardModel

DATA_CODE = (
    "align.data",
    "align.models",
    "align.references",
    "align.adapters",
    "align.tokenizer",
    "align.gguf",
    "align.products",
)
TRAIN_CODE = (*DATA_CODE, "align.training", "align.callbacks")
SHARED_CODE = (
    "align.shared",
    "align.trunk",
    "align.lora",
    "align.attention",
    "align.part_files",
)


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: Section of the configuration and name on the command line.
        folder: Folder below the run's.
        run: Makes the artifact.
        code: Modules whose sources decide whether an artifact is up to date.
        models: Models it starts from: role -> name of a stage, or `base`.
        reads: Other sections it reads.
        check: Checks its section's `trainer` mapping; called only where there is one, because it
            loads the trainer's library.
    """

    name: str
    folder: str
    run: Callable[[RunConfig, StageJob], StageResult]
    code: tuple[str, ...]
    models: dict[str, str]
    reads: tuple[str, ...] = ()
    check: Callable[[RunConfig], None] | None = None


def check_pretrain(config: RunConfig) -> None:
    """Further arguments of stage 1."""
    from align.pretrain import check_pretrain as check

    check(config)


def check_sft(config: RunConfig) -> None:
    """Further arguments of stage 2."""
    from align.sft import check_sft as check

    check(config)


def check_reward(config: RunConfig) -> None:
    """Further arguments of stage 3."""
    from reward.train import check_reward as check

    check(config)


def check_ppo(config: RunConfig) -> None:
    """Further arguments of stage 4."""
    from align.ppo.stage import check_ppo as check

    assert config.ppo is not None
    check(config.ppo)


def run_pretrain(config: RunConfig, job: StageJob) -> StageResult:
    """Stage 1: a language model from scratch."""
    from align.pretrain import train_pretrain

    return train_pretrain(config, job)


def run_sft(config: RunConfig, job: StageJob) -> StageResult:
    """Stage 2: supervised fine-tuning."""
    from align.sft import train_sft

    return train_sft(config, job)


def run_reward(config: RunConfig, job: StageJob) -> StageResult:
    """Stage 3: the reward model."""
    from reward.train import train_reward

    return train_reward(config, job)


def run_ppo(config: RunConfig, job: StageJob) -> StageResult:
    """Stage 4: PPO; policy, critic, reference and reward share one base."""
    from align.models import load_model, pick_device
    from align.ppo.stage import PPOParts, train_ppo
    from align.shared import SharedBase
    from reward.combine import build_terms
    from reward.gold import gold_function

    loaded = load_model(job.inputs["policy"], device=pick_device(config.device))
    shared = SharedBase(loaded.model)
    assert config.ppo is not None
    reward, adapter = None, None
    if config.ppo.uses_reward_model:
        reward, adapter = _load_reward(config, job, shared, loaded.tokenizer)
    parts = PPOParts(
        shared=shared,
        tokenizer=loaded.tokenizer,
        terms=build_terms(config.ppo.rewards, reward),
        gold=gold_function(config, job),
        critic_adapter=adapter,
    )
    return train_ppo(config, job, parts)


def _load_reward(
    config: RunConfig, job: StageJob, shared: Any, tokenizer: Any
) -> tuple[RewardModel, Path | None]:
    """The run's reward model, normalised, and the folder of its adapter if it is on the base."""
    from reward.load import load_reward, reward_on

    folder = Path(job.inputs["reward"].base)
    assert config.ppo is not None
    # a base that trains would change under the reward model's adapter
    if not (folder / "adapter").is_dir() or config.ppo.lora is None:
        return load_reward(folder, normalised=True), None
    return reward_on(shared, folder, tokenizer, normalised=True), folder / "adapter"


def run_evals(config: RunConfig, job: StageJob) -> StageResult:
    """Stage 5: every model on the same items."""
    from evals.run import run_evals as evaluate
    from reward.gold import gold_function

    return evaluate(config, job, gold_function(config, job))


STAGES = (
    Stage(
        "pretrain",
        "1-pretrain",
        run_pretrain,
        (*TRAIN_CODE, "align.pretrain"),
        {},
        check=check_pretrain,
    ),
    Stage(
        "sft",
        "2-sft",
        run_sft,
        (*TRAIN_CODE, "align.sft"),
        {"base": "base"},
        check=check_sft,
    ),
    Stage(
        "reward",
        "3-reward",
        run_reward,
        (*TRAIN_CODE, "align.generation", "evals.engine", "reward"),
        {"base": "sft"},
        check=check_reward,
    ),
    Stage(
        "ppo",
        "4-ppo",
        run_ppo,
        (*DATA_CODE, *SHARED_CODE, "align.ppo", "align.generation", "reward", "evals.answers"),
        {"policy": "sft", "reward": "reward"},
        check=check_ppo,
    ),
    Stage(
        "evals",
        "5-evals",
        run_evals,
        (*DATA_CODE, "align.generation", "evals", "reward"),
        {"base": "base", "sft": "sft", "ppo": "ppo", "reward": "reward"},
        reads=("sft", "reward", "ppo"),
    ),
)


def sources(config: RunConfig, name: str) -> dict[str, tuple[SourceConfig, str]]:
    """Every source a stage reads: dotted key -> (source, kind of rows)."""
    section: Any = getattr(config, name)
    if name == "evals":
        tasks = section.tasks.items()
        found = {f"evals.tasks.{k}.data": (task.data, _task_kind(task.kind)) for k, task in tasks}
        shown = {k: task.fewshot_data for k, task in tasks if task.fewshot_data is not None}
        found |= {f"evals.tasks.{k}.fewshot_data": (v, "table") for k, v in shown.items()}
        judged = section.pairs.items()
        return found | {f"evals.pairs.{k}.data": (pairs.data, "preferences") for k, pairs in judged}
    kinds = {"pretrain": "text", "sft": "instructions", "reward": "preferences", "ppo": "prompts"}
    found = {f"{name}.data": (section.data, kinds[name])}
    if section.eval_data is not None:
        found[f"{name}.eval_data"] = (section.eval_data, kinds[name])
    if name == "reward":
        found |= _reward_sources(section)
    return found


def _reward_sources(section: RewardConfig) -> dict[str, tuple[SourceConfig, str]]:
    """What a reward model reads besides pairs: exchanges of words, reference samples."""
    found = {}
    if section.augment is not None and section.augment.path is not None:
        found["reward.augment"] = (SourceConfig(path=section.augment.path), "table")
    if section.normalise is not None and section.normalise.data is not None:
        found["reward.normalise.data"] = (section.normalise.data, "instructions")
    return found


def _task_kind(kind: str | None) -> str:
    """Kind of rows an evaluation task reads."""
    return "text" if kind == "perplexity" else "table"


def model_of(config: RunConfig, run: Path, name: str) -> ModelReference | None:
    """The model that a stage makes (`base`: what the run starts from); None where it has none.

    A stage that the run leaves out passes on the model before it. For `reward` the reference's
    base is the stage's folder, which `reward.model` reads.
    """
    folders = {stage.name: run / stage.folder for stage in STAGES}
    if name == "reward":
        return ModelReference(str(folders["reward"])) if config.reward else None
    if name == "ppo" and config.ppo is None:
        return None
    if name == "sft" and config.sft is None:
        name = "base"
    if name != "base":
        reference = resolve_reference(str(folders[name]))
    elif config.model is None:
        reference = resolve_reference(str(folders["pretrain"]))
    else:
        given = resolve_reference(config.model.base)
        reference = replace(
            given,
            adapters=(*given.adapters, *config.model.adapters),
            revision=config.model.revision or given.revision,
        )
    trusted = config.model is not None and config.model.trust_remote_code
    return replace(reference, dtype=config.dtype, trust_remote_code=trusted)


def data_context(config: RunConfig) -> DataContext:
    """Where the run's sources are read from."""
    world = None
    if any(source.world for source in _all_sources(config)):
        from align.config import WorldConfig
        from align.data.world import World

        knobs = config.world or WorldConfig()
        world = World(config.seed, knobs.text_bias, knobs.label_bias)
    root = Path(config.data.root) if config.data.root else None
    return DataContext(root=root, world=world, seed=config.seed)


def _all_sources(config: RunConfig) -> Iterator[SourceConfig]:
    """Every source of the run."""
    for stage in STAGES:
        if getattr(config, stage.name) is not None:
            yield from (source for source, _ in sources(config, stage.name).values())
