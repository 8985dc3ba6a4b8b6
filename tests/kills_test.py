"""Tests that commands that were killed and are given again end as whole ones do.

Each is killed at a point that is chosen: with files written beside their places, half
of a folder written, or all of it and not renamed. `python -m benchmarks.trust kills`
kills at random moments. What a full disk ends goes the same way.
"""

import shutil
import signal

import pytest

from benchmarks import trust_kills
from tests import killing
from tests.commands import cli

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
CONVERT = ("convert", "--source=done", "--to=safetensors", "--output=out")
GENERATE = ("generate", "--workdir=done", "--prompts=prompts.txt", "--temperature=1",
            "--max_tokens=5", "--batch_size=8", "--output=out")
STUDY = ("study", "--config=config.py", "--workdir=out")
PLAN = ("plan", "--config=config.py", "--workdir=out")
PREPARE = ("plan", "--config=config.py:phrases", "--workdir=out/plan")
TRAIN = ("train", "--config=config.py", "--workdir=done", "--config.train.steps=2")
COMMANDS = {"convert": CONVERT, "generate": GENERATE}
LATER = pytest.mark.long
# What is there when a command is killed, and how often.
POINTS = [
    ("convert", "open out.partial/config.json.partial", KILL),
    pytest.param("convert", "os.mkdir out.partial", KILL, marks=LATER),
    pytest.param("convert", "os.rename out.partial", KILL, marks=LATER),
    pytest.param("convert", "open out.partial/model.safetensors", TERM, marks=LATER),
    pytest.param("convert", "os.rename out.partial", INT, marks=LATER),
    ("generate", "os.rename out.partial", KILL),
    pytest.param("generate", "open out.partial", KILL, marks=LATER),
    pytest.param("generate", "os.remove out.progress", KILL, marks=LATER),
    pytest.param("generate", "os.rename out.partial", TERM, marks=LATER),
    pytest.param("generate", "open out.partial", INT, marks=LATER),
]


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
  """A folder with data, a config, a trained run, and what whole commands leave."""
  folder = tmp_path_factory.mktemp("kills")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    trust_kills.write(folder)
    (folder / "prompts.txt").write_text("".join(f"a{i}\n" for i in range(20)))
    cli.main.run(["transfer-gen", *TRAIN])
    for name, words in COMMANDS.items():
      cli.main.run(["transfer-gen", *words[:-1], f"--output={name}"])
  assert not killing.left(folder)
  return folder


@pytest.fixture(name="folder")
def _folder(made, monkeypatch):
  monkeypatch.chdir(made)
  yield made
  for path in made.glob("out*"):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("name, point, number", POINTS)
def test_a_killed_command_is_given_again_and_leaves_what_a_whole_one_does(
    folder, capsys, name, point, number):
  printed = killing.kill(folder, point, number, *COMMANDS[name])

  left = killing.left(folder)
  if number == KILL:
    assert left
  else:  # It can still remove what nobody will use; answers are kept.
    assert f"Interrupted by {number.name}" in printed
    assert left == (["out.progress"] if name == "generate" else [])
  cli.run(capsys, *COMMANDS[name])
  assert trust_kills.files(folder / "out") == trust_kills.files(folder / name)
  assert not killing.left(folder)


def test_a_command_that_was_killed_after_its_last_step_is_done(folder, capsys):
  killing.kill(folder, "os.remove out.partial.lock", KILL, *CONVERT)

  assert trust_kills.files(folder / "out") == trust_kills.files(folder / "convert")
  assert killing.left(folder) == ["out.partial.lock"]
  assert "out: is there already" in cli.refused(capsys, *CONVERT)
  assert not killing.left(folder)


# The disk is full from a point on: what is named, what is left, and when it is tried.
FULL = [
    (CONVERT, "open out.partial/model.safetensors", "out", []),
    pytest.param(CONVERT, "open out.partial/config.json.partial", "out", [],
                 marks=LATER),
    pytest.param(("convert", "--source=convert", "--to=orbax", "--output=out"),
                 "os.mkdir out.partial", "out", [], marks=LATER),
    (GENERATE, "open out.progress", "out.progress", ["out.progress"]),
    pytest.param(GENERATE, "open out.partial", "out", ["out.progress"], marks=LATER),
    pytest.param(PLAN, "open out/plan.json.partial", "out/plan.json", ["out"],
                 marks=LATER),
    (PLAN, "open out/audit.txt.partial", "out/audit.txt",
     ["out", "out/audit.json", "out/plan.json"]),
]


@pytest.mark.parametrize("words, point, named, left", FULL)
def test_a_full_disk_is_one_message_and_nothing_half_written(
    folder, capsys, words, point, named, left):
  message = killing.fill(folder, point, *words)

  assert message.startswith(f"transfer-gen: {named}: cannot be written: File too large")
  assert left == sorted(
      str(path.relative_to(folder)) for out in folder.glob("out*")
      for path in (out, *out.rglob("*")))
  cli.run(capsys, *words)  # With room, the same command succeeds.
  assert not killing.left(folder)
  if words == GENERATE:
    assert trust_kills.files(folder / "out") == trust_kills.files(folder / "generate")


@pytest.fixture(scope="module", name="studied")
def _studied(made):
  killing.finish(made, *STUDY[:-1], "--workdir=study")
  # Not here, since on eight devices sums are added in another order.
  return trust_kills.studied(made / "study"), _samples(made / "study")


def _samples(workdir):
  return {str(path.relative_to(workdir)): path.read_text()
          for path in workdir.rglob("samples.jsonl")}


@pytest.mark.long
@pytest.mark.parametrize("point, number", [
    ("os.rename out/scratch/seed_0/lr_0.001/config.json.partial", KILL),
    ("os.rename .*/moved/.*/checkpoints/10.orbax-checkpoint-tmp.*", KILL),
    ("open out/moved/.*/metrics.jsonl.partial", TERM),
    ("os.rename out/scratch/.*/samples.jsonl.partial", INT),
    ("open out/report.html.partial", KILL)])
def test_a_killed_study_goes_on_and_finds_what_a_whole_one_does(
    folder, studied, point, number):
  printed = killing.kill(folder, point, number, *STUDY)
  assert number == KILL or f"Interrupted by {number.name}" in printed
  assert not (folder / "out" / "report.html").exists()

  killing.finish(folder, *STUDY)

  assert (trust_kills.studied(folder / "out"), _samples(folder / "out")) == studied
  assert not killing.left(folder)


@pytest.mark.long
@pytest.mark.parametrize("file", ["results.json", "report.html"])
def test_a_study_whose_report_finds_no_room_is_reported_when_there_is(
    folder, studied, file):
  message = killing.fill(folder, f"open out/{file}.partial", *STUDY)

  assert message.startswith(f"transfer-gen: out/{file}: cannot be written: File too")
  assert not (folder / "out" / file).exists() and not killing.left(folder)
  killing.finish(folder, *STUDY)
  assert (trust_kills.studied(folder / "out"), _samples(folder / "out")) == studied


@pytest.fixture(scope="module", name="prepared")
def _prepared(made):
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(made)
    patch.setenv("TFDS_DATA_DIR", str(made / "whole" / "data"))
    cli.main.run(["transfer-gen", *PREPARE[:-1], "--workdir=whole/plan"])
  return trust_kills.prepared(made / "whole")


@pytest.mark.long
@pytest.mark.parametrize("point, number", [
    ("open .*/incomplete[^/]*/dataset_info.json", KILL),
    ("os.rename .*/incomplete[^/]*", KILL), ("os.rename .*/incomplete[^/]*", TERM),
    ("os.rename out/plan/audit.txt.partial", KILL)])
def test_killed_preparation_of_data_starts_again_and_leaves_nothing(
    folder, prepared, capsys, monkeypatch, point, number):
  monkeypatch.setenv("TFDS_DATA_DIR", str(folder / "out" / "data"))
  killing.kill(folder, point, number, *PREPARE)

  cli.run(capsys, *PREPARE)

  assert trust_kills.prepared(folder / "out") == prepared
  left = [name for name in killing.left(folder) if not name.startswith("whole")]
  # The lock of a data set stays, since several commands may wait for it.
  assert left == ["out/data/.cldr_translation_en-de.lock"]
