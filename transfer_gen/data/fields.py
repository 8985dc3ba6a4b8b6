"""What a data config says: whether its fields fit, and which columns they name."""

from collections.abc import Iterator

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import catalog
from transfer_gen.data import document as document_lib
from transfer_gen.data import files

SEPARATE, JOINED = "separate", "joined"
CHAT = "chat"
Document = document_lib.Document


def check(config: config_lib.Data) -> None:
  """Raises one `UserError` that lists all fields of a config that are out of range."""
  config_lib.check(config, "data")
  # All misfits are collected, so that a user corrects the config once.
  if misfits := [*_wrong_sources(config), *_wrong_values(config)]:
    raise errors.UserError("The data config does not fit: " + "; ".join(misfits) + ".")


def is_pairs(config: config_lib.Data) -> bool:
  """Returns whether documents are pairs, from two columns or two aligned files."""
  return bool(names(config, config.train)[0])


def options(config: config_lib.Data) -> files.Options:
  """Returns how the files of a config are read."""
  return files.Options(unit=config.unit, columns=_columns(config))


def clean(text: str, config: config_lib.Data) -> str:
  """Cleans a text as a config says; see `document.clean`."""
  return document_lib.clean(text, config.normalize, config.newline)


def names(config: config_lib.Data, paths: str) -> tuple[str, str]:
  """Returns the columns of input and target; the first is empty without an input.

  Args:
    config: The data config.
    paths: Those of its paths that are read; line-aligned files have columns of their
      own. Empty where `config.name` names a data set.
  """
  if paths and files.is_parallel(paths):
    return "input", "target"
  if not config.input_field and config.target_field == "text":
    if config.train and files.is_parallel(config.train):
      return "input", "target"
    return catalog.fields(config.name)
  return config.input_field, config.target_field


def _wrong_sources(config: config_lib.Data) -> Iterator[str]:
  """Yields what is wrong about where documents come from."""
  name, own = config.name, config.name == "files"
  if not own and (wrong := catalog.misfit(name)):
    yield wrong
  if own and not config.train:
    yield "data.train is empty: data.name=files needs paths there"
  if not own and (config.train or config.validation or config.test):
    yield ("data.train, validation and test are only read if data.name=files, and it"
           f" is {name!r}")
  named = _columns(config)
  if len(set(named)) < len(named) or "" in named:
    yield (f"data.columns={config.columns!r}: each column needs a name of its own,"
           " e.g. `en,de`")


def _wrong_values(config: config_lib.Data) -> Iterator[str]:
  """Yields the fields that do not go with others."""
  buckets, noise = tuple(config.buckets), tuple(config.corrupt.noise)
  for wrong, message in (
      (0 < config.max_chars < config.min_chars,
       f"data.max_chars={config.max_chars}: must be 0 (no limit) or at least"
       f" min_chars={config.min_chars}"),
      (any(bucket > config.length for bucket in buckets),
       f"data.buckets={buckets}: each must be between 2 and"
       f" length={config.length}"),
      (bool(buckets) and not is_pairs(config),
       f"data.buckets={buckets}: buckets are for pairs; a language model (empty"
       " input_field) is packed to `length`. Leave buckets=() or set input_field"),
      (bool(noise) and is_pairs(config),
       f"data.corrupt.noise={noise}: noise makes pairs of texts, and the data are pairs"
       " already. Leave it out, or read one column (input_field='')"),
      (len(set(noise)) < len(noise),
       f"data.corrupt.noise={noise}: each kind can be named once"),
      (config.reverse and (is_pairs(config) or bool(noise)),
       "data.reverse=True: it is for a language model, and these texts are pairs. Leave"
       " it out, or read one column (input_field='') without noise"),
      ("spans" in noise and len(noise) > 1,
       f"data.corrupt.noise={noise}: spans has targets of its own and stands alone"),
      ("copy" in noise and len(noise) > 1,
       f"data.corrupt.noise={noise}: copy leaves the text as it is and stands alone")):
    if wrong:
      yield message


def _columns(config: config_lib.Data) -> tuple[str, ...]:
  return tuple(name.strip() for name in config.columns.split(",")
               ) if config.columns else ()
