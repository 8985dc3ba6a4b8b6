"""Tests for the plan of devices that `plan` prints, and what it refuses."""

import json
import re

import pytest

from tests.commands import cli
from transfer_gen.run import device_plan

CONFIG = '''
from transfer_gen import config

def get_config():
  return config.Run(
      model=config.Decoder(num_layers=2, width=64, num_heads=6, num_kv_heads=2,
                           head_dim=8, max_length=32),
      data=config.Data(name="files", train="text.txt", length=16),
      tokenizer=config.Tokenizer(kind="characters"),
      train=config.Train(steps=2, batch_size=32))
'''
PLAN = ("plan", "--config=wide.py", "--workdir=w", "--config.parallel.devices=32")


@pytest.fixture(name="wide")
def _wide(folder):
  (folder / "wide.py").write_text(CONFIG)
  return folder


def _refused(capsys, *words):
  return cli.refused(capsys, *PLAN, *words)


def test_plan_prints_memory_and_bytes_sent_for_devices_that_are_not_there(wide, capsys):
  printed = cli.run(capsys, *PLAN, "--config.parallel.fsdp=4",
                    "--config.parallel.tensor=2", "--config.optim.accumulate=2")

  assert "32 devices as data=4 x fsdp=4 x tensor=2, batches of 32 rows in 2 parts." in (
      printed)
  found = json.loads((wide / "w" / device_plan.FILE).read_text())
  for name, text in (("params", "params"), ("optimizer", "optimizer state"),
                     ("gradients", "gradients"), ("total", "in all"),
                     ("activations", "activations, estimated")):
    assert re.search(
        rf"^{text} +{device_plan.in_words(found['bytes'][name])}$", printed,
        re.MULTILINE), name
  assert found["sent"].keys() >= {
      "all-gather over fsdp", "reduce-scatter over fsdp", "all-reduce over tensor"}
  assert found["mesh"] == {"data": 4, "fsdp": 4, "tensor": 2}
  assert found["accumulate"] == 2 and found["batch_size"] == 32


def test_plan_names_what_a_mesh_axis_does_not_divide_and_what_would_fit(wide, capsys):
  tensor = "--config.parallel.tensor=4"
  printed = " ".join(cli.run(capsys, *PLAN, tensor).split())

  assert ("Whole along tensor: layer_{0,1}/attn/out/kernel,"
          " layer_{0,1}/attn/query/bias, layer_{0,1}/attn/query/kernel. heads is 6, no"
          " multiple of 4; heads of 8 or parallel.tensor=2 would fit. So would"
          " parallel.rules=(('kv', 'tensor'),).") in printed
  ruled = cli.run(capsys, *PLAN, tensor, "--config.parallel.rules=(('kv','tensor'),)")
  assert "attn" not in ruled.partition("32 devices")[2]


@pytest.mark.parametrize("words", [(), ("--config.parallel.fsdp=4",)])
def test_a_run_that_a_device_cannot_hold_is_refused_with_one_that_fits(
    wide, capsys, words):
  cli.run(capsys, *PLAN, *words)
  whole = json.loads((wide / "w" / device_plan.FILE).read_text())["bytes"]
  certain = whole["total"] - whole["activations"]
  words = (*words, f"--config.parallel.memory_gb={0.7 * certain / 1e9}")

  message = _refused(capsys, *words)

  proposed = re.findall(r"((?:parallel|optim)\.\w+=\d+)", message)
  assert "This would fit" in message and proposed
  changed = [f"--config.{one}" for one in proposed]
  devices = re.search(r"would fit: (\d+) devices", message)
  if devices:
    changed.append(f"--config.parallel.devices={devices[1]}")
  printed = cli.run(capsys, *PLAN, *words, *changed)
  assert "devices as" in printed and "this fits only if" not in printed


def test_a_run_that_may_fit_is_planned_with_a_warning(wide, capsys):
  cli.run(capsys, *PLAN)
  whole = json.loads((wide / "w" / device_plan.FILE).read_text())["bytes"]
  memory = whole["total"] - whole["activations"] // 2

  printed = cli.run(capsys, *PLAN, f"--config.parallel.memory_gb={memory / 1e9}")

  assert "this fits only if XLA needs less" in printed


@pytest.mark.parametrize("words, message", [
    (("--config.parallel.fsdp=5",), "This would fit: data=8, fsdp=4"),
    (("--config.parallel.rules=(('kvv','tensor'),)",), "axis `kvv`. Nearest: kv."),
    (("--config.parallel.rules=(('kv','tensr'),)",), "Nearest: tensor."),
    (("--config.parallel.memory_gb=1e-6",), "No division over devices that was tried"),
    (("--config.train.batch_size=8",), "make it a multiple of 32"),
    (("--config.parallel.mode=pmap", "--config.parallel.rules=(('kv','tensor'),)"),
     "pmap keeps every param whole")])
def test_what_does_not_fit_the_devices_is_refused(wide, capsys, words, message):
  assert message in _refused(capsys, *words)


def test_training_refuses_another_number_of_devices_than_the_config_names(
    wide, capsys):
  message = cli.refused(capsys, "train", *PLAN[1:])

  assert "parallel.devices is 32, and there are 8 devices" in message
  assert not (wide / "w" / "checkpoints").exists()


def test_training_refuses_what_a_device_cannot_hold(wide, capsys):
  message = cli.refused(
      capsys, "train", *PLAN[1:3], "--config.parallel.memory_gb=0.0003")

  assert "A device has 300 kB, and the run needs at least" in message
  assert not (wide / "w" / "config.json").exists()


def test_a_plan_for_cpus_alone_says_nothing_of_devices(folder, capsys):
  printed = cli.run(capsys, "plan", "--config=config.py", "--workdir=w")

  assert "devices as" not in printed
  assert not (folder / "w" / device_plan.FILE).exists()
