#!/usr/bin/env bash
# Copies a workdir to this computer. What is there already is not copied again, if the
# workdir is on gs://; then the TPU VM need not exist any more.
#   bash experiments/tpu/fetch.sh --workdir=gs://BUCKET/run --to=runs/run
#   bash experiments/tpu/fetch.sh --name=NAME --zone=ZONE --workdir=runs/run --to=runs/run
#   --workdir=PATH    on gs://, or in the repository on worker 0 (TPU_WORKDIR)
#   --to=FOLDER       where it is copied to, a folder for this workdir alone
#   --no_checkpoints  leaves them there; metrics, reports and samples are small
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
. "$here/common.sh"
workdir="${TPU_WORKDIR:-}" to="${TPU_TO:-}" no_checkpoints=""
settings "workdir to" "no_checkpoints" "$@"
case "$workdir" in
  gs://*|"") require workdir to ;;
  *) require workdir to name zone ;;
esac

run mkdir -p "$to"
case "$workdir" in
  gs://*)
    run gcloud storage rsync "$workdir" "$to" --recursive \
      ${no_checkpoints:+--exclude='(^|.*/)checkpoints/.*'} ${project:+--project="$project"} ;;
  *)
    [ -z "$no_checkpoints" ] || fail 2 "--no_checkpoints is for workdirs on gs:// alone."
    case "$workdir" in
      /*) from="$workdir" ;;
      *) from="transfer_gen/$workdir" ;;
    esac
    # scp puts a folder into one that exists: its contents are named instead.
    tpu tpu-vm scp "$name:$from/*" "$to" --recurse --worker=0 ;;
esac
