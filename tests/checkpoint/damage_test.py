"""Tests that a damaged checkpoint is noticed, and that the one before is used."""

import dataclasses
import random
import resource
import shutil

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from tests import small_runs
from tests.comparing import assert_same_bits
from transfer_gen import checkpoint
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.checkpoint import digests as digests_lib
from transfer_gen.checkpoint import stored as stored_lib
from transfer_gen.run import loop
from transfer_gen.run import trained as trained_lib
from transfer_gen.transfer import plan as plan_lib

SHAPES = {"body/kernel": (40, 30), "body/bias": (30,), "head": (7, 5, 3)}


def _arrays(seed):
  generator = np.random.default_rng(seed)
  arrays = {name: jnp.asarray(generator.standard_normal(shape), jnp.float32)
            for name, shape in SHAPES.items()}
  return {**arrays, "head": arrays["head"].astype(jnp.bfloat16)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A workdir with the checkpoints of steps 1 and 2, and what the second holds."""
  folder = tmp_path_factory.mktemp("saved")
  specs = tree.specs(_arrays(0), {".*kernel": ("embed", "mlp"), ".*bias": ("mlp",),
                                  "head": ("embed", "heads", "kv")})
  facts = {"axes": checkpoint.axes_facts(specs), "plan": "p", "best": None}
  checkpoints = checkpoint.Checkpoints(folder)
  for step in (1, 2):
    params = _arrays(step)
    checkpoints.save(step, params, {"all": {"mu": params, "count": jnp.int32(step)}},
                     facts)
  checkpoints.close()
  return folder, params, facts


def _flip(path, bit):
  content = bytearray(path.read_bytes())
  content[bit // 8] ^= 1 << bit % 8
  path.write_bytes(bytes(content))


def _files(folder):
  return sorted(path for path in folder.rglob("*")
                if path.is_file() and path.stat().st_size)


def _restore(checkpoints, params):
  shapes = jax.eval_shape(lambda: params)
  of = lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=jax.sharding.SingleDeviceSharding(
          jax.devices()[0]))
  abstract = {name: of(leaf) for name, leaf in shapes.items()}
  return checkpoints.facts(2), checkpoints.restore(
      2, abstract, {"all": {"mu": abstract, "count": of(jnp.int32(2))}})


@pytest.mark.parametrize("old, new", [
    ('"plan": "p"', '"plan": "q"'), ('"best": null', '"best": 1234'),
    ('"digests": {', '"digests": {"x": "1", '), ('"digest": "', '"digest": "0')])
def test_facts_that_are_still_json_and_differ_are_noticed(saved, tmp_path, old, new):
  folder, params, _ = saved
  shutil.copytree(folder, tmp_path / "run")
  path = tmp_path / "run" / "checkpoints" / "2" / "facts" / "metadata"
  changed = path.read_text().replace(old, new, 1)
  assert changed != path.read_text()
  path.write_text(changed)

  with pytest.raises(checkpoint.Damaged, match="checkpoints/2: .*not those that were"):
    _restore(checkpoint.Checkpoints(tmp_path / "run"), params)


def test_a_flipped_bit_is_noticed_in_every_file(saved, tmp_path):
  folder, params, _ = saved
  generator = random.Random(0)
  files = _files(folder / "checkpoints" / "2")
  assert {"digests.json", "metadata", "commit_success.txt", "manifest.ocdbt"} < {
      path.name for path in files}
  for number, path in enumerate(2 * files):
    copy = tmp_path / str(number)
    shutil.copytree(folder, copy)
    _flip(copy / path.relative_to(folder), generator.randrange(8 * path.stat().st_size))

    checkpoints = checkpoint.Checkpoints(copy)
    with pytest.raises(checkpoint.Damaged, match=f"{copy}/checkpoints/2: "):
      _restore(checkpoints, params)
    checkpoints.close()


@pytest.mark.parametrize("content", [
    '{"init_timestamp_nsecs": {}}', "[]", '{"item_handlers": 3}', "{", ""])
@pytest.mark.parametrize("is_sealed", [True, False])
def test_damaged_notes_of_orbax_do_not_hide_the_other_checkpoints(
    saved, tmp_path, content, is_sealed):
  folder, params, facts = saved
  shutil.copytree(folder, tmp_path / "run")
  damaged = tmp_path / "run" / "checkpoints" / "2"
  (damaged / "_CHECKPOINT_METADATA").write_text(content)
  if not is_sealed:
    (damaged / "digests.json").unlink()

  checkpoints = checkpoint.Checkpoints(tmp_path / "run")

  assert checkpoints.last_step() == 2 and checkpoints.facts(1) == facts
  if is_sealed:
    with pytest.raises(checkpoint.Damaged, match="_CHECKPOINT_METADATA is missing"):
      _restore(checkpoints, params)
  else:  # They hold nothing that is restored.
    assert _restore(checkpoints, params)[0] == facts
  checkpoints.close()


def test_a_missing_file_is_named(saved, tmp_path):
  folder, params, _ = saved
  shutil.copytree(folder, tmp_path / "run")
  (tmp_path / "run" / "checkpoints" / "2" / "opt_state" / "_sharding").unlink()

  checkpoints = checkpoint.Checkpoints(tmp_path / "run")
  with pytest.raises(checkpoint.Damaged, match="file opt_state/_sharding is missing"):
    _restore(checkpoints, params)
  checkpoints.close()
  # Who reads the params alone does not need it.
  assert checkpoint.find(tmp_path / "run", 2).step == 2


def test_flipped_bits_of_arrays_name_the_leaf_where_files_were_not_sealed(
    saved, tmp_path):
  folder, params, _ = saved
  damaged = 0
  for number, path in enumerate(_files(folder / "checkpoints" / "2" / "params")):
    copy = tmp_path / str(number)
    shutil.copytree(folder, copy)
    # As a process leaves it that is killed just then.
    (copy / "checkpoints" / "2" / "digests.json").unlink()
    _flip(copy / path.relative_to(folder), 4 * path.stat().st_size)
    try:
      stored = checkpoint.find(copy, 2)
      read = dict(stored.read(list(stored.specs)))
    except checkpoint.Damaged as damage:
      damaged += 1
      assert "--step=N" in str(damage)
    else:
      for name, value in params.items():
        np.testing.assert_array_equal(read[name], value)
  assert damaged


def test_moments_of_another_shape_are_refused_before_memory_is_taken(saved):
  folder, _, _ = saved
  stored = checkpoint.find(folder, 2)
  digests = {**stored.digests, "opt_state": {
      **stored.digests["opt_state"], "all/mu/head": "bfloat16[7,5,2] 0"}}

  assert ("all", "mu", "head") in stored.read_state({("all", "mu", "head"): None})
  with pytest.raises(checkpoint.Damaged, match=(
      r"all/mu/head was saved as bfloat16\[7,5,2\] and is bfloat16\[7,5,3\] now")):
    dataclasses.replace(stored, digests=digests).read_state(
        {("all", "mu", "head"): None})


@pytest.mark.parametrize("name", ["\u00b2", "\u0663", "007", "1.5", "9" * 30])
def test_a_folder_that_no_step_names_is_no_checkpoint(saved, tmp_path, name):
  folder, _, _ = saved
  shutil.copytree(folder, tmp_path / "run")
  shutil.copytree(folder / "checkpoints" / "1", tmp_path / "run" / "checkpoints" / name)

  assert checkpoint.find(tmp_path / "run").step == 2


def test_a_checkpoint_without_a_file_is_passed_over_when_a_run_is_read(
    saved, tmp_path, capsys):
  folder, _, _ = saved
  shutil.copytree(folder, tmp_path / "run")
  (tmp_path / "run" / "checkpoints" / "2" / "facts" / "metadata").unlink()

  stored = checkpoint.find(tmp_path / "run")

  assert stored.step == 1
  error = capsys.readouterr().err
  assert "checkpoints/2: not a complete" in error and "step 1 is read" in error
  assert "metadata: there is no such file" in error and "UserError" not in error


def test_a_checkpoint_that_a_training_replaces_meanwhile_gives_the_newer_one(
    saved, tmp_path, monkeypatch, capsys):
  folder, _, _ = saved
  shutil.copytree(folder, tmp_path / "run")
  checkpoints = tmp_path / "run" / "checkpoints"
  read = stored_lib.of

  def late(path):
    # Between the look at the folder and the reading of its newest checkpoint.
    if (checkpoints / "2").exists():
      (checkpoints / "2").rename(checkpoints / "3")
    return read(path)

  monkeypatch.setattr(stored_lib, "of", late)

  assert checkpoint.find(tmp_path / "run").step == 3
  assert not capsys.readouterr().err


def test_what_this_process_lacks_is_no_damage(saved, tmp_path):
  folder, params, _ = saved
  shutil.copytree(folder, tmp_path / "run")
  checkpoints = checkpoint.Checkpoints(tmp_path / "run")
  stored = checkpoint.find(tmp_path / "run", 2)
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
  try:
    with pytest.raises(errors.UserError) as restoring:
      _restore(checkpoints, params)
    with pytest.raises(errors.UserError) as reading:
      dict(stored.read(list(stored.specs)))
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

  # Of the class that is not set aside.
  assert restoring.type is reading.type is errors.UserError
  assert "cannot be read now: Too many open files" in str(restoring.value)
  assert _restore(checkpoints, params)[0] == stored.facts
  checkpoints.close()


@pytest.mark.parametrize("error", [
    MemoryError(), PermissionError(13, "Permission denied"),
    # Their forms in TensorStore and JAX.
    ValueError("PERMISSION_DENIED: Error opening [os_error_code='13']"),
    RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")])
def test_a_lack_of_memory_or_permission_is_no_damage(tmp_path, error):
  with pytest.raises(errors.UserError, match=f"{tmp_path}: .*cannot be read now") as (
      raised), digests_lib.reading(tmp_path):
    raise error
  assert raised.type is errors.UserError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A run of 6 steps that has stopped at 4, and the same one that went to the end."""
  folder = tmp_path_factory.mktemp("runs")
  small_runs.write_lines(folder / "lines.txt")
  run = small_runs.configure(
      folder / "lines.txt", small_runs.DECODER, steps=6, checkpoint_every=2)
  loop.train(run, folder / "whole")
  loop.train(run, folder / "cut", stop=4)
  return folder, run


def test_a_damaged_best_checkpoint_is_read_from_its_other_copy(runs, tmp_path, capsys):
  folder, _ = runs
  shutil.copytree(folder / "whole", tmp_path / "run")
  best = tmp_path / "run" / "checkpoints" / "best" / "6"
  # In these files lie the arrays; half of the largest are leaves, whichever.
  path = max((best / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
  data = path.read_bytes()
  half = len(data) // 2
  path.write_bytes(data[:half] + bytes(255 - byte for byte in data[half:]))

  trained = trained_lib.open(tmp_path / "run")

  assert trained.step == 6
  assert_same_bits(trained.params, small_runs.params(folder / "whole", 6))
  error = capsys.readouterr().err
  assert f"{best}: " in error and "checkpoints/6: step 6 is read" in error
  shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
  with pytest.raises(checkpoint.Damaged, match="--step=N"):
    trained_lib.open(tmp_path / "run")


@pytest.mark.parametrize("damage", ["flip", "facts", "folder"])
def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(
    runs, tmp_path, damage, capsys):
  folder, run = runs
  shutil.copytree(folder / "cut", tmp_path / "run")
  newest = tmp_path / "run" / "checkpoints" / "4"
  if damage == "flip":
    path = max((newest / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    _flip(path, 4 * path.stat().st_size)
  elif damage == "facts":
    (newest / "facts" / "metadata").write_text('{"facts": {}}')
  else:
    shutil.rmtree(newest / "params")
    shutil.rmtree(newest / "facts")

  loop.train(run, tmp_path / "run")

  printed = capsys.readouterr().out
  assert f"{newest}: " in printed and "goes on from step 2" in printed
  assert (tmp_path / "run" / "checkpoints" / "4.damaged").is_dir()
  assert_same_bits(small_runs.params(tmp_path / "run", 6),
                   small_runs.params(folder / "whole", 6))


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(runs, tmp_path):
  folder, run = runs
  shutil.copytree(folder / "cut", tmp_path / "run")
  for step in (2, 4):
    (tmp_path / "run" / "checkpoints" / str(step) / "facts" / "metadata").write_text("")

  with pytest.raises(errors.UserError, match="all checkpoints are damaged"):
    loop.train(run, tmp_path / "run")


def test_a_checkpoint_of_another_plan_is_refused(runs, tmp_path, monkeypatch):
  folder, run = runs
  shutil.copytree(folder / "cut", tmp_path / "run")
  # As if plan.json had been edited together with the config.
  checkpoints = checkpoint.Checkpoints(tmp_path / "run")
  checkpoints.amend(4, {**checkpoints.facts(4), "plan": plan_lib.fingerprint(
      plan_lib.TransferPlan(rules=(plan_lib.Rule(target=".*", source=None),),
                            groups=(plan_lib.Group(name="odd", params=".*"),)))})
  checkpoints.close()

  with pytest.raises(errors.UserError, match="was written under another plan"):
    loop.train(run, tmp_path / "run")
