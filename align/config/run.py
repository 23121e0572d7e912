"""The whole run: its stages and what they have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from align.config.audit import AuditConfig
from align.config.base import Positive, Section
from align.config.data import DataConfig, WorldConfig
from align.config.evaluation import EvalsConfig, ReportConfig
from align.config.training import (
    ModelConfig,
    PPOStageConfig,
    PretrainConfig,
    RewardConfig,
    SFTConfig,
)


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
    """Stage 4; needs `reward`, unless its `rewards` do without."""
    evals: EvalsConfig | None = None
    """Stage 5."""
    report: ReportConfig = ReportConfig()
    """The report."""
    audit: AuditConfig = AuditConfig()
    """What `align audit` measures besides bias."""

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        if (self.model is None) == (self.pretrain is None):
            raise ValueError("give exactly one of `model` (load) and `pretrain` (from scratch)")
        if self.ppo is not None and self.ppo.uses_reward_model and self.reward is None:
            raise ValueError("`ppo` needs a `reward` section, or `ppo.rewards` without it")
        if self.world is not None and not _uses_world(self.model_dump()):
            raise ValueError("`world` is never read: no source names a world set")
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        if self.evals is None:
            return self
        known = (*self.evals.tasks, "prompts", "reward_model", "ppo")
        for i, rule in enumerate(self.report.gate):
            if rule.task not in known:
                raise ValueError(
                    f"report.gate.{i}.task {rule.task!r} is no task ({', '.join(known)})"
                )
        for name in self.evals.reward_bias:
            if name not in self.evals.tasks or self.evals.tasks[name].kind != "counterfactual":
                raise ValueError(f"evals.reward_bias {name!r} is no counterfactual task")
        return self


def _uses_world(node: Any) -> bool:
    """Whether any source in the dumped configuration names a set of the world."""
    if isinstance(node, dict):
        named = isinstance(node.get("world"), str)
        return named or any(_uses_world(value) for value in node.values())
    return False
