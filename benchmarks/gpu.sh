#!/usr/bin/env bash
# Everything that needs a GPU, in one command: tests, side-by-sides, memory, profile.
#
#   benchmarks/gpu.sh              (has not been run yet: no GPU so far)
#
# Results go to benchmarks/results/, one file a measurement, with commit, date and versions. The
# peer's environment is made by `make peers`. Sizes other than smollm2 have random weights.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1

"$python" -c 'import torch; assert torch.cuda.is_available(), "no GPU here"; print(torch.cuda.get_device_name())'
"$python" -m pytest -q -m gpu --with gpu
for size in 135m 1b; do
    for dtype in bfloat16 autocast; do
        "$python" benchmarks/ppo_vs_trl.py --device cuda --size $size --dtype $dtype \
            --batch 64 --micro-batch 64 --response-length 64 --rounds 3 --updates 6 --save
    done
    for arguments in '{}' '{"static_cache": false}'; do # a step as a CUDA graph, and without
        "$python" benchmarks/ppo_profile.py --device cuda --size $size --dtype bfloat16 \
            --batch 64 --micro-batch 64 --response-length 64 --updates 6 --ours-args "$arguments" --save
    done
done
"$python" benchmarks/ppo_time_to_score.py --save
