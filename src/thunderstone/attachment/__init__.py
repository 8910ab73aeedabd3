"""How methods attach to a Trainer: one pluggy manager a Trainer, and the steps it hands to its hooks.

`method.py` is the base class, `hookspecs.py` the contract, `attachment.py` the wiring, `gradient_step.py` what a hook
is handed, `window.py` and `replay.py` how an accumulated batch is recorded and gone through again.
"""
