#!/usr/bin/env bash
# Train on several GPUs, or in several processes on a CPU:
#   tools/dist_train.sh CONFIG PROCESSES [arguments of tools/train.py]
# On several machines, set NNODES, NODE_RANK and MASTER_ADDR on each. PORT (29500) must be free.
# MAX_RESTARTS=N starts all processes again, up to N times, when one is lost: they continue from the
# newest checkpoint. RDZV_ENDPOINT=HOST:PORT replaces NODE_RANK and MASTER_ADDR.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '2,6s/^# //p' "$0" >&2; exit 2; fi
endpoint="${RDZV_ENDPOINT:-}"
go_on=()
if [ "${MAX_RESTARTS:-0}" != 0 ]; then
    go_on=(--continue)
    # Each start needs a store of its own: in a shared one, torchrun leaves the addresses of the
    # processes that were lost.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    endpoint="${endpoint:-${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}}"
fi
if [ -n "$endpoint" ]; then
    nodes=(--rdzv_backend=c10d --rdzv_endpoint="$endpoint" --rdzv_id="${RDZV_ID:-mmatm}")
    if [ "${NNODES:-1}" = 1 ]; then nodes+=(--local_addr=127.0.0.1); fi
else
    nodes=(--node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}"
        --master_port="${PORT:-29500}")
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${nodes[@]}" \
    --nnodes="${NNODES:-1}" --nproc_per_node="$2" --max_restarts="${MAX_RESTARTS:-0}" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch ${go_on[@]+"${go_on[@]}"} "${@:3}"
