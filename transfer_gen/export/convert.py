"""A checkpoint in another form: a workdir of ours, or what others load."""

from collections.abc import Sequence

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.export import forms
from transfer_gen.export import rounding
from transfer_gen.formats import whole


def convert(
    path: epath.PathLike, output: epath.PathLike, form: str, name: str = "",
    step: int = -1, vocabulary: str = sources.REFUSE, tokenizer: str = "",
    unused: Sequence[str] = (), idle_fields: Sequence[str] = (), dtype: str = "",
) -> tuple[str, ...]:
  """Writes a checkpoint in another form; whole, or not at all.

  Args:
    path: A run's workdir, or one of its checkpoints; or a foreign checkpoint.
    output: A folder that is not there yet.
    form: `orbax`: a workdir whose checkpoint is the source's, to transfer from or to
      generate with. `safetensors`: a folder that Hugging Face Transformers loads, or of
      a recurrent model the names of fastai, see `fastai_folder`. `keras`: one with a
      recurrent model as Keras loads it, see `keras_folder`. In all of these a run's
      adapters are merged into its kernels. `peft`: they alone, see `peft_folder`;
      beside them `base`, what they stand beside, in safetensors, unless that is the
      run's source as it is.
    name: Of a map: how a foreign checkpoint is read; for one of ours, as what it is
      written. "": found out.
    step: Which checkpoint of a run. -1: the best.
    vocabulary: See `sources.open`.
    tokenizer: See `sources.open`.
    unused: See `sources.open`.
    idle_fields: See `sources.open`.
    dtype: For `safetensors`, dtype of what is written, one of
      `rounding.DTYPES`, see `rounding.rounded`. "": a checkpoint that goes back to the
      library that it came from keeps its own, and others are float32.

  Returns:
    Sentences on what was written, and on what could not be.

  Raises:
    errors.UserError: If the checkpoint cannot be read, or the form not hold it.
  """
  if form not in forms.FORMS:
    raise errors.UserError(
        f"--to is {form!r}, must be one of {', '.join(forms.FORMS)}.")
  if dtype and dtype not in rounding.DTYPES:
    raise errors.UserError(
        f"--dtype is {dtype!r}, must be one of {', '.join(rounding.DTYPES)}.")
  if dtype and form not in forms.NARROW:
    raise errors.UserError(
        f"--dtype is {dtype!r}, and --to={form} holds float32: leave it out, or take"
        f" --to={' or --to='.join(forms.NARROW)}.")
  output = epath.Path(output)
  # Before the source is opened, so that a wrong command fails at once.
  whole.check_new(output)
  # A run is read without a map: there the name says which map it is written through.
  foreign = sources.is_foreign(path)
  source = sources.open(
      path, step, map_name=name if foreign else "", vocabulary=vocabulary,
      tokenizer=tokenizer, unused=unused, idle_fields=idle_fields)
  if source.model is None:
    raise errors.UserError(
        f"{source.title}: nothing says which model this is, so it cannot be converted."
        " Give the workdir of a run, or a checkpoint that has a map.")
  if isinstance(source, sources.Pair):
    raise errors.UserError(
        f"{source.title}: a pair is whole only with a cross-attention, which neither"
        " has. Train it first: --config=recipe:warm_start.")
  if isinstance(source.model, config_lib.Sketch):
    raise errors.UserError(
        f"{source.title}: no other library that is known here has a Sketch, so that it"
        " has no other form than the workdir of its run.")
  with whole.folder(output) as folder:
    notes = forms.FORMS[form](source, folder, "" if foreign else name, dtype)
  if source.tokenizer is None and foreign and vocabulary != sources.NONE:
    notes += (sources.ask(path),)
  if source.adapters and form != "peft":
    names = ", ".join(adapter.name for adapter in source.adapters)
    notes += (f"Merged into its kernels: {names}.",)
  if source.reverse and form != "orbax":
    notes += ("It reads and writes texts from right to left (data.reverse), which no"
              " file there says: turn the tokens of prompts and of what it writes.",)
  read = sources.dtypes_note(source)
  return (f"{output}: {form} of {source.title}", *([read] if read else []), *notes)
