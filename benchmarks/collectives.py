"""Counts the bytes that a compiled program sends, from its text.

The program of one device is read: its collective operations, the sizes of their arrays
and of their groups of devices, and how often the loops around them run.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all",
         "collective-permute")
# Operations of which a slice needs slices of their operands alone.
_MOVES = ("bitcast", "copy", "transpose", "reshape", "convert", "add")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2,
          "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_SHAPE = re.compile(rf"\b({'|'.join(_BYTES)})\[([\d,]*)\]")
# `%name = f32[2,3]{1,0} operation(%operand, ...), attribute=...`
_LINE = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)")
_START = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Operation:
  """One line of a program.

  Attributes:
    name: Name of what it gives.
    shapes: Bytes of each array that it gives.
    kind: The operation.
    rest: Operands and attributes, as they are written.
  """
  name: str
  shapes: tuple[int, ...]
  kind: str
  rest: str

  @property
  def operands(self) -> list[str]:
    """Names of the operands."""
    return re.findall(r"%([\w.-]+)", self.rest.split("), ")[0])


def sent(text: str, devices: int) -> dict[str, int]:
  """Returns the bytes that one device sends, by kind of operation.

  A ring of n devices sends (n - 1) / n of an array from each device to gather its parts
  or to sum it into parts, and twice that to sum it everywhere. A sum of which each
  device reads a part alone counts as a `reduce-scatter`: XLA's backends of GPUs and
  TPUs make it one, while that of CPUs sums everywhere and takes a slice.

  Args:
    text: What `as_text` of a compiled function returns.
    devices: Number of devices of the program.
  """
  program = dict(_computations(text))
  found: collections.Counter[str] = collections.Counter()
  for operations, times in _running(program, text):
    for operation in operations:
      kind = operation.kind.removesuffix("-start")
      if kind not in KINDS:
        continue
      share = (n := _group(operation.rest, devices)) and (n - 1) / n
      if kind == "all-reduce":
        for size, parted in zip(
            operation.shapes, _parted(operation, operations, program)):
          found["reduce-scatter" if parted else kind] += round(
              times * share * size * (1 if parted else 2))
      elif kind == "reduce-scatter":  # What it gives is one of n parts.
        found[kind] += round(times * share * sum(operation.shapes) * n)
      else:
        found[kind] += round(times * sum(operation.shapes) * (
            1 if kind == "collective-permute" else share))
  return dict(found)


def _computations(text: str) -> Iterator[tuple[str, list[_Operation]]]:
  """Yields the computations of a program: functions, bodies of loops, fusions."""
  name, lines = "", []
  for line in text.splitlines():
    if start := _START.match(line):
      name, lines = start[1], []
    elif line.startswith("}"):
      yield name, lines
    elif found := _LINE.match(line):
      lines.append(_Operation(
          name=found[1], kind=found[3], rest=found[4], shapes=tuple(
              math.prod(map(int, filter(None, sizes.split(",")))) * _BYTES[dtype]
              for dtype, sizes in _SHAPE.findall(found[2]))))


def _running(
    program: Mapping[str, Sequence[_Operation]], text: str
) -> Iterator[tuple[Sequence[_Operation], int]]:
  """Yields the computations that a program runs, and how often each one runs."""
  entry = re.search(r"^ENTRY %?([\w.-]+)", text, re.MULTILINE)
  assert entry, text[:200]
  ahead = [(entry[1], 1)]
  while ahead:
    name, times = ahead.pop()
    yield program[name], times
    for operation in program[name]:
      if operation.kind == "while":
        count = re.search(r'known_trip_count[^0-9]*(\d+)', operation.rest)
        body = re.search(r"body=%?([\w.-]+)", operation.rest)
        assert count and body, operation
        ahead.append((body[1], times * int(count[1])))
      elif operation.kind in ("call", "conditional"):
        ahead += [(other, times) for other in re.findall(
            r"(?:to_apply|branch_computations|true_computation|false_computation)="
            r"\{?%?([\w.-]+)", operation.rest)]


def _group(rest: str, devices: int) -> int:
  """Returns the number of devices that take part in an operation together."""
  if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
  if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
    return int(found[1])
  if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
    return len(found[1].split(","))
  return devices


def _parted(
    operation: _Operation, operations: Sequence[_Operation],
    program: Mapping[str, Sequence[_Operation]]) -> list[bool]:
  """Returns of each array of a sum whether only a slice of it is ever read."""
  if len(operation.shapes) == 1:
    return [_sliced(operation.name, operations, program)]
  parts = {}
  for other in operations:
    if other.kind == "get-tuple-element" and other.operands == [operation.name]:
      index = re.search(r"index=(\d+)", other.rest)
      assert index, other
      parts[int(index[1])] = _sliced(other.name, operations, program)
  return [parts.get(i, False) for i in range(len(operation.shapes))]


# Slices are mostly fused into what reads them. What only has another shape or order, or
# is a sum, is looked through, within fusions and behind them.
def _sliced(
    name: str, operations: Sequence[_Operation],
    program: Mapping[str, Sequence[_Operation]],
    result_sliced: Callable[[], bool] = lambda: False) -> bool:
  """Returns whether all that reads an array reads a slice of it.

  Args:
    name: The array.
    operations: The computation that it is part of.
    program: All computations.
    result_sliced: Whether that holds of what the computation gives.
  """
  readers = [other for other in operations if name in other.operands]
  if not readers:
    return name == operations[-1].name and result_sliced()
  behind = lambda reader: _sliced(reader.name, operations, program, result_sliced)
  return all(
      reader.kind == "dynamic-slice" or (reader.kind in _MOVES and behind(reader)) or (
          reader.kind == "fusion" and _sliced_within(
              reader, name, program, functools.partial(behind, reader)))
      for reader in readers)


def _sliced_within(fusion, name, program, result_sliced) -> bool:
  called = re.search(r"calls=%?([\w.-]+)", fusion.rest)
  assert called, fusion
  inside = program[called[1]]
  places = [i for i, operand in enumerate(fusion.operands) if operand == name]
  params = [other.name for other in inside if other.kind == "parameter"
            and int(other.rest.split(")")[0]) in places]
  return all(_sliced(param, inside, program, result_sliced) for param in params)
