#!/usr/bin/env bash
# Trains a parent on English to French and studies what it is worth for English to Czech;
# experiments/translation.py says what is compared and what it costs. Makes .venv if it is
# missing, and goes on where it was stopped.
#   bash experiments/translation.sh [WORKDIR]
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
for part in few many; do
  $run study --config="experiments/translation.py:$part" --workdir="$folder/$part" \
    --results=experiments/RESULTS.md
done
