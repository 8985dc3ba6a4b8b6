# What the scripts of this folder share: settings, and how commands are shown or run.
# All scripts read these from flags, or else from the variables in brackets:
#   --name=NAME        of the TPU VM (TPU_NAME)
#   --zone=ZONE        such as us-central2-b (TPU_ZONE)
#   --project=PROJECT  by default that of gcloud's own configuration (TPU_PROJECT)
#   --dry_run          prints the commands and runs none of them
#   --help             prints this text

script="$(basename "$0")"
dry_run=""
others=()  # Words behind `--`.

# Fails with one message; what a user got wrong ends with 2, everything else with 1.
fail() {
  echo "$script: $2" >&2
  exit "$1"
}

# Prints the comment at the top of the script, and the settings that all of them have.
usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  sed -n '2,/^$/s/^# \{0,1\}//p' "$here/common.sh"
  exit 0
}

# Reads flags into variables: `settings "name zone" "spot queue" "$@"`. The first list
# names flags with a value, the second ones without; beside those that all scripts have.
settings() {
  local valued="name zone project $1" plain="dry_run $2" word key known
  shift 2
  while [ $# -gt 0 ]; do
    word="$1"
    shift
    case "$word" in
      --help|-h) usage ;;
      --) others=("$@"); break ;;
      --*=*)
        key="${word%%=*}"
        key="${key#--}"
        known=" $valued "
        [[ "$known" == *" $key "* ]] || fail 2 "there is no flag --$key=. See --help."
        printf -v "$key" %s "${word#*=}" ;;
      --*)
        key="${word#--}"
        [[ " $valued " != *" $key "* ]] || fail 2 "--$key needs a value: --$key=VALUE."
        known=" $plain "
        [[ "$known" == *" $key "* ]] || fail 2 "there is no flag --$key. See --help."
        printf -v "$key" 1 ;;
      *) fail 2 "$word is no flag. Give words of a command behind --. See --help." ;;
    esac
  done
}

# Names all settings that are missing in one message.
require() {
  local missing="" key
  for key in "$@"; do
    [ -n "${!key}" ] || missing="$missing${missing:+, }--$key (or TPU_$(
      echo "$key" | tr '[:lower:]' '[:upper:]'))"
  done
  [ -z "$missing" ] || fail 2 "missing: $missing. See --help."
}

# Runs a command, or prints it as it would be typed.
run() {
  if [ -n "$dry_run" ]; then
    printf '%q ' "$@" | sed 's/ $/\n/'
  else
    "$@"
  fi
}

# `tpu tpu-vm ssh NAME ...` is gcloud with zone and project behind the words.
tpu() {
  run gcloud compute tpus "$@" --zone="$zone" ${project:+--project="$project"}
}

# Sets `state` to that of a TPU VM or of a queued resource, or to nothing if there is none.
look() {
  local errors
  state=""
  if [ -n "$dry_run" ]; then
    tpu "$1" describe "$name" --format="value($2)"
    return
  fi
  errors="$(mktemp)"
  if ! state="$(tpu "$1" describe "$name" --format="value($2)" 2>"$errors")"; then
    state=""
    if ! grep -qi "NOT_FOUND\|not found" "$errors"; then
      cat "$errors" >&2
      rm -f "$errors"
      fail 1 "gcloud does not say whether there is a $1 $name."
    fi
  fi
  rm -f "$errors"
}

name="${TPU_NAME:-}" zone="${TPU_ZONE:-}" project="${TPU_PROJECT:-}"
