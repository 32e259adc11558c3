"""The native executor: the C++ engine of ``csrc/`` on float32 images, on the CPU.

Its programs hold the part of a graph that is written in the engine's vocabulary, from the occluded input on;
what comes after runs as PyTorch does, in full, on batches of positions.
"""
