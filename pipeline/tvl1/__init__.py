"""TV-L1 optical flow: parameters, solver, batching and the OpenCV reference."""
