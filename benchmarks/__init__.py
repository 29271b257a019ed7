"""Timings of the ops, with the inputs of the tests."""
