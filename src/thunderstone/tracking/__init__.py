"""What methods report, and where it goes.

`records.py` is the vocabulary, `tracker.py` the observer that hands records on, `sink.py` what a place for records must
be able to do, and the other modules are those places: any Lightning logger, W&B, TensorBoard, a folder.
"""
