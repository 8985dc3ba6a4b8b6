"""Plans with one mistake each, and what a message must say of it first."""

import dataclasses
import re
from typing import Any

from transfer_gen import config
from transfer_gen import tree
from transfer_gen.config import declare
from transfer_gen.models import registry
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib


def fitting() -> tuple[dict[str, tree.Spec], dict[str, tree.Spec], Any]:
  """Returns the specs of a source and of a target, and a plan that fits them."""
  specs = lambda width, tokens: registry.specs(registry.build(config.Decoder(
      vocab_size=tokens, num_layers=2, width=8, num_heads=2, mlp_width=width,
      max_length=16, tied=False)))
  source = {f"old/{name}": spec for name, spec in specs(16, 11).items()}
  plan = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target="head/kernel", source=None),
             plan_lib.Rule(target=r"layer_(\d+)/(.*)", source=r"old/layer_\1/\2"),
             plan_lib.Rule(target="((embed|position|final_norm)/.*)",
                           source=r"old/\1")),
      groups=(plan_lib.Group(name="head", params="head/.*"),
              plan_lib.Group(name="body", params=".*", lr_mult=0.5,
                             anchor=plan_lib.L2SP(alpha=0.1))),
      axes=(plan_lib.On(axis="mlp", map=axes.Grow()),
            plan_lib.On(axis="vocab", map=axes.Extend())),
      unused_source=("old/head/kernel",))
  return source, specs(32, 13), plan


def misspelt(rng, word):
  """Returns a word with two neighbors exchanged, a letter doubled or one left out."""
  at = rng.randrange(max(len(word) - 1, 1))
  tries = (word[:at] + word[at + 1:at + 2] + word[at:at + 1] + word[at + 2:],
           word[:at] + word[at] + word[at:], word[:at] + word[at + 1:])
  return next((t for t in rng.sample(tries, 3) if t and t != word), word + "z")


def _leaf(rng, target):
  return rng.choice([name for name in target if not name.startswith("head")])


def _misspelt_source(rng, plan, target):
  leaf = _leaf(rng, target)
  wrong = f"old/{misspelt(rng, leaf)}"
  rule = plan_lib.Rule(target=re.escape(leaf), source=wrong)
  return (leaf, wrong), lambda: dataclasses.replace(plan, rules=(rule, *plan.rules))


def _misspelt_target(rng, plan, target):
  leaf = _leaf(rng, target)
  wrong = misspelt(rng, leaf)
  rule = plan_lib.Rule(target=wrong, source=f"old/{leaf}")
  return (wrong,), lambda: dataclasses.replace(plan, rules=(rule, *plan.rules))


def _no_axis(rng, plan, target):
  del target
  axis = misspelt(rng, rng.choice(("mlp", "embed", "vocab", "heads", "position")))
  on = plan_lib.On(axis=axis, map=axes.Cut())
  return (axis,), lambda: dataclasses.replace(plan, axes=(*plan.axes, on))


def _matches_nothing(rng, plan, target):
  del target
  pattern = f"none_{rng.randrange(99)}/.*"
  rule = plan_lib.Rule(target=pattern, source=None)
  return (pattern,), lambda: dataclasses.replace(plan, rules=(rule, *plan.rules))


def _unlisted(rng, plan, target):
  del rng, target
  return ("old/head/kernel",), lambda: dataclasses.replace(plan, unused_source=())


def _no_map(rng, plan, target):
  del rng, target
  return ("layer_", "axis `mlp`"), lambda: dataclasses.replace(
      plan, axes=plan.axes[1:])


def _same_name(rng, plan, target):
  group = plan_lib.Group(name="body", params=re.escape(_leaf(rng, target)))
  return ("body",), lambda: dataclasses.replace(plan, groups=(group, *plan.groups))


def _claimed(rng, plan, target):
  name = f"late_{rng.randrange(99)}"
  group = plan_lib.Group(name=name, params=re.escape(_leaf(rng, target)))
  return (name,), lambda: dataclasses.replace(plan, groups=(*plan.groups, group))


def _without_leaves(rng, plan, target):
  del target
  name = f"empty_{rng.randrange(99)}"
  group = plan_lib.Group(name=name, params="nothing/.*")
  return (name,), lambda: dataclasses.replace(plan, groups=(group, *plan.groups))


def _frozen_drawn(rng, plan, target):
  del rng, target
  group = plan_lib.Group(name="words", params="embed/.*", unfreeze_step=None)
  return ("embed/embedding",), lambda: dataclasses.replace(
      plan, groups=(group, *plan.groups))


def _row_out_of_range(rng, plan, target):
  del target
  index = [i % 16 for i in range(32)]
  index[rng.randrange(32)] = wrong = rng.randrange(16, 999)
  on = plan_lib.On(axis="mlp", map=axes.Select(index=tuple(index)))
  return ("mlp", str(wrong)), lambda: dataclasses.replace(
      plan, axes=(on, plan.axes[1]))


def _unknown_field(rng, plan, target):
  del target
  part = rng.choice((*plan.rules, *plan.groups, *plan.axes, plan))
  wrong = misspelt(rng, rng.choice([*declare.hints(type(part))]))
  return (wrong,), lambda: dataclasses.replace(part, **{wrong: 3})


# Each takes a plan that fits, and returns words of the message and the wrong plan.
PLANTS = (
    _misspelt_source, _misspelt_target, _no_axis, _matches_nothing, _unlisted, _no_map,
    _same_name, _claimed, _without_leaves, _frozen_drawn, _row_out_of_range,
    _unknown_field)
