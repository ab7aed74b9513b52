#!/bin/bash
#SBATCH --job-name=labels
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=08:00:00
# Eight processes on each of four machines. A torchrun for each machine, because the machines need not know one another.
set -euo pipefail

srun torchrun --standalone --nproc-per-node 8 --max-restarts 3 -m softlabel_codec.teacher \
    /shared/train /shared/labels --teacher /shared/teacher.py:build --crops 200 --shards 256 --workers 8
