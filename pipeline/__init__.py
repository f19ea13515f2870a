"""Stage 1: videos in, optical flow in a store out. Never imports torch."""
