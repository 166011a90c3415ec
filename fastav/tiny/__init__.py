"""FastAV-tiny: a small audio-visual LLM of our own, trained from scratch on procedural clips."""
