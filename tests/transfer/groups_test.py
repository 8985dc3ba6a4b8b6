"""Tests for groups: JSON, recipes that make them, and table rows that learn."""

import dataclasses
import json
import re

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.models import registry
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import axes
from transfer_gen.transfer import difference
from transfer_gen.transfer import groups
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import table
from transfer_gen.transfer import vocabulary

Group, On, Rule = plan_lib.Group, plan_lib.On, plan_lib.Rule
SCRATCH = (Rule(target=".*", source=None),)
COPY = (Rule(target="(.*)", source=r"\1"),)
_FLOATS = st.floats(0, 9)
_TEXTS = st.text(st.characters(exclude_characters="\0"), min_size=1)
_ANCHORS = st.one_of(
    st.none(), st.builds(plan_lib.L2SP, alpha=_FLOATS, beta=_FLOATS),
    st.builds(plan_lib.EWC, strength=_FLOATS, fisher=_TEXTS),
    st.builds(plan_lib.Mixout, p=st.floats(0, 0.9)))
_GROUPS = st.builds(
    Group, name=_TEXTS, params=st.just(".*"), lr_mult=st.floats(0.1, 9),
    unfreeze_step=st.integers(0, 99), weight_decay=st.none() | _FLOATS,
    schedule=st.sampled_from((None, "constant", "cosine")),
    no_decay=_TEXTS.map(re.escape), table_rows=st.none() | st.just("fresh") | st.lists(
        st.integers(0, 999), min_size=1), anchor=_ANCHORS)


@settings(max_examples=60, deadline=None)
@given(st.lists(_GROUPS, min_size=1, max_size=3))
def test_plans_with_any_groups_round_trip_through_json(found):
  plan = plan_lib.TransferPlan(rules=SCRATCH, groups=tuple(found))

  text = json.dumps(plan_lib.to_json(plan))
  back = plan_lib.from_json(json.loads(text), plan_lib.arrays(plan))

  assert back == plan
  assert plan_lib.fingerprint(back) == plan_lib.fingerprint(plan)


def test_json_omits_defaults_and_stores_row_ids_as_arrays():
  plain = Group(name="all", params=".*")
  ids = Group(name="all", params=".*", table_rows=np.array([7, 2, 2]))

  written = [plan_lib.to_json(plan_lib.TransferPlan(rules=SCRATCH, groups=(group,)))
          for group in (plain, ids)]

  assert written[0]["groups"] == [{"name": "all", "params": ".*"}]
  assert written[1]["groups"][0]["table_rows"]["shape"] == [2]
  assert ids.table_rows == (2, 7)


@pytest.mark.parametrize("fields, sentence", [
    (dict(weight_decay=-1.0), "weight_decay is -1.0, must be a number from 0"),
    (dict(table_rows="new"), "table_rows is 'new', must be one of fresh or a tuple"),
    (dict(table_rows=()), "table_rows is .., must be .* not empty"),
    (dict(table_rows=(0.5,)), r"table_rows\[0\] is 0.5, must be a whole number"),
    (dict(table_rows=(-1, 3)), r"table_rows\[0\] is -1, must be a whole number"),
    (dict(anchor="l2"), "anchor is 'l2', must be an L2SP or an EWC or a Mixout"),
    (dict(anchor=axes.Grow()), "must be an L2SP or an EWC or a Mixout"),
    (dict(unfreeze_step=None, schedule="constant"), "never learns .* and schedule"),
    (dict(unfreeze_step=None, table_rows="fresh"), "never learns .* and table_rows"),
])
def test_an_invalid_group_is_refused(fields, sentence):
  with pytest.raises(errors.UserError, match=f"Group 'x'.*{sentence}"):
    Group(name="x", params=".*", **fields)


@pytest.mark.parametrize("kind, fields", [
    (plan_lib.L2SP, dict(alpha=-1.0)), (plan_lib.L2SP, dict(alpha=1.0, beta=-0.1)),
    (plan_lib.Mixout, dict(p=1.0)), (plan_lib.EWC, dict(strength=-1.0, fisher="f"))])
def test_anchor_values_out_of_range_are_refused(kind, fields):
  with pytest.raises(errors.UserError, match=rf"{kind.__name__}\.\w+ is .*, must be"):
    kind(**fields)


def test_a_plan_with_an_unknown_anchor_is_refused():
  data = plan_lib.to_json(plan_lib.TransferPlan(rules=SCRATCH, groups=(
      Group(name="all", params=".*", anchor=plan_lib.Mixout(p=0.5)),)))
  data["groups"][0]["anchor"]["kind"] = "Mixin"

  with pytest.raises(errors.UserError, match="'Mixin' is not known to this version"):
    plan_lib.from_json(data)


# Functions that make groups: by layer, discriminative rates, gradual unfreezing.
_MODELS = {
    "untied": config.Decoder(vocab_size=9, num_layers=2, width=8, num_heads=2,
                             max_length=4, tied=False),
    "tied": config.Decoder(vocab_size=9, num_layers=2, width=8, num_heads=2,
                           max_length=4),
    "rotary": config.Decoder(vocab_size=9, num_layers=2, width=8, num_heads=2,
                             position="rotary", norm_order="post"),
    "lstm": config.Recurrent(vocab_size=9, hidden_width=8, embed_width=4,
                             dense_width=4),
    "encoder": config.Recurrent(vocab_size=9, hidden_width=8, embed_width=4,
                                num_layers=1, encoder=True),
    "attention": config.Recurrent(
        vocab_size=9, hidden_width=8, embed_width=4, num_layers=1, encoder=True,
        bridge="tanh", encoder_attention="additive", coverage=True),
}
_LAYERS = {
    "untied": ["head", "layer_1", "layer_0", "embed"],
    "tied": ["head", "layer_1", "layer_0", "embed"],
    "rotary": ["head", "layer_1", "layer_0"],
    "lstm": ["head", "layer_1", "layer_0", "embed"],
    "encoder": ["head", "layer_0", "encoder/layer_0", "embed"],
    "attention": ["head", "layer_0", "encoder/layer_0", "embed"],
}


@pytest.mark.parametrize("width, named", [
    (3, ["head", "decoder", "encoder"]), (0, ["head", "decoder"])])
def test_the_layers_of_a_model_of_drawings_are_its_parts(width, named):
  model = config.Sketch(vocab_size=3, hidden_width=4, latent_width=width)
  specs = registry.specs(registry.build(model))

  found = groups.by_layer(model)
  rows = resolve.resolve(
      plan_lib.TransferPlan(rules=SCRATCH, groups=found), {}, specs)

  assert [group.name for group in found] == named and found == groups.by_layer(specs)
  for row in rows:
    part = row.name.split("/")[0]
    assert row.group == {"start": "decoder"}.get(part, part)


@pytest.mark.parametrize("name", _MODELS)
def test_groups_by_layer_contain_every_leaf_once(name):
  specs = registry.specs(registry.build(_MODELS[name]))

  found = groups.by_layer(_MODELS[name])
  # `resolve` refuses empty groups, and leaves without a group.
  rows = resolve.resolve(
      plan_lib.TransferPlan(rules=SCRATCH, groups=found), {}, specs)

  assert [group.name for group in found] == _LAYERS[name]
  assert found == groups.by_layer(specs)
  owner = {row.name: row.group for row in rows}
  for leaf, group in owner.items():
    assert group == leaf[:len(group)] or group in ("head", "embed"), leaf
  assert owner["embed/embedding"] == (
      "head" if name in ("tied", "rotary") else "embed")
  assert owner.get("position/embedding", "embed") == "embed"
  if name == "attention":
    assert owner["layer_0/bridge_h/kernel"] == "layer_0"
    assert owner["attention/key/kernel"] == "head"


def test_discriminative_rates_and_gradual_unfreezing_follow_ulmfit():
  model = _MODELS["untied"]

  both = groups.gradual_unfreezing(groups.discriminative(model), every=100)

  assert [group.unfreeze_step for group in both] == [0, 100, 200, 300]
  rates = [group.lr_mult for group in both]
  for upper, lower in zip(rates, rates[1:]):
    assert lower == pytest.approx(upper / 2.6)  # The factor of Howard & Ruder (2018).
  assert rates[0] == 1.0
  plain = groups.gradual_unfreezing(model, every=1)
  assert [group.lr_mult for group in plain] == [1] * 4
  assert plan_lib.from_json(plan_lib.to_json(
      plan_lib.TransferPlan(rules=SCRATCH, groups=both))).groups == both


def test_gradual_unfreezing_skips_frozen_groups():
  frozen = (Group(name="a", params="a"),
            Group(name="b", params="b", unfreeze_step=None),
            Group(name="c", params="c"))

  found = groups.gradual_unfreezing(frozen, every=5)

  assert [group.unfreeze_step for group in found] == [0, None, 5]


@pytest.mark.parametrize("call, sentence", [
    (lambda: groups.discriminative(_MODELS["tied"], 0), "factor is 0"),
    (lambda: groups.gradual_unfreezing(_MODELS["tied"], 0), "every is 0"),
    (lambda: groups.by_layer({"w": None}), "no param is called layer_0"),
])
def test_recipes_refuse_invalid_settings(call, sentence):
  with pytest.raises(errors.UserError, match=sentence):
    call()


# Groups in which only some rows of a table learn.

def _spec(reads=(), **sizes):
  return tree.Spec(shape=tuple(sizes.values()), dtype=np.dtype("float32"),
                   axes=tuple(sizes), reads=tuple(axis in reads for axis in sizes))


def _model(vocab):
  return {"embed/embedding": _spec(vocab=vocab, embed=3),
          "head/bias": _spec(vocab=vocab),
          "head/kernel": _spec(reads=("embed",), embed=3, vocab=vocab),
          "norm/scale": _spec(embed=3)}


WORDS = {"": vocabulary.Vocabulary(tokens=tuple(b"a b c d".split())),
         "target": vocabulary.Vocabulary(tokens=tuple(b"d x b y a".split()))}
MATCH = (On(axis="vocab", map=axes.MatchTokens(fresh="mean")),)
REST = Group(name="rest", params=".*", unfreeze_step=None)


def _resolved(rows, params="embed/.*|head/.*", rules=COPY, rest=REST, **fields):
  plan = plan_lib.TransferPlan(
      rules=rules, axes=MATCH, groups=(
          Group(name="new", params=params, table_rows=rows, **fields), rest))
  sources = {"": _model(4)}
  found = resolve.resolve(plan, sources, _model(5), WORDS)
  return audit_lib.summarize(plan, found, sources)


@pytest.mark.parametrize("rows, index", [("fresh", [1, 3]), ((4, 1, 3), [1, 3, 4])])
def test_resolved_rows_list_the_table_rows_that_learn(rows, index):
  tables = {row.name: row.table for row in _resolved(rows).rows}

  assert tables.pop("norm/scale") is None
  assert {name: found.dim for name, found in tables.items()} == {
      "embed/embedding": 0, "head/kernel": 1, "head/bias": 0}
  for found in tables.values():
    np.testing.assert_array_equal(found.index, index)


@pytest.mark.parametrize("rows, frozen", [((4, 0), 2), ((1,), 1)])
def test_drawn_rows_that_never_learn_are_refused(rows, frozen):
  with pytest.raises(resolve.PlanError) as error:
    _resolved(rows)

  assert f"{frozen} of 5 rows of axis `vocab` have no source" in str(error.value)
  assert "table_rows='fresh'" in str(error.value)


def test_a_table_with_drawn_rows_may_not_be_frozen_as_a_whole():
  plan = plan_lib.TransferPlan(rules=COPY, axes=MATCH, groups=(
      dataclasses.replace(REST, name="all"),))

  with pytest.raises(resolve.PlanError, match="2 of 5 rows of axis `vocab`"):
    resolve.resolve(plan, {"": _model(4)}, _model(5), WORDS)


def test_all_rows_of_a_leaf_without_a_source_are_fresh():
  plan = plan_lib.TransferPlan(
      rules=SCRATCH, groups=(
          Group(name="new", params="head/.*", table_rows="fresh"), REST))

  tables = {row.name: row.table for row in resolve.resolve(plan, {}, _model(5))}

  assert tables["head/bias"].index.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("rows, params, sentence", [
    ("fresh", ".*norm.*|embed/.*", "norm/scale: group 'new' has table_rows, and"),
    ((2, 5), "embed/.*", "has row 5 in table_rows, and axis `vocab` is 5 here"),
])
def test_table_rows_that_do_not_fit_a_leaf_are_refused(rows, params, sentence):
  with pytest.raises(resolve.PlanError, match=sentence):
    _resolved(rows, params)


def test_fresh_table_rows_of_a_plain_copy_are_refused():
  plan = plan_lib.TransferPlan(
      rules=COPY, groups=(Group(name="new", params=".*", table_rows="fresh"),))
  specs = {"embed/embedding": _spec(vocab=4, embed=3)}

  with pytest.raises(resolve.PlanError, match="every row here is a copy of the source"):
    resolve.resolve(plan, {"": specs}, specs)


def test_the_audit_describes_how_a_group_learns():
  audit = _resolved("fresh", schedule="linear", unfreeze_step=3,
                    anchor=plan_lib.L2SP(alpha=0.5))

  back = audit_lib.from_json(json.loads(json.dumps(audit_lib.to_json(audit))))

  text = table.full(back)
  assert text == table.full(audit)
  assert ("group new: 3 leaves, 14 params, rows 2 of 5, learns from step 3,"
          " 1 x the rate, schedule linear, weight decay of the run but on 1 norms and"
          " biases, held by L2SP(alpha=0.5, beta=0.0)") in text
  assert "new (from step 3) (rows 2 of 5)" in text
  totals = audit_lib.totals(back)
  assert totals["learning"] == {"leaves": 3, "params": 14, "bytes": 56}
  assert totals["frozen"]["params"] == 15 + 15 + 5 + 3 - 14
  assert totals["frozen"]["leaves"] == 1


@pytest.mark.parametrize("fields, words", [
    ({}, "weight decay of the run but on 1 norms and biases"),
    (dict(weight_decay=0.0), "no weight decay"),
    (dict(weight_decay=0.25), "weight decay 0.25 but on 1 norms and biases"),
    (dict(no_decay="embed/.*"), "of the run but on 1 that match 'embed/"),
    (dict(no_decay=""), "weight decay of the run\n"),
])
def test_the_audit_describes_the_weight_decay_of_a_group(fields, words):
  assert words in table.full(_resolved((1, 3), **fields))


def test_audits_with_different_groups_differ():
  one, other = _resolved((1, 3)), _resolved((1, 2, 3), anchor=plan_lib.Mixout(p=0.5))

  lines = "\n".join(difference.rows(one, other))

  assert "table_rows={1,3}" in lines and "table_rows={1..3}" in lines
  assert "anchor=Mixout(p=0.5)" in lines and "norm/scale" not in lines
  assert not difference.rows(one, _resolved((3, 1)))


def test_long_row_lists_are_compared_by_checksum():
  long = [Group(name="x", params=".*", table_rows=rows)
          for rows in (range(0, 999, 7), (*range(0, 999, 7), 998))]

  first, second = map(table.group, long)

  assert "143 rows, crc32" in first and first != second and len(second) < 80


def test_an_invalid_no_decay_pattern_is_refused():
  with pytest.raises(errors.UserError, match="Group 'x'.no_decay is '\\(', must be"):
    Group(name="x", params=".*", no_decay="(")
