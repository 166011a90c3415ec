"""What checkpoints around a Qwen2 decoder share: tokenizer files, and what their generate is told."""

from __future__ import annotations

import math
from pathlib import Path

from transformers import Qwen2Tokenizer

from fastav.errors import UserError
from fastav.models.adapter import Fact
from fastav.models.weights import read_json


def read_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """The checkpoint's own tokenizer. Raises UserError where its files are missing, broken or do not know the end of a turn."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise UserError(f"{folder} holds no tokenizer; expected tokenizer.json, or vocab.json and merges.txt")
    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception for a file that it cannot parse
        raise UserError(f"cannot read the tokenizer in {folder} ({error}); fetch it again") from error
    end, pad = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    if end is None or end == pad:
        raise UserError(f"the tokenizer in {folder} does not know <|im_end|>; its files are cut or of another model")
    return tokenizer


def tokenized(tokenizer: Qwen2Tokenizer, text: str, part: str) -> tuple[list[int], slice]:
    """The ids of `text`, and where those lie that hold a character of the first `part` in it."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    first = text.index(part)
    inside = [i for i, (begin, end) in enumerate(found["offset_mapping"]) if begin < first + len(part) and end > first]
    return found["input_ids"], slice(inside[0], inside[-1] + 1) if inside else slice(0, 0)


def generate_kwargs(folder: Path, config: dict, tokenizer: Qwen2Tokenizer, pad: str = "<|endoftext|>") -> dict:
    """Stop ids (<|im_end|> and the checkpoint's own), padding id, and a repetition penalty where generation_config.json has one.

    Generation starts from embeddings, so the penalty sees new tokens alone, as in the reference code of both models.
    Raises UserError for stop ids or a penalty that generate could not use.
    """
    own = read_generation_config(folder) or {}
    end, pad_id = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", pad))
    stops = own.get("eos_token_id", config.get("eos_token_id")) or []
    stops = stops if isinstance(stops, list) else [stops]
    if any(type(stop) is not int for stop in stops):
        file = "generation_config.json" if "eos_token_id" in own else "config.json"
        raise UserError(f"{folder / file} has eos_token_id {stops}; allowed: whole numbers")
    kwargs = {"eos_token_id": sorted({end, *stops}), "pad_token_id": pad_id}
    penalty = own.get("repetition_penalty")
    if penalty is None:
        return kwargs
    if type(penalty) not in (int, float) or not 0 < penalty < math.inf:
        raise UserError(f"{folder / 'generation_config.json'} has repetition_penalty {penalty!r}; allowed: a number above 0")
    return kwargs | {"repetition_penalty": float(penalty)}  # generate refuses a whole number


def read_generation_config(folder: Path) -> dict | None:
    """None where the checkpoint has no such file."""
    return read_json(folder, "generation_config.json") if (folder / "generation_config.json").is_file() else None


def generation_fact(generation_config: dict | None) -> Fact:
    """What generation_config.json says of how to answer; the published files were never seen."""
    told = ("repetition_penalty", "eos_token_id", "do_sample")
    found = "no file" if generation_config is None else {k: generation_config[k] for k in told if k in generation_config}
    return Fact("generation_config.json", "perhaps repetition_penalty 1.05", str(found), None)
