"""Scorers: answer text -> verdict, verdicts -> the metrics of a task. One file = one scorer; the contract is in scorer.py.

A benchmark names the scorer of each of its tasks (eval/benchmarks/). The evaluation loop asks it for a verdict when an answer
comes and stores that beside the answer; summary and report read what is stored.
"""
