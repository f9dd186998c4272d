"""Kernels in C, for what torch's operators of a CPU leave most to gain; nanogrove works the same without them."""
