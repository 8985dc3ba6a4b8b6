"""The command line: `python -m transfer_gen COMMAND [--flags]`."""

from collections.abc import Callable, Sequence
import dataclasses
import json
import os
import sys
from typing import Any

from absl import flags
from absl import logging

from transfer_gen import errors
from transfer_gen.config import file as config_file
from transfer_gen.transfer import audit as audit_lib

_CONFIG = ("config", "study")  # A run's config takes overrides, a study's none.
_COMPUTE = ("train", "study", "evaluate", "generate")
_FLAGS: dict[str, tuple[Callable[..., Any], Any, str]] = {  # How, default, help.
    "workdir": (flags.DEFINE_string, None, "folder of the run; local or gs://"),
    "diff": (flags.DEFINE_string, None, "show the rows in which this workdir differs"),
    "suggest": (flags.DEFINE_boolean, False, "print a first plan from the two trees"),
    "origins": (flags.DEFINE_integer, 0, "tell where N rows of each map come from"),
    "min_coverage": (flags.DEFINE_float, 0.0,
                     "refuse a plan that fills less of the target's params"),
    "source": (flags.DEFINE_string, None, "a run's workdir, or any checkpoint"),
    "map": (flags.DEFINE_string, "", "architecture of a foreign source, or to write"),
    "vocabulary": (flags.DEFINE_string, "refuse",
                   "damaged entries of the source's: refuse or repair"),
    "output": (flags.DEFINE_string, None, "folder to write; must not be there yet"),
    "to": (flags.DEFINE_string, "orbax",
           "orbax: a workdir of ours; safetensors: for Transformers; keras; peft:"
           " a run's adapters alone, which the other forms merge"),
    "split": (flags.DEFINE_string, "test", "train, validation or test"),
    "step": (flags.DEFINE_integer, -1, "which checkpoint; -1: the best"),
    "prompt": (flags.DEFINE_string, None, "text to go on from; a pair's input"),
    "prompts": (flags.DEFINE_string, None, "file of prompts, one a line"),
    "num": (flags.DEFINE_integer, 1, "samples of each prompt"),
    "max_tokens": (flags.DEFINE_integer, 64, "longest continuation, in tokens"),
    "temperature": (flags.DEFINE_float, 0.0, "0: greedy"),
    "top_k": (flags.DEFINE_integer, 0, "draw from the k likeliest; 0: all"),
    "top_p": (flags.DEFINE_float, 1.0, "draw from the likeliest of this mass"),
    "beams": (flags.DEFINE_integer, 1, "search with so many beams; --num: of the best"),
    "length_penalty": (flags.DEFINE_float, 1.0,
                       "exponent of the length that a beam's score is divided by"),
    "results": (flags.DEFINE_string, None, "Markdown file that gets the result"),
    "seed": (flags.DEFINE_integer, 0, "of what is drawn"),
}


@dataclasses.dataclass(frozen=True)
class _Command:
  """One word of the command line."""
  run: Callable[[flags.FlagValues], None]
  flags: tuple[str, ...]
  help: str
  required: tuple[str, ...]


def run(argv: Sequence[str] | None = None) -> None:
  """Entry point: parses, runs the command, turns errors into exit codes.

  Args:
    argv: Program, command and flags. None: those of this process.

  Raises:
    SystemExit: With 2 for what the user can mend, 0 after `--help`.
  """
  if argv is None and sys.argv[1:2] and sys.argv[1] in _COMPUTE:
    _take_large_pages()
  argv = sys.argv if argv is None else argv
  if len(argv) < 2 or argv[1] in ("-h", "--help", "-help", "help"):
    print(_usage())
    sys.exit(0 if len(argv) > 1 else 2)
  name = argv[1]
  if name not in _COMMANDS:
    _fail(f"{name!r} is no command.\n\n{_usage()}")
  command = _COMMANDS[name]
  if any(word in ("-h", "--help", "-help") for word in argv[2:]):
    print(_help(name, command))
    sys.exit(0)
  try:
    values = _parse(name, command, argv[2:])
    logging.set_verbosity(logging.ERROR)
    _keep_compiled()
    command.run(values)
  except errors.UserError as error:
    _fail(str(error))
  except (PermissionError, FileNotFoundError, NotADirectoryError) as error:
    _fail(f"{error.filename}: {error.strerror}.")
  except BrokenPipeError:  # Whoever read what we print has seen enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except KeyboardInterrupt:
    _fail("interrupted; the same command goes on from the last checkpoint.")


def _take_large_pages() -> None:
  """Starts this process again with large pages for malloc, where Linux has them.

  XLA's CPU backend takes and returns its buffers in each step, and to fault them in
  by 4 KiB cost a quarter of a small model's step. glibc reads this at start alone.
  """
  if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _keep_compiled() -> None:
  """Compiled programs stay, so that a run that goes on, or a study, waits once."""
  cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  os.environ.setdefault(
      "JAX_COMPILATION_CACHE_DIR", os.path.join(cache, "transfer_gen", "xla"))
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def _parse(
    name: str, command: _Command, words: Sequence[str]
) -> flags.FlagValues:
  values = flags.FlagValues()
  for flag in command.flags:
    if flag not in _CONFIG:
      define, default, text = _FLAGS[flag]
      define(flag, default, text, flag_values=values)
  if "study" in command.flags:
    flags.DEFINE_string("config", None, "the study", flag_values=values)
  if "config" in command.flags:
    from ml_collections import config_flags  # pylint: disable=g-import-not-at-top
    config_file.check_overrides(
        config_file.call(_value(words, "config"), "get_config"), words)
    words = sorted(words, key=lambda w: not w.lstrip("-").startswith("config="))
    config_flags.DEFINE_config_file(  # Wants --config before what overrides it.
        "config", None, "the experiment", flag_values=values,
        sys_argv=[name, *words])
  try:
    rest = values([name, *words])
  except flags.Error as error:
    raise errors.UserError(f"{error}\nSee: transfer-gen {name} --help") from error
  if rest[1:]:
    raise errors.UserError(
        f"{rest[1]!r} is not a flag. See: transfer-gen {name} --help")
  for flag in command.required:
    if not values[flag].value:
      raise errors.UserError(f"{name} needs --{flag}=. See: transfer-gen {name} --help")
  return values


def _value(words: Sequence[str], flag: str) -> str:
  """What stands behind `flag=`, with one dash or two."""
  for word in words:
    key, _, value = word.partition("=")
    if word.startswith("-") and key.lstrip("-") == flag:
      return value
  return ""


def _plan(values: flags.FlagValues) -> None:
  from transfer_gen.run import assemble as setup_lib  # pylint: disable=g-import-not-at-top
  from transfer_gen.run import strategies  # pylint: disable=g-import-not-at-top
  from transfer_gen.run import workdir as workdir_lib  # pylint: disable=g-import-not-at-top
  from transfer_gen.study import auto  # pylint: disable=g-import-not-at-top
  from transfer_gen.transfer import difference  # pylint: disable=g-import-not-at-top
  from transfer_gen.transfer import table  # pylint: disable=g-import-not-at-top
  run_ = config_file.typed(values.config, "Run")
  if values.suggest:
    print(_suggested(run_, values.workdir), end="")
    return
  other = audit_lib.read(values.diff) if values.diff else None
  setup = setup_lib.build(auto.decided(run_, values.workdir), values.workdir)
  audit = workdir_lib.write_audit(setup, values.workdir, values.min_coverage)
  workdir_lib.write_report(values.workdir)
  if other is None:
    colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(table.folded(audit, colored))
    if run_.strategy.name:
      print(strategies.told(setup.run))
    if run_.strategy.name == strategies.AUTO and setup.run.strategy == auto.COMMON:
      print("auto has not decided yet: `train` searches first. Until then this is what"
            " all that it tries begin as.")
    print(f"Every leaf: {values.workdir}/audit.txt; the two trees side by side:"
          f" {values.workdir}/report.html")
  else:
    rows = difference.rows(other, audit)
    print("\n".join(rows or [f"No row differs from {values.diff}."]))
  if values.origins:
    print(f"\n{table.origins(audit, values.origins)}", end="")


def _suggested(run_: Any, workdir: str) -> str:
  """A first plan for a run, as Python; says in comments what does not fit yet."""
  from transfer_gen import config as config_lib  # pylint: disable=g-import-not-at-top
  from transfer_gen.adapters import wrap as adapters  # pylint: disable=g-import-not-at-top
  from transfer_gen.models import registry  # pylint: disable=g-import-not-at-top
  from transfer_gen.run import assemble as setup_lib  # pylint: disable=g-import-not-at-top
  from transfer_gen.transfer import resolve  # pylint: disable=g-import-not-at-top
  from transfer_gen.transfer import suggest  # pylint: disable=g-import-not-at-top
  if run_.source is None:
    raise errors.UserError("plan --suggest needs a source in the config.")
  found = []

  def transfer(final):
    found.append(suggest.plan(
        setup_lib.open_source("", final.source).specs,
        registry.specs(adapters.wrap(
            registry.build(final.model), final.adapters))))
    return found[0]

  try:
    setup_lib.build(dataclasses.replace(
        run_, transfer=transfer, strategy=config_lib.Strategy()), workdir)
    return suggest.snippet(found[0])
  except resolve.PlanError as error:
    return suggest.snippet(found[0], [str(error)])


def _train(values: flags.FlagValues) -> None:
  from transfer_gen.study import auto  # pylint: disable=g-import-not-at-top
  print(json.dumps(auto.train(
      config_file.typed(values.config, "Run"), values.workdir, values.min_coverage)))


def _evaluate(values: flags.FlagValues) -> None:
  from transfer_gen.run import trained as trained_lib  # pylint: disable=g-import-not-at-top
  from transfer_gen.study import study  # pylint: disable=g-import-not-at-top
  trained = trained_lib.open(values.workdir, values.step)
  data, _ = trained.data()
  scores = trained.score(data, values.split)
  study.write_scores(values.workdir, values.split, trained.step, scores)
  print(f"{values.workdir}: {values.split} split at step {trained.step}")
  print(json.dumps({"split": values.split, "step": trained.step,
                    **scores.metrics()}))


def _generate(values: flags.FlagValues) -> None:
  from transfer_gen.run import trained as trained_lib  # pylint: disable=g-import-not-at-top
  from transfer_gen.run import workdir as workdir_lib  # pylint: disable=g-import-not-at-top
  prompts = _prompts(values.prompt, values.prompts)
  _check_beams(values)
  trained = trained_lib.open(values.workdir, values.step)
  if values.beams > 1:
    found = [row[:values.num] for row in trained.search(
        prompts, values.max_tokens, values.beams, values.length_penalty)]
    prompts = [prompt for prompt, row in zip(prompts, found) for _ in row]
    answers = [answer for row in found for answer in row]
  else:
    prompts = [prompt for prompt in prompts for _ in range(values.num)]
    answers = trained.complete(
        prompts, values.max_tokens, seed=values.seed, temperature=values.temperature,
        top_k=values.top_k, top_p=values.top_p)
  workdir_lib.add_samples(values.workdir, prompts, answers)
  for number, answer in enumerate(answers, 1):
    print(f"--- {number} of {len(answers)}\n{answer}" if answers[1:] else answer)


def _check_beams(values: flags.FlagValues) -> None:
  changed = lambda *names: ", ".join(
      f"--{name}" for name in names if values[name].value != _FLAGS[name][1])
  drawn = changed("temperature", "top_k", "top_p", "seed")
  for wrong, message in (
      (values.beams < 1, f"--beams is {values.beams}, must be at least 1."),
      (values.beams > 1 and drawn,
       f"A beam search draws nothing: leave out {drawn}, or take --beams=1."),
      (1 < values.beams < values.num,
       f"--beams={values.beams} find no {values.num} texts: lower --num."),
      (values.beams == 1 and changed("length_penalty"),
       "--length_penalty is for a beam search: set --beams, or leave it out.")):
    if wrong:
      raise errors.UserError(message)


def _prompts(prompt: str | None, path: str | None) -> list[str]:
  if (prompt is None) == (path is None):
    raise errors.UserError("generate needs either --prompt= or --prompts=FILE.")
  if prompt is not None:
    return [prompt]
  from transfer_gen.data import files  # pylint: disable=g-import-not-at-top
  return files.read_lines(path)


def _inspect(values: flags.FlagValues) -> None:
  from transfer_gen import config as config_lib  # pylint: disable=g-import-not-at-top
  from transfer_gen import sources  # pylint: disable=g-import-not-at-top
  from transfer_gen.run import assemble as setup_lib  # pylint: disable=g-import-not-at-top
  from transfer_gen.transfer import table  # pylint: disable=g-import-not-at-top
  if values.map:
    source = setup_lib.open_source("", config_lib.Source(
        path=values.source, step=values.step, vocabulary=values.vocabulary,
        map="" if values.map == "auto" else values.map))
  else:
    source = sources.open(values.source, values.step)
  print(source.title)
  if values.map and (model := getattr(source, "model", None)):
    fields = ", ".join(f"{field.name}={getattr(model, field.name)!r}"
                       for field in dataclasses.fields(model)
                       if getattr(model, field.name) != field.default)
    print(f"model=config.{type(model).__name__}({fields})")
  print(table.leaves(source.specs), end="")


def _convert(values: flags.FlagValues) -> None:
  from transfer_gen.export import convert  # pylint: disable=g-import-not-at-top
  print("\n".join(convert.convert(
      values.source, values.output, values.to, values.map, values.step,
      values.vocabulary)))


def _study(values: flags.FlagValues) -> None:
  from transfer_gen.study import study  # pylint: disable=g-import-not-at-top
  wanted = config_file.typed(config_file.call(values.config, "get_study"), "Study")
  facts = study.run(wanted, values.workdir)
  if values.results:
    study.write_results(
        values.results, "python -m transfer_gen study"
        f" --config={values.config} --workdir={values.workdir}", facts)
  print(json.dumps(facts["summary"]))


_COMMANDS = {
    "plan": _Command(
        _plan, ("config", "workdir", "diff", "suggest", "origins", "min_coverage"),
        "Prints, leaf by leaf, what a transfer moves and what learns.",
        ("config", "workdir")),
    "train": _Command(
        _train, ("config", "workdir", "min_coverage"),
        "Trains a run; on a workdir that stopped, goes on from there.",
        ("config", "workdir")),
    "evaluate": _Command(
        _evaluate, ("workdir", "split", "step"),
        "Loss of a trained run on a split; the last line is JSON.", ("workdir",)),
    "generate": _Command(
        _generate, ("workdir", "prompt", "prompts", "num", "max_tokens",
                    "temperature", "top_k", "top_p", "beams", "length_penalty",
                    "seed", "step"),
        "Continues prompts; a model of pairs answers its input.", ("workdir",)),
    "study": _Command(
        _study, ("study", "workdir", "results"),
        "Trains runs with their controls, tests and compares them.",
        ("config", "workdir")),
    "inspect": _Command(
        _inspect, ("source", "map", "vocabulary", "step"),
        "Lists the leaves of a checkpoint, with --map under our names (auto: it is"
        " found out); reads no array.", ("source",)),
    "convert": _Command(
        _convert, ("source", "map", "output", "to", "step", "vocabulary"),
        "Writes a checkpoint in another form; whole, or not at all.",
        ("source", "output")),
}


def _usage() -> str:
  lines = [f"  {name:10} {command.help}" for name, command in _COMMANDS.items()]
  return "\n".join([
      "Moves what a trained generator knows into a new one.", "",
      "usage: transfer-gen COMMAND [--flag=value ...]", "", *lines, "",
      "transfer-gen COMMAND --help tells of its flags."])


def _help(name: str, command: _Command) -> str:
  lines = []
  for flag in command.flags:
    if flag in _CONFIG:
      function = {"config": "get_config", "study": "get_study"}[flag]
      lines.append(f"  --config=F.py[:ARG]    {function}(ARG) of F.py (required)")
      if flag == "config":
        lines.append("  --config.a.b=VALUE     overrides one field of it")
      continue
    define, default, text = _FLAGS[flag]
    needed = " (required)" if flag in command.required else ""
    switch = define is flags.DEFINE_boolean
    shown = "" if switch or default is None else f" (default {default})"
    lines.append(f"  {f'--{flag}' + '=' * (not switch):22} {text}{shown}{needed}")
  return "\n".join([
      f"usage: transfer-gen {name} [--flag=value ...]", "", command.help, "", *lines])


def _fail(message: str) -> None:
  print(f"transfer-gen: {message}", file=sys.stderr)
  sys.exit(2)


if __name__ == "__main__":
  run()
