"""Collective communication for PyTorch: the torch.distributed backend `fastgpu`."""

__version__ = "0.1.0"
