#!/usr/bin/env bash
# Trains a language model on sentences about restaurants and studies what it is worth for
# writing such sentences from data; experiments/data_to_text.py says what is compared and
# what it costs. Makes .venv if it is missing, and goes on where it was stopped.
#   bash experiments/data_to_text.sh [WORKDIR]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  --constraint constraints.txt --editable .
folder="${1:-runs/data_to_text}"
. experiments/e2e_parts.sh "$folder"
export TRANSFER_GEN_RUNS="$folder"
exec .venv/bin/python -m transfer_gen study --config=experiments/data_to_text.py \
  --workdir="$folder" --results=experiments/RESULTS.md
