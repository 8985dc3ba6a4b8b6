"""Tests for runs with adapters: training, resuming, merging, export and reloading."""

import dataclasses
import shutil

import numpy as np
import pytest

from tests import small_runs
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.export import convert
from transfer_gen.run import assemble
from transfer_gen.run import loop
from transfer_gen.run import trained
from transfer_gen.transfer import adapter_rules
from transfer_gen.transfer import groups as groups_lib
from transfer_gen.transfer import plan as plan_lib

LoRA, Rule = config.LoRA, plan_lib.Rule
STEPS = 4
STYLE = (LoRA(params=r"layer_\d+/.*kernel", rank=2, dropout=0.1),
         LoRA(params=".*/mlp/.*", rank=1, name="more"))


def _run(folder, text, **fields):
  return small_runs.configure(
      folder / text, small_runs.DECODER, steps=STEPS, checkpoint_every=1, lr=0.02,
      **fields).with_values("train", keep=STEPS)


def _beside(folder, **fields):
  """Returns a run that trains only adapters on top of the unchanged source."""
  plan = plan_lib.TransferPlan(
      rules=(adapter_rules.fresh_adapters(STYLE), Rule(target="(.*)", source=r"\1")),
      groups=groups_lib.low_rank(STYLE))
  return _run(folder, "text.txt", **{
      "source": config.Source(path=str(folder / "source")), "adapters": STYLE,
      "transfer": plan} | fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Trains a source, then adapters on top of it, and keeps every checkpoint."""
  path = tmp_path_factory.mktemp("adapters")
  small_runs.write_lines(path / "text.txt")
  loop.train(_run(path, "text.txt"), path / "source")
  loop.train(_beside(path), path / "style")
  return path


def _read(workdir, step=STEPS):
  return (small_runs.optimizer_state(workdir, step),
          small_runs.params(workdir, step))


def test_only_adapters_change_and_have_optimizer_state(folder):
  _, source = _read(folder / "source", -1)
  state, params = _read(folder / "style")

  added = params.keys() - source.keys()
  # Two factors for each of 6 kernels, and for each of the 2 kernels of the MLP.
  assert len(added) == 2 * 6 + 2 * 2
  for name, value in source.items():
    np.testing.assert_array_equal(params[name], value, err_msg=name)
  slots = {key[-1] for key in state if key[-1] in params}
  assert slots == added
  assert all(np.abs(params[name]).max() > 0 for name in added)
  assert "adapters start as the identity" in (folder / "style/audit.txt").read_text()


def test_an_interrupted_run_resumes_bit_for_bit(folder):
  # Without its later checkpoints, a finished run looks like one that was interrupted.
  cut = folder / "cut"
  shutil.copytree(folder / "style", cut)
  for later in range(3, STEPS + 1):
    shutil.rmtree(cut / "checkpoints" / str(later))
  shutil.rmtree(cut / "checkpoints" / "best")

  loop.train(_beside(folder), cut)

  for whole, resumed in zip(_read(folder / "style"), _read(cut)):
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
      np.testing.assert_array_equal(value, resumed[key], err_msg=str(key))


def test_conversion_merges_the_adapters_of_a_run(folder):
  opened = trained.open(folder / "style")
  assert opened.run.adapters == STYLE

  notes = convert.convert(folder / "style", folder / "merged", "orbax")

  assert notes[-1] == "Merged into its kernels: lora, more."
  merged = trained.open(folder / "merged")
  assert not merged.run.adapters and len(merged.params) == len(opened.params) - 16
  tokens = np.arange(8, dtype=np.int32)[None]
  ours, theirs = (np.asarray(one.model.apply(
      {"params": tree.unflatten(one.params)}, tokens)) for one in (opened, merged))
  assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
  texts = ["line 4", "line"]
  assert merged.answers(texts) == opened.answers(texts)


def _together(folder, one, two, **fields):
  """Returns a run with two adapters read from checkpoints and a third one to train."""
  new = LoRA(params=".*/attn/.*", rank=1, name="new")
  rules, unused = zip(adapter_rules.stored_adapter(STYLE[0], "one"),
                      adapter_rules.stored_adapter(STYLE[1], "two"))
  chosen = (*STYLE, new)
  plan = plan_lib.TransferPlan(
      rules=(*rules, adapter_rules.fresh_adapters((new,)),
             Rule(target="(.*)", source=r"\1")),
      groups=groups_lib.low_rank((new,)), unused_source=fields.pop("unused", unused))
  return _beside(folder, adapters=chosen, transfer=plan, sources={
      "one": config.Source(path=str(one)), "two": config.Source(path=str(two))},
                 **fields)


def test_several_adapters_are_read_from_their_own_checkpoints(folder):
  run = _together(folder, folder / "style", folder / "style")

  rows = assemble.build(run, folder / "together").rows

  where = {row.name: row.checkpoint for row in rows if row.sources}
  # The new adapter is fresh: two factors for each of the 4 kernels of attention.
  assert len(rows) == len(where) + 8
  for name, checkpoint_name in where.items():
    assert checkpoint_name == (
        "one" if "lora_" in name else "two" if "more_" in name else ""), name


def test_loading_an_adapter_with_another_scale_is_refused(folder):
  other = (LoRA(params=STYLE[0].params, rank=2, alpha=1.0), STYLE[1])
  with pytest.raises(errors.UserError, match="multiplied with 0.5, .* source with 8"):
    loop.train(_beside(folder, adapters=other, source=config.Source(
        path=str(folder / "style")), transfer=plan_lib.TransferPlan(
            rules=(Rule(target="(.*)", source=r"\1"),),
            groups=groups_lib.low_rank(other))), folder / "refused")


def test_an_exported_peft_folder_can_be_used_as_a_source(folder):
  """The test that PEFT itself loads it is in `tests/sources/peft_test.py`."""
  notes = convert.convert(folder / "style", folder / "small", "peft")
  assert "8 tensors" in notes[1]
  base = folder / "small" / "base"

  again = (LoRA(params=r"layer_\d+/attn/.*kernel", rank=2, name="again"),)
  rule, _ = adapter_rules.stored_adapter(again[0], "small", "lora")
  run = _beside(
      folder, adapters=again, source=config.Source(path=str(base)),
      sources={"small": config.Source(path=str(folder / "small"))},
      transfer=plan_lib.TransferPlan(
          rules=(rule, Rule(target="(.*)", source=r"\1")),
          groups=groups_lib.low_rank(again), unused_source=("small:.*/mlp/.*",)))
  loop.train(dataclasses.replace(run, train=dataclasses.replace(
      run.train, steps=1)), folder / "again")

  first = _read(folder / "again", 1)[1]["layer_0/attn/key/again_a"]
  stored = _read(folder / "style")[1]["layer_0/attn/key/lora_a"]
  # One step has moved the factor, but not far: it started from the stored values.
  assert 0 < np.abs(first - stored).max() < 0.1
