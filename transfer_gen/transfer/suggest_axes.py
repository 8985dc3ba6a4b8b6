"""Axis maps for a first plan: what people mostly want of each axis."""

from collections.abc import Callable, Mapping, Sequence

from transfer_gen import tree
from transfer_gen.transfer import axes as axes_lib
from transfer_gen.transfer import plan as plan_lib

_WIDTHS = ("embed", "mlp", "heads", "kv_heads", "kv", "hidden")
_REMARKS = {
    axes_lib.MatchTokens: "By token; others start fresh=. Needs both tokenizers.",
    axes_lib.Grow: "Keeps the function; noise= lets the copies learn apart.",
    axes_lib.Select: "By position; importance.by_weights chooses by value.",
    axes_lib.Extend: "how= says what the new ones are.",
    axes_lib.Cut: "Keeps the first ones.",
    axes_lib.MeanGroups: "Each is the mean of those that its queries read.",
}
_Specs = Mapping[str, tree.Spec]


def maps(
    pairs: Mapping[str, str], source: _Specs, target: _Specs,
    cover: Callable[[Sequence[str], Sequence[str]], list[str]],
) -> tuple[plan_lib.On, ...]:
  """Axis maps for pairs of leaves.

  Args:
    pairs: Target leaves to source leaves.
    source: Specs of the source.
    target: Specs of the target.
    cover: Patterns that match some names and of others nothing else.
  """
  found: dict[str, dict[tuple[int, int], list[str]]] = {}
  for name, other in pairs.items():
    spec = target[name]
    for axis, old, new in zip(spec.axes, source[other].shape, spec.shape):
      leaves = found.setdefault(axis, {}).setdefault((old, new), [])
      if name not in leaves[-1:]:
        leaves.append(name)
  result = []
  for axis, sizes in found.items():
    wanted = {size: names for size, names in sizes.items()
              if size[0] != size[1] or axis == "vocab"}
    carriers = [name for names in sizes.values() for name in names]
    for (old, new), names in wanted.items():
      kind = choose(axis, old, new)
      everywhere = len(sizes) == 1
      result += [plan_lib.On(axis=axis, map=kind)] if everywhere else [
          plan_lib.On(axis=axis, map=kind, params="|".join(cover(names, carriers)))]
  return tuple(result)


def choose(axis: str, source: int, target: int) -> plan_lib.AxisMap | None:
  """The map for an axis that goes from one size to another; None: there is none."""
  if axis == "vocab":
    return axes_lib.MatchTokens()
  if axis == "gates":
    return None
  if axis not in _WIDTHS:
    return axes_lib.Extend() if target > source else axes_lib.Cut()
  if target > source:
    return _grow(axis, source, target)
  if axis == "kv_heads" and source % target == 0:
    return axes_lib.MeanGroups()
  spread = axis in ("heads", "kv_heads")  # So that each meets its group.
  return axes_lib.Select(index=tuple(
      i * source // target if spread else i for i in range(target)))


def mappable(source: tree.Spec, target: tree.Spec) -> bool:
  """Whether one leaf can become the other."""
  return all(old == new or choose(axis, old, new) is not None
             for axis, old, new in zip(target.axes, source.shape, target.shape))


def remark(part: plan_lib.On | plan_lib.Rule | plan_lib.Group | str) -> str:
  """What there is to know of a line of a first plan; empty where it is plain."""
  if isinstance(part, plan_lib.Group):
    return ("lr_mult=0.1 slows a group down, unfreeze_step=None freezes it."
            if part.params == ".*" else "")
  if not isinstance(part, plan_lib.On):
    return ""
  kind = part.map
  if isinstance(kind, axes_lib.Grow) and kind.approximate:
    return "Changes the function: take approximate=True away to be told why."
  return _REMARKS.get(type(kind), "")


def _grow(axis: str, source: int, target: int) -> axes_lib.Grow:
  try:
    axes_lib.Grow().bind(plan_lib.AxisSizes(axis=axis, source=source, target=target))
  except ValueError:
    return axes_lib.Grow(approximate=True)
  return axes_lib.Grow()
