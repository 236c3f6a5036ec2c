#!/usr/bin/env bash
# A plain Accelerator() on a machine without a GPU ignores the launcher: N processes train N times the same, side by side.
#
# Tried with accelerate 1.15.0 on PyTorch 2.13.0 (x86_64, Python 3.11). torchrun starts two processes and says so in WORLD_SIZE; each
# process then believes that it is the only one, so nothing is averaged and each writes the results. PartialState(cpu=True) before the
# Accelerator, or Accelerator(cpu=True), joins them.
#
# Installs the packages into a temporary folder. Ends with 0 while this is so, and with 1 once a version behaves differently.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir accelerate==1.15.0 torch==2.13.0 "numpy>=1.26,<3"
cat > "$folder/count.py" <<'PYTHON'
import os
import sys

from accelerate import Accelerator, PartialState

if sys.argv[1] == "state":
    PartialState(cpu=True)
accelerator = Accelerator(cpu=True) if sys.argv[1] == "cpu" else Accelerator()
print(f"{sys.argv[1]}: WORLD_SIZE {os.environ['WORLD_SIZE']}, accelerate counts {accelerator.num_processes}\n", end="", flush=True)
PYTHON
found=""
for way in plain cpu state; do
    found+=$(CUDA_VISIBLE_DEVICES="" "$folder/venv/bin/python" -m torch.distributed.run --standalone --nproc-per-node 2 "$folder/count.py" "$way" 2>/dev/null | sort -u)$'\n'
done
echo "$found"
[[ "$found" == *"plain: WORLD_SIZE 2, accelerate counts 1"* && "$found" == *"cpu: WORLD_SIZE 2, accelerate counts 2"* && "$found" == *"state: WORLD_SIZE 2, accelerate counts 2"* ]]
