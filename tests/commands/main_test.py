"""The command line: what is wrong is said once, with exit code 2 and no trace."""

import importlib
import json
import pathlib
import re
import subprocess
import sys

import pytest

from tests import paths
from transfer_gen import __main__ as main
from transfer_gen import checkpoint
from transfer_gen import config as config_lib
from transfer_gen.commands import declarations
from transfer_gen.config import codec, file
from transfer_gen.models import registry
from transfer_gen.run import loop
from transfer_gen.transfer import audit as audit_lib

CONFIG = '''
from transfer_gen import config
from transfer_gen.transfer import axes, plan
Group, On, Rule = plan.Group, plan.On, plan.Rule

def get_config(name="text"):
  return config.Run(
      model=config.Decoder(num_layers=1, width=8, num_heads=2, max_length=32),
      data=config.Data(name="files", train="text.txt", length=16),
      tokenizer=config.Tokenizer(kind="characters"),
      optim=config.Optim(warmup_steps=1),
      train=config.Train(steps=2, batch_size=8, log_every=1, eval_every=2,
                         checkpoint_every=1),
      source=config.Source(path="first") if name == "moved" else None,
      transfer=_plan if name == "moved" else None)

def _plan(run):
  return plan.TransferPlan(
      rules=(Rule(target="(.*)", source=r"\\1"),),
      axes=(On(axis="vocab", map=axes.MatchTokens()),),
      groups=(Group(name="all", params=".*"),))
'''

QUICKSTART = paths.EXPERIMENTS / "quickstart.py"


@pytest.fixture(name="folder")
def _folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  lines = [f"the {i}th line tells of {i * 7 % 13} things" for i in range(200)]
  (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
  (tmp_path / "config.py").write_text(CONFIG)
  return tmp_path


def _run(capsys, *words):
  with pytest.raises(SystemExit) as exit_:
    main.run(["transfer-gen", *words])
  return exit_.value.code, capsys.readouterr()


def _refused(capsys, *words):
  code, told = _run(capsys, *words)
  assert code == 2 and "Traceback" not in told.err
  assert told.err.count("transfer-gen: ") == 1
  return told.err


@pytest.mark.parametrize("command", ["", *declarations.COMMANDS])
def test_help_is_short_and_names_every_flag_with_its_default(capsys, command):
  code, printed = _run(capsys, *([command] if command else []), "--help")

  lines = printed.out.splitlines()
  assert code == 0 and len(lines) < 25 and max(map(len, lines)) <= 100
  for flag in declarations.COMMANDS[command].flags if command else ():
    [start] = [i for i, line in enumerate(lines)
               if re.match(f"  --{flag.name}( |=)", line)]
    described = re.split("  --(?!config.a.b)", "\n".join(lines[start:]))[1]
    quiet = flag.default is None or flag.default is False or flag.default == ""
    assert quiet != (f"Default: {flag.default}." in described)
    assert flag.required == ("Required." in described)


def test_usage_lists_every_command_and_each_has_a_module(capsys):
  printed = _run(capsys, "--help")[1].out

  for name, command in declarations.COMMANDS.items():
    assert f"  {name:10}{command.summary}" in printed.splitlines()
    module = importlib.import_module(f"transfer_gen.commands.{name}")
    assert callable(module.run)


@pytest.mark.parametrize("words", [
    "--help", "train --help", "--version", "nothing", "train --workdir=w",
    "train --config=no.py --workdir=w", "generate --steps=3"])
def test_help_and_mistyped_words_do_not_wait_for_jax(words):
  code = ("import sys; sys.argv[0] = 'transfer-gen'\n"
          "from transfer_gen import __main__ as main\n"
          "try: main.run()\n"
          "except SystemExit: print('jax' in sys.modules, 'numpy' in sys.modules)")

  printed = subprocess.run(
      [sys.executable, "-c", code, *words.split()], capture_output=True, text=True,
      check=True).stdout

  assert printed.splitlines()[-1] == "False False"


def test_version_is_that_of_the_package(capsys):
  code, printed = _run(capsys, "--version")

  setup = (pathlib.Path(__file__).parents[2] / "setup.cfg").read_text()
  version = re.search(r"^version = (.+)$", setup, re.MULTILINE)[1]
  assert code == 0 and printed.out == f"transfer-gen {version}\n"


def test_no_command_prints_the_usage_and_fails(capsys):
  code, printed = _run(capsys)

  assert code == 2 and "usage: transfer-gen COMMAND" in printed.out


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
     "invalid literal for int"),
    (["plan", "--config=config.py", "--workdir=w", "--config.data=3"],
     "config.data is not a single value. Override one of its fields: name, train"),
    (["plan", "--config=config.py", "--workdir=w", "--steps=3"],
     "Unknown command line flag 'steps'"),
    (["plan", "--config=config.py", "--workdir=w", "extra"], "'extra' is not a flag"),
    (["study", "--config=config.py", "--workdir=w"],
     "config.py has no function get_study"),
    (["pla"], "'pla' is not a command"),
    (["plan", "--config=config.py:moved", "--workdir=w"],
     "first: there is no such file or folder"),
    (["plan", "--config=config.py", "--workdir=w", "--config.data.train=empty.txt"],
     "empty.txt"),
    (["plan", "--config=config.py", "--workdir=w", "--config.data.train=latin.txt"],
     "latin.txt:2: invalid UTF-8"),
    (["generate", "--workdir=w", "--prompts=empty.txt"], "empty.txt: holds no text"),
    (["generate", "--workdir=w", "--prompts=no.txt"], "no.txt: there is no such file"),
    (["plan", "--config=config.py", "--workdir=w", "--config.model.num_heads=3"],
     "num_heads"),
    (["plan", "--config=config.py", "--workdir=w", "--config.optim.name=adam"],
     "adamw, adafactor, sgd, lion"),
    (["train", "--config=config.py", "--workdir=w", "--config.train.steps=0"],
     "train.steps is 0"),
    (["generate", "--workdir=w", "--prompt=a"], "not the workdir of a run"),
    (["generate", "--workdir=w"], "either --prompt=TEXT or --prompts=FILE"),
    (["evaluate", "--workdir=w"], "not the workdir of a run"),
    (["inspect", "--source=config.py"], "not a checkpoint"),
    (["plan", "--config=config.py", "--workdir=w", "--diff=no"],
     "no: has no audit.json; `plan` and `train` write one"),
    (["plan", "--config=config.py", "--workdir=w", "--suggest"],
     "--suggest needs a source in the config"),
    (["plan", "--config=config.py", "--workdir=w", "--min_coverage=80"],
     "min_coverage is 80, must be from 0 to 1"),
    (["train", "--config=config.py", "--workdir=w", "--min_coverage=0.5"],
     "fills 0.0% of the target's params from the source"),
])
def test_bad_input_gets_one_message_and_leaves_nothing(folder, capsys, words, message):
  (folder / "empty.txt").write_text("")
  (folder / "latin.txt").write_bytes(b"good\nb\xe4d\n")

  assert message in _refused(capsys, *words)
  assert not (folder / "w").exists()


def _train(capsys, *words):
  main.run(["transfer-gen", "train", *words])
  return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_run_is_trained_moved_tested_and_asked(folder, capsys):
  first = _train(capsys, "--config=config.py", "--workdir=first")
  (folder / "text.txt").write_text(
      "".join(f"another text: {i} zebras & {i * 3} quails\n" for i in range(200)))

  main.run(["transfer-gen", "plan", "--config=config.py:moved", "--workdir=moved"])
  audit = capsys.readouterr().out
  moved = _train(capsys, "--config=config.py:moved", "--workdir=moved")
  main.run(["transfer-gen", "evaluate", "--workdir=moved"])
  scored = json.loads(capsys.readouterr().out.splitlines()[-1])
  main.run(["transfer-gen", "generate", "--workdir=moved", "--prompt=another",
            "--num=2", "--temperature=1", "--max_tokens=5"])
  generated = capsys.readouterr().out
  main.run(["transfer-gen", "inspect", "--source=moved"])
  leaves = capsys.readouterr().out

  assert first["step"] == moved["step"] == 2
  assert "vocab: " in audit and "copied" in audit and "left behind" in audit
  assert "Every leaf: moved/audit.txt" in audit and "\x1b" not in audit
  for name in registry.specs(registry.build(codec.read_run("moved").model)):
    assert f"\n{name} " in (folder / "moved" / "audit.txt").read_text()
  assert scored["loss"] > 0 and scored["documents"] > 5
  assert "--- 2 of 2" in generated
  assert len((folder / "moved" / "samples.jsonl").read_text().splitlines()) == 2
  assert "embed/embedding" in leaves and "total" in leaves
  message = _refused(
      capsys, "generate", "--workdir=moved", "--prompt=\u4f60")
  assert "\u4f60" in message
  message = _refused(capsys, "evaluate", "--workdir=moved", "--step=7")
  assert "no checkpoint of step 7; there are [1, 2]" in message


def test_a_misfit_is_told_before_any_array_is_read(folder, capsys, monkeypatch):
  _train(capsys, "--config=config.py", "--workdir=first")
  monkeypatch.setattr(checkpoint.Stored, "read", None)  # Whoever reads fails.

  message = _refused(
      capsys, "plan", "--config=config.py:moved", "--workdir=moved",
      "--config.model.width=16")

  assert "axis `embed` is 8 in the source and 16 here" in message
  assert not (folder / "moved").exists()


def test_a_loss_that_is_not_finite_stops_the_run(folder, capsys):
  message = _refused(
      capsys, "train", "--config=config.py", "--workdir=w", "--config.optim.lr=1e30",
      "--config.optim.clip_norm=0", "--config.train.steps=9")

  assert "at step 2" in message
  assert "The last good checkpoint is of step 1." in message


def test_training_stops_early_and_keeps_the_best(folder):
  run = file.load_run("config.py")
  run.optim.lr, run.optim.schedule, run.optim.clip_norm = 0.5, "constant", 0.0
  run.train = config_lib.Train(steps=200, batch_size=8, log_every=50, eval_every=1,
                               checkpoint_every=100, patience=2)

  result = loop.train(run, folder / "w")

  assert result["step"] == result["best_step"] + 2 < 200
  best = [p.name for p in (folder / "w" / "checkpoints" / "best").iterdir()]
  assert best == [str(result["best_step"])]


def test_a_workdir_is_not_planned_over_and_other_texts_are_not_gone_on_with(
    folder, capsys):
  _train(capsys, "--config=config.py", "--workdir=first")
  before = (folder / "first" / "plan.json").read_text()
  planned = ["plan", "--config=config.py:moved", "--workdir=first",
             "--config.source.path=first"]

  message = _refused(capsys, *planned)
  text = (folder / "text.txt").read_text()
  (folder / "text.txt").write_text(text.replace("things", "lines"))
  changed = _refused(capsys, "train", "--config=config.py", "--workdir=first")

  assert "source: None there, {'path': 'first'" in message
  assert (folder / "first" / "plan.json").read_text() == before
  assert "data (the texts themselves)" in changed


def test_a_split_that_is_none_is_refused(folder, capsys):
  _train(capsys, "--config=config.py", "--workdir=first")

  assert "train, validation, test" in _refused(
      capsys, "evaluate", "--workdir=first", "--split=dev")


def test_the_tokenizers_of_both_sides_stay_with_a_run(folder, capsys):
  _train(capsys, "--config=config.py", "--workdir=first")
  _train(capsys, "--config=config.py:moved", "--workdir=moved")

  there = folder / "moved" / "tokenizer"
  assert (there / "source").is_dir()
  for path in (folder / "first" / "tokenizer").iterdir():
    assert (there / "source" / path.name).read_text() == path.read_text()


def _moved(folder, capsys):
  """A source, and texts with another vocabulary."""
  _train(capsys, "--config=config.py", "--workdir=first")
  (folder / "text.txt").write_text(
      "".join(f"another text: {i} zebras & {i * 3} quails\n" for i in range(200)))


def _plan(capsys, *words):
  main.run(["transfer-gen", "plan", "--config=config.py:moved", *words])
  return capsys.readouterr().out


def test_a_first_plan_is_suggested_and_resolves_once_written_down(folder, capsys):
  _moved(folder, capsys)
  wider = ["--config.model.width=16", "--config.model.head_dim=4",
           "--config.model.num_heads=4", "--config.model.num_layers=2"]

  code = _plan(capsys, "--workdir=w", "--suggest", *wider)
  assert not (folder / "w").exists()
  (folder / "config.py").write_text(
      CONFIG.replace("transfer=_plan", "transfer=transfer") + code)
  told = _plan(capsys, "--workdir=w", *wider)

  assert "vocab: " in told and "embed: grown 8 to 16" in told
  assert "fresh (init)" in told and "layer_1/" in told


def test_a_suggestion_that_does_not_fit_yet_says_why(folder, capsys):
  _moved(folder, capsys)

  code = _plan(capsys, "--workdir=w", "--suggest", "--config.model.width=16")

  assert "# Plan does not fit" in code and "#   layer_0/attn/" in code
  compile(code, "plan.py", "exec")


def test_plan_shows_the_rows_that_differ_from_another_workdir(folder, capsys):
  _moved(folder, capsys)
  _plan(capsys, "--workdir=one")
  text = (folder / "config.py").read_text()
  (folder / "config.py").write_text(text.replace("rules=(", """rules=(
      Rule(target="final_norm/.*", source=None),""").replace(
          "groups=(", """unused_source=("final_norm/.*",), groups=("""))

  told = _plan(capsys, "--workdir=two", "--diff=one")
  same = _plan(capsys, "--workdir=two", "--diff=two")

  lines = told.splitlines()
  assert [line.split()[0] for line in lines] == [
      "leaf", "final_norm/bias", "final_norm/scale"]
  assert "from final_norm/bias, copy" in lines[1] and "fresh (init)" in lines[1]
  assert same == "No row differs from two.\n"


def test_another_plan_is_refused_with_the_rows_that_differ(folder, capsys):
  _moved(folder, capsys)
  _train(capsys, "--config=config.py:moved", "--workdir=moved")
  text = (folder / "config.py").read_text()
  frozen = """groups=(Group(name="head", params="embed/.*", unfreeze_step=None),"""
  (folder / "config.py").write_text(text.replace("groups=(", frozen))
  wanted = ["train", "--config=config.py:moved", "--workdir=moved"]

  message = _refused(capsys, *wanted)
  (folder / "config.py").write_text(text.replace(
      "source=r\"\\1\")", "source=r\"\\1\", why=\"a reason\")"))
  reworded = _refused(capsys, *wanted)

  assert "moved belongs to another plan" in message
  assert "embed/embedding" in message and "head, unfreeze_step=None" in message
  assert "final_norm" not in message
  assert "No row differs" in reworded and "a reason" in reworded


def test_a_plan_that_fills_too_little_is_refused(folder, capsys):
  _moved(folder, capsys)
  least = ["--config=config.py:moved", "--workdir=w"]

  message = _refused(capsys, "plan", *least, "--min_coverage=0.99")
  assert not (folder / "w").exists()
  main.run(["transfer-gen", "plan", *least, "--min_coverage=0.5"])

  assert "99%" in message and "embed/embedding: " in message
  assert "attn" not in message


def test_origins_of_fresh_rows_are_told_on_request(folder, capsys):
  _moved(folder, capsys)

  told = _plan(capsys, "--workdir=w", "--origins=3")

  binding = audit_lib.read("w").rows[0].changes[0].binding
  fresh = [i for i, source in enumerate(binding.index) if source < 0]
  assert f"{len(fresh)} entries without a source" in told
  lines = told[told.index("without a source"):].splitlines()[1:]
  assert [int(line.split(":")[0]) for line in lines[:3]] == fresh[:3]
  assert lines[3].split() == ["and", str(len(fresh) - 3), "more"]


def test_colours_are_for_terminals(folder, capsys, monkeypatch):
  monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
  monkeypatch.delenv("NO_COLOR", raising=False)
  words = ["plan", "--config=config.py", "--workdir=w"]

  main.run(["transfer-gen", *words])
  colored = capsys.readouterr().out
  monkeypatch.setenv("NO_COLOR", "1")
  main.run(["transfer-gen", *words])
  plain = capsys.readouterr().out

  assert "\x1b[1;33mlayer_0/attn/key/bias" in colored
  assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == plain
  assert "\x1b" not in (folder / "w" / "audit.txt").read_text()


def test_a_run_of_an_older_version_goes_on(folder, capsys):
  wanted = ["--config=config.py", "--workdir=old"]
  _train(capsys, *wanted)
  written = folder / "old" / "config.json"
  config = json.loads(written.read_text())
  del config["sources"], config["model"]["sinusoid_width"]
  written.write_text(json.dumps(config))

  _train(capsys, *wanted)

  config["seed"] = 7
  written.write_text(json.dumps(config))
  assert "seed: 7 there, 0 here" in _refused(capsys, "train", *wanted)


def test_a_plan_may_read_several_checkpoints(folder, capsys):
  for seed, name in enumerate(("first", "second")):
    _train(capsys, "--config=config.py", f"--config.seed={seed}", f"--workdir={name}")
  text = (folder / "config.py").read_text()
  (folder / "config.py").write_text(text.replace(
      'source=config.Source(path="first")',
      'sources={"donor": config.Source(path="second")},'
      ' source=config.Source(path="first")').replace(
          "rules=(", 'unused_source=("embed/.*", "donor:(?!embed).*"), rules=(Rule('
          'target="embed/.*", source="embed/embedding", checkpoint="donor"),'))

  told = _plan(capsys, "--workdir=moved")
  _train(capsys, "--config=config.py:moved", "--workdir=moved",
         "--config.optim.lr=1e-9")

  assert "donor:embed/embedding" in told
  assert codec.read_run("moved").sources["donor"].path == "second"
  for leaf, whose in (
      ("embed/embedding", "second"), ("layer_0/mlp/up/kernel", "first")):
    moved, source = (dict(checkpoint.find(name, 2).read([leaf]))[leaf]
                     for name in ("moved", whose))
    assert abs(moved - source).max() < 1e-6 < abs(source).max()
