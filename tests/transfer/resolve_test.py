"""Tests for resolving a plan to rows, and for the errors of plans that do not fit."""

import numpy as np
import pytest

from transfer_gen import tree
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import vocabulary

Group, On, Rule = plan_lib.Group, plan_lib.On, plan_lib.Rule
ALL = (Group(name="all", params=".*"),)
SAME = Rule(target="(.*)", source=r"\1")


def _spec(shape, *names):
  return tree.Spec(shape=shape, dtype=np.dtype("float32"), axes=names,
                   reads=(False,) * len(shape))


SOURCE = {
    "embed": _spec((5, 4), "vocab", "embed"),
    "block_0/w": _spec((4, 6), "embed", "mlp"),
    "block_1/w": _spec((4, 6), "embed", "mlp"),
}
TARGET = {
    "embed": _spec((7, 4), "vocab", "embed"),
    "layer_0/w": _spec((4, 6), "embed", "mlp"),
    "norm": _spec((4,), "embed"),
}
VOCABULARIES = {
    "": vocabulary.Vocabulary(tokens=(b"", b"a", b"b", b"c", b"a"),
                              roles={"pad": 0}),
    "target": vocabulary.Vocabulary(
        tokens=(b"c", b"", b"x", b"a", b"", b"y"), roles={"eos": 1, "pad": 4}),
}
FITS = plan_lib.TransferPlan(
    rules=(
        Rule(target="norm", source=None, fresh="ones"),
        Rule(target=r"layer_(\d)/w", source=r"block_\1/w"), SAME),
    groups=(Group(name="head", params="embed"),
            Group(name="body", params=".*", unfreeze_step=None)),
    axes=(On(axis="vocab", map=axes.MatchTokens()),),
    unused_source=("block_1/.*",))


def _resolve(plan, source=None, target=None, vocabularies=None):
  return resolve.resolve(
      plan, {"": SOURCE if source is None else source},
      TARGET if target is None else target,
      VOCABULARIES if vocabularies is None else vocabularies)


def test_many_unread_leaves_are_counted_and_the_first_are_named():
  names = [letter * 2 for letter in "abcdefghij"]
  source = SOURCE | {name: _spec((4,), "embed") for name in names}

  with pytest.raises(resolve.PlanError, match=(
      "10 source leaves are read by no rule: aa, bb, cc, dd, ee, ff, gg, hh and 2"
      " more. Add a rule")):
    _resolve(FITS, source)


def test_leaves_with_one_cause_are_counted_and_the_first_are_named():
  leaves = lambda size: {
      f"{letter * 2}/w": _spec((size,), "position") for letter in "abcdefgh"}

  with pytest.raises(resolve.PlanError, match="aa/w, bb/w, cc/w and 5 more"):
    _resolve(FITS, SOURCE | leaves(4), TARGET | leaves(6))


def _misfit(**changes):
  fields = {"rules": FITS.rules, "groups": FITS.groups, "axes": FITS.axes,
            "unused_source": FITS.unused_source} | changes
  with pytest.raises(resolve.PlanError) as error:
    _resolve(plan_lib.TransferPlan(**fields))
  return str(error.value)


def test_each_target_leaf_has_one_row_with_its_origin():
  embed, layer, norm = _resolve(FITS)

  assert (embed.sources, embed.how, embed.group) == (("embed",), "mapped", "head")
  assert embed.unfreeze_step == 0 and layer.unfreeze_step is None
  assert (layer.sources, layer.how, layer.rule) == (("block_0/w",), "copy", 1)
  assert (norm.sources, norm.how, norm.group) == ((), "ones", "body")


def test_tokens_match_by_bytes_and_role_not_by_position():
  embed = _resolve(FITS)[0]

  # In order: "c"; eos, which the source lacks; "x"; "a", whose first row in the source
  # counts; pad; "y"; and a padding row, which is marked by -2.
  assert embed.changes[0].binding.index.tolist() == [3, -1, -1, 1, 0, -1, -2]
  assert embed.changes[0].binding.note == "vocab: 3 of 6 matched, 1 padded"


def test_one_axis_map_applies_to_every_leaf_with_the_axis():
  source = {"embed": _spec((5, 4), "vocab", "embed"),
            "kernel": _spec((4, 5), "embed", "vocab"), "bias": _spec((5,), "vocab")}
  target = {"embed": _spec((7, 4), "vocab", "embed"),
            "kernel": _spec((4, 7), "embed", "vocab"), "bias": _spec((7,), "vocab")}

  rows = _resolve(plan_lib.TransferPlan(
      rules=(SAME,), groups=ALL, axes=FITS.axes), source, target)

  assert [(row.name, row.changes[0].dim) for row in rows] == [
      ("embed", 0), ("kernel", 1), ("bias", 0)]
  # The rows share one binding, because it can be as large as the vocabulary.
  assert len({id(row.changes[0].binding) for row in rows}) == 1


def test_an_identical_vocabulary_gives_a_plain_copy():
  same = {"": VOCABULARIES[""], "target": vocabulary.Vocabulary(
      tokens=(b"", b"a", b"b", b"c", b"d"), roles={"pad": 0})}
  identical = {"": same["target"], "target": same["target"]}
  plan = plan_lib.TransferPlan(rules=(SAME,), groups=ALL, axes=FITS.axes)

  changed = _resolve(plan, {"embed": SOURCE["embed"]}, {"embed": SOURCE["embed"]}, same)
  copied = _resolve(
      plan, {"embed": SOURCE["embed"]}, {"embed": SOURCE["embed"]}, identical)

  assert changed[0].how == "mapped" and copied[0].how == "copy"


@pytest.mark.parametrize("changes, sentences", [
    (dict(rules=FITS.rules[1:2]), ["embed: (vocab, embed) (7, 4) has no rule"]),
    (dict(groups=FITS.groups[:1]), ["has no group. Add one"]),
    (dict(rules=(FITS.rules[0], Rule(target="layer_0/w", source="blok_0/w"), SAME)),
     ["layer_0/w: rule 1 reads blok_0/w", "nearest: `block_0/w`"]),
    (dict(axes=()),
     ["axis `vocab` is 5 in the source and 7 here, and no axis map says how"]),
    (dict(rules=(FITS.rules[0], Rule(target="layer_0/w", source="embed"), SAME)),
     ["axes (vocab, embed) in embed and (embed, mlp) here"]),
    (dict(rules=(Rule(target="nrom", source=None), *FITS.rules)),
     ["rule 0 ('nrom') owns no leaf", "nearest: `norm`"]),
    (dict(rules=(*FITS.rules, SAME)),
     ["rule 3 ('(.*)') owns no leaf: an earlier one owns embed already"]),
    (dict(rules=(*FITS.rules[:2], Rule(target="(.*)", source=r"\1", count=2))),
     ["rule 2 ('(.*)') owns 1 leaves and says count=2"]),
    (dict(groups=(*FITS.groups, Group(name="late", params="norm"))),
     ["group 'late' ('norm') owns no leaf"]),
    (dict(unused_source=()), ["1 source leaves are read by no rule: block_1/w"]),
    (dict(unused_source=("block_1/.*", "old/.*")),
     ["unused_source 'old/.*' leaves nothing behind"]),
    (dict(axes=(*FITS.axes, On(axis="mlp", map=axes.MatchTokens(), params="norm"))),
     ["axis map 1 (axis `mlp`, params 'norm') acts on no leaf"]),
    (dict(rules=(FITS.rules[0], Rule(target="layer_0/w", source=r"b_\3"), SAME)),
     ["rule 1: source 'b_\\\\3' does not go with its target"]),
])
def test_each_misfit_names_the_leaf_the_cause_and_a_fix(changes, sentences):
  message = _misfit(**changes)

  for sentence in sentences:
    assert sentence in message


def test_all_misfits_are_reported_at_once():
  message = _misfit(rules=(Rule(target="layer_0/w", source="blok_0/w"),), axes=())

  assert "blok_0/w" in message and "embed: (vocab, embed)" in message
  assert "norm: (embed) (4,) has no rule" in message


@pytest.mark.parametrize("changes, sentence", [
    (dict(axes=(On(axis="vocba", map=axes.MatchTokens()),)),
     "no leaf carries axis `vocba`; nearest: `vocab`."),
    (dict(rules=(*FITS.rules[:2],
                 Rule(target="(.*)", source=r"\1", checkpoint="other"))),
     "rule 2 reads \\1 from 'other', and the run has ''."),
])
def test_a_plan_mistake_is_reported_without_its_consequences(changes, sentence):
  message = _misfit(**changes)

  assert sentence in message and "(1 misfit)" in message


def test_a_cause_shared_by_many_leaves_is_reported_once():
  source = {f"{side}/e": _spec((5, 4), "vocab", "embed") for side in "ab"}
  target = {f"{side}/e": _spec((7, 4), "vocab", "embed") for side in "ab"}
  plan = plan_lib.TransferPlan(rules=(SAME,), groups=ALL, axes=FITS.axes)

  with pytest.raises(resolve.PlanError) as error:
    _resolve(plan, source, target, {"target": VOCABULARIES["target"]})

  assert str(error.value).count("needs the source's tokens") == 1
  assert "a/e, b/e: axis `vocab`" in str(error.value)


def test_different_sizes_of_one_axis_need_separate_maps():
  source = {"encoder/w": _spec((4, 6), "embed", "mlp"),
            "decoder/w": _spec((4, 8), "embed", "mlp")}
  target = {"encoder/w": _spec((4, 12), "embed", "mlp"),
            "decoder/w": _spec((4, 16), "embed", "mlp")}
  one = plan_lib.TransferPlan(
      rules=(SAME,), groups=ALL, axes=(On(axis="mlp", map=axes.Grow()),))
  two = plan_lib.TransferPlan(rules=(SAME,), groups=ALL, axes=(
      On(axis="mlp", map=axes.Grow(), params="encoder/.*"),
      On(axis="mlp", map=axes.Grow())))

  with pytest.raises(resolve.PlanError) as error:
    _resolve(one, source, target)
  rows = _resolve(two, source, target)

  assert ("decoder/w: axis `mlp` goes from 8 to 16 here and from 6 to 12 in encoder/w,"
          " under one axis map, 0. Give each its own On" in str(error.value))
  assert [row.changes[0].binding.note for row in rows] == [
      "mlp: grown 6 to 12, function kept", "mlp: grown 8 to 16, function kept"]


def test_a_position_map_without_position_params_is_refused():
  message = _misfit(axes=(*FITS.axes, On(axis="position", map=axes.Extend())))

  assert "(1 misfit)" in message
  assert "sinusoidal and rotary positions have no params" in message


def test_a_mean_of_leaves_of_different_shapes_is_refused():
  source = {"a": _spec((4, 6), "embed", "mlp"), "b": _spec((4, 8), "embed", "mlp")}
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="w", source=("a", "b")),), groups=ALL)

  with pytest.raises(resolve.PlanError, match=r"rule 0 reads the mean of a .*\(4, 6\)"
                     r" and b .*\(4, 8\); a mean needs leaves of one shape"):
    _resolve(plan, source, {"w": source["a"]})


def test_a_tokenizer_larger_than_the_vocab_axis_is_refused():
  many = vocabulary.Vocabulary(tokens=tuple(b"%d" % i for i in range(9)))

  with pytest.raises(resolve.PlanError, match="9 tokens and the axis `vocab` 5 rows"):
    _resolve(FITS, vocabularies={**VOCABULARIES, "": many})


def test_a_plan_round_trips_through_json():
  again = plan_lib.from_json(plan_lib.to_json(FITS))

  assert again == FITS
  assert plan_lib.fingerprint(again) == plan_lib.fingerprint(FITS)
  assert plan_lib.fingerprint(plan_lib.SCRATCH) != plan_lib.fingerprint(FITS)


@pytest.mark.parametrize("make, message", [
    (lambda: Group(name="g", params=".*", lr_mult=0), "unfreeze_step=None"),
    (lambda: Group(name="g", params=".*", unfreeze_step=-1), "unfreeze_step is -1"),
    (lambda: Rule(target="(", source=None), "target is '\\(', must be text that is a"),
    (lambda: Rule(target="a", source=None, fresh="twos"), "init, zeros, ones"),
    (lambda: axes.MatchTokens(fresh="median"), "mean, normal, cov"),
])
def test_plan_values_out_of_range_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
