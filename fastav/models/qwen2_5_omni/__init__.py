"""Qwen2.5-Omni (3B, 7B): the thinker of stock transformers, which sees, hears and answers in text."""
