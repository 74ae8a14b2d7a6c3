"""The APIs of models that run elsewhere: one file per dialect over one transport. `models/remote.py` is the way in."""
