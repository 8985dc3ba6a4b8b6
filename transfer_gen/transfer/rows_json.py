"""Rows as JSON types and back, including everything that their axis maps decided."""

import base64
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any
import zlib

import numpy as np

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import plan_json
from transfer_gen.transfer import resolve

# The class of what a field of this name holds; anything else carries its "kind".
_PARTS: dict[str, type] = {
    "spec": tree.Spec, "source_spec": tree.Spec, "changes": resolve.Change,
    "mixture": plan_lib.Mixture, "table": resolve.Table,
}

Row = resolve.Row


def to_json(rows: Sequence[resolve.Row]) -> dict[str, Any]:
  """Returns rows as JSON types: {"rows": [...], "bindings": [...]}.

  A change names its binding by index, because many rows share one. Fields at their
  defaults are left out, and so are the origins of fresh entries, which may be one text
  for each token. An array is {"dtype", "shape", "zlib"}, where "zlib" holds its bytes,
  compressed and in base 64.

  >>> specs = tree.specs({"w": np.ones((2, 3))}, {"w": ("embed", "mlp")})
  >>> rows = resolve.resolve(plan_lib.SCRATCH, {}, specs)
  >>> data = to_json(rows)
  >>> data["rows"][0]["how"], data["bindings"]
  ('init', [])
  >>> [row.name for row in from_json(data)], from_json(data)[0].spec == rows[0].spec
  (['w'], True)
  """
  bindings = {id(change.binding): change.binding
              for row in rows for change in row.changes}
  # By identity: rows share the object, and what holds arrays cannot be hashed.
  number = {key: i for i, key in enumerate(bindings)}
  return {"rows": [_encode(row, number) for row in rows],
          "bindings": [_encode(dataclasses.replace(binding, origins={}), {})
                       for binding in bindings.values()]}


def from_json(data: Mapping[str, Any]) -> list[resolve.Row]:
  """Returns the rows that `to_json` wrote.

  Raises:
    errors.UserError: If a field is missing, unknown or damaged.
  """
  try:
    bindings = [plan_lib.Binding(**_decode(found, ())) for found in data["bindings"]]
    return [resolve.Row(**_decode(row, bindings)) for row in data["rows"]]
  except (KeyError, TypeError, ValueError, IndexError, AttributeError,
          zlib.error) as error:
    raise errors.UserError(
        f"Not rows that this version of the package can read: {error}.") from error


def groups_to_json(groups: Sequence[plan_lib.Group]) -> list[dict[str, Any]]:
  """Returns groups as JSON types, without fields at their defaults.

  >>> groups_to_json(plan_lib.SCRATCH.groups)
  [{'name': 'all', 'params': '.*'}]
  >>> groups_from_json([{"name": "all", "params": ".*"}]) == plan_lib.SCRATCH.groups
  True
  """
  return [_encode(group, {}) for group in groups]


def groups_from_json(data: Sequence[Mapping[str, Any]]) -> tuple[plan_lib.Group, ...]:
  """Returns the groups that `groups_to_json` wrote."""
  return tuple(plan_lib.Group(**_decode(group, ())) for group in data)


def spec_to_json(spec: tree.Spec) -> dict[str, Any]:
  """Returns a spec as JSON types.

  >>> spec = tree.specs({"w": np.ones(3)}, {"w": ("mlp",)})["w"]
  >>> spec_to_json(spec)
  {'shape': [3], 'dtype': 'float64', 'axes': ['mlp'], 'reads': [False]}
  >>> spec_from_json(spec_to_json(spec)) == spec
  True
  """
  return _encode(spec, {})


def spec_from_json(data: Mapping[str, Any]) -> tree.Spec:
  """Returns the spec that `spec_to_json` wrote."""
  fields: dict[str, Any] = _decode(data, ())
  fields["dtype"] = np.dtype(fields["dtype"])
  return tree.Spec(**fields)


def _encode(value: Any, bindings: Mapping[int, int]) -> Any:
  if id(value) in bindings:
    return bindings[id(value)]
  if isinstance(value, np.ndarray):
    data = zlib.compress(np.ascontiguousarray(value).tobytes())
    return {"dtype": str(value.dtype), "shape": list(value.shape),
            "zlib": base64.b64encode(data).decode()}
  if isinstance(value, np.dtype):
    return str(value)
  if isinstance(value, (tuple, list)):
    return [_encode(v, bindings) for v in value]
  if isinstance(value, Mapping):
    return {str(k): _encode(v, bindings) for k, v in value.items()}
  if dataclasses.is_dataclass(value):
    return _encode_fields(value, bindings)
  return value.item() if isinstance(value, np.generic) else value


def _encode_fields(value: Any, bindings: Mapping[int, int]) -> dict[str, Any]:
  name = type(value).__name__
  # Mixtures are registered, too, but the name of their field says what they are.
  tagged = name in plan_json.KINDS and type(value) not in _PARTS.values()
  return ({"kind": name} if tagged else {}) | {
      field.name: _encode(getattr(value, field.name), bindings)
      for field in dataclasses.fields(value)
      if not _is_default(field, getattr(value, field.name))}


def _is_default(field: dataclasses.Field, value: Any) -> bool:
  # An array has no truth value, so it must not reach the comparisons.
  if isinstance(value, np.ndarray):
    return False
  if field.default_factory is not dataclasses.MISSING:
    return value == field.default_factory()
  return field.default is not dataclasses.MISSING and value == field.default


def _decode(
    value: Any, bindings: Sequence[plan_lib.Binding], part: type | None = None
) -> Any:
  if isinstance(value, list):
    return tuple(_decode(v, bindings, part) for v in value)
  if not isinstance(value, Mapping):
    return value
  if "zlib" in value:
    # Without `validate` a damaged text would lose characters and decode to something.
    data = zlib.decompress(base64.b64decode(value["zlib"], validate=True))
    # The array cannot be written to, as nothing should change a row.
    return np.frombuffer(data, value["dtype"]).reshape(value["shape"])
  if part is tree.Spec:
    return spec_from_json(value)
  fields = {name: _decode(v, bindings, _PARTS.get(name)) for name, v in value.items()
            if name != "kind"}
  if part is resolve.Change:
    fields["binding"] = bindings[fields["binding"]]
  if "kind" in value:
    part = plan_json.KINDS[value["kind"]]
  return part(**fields) if part else fields
