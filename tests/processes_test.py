"""Tests that several processes train one run as one process does, and end together."""

import json
import re
import shutil
import signal
import socket
import time

import jax
import numpy as np
import pytest

from tests import processes as started
from tests.commands import cli
from transfer_gen import errors
from transfer_gen import processes
from transfer_gen.run import heartbeat

# Growth with noise and a vocabulary of other tokens: each draws by keys, which must not
# depend on processes. Dropout draws too.
CONFIG = '''
import dataclasses
from transfer_gen import config
from transfer_gen.run import open_sources
from transfer_gen.transfer import axes, plan, structure

def get_config(name="text"):
  run = _run(name)
  if name == "pairs":  # Buckets, noise, a late group and an anchor.
    run.data = config.Data(
        name="files", train="pairs.tsv", input_field="a", target_field="b", length=24,
        buckets=(12,), corrupt=config.Corrupt(word_dropout=0.2))
    run.transfer = plan.TransferPlan(
        rules=(plan.Rule(target=".*", source=None),),
        groups=(plan.Group(name="body", params="layer_.*", unfreeze_step=3,
                           anchor=plan.L2SP(alpha=0.1, beta=0.1)),
                plan.Group(name="rest", params=".*")))
    run.tokenizer = config.Tokenizer(kind="characters", sentinels=1)
  if name in ("own", "lora"):  # A checkpoint of ours, with its moments.
    run.source = config.Source(path="source", step=2, moments=name == "own")
    run.tokenizer = config.Tokenizer(kind="source", size=0)
    run.strategy = config.Strategy(name="lora" if name == "lora" else "fine_tune")
    run.data.train = "text.txt"
  return run

def _run(name):
  moved, size = name == "moved", 2 if name == "moved" else 1
  return config.Run(
      model=config.Decoder(num_layers=1, width=16 * size, num_heads=2 * size,
                           mlp_width=32 * size, max_length=32, dropout=0.1),
      data=config.Data(name="files", train=f"{name}.txt", length=16),
      tokenizer=config.Tokenizer(kind="bpe", size=270),
      optim=config.Optim(warmup_steps=2),
      train=config.Train(steps=4, batch_size=16, log_every=1, eval_every=10,
                         checkpoint_every=10),
      source=config.Source(path="export") if moved else None,
      transfer=_plan if moved else None)

def _plan(run):
  small = open_sources.one("source", run.source).model
  _, found = structure.grow(small, noise=0.1, width=32, num_heads=4, mlp_width=64)
  return dataclasses.replace(found, axes=(
      *found.axes, plan.On(axis="vocab", map=axes.MatchTokens(fresh="normal"))))
'''
_PROGRAM = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv.pop(1)))
from transfer_gen import __main__ as main
main.run()
"""
_LONG = ("--config.train.steps=40",)


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
  """A folder with texts and a config."""
  folder = tmp_path_factory.mktemp("processes")
  (folder / "config.py").write_text(CONFIG)
  (folder / "text.txt").write_text("".join(
      f"the {i}th line counts {i * 7 % 13} things\n" for i in range(200)))
  (folder / "pairs.tsv").write_text("a\tb\n" + "".join(
      f"q{i}\t{'answer ' * (i % 3)}{i % 10}\n" for i in range(200)))
  (folder / "moved.txt").write_text("".join(
      f"another text: {i} zebras & {i * 3} quails\n" for i in range(200)))
  return folder


def _train(folder, workdir, *words, count=1, devices=1, name="text", others=(),
           last_folder=None, program=_PROGRAM):
  """Starts a training in some processes.

  Args:
    folder: Where they run.
    workdir: Workdir of the run.
    *words: Further words of the command.
    count: How many processes.
    devices: How many devices each of them simulates.
    name: Which run of the config.
    others: Further words of the last process alone.
    last_folder: Where that one runs.
    program: What each of them runs.
  """
  port = _free_port()
  together = lambda i: () if count == 1 else (
      f"--coordinator=localhost:{port}", f"--processes={count}", f"--process={i}")
  is_last = lambda i: i == count - 1
  return [started.start(
      program, str(devices), "train", f"--config=config.py:{name}",
      f"--workdir={workdir}", *words, *together(i), *(others if is_last(i) else ()),
      folder=last_folder if last_folder and is_last(i) else folder, together=False)
          for i in range(count)]


def _end(trainings):
  """Returns exit codes, standard outputs and errors of processes that were started."""
  printed = [(one.stdout.read(), one.stderr.read()) for one in trainings]
  return [one.wait() for one in trainings], *zip(*printed)


def _done(trainings):
  codes, out, err = _end(trainings)
  assert not any(codes), err
  return out


def _losses(workdir):
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return {(line["step"], line["split"]): line["loss"] for line in lines}


def _assert_same(found, expected, steps):
  assert found.keys() == expected.keys() and len(expected) >= steps
  np.testing.assert_allclose(
      [found[key] for key in expected], [*expected.values()], rtol=1e-5)


def test_two_processes_train_as_one_device_does(folder):
  _done(_train(folder, "alone"))

  first, second = _done(_train(folder, "two", count=2, devices=4))

  _assert_same(_losses(folder / "two"), _losses(folder / "alone"), 5)
  assert json.loads(first.splitlines()[-1])["step"] == 4
  # The second one's writes would be there twice.
  assert "step 4/4" in first and "step" not in second
  assert len([*(folder / "two" / "tensorboard").iterdir()]) == 1
  # Each says for itself how far it is, because one may wait for the other.
  assert [(beat["process"], beat["step"]) for beat in heartbeat.read(
      folder / "two")] == [(0, 4), (1, 4)]


@pytest.fixture(scope="module", name="exported")
def _exported(folder):
  """The same folder, with a checkpoint of Transformers to transfer from."""
  _done(_train(folder, "source", "--config.train.steps=2"))
  convert = started.start(
      started.COMMAND, "convert", "--source=source", "--to=safetensors",
      "--output=export", folder=folder)
  assert convert.wait() == 0, convert.stdout.read()
  return folder


@pytest.mark.long
@pytest.mark.parametrize("name", ["text", "moved"])
def test_killed_processes_go_on_as_other_numbers_of_them_with_the_same_losses(
    exported, name):
  """Copied and grown leaves, tokens that match, and where the data stands."""
  alone, killed = exported / f"alone_{name}", exported / f"killed_{name}"
  _done(_train(exported, alone.name, *_LONG, name=name))
  trainings = _train(exported, killed.name, *_LONG, name=name, count=2, devices=4)
  _wait_for(killed / "checkpoints" / "20")
  for training in trainings:
    training.send_signal(signal.SIGKILL)
  assert _end(trainings)[0] == [-signal.SIGKILL] * 2
  stopped = max(_losses(killed))[0]
  assert 20 <= stopped < 40

  for count, devices in ((1, 8), (4, 2)):
    workdir = exported / f"{killed.name}_{count}"
    shutil.copytree(killed, workdir)
    first, *_ = _done(_train(
        exported, workdir.name, *_LONG, name=name, count=count, devices=devices))

    assert "goes on from step " in first
    _assert_same(_losses(workdir), _losses(alone), 40)


@pytest.mark.long
def test_buckets_noise_and_late_groups_are_the_same_on_several_processes(folder):
  words = ("--config.train.steps=8", "--config.train.eval_every=4")
  _done(_train(folder, "pairs_alone", *words, name="pairs"))

  _done(_train(folder, "pairs", *words, name="pairs", count=2, devices=4))

  _assert_same(_losses(folder / "pairs"), _losses(folder / "pairs_alone"), 10)


@pytest.mark.long
@pytest.mark.parametrize("name", ["own", "lora"])
def test_checkpoints_of_ours_are_transferred_by_several_processes(exported, name):
  words = ("--config.parallel.fsdp=4",)
  _done(_train(exported, f"{name}_alone", *words, name=name, devices=4))

  _done(_train(exported, name, *words, name=name, count=2, devices=2))

  _assert_same(_losses(exported / name), _losses(exported / f"{name}_alone"), 5)


@pytest.mark.long
@pytest.mark.parametrize("parallel, writers", [
    (("--config.parallel.fsdp=8",), "01"),
    # Each process holds all params, which are so small that one of them writes them.
    (("--config.parallel.fsdp=2", "--config.parallel.tensor=2"), "0"),
    (("--config.parallel.tensor=8", "--config.model.num_heads=8"), "01")])
def test_params_may_lie_on_several_processes(folder, parallel, writers):
  name = "_".join(word.rpartition(".")[2] for word in parallel)
  words = (*parallel, "--config.optim.accumulate=2", "--config.train.eval_every=2",
           "--config.train.checkpoint_every=2")
  alone, several = folder / f"{name}_1", folder / f"{name}_2"
  _done(_train(folder, alone.name, *words, devices=8))

  _done(_train(folder, several.name, *words, count=2, devices=4))

  _assert_same(_losses(several), _losses(alone), 5)
  saved = (several / "checkpoints" / "4" / "params").glob("ocdbt.process_*")
  assert {path.name[-1] for path in saved} == {*writers}
  # What was saved is found by the digests of its leaves, and goes on, elsewhere.
  shutil.rmtree(several / "checkpoints" / "4")
  for line in _done(_train(folder, several.name, *words, devices=8)):
    assert "goes on from step 2" in line
  _assert_same(_losses(several), _losses(alone), 5)


_SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2",
          "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "{i}", "SLURM_LOCALID": "{i}",
          "JAX_COORDINATOR_PORT": "{port}"}
_JAX = {"JAX_COORDINATOR_ADDRESS": "localhost:{port}", "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "{i}"}


@pytest.mark.long
@pytest.mark.parametrize("variables", [
    pytest.param(_SLURM, id="slurm"), pytest.param(_JAX, id="jax")])
def test_without_flags_the_environment_says_who_belongs_together(
    folder, monkeypatch, request, variables):
  port, workdir = _free_port(), folder / request.node.callspec.id
  trainings = []
  for i in range(2):
    for name, value in variables.items():
      monkeypatch.setenv(name, value.format(i=i, port=port))
    trainings += _train(folder, workdir.name, "--config.train.steps=2")

  first, second = _done(trainings)

  assert "step 2/2" in first and "step" not in second
  devices = json.loads((workdir / "environment.json").read_text())["devices"]
  assert len(devices) == 2


@pytest.mark.long
def test_a_study_is_refused_where_several_processes_were_started(
    folder, monkeypatch, capsys):
  monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
  monkeypatch.chdir(folder)

  assert "works in a single process" in cli.refused(
      capsys, "study", "--config=config.py:moved", "--workdir=none")


@pytest.mark.long
def test_processes_of_other_versions_end_with_the_package_and_who_has_which(
    folder, tmp_path):
  other = tmp_path / "numpy-0.0.1.dist-info"
  other.mkdir()
  (other / "METADATA").write_text("Name: numpy\nVersion: 0.0.1\n")
  program = f"""
import sys
if "--process=1" in sys.argv:
  sys.path.append({str(tmp_path)!r})
""" + _PROGRAM

  codes, _, err = _end(_train(folder, "versions", count=2, program=program))

  assert codes == [2, 2], err
  for one in err:
    assert re.search(r'version of numpy: "[\d.]+" in process 0; "0.0.1" in process 1',
                     one), err


@pytest.mark.long
def test_an_address_that_is_taken_is_refused(folder):
  with socket.socket() as taken:
    taken.bind(("localhost", 0))
    taken.listen()
    training = started.start(
        _PROGRAM, "1", "train", "--config=config.py", "--workdir=none",
        f"--coordinator=localhost:{taken.getsockname()[1]}", "--processes=2",
        "--process=0", folder=folder)

    assert training.wait() == 2
  assert "process 0 of 2 cannot listen at localhost:" in training.stdout.read()


@pytest.mark.long
def test_a_damaged_checkpoint_is_set_aside_by_all_processes_together(folder):
  words = ("--config.train.steps=20", "--config.train.checkpoint_every=2")
  _done(_train(folder, "undamaged", *words))
  workdir = folder / "damaged"
  trainings = _train(folder, workdir.name, *words, count=2, devices=4)
  _wait_for(workdir / "checkpoints" / "6")
  for training in trainings:
    training.send_signal(signal.SIGKILL)
  _end(trainings)
  steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir()
                 if path.name.isdigit())
  damaged = max((workdir / "checkpoints" / f"{steps[-1]}" / "params").rglob("*"),
                key=lambda path: path.is_file() and path.stat().st_size)
  content = bytearray(damaged.read_bytes())
  content[len(content) // 2] ^= 1
  damaged.write_bytes(content)

  first, second = _done(_train(folder, workdir.name, *words, count=2, devices=4))

  assert f"goes on from step {steps[-2]}" in first and "step" not in second
  assert (workdir / "checkpoints" / f"{steps[-1]}.damaged").exists()
  _assert_same(_losses(workdir), _losses(folder / "undamaged"), 20)


@pytest.mark.long
@pytest.mark.parametrize("number, who", [
    (signal.SIGTERM, (1,)), (signal.SIGTERM, (0, 1)), (signal.SIGINT, (1,))])
def test_a_signal_to_one_process_or_all_saves_and_ends_all(folder, number, who):
  workdir = folder / f"ended_{number.name}_{len(who)}"
  alone = folder / f"whole_{number.name}_{len(who)}"
  _done(_train(folder, alone.name, *_LONG))
  trainings = _train(folder, workdir.name, *_LONG, count=2, devices=4)
  _wait_for(workdir / "checkpoints" / "10")

  for i in who:
    trainings[i].send_signal(number)

  codes, _, err = _end(trainings)
  assert codes == [128 + signal.SIGTERM] * 2, err
  # Both after the same step.
  told = [re.search("transfer-gen: Interrupted after step .*", one)[0] for one in err]
  assert told[0] == told[1]
  _done(_train(folder, workdir.name, *_LONG, count=2, devices=4))
  _assert_same(_losses(workdir), _losses(alone), 40)


@pytest.mark.long
def test_processes_that_disagree_end_with_the_key_and_who_has_what(folder):
  for word, said in [
      ("--config.optim.lr=0.01",
       ("config.optim.lr: 0.001 in process 0; 0.01 in process 1",)),
      ("--config.data.train=moved.txt",
       ('config.data.train: "text.txt" in process 0; "moved.txt" in process 1',)),
      ("--min_coverage=0.5", ("--min_coverage: 0.0 in process 0; 0.5 in process 1",))]:
    codes, _, err = _end(_train(folder, "apart", count=2, others=(word,)))

    assert codes == [2, 2], err
    for text in (*said, "the processes do not agree"):
      assert all(text in one for one in err), err
    assert not (folder / "apart").exists() and "Traceback" not in "".join(err)


@pytest.fixture(name="elsewhere")
def _elsewhere(folder, tmp_path):
  """A folder with the same config, where the data has another line."""
  shutil.copy(folder / "config.py", tmp_path)
  (tmp_path / "text.txt").write_text((folder / "text.txt").read_text() + "One more.\n")
  return tmp_path


@pytest.mark.long
def test_processes_that_read_other_texts_under_one_name_are_refused(folder, elsewhere):
  codes, _, err = _end(_train(
      folder, folder / "texts", count=2, last_folder=elsewhere))

  assert codes == [2, 2], err
  assert all("data (the texts themselves): " in one and "in process 1" in one
             for one in err), err
  assert not (folder / "texts").exists()


@pytest.mark.long
@pytest.mark.parametrize("number", [0, 1])
def test_all_end_if_one_process_lacks_a_file_and_say_which(
    folder, elsewhere, number):
  (elsewhere / "text.txt").unlink()
  folders = (folder, elsewhere) if number else (elsewhere, folder)
  begin = time.monotonic()

  codes, _, err = _end(_train(
      folders[0], folder / "lacks", count=2, last_folder=folders[1]))

  assert codes == [2, 2], err
  why = f"transfer-gen: process {number} of 2: "
  assert why in err[number] and "text.txt" in err[number], err
  assert (f"process {1 - number} of 2 ends, because another one has failed. process"
          f" {number} of 2: ") in err[1 - number], err
  assert time.monotonic() - begin < 60  # Far below what JAX waits for a lost process.


@pytest.mark.long
@pytest.mark.parametrize("number", [0, 1])
def test_all_end_if_one_process_crashes_while_others_wait_for_it(folder, number):
  program = _PROGRAM.replace("main.run()", f"""
from transfer_gen.run import ledger
def settle(self, step, before=ledger.Ledger.settle):
  if step == 3 and "--process={number}" in sys.argv:
    raise RuntimeError("a mistake of ours")
  before(self, step)
ledger.Ledger.settle = settle
main.run()""")

  codes, _, err = _end(_train(
      folder, f"crashed_{number}", count=2, devices=4, program=program))

  assert codes == [1, 1], err
  assert f"In process {number} of 2." in err[number]
  assert f"process {number} of 2: RuntimeError: a mistake of ours" in err[1 - number]


@pytest.mark.long
@pytest.mark.parametrize("number, said", [
    (0, r"leader \(usually slice 0 task 0\)"), (1, r"tasks are unhealthy.*:\n1$")])
def test_the_others_end_if_one_process_is_killed_and_say_which(folder, number, said):
  workdir = folder / f"lost_{number}"
  trainings = _train(folder, workdir.name, *_LONG, count=2, devices=4)
  _wait_for(workdir / "checkpoints" / "10")

  trainings[number].send_signal(signal.SIGKILL)

  codes, _, err = _end(trainings)
  assert codes[number] == -signal.SIGKILL and codes[1 - number], err
  assert re.search(said, err[1 - number], re.M), err


@pytest.mark.parametrize("words, said", [
    (("--coordinator=here:1",), "give HOST:PORT of process 0"),
    (("--coordinator=here:1", "--processes=2", "--process=2"), "from 0 to one less"),
    (("--processes=2", "--process=0"), "--coordinator=(none)"),
    (("--coordinator=here", "--processes=2", "--process=0"), "10.0.0.1:8476")])
def test_incomplete_flags_are_refused(folder, monkeypatch, capsys, words, said):
  monkeypatch.chdir(folder)

  assert said in cli.refused(
      capsys, "train", "--config=config.py", "--workdir=none", *words)


def test_a_process_that_cannot_reach_the_first_one_is_refused(monkeypatch):
  monkeypatch.setattr(processes, "_PATIENCE", 0)
  address = f"localhost:{_free_port()}"

  with pytest.raises(errors.UserError, match=f"process 1 of 2 cannot reach {address}"):
    with processes.joined(address, 2, 1):
      raise AssertionError("the body must not run")


@pytest.mark.long
@pytest.mark.parametrize("word, said", [
    ("--config.strategy.name=auto", "other than auto"),
    ("--config.parallel.mode=pmap", "parallel.mode=jit"),
    ("--config.train.metric=bleu", "train.metric=loss"),
    ("--evaluate", "leave out --evaluate")])
def test_what_several_processes_cannot_do_is_refused_before_data_is_read(
    folder, word, said):
  codes, _, err = _end(_train(folder, "refused", word, count=2))

  assert codes == [2, 2] and all(said in one for one in err), err


def test_a_single_process_agrees_with_itself_and_starts_no_runtime():
  done = []

  with processes.joined():
    processes.agree({"config": 1})
    processes.by_first(lambda: done.append(1))
    assert processes.gather("a") == ["a"] and processes.is_first()

  assert done == [1] and processes.count() == 1
  assert not jax.distributed.is_initialized()


def _free_port():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


def _wait_for(path, seconds=600):
  until = time.monotonic() + seconds
  while not path.exists():
    assert time.monotonic() < until, path
    time.sleep(0.02)
