"""The native executor: the C++ engine of ``csrc/`` on float32 images, on the CPU.

Its programs hold the part of a graph that is written in the engine's vocabulary, from the occluded input on.
An operator that the engine has no word for is PyTorch's, on the engine's boxes, if it reads no other cells
than its own; what follows any other one runs as PyTorch does, in full, on batches of positions.
"""
