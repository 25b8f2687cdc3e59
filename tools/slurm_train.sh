#!/usr/bin/env bash
# Train as a Slurm job:
#   [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=...] \
#       tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
# A job that Slurm has requeued continues from its newest checkpoint.
set -euo pipefail
if [ $# -lt 4 ] || [[ $4 == -* ]]; then sed -n '2,4s/^# //p' "$0" >&2; exit 2; fi
read -ra srun_args <<< "${SRUN_ARGS:-}"
if [ "${SLURM_RESTART_COUNT:-0}" != 0 ]; then set -- "${@:1:4}" --continue "${@:5}"; fi
exec srun --partition="$1" --job-name="$2" --gres="gpu:${GPUS_PER_NODE:-8}" --ntasks="${GPUS:-8}" \
    --ntasks-per-node="${GPUS_PER_NODE:-8}" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${srun_args[@]+"${srun_args[@]}"} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$3" --work-dir "$4" --launcher slurm "${@:5}"
