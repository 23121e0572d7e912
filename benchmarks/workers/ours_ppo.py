"""One PPO run of alignkit: `python -m workers.ours_ppo WORK` prints one JSON line.

Policy, reference, critic and reward model are parts of one shared base. The reward model is a
fresh LoRA adapter (which costs its passes and changes nothing) and the seeded head, so it gives the
scores of the peer's classifier.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from workers.measure import (
    Recorder,
    as_ids,
    as_text,
    device_of,
    id_tokenizer,
    load_policy,
    load_prompts,
    report,
    reward_head,
)
from workers.scores import ScoreFunction, held_scores, score_function
from workers.work import Work

from align.config import LoraConfig
from align.ppo import PPOConfig, PPOTrainer
from align.shared import SharedBase
from reward.model import RewardModel
from reward.parts import AdapterTrunk, RewardSettings


def model_score(
    shared: SharedBase, tokenizer: PreTrainedTokenizerFast, work: Work
) -> ScoreFunction:
    """The reward model: an adapter and a head on the shared base."""
    lora = LoraConfig(r=work.lora_r, alpha=work.lora_alpha)
    shared.add_adapter("reward", lora, seed=work.seed + 2)
    head = shared.add_head("reward", weight=reward_head(shared.config.hidden_size, work.seed))
    model = RewardModel(AdapterTrunk(shared, "reward"), head, tokenizer, RewardSettings())

    def score(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        return model.score_ids([as_ids(prompt) + as_ids(text) for prompt, text in pairs])

    return score


def phases(logs: dict[str, Any]) -> dict[str, float]:
    """Seconds of the phases before optimisation, as the trainer logs them."""
    return {name: logs[f"seconds/{name}"] for name in ("sample", "score", "measure")}


def trainer_arguments(work: Work) -> dict[str, Any]:
    """Arguments of our `PPOConfig`; what the work names itself comes last."""
    cut = "none" if work.eos is None else "penalty"
    own = {"use_cpu": device_of(work) == "cpu", "truncation": cut, "truncation_penalty": 1.0}
    return own | work.trainer_arguments


def make_trainer(
    work: Work, folder: str, callbacks: Sequence[TrainerCallback]
) -> tuple[PPOTrainer, SharedBase]:
    """Our trainer of the work, and the base that its parts share."""
    shared = SharedBase(load_policy(work))
    vocabulary = shared.config.vocab_size
    tokenizer = id_tokenizer(vocabulary, pad_id=0, eos_id=work.eos)
    trainer = PPOTrainer(
        model=shared,
        reward_funcs=(
            model_score(shared, tokenizer, work)
            if work.score == "model"
            else score_function(work, vocabulary)
        ),
        args=PPOConfig(output_dir=folder, **trainer_arguments(work)),
        train_dataset=[{"prompt": as_text(ids)} for ids in load_prompts(work.prompts)],
        processing_class=tokenizer,
        peft_config=LoraConfig(r=work.lora_r, alpha=work.lora_alpha),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, shared


def train(work: Work, folder: str) -> tuple[Recorder, dict[str, list[float]]]:
    """Train, and return what was recorded and the scores on held-out prompts."""
    recorder = Recorder("score/mean", phases)
    trainer, shared = make_trainer(work, folder, [recorder])
    trainer.train()
    with shared.active("policy"):
        return recorder, held_scores(shared.causal, work, shared.config.vocab_size)


if __name__ == "__main__":
    the_work = Work.from_json(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        recorded, scores = train(the_work, scratch)
    print(report(the_work, recorded, "alignkit", scores))
