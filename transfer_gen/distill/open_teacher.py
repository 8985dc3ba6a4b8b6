"""Opens the teacher of a run, and checks that a student can learn from it."""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources as sources_lib
from transfer_gen.adapters import wrap
from transfer_gen.distill import teacher as teacher_lib
from transfer_gen.models import registry

SAME, ULD, MINED = teacher_lib.SAME, teacher_lib.ULD, teacher_lib.MINED


def build(
    distill: config_lib.Distill, source: sources_lib.Source, model: Any,
    data: teacher_lib.Prepared
) -> teacher_lib.Teacher:
  """Builds the teacher that a run names; reads no array.

  Args:
    distill: What the run matches, and with which weights.
    source: The teacher's checkpoint, opened.
    model: Config of the student.
    data: Tokenized data of the run.

  Raises:
    errors.UserError: If the two do not go together. The message says what does.
  """
  _check_terms(distill)
  module, tokenizer = _model(source), source.tokenizer
  _check_pair(distill, source, module.config, model)
  if tokenizer is None and distill.vocabularies != SAME:
    raise errors.UserError(
        f"distill: {source.path} has no tokenizer, and vocabularies="
        f"{distill.vocabularies!r} needs its. {sources_lib.ask(source.path or '')}")
  student = data.tokenizer
  if distill.vocabularies == SAME:
    _check_tokens(source, data, module.config)
    # Both read the same rows here. With other vocabularies the teacher's row is cut at
    # `longest` instead, and positions beyond it get no say.
    longest = registry.longest(module)
    if longest is not None and longest < data.lengths[-1]:
      raise errors.UserError(
          f"distill: rows have {data.lengths[-1]} tokens and the teacher reads"
          f" {longest} at most. Lower data.length.")
  pairs = distill.layers or None
  return teacher_lib.Teacher(
      distill=distill, module=module, source=source, tokenizer=tokenizer or student,
      student=student,
      # Hidden states are matched in every layer by default, attention only in the last
      # one, as in MiniLM (Wang et al., 2020).
      hidden=(pairs or _spread(model.num_layers, module.config.num_layers))
      if distill.hidden else (),
      related=(pairs or ((model.num_layers - 1, module.config.num_layers - 1),))
      if distill.attention else ())


def _model(source: sources_lib.Source) -> registry.Model:
  """The module of a checkpoint, with its adapters."""
  if source.model is None:
    raise errors.UserError(
        f"distill.teacher.path: {source.path}: nothing says which model this is. Give"
        " the workdir of a run, or a checkpoint of another framework that has a map.")
  return wrap.build(source.model, source.adapters)


def _spread(student: int, teacher: int) -> tuple[tuple[int, int], ...]:
  """Layers at the same share of the depth (Jiao et al., 2020, section 3.1)."""
  pairs = ((i, (i + 1) * teacher // student - 1) for i in range(student))
  # A student deeper than its teacher has lower layers that correspond to none of the
  # teacher's; these are not matched.
  return tuple((i, layer) for i, layer in pairs if layer >= 0)


def _check_terms(distill: config_lib.Distill) -> None:
  if not any((distill.logits, distill.hidden, distill.attention)):
    raise errors.UserError(
        "distill: logits, hidden and attention are all 0: the teacher would have no"
        " say. Set one, or distill=None.")


def _check_pair(distill, source, theirs, own) -> None:
  """Whether what is asked for can be matched between two models."""
  registry.require_next_token(theirs)
  families = f"{type(theirs).__name__} to {type(own).__name__}"
  transformers = all(isinstance(c, config_lib.Decoder) for c in (theirs, own))
  unheard = next(filter(None, map(
      teacher_lib.taps.why_unheard, (theirs, own))), "")
  others = distill.vocabularies != SAME
  encodes = [registry.encodes(c) for c in (theirs, own)]
  drawn = [registry.is_drawn(c) for c in (theirs, own)]
  for wrong, why in (
      (drawn[0] != drawn[1],
       f"{families}: only one of both is a model of drawings, and they predict"
       " different things"),
      (others and any(drawn),
       f"vocabularies={distill.vocabularies!r} aligns texts, and these are drawings."
       " Set it to 'same'"),
      (encodes[0] != encodes[1],
       f"{source.path} and the model do not both have an encoder, so their rows"
       " differ. Train on what the teacher writes instead, see evaluate.answers"),
      (others and any(encodes),
       f"vocabularies={distill.vocabularies!r} aligns texts of models without an"
       " encoder. Train on what the teacher writes, see evaluate.answers"),
      (distill.attention and not transformers,
       f"attention is matched between Transformers, and this is {families}. Set"
       " distill.attention=0"),
      (distill.attention and others,
       "attention is matched position by position, which other vocabularies have"
       " not. Set distill.attention=0"),
      (distill.hidden and unheard, f"{unheard}. Set distill.hidden=0"),
      (len({a for a, _ in distill.layers}) < len(distill.layers),
       "layers names one of the model's twice")):
    if wrong:
      raise errors.UserError(f"distill: {why}.")
  for pair in distill.layers:
    if len(pair) != 2 or not (
        0 <= pair[0] < own.num_layers and 0 <= pair[1] < theirs.num_layers):
      raise errors.UserError(
          f"distill.layers has {pair}: (layer of the model, layer of the teacher),"
          f" below {own.num_layers} and {theirs.num_layers}.")


def has_tokens(source: sources_lib.Source, data: teacher_lib.Prepared) -> bool:
  """Whether a source with a vocabulary reads the tokens of prepared data."""
  theirs, own = source.vocabulary, data.tokenizer
  if theirs is None:
    return False
  # An encoder may read tokens of its own.
  read = theirs.encoder or theirs, data.encoder_tokenizer or own
  return all(one.tokens == other.tokens and dict(one.roles) == dict(other.roles)
             for one, other in ((theirs, own), read))


def _check_tokens(
    source: sources_lib.Source, data: teacher_lib.Prepared, model: registry.Config
) -> None:
  theirs, own = source.vocabulary, data.tokenizer
  # Offsets are no tokens, and a point of another scale is another point.
  scales = [getattr(one, "scale", None) for one in (source.tokenizer, own)]
  if source.tokenizer is not None and scales[0] != scales[1]:
    raise errors.UserError(
        f"distill: the teacher's offsets are divided by {scales[0]:g}, and those of the"
        f" run's drawings by {scales[1]:g}. Take its tokenizer: tokenizer.kind='file'"
        " with the path of the teacher's folder tokenizer.")
  # Without a tokenizer, equality of tokens cannot be checked. That the ids of the data
  # fit the teacher's table is the weakest condition that prevents reading beyond it.
  if theirs is None:
    same, size = model.vocab_size >= own.size, model.vocab_size
  else:
    same, size = has_tokens(source, data), len(theirs.tokens)
  if not same:
    raise errors.UserError(
        f"distill: the teacher's {size} tokens are not the model's {own.size}. Take its"
        " tokenizer (tokenizer.kind='file'), or set distill.vocabularies to 'uld' or"
        " 'mined'.")
