"""Tests for audits: tables, JSON, coverage, colors, origins and comparison."""

import json
import re

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import axes
from transfer_gen.transfer import coverage
from transfer_gen.transfer import difference
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import rows_json
from transfer_gen.transfer import table
from transfer_gen.transfer import vocabulary

Group, On, Rule = plan_lib.Group, plan_lib.On, plan_lib.Rule
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def _spec(*sizes, dtype="float32", **axes_):
  return tree.Spec(
      shape=sizes or tuple(axes_.values()), dtype=np.dtype(dtype), axes=tuple(axes_),
      reads=tuple(axis == "embed" for axis in axes_))


def _model(layers, vocab, embed, mlp, position):
  return {
      "embed/embedding": _spec(vocab=vocab, embed=embed),
      "position/embedding": _spec(position=position, embed=embed),
      **{f"layer_{i}/up/{leaf}": spec for i in range(layers) for leaf, spec in (
          ("kernel", _spec(embed=embed, mlp=mlp)), ("bias", _spec(mlp=mlp)))},
  }


SOURCE = {**_model(3, 5, 4, 6, 10), "old/kernel": _spec(embed=4, mlp=2),
          "old/bias": _spec(mlp=2)}
TARGET = {**_model(4, 7, 4, 6, 15), "new/scale": _spec(embed=4, dtype="bfloat16")}
WORDS = {"": vocabulary.Vocabulary(tokens=(b"a", b"b", b"c", b"d", b"e")),
         "target": vocabulary.Vocabulary(tokens=tuple(b"d x b y z e a".split()))}
PLAN = plan_lib.TransferPlan(
    rules=(Rule(target="new/.*", source=None, fresh="ones"),
           Rule(target="layer_3/(.*)", source=(r"layer_1/\1", r"layer_2/\1"),
                why="between"),
           Rule(target="(.*)", source=r"\1")),
    axes=(On(axis="vocab", map=axes.MatchTokens(fresh="mean")),
          On(axis="position", map=axes.Extend(how="interpolate"))),
    groups=(Group(name="new", params="new/.*|embed/.*"),
            Group(name="late", params="layer_3/.*", unfreeze_step=9, lr_mult=0.5),
            Group(name="body", params=".*", unfreeze_step=None)),
    unused_source=("old/.*",))


def _audit(plan=PLAN, target=TARGET):
  rows = resolve.resolve(plan, {"": SOURCE}, target, WORDS)
  return audit_lib.summarize(plan, rows, {"": SOURCE})


def _through_json(audit):
  return audit_lib.from_json(json.loads(json.dumps(
      audit_lib.to_json(audit), sort_keys=True)))


def test_an_audit_round_trips_through_json():
  audit = _audit()

  back = _through_json(audit)

  assert back.plan == plan_lib.fingerprint(PLAN)
  assert table.full(back) == table.full(audit)
  assert table.folded(back, True) == table.folded(audit, True)
  assert audit_lib.to_json(back) == audit_lib.to_json(audit)


def _same(one, other):
  """Checks that two values are equal in every field, also in types and dtypes."""
  # Dataclasses with arrays cannot be compared by `==`.
  if isinstance(one, np.ndarray):
    np.testing.assert_array_equal(one, other)
    assert one.dtype == other.dtype
  elif isinstance(one, tuple):
    assert len(one) == len(other)
    for part, other_part in zip(one, other):
      _same(part, other_part)
  elif hasattr(one, "__dataclass_fields__"):
    assert type(one) is type(other)
    for field in one.__dataclass_fields__:
      _same(getattr(one, field), getattr(other, field))
  else:
    assert one == other and type(one) is type(other)


_INDEX = hnp.arrays(np.int32, st.integers(1, 9), elements=st.integers(-1, 99))
_FLOATS = st.floats(-9, 9, width=32)


@st.composite
def _bindings(draw):
  index = draw(_INDEX)
  size = draw(st.integers(0, 3))
  mixture = plan_lib.Mixture(
      rows=np.arange(size, dtype=np.int32),
      index=draw(hnp.arrays(np.int32, (size, 2), elements=st.integers(0, 9))),
      weights=draw(hnp.arrays(np.float32, (size, 2), elements=_FLOATS)))
  return plan_lib.Binding(
      index=index, fresh=draw(st.sampled_from(plan_lib.FRESH)), note=draw(st.text()),
      mixture=draw(st.sampled_from((None, mixture))),
      share=draw(st.sampled_from((None, index.astype(np.float32) / 3))),
      noise=draw(st.floats(0, 1)))


@settings(max_examples=60, deadline=None)
@given(st.lists(_bindings(), min_size=1, max_size=3))
def test_rows_round_trip_through_json_with_every_array(bindings):
  spec = _spec(embed=4, mlp=6)
  rows = [
      resolve.Row(
          name=f"leaf_{i}", spec=spec, how="mapped", rule=i, group="all",
          unfreeze_step=None if i else 3, sources=("a", f"b_{i}"), source_spec=spec,
          checkpoint="other",
          changes=tuple(resolve.Change(dim=dim, reads=dim == 0, binding=binding)
                        for dim, binding in enumerate(bindings[:2])))
      for i in range(2)]

  back = rows_json.from_json(json.loads(json.dumps(rows_json.to_json(rows))))

  _same(tuple(rows), tuple(back))
  # A binding that rows share is stored once, and shared again when it is read.
  assert back[0].changes[0].binding is back[1].changes[0].binding


def _damage(**changes):
  return {**json.loads(json.dumps(audit_lib.to_json(_audit()))), **changes}


@pytest.mark.parametrize("data", [
    {}, {"rows": 3}, [], _damage(bindings=[]), _damage(groups=[{"nam": "x"}]),
    _damage(bindings=[{"index": {"dtype": "int32", "shape": [2], "zlib": "no"}}] * 9),
    _damage(bindings=[{"index": {"dtype": "O", "shape": [1], "zlib": "eJw="}}] * 9)])
def test_json_that_is_not_an_audit_is_refused(data):
  with pytest.raises(errors.UserError, match="this version of the package can read"):
    audit_lib.from_json(data)


def test_a_row_of_a_newer_version_is_refused():
  data = _damage()
  data["rows"][0]["wisdom"] = 3

  with pytest.raises(errors.UserError, match="wisdom"):
    audit_lib.from_json(data)


def test_coverage_is_the_share_of_entries_with_a_source():
  audit = _audit()

  filled = total = 0
  for name, spec in TARGET.items():  # Three of the seven tokens have no source.
    has = np.ones(spec.shape, bool)
    if name == "embed/embedding":
      has[[1, 3, 4]] = False
    if name == "new/scale":
      has[:] = False
    filled, total = filled + has.sum(), total + has.size
  assert audit_lib.coverage(audit) == pytest.approx(filled / total)


def test_insufficient_coverage_lists_the_largest_leaves_first():
  coverage.check(_audit(), 0.9)
  with pytest.raises(errors.UserError) as error:
    coverage.check(_audit(), 0.95)

  lines = str(error.value).splitlines()
  assert "92.5%" in lines[0] and "95%" in lines[0]
  assert lines[1:3] == ["  embed/embedding: 12 params", "  new/scale: 4 params"]


def test_a_coverage_threshold_outside_0_to_1_is_refused():
  with pytest.raises(errors.UserError, match="from 0 to 1"):
    coverage.check(_audit(), 95)


def test_the_folded_table_counts_every_leaf():
  lines = table.folded(_audit(), False).split("\n\n")[0].splitlines()

  # The table is wider than 100 characters, so long cells go on in an indented line.
  header, *rows = [line.split() for line in lines if not line.startswith(" ")]
  assert header[:3] == ["leaf", "leaves", "shape"]
  # Two more lines than target leaves: the source leaves that no rule reads.
  assert sum(int(row[1]) for row in rows) == len(TARGET) + 2
  shown = {row[0]: row for row in rows}
  assert max(map(len, lines)) <= 100
  # The second leaf of that name, after `layer_{0..2}/up/` and `kernel`.
  assert shown["layer_{0..2}/up/"][1:5] == ["3", "(6)", "same", "name"]
  bias = next(i for i, line in enumerate(lines) if line.startswith("layer_3/up/bias"))
  assert "layer_1/up/bias +" in lines[bias] and "layer_2/up/bias" in lines[bias + 1]
  assert any("old/kernel" in line and "left behind" in line for line in lines)


def test_the_full_table_has_every_leaf_on_its_own_line():
  text = table.full(_audit())

  assert [line.split()[0] for line in text.splitlines()[1:len(TARGET) + 1]] == [*TARGET]
  assert "body (frozen)" in text and "late (from step 9)" in text
  for words in ("rule 1: between", "mean of 2, not invertible", "fresh (ones)"):
    assert words in text


def test_colors_mark_the_origin_and_do_not_change_the_text():
  audit = _audit()

  colored, plain = table.folded(audit, True), table.folded(audit, False)

  assert _ANSI.sub("", colored) == plain and "\x1b" not in plain
  # Color codes of terminals: yellow for fresh, cyan for mapped, magenta for left
  # behind, and dim for frozen.
  codes = {line.split("m", 1)[1].split()[0]: _ANSI.match(line)[0]
           for line in colored.splitlines() if line.startswith("\x1b")}
  assert codes["new/scale"] == codes["fresh"] == "\x1b[1;33m"
  assert codes["embed/embedding"] == "\x1b[36m"
  assert codes["layer_{0..2}/up/"] == codes["frozen"] == "\x1b[2m"
  assert codes["position/embedding"] == "\x1b[2;36m"  # Frozen and mapped.
  assert codes["-"] == codes["left"] == "\x1b[35m"


def test_origins_describe_entries_without_a_source():
  text = table.origins(_audit(), 2)

  lines = text.splitlines()
  assert lines[0].startswith("embed/embedding: vocab: 4 of 7 matched")
  assert lines[1] == "  3 entries without a source of their own:"
  assert lines[2].startswith("  1: ") and lines[3].startswith("  3: ")
  assert lines[4] == "  and 1 more"
  # 15 positions are spread over the 10 of the source, so position 1 lies at 9 / 14.
  assert lines[8] == f"  1: {1 - 9 / 14:.3g} x 0 + {9 / 14:.3g} x 1"


def _differing(**changes):
  fields = {"rules": PLAN.rules, "axes": PLAN.axes, "groups": PLAN.groups,
            "unused_source": PLAN.unused_source} | changes
  return difference.rows(_audit(), _audit(plan_lib.TransferPlan(**fields)))


def test_audits_of_equivalent_plans_do_not_differ():
  split = (Rule(target="layer_0/(.*)", source=r"layer_0/\1", why="alone"), *PLAN.rules)

  assert not difference.rows(_audit(), _through_json(_audit()))
  assert not _differing(rules=split)


@pytest.mark.parametrize("changes, line", [
    ({"rules": (Rule(target=r"layer_\d/up/bias", source=None), *PLAN.rules),
      "unused_source": ("old/.*", "layer_./up/bias")},
     ["layer_{0..2}/up/bias", "3", "from", "layer_{0..2}/up/bias,", "copy", "fresh",
      "(init)"]),
    ({"groups": (*PLAN.groups[:2], Group(name="body", params=".*", lr_mult=0.1))},
     ["layer_{0..2}/up/bias", "3", "group", "body,", "unfreeze_step=None", "group",
      "body,", "lr_mult=0.1"]),
    ({"axes": (On(axis="vocab", map=axes.MatchTokens(fresh="zeros")), PLAN.axes[1])},
     ["embed/embedding", "1"]),
])
def test_rows_that_differ_are_listed_folded(changes, line):
  lines = _differing(**changes)

  assert line in [found.split()[:len(line)] for found in lines]
  assert lines[0].split() == ["leaf", "leaves", "there", "here"]


def test_rows_with_equal_notes_and_different_entries_differ():
  small = {**TARGET, "layer_0/up/bias": _spec(mlp=2)}
  audits = []
  for index in ((0, 1), (1, 2)):
    plan = plan_lib.TransferPlan(
        rules=PLAN.rules, groups=PLAN.groups, unused_source=PLAN.unused_source,
        axes=(*PLAN.axes, On(axis="mlp", map=axes.Select(index=index),
                             params="layer_0/up/bias")))
    audits.append(_audit(plan, small))

  lines = difference.rows(*audits)

  assert len(lines) == 2 and lines[1].startswith("layer_0/up/bias")
  assert "other entries" in lines[1]


def test_leaves_present_in_only_one_audit_are_reported():
  lines = difference.rows(
      _audit(), _audit(target={**TARGET, "new/bias": _spec(embed=4)}))

  assert len(lines) == 2 and lines[1].split()[0] == "new/bias"
  assert lines[1].split("  ", 1)[1].split() == (
      "1 no such leaf (4) float32, fresh (ones), group new".split())
