"""A stage as a plain transformers folder: of a reward model with its head, as a classifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from align.adapters import WEIGHTS, adapter_settings, add_lora
from align.errors import UserError
from align.export import export_model, write_folder
from align.models import load_model, save_model
from align.references import resolve_reference
from reward.encoder import keep_ends
from reward.ensemble import MEMBERS, EnsembleSettings, is_ensemble
from reward.parts import RewardSettings, is_reward_stage, read_head
from reward.start import build_classifier


def export_stage(name: str, out: Path) -> None:
    """Write a reward stage as a classifier, any other stage or model with its adapters merged.

    Raises:
        UserError: See `export_reward` and `align.export.export_model`.
    """
    if is_reward_stage(Path(name)):
        export_reward(Path(name), out)
    else:
        export_model(resolve_reference(name), out)


def export_reward(stage: Path, out: Path) -> Path:
    """Write a reward stage as a classifier with one label, float32; appears whole or not at all.

    `AutoModelForSequenceClassification` loads it, and its text-classification pipeline gives our
    raw scores of the rendered prompt and response with its EOS. An ensemble becomes one folder a
    member, 0, 1, ..., below `out`.

    Args:
        stage: Folder of a finished reward stage.
        out: Where to; it may exist if it is empty.

    Raises:
        UserError: There is something in `out`, the stage is a whole model already, or it is broken.
    """
    if (stage / "model").is_dir():
        raise UserError(
            "this reward model is a plain classifier already",
            where=f"{stage}/model",
            remedy="copy it",
        )
    if not is_ensemble(stage):
        return write_folder(out, lambda work: _write(stage, stage / "adapter", work))

    def write(work: Path) -> None:
        for number in range(EnsembleSettings.read(stage).k):
            (work / str(number)).mkdir()
            _write(stage, stage / MEMBERS / str(number) / "adapter", work / str(number))

    return write_folder(out, write)


def _write(stage: Path, adapter: Path, folder: Path) -> None:
    """Merge one adapter into the stage's base under its own head and save the classifier."""
    settings, weight = RewardSettings.read(adapter), read_head(adapter)
    own = resolve_reference(str(stage))
    below = replace(own, adapters=own.adapters[:-1], dtype="float32")
    causal, tokenizer, _ = load_model(below, device="cpu")
    tuned = add_lora(causal, adapter_settings(None, adapter))
    state = {key: value for key, value in load_file(adapter / WEIGHTS).items() if "lora_" in key}
    set_peft_model_state_dict(tuned, state)
    model = build_classifier(tuned.merge_and_unload(safe_merge=True), seed=0)
    model.score.weight.data.copy_(weight)
    # the pipeline then applies no sigmoid
    model.config.problem_type, model.config.id2label = "regression", {0: "score"}
    model.config.label2id = {"score": 0}
    # whoever cuts a text that is too long keeps its end, as we do
    keep_ends(tokenizer)
    tokenizer.model_max_length = settings.max_length or tokenizer.model_max_length
    save_model(model, tokenizer, folder)
    settings.write(folder)
