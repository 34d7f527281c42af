"""Alignment: real sub-modules of a model beside the ops that stand for them, on the device at hand."""
