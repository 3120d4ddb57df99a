"""Tests on real clusters of Ray and Dask."""
