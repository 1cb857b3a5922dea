"""Side by side with what people would use instead: `python -m benchmarks.side_by_side`."""
