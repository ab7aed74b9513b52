#!/bin/bash
#SBATCH --job-name=labels
#SBATCH --array=0-7
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
# Eight workers make the set together, each until nothing is left for it. Those that start later, or again, take what is still to be done;
# "sbatch slurm.sh" once more continues a set that all of them left unfinished.
# With as many jobs as shards, --shard "$SLURM_ARRAY_TASK_ID" gives each job the shard of its number.
set -euo pipefail

srun slcodec encode /shared/train /shared/labels --teacher /shared/teacher.py:build --crops 200 --shards 64 --workers 8
