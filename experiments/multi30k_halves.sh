# Writes two halves of Multi30k into FOLDER/data: odd lines for the parents, English to
# French, and even ones for the children, English to Czech. No caption is in both halves.
#   . experiments/multi30k_halves.sh FOLDER
source_folder="${TRANSFER_GEN_DATA:-data}/multi30k"
mkdir -p "$1/data"
for side in en fr; do
  gzip -dc "$source_folder/train.$side.gz" | awk 'NR % 2 == 1' > "$1/data/parent.$side"
done
for side in en cs; do
  gzip -dc "$source_folder/train.$side.gz" | awk 'NR % 2 == 0' > "$1/data/child.$side"
done
