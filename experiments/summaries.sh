#!/usr/bin/env bash
# Trains a model to restore text and studies what it is worth for summaries;
# experiments/summaries.py says what is compared and what it costs. Makes .venv if it is
# missing, and goes on where it was stopped.
#   bash experiments/summaries.sh [WORKDIR]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  --constraint constraints.txt --editable .
folder="${1:-runs/summaries}"
. experiments/prose_file.sh "$folder"
export TRANSFER_GEN_RUNS="$folder"
exec .venv/bin/python -m transfer_gen study --config=experiments/summaries.py \
  --workdir="$folder" --results=experiments/RESULTS.md
