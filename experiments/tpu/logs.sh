#!/usr/bin/env bash
# Prints the end of the log of what run.sh has started, and whether it still runs.
#   bash experiments/tpu/logs.sh --name=NAME --zone=ZONE [--worker=N|all] [--follow]
#   --worker=N   of which worker; by default 0, which alone prints the progress
#   --lines=N    how many lines; by default 50
#   --follow     goes on printing, until Ctrl-C
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
. "$here/common.sh"
worker=0 lines=50 follow=""
settings "worker lines" "follow" "$@"
require name zone

tpu tpu-vm ssh "$name" --worker="$worker" --command="cd transfer_gen 2>/dev/null && \
[ -f run.log ] || { echo 'Nothing was started here. See run.sh.' >&2; exit 2; }
tail -n $lines${follow:+ -F} run.log
if kill -0 \$(head -n 1 run.pid) 2>/dev/null; then echo 'It runs.'; else echo 'It has ended.'; fi"
