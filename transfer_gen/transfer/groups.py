"""Recipes that write groups: what learns, layer by layer from the top."""

from collections.abc import Mapping, Sequence
import dataclasses
import re

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.config import adapters as config_adapters
from transfer_gen.transfer import plan as plan_lib

_LAYER = r"((?:.*/)?)layer_(\d+)/.*"
_OUTPUT = r"(.*/)?head/.*kernel.*"
_POSITION = r"(.*/)?(position|relative|embed_norm)/.*"
_INPUT = rf"(.*/)?embed/.*|{_POSITION}"
_SOURCE_TABLE = r".*encoder/embed/.*"  # Of a vocabulary that is not the output's.
_SOURCE_END = r"(.*encoder/)final_norm/.*"
_BIAS = r"(.*/)?(bias|recurrent_bias)"
# Of adapters: what is one, or the norm of a column, where it has not learned.
_NO_DECAY = rf"{plan_lib.NO_DECAY}|.*_(bias|scale|magnitude)"
_REST = plan_lib.Group(name="rest", params=".*", unfreeze_step=None)
_Model = config_lib.Decoder | config_lib.Recurrent
# A model's config, specs of its params, or groups from the top to the bottom.
Target = _Model | Mapping[str, tree.Spec] | Sequence[plan_lib.Group]


def by_layer(
    target: _Model | Mapping[str, tree.Spec]
) -> tuple[plan_lib.Group, ...]:
  """One group a layer, from the top to the bottom; all alike.

  `head` is all that comes after the last layer. `embed`, at the bottom, is what the
  first layer reads: token embedding and positions. A table that is output too (tied)
  belongs to `head`, for it is the first thing that a new vocabulary or task changes.
  An encoder's layers stand below the decoder's, which read them; what comes after its
  last one belongs to that.

  Args:
    target: A model's config, or specs of its params, with leaves `layer_0/...`.

  Raises:
    errors.UserError: If there are no layers.
  """
  names = _names(target)
  matches = [found[1] for name in names if (found := tree.match([_LAYER], name))]
  found = dict.fromkeys(match.groups() for match in matches)
  if not found:
    raise errors.UserError(
        "by_layer: no param is called layer_0/... or x/layer_0/..., so there are no"
        " layers to tell apart.")
  layers = sorted(found, key=lambda at: ("encoder" in at[0], at[0], -int(at[1])))
  inputs = _INPUT if _any(_OUTPUT, names) else f"{_SOURCE_TABLE}|{_POSITION}"
  ends = {found[1][1] for name in names if (found := tree.match([_SOURCE_END], name))}
  groups = [plan_lib.Group(
      name="head", params=rf"(?!(.*/)?layer_\d+/|{inputs}|{_SOURCE_END}).*")]
  for prefix, number in layers:
    own, also = f"layer_{number}/", "final_norm/" if prefix in ends else ""
    ends -= {prefix}  # The first of its layers that comes is its last.
    groups.append(plan_lib.Group(
        name=f"{prefix}layer_{number}", params=re.escape(prefix) + (
            f"({own}|{also}).*" if also else f"{own}.*")))
  if _any(inputs, names):
    groups.append(plan_lib.Group(name="embed", params=inputs))
  return tuple(groups)


def discriminative(target: Target, factor: float = 2.6) -> tuple[plan_lib.Group, ...]:
  """Each layer learns `factor` times slower than the one above it.

  Source: Howard and Ruder, 2018, ULMFiT, section 3.2: eta^(l-1) = eta^l / 2.6.

  Args:
    target: See `by_layer`; or groups of another recipe, from the top to the bottom.
    factor: Between the rates of neighbours.

  Raises:
    errors.UserError: If `factor` is not positive.
  """
  if not factor > 0:
    raise errors.UserError(f"discriminative: factor is {factor}, must be > 0.")
  return tuple(
      dataclasses.replace(group, lr_mult=group.lr_mult / factor ** below)
      for below, group in enumerate(_groups(target)))


def gradual_unfreezing(target: Target, every: int) -> tuple[plan_lib.Group, ...]:
  """The top learns from the first step, and one more layer each `every` steps.

  Source: Howard and Ruder, 2018, ULMFiT, section 3.3. With their rates:
  `gradual_unfreezing(discriminative(run.model), every=100)`.

  Args:
    target: See `by_layer`; or groups of another recipe, from the top to the bottom.
      Those that never learn stay so, and the next takes their turn.
    every: Steps between two.

  Raises:
    errors.UserError: If `every` is not positive.
  """
  if every < 1:
    raise errors.UserError(f"gradual_unfreezing: every is {every}, must be > 0.")
  groups, turn = [], 0
  for group in _groups(target):
    if group.unfreeze_step is not None:
      group = dataclasses.replace(group, unfreeze_step=turn * every)
      turn += 1
    groups.append(group)
  return tuple(groups)


def low_rank(
    adapters: Sequence[config_adapters.Adapter], ratio: float = 1.0
) -> tuple[plan_lib.Group, ...]:
  """Adapters learn, all else is frozen.

  Args:
    adapters: The run's.
    ratio: How many times faster the factors B of `LoRA` learn than A, for wide models
      some 16: LoRA+ (Hayou et al., 2024). 1: alike.

  Raises:
    errors.UserError: If there are no adapters, or `ratio` is not positive.
  """
  if not adapters:
    raise errors.UserError("low_rank: there are no adapters. Set the run's adapters.")
  fast = "|".join(adapter.leaves_of("b") for adapter in adapters
                  if isinstance(adapter, config_adapters.LoRA))
  groups = (plan_lib.Group(name="adapters", params=config_adapters.leaves(adapters),
                           no_decay=_NO_DECAY), _REST)
  if ratio == 1 or not fast:
    return groups
  return (plan_lib.Group(name="lora_plus", params=fast, lr_mult=ratio), *groups)


def bitfit() -> tuple[plan_lib.Group, ...]:
  """Biases learn, those of norms too, and all else is frozen (Ben Zaken et al., 2022).
  """
  return (plan_lib.Group(name="biases", params=_BIAS), _REST)


def _groups(target: Target) -> tuple[plan_lib.Group, ...]:
  return tuple(target) if isinstance(target, (tuple, list)) else by_layer(target)


def _names(target: _Model | Mapping[str, tree.Spec]) -> list[str]:
  """Names of the params; of a config, one for each part that decides a group."""
  if isinstance(target, Mapping):
    return list(target)
  layers = [f"layer_{i}/" for i in range(target.num_layers)]
  if isinstance(target, config_lib.EncoderDecoder):
    layers = [f"decoder/{name}" for name in layers]
    layers += [f"encoder/layer_{i}/"
               for i in range(target.encoder_depth)]
    if target.ends_with_norm:
      layers.append("encoder/final_norm/scale")
  if isinstance(target, config_lib.Recurrent):
    layers += [f"encoder/{name}" for name in layers] if target.encoder else []
    inputs = ["embed/embedding"] if target.embed_width else []
    return [*layers, "head/kernel", *inputs]
  return [*layers, "embed/embedding",
          *([] if target.tied else ["head/kernel"]),
          *(["encoder/embed/embedding"]
            if getattr(target, "encoder_vocab_size", 0) else []),
          *(["embed_norm/scale"] if target.embed_norm else []),
          *(["position/embedding"]
            if target.position in ("learned", "relative") else [])]


def _any(pattern: str, names: Sequence[str]) -> bool:
  return any(tree.match([pattern], name) for name in names)
