"""`transfer-gen inspect`: lists the leaves of a checkpoint, or shows rows of data."""

from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.commands import flags
from transfer_gen.config import codec
from transfer_gen.run import examples
from transfer_gen.run import leaf_list

# A word of its own, because an empty `--map` means the file's own names.
_DETECT = "auto"


_OF_DATA = ("data", "config", "split", "rows")


def run(values: flags.Values) -> None:
  """Prints rows of data; or a title, with a map the model's config, and the leaves."""
  if values.data:
    _show_data(values)
    return
  if not values.source:
    raise errors.UserError(
        "`inspect` needs --source=PATH, or --data and --config=FILE.py[:ARG].\n"
        "See `transfer-gen inspect --help`.")
  if given := [flag for flag in flags.changed("inspect", values) if flag in _OF_DATA]:
    raise errors.UserError(
        f"--{given[0]} is about rows of data: add --data and remove --source, or remove"
        f" --{given[0]} to list the leaves of --source.")
  _list_leaves(values)


def _show_data(values: flags.Values) -> None:
  changed = flags.changed("inspect", values)
  if given := [flag for flag in changed if flag not in _OF_DATA]:
    raise errors.UserError(
        f"--data shows rows of the data of --config, and --{given[0]} is about a"
        " checkpoint. Remove one of them.")
  if not values.given_config:
    raise errors.UserError(
        "--data needs --config=FILE.py[:ARG], whose data are shown.\n"
        "See `transfer-gen inspect --help`.")
  for line in examples.of_run(values.config, values.split, values.rows):
    print(line)


def _list_leaves(values: flags.Values) -> None:
  # Without a map, the leaves are listed as the file names them, which also works for
  # architectures that are not known here.
  for flag in ("tokenizer", "output", "unused", "idle_field"):
    if getattr(values, flag) and not values.map:
      raise errors.UserError(
          f"--{flag} is for leaves under our names: add --map=auto, or remove it.")
  if not values.map:
    title, specs = sources.leaves(values.source, values.step)
    print(leaf_list.lines(values.source, title, specs), end="")
    return
  name = "" if values.map == _DETECT else values.map
  corrected = {"unused": values.unused or (), "idle_fields": values.idle_field or ()}
  if values.output:
    print("\n".join(sources.write_map(
        values.source, values.output, name, **corrected)))
    return
  source = sources.open(
      values.source, values.step, vocabulary=values.vocabulary,
      tokenizer=values.tokenizer, map_name=name, **corrected)
  title = source.title
  if model := source.model:
    title += f"\nmodel={codec.to_code(model)}"
  print(leaf_list.lines(values.source, title, source.specs), end="")
