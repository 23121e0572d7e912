"""Several processes (docs/ppo.md items 12, 14): sums of gradients, and two real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from align.ppo.processes import Processes

# Each process keeps the rows of its rank of one fixed rollout; what it prints must not depend on
# how many processes there are.
SCRIPT = """
import json, os, sys
from dataclasses import replace
import torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM
from align.config import LoraConfig
from align.generation import Response
from align.ppo.config import PPOConfig
from align.ppo.experience import PlainShaping, collect
from align.ppo.learner import Learner
from align.ppo.parts import add_parts
from align.ppo.passes import Passes
from align.ppo.rollout import start_rollout
from align.ppo.scale import ScoreScale
from align.ppo.watch import Watch
from align.shared import SharedBase

torch.set_num_threads(1)
torch.manual_seed(0)
shared = SharedBase(LlamaForCausalLM(LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=2)))
count = int(os.environ.get("WORLD_SIZE", "1"))
args = PPOConfig(output_dir=sys.argv[1], use_cpu=True, critic="adapter",
                 per_device_train_batch_size=2,
                 gradient_accumulation_steps=2 // count, seed=1)
accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
assert count == accelerator.num_processes
add_parts(shared, args, LoraConfig(r=4))
generator = torch.Generator().manual_seed(2)
for part in ("policy", "critic"):
    for p in shared.trainable_parameters(part):
        p.data = torch.randn(p.shape, generator=generator) * 0.2
if sys.argv[2:] == ["sharded"]:
    mesh = init_device_mesh("cpu", (count,))
    for layer in shared.base.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(shared, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in shared.parameters())
lengths = [5, 1, 3, 2]
responses = [Response(torch.randint(3, 32, (n,), generator=generator).tolist(), [0.0] * n, n > 1)
             for n in lengths]
numbers = torch.randn(3, 4, 6, generator=generator)
scores = torch.randn(4, generator=generator)
mine = list(range(4))[rank::count]
measured = start_rollout([[3 + r] * (r + 1) for r in mine], [responses[r] for r in mine], 0,
                         shared.device)
width = measured.mask.shape[1]
measured = replace(measured, logprobs=numbers[0, mine, :width] - 3.4,
                   reference=numbers[1, mine, :width] - 3.4,
                   values=numbers[2, mine, : width + 1])
learner = Learner(Passes(shared, 1.0, accelerator.autocast), args, accelerator)
watch = Watch()
together = learner.processes
scale = ScoreScale("running")
scale(numbers[0, :3, 0][rank::count], together.sum)  # two here, one there
scaled = scale(scores[mine], together.sum)
rollout, metrics = collect(measured, scores[mine], 0.1, PlainShaping(whiten_rewards=True),
                           together.sum, scaled)
for within in range(args.gradient_accumulation_steps):
    part, tokens = learner.micro_batch(rollout, 0, within)
    learner.backward(part, tokens, 0, watch)
learner.end_gradients(0.5, watch)
row = watch.summary(together.sum, together.largest)
whole = lambda g: g.full_tensor() if isinstance(g, DTensor) else g
gradient = torch.cat([whole(p.grad).flatten() for n in ("policy", "critic")
                      for p in shared.trainable_parameters(n)])
shown = {k: v for k, v in row.items() if k != "memory_gb"}
shown |= {"scale/n": scale.n, "scale/mean": scale.mean, "scale/squares": scale.squares}
if rank == 0:
    print("RESULT" + json.dumps([count, shown | metrics, gradient.tolist()]))
"""


class Doubling(SimpleNamespace):
    """An accelerator of two processes of which the other holds twice what this one does."""

    num_processes = 2
    device = torch.device("cpu")
    distributed_type = "MULTI_CPU"

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        assert reduction == "sum"
        return 3 * tensor

    def gather(self, tensor: Tensor) -> Tensor:
        return torch.cat([tensor, 2 * tensor])


def test_gradients_of_both_processes_are_added() -> None:
    # Item 14. A parameter without gradient here takes part: the other process may have one.
    parameters = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4))]
    parameters[0].grad = torch.arange(6.0).reshape(2, 3)
    Processes(Doubling()).sum_gradients(parameters)  # type: ignore[arg-type]
    assert parameters[0].grad.tolist() == [[0.0, 3.0, 6.0], [9.0, 12.0, 15.0]]
    assert parameters[1].grad is not None
    assert parameters[1].grad.tolist() == [0.0] * 4


def test_the_largest_of_both_processes_counts() -> None:
    assert Processes(Doubling()).largest(torch.tensor(1.5)).item() == 3.0  # type: ignore[arg-type]


def test_a_process_goes_on_for_others_only_where_weights_are_sharded() -> None:
    # The other process says twice what this one says.
    for kind, mine, expected in (
        ("MULTI_CPU", False, False), ("MULTI_CPU", True, True),
        ("FSDP", True, True), ("FSDP", False, False), ("DEEPSPEED", True, True),
    ):  # fmt: skip
        together = Processes(Doubling(distributed_type=kind))  # type: ignore[arg-type]
        assert together.anyone(mine) is expected

    class Waiting(Doubling):
        def gather(self, tensor: Tensor) -> Tensor:
            return torch.cat([tensor, torch.ones(1)])

    for kind, expected in (("MULTI_CPU", False), ("FSDP", True), ("DEEPSPEED", True)):
        together = Processes(Waiting(distributed_type=kind))  # type: ignore[arg-type]
        assert together.anyone(False) is expected


def test_one_process_keeps_its_numbers() -> None:
    alone = Processes(Accelerator(cpu=True))
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = gradient = torch.tensor([1.0, 2.0])
    alone.sum_gradients([parameter])
    assert parameter.grad is gradient
    assert alone.sum(torch.tensor([3.0, 4.0])).tolist() == [3.0, 4.0]
    assert alone.largest(torch.tensor(5.0)).item() == 5.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_two_processes_have_the_gradient_and_metrics_of_one(
    project: Path, tmp_path: Path, kind: str
) -> None:
    # Items 12, 14, 25: whitening, token counts, gradients, clipping and metrics are global,
    # whether each process holds all weights or a shard of them (torch's fully_shard).
    script = tmp_path / "part.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    results = []
    for count in (1, 2):
        command = [sys.executable, str(script), str(tmp_path / "out")]
        if count > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            command = [sys.executable, *launcher, *command[1:], kind]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2000:]
        line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT"))
        found, metrics, gradient = json.loads(line.removeprefix("RESULT"))
        assert found == count
        results.append((metrics, gradient))
    (one, one_gradient), (two, two_gradient) = results
    assert two == pytest.approx(one, abs=1e-5)
    torch.testing.assert_close(torch.tensor(two_gradient), torch.tensor(one_gradient))
    assert torch.tensor(one_gradient).norm().item() > 0.1
