"""Tests for config files: loading, checking, and overriding them with flags."""

import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen.commands import flags
from transfer_gen.config import file, validate

START = "from transfer_gen import config\n"


def _write(folder, code):
  path = folder / "config.py"
  path.write_text(code)
  return str(path)


def test_a_config_file_runs_once_and_receives_its_argument(tmp_path):
  path = _write(tmp_path, START + (
      "def get_config(name='none'):\n"
      "  open(__file__ + '.calls', 'a').write(name + ' ')\n"
      "  return config.Run(seed=len(name))\n"))

  values = flags.parse("plan", [
      "--config.train.steps=3", f"--config={path}:abc", "--noconfig.data.drop_empty",
      "-config.optim.lr", "0.5", "--workdir", "w"])

  assert (tmp_path / "config.py.calls").read_text() == "abc "
  assert values.config == config.Run(
      seed=3, train=config.Train(steps=3), optim=config.Optim(lr=0.5))
  assert values.workdir == "w" and values.min_coverage == 0.0
  assert file.load_run(path).seed == 4


def test_a_flag_of_a_part_that_is_left_out_adds_the_part(tmp_path):
  path = _write(tmp_path, START + "get_config = config.Run")

  run = flags.parse("plan", [
      f"--config={path}", "--workdir=w", "--config.source.path=there",
      "--config.encoder_tokenizer.kind", "bytes"]).config

  assert run == config.Run(source=config.Source(path="there"),
                           encoder_tokenizer=config.Tokenizer(kind="bytes"))
  assert config.Run().source is None


def test_flags_can_be_read_from_a_flag_file(tmp_path):
  path = _write(tmp_path, START + "get_config = config.Run")
  (tmp_path / "flags.txt").write_text(
      f"--config={path}\n--config.seed=7\n--workdir=w\n")

  values = flags.parse("train", [f"--flagfile={tmp_path}/flags.txt"])

  assert values.config.seed == 7 and values.workdir == "w"


@pytest.mark.parametrize("code, message", [
    ("", "has no function get_config. Define one that returns a transfer_gen.config."),
    ("get_study = None", "It has get_study, which is for `transfer-gen study`. Define"),
    ("def get_config(:", "failed at line 1: SyntaxError"),
    ("import no_such_module", "failed at line 1: ModuleNotFoundError"),
    ("\ndef get_config():\n  return 1 / 0", "failed at line 3: ZeroDivisionError"),
    ("import sys\nsys.exit(3)", "failed at line 2: SystemExit: 3"),
    ("def get_config(): return {}['a']", "failed at line 1: KeyError: 'a'"),
    ("get_config = lambda: None", "a value of type NoneType, and must return"),
    ("get_config = lambda: 3", "a value of type int, and must return a"),
    (START + "get_config = lambda: config.Study('q', {}, ())",
     "a value of type Study"),
    (START + "get_config = lambda: config.Run(data='text.txt', seed='0')",
     "config.data is 'text.txt', must be a config.Data.\n  config.seed is '0', must"),
])
def test_an_invalid_config_file_is_reported_with_its_cause(tmp_path, code, message):
  with pytest.raises(errors.UserError) as raised:
    file.load_run(_write(tmp_path, code))

  assert message in str(raised.value)


@pytest.mark.parametrize("code, expected", [
    ("def get_study(): return 1", True), ("get_study = print", True),
    ("if True:\n  from os import getcwd as get_study", True),
    ("def get_study(:", True),  # Loading it says what is wrong.
    ("print(get_study)", False), ("def get_config():\n  get_study = 1", False)])
def test_a_file_has_a_study_however_it_comes_by_the_name(tmp_path, code, expected):
  assert file.has_study(_write(tmp_path, code)) == expected


@pytest.mark.parametrize("changes, field", [
    ("runs={}", "runs"), ("pairs=()", "pairs"), ("seeds=()", "seeds")])
def test_a_study_with_an_empty_field_is_refused(tmp_path, changes, field):
  path = _write(tmp_path, START + (
      "import dataclasses\n"
      "whole = config.Study('q', {'a': config.Run()}, (('a', 'a'),))\n"
      f"get_study = lambda: dataclasses.replace(whole, {changes})\n"))

  with pytest.raises(errors.UserError, match=f"config.{field} is .* that is not empty"):
    file.load_study(path)


def test_an_argument_unknown_to_the_config_file_is_reported(tmp_path):
  known = _write(tmp_path, "def get_config(name):\n  return {'a': 1}[name]")
  (tmp_path / "other.py").write_text("import operator\nget_config = {}.__getitem__\n")

  with pytest.raises(errors.UserError, match="does not accept .*'b' .*line 2"):
    file.load_run(f"{known}:b")
  with pytest.raises(errors.UserError, match="does not accept the argument 'b'"):
    file.load_run(f"{tmp_path}/other.py:b")


@pytest.mark.parametrize("flag, message", [
    ("--config.optim.lrr=1", "config.optim has no field 'lrr'. Nearest: lr."),
    ("--noconfig.data.drop_emty",
     "config.data has no field 'drop_emty'. Nearest: drop_empty"),
    ("--config.optim.xyz=1", "Its fields are name, lr,"),
    ("--config.optim=1", "Override one of its fields: name, lr,"),
    ("--config.source.path=a", "config.source is None"),
    ("--config.seed.a=1", "config.seed has no field 'a'."),
    ("--config.sources={}", "a flag cannot change config.sources"),
    ("--config.transfer.rules=()", "a flag cannot change config.transfer"),
])
def test_an_override_must_name_an_existing_single_value(flag, message):
  with pytest.raises(errors.UserError) as raised:
    file.check_overrides(config.Run(), ["--workdir=w", flag])

  assert message in str(raised.value)


@pytest.mark.parametrize("changes, message", [
    ({"optim": config.Optim(lr="x")}, "config.optim.lr is 'x', must be a number"),
    ({"train": config.Train(steps=1.5)}, "config.train.steps is 1.5, must be a whole"),
    ({"source": "first"}, "must be a config.Source or None."),
    ({"sources": {"a": 3}}, "config.sources['a'] is 3, must be a config.Source."),
    ({"data": config.Data(buckets=("a",))}, "config.data.buckets[0] is 'a'"),
    ({"data": config.Data(buckets=3)}, "config.data.buckets is 3, must be a tuple."),
    ({"distill": config.Distill(layers=((1, 2, 3),))}, "must have 2 elements"),
    ({"adapters": (3,)}, "config.adapters[0] is 3, must be a config.LoRA or"),
    ({"model": 3}, "config.model is 3, must be a config.Decoder or"),
])
def test_values_must_have_the_types_of_their_fields(changes, message):
  with pytest.raises(errors.UserError) as raised:
    validate.check(config.Run(**changes))

  assert message in str(raised.value)


def test_equivalent_types_are_accepted():
  validate.check(config.Run(
      optim=config.Optim(lr=1), data=config.Data(buckets=[8, 16]), adapters=[],
      model=config.EncoderDecoder(), transfer=lambda run: None))
  validate.check(config.Study(
      question="q", runs={"a": config.Run()}, pairs=[["a", "a"]], seeds=[1]))
