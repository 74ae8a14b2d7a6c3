"""What the loops of all methods call: batches, optimise, checkpoint, metrics, devices, run. There is no Trainer.

`align/sft.py` shows them at work.
"""
