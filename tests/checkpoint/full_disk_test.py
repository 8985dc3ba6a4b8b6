"""Tests that a disk that is full ends in one message and spares what is complete."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests import paths
from tests import processes
from transfer_gen import checkpoint
from transfer_gen import errors
from transfer_gen.formats import whole

# A limit on the size of files stands for the full disk: the system refuses what is
# written beyond it, and needs no mount for that.
_PROGRAM = """
import resource, sys
from jax import numpy as jnp
import numpy as np
from transfer_gen import checkpoint, errors
from transfer_gen.formats import whole
from transfer_gen.run import records
folder = sys.argv[1]
facts = {"axes": {"w": {"axes": ["embed"], "reads": []}}}
def save(step):
  params = {"w": jnp.asarray(np.random.default_rng(step).normal(size=50_000))}
  checkpoints.save(step, params, {"mu": params}, facts)
  checkpoints.wait()
def refused(function):
  try:
    function()
  except errors.UserError as error:
    print(error, flush=True)
checkpoints = checkpoint.Checkpoints(folder)
save(1)
writer = records.MetricsWriter(folder, 1)
limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit))
refused(lambda: save(2))
refused(checkpoints.close)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit))
refused(lambda: writer.write(1, "train", {"loss": 1.0}))
refused(lambda: whole.write_text(f"{folder}/a.json", "text"))
refused(lambda: records.write_samples(folder, ["a"], ["b"]))
refused(writer.close)
"""


def test_a_full_disk_is_one_message_and_the_last_checkpoint_stays(tmp_path):
  (tmp_path / "a.json").write_text("before")

  process = processes.start(
      _PROGRAM, str(tmp_path), folder=tmp_path, together=False)
  printed, errors_ = process.stdout.read(), process.stderr.read()

  assert process.wait() == 0, errors_
  messages = printed.splitlines()
  assert "checkpoints: the checkpoint cannot be written: File too large" in messages[0]
  written = {message.split(":")[0] for message in messages[1:]}
  assert written == {str(tmp_path / name) for name in (
      "metrics.jsonl", "a.json", "samples.jsonl")}
  assert all("File too large" in message for message in messages)
  assert "Traceback" not in errors_ and "ERROR" not in errors_
  found = checkpoint.find(tmp_path)
  assert found.step == 1 and dict(found.read(["w"]))["w"].shape == (50_000,)
  assert (tmp_path / "a.json").read_text() == "before"
  assert not list(tmp_path.glob("*.partial"))


def test_a_pipe_or_a_folder_is_not_replaced_by_a_file(tmp_path):
  os.mkfifo(tmp_path / "pipe")

  for path in (tmp_path / "pipe", tmp_path):
    with pytest.raises(errors.UserError, match=f"{path}: it is a "):
      whole.write_text(path, "text")


@pytest.mark.skipif(not pathlib.Path("/dev/full").is_char_device(), reason="none here")
def test_output_that_cannot_be_written_is_one_message():
  with open("/dev/full", "w", encoding="utf-8") as full:
    done = subprocess.run(
        [sys.executable, "-m", "transfer_gen", "recipes"], cwd=paths.ROOT,
        stdout=full, stderr=subprocess.PIPE, text=True, check=False)

  assert done.returncode == 2
  assert done.stderr.splitlines() == [
      "transfer-gen: the output: No space left on device. Give another path, or make"
      " room there."]
