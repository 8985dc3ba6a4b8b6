#!/usr/bin/env bash
# Copies this repository to all workers of a TPU VM, installs it there, and starts a
# command of transfer-gen on all of them, which goes on when this computer is switched
# off. Where the same command runs already, it is left alone. The same words start it
# again where it stopped, also on another TPU VM, if the workdir is on gs://.
#   bash experiments/tpu/run.sh --name=NAME --zone=ZONE -- \
#     train --config=FILE.py --workdir=gs://BUCKET/run
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
. "$here/common.sh"
settings "" "" "$@"
require name zone
[ ${#others[@]} -gt 0 ] || fail 2 "missing: a command behind --, such as \
-- train --config=FILE.py --workdir=gs://BUCKET/run. See --help."

root="$(cd "$here/../.." && pwd)"
archive="transfer_gen.tar.gz"
packed="$archive"
# With .git, so that the run knows its commit, and with files that git does not know yet,
# such as a config.
pack() {
  cd "$root"
  {
    git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d "" file; do
      [ ! -e "$file" ] || printf '%s\0' "$file"
    done
    [ ! -d .git ] || printf '.git\0'
  } | COPYFILE_DISABLE=1 tar -czf "$packed" --null -T -
}
if [ -z "$dry_run" ]; then
  folder="$(mktemp -d)"
  trap 'rm -rf "$folder"' EXIT
  packed="$folder/$archive"
  (pack)
fi
words="$(printf '%q ' "${others[@]}")"
words="${words% }"
# Python of the VM may be too old, so uv brings its own.
install="set -e
mkdir -p transfer_gen
tar -xzf $archive -C transfer_gen
cd transfer_gen
python3 -m pip install --quiet --user --upgrade uv
[ -x .venv/bin/python ] || python3 -m uv venv --quiet --python=3.11 .venv
python3 -m uv pip install --quiet --python=.venv/bin/python --constraint=constraints.txt \
--editable=. 'jax[tpu]' 'etils[epath-gcs]'"
# The number of the process stays in a file, with the words behind it.
start="cd transfer_gen
words=$(printf %q "$words")
if [ -f run.pid ] && kill -0 \$(head -n 1 run.pid) 2>/dev/null; then
  if [ \"\$(tail -n +2 run.pid)\" = \"\$words\" ]; then
    echo 'It runs already.'
    exit 0
  fi
  echo 'Another command runs here. Wait for it, or delete the TPU VM.' >&2
  exit 2
fi
JAX_PLATFORMS=tpu,cpu setsid nohup .venv/bin/transfer-gen $words >> run.log 2>&1 < /dev/null &
printf '%s\\n%s\\n' \$! \"\$words\" > run.pid
echo 'Started.'"
tpu tpu-vm scp "$packed" "$name:$archive" --worker=all
tpu tpu-vm ssh "$name" --worker=all --command="$install"
tpu tpu-vm ssh "$name" --worker=all --command="$start"
