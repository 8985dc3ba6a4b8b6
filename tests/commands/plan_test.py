"""Tests for the `plan` command: its output, its suggestions and its errors."""

import re
import sys

from tests.commands import cli
from transfer_gen import checkpoint
from transfer_gen.config import codec
from transfer_gen.transfer import audit as audit_lib


def test_a_suggested_plan_resolves_when_pasted_into_the_config(folder, capsys):
  cli.train_source(folder, capsys)
  wider = ["--config.model.width=16", "--config.model.head_dim=4",
           "--config.model.num_heads=4", "--config.model.num_layers=2"]

  code = cli.plan(capsys, "--workdir=w", "--suggest", *wider)
  assert not (folder / "w").exists()
  (folder / "config.py").write_text(
      cli.CONFIG.replace("transfer=_plan", "transfer=transfer") + code)
  printed = cli.plan(capsys, "--workdir=w", *wider)

  assert "vocab: " in printed and "embed: grown 8 to 16" in printed
  assert "fresh (init)" in printed and "layer_1/" in printed


def test_an_incomplete_suggestion_lists_its_misfits(folder, capsys):
  cli.train_source(folder, capsys)

  code = cli.plan(capsys, "--workdir=w", "--suggest", "--config.model.width=16")

  assert "# Plan does not fit" in code and "#   layer_0/attn/" in code
  compile(code, "plan.py", "exec")


def test_diff_lists_the_rows_that_differ_from_another_workdir(folder, capsys):
  cli.train_source(folder, capsys)
  cli.plan(capsys, "--workdir=one")
  text = (folder / "config.py").read_text()
  (folder / "config.py").write_text(text.replace("rules=(", """rules=(
      Rule(target="final_norm/.*", source=None),""").replace(
          "groups=(", """unused_source=("final_norm/.*",), groups=("""))

  printed = cli.plan(capsys, "--workdir=two", "--diff=one")
  same = cli.plan(capsys, "--workdir=two", "--diff=two")

  lines = printed.splitlines()
  assert [line.split()[0] for line in lines] == [
      "leaf", "final_norm/bias", "final_norm/scale"]
  assert "from final_norm/bias, copy" in lines[1] and "fresh (init)" in lines[1]
  assert same == "No row differs from two.\n"


def test_a_workdir_of_another_plan_is_refused_with_the_differing_rows(folder, capsys):
  cli.train_source(folder, capsys)
  cli.train(capsys, "--config=config.py:moved", "--workdir=moved")
  text = (folder / "config.py").read_text()
  frozen = """groups=(
      Group(name="head", params="layer_0/mlp/.*", unfreeze_step=None),"""
  (folder / "config.py").write_text(text.replace("groups=(", frozen))
  wanted = ["train", "--config=config.py:moved", "--workdir=moved"]

  message = cli.refused(capsys, *wanted)
  (folder / "config.py").write_text(text.replace(
      "source=r\"\\1\")", "source=r\"\\1\", why=\"a reason\")"))
  reworded = cli.refused(capsys, *wanted)

  assert "moved belongs to another plan" in message
  assert "layer_0/mlp" in message and "head, unfreeze_step=None" in message
  assert "final_norm" not in message
  assert "No row differs" in reworded and "a reason" in reworded


def test_a_plan_below_the_minimum_coverage_is_refused(folder, capsys):
  cli.train_source(folder, capsys)
  flags = ["--config=config.py:moved", "--workdir=w"]

  message = cli.refused(capsys, "plan", *flags, "--min_coverage=0.99")
  assert not (folder / "w").exists()
  cli.run(capsys, "plan", *flags, "--min_coverage=0.5")

  assert "99%" in message and "embed/embedding: " in message
  assert "attn" not in message


def test_origins_lists_the_initial_values_of_new_rows(folder, capsys):
  cli.train_source(folder, capsys)

  printed = cli.plan(capsys, "--workdir=w", "--origins=3")

  binding = audit_lib.read("w").rows[0].changes[0].binding
  fresh = [i for i, source in enumerate(binding.index) if source < 0]
  assert f"{len(fresh)} entries without a source" in printed
  lines = printed[printed.index("without a source"):].splitlines()[1:]
  assert [int(line.split(":")[0]) for line in lines[:3]] == fresh[:3]
  assert lines[3].split() == ["and", str(len(fresh) - 3), "more"]


def test_colors_are_printed_only_to_terminals(folder, capsys, monkeypatch):
  monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
  monkeypatch.delenv("NO_COLOR", raising=False)
  words = ["plan", "--config=config.py", "--workdir=w"]

  colored = cli.run(capsys, *words)
  monkeypatch.setenv("NO_COLOR", "1")
  plain = cli.run(capsys, *words)

  assert "\x1b[1;33mlayer_0/attn/key/bias" in colored
  assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == plain
  assert "\x1b" not in (folder / "w" / "audit.txt").read_text()


def test_a_misfit_is_reported_before_any_array_is_read(folder, capsys, monkeypatch):
  cli.train(capsys, "--config=config.py", "--workdir=first")
  monkeypatch.setattr(checkpoint.Stored, "read", None)  # Any attempt to read fails.

  message = cli.refused(
      capsys, "plan", "--config=config.py:moved", "--workdir=moved",
      "--config.model.width=16")

  assert "axis `embed` is 8 in the source and 16 here" in message
  assert not (folder / "moved").exists()


def test_a_plan_can_read_several_checkpoints(folder, capsys):
  for seed, name in enumerate(("first", "second")):
    cli.train(
        capsys, "--config=config.py", f"--config.seed={seed}", f"--workdir={name}")
  text = (folder / "config.py").read_text()
  (folder / "config.py").write_text(text.replace(
      'source=config.Source(path="first")',
      'sources={"donor": config.Source(path="second")},'
      ' source=config.Source(path="first")').replace(
          "rules=(", 'unused_source=("embed/.*", "donor:(?!embed).*"), rules=(Rule('
          'target="embed/.*", source="embed/embedding", checkpoint="donor"),'))

  printed = cli.plan(capsys, "--workdir=moved")
  cli.train(capsys, "--config=config.py:moved", "--workdir=moved",
         "--config.optim.lr=1e-9")

  assert "donor:embed/embedding" in printed
  assert codec.read_run("moved").sources["donor"].path == "second"
  for leaf, whose in (
      ("embed/embedding", "second"), ("layer_0/mlp/up/kernel", "first")):
    moved, source = (dict(checkpoint.find(name, 2).read([leaf]))[leaf]
                     for name in ("moved", whose))
    # With a learning rate of 1e-9, two steps leave the params where they started.
    assert abs(moved - source).max() < 1e-6 < abs(source).max()
