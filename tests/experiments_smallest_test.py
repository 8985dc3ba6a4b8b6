"""Tests that every experiment runs, with two steps and a few documents of its data."""

import base64
from collections.abc import Sequence
import dataclasses
import importlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests import paths
from tests import small_runs
from transfer_gen import config
from transfer_gen.models import registry
from transfer_gen.study import study as study_lib

# Of each study: its module and argument, the folder of its data, the pair that runs by
# default, and the leaves that its treated run keeps frozen.
CASES = [
    ("quickstart", (), None, ("frozen_body", "scratch"), "layer_.*"),
    ("lstm_text", (), None, ("frozen_body", "scratch"), "layer_.*"),
    ("structure", (), None, ("all", "scratch"), None),
    ("strategies", ("summaries",), None, ("feature_extraction", "scratch"),
     "(?!embed|final_norm).*"),
    ("strategies", ("bronte",), "ml5_charrnn", ("lora", "scratch"), None),
    ("strategies", ("shakespeare",), "tinyshakespeare", ("l2_sp", "scratch"), None),
    ("auto", ("names",), "names", ("auto", "scratch"), None),
    ("bronte_to_shakespeare", (), "ml5_charrnn", ("bronte_1", "scratch_1"), None),
    ("textgenrnn", (), "textgenrnn", ("transfer", "scratch"), None),
    ("stories", (), "stories260K", ("transfer", "scratch"), None),
    ("strokes", (), "sheep_strokes", ("moved_1", "scratch_1"), None),
    ("summaries", (), "scitldr", ("moved_papers", "scratch_papers"), None),
    ("data_to_text", (), "e2e", ("moved_1", "scratch_1"), None),
    ("worth_it", (), "tinyshakespeare", ("phrases_ru", "phrases_scratch_ru"), None),
]
# The script that writes the files of its own that a study reads.
FILES = {"summaries": "prose_file.sh", "data_to_text": "e2e_parts.sh"}
# The others are marked `long`: reading what they learn from takes longest, or their
# models cannot be made smaller.
DEFAULT = ("quickstart",)
SHALLOW = ("quickstart", "lstm_text", "strategies")  # Any depth fits their plans.


@pytest.mark.parametrize("name, frozen", [
    (name, frozen) for name, _, _, (run, _), frozen in CASES if run == "frozen_body"])
def test_the_plan_of_an_experiment_freezes_what_it_says(name, frozen):
  run = importlib.import_module(f"experiments.{name}").get_study().runs["frozen_body"]
  plan = run.transfer(run) if callable(run.transfer) else run.transfer

  leaves = registry.specs(registry.build(registry.with_vocabulary(run.model, 50)))

  first = {leaf: next(group for group in plan.groups
                      if re.fullmatch(group.params, leaf)) for leaf in leaves}
  kept = [leaf for leaf in leaves if re.fullmatch(frozen, leaf)]
  assert kept and kept == [
      leaf for leaf, group in first.items() if group.unfreeze_step is None]


def _smallest(run: config.Run, shallow: bool) -> config.Run:
  packed = run.data.packing == "joined"
  data = dataclasses.replace(
      run.data, fraction=min(run.data.fraction, 0.02), max_validation=4, max_test=4,
      buckets=(), too_long="cut")  # Each bucket would have programs of its own.
  tokenizer = run.tokenizer
  if tokenizer.kind == "bpe":
    tokenizer = dataclasses.replace(tokenizer, size=400 if packed else 300)
  model = dataclasses.replace(run.model, num_layers=1) if shallow else run.model
  strategy = run.strategy
  if strategy.name == "auto":
    strategy = dataclasses.replace(strategy, budget=40)  # The least.
  return dataclasses.replace(
      run, model=model, data=data, tokenizer=tokenizer, strategy=strategy,
      train=dataclasses.replace(
          run.train, steps=2, batch_size=8, batch_tokens=0, log_every=1, eval_every=2,
          checkpoint_every=2))


def _study(name: str, args: Sequence[str], pair: tuple[str, str]) -> config.Study:
  study = importlib.import_module(f"experiments.{name}").get_study(*args)
  sources = {study.runs[run].source.run for run in pair
             if study.runs[run].source is not None} - {""}
  return dataclasses.replace(
      study, pairs=(pair,), seeds=(0,), lrs=(), samples=1, budget="equal", runs={
          run: _smallest(study.runs[run], name in SHALLOW and args != ("bronte",))
          for run in (*sorted(sources), *pair)})


@pytest.mark.parametrize("name, args, data, pair, frozen", [
    pytest.param(*case, id="-".join((case[0], *case[1])), marks=[
        *([] if "-".join((case[0], *case[1])) in DEFAULT else [pytest.mark.long]),
        *([paths.needs(paths.DATA / case[2])] if case[2] else [])])
    for case in CASES])
def test_an_experiment_runs_and_keeps_frozen_what_it_says(
    name, args, data, pair, frozen, tmp_path, monkeypatch):
  del data
  monkeypatch.setenv("TRANSFER_GEN_DATA", str(paths.DATA))
  monkeypatch.setenv("TRANSFER_GEN_RUNS", str(tmp_path))
  if name in FILES:
    subprocess.run(
        ["bash", "-c", f". {paths.EXPERIMENTS / FILES[name]} {tmp_path}"], check=True,
        cwd=paths.ROOT, env={**os.environ, "python": sys.executable})
  importlib.reload(importlib.import_module(f"experiments.{name}"))

  summary = study_lib.run(_study(name, args, pair), tmp_path)["summary"]

  assert {f"{run}_test_loss" for run in pair} <= summary.keys()
  shown = re.findall('<img src="data:image/svg[+]xml;base64,([^"]+)"',
                     (tmp_path / "report.html").read_text())
  # Drawings of each run, and of the test split.
  assert len(shown) == (len(pair) + 1 if name == "strokes" else 0)
  for picture in shown:
    assert b"<path" in base64.b64decode(picture)
  if frozen is not None:
    source = small_runs.params(tmp_path / "source")
    trained = small_runs.params(next((tmp_path / pair[0]).glob("seed_0/*")))
    kept = [leaf for leaf in source if re.fullmatch(frozen, leaf)]
    assert kept and trained.keys() == source.keys()
    for leaf in trained:
      # Two steps change every leaf that learns.
      same = np.array_equal(trained[leaf], source[leaf])
      assert same == (leaf in kept), leaf
