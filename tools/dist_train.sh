#!/usr/bin/env bash
# Train on several GPUs, or in several processes on a CPU:
#   tools/dist_train.sh CONFIG PROCESSES [arguments of tools/train.py]
# MAX_RESTARTS=N starts all processes again, up to N times, when one is lost: they continue from the
# newest checkpoint. On several machines, run the same command on each, with PROCESSES per machine:
#   NNODES=2 RDZV_ENDPOINT=HOST:PORT MAX_RESTARTS=N tools/dist_train.sh CONFIG PROCESSES
# HOST is one of them. A machine that was lost joins again with the same command. LOCAL_ADDR is the
# address of a machine whose name the others cannot resolve. RDZV_CONF sets options of torchrun's
# rendezvous. NODE_RANK, MASTER_ADDR and PORT (29500) replace RDZV_ENDPOINT if nothing is to restart.
set -euo pipefail
if [ $# -lt 2 ] || [[ $2 == -* ]]; then sed -n '2,9s/^# //p' "$0" >&2; exit 2; fi
nodes="${NNODES:-1}" restarts="${MAX_RESTARTS:-0}" endpoint="${RDZV_ENDPOINT:-}"
if [ "$nodes" != 1 ] && [ -z "$endpoint" ] && [ "$restarts" != 0 -o -z "${MASTER_ADDR:-}" ]; then
    echo "NNODES=$nodes needs RDZV_ENDPOINT=HOST:PORT, the same on each machine" >&2; exit 2
fi
launch=torch.distributed.run
if [ -z "$endpoint" ] && [ "$restarts" = 0 ]; then
    options=(--node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}"
        --master_port="${PORT:-29500}")
else
    # Each start needs a store of its own: in a shared one, torchrun leaves the addresses of the
    # processes that were lost.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    set -- "$1" "$2" --continue "${@:3}"
    if [ -z "$endpoint" ]; then
        options=(--standalone --local_addr=127.0.0.1)
    else
        launch=mmatm.cli.elastic
        # Seconds to wait for a machine that boots, and for the one that holds the store.
        options=(--rdzv_backend=c10d --rdzv_endpoint="$endpoint" --rdzv_id="${RDZV_ID:-mmatm}"
            --rdzv_conf="join_timeout=1800,read_timeout=300${RDZV_CONF:+,$RDZV_CONF}")
        if [ -n "${LOCAL_ADDR:-}" ]; then options+=(--local_addr="$LOCAL_ADDR"); fi
    fi
fi
exec "${PYTHON:-python}" -m "$launch" "${options[@]}" \
    --nnodes="$nodes" --nproc_per_node="$2" --max_restarts="$restarts" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
