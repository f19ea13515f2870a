"""The files of one video: arrays in Zarr or HDF5, and frames."""
