"""GPT-2 of Hugging Face Transformers. Its kernels are [inputs, outputs], as ours."""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen.maps import architecture
from transfer_gen.maps import hugging_face
from transfer_gen.maps import hugging_face_fields as fields_lib
from transfer_gen.maps import hugging_face_lines
from transfer_gen.maps import layouts

_IN, _AT = hugging_face_lines.LAYER, r"h.\1"


def _model(fields: fields_lib.Fields, kind: str) -> config_lib.Decoder:
  del kind
  width = fields.get("n_embd")
  # The first divides scores by the number of the layer as well; no model here does.
  fields.check(scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
  return config_lib.Decoder(
      vocab_size=fields.get("vocab_size"), num_layers=fields.layers("n_layer"),
      width=width, num_heads=fields.get("n_head"),
      mlp_width=fields.get("n_inner", None) or 4 * width,
      max_length=fields.get("n_positions"),
      norm_epsilon=fields.get("layer_norm_epsilon", 1e-5),
      activation=fields.activation("activation_function", "gelu_new"),
      attention_scale=0.0 if fields.get("scale_attn_weights", True) else 1.0,
      tied=fields.get("tie_word_embeddings", True))


def _config(model: config_lib.Decoder) -> dict[str, Any]:
  return {
      "model_type": "gpt2", "vocab_size": model.vocab_size,
      "n_layer": model.num_layers, "n_embd": model.width, "n_head": model.num_heads,
      "n_inner": model.mlp_width or None, "n_positions": model.max_length,
      "layer_norm_epsilon": model.norm_epsilon,
      "activation_function": fields_lib.activation(model.activation),
      "scale_attn_weights": model.attention_scale != 1,
      "tie_word_embeddings": model.tied}


def _lines(model: config_lib.Decoder, prefix: str) -> list[architecture.Line]:
  heads = (model.num_heads, model.width // model.num_heads)
  at = prefix + _AT
  # Nothing is transposed: GPT-2's Conv1D has kernels [inputs, outputs], unlike Linear.
  found = [
      architecture.Line(target="embed/embedding", source=f"{prefix}wte.weight"),
      architecture.Line(target="position/embedding", source=f"{prefix}wpe.weight")]
  # Queries of all heads come first in c_attn, then all keys, then all values. GPT-NeoX
  # has them head by head.
  for index, name in enumerate(("query", "key", "value")):
    for leaf, source, dim in (("kernel", "weight", 1), ("bias", "bias", 0)):
      found.append(architecture.Line(
          target=f"{_IN}/attn/{name}/{leaf}", source=f"{at}.attn.c_attn.{source}",
          layout=layouts.Chain(parts=(
              layouts.Part(dim=dim, parts=3, index=index),
              layouts.Unflatten(dim=dim, shape=heads)))))
  for ours, theirs, layout in (
      ("attn/out", "attn.c_proj", layouts.Unflatten(dim=0, shape=heads)),
      ("mlp/up", "mlp.c_fc", layouts.COPY), ("mlp/down", "mlp.c_proj", layouts.COPY)):
    found += [
        architecture.Line(target=f"{_IN}/{ours}/kernel", source=f"{at}.{theirs}.weight",
                    layout=layout),
        architecture.Line(target=f"{_IN}/{ours}/bias", source=f"{at}.{theirs}.bias")]
  return [
      *found,
      *hugging_face_lines.norm(f"{_IN}/attn_norm", f"{at}.ln_1", True),
      *hugging_face_lines.norm(f"{_IN}/mlp_norm", f"{at}.ln_2", True),
      *hugging_face_lines.norm("final_norm", f"{prefix}ln_f", True),
      *hugging_face_lines.head(model, "lm_head")]


FAMILY = hugging_face.Family(
    name="gpt2", what="GPT-2 of Hugging Face", types={"gpt2": "GPT2LMHeadModel"},
    anchor="wte.weight", prefixes=("transformer.", ""), model=_model, config=_config,
    lines=_lines, unused=(r"h\.\d+\.attn\.(masked_)?bias",))  # Masks.
MAP = hugging_face.architecture(FAMILY)
