"""Rows of a run as its model sees them, with every special token visible."""

from collections.abc import Iterable, Iterator
import itertools
import tempfile
from typing import Any

import numpy as np

from transfer_gen import errors
from transfer_gen.run import inputs as inputs_lib
from transfer_gen.run import reader

_WIDTH, _INDENT = 100, 12  # Columns of what is printed.
_PADDING = 3  # Repeated tokens at the end of a row beyond which they are counted.


def of_run(run: inputs_lib.Run, split: str, count: int) -> Iterator[str]:
  """Yields lines about the data of a run, and for the first rows of a split.

  Args:
    run: Config of the run.
    split: Name of the split. Rows of `train` come in the order of training, corrupted
      as in its first epoch if the run corrupts them.
    count: Number of rows.

  Raises:
    errors.UserError: If there is no such split, or the data cannot be read.
  """
  # As for a new run: what a workdir holds already would be used again.
  with tempfile.TemporaryDirectory() as folder:
    inputs = reader.Reader().read(run, f"{folder}/new")
  data, run = inputs.data, inputs.run
  yield from inputs.describe_data()
  if split not in data.facts["splits"]:
    raise errors.UserError(
        f"--split={split}: the data have {', '.join(data.facts['splits'])}.")
  batches: Any = (
      data.train_batches(run.train.rows, run.seed) if split == "train"
      else data.evaluation_batches(split, run.train.rows))
  rows = ({name: value[i] for name, value in batch.items()}
          for batch in batches for i in range(len(batch["inputs"])))
  # Rows that fill a batch up belong to no document.
  rows = (row for row in rows if row["weights"].any())
  for number, row in enumerate(itertools.islice(rows, count), 1):
    yield from _described(f"{split} {number}", row, data)


def spelled(ids: Iterable[Any], tokenizer: Any) -> str:
  """Returns tokens as text, special ones and what cannot be printed by names."""
  names = {row: f"<{role}>" for role, row in tokenizer.roles.items()}
  names |= {row: name for name, row in tokenizer.special.items()}
  parts, text = [], b""
  for i in map(int, ids):
    surface = tokenizer.tokens[i] if i < tokenizer.size else b""
    if i not in names and surface:
      text += surface  # A character may be spread over several tokens.
      continue
    parts += [_printable(text), names.get(i, f"<{i}>")]
    text = b""
  return "".join([*parts, _printable(text)])


def _described(title, row, data) -> Iterator[str]:
  """Yields the lines of one row."""
  read, written = data.encoder_tokenizer or data.tokenizer, data.tokenizer
  counts = row["weights"] > 0
  yield (f"{title}: {len(counts)} positions, of which"
         f" {int(counts.sum())} have a target that counts")
  if "encoder_inputs" in row:
    yield from _line("encoder", row["encoder_inputs"], read)
  # Documents that share a row do not see each other, so each is shown alone.
  begins = [0, *(i for i in range(1, len(counts)) if "positions" in row
                 and row["positions"][i] == 0), len(counts)]
  for begin, end in itertools.pairwise(begins):
    part = slice(begin, end)
    yield from _line("inputs", row["inputs"][part], written)
    yield from _line("targets", row["targets"][part], written)
    if "values" in row:
      found = row["values"][part][row["value_weights"][part] > 0]
      yield from _wrapped("offsets", " ".join(f"{x:.2f},{y:.2f}" for x, y in found))
    if not counts[part].all():
      yield from _line("counted", row["targets"][part], written, counts[part])


def _line(name, ids, tokenizer, counts=None) -> Iterator[str]:
  """Yields a name and tokens; where `counts` is False, `..` stands for them."""
  if counts is None:
    last = len(ids)
    while last > 1 and ids[last - 1] == ids[last - 2]:
      last -= 1
    repeated = len(ids) - last + 1
    text = spelled(ids, tokenizer) if repeated <= _PADDING else (
        f"{spelled(ids[:last], tokenizer)} ({repeated} times)")
  else:
    changes = np.flatnonzero(np.diff(counts)) + 1
    text = " ".join(
        spelled(part, tokenizer) if counted[0] else ".." for part, counted in zip(
            np.split(ids, changes), np.split(counts, changes), strict=True))
  yield from _wrapped(name, text)


def _wrapped(name: str, text: str) -> Iterator[str]:
  """Yields a name and a text, divided into lines."""
  width = _WIDTH - _INDENT
  # Not at spaces, which are tokens or parts of them.
  for start in range(0, max(len(text), 1), width):
    label = f"  {name}" if not start else ""
    yield label.ljust(_INDENT) + text[start:start + width]


def _printable(text: bytes) -> str:
  return "".join(
      c if c.isprintable() else c.encode("unicode_escape").decode()
      for c in text.decode("utf-8", "replace"))
