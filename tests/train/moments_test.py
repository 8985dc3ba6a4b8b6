"""Tests for starting a group from the optimizer moments of the source."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import small_runs
from transfer_gen import config
from transfer_gen import sharding
from transfer_gen.models import registry
from transfer_gen.run import assemble
from transfer_gen.run import loop
from transfer_gen.train import moments
from transfer_gen.transfer import plan as plan_lib

Group, Rule = plan_lib.Group, plan_lib.Rule
PLAN = plan_lib.TransferPlan(
    rules=(Rule(target="head/.*", source=None), Rule(target="(.*)", source=r"\1")),
    groups=(Group(name="body", params="layer_.*"), Group(name="rest", params=".*")),
    unused_source=("head/.*",))


def _run(folder, source=None, plan=PLAN, **optim):
  return small_runs.configure(
      folder / "text.txt", dataclasses.replace(small_runs.DECODER, tied=False), steps=3,
      tokenizer=config.Tokenizer(kind="bytes"), optim=config.Optim(**optim),
      source=source, transfer=plan if source else None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("moments")
  small_runs.write_lines(path / "text.txt")
  loop.train(_run(path), path / "source")
  return path


def _source(folder, step=3):
  return config.Source(path=str(folder / "source"), step=step, moments=True)


def _started(folder, run):
  """Returns the assembled run, its initial state, and the source's state by path."""
  setup = assemble.build(run, folder / "target")
  where = sharding.of_params(setup.specs, sharding.make_mesh(data=8))
  params = registry.fresh(setup.model, jax.random.key(0), where)(setup.specs)
  state = moments.restore(
      setup.rows, setup.optimizer, setup.sources,
      setup.optimizer.extend({}, params, 0), where)
  return setup, state, small_runs.optimizer_state(folder / "source", 3)


def test_a_copied_group_keeps_the_source_moments_and_step_count(folder):
  setup, state, stored = _started(folder, _run(folder, _source(folder)))

  adam = state["body"][0]
  assert {row.name for row in setup.rows if row.moments} == set(adam.mu)
  for name, mu in adam.mu.items():
    np.testing.assert_array_equal(mu, stored["all", 0, "mu", name])
    np.testing.assert_array_equal(adam.nu[name], stored["all", 0, "nu", name])
    assert mu.sharding.mesh.size == 8
  assert np.abs(adam.mu["layer_0/mlp/up/kernel"]).max() > 0
  assert int(adam.count) == 3
  # The schedule has a counter of its own, which starts again.
  assert int(state["body"][2].count) == 0


def test_a_group_with_a_fresh_leaf_starts_with_zero_moments(folder):
  setup, state, _ = _started(folder, _run(folder, _source(folder)))

  adam = state["rest"][0]
  assert int(adam.count) == 0
  assert max(np.abs(mu).max() for mu in adam.mu.values()) == 0
  assert not any(row.moments for row in setup.rows if row.group == "rest")


def test_the_audit_of_a_run_reports_transferred_moments(folder):
  loop.train(_run(folder, _source(folder)), folder / "trained")

  audit = (folder / "trained" / "audit.txt").read_text()
  assert "group body: 16 leaves" in audit
  assert audit.count("with the moments of the source") == 1


@pytest.mark.parametrize("step, groups, optim, sentence", [
    (-1, PLAN.groups, {}, "holds no optimizer state (those in best/ never do)"),
    (3, (Group(name="all", params=".*"),), {},
     "group 'all': head/kernel is not a plain copy"),
    (3, (Group(name="late", params="layer_.*", unfreeze_step=2),
         Group(name="rest", params=".*")), {}, "group 'late': it starts to learn at"),
    (3, PLAN.groups, dict(name="adafactor"), "the source's optimizer has no"),
])
def test_moments_that_cannot_be_used_are_refused(folder, step, groups, optim, sentence):
  plan = plan_lib.TransferPlan(
      rules=PLAN.rules, groups=groups, unused_source=PLAN.unused_source)

  with pytest.raises(ValueError) as error:
    assemble.build(_run(folder, _source(folder, step), plan, **optim), folder / "new")

  assert sentence in str(error.value)


def test_moments_of_two_sources_are_refused_for_one_group(folder):
  rules = (Rule(target="head/.*", source=None),
           Rule(target="(layer_0/attn/.*)", source=r"\1", checkpoint="second"),
           Rule(target="(.*)", source=r"\1"))
  plan = plan_lib.TransferPlan(
      rules=rules, groups=PLAN.groups, unused_source=(".*",))
  run = _run(folder, _source(folder), plan)
  run.sources = {"second": _source(folder)}

  with pytest.raises(ValueError, match="its leaves come from '', 'second'"):
    assemble.build(run, folder / "new")
