"""Networks: tensors in, tensors out; no diffusion process."""
