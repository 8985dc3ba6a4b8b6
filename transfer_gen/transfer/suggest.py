"""Suggests a first plan from two trees, for people to edit.

Leaves are matched one to one by axes, shape and name. Names that differ only in their
numbers, as those of layers do, form one pattern and are matched together.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import difflib
import itertools
import re
from typing import Any

from transfer_gen import tree
from transfer_gen.transfer import axes as axes_lib
from transfer_gen.transfer import columns
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import suggest_axes

_Specs = Mapping[str, tree.Spec]
_Pattern = tuple[str, tuple[str, ...]]  # A name without its numbers, and its axes.
_NUMBER = re.compile(r"\d+")
_LONG = 70  # Characters of a text that is one line of code.
# Of longer ones, what fits into a line and ends within no escape.
_PARTS = re.compile(r"(?:\\.|[^\\]){1,35}", re.DOTALL)
# Of at most 3.1, see `_alike`.
_LIKELY = 1.6  # Leaves that are less similar than this are left for people to match.
_DEEPER = "the source has no layer of this number; structure.depth copies one"
# Words that other projects use, and the word of this package for the same thing.
_WORDS = {
    "q": "query", "k": "key", "v": "value", "o": "out", "weight": "kernel",
    "wi": "up", "fc": "up", "wo": "down", "proj": "out", "wte": "embed",
    "wpe": "position", "gamma": "scale", "beta": "bias", "ln": "norm", "f": "final",
    "lm": "head", "block": "layer", "blocks": "layer", "layers": "layer", "h": "layer",
    "attention": "attn", "ffn": "mlp", "embedding": "embed", "token": "embed",
}


def plan(source: _Specs, target: _Specs) -> plan_lib.TransferPlan:
  r"""Returns a plan that relates two trees as their axes, shapes and names suggest.

  The plan resolves if there is an axis map for each size that differs. Axis maps that
  need more than sizes are suggested, too, such as `MatchTokens`, which needs both
  vocabularies.

  >>> import numpy as np
  >>> table = {".*kernel": ("embed", "mlp")}
  >>> old = tree.specs({"block_0": {"fc": {"kernel": np.ones((2, 3))}}}, table)
  >>> new = tree.specs({"layer_0": {"up": {"kernel": np.ones((2, 3))}}}, table)
  >>> rule, = plan(old, new).rules
  >>> print(rule.target, "<-", rule.source)
  layer_(\d+)/up/(.*) <- block_\1/fc/\2

  Args:
    source: Specs of the source.
    target: Specs of the target.
  """
  match = _match(source, target)
  pairs = _leaves(match, source, target)
  used = set(pairs.values())
  unused = [name for name in source if name not in used]
  fresh = [name for name in target if name not in pairs]
  # A vocabulary's leaves are new in part: rows without a match start fresh.
  new = fresh + [name for name in pairs if "vocab" in target[name].axes]
  groups = (plan_lib.Group(name="all", params=".*"),)
  if new and len(new) < len(target):
    groups = (
        plan_lib.Group(name="new", params="|".join(cover(new, target))),
        plan_lib.Group(name="body", params=".*"))
  return plan_lib.TransferPlan(
      rules=_rules(pairs, match, target), groups=groups,
      axes=suggest_axes.maps(pairs, source, target, cover),
      unused_source=tuple(cover(unused, source)))


def snippet(
    plan_: plan_lib.TransferPlan, comments: Sequence[str] = (),
    title: str = "A first plan, from names, axes and shapes alone: read it, then edit"
    " it.",
) -> str:
  """Returns a plan as Python code: a function for `config.Run.transfer`.

  >>> print(snippet(plan_lib.SCRATCH, title="From scratch."))
  # From scratch.
  from transfer_gen.transfer import axes
  from transfer_gen.transfer import plan
  <BLANKLINE>
  <BLANKLINE>
  def transfer(run):
    del run  # The config, where sizes should follow from it.
    return plan.TransferPlan(
        rules=(
            plan.Rule(target=".*", source=None, why="from scratch"),
        ),
        groups=(
            # lr_mult=0.1 slows a group down, unfreeze_step=None freezes it.
            plan.Group(name="all", params=".*"),
        ))
  <BLANKLINE>

  Args:
    plan_: The plan, such as one that `plan` returned.
    comments: Lines to put above the code, such as what does not fit yet.
    title: The first line.
  """
  code = [_code(field, value) for field, value in (
      ("rules", plan_.rules), ("axes", plan_.axes), ("groups", plan_.groups),
      ("unused_source", plan_.unused_source)) if value]
  said = [part for line in "\n".join(comments).splitlines()
          for part in columns.wrap(line, columns.WIDTH - len("# "))]
  return "\n".join([
      f"# {title}",
      *(f"# {line}".rstrip() for line in said),
      "from transfer_gen.transfer import axes",
      "from transfer_gen.transfer import plan", "", "",
      "def transfer(run):",
      "  del run  # The config, where sizes should follow from it.",
      "  return plan.TransferPlan(", *code[:-1], code[-1][:-1] + ")", ""])


def cover(names: Sequence[str], others: Iterable[str]) -> list[str]:
  r"""Returns few patterns that match all of `names` and nothing else among `others`.

  >>> cover(["layer_0/a", "layer_1/a"], ["layer_0/a", "layer_1/a", "layer_0/b", "b"])
  ['layer_\\d+/a']
  """
  wanted = set(names)
  rest = [name for name in others if name not in wanted]
  patterns: dict[str, None] = {}
  covered: set[str] = set()
  # Greedy, from the widest: few patterns, but not always the fewest.
  for name in names:
    if name in covered:
      continue
    # There always is one, because the last pattern of `_wider` is the name itself.
    pattern = next(
        p for p in _wider(name, names)
        if tree.match([p], name) and not any(tree.match([p], n) for n in rest))
    covered |= {n for n in names if tree.match([pattern], n)}
    patterns[pattern] = None
  return list(patterns)


def _match(source: _Specs, target: _Specs) -> dict[_Pattern, _Pattern]:
  """Matches patterns of the target to patterns of the source, one to one."""
  found: dict[_Pattern, _Pattern] = {}
  taken = set()
  # The best score first. The second element keeps the order of the trees among equals.
  for _, _, pattern, other in sorted(_scored(source, target)):
    if pattern not in found and other not in taken:
      found[pattern] = other
      taken.add(other)
  return found


def _scored(
    source: _Specs, target: _Specs) -> list[tuple[float, int, _Pattern, _Pattern]]:
  """Returns likely pairs of patterns, each behind its negative score and its number."""
  sources, targets = _patterns(source), _patterns(target)
  alone = [collections.Counter(axes for _, axes in patterns)
           for patterns in (sources, targets)]
  scores = []
  for pattern, names in targets.items():
    axes = pattern[1]
    # The only leaf with its axes in both trees needs no similar name. A single axis, as
    # of a bias, says too little for that.
    only = len(axes) > 1 and all(counts[axes] == 1 for counts in alone)
    for other, others in sources.items():
      if axes != other[1] or not _replaceable(names, others):
        continue
      score = _alike(target[names[0]], pattern[0], source[others[0]], other[0])
      if only or score >= _LIKELY:
        scores.append((-score, len(scores), pattern, other))
  return scores


def _patterns(specs: _Specs) -> dict[_Pattern, list[str]]:
  patterns: dict[_Pattern, list[str]] = {}
  for name, spec in specs.items():
    patterns.setdefault(_pattern(name, spec), []).append(name)
  return patterns


def _pattern(name: str, spec: tree.Spec) -> _Pattern:
  return _NUMBER.sub("\0", name), spec.axes


def _alike(spec: tree.Spec, name: str, other_spec: tree.Spec, other: str) -> float:
  """Returns how similar two leaves are; equal names decide."""
  if name == other:
    return 10.0  # More than any other score.
  mine, theirs = _words(name), _words(other)
  # autojunk drops what is frequent in long sequences, which would skew the ratio.
  score = difflib.SequenceMatcher(None, mine, theirs, autojunk=False).ratio()
  letters = difflib.SequenceMatcher(
      None, " ".join(mine), " ".join(theirs), autojunk=False).ratio()
  last = mine[-1:] == theirs[-1:]
  return (score + letters + 0.5 * last + 0.3 * (spec.shape == other_spec.shape)
          + 0.3 * (spec.reads == other_spec.reads))


def _words(name: str) -> list[str]:
  # Words of CamelCase count one by one: other projects write SelfAttention or lnFinal.
  words = re.findall(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]+", name.replace("\0", ""))
  return [_WORDS.get(word.lower(), word.lower()) for word in words]


def _replaceable(names: Sequence[str], others: Sequence[str]) -> bool:
  """Returns whether a rule can put the numbers of one name into the other."""
  columns = len(_NUMBER.findall(names[0])), len(_NUMBER.findall(others[0]))
  return columns[0] == columns[1] or len(names) == len(others) == 1


def _leaves(
    match: Mapping[_Pattern, _Pattern], source: _Specs, target: _Specs
) -> dict[str, str]:
  """Matches target leaves to source leaves with the same numbers.

  If the two count from different numbers, leaves are matched in order.
  """
  sources, targets = _patterns(source), _patterns(target)
  pairs = {}
  for pattern, other in match.items():
    names, others = targets[pattern], sources[other]
    numbers = {tuple(_NUMBER.findall(name)): name for name in others}
    same = {name: numbers.get(tuple(_NUMBER.findall(name))) for name in names}
    if len(names) == len(others) and None in same.values():
      same = dict(zip(sorted(names, key=_order), sorted(others, key=_order)))
    pairs |= {name: found for name, found in same.items() if found is not None
              and suggest_axes.mappable(source[found], target[name])}
  return {name: pairs[name] for name in target if name in pairs}


def _order(name: str) -> list[int]:
  return list(map(int, _NUMBER.findall(name)))


def _rules(
    pairs: Mapping[str, str], match: Mapping[_Pattern, _Pattern], target: _Specs
) -> tuple[plan_lib.Rule, ...]:
  """Returns few rules that give these pairs: narrow rules first, wide rules last."""
  fresh = [name for name in target if name not in pairs]
  deeper = [name for name in fresh if _pattern(name, target[name]) in match]
  alone = [name for name in fresh if name not in deeper]
  rules = [plan_lib.Rule(target=pattern, source=None, why=why)
           for names, why in ((alone, "no counterpart"), (deeper, _DEEPER))
           for pattern in cover(names, target)]
  leaves = collections.Counter(_wide(*pair) for pair in pairs.items())
  # The first rule wins, so the narrow ones come first. Among rules of one kind the
  # longer patterns are the narrower ones, as a rough guess; the corrections below
  # make up for it.
  rules += sorted(leaves, key=lambda rule: (
      "(.*)" in rule.target, -len(rule.target), -leaves[rule]))
  # Where a wide rule gives another source, a narrower rule before it corrects that.
  # Rules with numbers are tried first; a rule for one leaf corrects what they miss.
  for narrower in (_narrow, _literal):
    rules = [*dict.fromkeys(_corrections(rules, pairs, target, narrower)), *rules]
  # Corrections can leave a wide rule without a leaf, and `resolve` would refuse it.
  return _owning(rules, target)


def _owning(
    rules: Sequence[plan_lib.Rule], target: _Specs) -> tuple[plan_lib.Rule, ...]:
  """Returns the rules that own a leaf."""
  patterns = [rule.target for rule in rules]
  owners = {found[0] for name in target if (found := tree.match(patterns, name))}
  return tuple(rule for i, rule in enumerate(rules) if i in owners)


def _wide(name: str, source: str) -> plan_lib.Rule:
  """Returns a rule for all leaves that differ only in the end that both names share."""
  mine, theirs = name.split("/"), source.split("/")
  common = 0
  for part, other in zip(reversed(mine), reversed(theirs)):
    if part != other:
      break
    common += 1
  if not common:
    return _narrow(name, source)
  head = _narrow(*("/".join(parts[:len(parts) - common]) for parts in (mine, theirs)))
  tail = rf"\{head.target.count('(') + 1}"
  return plan_lib.Rule(
      target="/".join(filter(None, [head.target, "(.*)"])),
      source="/".join([*filter(None, head.sources), tail]))


def _narrow(name: str, source: str) -> plan_lib.Rule:
  """Returns a rule for all leaves that differ only in numbers that both names have."""
  if _NUMBER.findall(name) != _NUMBER.findall(source):
    return _literal(name, source)
  count = itertools.count(1)
  return plan_lib.Rule(
      target=_NUMBER.sub(lambda _: r"(\d+)", _plain(name)),
      source=_NUMBER.sub(lambda _: rf"\{next(count)}", source))


def _literal(name: str, source: str | None) -> plan_lib.Rule:
  return plan_lib.Rule(target=_plain(name), source=source)


def _corrections(
    rules: Sequence[plan_lib.Rule], pairs: Mapping[str, str], target: _Specs,
    narrower: Callable[[str, str], plan_lib.Rule],
) -> Iterator[plan_lib.Rule]:
  """Yields rules for leaves to which the given rules would give another source."""
  patterns = [rule.target for rule in rules]
  for name in target:
    found = tree.match(patterns, name)
    templates = rules[found[0]].sources if found else ()
    given = found[1].expand(templates[0]) if found and templates else None
    wanted = pairs.get(name)
    if given != wanted:
      yield _literal(name, None) if wanted is None else narrower(name, wanted)


def _wider(name: str, names: Sequence[str]) -> Iterator[str]:
  """Yields patterns for a name and similar ones among `names`, the widest first."""
  parts = name.split("/")
  for depth in range(1, len(parts)):
    alike = ["/".join(n.split("/")[:depth]) for n in names if n.count("/") >= depth]
    for pattern in _numbered("/".join(parts[:depth]), alike):
      yield f"{pattern}/.*"
  yield from _numbered(name, names)
  yield _plain(name)


def _numbered(name: str, names: Iterable[str]) -> Iterator[str]:
  """Yields `name` with any number, then with the numbers that similar names have."""
  skeleton = _NUMBER.sub("\0", name)
  alike = [_NUMBER.findall(n) for n in names if _NUMBER.sub("\0", n) == skeleton]
  columns = [list(dict.fromkeys(column)) for column in zip(*alike)]
  texts = [_plain(text) for text in skeleton.split("\0")]
  if any(len(column) > 1 for column in columns):
    yield r"\d+".join(texts)
  shown = [column[0] if len(column) == 1 else f"({'|'.join(column)})"
           for column in columns]
  yield "".join(t + n for t, n in zip(texts, [*shown, ""]))


def _plain(name: str) -> str:
  """Returns a pattern for the name itself.

  Unlike `re.escape` it escapes no `-` or space, because people read these plans.
  """
  return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", name)


def _code(field: str, value: Sequence[Any]) -> str:
  lines = []
  for item in value:
    if remark := suggest_axes.remark(item):
      lines.append(f"          # {remark}")
    call = _call(item)
    if len(call) > columns.WIDTH - 11:
      call = _call(item, ",\n" + " " * 14)  # One argument a line.
    lines.append(f"          {call},")
  return "\n".join([f"      {field}=(", *lines, "      ),"])


def _call(value: Any, between: str = ", ") -> str:
  """Returns a dataclass as the call that makes it; patterns become raw strings."""
  if isinstance(value, str):
    # Python joins texts in a row; no part ends within an escape.
    parts = _PARTS.findall(value) if len(value) > _LONG else [value]
    return f"\n{' ' * 14}".join(
        f'r"{part}"' if "\\" in part else f'"{part}"' for part in parts)
  if isinstance(value, tuple) and value == tuple(range(len(value))):
    return f"tuple(range({len(value)}))"
  if isinstance(value, tuple):
    return f"({', '.join(map(_call, value))}{',' if len(value) == 1 else ''})"
  if not dataclasses.is_dataclass(value):
    return repr(value)
  module = "axes" if hasattr(axes_lib, type(value).__name__) else "plan"
  arguments = [f"{field.name}={_call(getattr(value, field.name))}"
               for field in dataclasses.fields(value)
               if getattr(value, field.name) != field.default]
  return f"{module}.{type(value).__name__}({between.join(arguments)})"
