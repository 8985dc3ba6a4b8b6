"""Tests that every benchmark can be imported and that its comparisons run.

The models are so small that the measured times mean nothing; these tests only check
that both sides of a comparison run.
"""

import dataclasses
import importlib
import math

import pytest

from tests import paths
from transfer_gen import config

pytest.importorskip("peft")
pytest.importorskip("transformers")

from benchmarks import attention_peer
from benchmarks import decoder_peer
from benchmarks import frozen
from benchmarks import importing
from benchmarks import low_rank
from benchmarks import lstm_peer
from benchmarks import stored_features
from benchmarks import strokes_peer
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


def test_the_lstm_training_comparison_runs(monkeypatch):
  monkeypatch.setattr(lstm_peer, "LSTM_512", dataclasses.replace(
      lstm_peer.LSTM_512, vocab_size=32, embed_width=8, hidden_width=8))
  monkeypatch.setattr(lstm_peer, "ROWS", 8)
  monkeypatch.setattr(lstm_peer, "LENGTH", 8)

  assert lstm_peer.lstm_512_over_torch().ratio > 0


@pytest.mark.parametrize("name", [
    "attention_over_torch", "beam_over_torch",
    pytest.param("feeding_over_torch", marks=pytest.mark.long)])
def test_the_comparisons_of_attention_run(monkeypatch, name):
  for field, value in dict(
      ROWS=8, LENGTH=4, ROUNDS=1, SENTENCES=3, BATCH=4, THREADS=1).items():
    monkeypatch.setattr(attention_peer, field, value)
  monkeypatch.setattr(attention_peer, "MODEL", dataclasses.replace(
      attention_peer.MODEL, vocab_size=32, embed_width=8, hidden_width=8))

  assert getattr(attention_peer, name)().ratio > 0


@pytest.mark.long
def test_the_comparison_of_drawings_runs(monkeypatch):
  monkeypatch.setattr(strokes_peer, "STROKES", dataclasses.replace(
      strokes_peer.STROKES, hidden_width=8, encoder_width=6, latent_width=4,
      mixtures=2))
  monkeypatch.setattr(strokes_peer, "ROWS", 8)
  monkeypatch.setattr(strokes_peer, "LENGTH", 8)

  assert strokes_peer.strokes_over_torch().ratio > 0


def test_the_low_rank_comparison_with_peft_runs(monkeypatch):
  monkeypatch.setattr(decoder_peer, "GPT2_SMALL", DECODER)
  monkeypatch.setattr(low_rank, "_SHAPE", (8, 8))
  monkeypatch.setattr(low_rank, "_ROUNDS", 1)

  assert low_rank.lora_over_peft().ratio > 0
  assert 0 < low_rank.lora_flops() < math.inf


def test_the_cost_of_training_only_the_head_is_measured(monkeypatch):
  monkeypatch.setattr(frozen, "MODEL", dataclasses.replace(
      frozen.MODEL, vocab_size=512, num_layers=2, width=64, num_heads=2))

  share = frozen._share(frozen._HEAD, learning_layers=0, rounds=1)

  assert 0 < share.flops < 1 and 0 < share.paper < 1 and share.time > 0
  # Adam keeps two moments per param; its counters add a few bytes.
  assert share.slot_bytes_over_learning == pytest.approx(2, abs=0.1)


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


def test_the_stored_features_comparison_runs(monkeypatch):
  monkeypatch.setattr(stored_features, "_MODEL", dataclasses.replace(
      stored_features._MODEL, vocab_size=300, num_layers=2, width=16, num_heads=2))

  found = stored_features.stored_features_share(rounds=1)

  assert found.ratio > 0 and found.ours > 0 and found.peer > 0


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
