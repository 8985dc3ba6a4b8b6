#!/usr/bin/env bash
# Deletes a TPU VM and its queued resource, so that they cost nothing any more. What is
# not there is no error. Disks of the VM are lost; workdirs on gs:// stay.
#   bash experiments/tpu/delete.sh --name=NAME --zone=ZONE
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
. "$here/common.sh"
settings "" "" "$@"
require name zone

deleted=""
look queued-resources state.state
if [ -n "$state$dry_run" ]; then
  # It takes its VM with it.
  tpu queued-resources delete "$name" --force --quiet
  deleted=1
fi
look tpu-vm state
if [ -n "$state$dry_run" ]; then
  tpu tpu-vm delete "$name" --quiet
  deleted=1
fi
if [ -z "$dry_run" ]; then
  if [ -n "$deleted" ]; then echo "$name is deleted."; else echo "$name does not exist."; fi
fi
