"""Where videos are processed: in this process, in local workers, or on a Dask cluster."""
