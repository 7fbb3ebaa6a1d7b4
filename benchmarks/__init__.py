"""What AgentSpan measures itself by. `python -m benchmarks [NAME …]` prints machine, versions, p50, p99 and ratios.

Every comparison is made in one run, in turns, so that a slow minute of the machine slows both sides. Nothing here asserts
a time: figures are read by people.
"""
