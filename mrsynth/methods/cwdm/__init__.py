"""cWDM: conditional wavelet diffusion (arXiv 2411.17203)."""
