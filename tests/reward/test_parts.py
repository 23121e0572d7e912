"""What counts as a reward stage's folder."""

from pathlib import Path

import pytest

from reward.parts import RewardSettings, is_reward_stage


@pytest.mark.parametrize(
    ("part", "expected"), [("adapter", True), ("model", True), ("members", False), (".", False)]
)
def test_a_reward_stage_holds_an_adapter_or_a_model_of_its_own(
    tmp_path: Path, part: str, expected: bool
) -> None:
    (tmp_path / part).mkdir(exist_ok=True)
    assert not is_reward_stage(tmp_path)  # the folder alone: a policy has one too
    RewardSettings(mean=1.0, std=2.0, n=3).write(tmp_path / part)
    assert is_reward_stage(tmp_path) is expected
