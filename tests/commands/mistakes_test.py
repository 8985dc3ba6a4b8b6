"""A mistake of the user gets one message, exit code 2 and no traceback."""

import pytest

from tests import paths
from tests.commands import cli

QUICKSTART = paths.EXPERIMENTS / "quickstart.py"


@pytest.mark.parametrize("words, message", [
    (["plan", "--config=no.py", "--workdir=w"], "there is no file no.py"),
    (["plan", "--workdir=w"], "`plan` needs --config=FILE.py"),
    (["plan", "--config=config.py"], "`plan` needs --workdir=DIR"),
    (["plan", "--config=text.txt", "--workdir=w"], "text.txt failed at line 1"),
    (["plan", f"--config={QUICKSTART}:transfr", "--workdir=w"],
     "quickstart.py does not accept the argument 'transfr' (KeyError at line"),
    (["study", f"--config={QUICKSTART}:ful", "--workdir=w"],
     "quickstart.py does not accept the argument 'ful' (KeyError at line"),
    (["plan", "--config=config.py", "--workdir=w", "--config.optim.lrr=1"],
     "config.optim has no field 'lrr'. Nearest: lr."),
    (["plan", "--config=config.py", "--workdir=w", "--config.train.steps=many"],
     "--config.train.steps is 'many', must be a whole number"),
    (["plan", "--config=config.py", "--workdir=w", "--config.data=3"],
     "config.data is not a single value. Override one of its fields: name, train"),
    (["plan", "--config=config.py", "--workdir=w", "--steps=3"],
     "Unknown command line flag 'steps'"),
    (["plan", "--config=config.py", "--workdir=w", "extra"], "'extra' is not a flag"),
    (["plan", "--config=config.py", "--workdir=w", "--config.data.whole_files=maybe"],
     "--config.data.whole_files is 'maybe', must be true or false"),
    (["plan", "--config=config.py", "--workdir=w", "--config.data.buckets=(1,"],
     "--config.data.buckets is '(1,', must be a tuple"),
    (["plan", "--config=config.py", "--workdir=w", "--config.strategy.learn=3"],
     "config.strategy.learn[0] is 3, must be text"),
    (["plan", "--config=config.py", "--workdir=w", "--config.adapters=3"],
     "config.adapters[0] is 3, must be a config.LoRA or"),
    (["plan", "--config=config.py", "--workdir=w", "--config.source=first"],
     "--config.source is 'first', must be none, or build"),
    (["plan", "--config=config.py", "--workdir=w", "--flagfile=no"],
     "Unable to open flagfile"),
    (["plan", "--config=config.py", "--workdir=w", "--origins=-1"],
     "--origins is -1, must be at least 0"),
    (["train", "--config=config.py", "--workdir=text.txt"], "text.txt: File exists"),
    (["study", "--config=config.py", "--workdir=w"],
     "config.py has no function get_study"),
    (["study", "--config=config.py", "--workdir=w", "--config.samples=1"],
     "Unknown command line flag 'config.samples'"),
    (["pla"], "'pla' is not a command"),
    (["plan", "--config=config.py:moved", "--workdir=w"],
     "first: there is no such file or folder"),
    (["plan", "--config=config.py", "--workdir=w", "--config.data.train=empty.txt"],
     "empty.txt"),
    (["plan", "--config=config.py", "--workdir=w", "--config.data.train=latin.txt"],
     "latin.txt:2: invalid UTF-8"),
    (["generate", "--workdir=w", "--prompts=empty.txt"], "empty.txt: the file holds no text"),
    (["generate", "--workdir=w", "--prompts=no.txt"], "no.txt: there is no such file"),
    (["plan", "--config=config.py", "--workdir=w", "--config.model.num_heads=3"],
     "num_heads"),
    (["plan", "--config=config.py", "--workdir=w", "--config.optim.name=adam"],
     "adamw, adafactor, sgd, lion"),
    (["plan", "--config=config.py", "--workdir=w", "--config.seed=-1"],
     "seed is -1, must be from 0 to 2**32 - 1"),
    (["generate", "--workdir=w", "--prompt=a", f"--seed={2 ** 63}"],
     "must be at most 9223372036854775807"),
    (["train", "--config=config.py", "--workdir=w", "--config.train.steps=0"],
     "train.steps is 0"),
    (["generate", "--workdir=w", "--prompt=a"], "there is no such file or folder"),
    (["generate", "--workdir=w", "--prompt=a", "--num=0"],
     "--num is 0, must be at least 1"),
    (["generate", "--workdir=w", "--prompt=a", "--step=best"],
     "--step is 'best', must be a whole number"),
    (["generate", "--workdir=w", "--prompt=a", "--prompts=empty.txt"], "either"),
    (["generate", "--workdir=w"], "either --prompt=TEXT or --prompts=FILE"),
    (["evaluate", "--workdir=w"], "there is no such file or folder"),
    (["evaluate"], "`evaluate` needs --workdir=DIR"),
    (["inspect"], "`inspect` needs --source=PATH"),
    (["inspect", "--source=config.py"], "not a checkpoint"),
    (["convert", "--source=no", "--output=w"], "no: there is no such file or folder"),
    (["convert", "--source=no", "--output=w", "--to=onnx"], "--to is 'onnx'"),
    (["plan", "--config=config.py", "--workdir=w", "--diff=no"],
     "no: has no audit.json; `plan` and `train` write one"),
    (["plan", "--config=config.py", "--workdir=w", "--suggest"],
     "--suggest needs a source in the config"),
    (["plan", "--config=config.py", "--workdir=w", "--min_coverage=80"],
     "min_coverage is 80, must be from 0 to 1"),
    (["train", "--config=config.py", "--workdir=w", "--min_coverage=0.5"],
     "fills 0.0% of the target's params from the source"),
])
def test_a_mistake_gets_one_message_and_leaves_nothing(folder, capsys, words, message):
  (folder / "empty.txt").write_text("")
  (folder / "latin.txt").write_bytes(b"good\nb\xe4d\n")

  assert message in cli.refused(capsys, *words)
  assert not (folder / "w").exists()
