# Divides the training pairs of E2E into FOLDER/data/train.jsonl and validation.jsonl. All
# texts of a meaning are in the same file, and every tenth meaning validates: a language
# model that reads train.jsonl has seen no text of the pairs that validate.
#   . experiments/e2e_parts.sh FOLDER
mkdir -p "$1/data"
# `"ref"` ends the meaning in each line, {"mr": "...", "ref": "..."}.
gzip -dc "${TRANSFER_GEN_DATA:-data}/e2e/train.jsonl.gz" | awk -F '"ref"' -v to="$1/data" '
  !($1 in number) { number[$1] = ++meanings }
  { print > (to "/" (number[$1] % 10 ? "train" : "validation") ".jsonl") }'
