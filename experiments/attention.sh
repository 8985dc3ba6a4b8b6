#!/usr/bin/env bash
# Trains two parents on English to French, an LSTM and a Transformer, and studies both on
# English to Czech; experiments/attention.py says what is compared and what it costs. Makes
# .venv if it is missing, and goes on where it was stopped.
#   bash experiments/attention.sh [WORKDIR]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  --constraint constraints.txt --editable .
folder="${1:-runs/translation}"
. experiments/multi30k_halves.sh "$folder"
export TRANSFER_GEN_RUNS="$folder"
run=".venv/bin/python -m transfer_gen"
$run train --config=experiments/translation.py:parent --workdir="$folder/parent"
$run train --config=experiments/attention.py:lstm_parent --workdir="$folder/lstm_parent"
$run study --config=experiments/attention.py --workdir="$folder/attention" \
  --results=experiments/RESULTS.md
