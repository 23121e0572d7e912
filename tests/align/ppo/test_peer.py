"""Parity with TRL 1.12's own helpers, run in an environment of its own (`make peers`)."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from align.generation import Response
from align.ppo.advantages import scale_to_unit_variance, whiten
from align.ppo.passes import response_hidden, response_statistics
from align.ppo.rollout import Rollout, start_rollout
from align.shared import SharedBase

PAD, EOS, TEMPERATURE = 0, 1, 0.7
PROMPTS = [[3, 4, 5], [6], [7, 8, 9, 10, 11]]
RESPONSES = [[12, 13, EOS], [14, 15, 16, 17], [EOS]]
SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl.experimental.ppo import ppo_trainer as trl
folder, pad, eos, temperature, start = sys.argv[1], *map(float, sys.argv[2:])
given = load_file(folder + "/given.safetensors")
model = AutoModelForCausalLM.from_pretrained(folder).eval()
with torch.no_grad():
    logits = trl.forward(model, given["ids"], int(pad)).logits[:, int(start) - 1 : -1] / temperature
    logprobs = trl.selective_log_softmax(logits, given["ids"][:, int(start):])
mask = given["mask"].bool()
whitened = trl.masked_whiten(given["values"], mask)
kept = trl.masked_whiten(given["values"], mask, shift_mean=False)
cut = trl.truncate_response(int(eos), int(pad), given["raw"])
print("RESULT" + json.dumps([x.tolist() for x in (logprobs, whitened, kept, cut)]))
"""


@pytest.fixture(scope="module")
def peer(project: Path) -> Path:
    """The interpreter that has TRL 1.12."""
    python = project / ".peers" / "trl-1.12" / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"no {python.relative_to(project)}: run `make peers`")
    return python


def rollout_of() -> Rollout:
    responses = [Response(ids, [0.0] * len(ids), ids[-1] == EOS) for ids in RESPONSES]
    return start_rollout(PROMPTS, responses, PAD, torch.device("cpu"))


def ask(peer: Path, folder: Path, tensors: dict[str, torch.Tensor], start: int) -> list[Any]:
    """What TRL's helpers make of the tensors."""
    save_file(tensors, folder / "given.safetensors")
    numbers = [str(x) for x in (PAD, EOS, TEMPERATURE, start)]
    done = subprocess.run(
        [str(peer), "-c", SCRIPT, str(folder), *numbers],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT"))
    found: list[Any] = [torch.tensor(x) for x in json.loads(line.removeprefix("RESULT"))]
    return found


@pytest.mark.peer
def test_numbers_are_those_of_trl_s_helpers(
    peer: Path, make_model: Callable[..., LlamaForCausalLM], tmp_path: Path
) -> None:
    model, rollout = make_model(), rollout_of()
    model.save_pretrained(tmp_path)
    mask = rollout.mask
    values = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0))
    raw = torch.tensor([[12, 13, EOS, 20], [14, 15, 16, 17], [EOS, 21, 22, 23]])
    given = {
        "ids": torch.cat([rollout.prompt_ids, rollout.response_ids], 1),
        "mask": mask.to(torch.uint8), "values": values, "raw": raw,
    }  # fmt: skip
    logprobs, whitened, kept, cut = ask(peer, tmp_path, given, rollout.prompt_ids.shape[1])
    shared = SharedBase(model)
    hidden = response_hidden(shared, rollout)
    ours = response_statistics(shared, hidden, rollout, TEMPERATURE).logprobs
    torch.testing.assert_close(ours[mask], logprobs[mask], atol=1e-5, rtol=1e-5)
    # TRL divides the variance by n - 1 (here 7), ours by n
    bessel = (7 / 8) ** 0.5
    ours = whiten(values, mask)
    torch.testing.assert_close(ours[mask] * bessel, whitened[mask], atol=1e-5, rtol=1e-5)
    mean = values[mask].mean()
    ours = scale_to_unit_variance(values, mask) - mean
    torch.testing.assert_close((ours * bessel + mean)[mask], kept[mask], atol=1e-5, rtol=1e-5)
    assert cut.tolist() == rollout.response_ids.tolist()
