"""What a run is: one frozen model a section of the YAML, every field with its unit and reason.

The models only describe and check; `align.settings` reads files and reports mistakes, and the
stages receive their own section. Arithmetic never sees a configuration.
"""

from __future__ import annotations

from align.config.audit import AuditConfig, CanaryConfig
from align.config.base import (
    Positive,
    Rate,
    Section,
    Share,
)
from align.config.data import (
    DataConfig,
    SourceConfig,
    WorldConfig,
    WorldSet,
)
from align.config.evaluation import (
    EvalsConfig,
    GateRule,
    ReportConfig,
    TaskConfig,
)
from align.config.reward import EnsembleConfig, ReferenceConfig, SwapConfig
from align.config.rewards import FunctionConfig, RewardTermConfig, ScaleConfig
from align.config.run import RunConfig
from align.config.training import (
    ArchitectureConfig,
    LoraConfig,
    ModelConfig,
    PPOStageConfig,
    PretrainConfig,
    RewardConfig,
    SFTConfig,
    TrainConfig,
)

__all__ = [
    "ArchitectureConfig",
    "AuditConfig",
    "CanaryConfig",
    "DataConfig",
    "EnsembleConfig",
    "EvalsConfig",
    "FunctionConfig",
    "GateRule",
    "LoraConfig",
    "ModelConfig",
    "PPOStageConfig",
    "Positive",
    "PretrainConfig",
    "Rate",
    "ReferenceConfig",
    "ReportConfig",
    "RewardConfig",
    "RewardTermConfig",
    "RunConfig",
    "SFTConfig",
    "ScaleConfig",
    "Section",
    "Share",
    "SourceConfig",
    "SwapConfig",
    "TaskConfig",
    "TrainConfig",
    "WorldConfig",
    "WorldSet",
]
