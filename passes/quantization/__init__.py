"""Helpers of the quantization passes: units of the partition, ranges, tables."""
