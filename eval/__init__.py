"""Batch evaluation: `python eval/run.py --bench avhbench`. Uses fastav, is used by nothing."""
