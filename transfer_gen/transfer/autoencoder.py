"""Plans that lead to and from autoencoders: both sides together, or one of them."""

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.config import names
from transfer_gen.transfer import plan as plan_lib

_LEARNS = (plan_lib.Group(name="all", params=".*"),)
_Model = config_lib.EncoderDecoder | config_lib.Recurrent
# What a recurrent model computes otherwise with an encoder is the point of these plans.
_DIFFERS = ("encoder",)


def from_stacks(
    model: _Model, encoder: str | None = "", decoder: str | None = "",
) -> plan_lib.TransferPlan:
  r"""Returns a plan for an autoencoder whose sides come from models of one stack.

  Both sides may come from language models, or the encoder from one that sees a text as
  a whole (Optimus: Li et al., 2020). The latent starts fresh.

  >>> model = config_lib.EncoderDecoder(latent_width=32)
  >>> for rule in from_stacks(model, encoder=None).rules:
  ...   print(rule.target, rule.source)
  latent/.* None
  encoder/.* None
  decoder/(.*) \1
  (.*) \1

  Args:
    model: The autoencoder.
    encoder: Name of the source of the encoder, as in `Rule.checkpoint`; None means that
      it starts fresh.
    decoder: The same of the decoder, and of the output and a token table of both sides.

  Returns:
    The plan, in which everything learns. Leaves of a source that no side has, such as
    an output of the encoder's, are misfits until `unused_source` names them.

  Raises:
    errors.UserError: If the model has no latent.
  """
  _check(model)
  rules = [plan_lib.Rule(target=names.LATENT, source=None, why="new: the latent")]
  if isinstance(model, config_lib.Recurrent):
    # Nothing is added to what the cell read before, until the kernel has learned.
    rules.append(plan_lib.Rule(
        target=names.LATENT_INPUT, source=None, fresh="zeros", why="new: the latent"))
  if not getattr(model, "shared", False):
    rules.append(_side(names.ENCODER, encoder))
  if isinstance(model, config_lib.EncoderDecoder):
    rules.append(_side(names.DECODER, decoder))
  rules.append(_side("", decoder))
  return plan_lib.TransferPlan(
      rules=tuple(rules), groups=_LEARNS, may_differ=_DIFFERS)


def decoder_of(model: _Model) -> plan_lib.TransferPlan:
  r"""Returns a plan for a language model out of the decoder of an autoencoder.

  >>> for rule in decoder_of(config_lib.EncoderDecoder(latent_width=32)).rules:
  ...   print(rule.target, rule.source)
  (embed|head|transform)/.* \g<0>
  (.*) decoder/\1

  Args:
    model: The autoencoder, which is the source.

  Raises:
    errors.UserError: If the model has no latent.
  """
  _check(model)
  unused = () if getattr(model, "shared", False) else (f"{names.ENCODER}.*",)
  if isinstance(model, config_lib.Recurrent):
    return plan_lib.TransferPlan(
        rules=(plan_lib.Rule(target="(.*)", source=r"\1"),), groups=_LEARNS,
        unused_source=(*unused, names.LATENT, names.LATENT_INPUT), may_differ=_DIFFERS)
  return plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target="(embed|head|transform)/.*", source=r"\g<0>"),
             plan_lib.Rule(target="(.*)", source=rf"{names.DECODER}\1")),
      groups=_LEARNS, unused_source=(*unused, names.LATENT))


def encoder_of(model: _Model) -> plan_lib.TransferPlan:
  r"""Returns a plan for a model of pairs whose encoder is that of an autoencoder.

  >>> for rule in encoder_of(config_lib.Recurrent(encoder=True, latent_width=8)).rules:
  ...   print(rule.target, rule.source)
  encoder/.* \g<0>
  .* None

  Args:
    model: The autoencoder, which is the source. Its encoder must have blocks of its
      own.

  Raises:
    errors.UserError: If the model has no latent, or both sides have the same blocks.
  """
  _check(model)
  if getattr(model, "shared", False):
    raise errors.UserError(
        "encoder_of: model.shared is True, and both sides are the same blocks. Take"
        " them with decoder_of.")
  # One table serves both sides of a Transformer, unless the encoder has its own.
  table = isinstance(model, config_lib.EncoderDecoder) and not model.encoder_vocab_size
  read = f"({names.ENCODER}|embed/).*" if table else f"{names.ENCODER}.*"
  return plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target=read, source=r"\g<0>"),
             plan_lib.Rule(target=".*", source=None, why="new: the side that writes")),
      groups=_LEARNS, unused_source=(f"(?!{read}).*",))


def _side(prefix: str, checkpoint: str | None) -> plan_lib.Rule:
  if checkpoint is None:
    return plan_lib.Rule(target=f"{prefix}.*", source=None)
  return plan_lib.Rule(
      target=f"{prefix}(.*)", source=r"\1", checkpoint=checkpoint)


def _check(model: _Model) -> None:
  if not getattr(model, "latent_width", 0):
    raise errors.UserError(
        f"The {type(model).__name__} has no latent, and these plans are for models with"
        " one. Set latent_width; for others see transfer.structure.")
