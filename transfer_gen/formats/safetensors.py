"""Reads and writes safetensors: a JSON header, then the tensors' bytes without gaps.

Format: https://github.com/huggingface/safetensors#format.
"""

from collections.abc import Mapping
import json
import struct
from typing import Any

from etils import epath
import ml_dtypes
import numpy as np

from transfer_gen import errors
from transfer_gen import untrusted
from transfer_gen.formats import raw

KIND = "safetensors file"
_HEADER_BYTES = 100 * 2**20  # The format's own limit.
_ALIGNED = 8
# NumPy has no bfloat16 and no float8; ml_dtypes, which JAX uses too, has both.
_DTYPES = {
    "BOOL": np.bool_, "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4",
    "I32": "<i4", "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
    "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


def open_file(path: epath.Path) -> raw.Raw:
  """Opens one file and reads only its header.

  Raises:
    errors.UserError: If it is malformed, or has an unknown dtype.
  """
  with raw.malformed(path, KIND):
    header, start = _header(path)
    facts = header.pop("__metadata__", {})
    leaves = {name: _leaf(path, start, name, entry) for name, entry in header.items()}
    raw.check_extents(leaves)
    # Leaves do not overlap and together are as long as the file, so there is no gap in
    # which other data could hide, as the format demands.
    end = start + sum(leaf.nbytes for leaf in leaves.values())
    if end != path.stat().length:
      raise errors.UserError(
          f"its tensors take {end - start} bytes, and it holds"
          f" {path.stat().length - start}. Fetch or save it again.")
  return raw.Raw(path, KIND, leaves, {"metadata": facts})


def write_file(
    path: epath.Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, str]
) -> None:
  """Writes one file. Wider dtypes come first, so that all tensors are aligned.

  Args:
    path: The file to write.
    arrays: Arrays by name, of dtypes that the format has.
    facts: The file's metadata.
  """
  # Sizes of dtypes are powers of two: after wider ones, each offset is a multiple of
  # the next size.
  ordered = dict(sorted(
      arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
  text = json.dumps({"__metadata__": dict(facts), **_entries(ordered)}).encode()
  # The format allows spaces behind the header; they align the tensors' start.
  text += b" " * (-len(text) % _ALIGNED)
  with path.open("wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    for array in ordered.values():
      little = array.astype(array.dtype.newbyteorder("<"), copy=False)
      # As bytes, since bfloat16 and float8 do not support Python's buffer protocol.
      file.write(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)


def _header(path: epath.Path) -> tuple[dict, int]:
  """Returns the header, and where the tensors begin, in bytes."""
  with untrusted.opened(path) as file:
    length, = struct.unpack("<Q", raw.fill(file, 8).tobytes())
    # Checked before the read, which takes that much memory.
    if length > min(_HEADER_BYTES, path.stat().length - 8):
      raise errors.UserError(
          f"its header would take {length} bytes. Fetch or save it again.")
    return raw.parse_json(raw.fill(file, length).tobytes()), 8 + length


def _entries(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
  """Returns the header's entries for arrays that follow each other without gaps."""
  names = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
  found, at = {}, 0
  for name, array in arrays.items():
    found[name] = {"dtype": names[array.dtype.newbyteorder("=")],
                   "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
    at += array.nbytes
  return found


def _leaf(path: epath.Path, start: int, name: str, entry) -> raw.Extent:
  if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
    raise errors.UserError(f"{name} lacks its dtype, shape or data_offsets.")
  if entry["dtype"] not in _DTYPES:
    raise errors.UserError(
        f"{name} is {str(entry['dtype'])[:50]}, which is not read; there are"
        f" {', '.join(_DTYPES)}.")
  begin, end = entry["data_offsets"]
  if type(begin) is not int or type(end) is not int or begin < 0:
    raise errors.UserError(f"{name}: data_offsets are {entry['data_offsets']}.")
  leaf = raw.Extent(path=path, offset=start + begin, shape=raw.sizes(entry["shape"]),
                    dtype=np.dtype(_DTYPES[entry["dtype"]]))
  if leaf.nbytes != end - begin:
    raise errors.UserError(
        f"{name} {leaf.dtype}{leaf.shape} takes {leaf.nbytes} bytes, and its"
        f" data_offsets give {end - begin}.")
  return leaf
