#!/usr/bin/env bash
# Evaluate on several GPUs, or in several processes on a CPU:
#   tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [arguments of tools/test.py]
# On several machines, set NNODES, NODE_RANK and MASTER_ADDR on each. PORT (29500) must be free.
set -euo pipefail
if [ $# -lt 3 ] || [[ $3 == -* ]]; then sed -n '2,4s/^# //p' "$0" >&2; exit 2; fi
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$3" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/test.py" "$1" "$2" --launcher pytorch "${@:4}"
