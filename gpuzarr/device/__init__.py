"""Places where kernels run: the host (which needs none), `sim` (kernels without a GPU), CUDA."""
