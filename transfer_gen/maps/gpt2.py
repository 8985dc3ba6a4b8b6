"""GPT-2 of Hugging Face Transformers. Its kernels are [inputs, outputs], as ours."""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen.maps import architecture
from transfer_gen.maps import hugging_face
from transfer_gen.maps import hugging_face_fields as fields_lib
from transfer_gen.maps import hugging_face_lines
from transfer_gen.maps import layouts

_IN, _AT = hugging_face_lines.LAYER, r"h.\1"


def sizes(fields: fields_lib.Fields, crosses: bool = False) -> dict[str, Any]:
  """Returns the fields of our config.

  Args:
    fields: Its `config.json`.
    crosses: Whether it is the decoder of a pair.

  Raises:
    errors.UserError: If no model here computes the same.
  """
  width = fields.get("n_embd")
  # The first divides scores by the number of the layer as well; no model here does.
  fields.check(scale_attn_by_inverse_layer_idx=False, add_cross_attention=crosses)
  return dict(
      vocab_size=fields.get("vocab_size"), num_layers=fields.layers("n_layer"),
      width=width, num_heads=fields.get("n_head"),
      mlp_width=fields.get("n_inner", None) or 4 * width,
      max_length=fields.get("n_positions"),
      norm_epsilon=fields.get("layer_norm_epsilon", 1e-5),
      activation=fields.activation("activation_function", "gelu_new"),
      attention_scale=0.0 if fields.get("scale_attn_weights", True) else 1.0,
      tied=fields.get("tie_word_embeddings", True))


def config(model: config_lib.Decoder) -> dict[str, Any]:
  """Returns the fields of `config.json` for a GPT-2."""
  return {
      "model_type": "gpt2", "vocab_size": model.vocab_size,
      "n_layer": model.num_layers, "n_embd": model.width, "n_head": model.num_heads,
      "n_inner": model.mlp_width or None, "n_positions": model.max_length,
      "layer_norm_epsilon": model.norm_epsilon,
      "activation_function": fields_lib.activation(model.activation),
      "scale_attn_weights": model.attention_scale != 1,
      "tie_word_embeddings": model.tied}


def stack(
    model: config_lib.Decoder, ours: str, theirs: str, crosses: bool = False
) -> list[architecture.Line]:
  """Returns lines for all but the table of tokens and the output.

  Args:
    model: Config of the side.
    ours: Prefix of our names, such as `decoder/`.
    theirs: Prefix of their names.
    crosses: Whether there is cross-attention.
  """
  at, layer = theirs + _AT, ours + _IN
  found = [
      architecture.Line(
          target=f"{ours}position/embedding", source=f"{theirs}wpe.weight"),
      *_attention(model, f"{layer}/attn", f"{at}.attn", ("query", "key", "value")),
      *_projection(f"{layer}/mlp/up", f"{at}.mlp.c_fc", layouts.COPY),
      *_projection(f"{layer}/mlp/down", f"{at}.mlp.c_proj", layouts.COPY)]
  norms = {"attn_norm": "ln_1", "mlp_norm": "ln_2"}
  if crosses:
    # Queries have a projection of their own, since they read the other text's answer.
    norms["cross_norm"] = "ln_cross_attn"
    heads = (model.num_heads, model.width // model.num_heads)
    for leaf, source, dim in (("kernel", "weight", 1), ("bias", "bias", 0)):
      found.append(architecture.Line(
          target=f"{layer}/cross_attn/query/{leaf}",
          source=f"{at}.crossattention.q_attn.{source}",
          layout=layouts.Unflatten(dim=dim, shape=heads)))
    found += _attention(
        model, f"{layer}/cross_attn", f"{at}.crossattention", ("key", "value"))
  for name, there in norms.items():
    found += hugging_face_lines.norm(f"{layer}/{name}", f"{at}.{there}", True)
  return found + hugging_face_lines.norm(f"{ours}final_norm", f"{theirs}ln_f", True)


def own_head(model: config_lib.Decoder, at: str = "") -> list[architecture.Line]:
  """Returns lines for the output, whose names begin with `at`."""
  return hugging_face_lines.head(model, f"{at}lm_head")


def _attention(
    model: config_lib.Decoder, target: str, source: str, parts: tuple[str, ...]
) -> list[architecture.Line]:
  """Returns lines for an attention whose fused projection has these parts."""
  heads = (model.num_heads, model.width // model.num_heads)
  found = []
  # Queries of all heads come first in c_attn, then all keys, then all values. GPT-NeoX
  # has them head by head.
  for index, name in enumerate(parts):
    for leaf, end, dim in (("kernel", "weight", 1), ("bias", "bias", 0)):
      found.append(architecture.Line(
          target=f"{target}/{name}/{leaf}", source=f"{source}.c_attn.{end}",
          layout=layouts.Chain(parts=(
              layouts.Part(dim=dim, parts=len(parts), index=index),
              layouts.Unflatten(dim=dim, shape=heads)))))
  return found + _projection(
      f"{target}/out", f"{source}.c_proj", layouts.Unflatten(dim=0, shape=heads))


# Nothing is transposed: GPT-2's Conv1D has kernels [inputs, outputs], unlike Linear.
def _projection(
    target: str, source: str, layout: layouts.Layout) -> list[architecture.Line]:
  return [
      architecture.Line(
          target=f"{target}/kernel", source=f"{source}.weight", layout=layout),
      architecture.Line(target=f"{target}/bias", source=f"{source}.bias")]


def _model(fields: fields_lib.Fields, kind: str) -> config_lib.Decoder:
  del kind
  return config_lib.Decoder(**sizes(fields))


def _lines(model: config_lib.Decoder, prefix: str) -> list[architecture.Line]:
  return [
      architecture.Line(target="embed/embedding", source=f"{prefix}wte.weight"),
      *stack(model, "", prefix), *own_head(model)]


FAMILY = hugging_face.Family(
    name="gpt2", what="GPT-2 of Hugging Face", types={"gpt2": "GPT2LMHeadModel"},
    anchor="wte.weight", prefixes=("transformer.", ""), model=_model, config=config,
    lines=_lines, unused=(r"h\.\d+\.attn\.(masked_)?bias",))  # Masks.
MAP = hugging_face.architecture(FAMILY)
