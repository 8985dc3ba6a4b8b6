"""Tests for what TensorBoard shows of a study: each run once, and its values."""

import dataclasses
import json
import os
import pathlib
import struct

import pytest
from tensorboardX.proto import event_pb2

from tests import small_runs
from transfer_gen import config
from transfer_gen.study import study


def _events(path):
  """Events of a file: each has its length, a checksum, its bytes and another one."""
  data, at = path.read_bytes(), 0
  while at < len(data):
    [length] = struct.unpack_from("<Q", data, at)
    event = event_pb2.Event()
    event.ParseFromString(data[at + 12:at + 12 + length])
    yield event
    at += 12 + length + 4


def runs(logdir):
  """Files of events by the names of runs, found as TensorBoard does: through links."""
  found = {}
  for folder, _, names in os.walk(logdir, followlinks=True):
    if files := [name for name in names if "tfevents" in name]:
      found[os.path.relpath(folder, logdir)] = [
          pathlib.Path(folder, name) for name in files]
  return found


def values_of(files):
  """Values of events by tag, in the order of their steps."""
  found = {}
  for event in sorted((one for file in files for one in _events(file)),
                      key=lambda event: event.step):
    for value in event.summary.value:
      text = value.tensor.string_val
      found.setdefault(value.tag, []).append(
          (event.step, text[0].decode() if text else value.simple_value))
  return found


@pytest.fixture(scope="module", name="workdir")
def _workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("events")
  small_runs.write_lines(folder / "a.txt")
  run = small_runs.configure(
      folder / "a.txt", small_runs.RNN, steps=4, length=30, lr=0.01, eval_every=2,
      checkpoint_every=2)
  moved = dataclasses.replace(run, source=config.Source(run="first"))
  asked = config.Study(
      question="?", runs={"first": run, "scratch": run, "moved": moved},
      pairs=(("moved", "scratch"),), seeds=(0, 1), samples=2)
  study.run(asked, folder / "w")
  study.run(asked, folder / "w")  # Finished: it only writes its samples again.
  return folder / "w"


def test_each_run_is_listed_once_by_name_seed_and_rate(workdir):
  assert (workdir / "best").is_symlink()
  wanted = {"first", *(f"{name}/seed_{seed}/lr_0.01" for seed in (0, 1)
                       for name in ("moved", "scratch"))}

  assert runs(workdir).keys() == {f"tensorboard/{name}" for name in wanted}
  assert runs(workdir / "tensorboard").keys() == wanted


def test_events_hold_losses_norms_rates_and_texts(workdir):
  files = runs(workdir / "tensorboard")["moved/seed_0/lr_0.01"]
  own = workdir / "moved" / "seed_0" / "lr_0.01"
  lines = small_runs.metrics(own)

  values = values_of(files)

  for name in ("loss", "grad_norm"):
    assert values[f"train/{name}"] == [
        (line["step"], pytest.approx(line[name])) for line in lines
        if line["split"] == "train"]
  assert [step for step, _ in values["validation/loss"]] == [2, 4]
  [rates] = [values[tag] for tag in values if tag.startswith("learning_rate/")]
  # One step of warm-up at half of the peak, then down by a cosine over three steps.
  assert rates == [(step, pytest.approx(rate)) for step, rate in [
      (1, 0.005), (2, 0.01), (3, 0.01 * (0.1 + 0.9 * 0.75)),
      (4, 0.01 * (0.1 + 0.9 * 0.25))]]
  samples = json.loads(
      (own / "samples.jsonl").read_text().splitlines()[0])
  [(_, text)] = values["sample/1/text_summary"]  # Once, after two calls.
  assert text.count(samples["prompt"].splitlines()[0]) == 1 and "**text**" in text
