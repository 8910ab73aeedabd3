"""`thunderstone compare`: one script under several settings and seeds.

`settings.py` and `request.py` say what is to be run, `launchers/` starts a run, `schedule.py` keeps several going,
`observer.py` sits in each of them, `results.py` is what they leave behind, and `statistics.py`, `table.py`,
`picture.py` and `notes.py` say what it amounts to.
"""
