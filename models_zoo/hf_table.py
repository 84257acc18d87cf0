"""The small configurations behind the ``hf:`` names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """One row: transformers' class names, the configuration's settings, and what the model takes.

    ``kind`` is ``tokens`` (token numbers and their mask) or the name of the one floating-point input; ``shape`` leaves
    out the batch. ``part`` names the sub-module to take. ``dynamic`` lists the dimensions that may vary. ``padded``
    puts padding into the example's second row.
    """

    config: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    kind: str = "tokens"
    shape: tuple[int, ...] = (16,)
    dynamic: tuple[str, ...] = ("batch", "length")
    part: str = ""
    padded: bool = True


# Settings that most configurations share, by their usual names.
TEXT = {
    "vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = TEXT | {"num_key_value_heads": 2}
WITH_HEADS = GROUPED | {"head_dim": 16}
VISION = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
IMAGE: dict[str, Any] = {"kind": "pixel_values", "shape": (3, 32, 32), "dynamic": ("batch",)}
LARGE_IMAGE = IMAGE | {"shape": (3, 64, 64)}
PYRAMID = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}


def _row(stem: str, settings: dict[str, Any], model: str = "Model", **rest: Any) -> Architecture:
    return Architecture(f"{stem}Config", f"{stem}{model}", settings, **rest)


def _causal(stem: str, settings: dict[str, Any]) -> Architecture:
    return _row(stem, settings, "ForCausalLM")


def _without(settings: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}


ENCODERS = {
    "bert": _row("Bert", TEXT, "ForSequenceClassification"),
    "roberta": _row("Roberta", TEXT | {"pad_token_id": 1}),
    "xlm-roberta": _row("XLMRoberta", TEXT | {"pad_token_id": 1}),
    "distilbert": _row("DistilBert", {"vocab_size": 99, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}),
    "electra": _row("Electra", TEXT | {"embedding_size": 32}),
    "albert": _row("Albert", TEXT | {"embedding_size": 32}),
    "deberta-v2": _row(
        "DebertaV2",
        TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
    ),
    "mpnet": _row("MPNet", TEXT | {"pad_token_id": 1}),
    "modernbert": _row("ModernBert", TEXT | {"cls_token_id": 1, "sep_token_id": 2, "local_attention": 8}),
    "mobilebert": _row("MobileBert", TEXT | {"embedding_size": 32, "intra_bottleneck_size": 32}, dynamic=("batch",)),
    "squeezebert": _row("SqueezeBert", TEXT | {"embedding_size": 64}),
    "layoutlm": _row("LayoutLM", TEXT),
    "esm": _row("Esm", TEXT | {"position_embedding_type": "rotary", "pad_token_id": 1}),
    "t5-encoder": Architecture(
        "T5Config", "T5EncoderModel",
        {"vocab_size": 99, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    ),
    "clip-text": _row("CLIPText", TEXT),
}  # fmt: skip

DECODERS = {
    "gpt2": _row(
        "GPT2",
        {"vocab_size": 99, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1,
         "eos_token_id": 2},
        "LMHeadModel",
    ),
    "gpt-neox": _causal("GPTNeoX", TEXT),
    "llama": _causal("Llama", GROUPED),
    "mistral": _causal("Mistral", GROUPED | {"sliding_window": 8}),
    "mixtral": _causal("Mixtral", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": _causal("Qwen2", GROUPED),
    "qwen3": _causal("Qwen3", WITH_HEADS),
    "qwen3-moe": _causal(
        "Qwen3Moe",
        WITH_HEADS | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
    ),
    "gemma": _causal("Gemma", WITH_HEADS),
    "gemma2": _causal("Gemma2", WITH_HEADS | {"sliding_window": 8, "query_pre_attn_scalar": 16}),
    "gemma3": Architecture("Gemma3TextConfig", "Gemma3ForCausalLM", WITH_HEADS | {"sliding_window": 8}),
    "phi": _causal("Phi", TEXT),
    "phi3": _causal("Phi3", GROUPED),
    "olmo2": _causal("Olmo2", GROUPED),
    "smollm3": _causal("SmolLM3", GROUPED),
    "starcoder2": _causal("Starcoder2", GROUPED),
    "stablelm": _causal("StableLm", GROUPED),
    "cohere": _causal("Cohere", GROUPED),
    "granite": _causal("Granite", GROUPED),
    "falcon": _causal("Falcon", TEXT | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "opt": _causal(
        "OPT",
        _without(TEXT, "intermediate_size") | {"ffn_dim": 128, "word_embed_proj_dim": 64, "pad_token_id": 1},
    ),
    "bloom": _causal("Bloom", {"vocab_size": 99, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "mamba": _row(
        "Mamba",
        {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "time_step_rank": 4},
        "ForCausalLM", shape=(8,), dynamic=("batch",), padded=False,
    ),
    "mamba2": _row(
        "Mamba2",
        {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 4, "head_dim": 16,
         "n_groups": 2, "chunk_size": 8},
        "ForCausalLM", shape=(16,), dynamic=("batch",), padded=False,
    ),
}  # fmt: skip

IMAGES = {
    "vit": _row("ViT", VISION, "ForImageClassification", **IMAGE),
    "deit": _row("DeiT", VISION, "ForImageClassificationWithTeacher", **IMAGE),
    "beit": _row("Beit", VISION | {"use_relative_position_bias": True}, **IMAGE),
    "dinov2": _row("Dinov2", VISION | {"mlp_ratio": 2}, **IMAGE),
    "dinov3": _row("DINOv3ViT", VISION | {"num_register_tokens": 4}, **IMAGE),
    "clip-vision": _row("CLIPVision", VISION, **IMAGE),
    "siglip-vision": _row("SiglipVision", VISION, **IMAGE),
    "swin": _row(
        "Swin",
        {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        "ForImageClassification", **IMAGE,
    ),
    "swinv2": _row(
        "Swinv2",
        {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        **IMAGE,
    ),
    "convnext": _row("ConvNext", PYRAMID | {"layer_scale_init_value": 0.5}, "ForImageClassification", **LARGE_IMAGE),
    "convnextv2": _row("ConvNextV2", PYRAMID, **LARGE_IMAGE),
    "resnet": _row(
        "ResNet", PYRAMID | {"embedding_size": 16, "layer_type": "bottleneck"}, "ForImageClassification", **LARGE_IMAGE
    ),
    "regnet": _row("RegNet", PYRAMID | {"embedding_size": 16, "groups_width": 8}, **LARGE_IMAGE),
    "mobilenet-v2": _row("MobileNetV2", {"image_size": 64, "depth_multiplier": 0.25}, **LARGE_IMAGE),
    "mobilevit": _row(
        "MobileViT",
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64]},
        **LARGE_IMAGE,
    ),
    "segformer": _row(
        "Segformer",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 32, 64], "decoder_hidden_size": 32,
         "num_attention_heads": [1, 2, 2, 4]},
        "ForSemanticSegmentation", **LARGE_IMAGE,
    ),
    "pvt": _row("Pvt", {"image_size": 64, "depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 48, 64],
                        "num_attention_heads": [1, 2, 3, 4]}, **LARGE_IMAGE),
    "poolformer": _row(
        "PoolFormer", PYRAMID | {"layer_scale_init_value": 0.5}, **LARGE_IMAGE,
    ),
}  # fmt: skip

AUDIO = {
    "whisper-encoder": Architecture(
        "WhisperConfig", "WhisperModel",
        {"vocab_size": 99, "d_model": 64, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_mel_bins": 16,
         "max_source_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
         "decoder_start_token_id": 1},
        kind="input_features", shape=(16, 64), dynamic=("batch",), part="encoder",
    ),
    "wav2vec2": _row(
        "Wav2Vec2",
        _without(TEXT, "max_position_embeddings")
        | {"conv_dim": [16, 16, 16], "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 2],
           "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4},
        kind="input_values", shape=(800,), dynamic=("batch",),
    ),
    "audio-spectrogram": Architecture(
        "ASTConfig", "ASTForAudioClassification",
        _without(VISION, "image_size") | {"num_mel_bins": 32, "max_length": 64, "patch_size": 8},
        kind="input_values", shape=(64, 32), dynamic=("batch",),
    ),
}  # fmt: skip

TABLE: dict[str, Architecture] = ENCODERS | DECODERS | IMAGES | AUDIO
