#!/usr/bin/env bash
# Train on several GPUs, or in several processes on a CPU:
#   tools/dist_train.sh CONFIG PROCESSES [arguments of tools/train.py]
# On several machines, set NNODES, NODE_RANK and MASTER_ADDR on each. PORT (29500) must be free.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '2,4s/^# //p' "$0" >&2; exit 2; fi
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$2" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
