"""People's comparisons, ratings and demonstrations make a better model: one file per method.

`METHODS` names them; each file has a `Config`, pure losses and a `train` that can be read from top to bottom.
"""
