"""Recognize out-of-memory errors, of a GPU or of the machine."""

import torch

_MESSAGES = (
    "CUDA error: out of memory",  # from the driver: torch.AcceleratorError
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # cuBLAS finds no memory for its handle
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
    "DefaultCPUAllocator",
)
"""Parts of the messages of errors that have no special class. Sources: ATen's CUDAContextLight and Exceptions.h, c10's
CPUAllocator.cpp."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out; torch has a class only for its own allocator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)
