"""A transfer as data: rules (names), axis maps (sizes), groups (what learns)."""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
from typing import Any, Protocol

import numpy as np

from transfer_gen import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class AxisSizes:
  """One axis of the source as it meets the target's.

  Attributes:
    axis: Its name.
    source: Size in the source leaf.
    target: Size in the target leaf.
    source_vocabulary: What the source's rows stand for, where it is known.
    target_vocabulary: The same of the target.
  """
  axis: str
  source: int
  target: int
  source_vocabulary: Any = None
  target_vocabulary: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Binding:
  """An axis map at given sizes.

  Attributes:
    index: i32[target]: which source entry each target entry copies, -1: none.
    fresh: How entries without a source are filled: "mean" of the source's, or
      "normal" around it, with the source's spread.
    note: For the audit, e.g. "vocab: 9214 of 16000 matched".
  """
  index: np.ndarray
  fresh: str
  note: str


class AxisMap(Protocol):
  """Says how one axis of the source becomes the target's; a frozen dataclass."""

  def bind(self, sizes: AxisSizes) -> Binding:
    """Decides at given sizes; raises ValueError where the map cannot."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  r"""One line of a plan. The first rule that matches a leaf owns it.

  Attributes:
    target: Regex for whole target names, e.g. `decoder/layer_(\d+)/(.*)`.
    source: Source name, with groups: `layer_\1/\2`; None: reads nothing.
    fresh: Where `source` is None: "init" (the model's own), "zeros", "ones".
    checkpoint: Which source, where a plan has several.
    count: How many leaves the rule must own. None: at least one.
    why: One line for the audit; cite the paper or the ticket.
  """
  target: str
  source: str | None
  fresh: str = "init"
  checkpoint: str = ""
  count: int | None = None
  why: str = ""

  def __post_init__(self):
    if self.fresh not in ("init", "zeros", "ones"):
      raise errors.UserError(
          f"Rule {self.target!r}: fresh is {self.fresh!r}, must be 'init', 'zeros'"
          " or 'ones'.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class On:
  """An axis map and the leaves that it acts on; the first `On` that matches wins."""
  axis: str
  map: AxisMap
  params: str = ".*"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
  """Leaves that learn alike.

  Attributes:
    name: For the audit and the metrics.
    params: Regex for whole target names; the first group that matches wins.
    lr_mult: Factor on the run's learning rate.
    unfreeze_step: First step that updates the group. 0: always. None: never.
  """
  name: str
  params: str
  lr_mult: float = 1.0
  unfreeze_step: int | None = 0

  def __post_init__(self):
    if not self.lr_mult > 0:
      raise errors.UserError(
          f"Group {self.name!r}: lr_mult is {self.lr_mult}, must be > 0."
          " To freeze a group, set unfreeze_step=None.")
    if self.unfreeze_step is not None and self.unfreeze_step < 0:
      raise errors.UserError(
          f"Group {self.name!r}: unfreeze_step is {self.unfreeze_step}, must be a"
          " step >= 0, or None to freeze the group.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferPlan:
  """What of the sources reaches each leaf of the target, and what learns.

  Attributes:
    rules: Names; every target leaf is owned by the first that matches.
    groups: What learns; likewise.
    axes: Sizes; likewise for every axis that differs.
    unused_source: Regexes for source leaves that may stay unread.
  """
  rules: tuple[Rule, ...]
  groups: tuple[Group, ...]
  axes: tuple[On, ...] = ()
  unused_source: tuple[str, ...] = ()


SCRATCH = TransferPlan(
    rules=(Rule(target=".*", source=None, why="from scratch"),),
    groups=(Group(name="all", params=".*"),))


AXIS_MAPS: dict[str, type] = {}


def axis_map(kind: type) -> type:
  """Class decorator: lets plans with this axis map be read back from JSON."""
  AXIS_MAPS[kind.__name__] = kind
  return kind


def to_json(plan: TransferPlan) -> dict[str, Any]:
  """The plan as JSON types."""
  result = dataclasses.asdict(plan)
  for on, json_on in zip(plan.axes, result["axes"]):
    json_on["map"] = {"kind": type(on.map).__name__, **dataclasses.asdict(on.map)}
  return json.loads(json.dumps(result))


def from_json(data: Mapping[str, Any]) -> TransferPlan:
  """The plan that `to_json` wrote.

  Raises:
    errors.UserError: If a field or a kind of axis map is unknown.
  """
  try:
    return TransferPlan(
        rules=tuple(Rule(**rule) for rule in data["rules"]),
        groups=tuple(Group(**group) for group in data["groups"]),
        axes=tuple(_on(on) for on in data["axes"]),
        unused_source=tuple(data["unused_source"]))
  except (KeyError, TypeError) as error:
    raise errors.UserError(f"Not a transfer plan: {error}") from error


def fingerprint(plan: TransferPlan) -> str:
  """First 16 hexadecimal digits of the SHA-256 of the plan."""
  text = json.dumps(to_json(plan), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _on(data: Mapping[str, Any]) -> On:
  fields = dict(data["map"])
  kind = AXIS_MAPS[fields.pop("kind")]
  fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
  return On(axis=data["axis"], map=kind(**fields), params=data["params"])
