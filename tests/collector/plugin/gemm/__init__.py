"""Variants of gemm for tests."""
