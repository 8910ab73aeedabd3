"""`thunderstone report`: one HTML file that shows runs, without a server, an account or a network.

`folders.py`, `comparisons.py`, `event_files.py` and `wandb_runs.py` read what runs have left, into the terms of
`model.py`; `charts.py` and `page.py` make the page of it.
"""
