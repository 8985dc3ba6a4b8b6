"""Which layer of a source each layer of a target starts from, as its plan says."""

from collections.abc import Sequence

from transfer_gen import tree
from transfer_gen.config import names
from transfer_gen.transfer import resolve

_SIDES = ("", names.DECODER)  # Of the layers that read generated tokens.


def of_rows(
    rows: Sequence[resolve.Row], layers: int
) -> tuple[dict[int, int], dict[int, str]]:
  """Finds the one layer of the source without a name that each layer reads.

  In a model with an encoder, layers are those of the decoder.

  Args:
    rows: The plan, leaf by leaf.
    layers: Number of layers of the target.

  Returns:
    The layer of the source by the layer of the target, counted from 0; and for all
    other layers, why there is none, as a part of a sentence.
  """
  read: dict[int, set[int]] = {layer: set() for layer in range(layers)}
  for row in rows:
    layer = _number(row.name)
    if layer in read and not row.checkpoint:
      found = {_number(source) for source in row.sources}
      read[layer] |= {one for one in found if one is not None}
  one = {layer: next(iter(found)) for layer, found in read.items() if len(found) == 1}
  return one, {layer: _why(found) for layer, found in read.items() if layer not in one}


def _number(leaf: str) -> int | None:
  """The number of the layer that a leaf belongs to; None if it is none of these."""
  found = tree.match([names.LAYER], leaf)
  side, number = found[1].groups() if found else (None, "")
  return int(number) if side in _SIDES else None


def _why(read: set[int]) -> str:
  return (f"it reads the layers {', '.join(map(str, sorted(read)))}" if read
          else "it reads no layer of the source")
