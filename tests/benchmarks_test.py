"""Tests that every benchmark can be imported, and that comparisons run.

The models are so small that the measured times mean nothing; these tests only check
that both sides of a comparison run. `benchmarks_smallest_test.py` runs all of them.
"""

import dataclasses
import importlib

import pytest

from tests import paths
from transfer_gen import config

pytest.importorskip("peft")
pytest.importorskip("transformers")

from benchmarks import decoder_peer
from benchmarks import frozen
from benchmarks import importing
from benchmarks import translation
from benchmarks import trust_flips

NAMES = sorted(path.stem for path in (paths.ROOT / "benchmarks").glob("*.py")
               if path.stem != "__init__")
DECODER = config.Decoder(
    vocab_size=64, num_layers=2, width=16, num_heads=2, max_length=160)


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_can_be_imported(name):
  assert importlib.import_module(f"benchmarks.{name}").__doc__


def test_the_decoder_training_comparison_runs():
  found = decoder_peer._compare_steps(DECODER, (8, 8), rounds=1)

  assert found.ratio > 0


def test_the_generation_comparison_runs():
  found = decoder_peer._compare_generation(DECODER, rounds=1)

  assert found.ratio > 0


@pytest.mark.long
def test_the_cost_of_training_only_the_head_is_measured(monkeypatch):
  monkeypatch.setattr(frozen, "MODEL", dataclasses.replace(
      frozen.MODEL, vocab_size=512, num_layers=2, width=64, num_heads=2))

  share = frozen._share(frozen._HEAD, learning_layers=0, rounds=1)

  assert 0 < share.flops < 1 and 0 < share.paper < 1 and share.time > 0
  # Adam keeps two moments per param; its counters add a few bytes.
  assert share.slot_bytes_over_learning == pytest.approx(2, abs=0.1)


@pytest.mark.long
@paths.needs(paths.DATA / "multi30k")
def test_the_translation_comparison_runs_and_both_sides_write_the_same(
    tmp_path, monkeypatch):
  monkeypatch.setattr(translation, "MAX_TOKENS", 6)
  run = translation.run(1, dataclasses.replace(
      translation.MODEL, num_layers=1, encoder_layers=1, width=16, num_heads=2,
      mlp_width=16, embed_scale=4.0))
  run.data.fraction, run.train.batch_size = 0.01, 8
  run.tokenizer = config.Tokenizer(kind="characters")
  run.data.length, run.data.buckets = 200, ()

  sides = translation.prepare(run, tmp_path, 3)

  for beams in (1, 2):
    ours = translation.ours(sides, beams)()
    assert ours == translation.theirs(sides, beams)() and any(ours)


def test_the_importing_comparison_reads_the_same_bytes(tmp_path, monkeypatch):
  monkeypatch.setattr(importing, "_GPT2", DECODER)
  monkeypatch.setattr(importing, "_ROUNDS", 1)
  importing._write(tmp_path)

  assert importing.timed(tmp_path)["import_over_read"] > 0
  ours = importing._imported(tmp_path)
  assert sum(x.nbytes for x in importing._read(tmp_path)) == sum(
      x.nbytes for x in ours.values())


def test_flipped_bits_are_counted():
  found = trust_flips.run(6, seed=1)

  assert found["failures"] == 0 and found["noticed"] > 0
  assert found["noticed"] == found["flips"] == 6
  assert 0 < trust_flips.share_of_time(8, 1)
