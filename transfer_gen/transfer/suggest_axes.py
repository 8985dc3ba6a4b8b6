"""Axis maps for a first plan: the usual choice for each axis."""

from collections.abc import Callable, Mapping, Sequence

from transfer_gen import tree
from transfer_gen.transfer import axes as axes_lib
from transfer_gen.transfer import plan as plan_lib

_WIDTHS = ("embed", "mlp", "heads", "kv_heads", "kv", "hidden", "memory",
           "latent")
_REMARKS: dict[type, str] = {
    axes_lib.MatchTokens:
        "By token; fresh= says how other tokens start. Needs both tokenizers.",
    axes_lib.Grow: "Keeps the function; noise= lets the copies learn apart.",
    axes_lib.Select: "By position; importance.by_weights chooses by value.",
    axes_lib.Extend: "how= says how the new entries are made.",
    axes_lib.Cut: "Keeps the first entries.",
    axes_lib.MeanGroups: "Each head is the mean of those that its queries read.",
}
_Specs = Mapping[str, tree.Spec]


def maps(
    pairs: Mapping[str, str], source: _Specs, target: _Specs,
    cover: Callable[[Sequence[str], Sequence[str]], list[str]],
) -> tuple[plan_lib.On, ...]:
  """Returns axis maps for pairs of leaves.

  Args:
    pairs: Source leaf by target leaf.
    source: Specs of the source.
    target: Specs of the target.
    cover: Returns patterns that match the first names, and none of the second ones
      that are not among the first.
  """
  result = []
  for axis, sizes in _by_axis(pairs, source, target).items():
    wanted = {size: names for size, names in sizes.items()
              if size[0] != size[1] or axis == "vocab"}
    carriers = [name for names in sizes.values() for name in names]
    for (old, new), names in wanted.items():
      kind = choose(axis, old, new)
      assert kind is not None, "pairs are mappable"
      # A map without `params` is easier to read, and says the same in this case.
      everywhere = len(sizes) == 1
      result += [plan_lib.On(axis=axis, map=kind)] if everywhere else [
          plan_lib.On(axis=axis, map=kind, params="|".join(cover(names, carriers)))]
  return tuple(result)


def choose(axis: str, source: int, target: int) -> plan_lib.AxisMap | None:
  """Returns the map for an axis that changes its size, or None if there is none.

  >>> choose("position", 512, 1024)
  Extend(how='fresh', fresh='normal')
  """
  if axis == "vocab":
    return axes_lib.MatchTokens()
  # The number of gates is part of a cell's kind, so there is nothing to map.
  if axis == "gates":
    return None
  if axis not in _WIDTHS:
    return axes_lib.Extend() if target > source else axes_lib.Cut()
  if target > source:
    return _grow(axis, source, target)
  if axis == "kv_heads" and source % target == 0:
    return axes_lib.MeanGroups()
  # Evenly spread heads keep a member of each group of queries and its key-value head.
  spread = axis in ("heads", "kv_heads")
  return axes_lib.Select(index=tuple(
      i * source // target if spread else i for i in range(target)))


def mappable(source: tree.Spec, target: tree.Spec) -> bool:
  """Returns whether axis maps can make the target leaf from the source leaf."""
  return all(old == new or choose(axis, old, new) is not None
             for axis, old, new in zip(target.axes, source.shape, target.shape))


def remark(part: plan_lib.On | plan_lib.Rule | plan_lib.Group | str) -> str:
  """Returns a comment on a part of a first plan; empty if it needs none."""
  if isinstance(part, plan_lib.Group):
    return ("lr_mult=0.1 slows a group down, unfreeze_step=None freezes it."
            if part.params == ".*" else "")
  if not isinstance(part, plan_lib.On):
    return ""
  kind = part.map
  if isinstance(kind, axes_lib.Grow) and kind.approximate:
    return "Changes the function; without approximate=True, the error says why."
  return _REMARKS.get(type(kind), "")


def _by_axis(
    pairs: Mapping[str, str], source: _Specs, target: _Specs
) -> dict[str, dict[tuple[int, int], list[str]]]:
  """Groups leaves by their axes, and by the sizes of the axis in both."""
  found: dict[str, dict[tuple[int, int], list[str]]] = {}
  for name, other in pairs.items():
    spec = target[name]
    for axis, old, new in zip(spec.axes, source[other].shape, spec.shape):
      leaves = found.setdefault(axis, {}).setdefault((old, new), [])
      # An axis can occur twice in a leaf, as `hidden` does in a recurrent kernel.
      if name not in leaves[-1:]:
        leaves.append(name)
  return found


def _grow(axis: str, source: int, target: int) -> axes_lib.Grow:
  # Only sizes decide here; `resolve` also knows constants such as rotary positions.
  try:
    axes_lib.Grow().bind(plan_lib.AxisSizes(axis=axis, source=source, target=target))
  except ValueError:
    return axes_lib.Grow(approximate=True)
  return axes_lib.Grow()
