"""Tests for restoring params from rows, and for what is read from checkpoints."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from transfer_gen import checkpoint
from transfer_gen import errors
from transfer_gen import sharding
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.checkpoint import stored as stored_lib
from transfer_gen.transfer import audit
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import restore
from transfer_gen.transfer import table
from transfer_gen.transfer import vocabulary

Group, On, Rule = plan_lib.Group, plan_lib.On, plan_lib.Rule
AXES = {"body": ("embed", "mlp"), "(old_)?head": ("mlp", "vocab"),
        "bias": ("vocab",)}
ALL = (Group(name="all", params=".*"),)
WORDS = {"": vocabulary.Vocabulary(tokens=(b"a", b"b", b"c", b"d")),
         "target": vocabulary.Vocabulary(tokens=(b"d", b"x", b"b", b"y", b"z"))}


def _random(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_restore_copies_only_the_leaves_named_by_rules():
  mesh = sharding.make_mesh(data=1, fsdp=8)
  source = sources.from_tree(
      {"body": _random(0, 8, 2), "old_head": jnp.ones((2, 5))}, AXES)
  init = {"body": jnp.zeros((8, 2)), "head": jnp.full((2, 9), 7.0)}
  specs = tree.specs(init, AXES)
  shardings = sharding.of_params(specs, mesh)
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="body", source="body"), Rule(target="head", source=None)),
      groups=ALL, unused_source=("old_head",))
  rows = resolve.resolve(plan, {"": source.specs}, specs)
  asked = []
  fresh = lambda names: asked.extend(names) or {
      name: jax.device_put(init[name], shardings[name]) for name in names}

  params = restore.restore(rows, {"": source}, fresh, shardings)

  np.testing.assert_array_equal(params["body"], source.arrays["body"])
  assert params["body"].sharding == shardings["body"]
  assert len(params["body"].sharding.device_set) == 8
  assert params["body"].addressable_shards[0].data.shape == (1, 2)
  np.testing.assert_array_equal(params["head"], init["head"])
  assert asked == ["head"]  # Leaves that are read are not initialized as well.


@pytest.mark.parametrize("devices", [1, 8])
def test_params_from_one_leaf_and_the_caller_own_an_array_each(devices):
  mesh = sharding.make_mesh(data=1, fsdp=devices) if devices > 1 else jax.sharding.Mesh(
      jax.devices()[:1], ("fsdp",))
  where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
  mine = jax.device_put(_random(0, 8, 2), where)
  source = sources.from_tree({"body": mine}, AXES)
  specs = tree.specs({"first": mine, "second": mine}, {"first|second": AXES["body"]})
  rows = resolve.resolve(plan_lib.TransferPlan(
      rules=(Rule(target="first|second", source="body"),), groups=ALL),
      {"": source.specs}, specs)

  params = restore.restore(
      rows, {"": source}, lambda names: {}, dict.fromkeys(specs, where))
  # As a training step does with them.
  step = lambda params: jax.tree.map(lambda x: x + 1, params)
  jax.jit(step, donate_argnums=0)(params)

  assert params["first"].is_deleted() and params["second"].is_deleted()
  np.testing.assert_array_equal(mine, _random(0, 8, 2))


@pytest.mark.parametrize("fill, value", [("zeros", 0.0), ("ones", 1.0)])
def test_a_fresh_leaf_is_filled_as_its_rule_says(fill, value):
  specs = tree.specs({"body": jnp.zeros((8, 2))}, AXES)
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="body", source=None, fresh=fill),), groups=ALL)

  params = restore.restore(resolve.resolve(plan, {}, specs), {}, lambda names: {})

  np.testing.assert_array_equal(params["body"], np.full((8, 2), value))


def _mapped(fresh, tensor=1):
  """Maps a head [64, 4] and a bias [4] from four words to five."""
  mesh = sharding.make_mesh(data=8 // tensor, tensor=tensor)
  arrays = {"head": _random(1, 64, 4) * 3 + 1, "bias": _random(2, 4)}
  source = sources.from_tree(arrays, AXES)
  specs = tree.specs({"head": jnp.zeros((64, 5)), "bias": jnp.zeros((5,))}, AXES)
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="(.*)", source=r"\1"),), groups=ALL,
      axes=(On(axis="vocab", map=axes.MatchTokens(fresh=fresh)),))
  rows = resolve.resolve(plan, {"": source.specs}, specs, WORDS)
  params = restore.restore(
      rows, {"": source}, lambda names: {}, sharding.of_params(specs, mesh))
  return arrays, jax.device_get(params)


def test_matched_tokens_are_copied_exactly_in_kernel_and_bias():
  arrays, params = _mapped("mean")

  np.testing.assert_array_equal(params["head"][:, 0], arrays["head"][:, 3])
  np.testing.assert_array_equal(params["head"][:, 2], arrays["head"][:, 1])
  np.testing.assert_array_equal(params["bias"][[0, 2]], arrays["bias"][[3, 1]])
  assert not np.array_equal(params["head"][:, :4], arrays["head"])  # The order differs.


def test_fresh_mean_fills_rows_with_the_mean_of_the_source():
  arrays, params = _mapped("mean")

  mean = arrays["head"].astype(np.float64).mean(1)
  np.testing.assert_allclose(params["head"][:, 1], mean, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(params["head"][:, 1], params["head"][:, 3])


def test_fresh_normal_draws_rows_with_the_source_mean_and_spread():
  arrays, params = _mapped("normal")

  drawn = params["head"][:, [1, 3, 4]].astype(np.float64)
  source = arrays["head"].astype(np.float64)
  scores = (drawn - source.mean(1, keepdims=True)) / source.std(1, keepdims=True)
  # For 192 draws, the standard errors of mean and deviation are 0.07 and 0.05.
  assert abs(scores.mean()) < 0.25 and abs(scores.std() - 1) < 0.2
  assert not np.array_equal(drawn[:, 0], drawn[:, 1])


def test_a_mapped_leaf_does_not_depend_on_the_mesh():
  _, one = _mapped("normal")
  _, four = _mapped("normal", tensor=4)

  np.testing.assert_array_equal(one["head"], four["head"])


def test_an_axis_that_is_mapped_is_read_whole_however_the_target_is_divided():
  mesh = sharding.make_mesh(data=1, tensor=8)
  names = {"head": ("embed", "vocab")}
  arrays = {"head": _random(1, 64, 5)}  # Eight devices do not divide five words.
  source = sources.from_tree(arrays, names)
  specs = tree.specs({"head": jnp.zeros((64, 8))}, names)
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="(.*)", source=r"\1"),), groups=ALL,
      axes=(On(axis="vocab", map=axes.Extend(how="repeat")),))
  rows = resolve.resolve(plan, {"": source.specs}, specs)
  asked = []

  class Asked:
    specs = source.specs
    path = source.path

    def read(self, names, shardings=None, picks=None):
      asked.append(shardings["head"].spec)
      return source.read(names, shardings, picks)

  params = restore.restore(
      rows, {"": Asked()}, lambda names: {}, sharding.of_params(specs, mesh))

  assert asked[0][1] is None and params["head"].sharding.spec[1] == "tensor"
  np.testing.assert_array_equal(
      params["head"], arrays["head"][:, [0, 1, 2, 3, 4, 0, 1, 2]])


def test_only_the_leaves_named_in_rows_are_read_from_disk(tmp_path):
  big = {"body": _random(0, 8, 2), "old_head": _random(1, 1000, 1000)}
  stored = _store(tmp_path, big)
  specs = tree.specs({"body": jnp.zeros((8, 2))}, AXES)
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="body", source="body"),), groups=ALL,
      unused_source=("old_head",))
  rows = resolve.resolve(plan, {"": stored.specs}, specs)

  read_sizes = []
  before = _bytes_read()
  params = restore.restore(
      rows, {"": stored}, lambda names: {}, progress=read_sizes.append)
  few = _bytes_read() - before
  dict(stored.read(["old_head"]))
  many = _bytes_read() - before - few

  np.testing.assert_array_equal(params["body"], big["body"])
  # The unused leaf has 4 MB. Metadata must stay well below that.
  assert few < 500_000 < 3_000_000 < many
  assert read_sizes == [big["body"].nbytes]


def test_a_checkpoint_keeps_axes_and_bits(tmp_path):
  arrays = {"body": _random(0, 8, 2), "head": _random(1, 2, 3)}
  stored = _store(tmp_path, arrays)

  assert stored.specs == tree.specs(arrays, AXES)
  read = dict(stored.read(["head"]))
  np.testing.assert_array_equal(read["head"], arrays["head"])
  assert list(read) == ["head"]


@pytest.mark.parametrize("make, message", [
    (lambda path: path / "nowhere", "there is no such file or folder"),
    (lambda path: path, "holds no checkpoint"),
    (lambda path: _file(path / "notes.md"), "not a checkpoint"),
])
def test_a_path_that_is_not_a_checkpoint_is_refused(tmp_path, make, message):
  with pytest.raises(ValueError, match=message):
    sources.open(make(tmp_path))


def test_a_folder_above_runs_is_refused_with_their_names(tmp_path):
  for run in ("moved/seed_0/lr_0.001", "moved/seed_1/lr_0.001", "first/seed_0"):
    (tmp_path / run / "checkpoints" / "best").mkdir(parents=True)

  with pytest.raises(errors.UserError, match=(
      r"holds no checkpoint\. Give one of the runs in it: "
      r"first/seed_0, moved/seed_0/lr_0\.001, moved/seed_1/lr_0\.001\.$")):
    sources.open(tmp_path)


def test_totals_count_every_possible_origin_of_a_leaf():
  arrays, _ = _mapped("mean")
  source = sources.from_tree({**arrays, "body": _random(3, 8, 2)}, AXES)
  specs = tree.specs({"head": jnp.zeros((64, 5)), "bias": jnp.zeros((5,)),
                      "old_head": jnp.zeros((64, 4))}, AXES)
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="bias", source=None), Rule(target="old_head", source="head"),
             Rule(target="(.*)", source=r"\1")),
      groups=(Group(name="new", params="head"),
              Group(name="rest", params=".*", unfreeze_step=None)),
      axes=(On(axis="vocab", map=axes.MatchTokens(), params="head"),),
      unused_source=("body", "bias"))
  rows = resolve.resolve(plan, {"": source.specs}, specs, WORDS)

  summary = audit.summarize(plan, rows, {"": source.specs})
  totals, text = audit.totals(summary), table.full(summary)

  params = {name: fate["params"] for name, fate in totals.items()}
  assert params == {"copied": 256, "mapped": 320, "fresh": 5, "left_behind": 16 + 4,
                    "learning": 320, "frozen": 261, "target": 581}
  assert totals["mapped"] == {"leaves": 1, "params": 320, "bytes": 1280}
  assert "vocab: 2 of 5 matched" in text and "rest (frozen)" in text


def _store(folder, arrays):
  checkpoints = checkpoint.Checkpoints(folder)
  specs = tree.specs(arrays, AXES)
  checkpoints.save_best(3, {name: jnp.asarray(value) for name, value in arrays.items()},
                        {"axes": checkpoint.axes_facts(specs)})
  checkpoints.close()
  return sources.open(folder)


def _bytes_read():
  """Returns how many bytes this process has read, as Linux counts them."""
  with open("/proc/self/io", encoding="ascii") as file:
    return int(file.readline().split()[1])


def _file(path):
  path.write_text("no checkpoint")
  return path


@pytest.mark.parametrize("damage", ["params/_METADATA", "facts/metadata", "params"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
  stored = _store(tmp_path, {"body": _random(0, 8, 2)})
  path = stored.path / damage
  if path.is_dir():
    for part in path.iterdir():
      part.rmtree() if part.is_dir() else part.write_text("{")
  else:
    path.write_text("{ cut")

  with pytest.raises(
      ValueError, match="is damaged|not a complete checkpoint of transfer_gen"):
    dict(sources.open(tmp_path).read(["body"]))


def test_each_source_leaf_is_read_once_for_all_rows():
  source = sources.from_tree(
      {"body": _random(0, 8, 2), "head": _random(1, 2, 5)}, AXES)
  asked = []

  class Counting:
    specs = source.specs

    def read(self, names, shardings=None, picks=None):
      asked.extend(names)
      yield from source.read(names, shardings, picks)

  table = {**AXES, "(one|two|both)": ("embed", "mlp")}
  specs = tree.specs(
      {name: jnp.zeros((8, 2)) for name in ("one", "two", "both")}, table)
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="both", source=("body", "body")),
             Rule(target=".*", source="body")), groups=ALL, unused_source=("head",))
  rows = resolve.resolve(plan, {"": source.specs}, specs)

  params = restore.restore(rows, {"": Counting()}, lambda names: {})

  assert asked == ["body"]
  for name in ("one", "two", "both"):
    np.testing.assert_array_equal(params[name], source.arrays["body"])


def test_a_checkpoint_is_read_in_bounded_batches(tmp_path, monkeypatch):
  arrays = {f"body_{i}": _random(i, 8, 2) for i in range(5)}  # 64 bytes each.
  table = {"body_.": ("embed", "mlp")}
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save_best(
      3, {name: jnp.asarray(value) for name, value in arrays.items()},
      {"axes": checkpoint.axes_facts(tree.specs(arrays, table))})
  checkpoints.close()
  stored = sources.open(tmp_path)
  # A batch is bounded by this number of bytes and by half of what is left to read.
  monkeypatch.setattr(stored_lib, "_BATCH", 130)

  batches = list(checkpoint.find(tmp_path)._batches(list(arrays)))
  read = dict(stored.read(list(arrays)))

  assert [len(batch) for batch in batches] == [2, 1, 1, 1]
  for name, value in arrays.items():
    np.testing.assert_array_equal(read[name], value)


def test_rows_name_the_checkpoint_they_read():
  body = sources.from_tree({"body": _random(0, 8, 2)}, AXES)
  head = sources.from_tree({"head": _random(1, 2, 5)}, AXES)
  specs = tree.specs({"body": jnp.zeros((8, 2)), "head": jnp.zeros((2, 5))}, AXES)
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="head", source="head", checkpoint="donor"),
             Rule(target="body", source="body")), groups=ALL)
  both = {"": body, "donor": head}
  rows = resolve.resolve(
      plan, {name: source.specs for name, source in both.items()}, specs)

  params = restore.restore(rows, both, lambda names: {})

  assert {row.name: row.checkpoint for row in rows} == {"body": "", "head": "donor"}
  np.testing.assert_array_equal(params["head"], head.arrays["head"])
  np.testing.assert_array_equal(params["body"], body.arrays["body"])


def test_checkpoints_in_a_folder_with_characters_of_patterns_are_whole(tmp_path):
  folder = tmp_path / "a[1]*,b?" / "run"
  mesh = sharding.make_mesh(data=1, fsdp=8)
  params = {"body": _random(0, 8, 2)}
  specs = tree.specs(params, AXES)
  divided = jax.device_put(params, sharding.of_params(specs, mesh))
  facts = {"axes": checkpoint.axes_facts(specs)}

  checkpoints = checkpoint.Checkpoints(folder)
  checkpoints.save(3, divided, {"count": jnp.ones(2)}, facts)
  checkpoints.save_best(3, divided, facts)
  checkpoints.close()

  for found in (checkpoint.find(folder), checkpoint.find(folder, 3)):
    (name, value), = found.read(["body"])
    np.testing.assert_array_equal(value, params[name])
  assert found.path.parent == folder / "checkpoints"
  assert found.state
  with pytest.raises(errors.UserError, match=r"one of the runs in it: run\."):
    checkpoint.find(folder.parent)
