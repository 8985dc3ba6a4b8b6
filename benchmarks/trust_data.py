"""Checks that damaged data files are refused clearly, or give documents.

Run: python -m benchmarks.trust_data [COUNT [SEED]]
Files of every format that training reads, plain and compressed, are mutated, and read
up to the documents of each split, each in a process of its own. `run` says what is
counted.
"""

import csv
import io
import json
import pathlib
import random
import sys
import tempfile
from typing import Any

from benchmarks import forking
from benchmarks import timing
from transfer_gen import config
from transfer_gen.data import documents

_ROWS = [{"input": f"text {i} of many",
          "target": f"Text {i} von vielen, ä {i * 7 % 13}"} for i in range(120)]
_CHECKED = (".gz", ".bz2", ".xz", ".zip")  # Forms with a checksum of what they hold.


def run(count: int, seed: int) -> dict[str, Any]:
  """Reads mutated data files.

  Args:
    count: Number of mutants.
    seed: Of the mutations.

  Returns:
    As `forking.summary`: `wrong` counts files with a checksum that gave other documents
    than before, and documents that hold no text; `failures` must be 0.
  """
  with tempfile.TemporaryDirectory() as folder:
    timing.alone(_write, folder)
    # Imported before the first fork, so that no mutant pays for it.
    import pyarrow.parquet  # noqa: F401
    known = {path.name: _documents(str(path))
             for path in sorted(pathlib.Path(folder).iterdir())}
    results = []
    for number in range(count):
      rng = random.Random(f"{seed} {number}")
      name = rng.choice(sorted(known))
      results.append(_mutant(pathlib.Path(folder, name), known[name], rng))
      forking.show(name, number, results[-1])
  return forking.summary(results)


def _mutant(good: pathlib.Path, known: Any, rng: random.Random) -> dict[str, Any]:
  with tempfile.TemporaryDirectory() as own:
    path = pathlib.Path(own, good.name)
    data = good.read_bytes()
    path.write_bytes(forking.mutate(data, rng.randrange(2**32)))

    def read(name: str) -> str:
      found = _documents(name)
      wrong = name.endswith(_CHECKED) and found != known
      return "wrong" if wrong else "loaded"

    result = forking.alone(forking.attempt, str(path), read)
    if list(pathlib.Path(own).rglob("*")) != [path]:
      result["outcome"] = "outside"
  return result | {"size": len(data)}


def _documents(path: str) -> dict[str, list[tuple[str, str]]]:
  """Returns inputs and targets of each split."""
  pairs = not path.endswith((".txt", ".txt.gz"))
  splits, _ = documents.load(config.Data(
      name="files", train=path, input_field="input" if pairs else "",
      target_field="target" if pairs else "text"))
  # Documents that hold half a character could not be tokenized.
  return {split: [(document.input.encode().decode(), document.target.encode().decode())
                  for document in found] for split, found in splits.items()}


def _write(folder: str) -> None:
  """Writes a file of each form."""
  import bz2
  import gzip
  import lzma

  lines = "".join(json.dumps(row) + "\n" for row in _ROWS).encode()
  text = "".join(f"{row['target']}\n" for row in _ROWS).encode()
  made = {
      "a.txt": text, "a.txt.gz": gzip.compress(text), "a.jsonl": lines,
      "a.jsonl.gz": gzip.compress(lines), "a.jsonl.bz2": bz2.compress(lines),
      "a.jsonl.xz": lzma.compress(lines), "a.json": json.dumps(_ROWS).encode(),
      "a.csv": _table(","), "a.tsv": _table("\t"), "a.zip": _zipped({"b.jsonl": lines}),
      "a.tmx": _memory(), **_columns()}
  for name, data in made.items():
    pathlib.Path(folder, name).write_bytes(data)


def _table(delimiter: str) -> bytes:
  file = io.StringIO(newline="")
  writer = csv.DictWriter(file, list(_ROWS[0]), delimiter=delimiter)
  writer.writeheader()
  writer.writerows(_ROWS)
  return file.getvalue().encode()


def _zipped(members: dict[str, bytes]) -> bytes:
  import zipfile
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, data in members.items():
      archive.writestr(name, data)
  return file.getvalue()


def _memory() -> bytes:
  """A translation memory, whose columns are named as in the other files."""
  units = "".join("<tu>" + "".join(
      f'<tuv xml:lang="{code}"><seg>{text}</seg></tuv>' for code, text in row.items()
  ) + "</tu>\n" for row in _ROWS)
  return f'<tmx version="1.4"><header/><body>{units}</body></tmx>'.encode()


def _columns() -> dict[str, bytes]:
  """Files of PyArrow."""
  import pyarrow as pa
  from pyarrow import feather
  from pyarrow import parquet
  table = pa.Table.from_pylist(_ROWS)
  found = {}
  for name, write in {
      "a.parquet": lambda file: parquet.write_table(table, file),
      "b.parquet": lambda file: parquet.write_table(
          table, file, compression="zstd", use_dictionary=False, row_group_size=50),
      "a.feather": lambda file: feather.write_feather(table, file),
      "a.arrow": lambda file: _ipc(pa.ipc.new_file, table, file),
      "b.arrow": lambda file: _ipc(pa.ipc.new_stream, table, file)}.items():
    file = io.BytesIO()
    write(file)
    found[name] = file.getvalue()
  return found


def _ipc(opened: Any, table: Any, file: io.BytesIO) -> None:
  with opened(file, table.schema) as writer:
    writer.write_table(table)


if __name__ == "__main__":
  print(json.dumps(run(*map(int, [*sys.argv[1:], 2000, 0][:2]))))
