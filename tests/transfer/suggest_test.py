"""Tests for suggested plans: they resolve, match leaves, and print as Python."""

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from transfer_gen import config as config_lib
from transfer_gen import tree
from transfer_gen.models import registry
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import suggest
from transfer_gen.transfer import vocabulary

_OTHER_NAMES = {
    "layer_": "h_", "query": "q_proj", "key": "k_proj", "value": "v_proj",
    "attn/out": "attn/o_proj", "embed/embedding": "wte/weight", "mlp/up": "ffn/wi",
    "mlp/down": "ffn/wo", "attn/": "attention/", "final_norm": "ln_f",
}


def _decoder(**fields):
  wanted = dict(num_layers=2, width=8, num_heads=2, max_length=16, vocab_size=20)
  return registry.specs(registry.build(config_lib.Decoder(**wanted | fields)))


def _renamed(name):
  for ours, theirs in _OTHER_NAMES.items():
    name = name.replace(ours, theirs)
  return name


def _words(size, first):
  return vocabulary.Vocabulary(tokens=tuple(
      f"word {i}".encode() for i in range(first, first + size)))


def _resolved(plan, source, target, sizes=(20, 20)):
  return {row.name: row for row in resolve.resolve(
      plan, {"": source}, target,
      {"": _words(sizes[0], 0), "target": _words(sizes[1], 3)})}


def _of_snippet(plan):
  """Returns the plan that the printed Python code makes."""
  names, code = {}, suggest.snippet(plan, ["a comment\nof two lines"])
  exec(code, names)
  return names["transfer"](None)


@pytest.mark.parametrize("shift", range(3))
def test_long_patterns_are_several_lines_of_the_same_text(shift):
  pattern = "x" * shift + r"(a\d+/|b\\\./)" * 20 + ".*"
  plan = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target=pattern, source=None, why="because " * 30),),
      groups=(plan_lib.Group(name="all", params=pattern),))

  code = suggest.snippet(plan)

  assert max(map(len, code.splitlines())) <= 100
  assert _of_snippet(plan) == plan


def test_equal_trees_need_only_one_rule():
  specs = _decoder()

  plan = suggest.plan(specs, specs)

  assert plan.rules == (plan_lib.Rule(target="(.*)", source=r"\1"),)
  assert not plan.unused_source


def test_renamed_leaves_are_matched():
  target = _decoder()
  source = {_renamed(name): spec for name, spec in target.items()}
  assert len(set(source) & set(target)) < len(target) / 2  # Most names do differ.

  rows = _resolved(suggest.plan(source, target), source, target)

  assert {name: row.sources for name, row in rows.items()} == {
      name: (_renamed(name),) for name in target}


@pytest.mark.parametrize("fields", [
    {"num_layers": 4, "width": 16, "head_dim": 4, "num_heads": 4, "max_length": 32},
    {"width": 4, "head_dim": 4, "num_heads": 1, "max_length": 8}, {"num_layers": 1},
    {"width": 12, "head_dim": 4, "num_heads": 3}, {"num_heads": 2, "num_kv_heads": 1},
    {"norm": "rms"}, {"vocab_size": 30}])
def test_different_sizes_resolve_and_the_snippet_gives_the_same_plan(fields):
  source, target = _decoder(), _decoder(**fields)

  plan = suggest.plan(source, target)
  rows = _resolved(plan, source, target, (20, fields.get("vocab_size", 20)))

  assert plan_lib.fingerprint(_of_snippet(plan)) == plan_lib.fingerprint(plan)
  for name, row in rows.items():
    assert row.sources == ((name,) if name in source else ())
  assert "vocab" in rows["embed/embedding"].changes[0].binding.note


def test_layers_with_shifted_numbers_are_matched_in_order():
  target = _decoder()
  source = {name.replace("layer_1", "layer_12").replace("layer_0", "layer_11"): spec
            for name, spec in target.items()}

  rows = _resolved(suggest.plan(source, target), source, target)

  assert rows["layer_0/mlp/up/bias"].sources == ("layer_11/mlp/up/bias",)
  assert rows["layer_1/mlp/up/bias"].sources == ("layer_12/mlp/up/bias",)


def test_trees_without_a_common_leaf_start_fresh():
  source = registry.specs(registry.build(config_lib.Recurrent(vocab_size=20)))
  source = {f"cell/{name}": spec for name, spec in source.items()
            if "vocab" not in spec.axes}
  target = {"scale": _spec(3, "other")}

  plan = suggest.plan(source, target)
  rows = _resolved(plan, source, target)

  assert rows["scale"].how == "init"
  assert plan.unused_source == ("cell/.*",)


def _spec(*shape_and_axes):
  half = len(shape_and_axes) // 2
  return tree.Spec(shape=shape_and_axes[:half], dtype=np.dtype("float32"),
                   axes=shape_and_axes[half:], reads=(False,) * half)


def test_the_printed_plan_of_a_renamed_source_for_a_larger_target():
  source = {("enc/" if "layer_0" in name else "") + _renamed(name): spec
            for name, spec in _decoder().items()}
  target = _decoder(num_layers=3, width=16, num_heads=4, head_dim=4, vocab_size=30)

  text = suggest.snippet(suggest.plan(source, target), ["of a test"])

  assert text == r"""# A first plan, from names, axes and shapes alone: read it, then edit it.
# of a test
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan


def transfer(run):
  del run  # The config, where sizes should follow from it.
  return plan.TransferPlan(
      rules=(
          plan.Rule(target="layer_(0|2)/.*",
              source=None,
              why="the source has no layer of this number; structure.depth copies one"),
          plan.Rule(target="embed/embedding", source="wte/weight"),
          plan.Rule(target=r"layer_(\d+)/attn/query/(.*)", source=r"h_\1/attention/q_proj/\2"),
          plan.Rule(target=r"layer_(\d+)/attn/value/(.*)", source=r"h_\1/attention/v_proj/\2"),
          plan.Rule(target=r"layer_(\d+)/attn/key/(.*)", source=r"h_\1/attention/k_proj/\2"),
          plan.Rule(target=r"layer_(\d+)/attn/out/(.*)", source=r"h_\1/attention/o_proj/\2"),
          plan.Rule(target=r"layer_(\d+)/mlp/down/(.*)", source=r"h_\1/ffn/wo/\2"),
          plan.Rule(target=r"layer_(\d+)/mlp/up/(.*)", source=r"h_\1/ffn/wi/\2"),
          plan.Rule(target=r"layer_(\d+)/(.*)", source=r"h_\1/\2"),
          plan.Rule(target="final_norm/(.*)", source=r"ln_f/\1"),
          plan.Rule(target="(.*)", source=r"\1"),
      ),
      axes=(
          # By token; fresh= says how other tokens start. Needs both tokenizers.
          plan.On(axis="vocab", map=axes.MatchTokens()),
          # Keeps the function; noise= lets the copies learn apart.
          plan.On(axis="embed", map=axes.Grow()),
          # Keeps the function; noise= lets the copies learn apart.
          plan.On(axis="kv_heads", map=axes.Grow()),
          # Keeps the function; noise= lets the copies learn apart.
          plan.On(axis="heads", map=axes.Grow()),
          # Keeps the function; noise= lets the copies learn apart.
          plan.On(axis="mlp", map=axes.Grow()),
      ),
      groups=(
          plan.Group(name="new", params="layer_(0|2)/.*|embed/.*"),
          # lr_mult=0.1 slows a group down, unfreeze_step=None freezes it.
          plan.Group(name="body", params=".*"),
      ),
      unused_source=(
          "enc/.*",
      ))
"""  # noqa: E501


def test_what_a_smaller_target_leaves_is_listed_in_few_patterns():
  source, target = _decoder(num_layers=3), _decoder(num_layers=1, norm="rms")

  assert suggest.plan(source, target).unused_source == (
      "final_norm/bias", r"layer_\d+/attn_norm/bias", r"layer_\d+/mlp_norm/bias",
      "layer_(1|2)/attn/.*", "layer_(1|2)/attn_norm/scale", "layer_(1|2)/mlp/.*",
      "layer_(1|2)/mlp_norm/scale")


def test_without_a_leaf_to_keep_as_it_is_all_learn_alike():
  source = registry.specs(registry.build(config_lib.Recurrent(vocab_size=20)))

  plan = suggest.plan(source, _decoder())

  assert [group.name for group in plan.groups] == ["all"]
  assert [(rule.target, rule.source) for rule in plan.rules] == [
      ("final_norm/.*", None), (r"layer_\d+/.*", None), ("position/.*", None),
      ("(.*)", r"\1")]
  assert "map=axes.Select(index=tuple(range(8)))" in suggest.snippet(plan, [])


_LEAVES = st.dictionaries(
    st.builds("/".join, st.lists(
        st.sampled_from(("a", "b_0", "b_1", "b_2", "conv1d", "w.x", "q", "k")),
        min_size=1, max_size=3)),
    st.sampled_from((
        _spec(4, 6, "embed", "mlp"), _spec(8, 6, "embed", "mlp"), _spec(4, "embed"),
        _spec(7, 4, "position", "embed"), _spec(5, 4, "position", "embed"),
        _spec(4, 4, "hidden", "gates"), _spec(8, 2, "hidden", "gates"))),
    min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(_LEAVES, _LEAVES)
def test_the_suggested_plan_of_any_two_trees_resolves(source, target):
  plan = suggest.plan(source, target)

  rows = _resolved(plan, source, target)

  assert list(rows) == list(target)
  assert plan_lib.fingerprint(_of_snippet(plan)) == plan_lib.fingerprint(plan)
  read = [name for row in rows.values() for name in row.sources]
  assert len(read) == len(set(read))  # No source leaf is used twice.
  for name in set(source) & set(target):
    if source[name] == target[name]:
      assert rows[name].sources, name


def test_fewer_query_heads_stay_with_their_key_value_heads():
  source = _decoder(num_heads=8, head_dim=4)
  target = _decoder(num_heads=4, head_dim=4, num_kv_heads=2)

  rows = _resolved(suggest.plan(source, target), source, target)

  query = rows["layer_0/attn/query/kernel"].changes[0].binding.index
  means = rows["layer_0/attn/key/kernel"].changes[0].binding.mixture.index
  for head, copied in enumerate(query):
    assert copied in means[head // 2]
