"""TV-L1 optical flow: parameters, the solver's front door and its backends."""
