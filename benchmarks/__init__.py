"""What hf_cl costs beside what people would use instead: `python -m benchmarks`. Results: docs/performance.md."""
