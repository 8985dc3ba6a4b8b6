"""Tests that the mains of benchmarks run, at their smallest.

Their parts have tests of their own in `benchmarks_test.py`. The numbers mean nothing at
this size.
"""

import dataclasses
import json
import math
import subprocess
import sys

import pytest

from tests import paths
from tests import small_runs
from transfer_gen import config
from transfer_gen.data import store
from transfer_gen.data import stored_texts

pytest.importorskip("peft")
pytest.importorskip("transformers")

from benchmarks import attention_peer
from benchmarks import commands
from benchmarks import decoder_peer
from benchmarks import frozen
from benchmarks import generation
from benchmarks import generators
from benchmarks import large_data
from benchmarks import loop_overhead
from benchmarks import low_rank
from benchmarks import lstm_peer
from benchmarks import scale
from benchmarks import stored_features
from benchmarks import strokes_peer
from benchmarks import study
from benchmarks import timing
from benchmarks import training
from benchmarks import transfer
from benchmarks import trust_devices
from benchmarks import trust_kills
from benchmarks import trust_soak
from benchmarks import what_learns

DECODER = config.Decoder(
    vocab_size=64, num_layers=1, width=8, num_heads=2, max_length=160)


@pytest.fixture(name="small")
def _small(monkeypatch, tmp_path):
  """Makes all models tiny, and runs in this process what has one of its own."""
  set_ = monkeypatch.setattr
  set_(timing, "alone", lambda function, *given: function(*given))
  set_(timing, "in_turns", lambda ours, peer, rounds, calls=1, measure=timing.in_turns:
       measure(ours, peer, 1))
  for name in ("GPT2_SMALL", "DECODER_256"):
    set_(decoder_peer, name, DECODER)
  # Eight devices divide the rows.
  set_(decoder_peer, "_compare_steps", lambda model, shape, rounds,
       compare=decoder_peer._compare_steps: compare(model, (8, 8), 1))
  set_(lstm_peer, "LSTM_512", dataclasses.replace(
      lstm_peer.LSTM_512, vocab_size=32, embed_width=8, hidden_width=8))
  set_(lstm_peer, "ROWS", 8)
  set_(lstm_peer, "LENGTH", 8)
  set_(attention_peer, "MODEL", dataclasses.replace(
      attention_peer.MODEL, vocab_size=32, embed_width=8, hidden_width=8))
  set_(strokes_peer, "STROKES", dataclasses.replace(
      strokes_peer.STROKES, hidden_width=8, encoder_width=6, latent_width=4,
      mixtures=2))
  for peer in (attention_peer, strokes_peer):
    set_(peer, "ROWS", 8)
    set_(peer, "LENGTH", 4)
  set_(attention_peer, "SENTENCES", 3)
  set_(low_rank, "_SHAPE", (8, 8))
  tiny = dict(vocab_size=300, width=8, num_heads=2)
  # As many layers as there are: the groups of its parts name them.
  set_(frozen, "MODEL", dataclasses.replace(frozen.MODEL, **tiny))
  set_(stored_features, "_MODEL", dataclasses.replace(
      stored_features._MODEL, num_layers=2, **tiny))
  set_(transfer, "_MEDIUM", dataclasses.replace(
      transfer._MEDIUM, mlp_width=16, **tiny))
  set_(transfer, "_GROWN", dataclasses.replace(transfer._GROWN, num_layers=2, **tiny))
  monkeypatch.setenv(store.VARIABLE, str(tmp_path))  # Benchmarks set it.
  text = tmp_path / "text.txt"
  small_runs.write_lines(text)
  set_(loop_overhead, "_run", lambda: small_runs.configure(
      text, small_runs.DECODER, steps=6, log_every=2))
  for name, value in (
      ("_STEPS", 6), ("_WINDOW", 2), ("_ROUNDS", 1), ("_BYTES", 20_000)):
    set_(loop_overhead, name, value)


def _printed(capsys):
  """Returns the last line that was printed, which holds all results."""
  return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.long
@pytest.mark.parametrize("module, names", [
    (training, {
        "gpt2_small_over_torch", "decoder_256_over_torch", "lstm_512_over_torch",
        "loop_over_step", "data_over_training"}),
    (generation, {"generate_256_over_hf", "generate_gpt2_small_over_hf"}),
    (generators, {"attention_over_torch", "feeding_over_torch", "beam_over_torch",
                  "strokes_over_torch"})])
def test_comparisons_with_peers_print_their_ratios(small, capsys, module, names):
  module.main()

  found = _printed(capsys)
  assert found.keys() == names and all(0 < x < math.inf for x in found.values())


@pytest.mark.long
def test_what_a_learning_part_costs_is_printed(small, capsys):
  what_learns.main()

  found = _printed(capsys)
  assert len(found) == 15 and all(0 < x < math.inf for x in found.values())
  assert found["unfrozen_update_norm"] == pytest.approx(1, abs=1e-3)


@pytest.mark.long
def test_what_a_transfer_costs_is_printed(small, capsys):
  transfer.main()

  found = _printed(capsys)
  assert found.keys() == {
      "plan_7b_seconds", "plan_7b_mb", "restore_over_orbax", "restore_peak_over_target",
      "read_share", "grow_max_relative_difference", "grow_seconds"}
  assert found["grow_max_relative_difference"] < 1e-4


def test_shares_of_simulated_studies_are_printed(capsys):
  study.main(["--smallest", "intervals"])

  found = _printed(capsys)
  assert found.keys() == {
      "effective_data_error", "interpolation_error", "coverage", "gain_coverage",
      "gain_coverage_of_3", "gain_coverage_of_4", "gain_coverage_of_5", "better",
      "alarms", "alarms_of_three"}
  assert found["effective_data_error"] < 0.5 and found["coverage"] > 0
  assert 0 <= found["alarms"] <= 1


@pytest.mark.long
def test_what_a_study_costs_is_printed(capsys):
  study.main(["--smallest", "cost", "kills"])

  found = _printed(capsys)
  assert found["overhead"] > -1 and 0 < found["report_mb"] < 5
  assert found["report_seconds"] > 0
  assert found["kills"] == 1 and not found["failures"]


@pytest.mark.long
def test_what_steps_on_meshes_send_is_printed(capsys):
  scale.main(["--smallest", "meshes", "plan", "read"])

  found = _printed(capsys)
  assert all(0.3 < x <= 1.1 for x in found["bytes_read"].values())
  for axis in ("data", "fsdp", "tensor"):
    assert found[f"{axis}_sent_over_paper"] == pytest.approx(1, abs=0.1)
    assert found[f"{axis}_flops_scaling"] == found[f"{axis}_bytes_scaling"] == 1
  assert found["plan_7b_arrays"] == 0 and found["plan_7b_mb"] < 1000


@pytest.mark.long
def test_what_much_text_takes_is_printed(monkeypatch, tmp_path, capsys):
  monkeypatch.setenv(store.VARIABLE, str(tmp_path))  # It sets it, and is undone.
  monkeypatch.setattr(stored_texts, "LARGE", 2**10)
  monkeypatch.setattr(large_data, "_WORDS", 300)
  monkeypatch.setattr(timing, "alone", lambda function, *given: function(*given))

  scale.main(["--smallest", "data"])

  found = _printed(capsys)
  assert found["data_peak_growth_mb"] < 100 < found["data_peak_mb"]
  assert found["data_tokens_per_second"] > 0 and found["data_seconds"] > 0


@pytest.mark.long
def test_the_time_of_commands_is_printed(monkeypatch, capsys):
  monkeypatch.setattr(commands, "_ROUNDS", 1)
  monkeypatch.setattr(commands, "_SIZES", dict(
      num_layers=1, width=8, num_heads=2, max_length=64))

  commands.main()

  assert all(x > 0 for x in _printed(capsys).values())


@pytest.mark.long
def test_one_mutant_of_each_format_is_refused_or_read():
  # In a process of its own: it forks, and changes how malloc works.
  done = subprocess.run(
      [sys.executable, "-m", "benchmarks.malformed", "1"], cwd=paths.ROOT,
      capture_output=True, text=True, check=True)

  found = json.loads(done.stdout.splitlines()[-1])
  assert found["mutants"] == found["refused"] + found["loaded"] > 10
  assert found["converted"] == 1 and found["left_outside"] == 0


@pytest.fixture(scope="module", name="trained")
def _trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp("trust")
  trust_kills.prepare(folder)
  return folder


@pytest.mark.long
@pytest.mark.parametrize("kind", trust_kills.KINDS)
def test_a_command_that_is_killed_at_a_random_moment_is_counted(trained, kind):
  assert trust_kills.run(1, 0, trained, kind) == {"kills": 1, "failures": 0}


@pytest.mark.long
def test_commands_beside_a_training_are_counted(trained):
  found = trust_soak.run(0.01, trained)

  assert found["failures"] == 0 and found["steps"] > 0
  assert found["evaluations"] == found["generations"] == 1


@pytest.mark.long
def test_one_family_is_compared_on_one_device_and_on_eight(tmp_path, monkeypatch):
  monkeypatch.setattr(trust_devices, "FAMILIES", ("rnn",))

  found = trust_devices.run(tmp_path)

  assert found["failures"] == 0 and found["families"] == 1
  assert found["largest_difference"] < 1e-5


@pytest.mark.long
def test_mutants_of_a_module_meet_its_tests():
  pytest.importorskip("cosmic_ray")
  pytest.importorskip("pytest_cov")

  done = subprocess.run(
      [sys.executable, "-m", "benchmarks.mutation", "3", "0",
       "tests/transfer/fold_test.py"], cwd=paths.ROOT, capture_output=True, text=True,
      check=True)

  found = json.loads(done.stdout.splitlines()[-1])
  assert found["mutants"] == 3 and 0 <= found["killed"] <= 3
