"""Turn one chunk of flow into bytes and back: compression, checksums, cropping."""
