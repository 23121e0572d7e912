"""Settings that libraries read from the environment, made before they are imported."""

from __future__ import annotations

import os


def set_environment(*, offline: bool) -> None:
    """Settings that libraries read once, when they are imported; what the user set stays."""
    wanted = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if offline:
        wanted |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
