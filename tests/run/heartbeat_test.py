"""Tests that a run says whether it advances, and how well it uses its devices."""

import functools
import json
import re
import threading
import time

import jax
import pytest

from tests import small_runs
from tests.commands import cli
from transfer_gen import errors
from transfer_gen.run import assemble
from transfer_gen.run import heartbeat
from transfer_gen.run import ledger
from transfer_gen.run import loop
from transfer_gen.run import reader
from transfer_gen.run import utilization
from transfer_gen.run import watch
from transfer_gen.study import cost

_FAST = heartbeat.Limits(look=0.01, write=0.0, times=3, least=0.4, otherwise=1.0)


class Step:
  """An array that is ready when a test says so."""

  def __init__(self, ready=True):
    self.ready = ready

  def is_ready(self):
    return self.ready


def _advance(beat, first, last):
  for step in range(first, last + 1):
    beat.after(step, Step())
    time.sleep(0.03)


def a_function_that_hangs(seconds):
  time.sleep(seconds)


def test_a_run_that_hangs_is_reported_once_with_its_last_step_and_place(
    tmp_path, capsys):
  beat = heartbeat.Heartbeat(tmp_path, 10, _FAST)
  _advance(beat, 11, 20)
  beat.after(21, Step(ready=False))  # It was asked for, and is never computed.
  a_function_that_hangs(0.9)
  said = capsys.readouterr().err
  beat.close()

  assert said.count("\n") == 1
  assert "step 20 was the last. A step usually takes 0.0" in said
  assert "(a_function_that_hangs)" in said
  assert not capsys.readouterr().err


def test_a_run_is_not_said_to_hang_while_it_advances_validates_or_begins(
    tmp_path, capsys):
  beat = heartbeat.Heartbeat(tmp_path, 0, _FAST)
  time.sleep(0.6)  # Longer than `least`: the first step compiles.
  _advance(beat, 1, 5)
  with beat.doing("validates"):
    time.sleep(0.6)
  _advance(beat, 6, 10)
  quiet = capsys.readouterr().err
  with beat.doing("validates"):
    time.sleep(1.3)
  beat.close()

  assert quiet == ""
  assert "the run validates and has not advanced" in capsys.readouterr().err


def test_the_file_holds_the_last_step_and_is_written_at_a_bounded_rate(
    tmp_path, monkeypatch):
  writes = []
  write = heartbeat.whole.write_json
  monkeypatch.setattr(heartbeat.whole, "write_json", lambda path, data: (
      writes.append(data["step"]), write(path, data)))
  limits = heartbeat.Limits(look=0.01, write=0.2)
  began = time.monotonic()
  beat = heartbeat.Heartbeat(tmp_path, 3, limits)
  _advance(beat, 4, 23)
  took = time.monotonic() - began
  beat.close()

  # One at the beginning, one at the end, and between them one in 0.2 seconds.
  assert 3 <= len(writes) <= took / 0.2 + 2 and writes == sorted(writes)
  [found] = heartbeat.read(tmp_path)
  assert (found["process"], found["step"], found["doing"]) == (0, 23, "has ended")
  assert abs(found["time"] - time.time()) < 5
  assert threading.active_count() < 50  # Its thread has ended.


def test_of_several_processes_the_one_that_is_behind_is_named(tmp_path):
  folder = tmp_path / heartbeat.FOLDER
  folder.mkdir()
  for process, step in ((0, 12), (1, 9)):
    (folder / f"{process}.json").write_text(json.dumps(
        {"process": process, "step": step, "time": 1000.0 + process, "doing": "trains",
         "seconds_per_step": 1.0}))

  assert heartbeat.sentence(tmp_path, now=1121.0) == (
      "The run last advanced 2 min ago, to step 9, process 1 of 2. It then trains,"
      " or was killed.")
  assert heartbeat.sentence(tmp_path / "elsewhere") == ""
  (folder / "0.json").write_text("{")
  with pytest.raises(errors.UserError, match="0.json"):
    heartbeat.read(tmp_path)


@pytest.fixture(name="run")
def _run(tmp_path):
  small_runs.write_lines(tmp_path / "a.txt")
  return small_runs.configure(
      tmp_path / "a.txt", small_runs.DECODER, steps=6, log_every=2, eval_every=6)


def test_a_run_leaves_its_heartbeat_time_to_compile_and_memory(tmp_path, run, capsys):
  loop.train(run, tmp_path / "w")

  measured = json.loads((tmp_path / "w/environment.json").read_text())["measured"]
  assert measured["compile_seconds"] > 0
  # CPU devices do not say what they needed.
  assert measured["peak_host_bytes"] > 50e6
  capsys.readouterr()
  printed = cli.run(capsys, "inspect", f"--source={tmp_path / 'w'}").splitlines()
  assert printed[1].startswith("The run last advanced ")
  assert printed[1].endswith(" ago, to step 6. It has ended since.")


def test_a_training_that_waits_for_its_host_says_where(
    tmp_path, run, monkeypatch, capsys):
  monkeypatch.setattr(heartbeat, "Heartbeat", functools.partial(
      heartbeat.Heartbeat, limits=_FAST))
  add, steps = ledger.Ledger.add, []

  def slow_add(*arguments):
    steps.append(len(steps) + 1)
    time.sleep(1.0 if len(steps) == 5 else 0.05)
    return add(*arguments)

  monkeypatch.setattr(ledger.Ledger, "add", slow_add)

  loop.train(run, tmp_path / "w")

  warnings = [line for line in capsys.readouterr().err.splitlines()
              if "has not advanced" in line]
  assert len(warnings) == 1
  assert re.search(r"the run trains .* step [45] was the last\. .* It waits in"
                   r" loop\.py:\d+ \(_loop\), called heartbeat_test\.py:\d+"
                   r" \(slow_add\)\.$", warnings[0])


def test_mfu_is_the_share_of_the_peak_that_the_matrix_products_of_a_step_need(
    tmp_path, run, monkeypatch):
  kind = jax.devices()[0].device_kind
  monkeypatch.setitem(utilization.PEAKS, kind, 1e9)

  loop.train(run, tmp_path / "w")

  assembled = assemble.assemble(reader.Reader().read(run, tmp_path / "w"))
  flops = cost.of_run(assembled, 6) / 6
  lines = [line for line in small_runs.metrics(tmp_path / "w")
           if line["split"] == "train"]
  assert len(lines) == 3
  for line in lines[1:]:  # The first has the time in it that compiling took.
    expected = 2 * flops / (1e9 * jax.device_count()) / line["seconds"]
    assert line["mfu"] == pytest.approx(expected, rel=0.05)


def test_mfu_is_absent_where_a_device_is_not_known(tmp_path, run):
  loop.train(run, tmp_path / "w")

  assert not any("mfu" in line for line in small_runs.metrics(tmp_path / "w"))


@pytest.mark.parametrize("kind, teraflops", [
    ("TPU v4", 275), ("TPU v5 lite", 197), ("TPU v5", 459), ("TPU v6 lite", 918),
    ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H100 80GB HBM3", 989),
    ("NVIDIA H100 PCIe", 756), ("NVIDIA H200", 989), ("NVIDIA B200", 2250),
    ("cpu", None), ("NVIDIA GeForce RTX 3090", None)])
def test_peaks_are_those_of_the_makers(kind, teraflops):
  assert utilization.peak(kind) == (teraflops and teraflops * 1e12)


def test_the_memory_of_devices_is_the_largest_peak_of_them(monkeypatch):
  class Device:
    def __init__(self, peak):
      self.peak = peak

    def memory_stats(self):
      return {"peak_bytes_in_use": self.peak}

  monkeypatch.setattr(jax, "local_devices", lambda: [Device(3), Device(7)])

  assert watch.memory() == {"peak_device_bytes": 7}
