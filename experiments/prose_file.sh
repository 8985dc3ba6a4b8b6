# Writes the texts of `python_docs` to FOLDER/data/prose.jsonl, in the column that SciTLDR
# has its abstracts in, since a mixture is of files and its columns have one name. Reading
# the file divides the texts as `python_docs` does, by the same hashes.
#   . experiments/prose_file.sh FOLDER
mkdir -p "$1/data"
"${python:-.venv/bin/python}" - "$1/data/prose.jsonl" <<'END'
import json
import sys
from transfer_gen.data.datasets import docstrings
with open(sys.argv[1], "w", encoding="utf-8") as file:
  for texts in docstrings.prose().values():
    for text in texts:
      file.write(json.dumps({"source": text.text}) + "\n")
END
