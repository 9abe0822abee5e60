#!/bin/bash
#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=00:30:00

# Runs a program under torchrun on the nodes of a Slurm job:
#
#     sbatch slurm.sh -m fastgpu_comm train
#     sbatch slurm.sh train.py
#
# One task per node starts that node's ranks. RANKS_PER_NODE sets how many; by default 2.
set -euo pipefail

# A program that asks for gloo, or for no backend, runs on fastgpu. srun passes this to all nodes.
export FASTGPU_REPLACE_GLOO=1
# If the nodes have several networks, name the one to use:
# export FASTGPU_INTERFACE=ib0

first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "${RANKS_PER_NODE:-2}" \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first_node:29400" "$@"
