"""Tests the scripts that launch runs, with a gcloud and an srun that tests write.

The gcloud records its arguments, keeps which TPU VMs there are, and runs the commands
of `ssh` in a folder. No TPU is needed, and none was used.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from tests import paths

_HERE = ("--name=mine", "--zone=z")
_SLICE = (*_HERE, "--type=v5litepod-16")
_GCLOUD = f"""#!{sys.executable}
import json, os, pathlib, shutil, subprocess, sys
words = sys.argv[1:]
folder = pathlib.Path(os.environ["FAKE"])
with (folder / "calls").open("a") as calls:
  calls.write(json.dumps(words) + "\\n")
states = json.loads((folder / "states").read_text())
if words[:2] == ["compute", "tpus"]:
  kind, verb, *rest = words[2:]
  if verb == "describe":
    if not states.get(kind):
      sys.exit("ERROR: " + os.environ.get("SAYS", "NOT_FOUND: there is none"))
    # A queue that waits gets its VM at the next look.
    print(states[kind][0])
    if states[kind][1:]:
      states[kind].pop(0)
      if states[kind] == ["ACTIVE"]:
        states["tpu-vm"] = ["READY"]
  elif verb == "create":
    states[kind] = {{"tpu-vm": ["READY"], "queued-resources": [
        "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]}}[kind]
  elif verb == "start":
    states[kind] = ["READY"]
  elif verb == "delete":
    states.pop(kind)
    if kind == "queued-resources":
      states.pop("tpu-vm", None)
  elif verb == "scp" and rest[0].endswith(".tar.gz"):
    shutil.copy(rest[0], folder / "vm" / rest[1].partition(":")[2])
  elif verb == "ssh":
    command, = [w for w in rest if w.startswith("--command=")]
    done = subprocess.run(["bash", "-c", command[10:]], cwd=folder / "vm")
    sys.exit(done.returncode)
(folder / "states").write_text(json.dumps(states))
"""


class Cloud:
  """A folder with a gcloud, and the scripts in a repository of their own."""

  def __init__(self, folder):
    self.folder = folder
    for name in ("bin", "vm"):
      (folder / name).mkdir()
    self._program("gcloud", _GCLOUD)
    self._program("python3", "#!/bin/sh\nexit 0\n")  # What the VM would install with.
    self.set()
    (folder / "calls").touch()
    self.root = folder / "repository"
    shutil.copytree(paths.ROOT / "experiments" / "tpu", self.root / "experiments/tpu")
    (self.root / "config.py").write_text("new")  # Git does not know it.
    subprocess.run(["git", "init", "--quiet", str(self.root)], check=True)

  def _program(self, name, text):
    path = self.folder / "bin" / name
    path.write_text(text)
    path.chmod(0o755)

  def set(self, **states):
    """Sets which states the next looks see, by kind, with _ for -."""
    (self.folder / "states").write_text(json.dumps(
        {kind.replace("_", "-"): list(found) for kind, found in states.items()}))

  def run(self, script, *words, code=0, **variables):
    """Runs a script; returns what it prints, and what it says of errors."""
    done = subprocess.run(
        ["bash", str(self.root / "experiments/tpu" / f"{script}.sh"), *words],
        capture_output=True, text=True, cwd=self.folder, env={
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "TPU_POLL_SECONDS":
            "0", "FAKE": str(self.folder), "HOME": str(self.folder), **variables})
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr

  def calls(self, but=("describe",)):
    """Returns the calls of gcloud since the last look, without those that only look."""
    found = [json.loads(line)
             for line in (self.folder / "calls").read_text().splitlines()]
    (self.folder / "calls").write_text("")
    return [words for words in found if not {*but} & {*words[:4]}]


@pytest.fixture(name="cloud")
def _cloud(tmp_path):
  return Cloud(tmp_path)


def _tpus(*words):
  return ["compute", "tpus", *words, "--zone=z"]


@pytest.mark.parametrize("words, variables, expected", [
    ((), {}, _tpus("tpu-vm", "create", "mine", "--accelerator-type=v5litepod-16",
                   "--version=v2-alpha-tpuv5-lite")),
    (("--spot", "--", "--network=n"), {},
     _tpus("tpu-vm", "create", "mine", "--accelerator-type=v5litepod-16",
           "--version=v2-alpha-tpuv5-lite", "--spot", "--network=n")),
    ((), {"TPU_QUEUE": "1", "TPU_SPOT": "1", "TPU_VERSION": "new"},
     _tpus("queued-resources", "create", "mine", "--node-id=mine",
           "--accelerator-type=v5litepod-16", "--runtime-version=new", "--spot"))])
def test_a_vm_is_created_once_however_often_it_is_asked_for(
    cloud, words, variables, expected):
  printed, _ = cloud.run("create", *_SLICE, *words, **variables)
  assert printed.splitlines()[-1] == "mine is ready."
  assert cloud.calls() == [expected]

  printed, _ = cloud.run("create", *_SLICE, *words, **variables)
  assert printed == "mine is ready.\n"
  assert cloud.calls() == []


@pytest.mark.parametrize("states, verbs", [
    ({"tpu_vm": ["PREEMPTED"]}, [("tpu-vm", "delete"), ("tpu-vm", "create")]),
    ({"tpu_vm": ["STOPPED"]}, [("tpu-vm", "start")]),
    ({"queued_resources": ["SUSPENDED"], "tpu_vm": ["PREEMPTED"]},
     [("queued-resources", "delete"), ("tpu-vm", "create")]),
    ({"tpu_vm": ["CREATING", "READY"]}, [])])
def test_a_vm_that_was_taken_away_is_made_anew(cloud, states, verbs):
  cloud.set(**states)

  cloud.run("create", *_SLICE)

  assert [tuple(words[2:4]) for words in cloud.calls()] == verbs


def test_a_vm_that_was_created_without_a_queue_needs_none(cloud):
  cloud.set(tpu_vm=["READY"])

  printed, _ = cloud.run("create", *_SLICE, "--queue")

  assert printed == "mine is ready.\n" and cloud.calls() == []


@pytest.mark.parametrize("states, kinds", [
    ({}, []), ({"tpu_vm": ["READY"]}, ["tpu-vm"]),
    ({"queued_resources": ["ACTIVE"], "tpu_vm": ["READY"]}, ["queued-resources"])])
def test_deleting_deletes_what_is_there_and_nothing_twice(cloud, states, kinds):
  cloud.set(**states)

  cloud.run("delete", *_HERE)
  assert [words[2] for words in cloud.calls()] == kinds

  printed, _ = cloud.run("delete", *_HERE)
  assert printed == "mine does not exist.\n"
  assert cloud.calls() == []


def test_a_gcloud_that_fails_otherwise_is_not_taken_for_a_missing_vm(cloud):
  _, said = cloud.run("create", *_SLICE, code=1, SAYS="you are not logged in")

  assert "you are not logged in" in said and "does not say whether" in said
  assert cloud.calls() == []


# What the scripts run of gcloud, as its reference names the flags of each command.
_FLAGS = {
    ("tpu-vm", "create"): {"accelerator-type", "version", "spot"},
    ("tpu-vm", "describe"): {"format"}, ("tpu-vm", "delete"): {"quiet"},
    ("tpu-vm", "ssh"): {"worker", "command"}, ("tpu-vm", "scp"): {"worker", "recurse"},
    ("queued-resources", "create"): {
        "node-id", "accelerator-type", "runtime-version", "spot"},
    ("queued-resources", "describe"): {"format"},
    ("queued-resources", "delete"): {"force", "quiet"}}


@pytest.mark.parametrize("script, words", [
    ("create", (*_SLICE, "--spot")), ("create", (*_SLICE, "--queue")),
    ("run", (*_HERE, "--", "train", "--config=config.py", "--workdir=gs://b/r")),
    ("logs", (*_HERE, "--follow")), ("delete", _HERE),
    ("fetch", (*_HERE, "--workdir=runs/a", "--to=there")),
    ("fetch", ("--workdir=gs://b/r", "--to=there", "--no_checkpoints"))])
def test_a_dry_run_prints_the_commands_that_a_real_one_runs(cloud, script, words):
  printed, _ = cloud.run(script, "--dry_run", *words)
  assert cloud.calls(but=()) == [] and not (cloud.folder / "there").exists()
  # What was printed is typed into a shell: the fake gcloud then gets the words.
  typed = printed.replace("mkdir -p there\n", "").replace("transfer_gen.tar.gz", "X", 1)
  subprocess.run(["bash", "-c", typed], cwd=cloud.folder, capture_output=True, env={
      "PATH": f"{cloud.folder / 'bin'}:{os.environ['PATH']}", "FAKE":
      str(cloud.folder)})

  commands = cloud.calls(but=())
  assert len(commands) == len(re.findall("^gcloud ", printed, re.MULTILINE)) > 0
  for _, area, *rest in commands:
    flags = {word[2:].partition("=")[0] for word in rest if word.startswith("--")}
    if area == "tpus":
      assert flags - {"zone"} <= _FLAGS[rest[0], rest[1]] and "zone" in flags
    else:
      assert (area, rest[0]) == ("rsync", "gs://b/r")
      assert flags == {"recursive", "exclude"}


@pytest.mark.parametrize("script, words, said", [
    ("create", (), "missing: --name (or TPU_NAME), --zone (or TPU_ZONE), --type (or"
     " TPU_TYPE). See --help."),
    ("create", ("--nmae=a",), "there is no flag --nmae=. See --help."),
    ("create", ("--name",), "--name needs a value: --name=VALUE."),
    ("create", (*_HERE, "--type=v99-8"), "--type=v99-8 is not known here. Give"
     " --version=VERSION as well"),
    ("run", _HERE, "missing: a command behind --"),
    ("run", (*_HERE, "train"), "train is no flag. Give words of a command behind --."),
    ("fetch", ("--workdir=runs/a", "--to=b"), "missing: --name (or TPU_NAME), --zone"),
    ("delete", ("--name=a",), "missing: --zone (or TPU_ZONE).")])
def test_what_is_missing_or_mistyped_is_one_message(cloud, script, words, said):
  _, message = cloud.run(script, *words, code=2)

  assert message.startswith(f"{script}.sh: {said}") and message.count("\n") == 1
  assert cloud.calls(but=()) == []


@pytest.mark.parametrize("script", ["create", "run", "logs", "fetch", "delete"])
def test_help_names_each_setting(cloud, script):
  printed, said = cloud.run(script, "--help")

  text = (paths.ROOT / "experiments" / "tpu" / f"{script}.sh").read_text()
  listed = re.findall('settings "(.*)" "(.*)" "', text)[0]
  for name in (*" ".join(listed).split(), "name", "zone", "project", "dry_run"):
    assert re.search(rf"^  --{name}\b", printed, re.MULTILINE), name
  assert not said and "set -e" not in printed


def test_a_command_is_started_once_with_the_words_that_were_typed(cloud):
  program = cloud.folder / "vm/transfer_gen/.venv/bin/transfer-gen"
  program.parent.mkdir(parents=True)
  program.write_text('#!/bin/sh\nfor word; do echo "<$word>"; done\nexec sleep 60\n')
  program.chmod(0o755)
  (program.parent / "python").symlink_to("/bin/true")
  words = (*_HERE, "--", "train", "--config=config.py", "--config.x='a $b'")

  printed, _ = cloud.run("run", *words)
  assert printed.endswith("Started.\n")
  log = cloud.folder / "vm/transfer_gen/run.log"
  pid = int((log.parent / "run.pid").read_text().split()[0])
  try:
    _wait_for(lambda: log.exists() and log.read_text().count("\n") == 3)
    assert log.read_text() == "<train>\n<--config=config.py>\n<--config.x='a $b'>\n"
    # What git does not know yet is there, too, and its own folder.
    assert (log.parent / "config.py").read_text() == "new"
    assert (log.parent / ".git").is_dir()

    assert cloud.run("run", *words)[0].endswith("It runs already.\n")
    assert "Another command runs" in cloud.run(
        "run", *_HERE, "--", "evaluate", code=2)[1]
    assert cloud.run("logs", *_HERE, "--lines=1")[0] == (
        "<--config.x='a $b'>\nIt runs.\n")
  finally:
    os.kill(pid, 9)
  _wait_for(lambda: cloud.run("logs", *_HERE)[0].endswith("It has ended.\n"))


def test_logs_of_a_vm_on_which_nothing_was_started_say_so(cloud):
  _, said = cloud.run("logs", *_HERE, code=2)

  assert said == "Nothing was started here. See run.sh.\n"


@pytest.mark.parametrize("code, again", [(143, True), (0, False), (1, False)])
def test_a_slurm_job_queues_again_if_its_time_was_over(tmp_path, code, again):
  for name, text in (("srun", f'echo "$@" >> calls\nexit {code}'),
                     ("scontrol", 'echo "$@" >> calls')):
    (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
    (tmp_path / name).chmod(0o755)

  done = subprocess.run(
      ["bash", str(paths.ROOT / "experiments/slurm.sbatch"), "--workdir=run"], env={
          "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
          "SLURM_SUBMIT_DIR": str(tmp_path)})

  assert done.returncode == code
  calls = (tmp_path / "calls").read_text().splitlines()
  assert calls[0].endswith(" .venv/bin/transfer-gen train --workdir=run")
  assert calls[1:] == ["requeue 7"] * again


def _wait_for(condition, seconds=20):
  until = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < until
    time.sleep(0.05)
