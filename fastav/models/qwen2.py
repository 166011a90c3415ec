"""What checkpoints around a Qwen2 decoder share: tokenizer files, and what their generate is told."""

from __future__ import annotations

from pathlib import Path

from transformers import Qwen2Tokenizer

from fastav.errors import UserError
from fastav.models.weights import read_json


def read_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """The checkpoint's own tokenizer. Raises UserError where its files are missing or do not know the end of a turn."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise UserError(f"{folder} holds no tokenizer; expected tokenizer.json, or vocab.json and merges.txt")
    tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    end, pad = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    if end is None or end == pad:
        raise UserError(f"the tokenizer in {folder} does not know <|im_end|>; its files are cut or of another model")
    return tokenizer


def generate_kwargs(folder: Path, config: dict, tokenizer: Qwen2Tokenizer, pad: str = "<|endoftext|>") -> dict:
    """Stop ids (<|im_end|> and the checkpoint's own), padding id, and a repetition penalty where generation_config.json has one.

    Generation starts from embeddings, so the penalty sees new tokens alone, as in the reference code of both models.
    """
    own = read_generation_config(folder) or {}
    end, pad_id = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", pad))
    stops = own.get("eos_token_id", config.get("eos_token_id")) or []
    stops = {end, *(stops if isinstance(stops, list) else [stops])}
    kwargs = {"eos_token_id": sorted(stops), "pad_token_id": pad_id}
    return kwargs | {name: own[name] for name in ("repetition_penalty",) if own.get(name)}


def read_generation_config(folder: Path) -> dict | None:
    """None where the checkpoint has no such file."""
    return read_json(folder, "generation_config.json") if (folder / "generation_config.json").is_file() else None
