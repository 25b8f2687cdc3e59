"""Measurements of speed, memory and correctness on one machine."""
