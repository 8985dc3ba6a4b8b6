"""Names of the params of the models here: nowhere else does another folder spell them.

A layer's params are called `layer_0/...` from the first layer on; where a model has two
sides, `encoder/layer_0/...` and `decoder/layer_0/...`. These names are public: plans
and checkpoints contain them. Patterns are regular expressions for a whole name, as
`tree.match` takes them.
"""

from transfer_gen.config import models

_LAYER = "layer_"
ENCODER, DECODER = "encoder/", "decoder/"

# First parts of names of leaves that read what the last layer returns. `distill` are
# the projections of a run with a teacher.
AFTER_LAYERS = ("final_norm", "head", "transform", "dense", "distill")

# An encoder with a table of its own has it below `encoder/`.
TOKEN_TABLE = "embed/embedding"

# Leaves of any layer: what precedes the layer, and the layer's number.
LAYER = rf"((?:.*/)?){_LAYER}(\d+)/.*"
# What a name of such a leaf begins with.
LAYER_START = rf"(.*/)?{_LAYER}\d+/"
# Kernels of the output, of a model whose token table is not the output, too (untied).
OUTPUT = r"(.*/)?head/.*kernel.*"
LOGIT_BIAS, TRANSFORM = "head/bias", "transform/.*"  # What stands around it.
POSITION = r"(.*/)?(position|token_type|relative|embed_norm)/.*"
INPUT = rf"(.*/)?embed/.*|{POSITION}"
ENCODER_TABLE = rf".*{ENCODER}embed/.*"  # For a vocabulary other than the output's.
FINAL_NORM = "final_norm/"
ENCODER_END = rf"(.*{ENCODER}){FINAL_NORM}.*"
# The last part as a whole, which leaves out biases of adapters: `bottleneck_up_bias`.
BIAS = r"(.*/)?(bias|recurrent_bias)"
# Keys of attention within one text, not of cross-attention.
KEY_KERNEL = r"(.*/)?attn/key/kernel"
# The kernel of queries of a recurrent decoder, which multiply in its loop over time.
LOOP_KERNEL = r"attention/query/kernel"
# Leaves of a latent, and the kernel through which a recurrent decoder reads it.
LATENT, LATENT_INPUT = "latent/.*", r"layer_0/cell/input_kernel_latent"
# Within a layer: the products that write to the stream. While they are zeros, the layer
# changes nothing.
BRANCH_ENDS = r"(attn|cross_attn)/out|mlp/down"
# The layer from an encoder to a decoder of another width.
BRIDGE = "bridge/.*"
# Leaves of cross-attention, of any layer; and each part of it beside the part of
# self-attention that has the same shapes.
CROSS = rf"{DECODER}{_LAYER}\d+/cross_(attn|norm)/.*"
CROSS_PARTS = {rf"{DECODER}({_LAYER}\d+)/cross_attn/(.*)": r"\1/attn/\2",
               rf"{DECODER}({_LAYER}\d+)/cross_norm/(.*)": r"\1/attn_norm/\2"}


# Leaves of the parts of a model of drawings, from the top to the bottom, below its
# output; and a leaf that no other model has.
DRAWN = {"decoder": r"(decoder|start)/.*", "encoder": f"{ENCODER}.*"}
DRAWN_LEAF = "decoder/recurrent_kernel"


# An encoder that runs the decoder's blocks does so without their cross-attention.
def encoder_leaves(model: models.Model) -> tuple[str, ...]:
  """Returns patterns of the leaves on which the output of a model's encoder depends."""
  if not isinstance(model, models.EncoderDecoder):
    return (f"{ENCODER}.*",)
  own = rf"(?!{CROSS}){DECODER}.*" if model.shared else f"{ENCODER}.*"
  return (own,) if model.encoder_vocab_size else (own, "embed/.*")


def layer(number: int) -> str:
  """Returns the name of a layer, counted from 0."""
  return f"{_LAYER}{number}"


# Names begin with the layer here. A side is taken off before, because the layers of an
# encoder and of a decoder are counted apart.
def layer_number(name: str) -> int | None:
  """Returns the number of the layer whose leaf or module has this name.

  Args:
    name: A name such as `layer_3/attn/query/kernel` or `layer_3`, without a side.

  Returns:
    The layer's number, or None if the name belongs to no layer.
  """
  first = name.split("/")[0]
  return int(first.removeprefix(_LAYER)) if first.startswith(_LAYER) else None


# One name each is enough to see which groups own which parts, and no model has to be
# built for it. A tied output has no kernel of its own.
def outline(model: models.Model) -> list[str]:
  """Returns one name of a model's params for each part that can learn on its own.

  >>> outline(models.Decoder(num_layers=1, tied=False, position="rotary"))
  ['layer_0/', 'embed/embedding', 'head/kernel']
  """
  if isinstance(model, models.Sketch):
    return ["head/kernel_pen", DRAWN_LEAF,
            *([f"{ENCODER}mean/bias"] if model.latent_width else [])]
  layers = [f"{layer(i)}/" for i in range(model.num_layers)]
  latent = ["latent/mean/bias"] if getattr(model, "latent_width", 0) else []
  if isinstance(model, models.EncoderDecoder):
    layers = [f"{DECODER}{name}" for name in layers]
    if not model.shared:
      layers += [f"{ENCODER}{layer(i)}/" for i in range(model.encoder_depth)]
    if (model.encoder or model).ends_with_norm and not model.shared:
      layers.append(f"{ENCODER}{FINAL_NORM}scale")
  if isinstance(model, models.Recurrent):
    layers += [f"{ENCODER}{name}" for name in layers] if model.encoder else []
    inputs = [TOKEN_TABLE] if model.embed_width else []
    return [
        *layers, *([] if model.tied else ["head/kernel"]), *inputs, *latent]
  return [*layers, TOKEN_TABLE, *latent,
          *([] if model.tied else ["head/kernel"]),
          *([f"{ENCODER}{TOKEN_TABLE}"]
            if getattr(model, "encoder_vocab_size", 0) else []),
          *(["embed_norm/scale"] if model.embed_norm else []),
          *(["position/embedding"]
            if model.position in ("learned", "relative") else [])]
