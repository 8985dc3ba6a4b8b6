"""The texts that `transfer-gen --help` and `transfer-gen COMMAND --help` print."""

from collections.abc import Iterator
import textwrap

from transfer_gen.commands import declarations

# Fixed and not the terminal's, so that the text is the same in a pipe and in tests.
_WIDTH = 100
_INDENT = 27  # Column at which the meaning of a flag begins.


def usage() -> str:
  """Returns the list of commands."""
  lines = [f"  {name:10}{command.summary}"
           for name, command in declarations.COMMANDS.items()]
  return "\n".join([
      "Transfers what a trained sequence generator knows into a new one.", "",
      "usage: transfer-gen COMMAND [--flag=value ...]", "", *lines, "",
      "`transfer-gen COMMAND --help` lists the flags of a command.",
      "`transfer-gen --version` prints the version."])


def command(name: str) -> str:
  """Returns the usage, the summary and the flags of one command."""
  declared = declarations.COMMANDS[name]
  needed = [f"[{declared.argument}]"] if declared.argument else []
  needed += [f"--{flag.name}={flag.value}" for flag in declared.flags if flag.required]
  return "\n".join([
      " ".join(["usage: transfer-gen", name, *needed, "[--flag=value ...]"]), "",
      declared.summary, "", *_flag_lines(declared)])


def _flag_lines(declared: declarations.Command) -> Iterator[str]:
  for flag in declared.flags:
    yield from _wrapped(f"--{flag.name}" + (f"={flag.value}" if flag.value else ""),
                        flag.meaning + _default(flag))
    if flag.name == "config" and declared.overrides:
      yield from _wrapped("--config.a.b=VALUE",
                          "Overrides a field of the run, e.g. --config.optim.lr=3e-4.")


def _wrapped(flag: str, meaning: str) -> list[str]:
  return textwrap.wrap(
      meaning, _WIDTH, initial_indent=f"  {flag} ".ljust(_INDENT),
      subsequent_indent=" " * _INDENT, break_on_hyphens=False)


def _default(flag: declarations.Flag) -> str:
  if flag.required:
    return " Required."
  # A boolean flag is off and a text is absent by default, which need no words.
  if flag.default in (None, "") or isinstance(flag.default, bool):
    return ""
  return f" Default: {flag.default}."
