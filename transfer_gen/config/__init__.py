"""What people write to describe a run: `config.Run`, `config.Decoder`, and so on."""

from transfer_gen.config.adapters import Bottleneck, IA3, LoRA, Prefix
    "Bottleneck", "Corrupt", "Data", "Decoder", "Decoding", "Distill", "Encoder",
    "EncoderDecoder", "Features", "IA3", "LoRA", "Objective", "Optim", "Parallel",
    "Prefix", "Recurrent", "Run", "Source", "Strategy", "Study", "Term", "Tokenizer",
    "Train", "check")
