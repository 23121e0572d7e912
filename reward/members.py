"""Train an ensemble: one reward model as usual, then members that share its lower layers.

Members differ by the seed of their upper adapter, head and data order, and on request by a
bootstrap sample of the pairs. A killed stage goes on at the member it was at.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from align.artifacts import StageJob, write_rows_atomic
from align.config import EnsembleConfig, RunConfig
from align.data.sources import derived_seed
from align.errors import UserError
from align.files import make_folder
from align.models import load_model, pick_device
from align.shared import SharedBase
from reward.ensemble import MEMBERS, EnsembleSettings, RewardEnsemble
from reward.evaluate import pair_metrics, score_pairs
from reward.pairs import Encoded, Work
from reward.parts import CONFIG_NAME, RewardSettings
from reward.start import load_start
from reward.train import SAMPLES, measured, reference_scores, train_one
from reward.upper import blocks_of, upper_layers


def train_ensemble(config: RunConfig, job: StageJob, work: Work) -> dict[str, Any]:
    """Train the shared layers and every member; returns the ensemble's metrics.

    Raises:
        UserError: The model is no causal LM, or has not as many layers as members want.
    """
    section = config.reward
    assert section is not None
    assert section.ensemble is not None
    ensemble, upper = section.ensemble, _upper(section.ensemble, work)
    if not _is_done(job.folder):
        train_one(config, job, work)
    for number in range(ensemble.k):
        folder = make_folder(job.folder / MEMBERS / str(number))
        if not _is_done(folder):
            job.progress.note(f"reward: member {number + 1} of {ensemble.k}")
            seed = derived_seed(config.seed, f"member {number}") % 2**31
            own = config.model_copy(update={"seed": seed})
            pairs = bootstrap_pairs(work.pairs, seed) if ensemble.bootstrap else work.pairs
            fresh = work._replace(start=load_start(work.reference, seed), pairs=pairs)
            train_one(own, replace(job, folder=folder), fresh, job.folder / "adapter", upper)
    coefficient = 1.0 if ensemble.coefficient is None else ensemble.coefficient
    settings = EnsembleSettings(ensemble.k, upper, ensemble.combine, coefficient)
    return _judge(config, job, work, settings)


def bootstrap_pairs(pairs: Encoded, seed: int) -> Encoded:
    """As many pairs as there are, drawn with replacement."""
    drawn = random.Random(seed).choices(range(len(pairs.rows)), k=len(pairs.rows))
    return Encoded([pairs.rows[i] for i in drawn], [pairs.ids[i] for i in drawn], pairs.left_out)


def member_metrics(members: Any, n: int) -> dict[str, Any]:
    """How the members judge by themselves, and how far they agree.

    Args:
        members: Scores (k, 2n), chosen responses first.
        n: Number of pairs.

    Returns:
        member_accuracy (k numbers), spread (mean over responses of the std over members),
        member_correlation (mean Pearson correlation of two members' margins).
    """
    margins = members[:, :n] - members[:, n:]
    among = np.corrcoef(margins)[np.triu_indices(len(margins), 1)]
    return {
        "member_accuracy": [float(share) for share in (margins > 0).mean(1)],
        "spread": float(members.std(0).mean()),
        "member_correlation": float(among.mean()),
    }


def _upper(ensemble: EnsembleConfig, work: Work) -> int:
    """Upper layers that members have for themselves."""
    if not work.start.causal:
        raise UserError("ensembles need a causal LM below", where="reward.ensemble")
    layers = len(blocks_of(work.start.model))
    upper = ensemble.layers or upper_layers(layers, ensemble.k)
    if upper > layers:
        raise UserError(
            f"{upper} upper layers of a model with {layers}", where="reward.ensemble.layers"
        )
    return upper


def _is_done(folder: Path) -> bool:
    """Whether a model stands in the folder and its checkpoints are gone."""
    written = (folder / "adapter" / CONFIG_NAME).is_file()
    return written and not (folder / "checkpoints").exists()


def _judge(
    config: RunConfig, job: StageJob, work: Work, ensemble: EnsembleSettings
) -> dict[str, Any]:
    """Measure the finished ensemble on the held-out pairs and write its settings."""
    loaded = load_model(work.reference, device=pick_device(config.device))
    shared, context = SharedBase(loaded.model), RewardSettings(max_length=work.start.context)
    model = RewardEnsemble.of(shared, job.folder, loaded.tokenizer, ensemble, context)
    rows = work.judged.rows
    scores = score_pairs(model, rows)
    prompts = [row["prompt"] for row in rows]
    members = model.member_scores(
        [*prompts, *prompts], [row[side] for side in ("chosen", "rejected") for row in rows]
    )
    settings = measured(reference_scores(model, scores, work.samples), work.start.context)
    if job.team.main:
        write_rows_atomic(job.folder / "samples.jsonl", scores.samples()[:SAMPLES])
        settings.write(job.folder / MEMBERS)
        ensemble.write(job.folder)
    return (
        pair_metrics(scores)
        | {"score_mean": settings.mean, "score_std": settings.std, "members": ensemble.k}
        | {"upper_layers": ensemble.upper}
        | member_metrics(members, len(rows))
    )
