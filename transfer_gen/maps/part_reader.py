"""Reads leaves of ours from a checkpoint's own, of each the part that is needed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from transfer_gen.maps import copies as copies_lib
from transfer_gen.maps import parts

Entries, Pick, place_whole = parts.Entries, parts.Pick, parts.place_whole


def read(
    raw: Any, rows: Sequence[Any], copies: Sequence[Sequence[str]],
    stale: Sequence[Sequence[str]], shardings: parts.Shardings,
    picks: Mapping[str, Pick],
) -> Iterator[tuple[str, jax.Array]]:
  """Yields (name, array) of each row.

  Args:
    raw: The checkpoint, a `mapped.Raw`.
    rows: Where the leaves lie, as `mapped.resolve` returns them.
    copies: As of `mapped.Map`; a part that is read is compared with its copies.
    stale: As of `mapped.Map`.
    shardings: Where leaves are placed; others go to the default device.
    picks: What is taken of leaves.
  """
  wanted = {row.name: parts.wanted(
      row.spec.shape, shardings.get(row.name), picks.get(row.name, {})) for row in rows}
  for row, part in parts_of(raw, rows, copies, stale, wanted):
    yield row.name, parts.place(
        part, row.spec.shape, shardings.get(row.name), picks.get(row.name, {}))


def parts_of(
    raw: Any, rows: Sequence[Any], copies: Sequence[Sequence[str]],
    stale: Sequence[Sequence[str]], wanted: Mapping[str, Entries],
) -> Iterator[tuple[Any, parts.Part]]:
  """Yields (row, part) of each row; reads what the parts need and no more.

  Args:
    raw: As of `read`, as are the next three.
    rows: Likewise.
    copies: Likewise.
    stale: Likewise.
    wanted: Which part of each leaf, by name.
  """
  waiting, entries = _by_source(rows), _entries(raw, rows, wanted)
  held: dict[str, parts.Part] = {}
  done = set()
  for source, value in raw.read(list(waiting), entries):
    held[source] = parts.Part(entries[source], np.asarray(value))
    copies_lib.compare(copies, stale, raw, source, held[source])
    for row in waiting[source]:
      # A leaf that reads several sources waits under each of them, and is made once.
      if row.name not in done and all(s in held for s in row.sources):
        done.add(row.name)
        yield row, _part(raw, row, wanted[row.name], held)
    # Freed as soon as possible: all leaves of a large checkpoint do not fit into
    # memory.
    for s in [s for s in held if all(row.name in done for row in waiting[s])]:
      del held[s]


def _by_source(rows: Sequence[Any]) -> dict[str, list[Any]]:
  """Groups rows by the leaves that they read."""
  found: dict[str, list[Any]] = {}
  for row in rows:
    for source in dict.fromkeys(row.sources):
      found.setdefault(source, []).append(row)
  return found


def _shapes(raw: Any, row: Any) -> list[tuple[int, ...]]:
  return [raw.specs[source].shape for source in row.sources]


def _entries(
    raw: Any, rows: Sequence[Any], wanted: Mapping[str, Entries]
) -> dict[str, Entries]:
  """Returns which entries of each of the checkpoint's leaves some rows need."""
  found: dict[str, list[Entries]] = {}
  for row in rows:
    needed = parts.needed(row.layout, _shapes(raw, row), wanted[row.name])
    for source, entries in zip(row.sources, needed):
      found.setdefault(source, []).append(entries)
  return {source: parts.union(raw.specs[source].shape, entries)
          for source, entries in found.items()}


def _part(
    raw: Any, row: Any, wanted: Entries, held: Mapping[str, parts.Part]) -> parts.Part:
  part = parts.made(
      row.layout, _shapes(raw, row), wanted, [held[s] for s in row.sources])
  # Cast after the layout, so that only what this leaf takes is converted, and not a
  # whole fused tensor once for each part.
  return part._replace(value=part.value.astype(row.spec.dtype, copy=False))
