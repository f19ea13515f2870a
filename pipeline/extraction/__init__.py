"""Turn one video into one committed entry of a store."""
