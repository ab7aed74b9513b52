#!/bin/bash
#SBATCH --job-name=labels
#SBATCH --array=0-63%8
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
# Machines that share no folder: each has the images and the teacher on its own disk, and may write to the bucket. 64 jobs, eight at a time, make
# and upload a shard each; the one that ends last writes the index. A job that is started again goes on with its shard if it finds --work again,
# and else begins it anew. Jobs would not choose the same codec, so it is given.
set -euo pipefail

srun slcodec encode /data/train s3://bucket/labels --teacher /data/teacher.py:build --crops 200 --codec marginal_smoothing:k=5 \
    --shards 64 --shard "$SLURM_ARRAY_TASK_ID" --work /tmp/labels --workers 8
