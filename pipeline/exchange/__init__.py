"""Read and write the flow folders of denseflow, TSN and MemDPC."""
