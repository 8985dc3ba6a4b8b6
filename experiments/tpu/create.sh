#!/usr/bin/env bash
# Creates a TPU VM, of one host or a slice of several, and waits until it is ready. One
# that is there already is left as it is; one that was preempted is made anew.
#   bash experiments/tpu/create.sh --name=NAME --zone=ZONE --type=TYPE [--spot] [--queue]
# Words behind `--` go to gcloud as they are, such as --network=NETWORK.
#   --type=TYPE        accelerator type, such as v4-8, v5litepod-16, v6e-8 (TPU_TYPE)
#   --version=VERSION  software of the VM; by default the one for the type (TPU_VERSION)
#   --spot             costs less, and may be taken away at any time (TPU_SPOT=1)
#   --queue            asks by a queued resource, which waits for a place (TPU_QUEUE=1)
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
. "$here/common.sh"
type="${TPU_TYPE:-}" version="${TPU_VERSION:-}" spot="${TPU_SPOT:-}"
queue="${TPU_QUEUE:-}"
settings "type version" "spot queue" "$@"
require name zone type

if [ -z "$version" ]; then
  case "$type" in
    v2-*|v3-*|v4-*) version=tpu-ubuntu2204-base ;;
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    *) fail 2 "--type=$type is not known here. Give --version=VERSION as well; \
gcloud compute tpus tpu-vm versions list --zone=$zone lists them." ;;
  esac
fi

wait_until() {  # `wait_until KIND FIELD STATE`, for as long as it takes.
  [ -z "$dry_run" ] || return 0
  while look "$1" "$2" && [ "$state" != "$3" ]; do
    case "$state" in
      ""|FAILED|SUSPENDED|SUSPENDING|PREEMPTED|TERMINATED)
        fail 1 "$name is ${state:-gone} and will not be $3. Run this again." ;;
    esac
    echo "$name: $state"
    sleep "${TPU_POLL_SECONDS:-30}"
  done
}

# A queued resource is not made anew by itself when its VM was preempted.
look queued-resources state.state
queued="$state"
case "$queued" in
  FAILED|SUSPENDED|SUSPENDING)
    echo "The queued resource $name is $queued, and is made anew."
    tpu queued-resources delete "$name" --force --quiet
    queued="" ;;
esac
look tpu-vm state
case "$state" in
  PREEMPTED|TERMINATED)
    echo "$name is $state, and is made anew."
    if [ -n "$queued" ]; then
      tpu queued-resources delete "$name" --force --quiet
      queued=""
    else
      tpu tpu-vm delete "$name" --quiet
    fi
    state="" ;;
  STOPPED)
    tpu tpu-vm start "$name" ;;
esac
if [ -z "$state$queued" ]; then
  if [ -n "$queue" ]; then
    queued="asked for"
    tpu queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
      --runtime-version="$version" ${spot:+--spot} \
      ${others[@]+"${others[@]}"}
  else
    tpu tpu-vm create "$name" --accelerator-type="$type" --version="$version" \
      ${spot:+--spot} ${others[@]+"${others[@]}"}
  fi
fi
[ -z "$queued" ] || wait_until queued-resources state.state ACTIVE
wait_until tpu-vm state READY
[ -n "$dry_run" ] || echo "$name is ready."
