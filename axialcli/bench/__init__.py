"""Measurements: throughput, memory and stages, each beside the ceiling that it should be held against.

`run.py` is the parent, which starts a child process for every measurement and imports nothing slow;
`child.py` is what runs in the children.
"""
